"""RunStore: runs of fine-tuning, what was measured after each epoch, and their verdicts."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, delete, insert, select, update
from sqlalchemy.engine import RowMapping

from studio.core.errors import NotFoundError, TrainingError
from studio.core.run import Kept, Run, RunEpoch, RunPlan, RunState, Verdict
from studio.store.database import Database
from studio.store.tables import RUN_EPOCHS, RUN_VERDICTS, RUNS

CUT_SHORT = "The studio ended while it was training. It goes on from its last finished epoch."


class RunStore:
    """Every run of one data folder; may be used from several threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Use an open database; `clock` gives seconds since 1970."""
        self._engine = database.engine
        self._writer = database.writer
        self._clock = clock

    def create(self, plan: RunPlan, about: Mapping[str, Any] | None = None) -> Run:
        """Store a run, running. Raises `TrainingError` while another one runs or is paused."""
        run_id = secrets.token_hex(6)
        with self._writer.begin() as connection:
            busy = _runs().where(RUNS.c.state.in_(("running", "paused")))
            other = connection.execute(busy.limit(1)).mappings().one_or_none()
            if other is not None:
                raise TrainingError(_busy(_run(other)))
            connection.execute(
                insert(RUNS).values(
                    id=run_id,
                    state="running",
                    plan=_to_json(asdict(plan)),
                    created_at=self._clock(),
                    about=_to_json(dict(about or {})),
                )
            )
        return self.get(run_id)

    def get(self, run_id: str) -> Run:
        """Return a run. Raises `NotFoundError`."""
        found = self._list(_runs().where(RUNS.c.id == run_id))
        if not found:
            raise NotFoundError(f"There is no run '{run_id[:40]}' (any more). Reload the page.")
        return found[0]

    def all(self) -> list[Run]:
        """Return the runs, newest first."""
        return self._list(_runs().order_by(RUNS.c.number.desc()))

    def mark(self, run_id: str, state: RunState, sentence: str = "") -> Run:
        """Set a run's state, and why. Raises `NotFoundError`."""
        self._set(run_id, state=state, sentence=sentence)
        return self.get(run_id)

    def begin_again(self, run_id: str) -> Run:
        """Let a run that was paused, cut short or failed go on; `TrainingError` beside another."""
        with self._writer.begin() as connection:
            busy = _runs().where(RUNS.c.state.in_(("running", "paused")), RUNS.c.id != run_id)
            other = connection.execute(busy.limit(1)).mappings().one_or_none()
            if other is not None:
                raise TrainingError(_busy(_run(other)))
            change = update(RUNS).where(RUNS.c.id == run_id)
            connection.execute(change.values(state="running", sentence=""))
        return self.get(run_id)

    def plan_epochs(self, run_id: str, epochs: int) -> None:
        """Remember how many epochs a run's minutes became."""
        self._set(run_id, epochs=epochs)

    def tell_about(self, run_id: str, about: Mapping[str, Any]) -> None:
        """Add to what is known of a run's origin: votes, hashes, agreement."""
        known = dict(self.get(run_id).about)
        self._set(run_id, about=_to_json({**known, **about}))

    def keep(self, run_id: str, kept: Kept) -> Run:
        """Note what was kept of a run."""
        self._set(run_id, state="kept", sentence="", kept=_to_json(asdict(kept)))
        return self.get(run_id)

    def interrupt_running(self) -> int:
        """At start: what was running when the studio ended is `interrupted`; how many."""
        with self._writer.begin() as connection:
            return connection.execute(
                update(RUNS)
                .where(RUNS.c.state == "running")
                .values(state="interrupted", sentence=CUT_SHORT)
            ).rowcount

    def record(self, run_id: str, epoch: RunEpoch) -> None:
        """Store what was measured after an epoch; the same epoch again replaces it."""
        same = (RUN_EPOCHS.c.run == run_id) & (RUN_EPOCHS.c.epoch == epoch.epoch)
        with self._writer.begin() as connection:
            connection.execute(delete(RUN_EPOCHS).where(same))
            connection.execute(
                insert(RUN_EPOCHS).values(
                    run=run_id,
                    epoch=epoch.epoch,
                    figures=_to_json(dict(epoch.figures)),
                    picture=epoch.picture,
                )
            )

    def epochs(self, run_id: str) -> list[RunEpoch]:
        """Return what was measured, in order."""
        query = select(RUN_EPOCHS).where(RUN_EPOCHS.c.run == run_id).order_by(RUN_EPOCHS.c.epoch)
        with self._engine.connect() as connection:
            return [
                RunEpoch(row["epoch"], json.loads(row["figures"]), row["picture"])
                for row in connection.execute(query).mappings()
            ]

    def add_verdict(self, verdict: Verdict) -> Verdict:
        """Store a blind comparison; its number is given here."""
        values = asdict(verdict) | {"by_reward": _to_json(dict(verdict.by_reward))}
        del values["number"]
        with self._writer.begin() as connection:
            row = connection.execute(
                insert(RUN_VERDICTS).values(values).returning(RUN_VERDICTS)
            ).mappings()
            return _verdict(row.one())

    def verdicts(self, run_id: str) -> list[Verdict]:
        """Return a run's comparisons, newest first."""
        query = select(RUN_VERDICTS).where(RUN_VERDICTS.c.run == run_id)
        return self._verdicts(query.order_by(RUN_VERDICTS.c.number.desc()))

    def verdict_of(self, campaign: str) -> Verdict | None:
        """Return the comparison that a campaign asks, None for other campaigns."""
        query = select(RUN_VERDICTS).where(RUN_VERDICTS.c.campaign == campaign)
        return next(iter(self._verdicts(query)), None)

    def judged(self, number: int, by_reward: Mapping[str, float]) -> None:
        """Store what the reward says of a comparison's pairs."""
        with self._writer.begin() as connection:
            connection.execute(
                update(RUN_VERDICTS)
                .where(RUN_VERDICTS.c.number == number)
                .values(by_reward=_to_json(dict(by_reward)))
            )

    def _set(self, run_id: str, **values: object) -> None:
        with self._writer.begin() as connection:
            connection.execute(update(RUNS).where(RUNS.c.id == run_id).values(values))

    def _list(self, query: Select) -> list[Run]:
        with self._engine.connect() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def _verdicts(self, query: Select) -> list[Verdict]:
        with self._engine.connect() as connection:
            return [_verdict(row) for row in connection.execute(query).mappings()]


def _runs() -> Select:
    return select(RUNS)


def _run(row: RowMapping) -> Run:
    plan = json.loads(row["plan"])
    plan |= {name: tuple(plan[name]) for name in ("prompts", "held_out")}
    kept = json.loads(row["kept"]) if row["kept"] else None
    return Run(
        id=row["id"],
        plan=RunPlan(**plan),
        state=row["state"],
        created_at=row["created_at"],
        sentence=row["sentence"],
        epochs=row["epochs"],
        about=json.loads(row["about"]),
        kept=Kept(**kept) if kept else None,
    )


def _verdict(row: RowMapping) -> Verdict:
    values = {name: row[name] for name in Verdict.__dataclass_fields__}
    return Verdict(**values | {"by_reward": json.loads(values["by_reward"])})


def _busy(run: Run) -> str:
    if run.state == "paused":
        return (
            f"“{run.name}” is paused and keeps its place. Let it go on, or stop it; then start "
            "another one."
        )
    return f"“{run.name}” is being trained. Wait for it, or stop it; then start another one."


def _to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

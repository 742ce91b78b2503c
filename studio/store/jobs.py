"""Jobs are stored before they run, so that a crash or a closed page forgets none."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import Select, func, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from studio.core.errors import NotFoundError
from studio.core.request import GenerationRequest
from studio.store.database import Database
from studio.store.tables import JOBS, PICTURES
from studio.store.used_sources import note_use

JobState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
STATES: tuple[JobState, ...] = get_args(JobState)
ENDED = frozenset(("done", "failed", "cancelled", "interrupted"))


@dataclass(frozen=True)
class Job:
    """One submitted piece of work, as it stands in the store."""

    id: str
    kind: str  # 'draw', later also training
    state: JobState
    request: GenerationRequest
    position: float  # queue order, smallest first
    submitted_at: float  # seconds since 1970
    started_at: float | None
    finished_at: float | None
    error: str  # the sentence of a failure
    picture_count: int  # pictures of it in the store, the bin included
    label: str
    set_id: str  # shared by the jobs of a 'one panel a line' set
    panel: int = 0  # number within the set, from 1
    parent_id: int | None = None  # the picture that its pictures are made from


class JobStore:
    """The queue and the history of jobs; may be used from several threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Use an open database; `clock` gives seconds since 1970."""
        self._engine = database.engine
        self._writer = database.writer
        self._clock = clock

    def submit(
        self,
        request: GenerationRequest,
        *,
        key: str,
        kind: str = "draw",
        label: str = "",
        set_id: str = "",
        panel: int = 0,
        parent_id: int | None = None,
    ) -> Job:
        """Put a job at the end of the queue. A key that was used before gives that job again."""
        with self._writer.begin() as connection:
            row = connection.execute(_jobs().where(JOBS.c.key == key)).mappings().one_or_none()
            if row is not None:
                return _job(row)
            job_id = secrets.token_hex(6)
            last = connection.execute(select(func.max(JOBS.c.position))).scalar() or 0.0
            connection.execute(
                insert(JOBS).values(
                    id=job_id,
                    key=key,
                    kind=kind,
                    state="queued",
                    request=request.to_json(),
                    position=last + 1.0,
                    submitted_at=self._clock(),
                    label=label,
                    set_id=set_id,
                    panel=panel,
                    parent_id=parent_id,
                )
            )
            note_use(connection, request)
            return _read(connection, job_id)

    def get(self, job_id: str) -> Job:
        """Return a job. Raises `NotFoundError`."""
        with self._engine.connect() as connection:
            return _read(connection, job_id)

    def queued(self) -> list[Job]:
        """Return the waiting jobs, next first."""
        return self._list(_in_order())

    def next_queued(self) -> Job | None:
        """Return the job whose turn it is, or None."""
        return next(iter(self._list(_in_order().limit(1))), None)

    def running(self) -> list[Job]:
        """Return the jobs that a worker has in hand."""
        return self._list(_jobs().where(JOBS.c.state == "running").order_by(JOBS.c.position))

    def recent(self, limit: int = 20) -> list[Job]:
        """Return the jobs submitted last, newest first, whatever their state."""
        return self._list(_jobs().order_by(JOBS.c.number.desc()).limit(limit))

    def of_set(self, set_id: str) -> list[Job]:
        """Return a set's jobs in the order of its panels."""
        query = _jobs().where(JOBS.c.set_id == set_id)
        return self._list(query.order_by(JOBS.c.panel, JOBS.c.number))

    def mark(self, job_id: str, state: JobState, error: str = "") -> Job:
        """Set a job's state and the time of its start or end. Raises `NotFoundError`."""
        now = self._clock()
        values: dict[str, object] = {"state": state, "error": error}
        if state == "running":
            values |= {"started_at": now, "finished_at": None}
        elif state in ENDED:
            values["finished_at"] = now
        else:
            values |= {"started_at": None, "finished_at": None}
        with self._writer.begin() as connection:
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(values))
            return _read(connection, job_id)

    def requeue(self, job_id: str) -> Job:
        """Put an ended job at the end of the queue again, under its own id; others stay."""
        with self._writer.begin() as connection:
            job = _read(connection, job_id)
            if job.state in ENDED:
                last = connection.execute(select(func.max(JOBS.c.position))).scalar() or 0.0
                connection.execute(
                    update(JOBS)
                    .where(JOBS.c.id == job_id)
                    .values(
                        state="queued",
                        position=last + 1.0,
                        error="",
                        started_at=None,
                        finished_at=None,
                    )
                )
            return _read(connection, job_id)

    def move(self, job_id: str, places: int) -> Job:
        """Move a waiting job by `places` (negative is earlier), at most to either end.

        A job that waits no more stays as it is. Raises `NotFoundError`.
        """
        with self._writer.begin() as connection:
            job = _read(connection, job_id)
            order = [row["id"] for row in connection.execute(_in_order()).mappings()]
            if job.state != "queued" or not places:
                return job
            slots = [
                connection.execute(select(JOBS.c.position).where(JOBS.c.id == other)).scalar_one()
                for other in order
            ]
            old = order.index(job_id)
            order.insert(min(max(old + places, 0), len(order) - 1), order.pop(old))
            for other, position in zip(order, slots, strict=True):
                connection.execute(update(JOBS).where(JOBS.c.id == other).values(position=position))
            return _read(connection, job_id)

    def interrupt_running(self) -> int:
        """At start-up: what was running when the studio stopped is `interrupted`; how many."""
        with self._writer.begin() as connection:
            return connection.execute(
                update(JOBS)
                .where(JOBS.c.state == "running")
                .values(
                    state="interrupted",
                    finished_at=self._clock(),
                    error="The studio stopped while this was drawn. Submit it again to finish it.",
                )
            ).rowcount

    def _list(self, query: Select) -> list[Job]:
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]


def _jobs() -> Select:
    drawn = select(func.count()).where(PICTURES.c.job_id == JOBS.c.id).scalar_subquery()
    return select(JOBS, drawn.label("picture_count"))


def _in_order() -> Select:
    return _jobs().where(JOBS.c.state == "queued").order_by(JOBS.c.position)


def _read(connection: Connection, job_id: str) -> Job:
    row = connection.execute(_jobs().where(JOBS.c.id == job_id)).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no job '{job_id[:40]}' (any more). Submit it again.")
    return _job(row)


def _job(row: RowMapping) -> Job:
    return Job(
        id=row["id"],
        kind=row["kind"],
        state=row["state"],
        request=GenerationRequest.from_json(row["request"]),
        position=row["position"],
        submitted_at=row["submitted_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error=row["error"],
        picture_count=row["picture_count"],
        label=row["label"],
        set_id=row["set_id"],
        panel=row["panel"],
        parent_id=row["parent_id"],
    )

"""Fine-tuning as a service: a run is one job of the device thread, behind everything else.

It gives way after every call of the U-Net, so drawing and voting go on meanwhile. What a run is
stands in the store before it begins; where it stands is in its folder, committed epoch by epoch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from studio.core.errors import TrainingError
from studio.core.events import EpochDone, Event, Notice, StageArtifact, StageProgress
from studio.core.run import UNFINISHED, Run, RunEpoch, RunPlan
from studio.services.model_folder import ModelEntry
from studio.services.preference import Preference
from studio.services.run_plan import checked_settings, make_config, parted, written_out
from studio.services.run_reward import readiness, reward_of
from studio.services.training_place import TrainingPlace
from studio.services.worker import JobEnded, JobEvent, Priority
from studio.store.runs import RunStore

if TYPE_CHECKING:
    from studio.training.run_folder import FineTuneConfig

FOLDER = "runs"  # in the data folder: one folder a run
JOB = "finetune"  # ids of jobs: finetune-{run}
NEEDED = 256 * 2**20  # bytes free at the start: checkpoints, ladder and pictures, generously
NOTHING_LEARNED = "Stopped before the first epoch was done, so there is nothing to judge."
STOPPED = "Stopped by you; of its finished epochs the best is the result."


@dataclass(frozen=True)
class RunProgress:
    """Where a run is at this moment."""

    phase: str = "wait"  # 'wait', 'load', 'taste', 'sample', 'update', 'look', ...
    step: int = 0  # U-Net calls of this epoch
    steps: int = 0
    epoch: int = 0  # that is being computed
    seconds_left: float | None = None  # of the whole run; None until an epoch was measured


class Finetuning:
    """The runs of a data folder. Every public method may be called from any thread."""

    def __init__(
        self,
        place: TrainingPlace,
        store: RunStore,
        preference: Preference,
    ) -> None:
        self._place = place
        self._store = store
        self._preference = preference
        self._lock = Lock()
        self._progress: dict[str, RunProgress] = {}
        self._stopping: frozenset[str] = frozenset()
        place.worker.listen(self._on_event)

    def recover(self) -> int:
        """Mark what was training when the studio ended as interrupted; how many."""
        return self._store.interrupt_running()

    def start(self, plan: RunPlan, *, anyway: bool = False) -> Run:
        """Store a run and begin it.

        `anyway` begins although the votes hardly suffice. Raises TrainingError with the reason when
        it cannot begin, ModelError for its base, NotFoundError for its adapter, DiskFullError.
        """
        plan = parted(plan)
        entry = self._place.base(plan.model)
        ready = readiness(self._preference, plan.campaign, plan.reward)
        if not ready.possible or not (ready.enough or anyway):
            raise TrainingError(ready.sentence)
        if plan.start:
            plan = self._going_on(plan)
        self._place.check_room(NEEDED, "A run")
        plan = replace(plan, settings=written_out(plan.settings))
        run = self._store.create(replace(plan, model_hash=self._place.models.hash_of(entry)))
        self._submit(run)
        return run

    def pause(self, run_id: str) -> Run:
        """Leave a run where it is after its current step; nothing of the epoch is lost."""
        with self._lock:
            run = self._store.get(run_id)
            if run.state == "running" and self._place.worker.hold(_job(run_id)):
                return self._store.mark(run_id, "paused")
            return run

    def resume(self, run_id: str) -> Run:
        """Let a run go on that was paused, cut short, or failed. Raises as `start`."""
        run = self._store.get(run_id)
        if run.state not in UNFINISHED:
            return run
        self._check_base(run.plan)
        with self._lock:
            run = self._store.begin_again(run_id)
            if not self._place.worker.hold(_job(run_id), held=False):
                self._submit(run)
        return run

    def stop(self, run_id: str) -> Run:
        """End a run now; its best finished epoch is the result. Raises as `start`."""
        run = self._store.get(run_id)
        if run.state != "running" and run.state not in UNFINISHED:
            return run
        with self._lock:
            self._stopping |= {run_id}
        return run if run.state == "running" else self.resume(run_id)

    def all(self) -> list[Run]:
        """Return the runs, newest first."""
        return self._store.all()

    def get(self, run_id: str) -> Run:
        """Return a run. Raises NotFoundError."""
        return self._store.get(run_id)

    def epochs(self, run_id: str) -> list[RunEpoch]:
        """Return what was measured of a run, the base first."""
        return self._store.epochs(run_id)

    def progress(self, run_id: str) -> RunProgress:
        """Return where a run is at this moment."""
        return self._progress.get(run_id, RunProgress())

    def is_stopping(self, run_id: str) -> bool:
        """Whether a run was asked to stop and has not answered yet."""
        return run_id in self._stopping

    def folder(self, run_id: str) -> Path:
        """Return the folder of a run's files."""
        return self._place.settings.data_dir / FOLDER / run_id

    # ------------------------------------------------------------------ before it begins

    def _check_base(self, plan: RunPlan) -> ModelEntry:
        """Return the base if it is the one that the run began with."""
        entry = self._place.base(plan.model)
        if self._place.models.hash_of(entry) != plan.model_hash:
            raise TrainingError(
                f"The files of '{plan.model}' have changed since this run began, so it cannot go "
                "on. Put them back as they were, or start a new run."
            )
        return entry

    def _going_on(self, plan: RunPlan) -> RunPlan:
        """Give a plan that goes on from an adapter its rank, and the strength it was kept at."""
        config = self._place.adapters.find(plan.start).lineage.get("config", {})
        rank = config.get("rank") if isinstance(config, dict) else None
        rank = {"rank": rank} if isinstance(rank, int) else {}
        kept = (run.kept for run in self._store.all() if run.kept)
        strength = next((k.strength for k in kept if k.sha256 == plan.start), 0) or 1.0
        settings = checked_settings({**plan.settings, **rank})
        return replace(plan, settings=settings, start_strength=strength)

    def _submit(self, run: Run) -> None:
        self._progress[run.id] = RunProgress()
        self._place.worker.submit(
            _job(run.id), partial(self._train, run.id), priority=Priority.TRAINING
        )

    # ------------------------------------------------------------------ on the device thread

    def _train(self, run_id: str) -> Iterator[Event]:
        """Run a job: load base and reward, train, and store what is measured."""
        from studio.training.finetune import Start, conclude, finetune, load_base
        from studio.training.probes import load_tools

        run, folder = self._store.get(run_id), self.folder(run_id)
        plan = run.plan
        with self._place.alone(JOB):
            yield StageProgress("load", 0, 1, None)
            entry = self._check_base(plan)
            model = load_base(
                entry.folder, entry.name, self._place.settings.device, plan.model_hash
            )
            yield StageProgress("load", 0, 1, None)
            tools = load_tools(model, entry.folder)
            reward, about = yield from reward_of(plan, folder, self._preference)
            self._store.tell_about(run_id, about)
            config = make_config(plan)
            self._catch_up(run_id, config)
            start = None
            if plan.start:
                start = Start(self._place.adapters.find(plan.start).path, plan.start_strength)
            with closing(finetune(model, reward, config, tools, folder, start)) as events:
                for event in events:
                    yield from self._told(run_id, config, event)
                    if run_id in self._stopping:
                        break
            if run_id in self._stopping and self._done_epochs(run_id):
                yield from conclude(model, reward, config, tools, folder)

    def _told(self, run_id: str, config: FineTuneConfig, event: Event) -> Iterator[Event]:
        """Store what an event tells, then hand it on."""
        if isinstance(event, EpochDone):
            self._record(run_id, asdict(event))
            self._store.plan_epochs(run_id, event.epochs)
        elif isinstance(event, StageArtifact) and Path(event.path) == self._strip(run_id, 0):
            self._catch_up(run_id, config)
        yield event

    def _catch_up(self, run_id: str, config: FineTuneConfig) -> None:
        """Store what the run's folder knows and the store, after a kill, may not."""
        from studio.training.run_folder import RunFolder

        found = RunFolder(self.folder(run_id)).latest(config)
        if found is None:
            return
        state = found[0]
        if state.base is not None:
            self._record(run_id, {"epoch": 0, **asdict(state.base)})
        log = self.folder(run_id) / "metrics.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        for line in lines[: state.epoch]:
            self._record(run_id, json.loads(line))
        if state.epochs:
            self._store.plan_epochs(run_id, state.epochs)

    def _record(self, run_id: str, figures: dict[str, object]) -> None:
        epoch = int(str(figures.pop("epoch")))
        picture = self._strip(run_id, epoch).relative_to(self._place.settings.data_dir)
        self._store.record(run_id, RunEpoch(epoch, figures, picture.as_posix()))

    def _strip(self, run_id: str, epoch: int) -> Path:
        return self.folder(run_id) / "pictures" / f"epoch-{epoch:04d}.png"

    def _done_epochs(self, run_id: str) -> int:
        return sum(1 for epoch in self._store.epochs(run_id) if epoch.epoch)

    # ------------------------------------------------------------------ what the worker tells

    def _on_event(self, job_id: str, event: JobEvent) -> None:
        kind, _, run_id = job_id.partition("-")
        if kind != JOB:
            return
        if isinstance(event, StageProgress):
            number = int(event.metrics.get("epoch", 0))
            self._progress[run_id] = RunProgress(
                event.stage, event.step, event.steps, number, event.seconds_left
            )
        elif isinstance(event, Notice):
            run = self._store.get(run_id)
            self._store.mark(run_id, run.state, event.sentence)
        elif isinstance(event, JobEnded):
            with self._lock:
                self._ended(run_id, event)

    def _ended(self, run_id: str, event: JobEnded) -> None:
        """Store how a run's job ended."""
        run, stopped = self._store.get(run_id), run_id in self._stopping
        self._stopping -= {run_id}
        self._progress.pop(run_id, None)
        if event.outcome == "failed":
            self._store.mark(run_id, "failed", event.error)
        elif event.outcome == "interrupted":
            if run.state == "running":
                self._store.interrupt_running()
        elif not (self.folder(run_id) / "adapter.safetensors").is_file():
            self._store.mark(run_id, "discarded", NOTHING_LEARNED)
        else:
            shutil.rmtree(self.folder(run_id) / "checkpoints", ignore_errors=True)
            sentence = STOPPED if stopped and not run.sentence else run.sentence
            self._store.mark(run_id, "trained", sentence)


def _job(run_id: str) -> str:
    return f"{JOB}-{run_id}"

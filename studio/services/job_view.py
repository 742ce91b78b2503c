"""What the page sees of a job: a frozen snapshot, replaced with every event.

Readers poll; they only ever read one finished object, so nothing they do holds up the worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition

from studio.core.events import ModelLoading, Notice, PictureDone, Preview, Progress
from studio.core.picture import Picture
from studio.services.worker import JobEnded, JobEvent, JobStarted
from studio.store.jobs import Job

KEPT_ENDED = (
    60  # ended jobs whose last snapshot stays in memory; older ones are read from the store
)
OVER = frozenset({"done", "failed", "cancelled", "interrupted"})


@dataclass(frozen=True)
class JobView:
    """One job as it was when the snapshot was taken."""

    job: Job  # as it was submitted
    state: str  # queued, running, done, failed, cancelled or interrupted
    step: int = 0  # of the whole job, all batches
    steps: int = 0  # 0 until the first step
    seconds_left: float | None = None  # over the whole job; None until it can be estimated
    previews: tuple[Preview, ...] = ()  # of the pictures that are growing, in order
    pictures: tuple[Picture, ...] = ()  # finished ones, in order
    notices: tuple[str, ...] = ()  # sentences worth reading
    error: str = ""  # a sentence when it failed
    details: str = ""  # the traceback of an unforeseen failure, for 'Copy details'
    doing: str = ""  # what a running job does before its first step
    position: int = 0  # 0: runs or is over; 1: next in the queue
    version: int = 0  # grows with every change of any job

    @property
    def preview(self) -> bytes | None:
        """JPEG of the first picture that is growing, None while there is none."""
        return self.previews[0].jpeg if self.previews else None

    @property
    def preview_index(self) -> int:
        """Which picture of the job `preview` shows."""
        return self.previews[0].index if self.previews else 0

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in OVER


def after(view: JobView, event: JobEvent) -> JobView:
    """Return the snapshot that follows from an event; `version` and `position` are the board's."""
    match event:
        case JobStarted():
            return replace(view, state="running", position=0, doing="Getting ready")
        case ModelLoading():
            return replace(view, doing="Loading the model")
        case Progress(step=step, steps=steps, seconds_left=seconds_left):
            return replace(view, step=step, steps=steps, seconds_left=seconds_left, doing="Drawing")
        case Preview(index=index):
            others = _without(view.previews, index)
            return replace(view, previews=tuple(sorted((*others, event), key=_index)))
        case PictureDone(picture=picture):
            left = _without(view.previews, picture.index)
            return replace(view, pictures=(*view.pictures, picture), previews=left)
        case Notice(sentence=sentence):
            return replace(view, notices=(*view.notices, sentence))
        case JobEnded(outcome=outcome, error=error, details=details):
            return replace(
                view,
                state=outcome,
                position=0,
                error=error,
                details=details,
                seconds_left=None,
                previews=(),
                doing="",
            )
    return view


def _index(preview: Preview) -> int:
    return preview.index


def _without(previews: tuple[Preview, ...], index: int) -> tuple[Preview, ...]:
    return tuple(preview for preview in previews if preview.index != index)


class JobBoard:
    """The snapshots of the jobs of this run of the studio; safe to use from any thread."""

    def __init__(self) -> None:
        self._views: dict[str, JobView] = {}
        self._version = 0
        self._changed = Condition()

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._views

    def get(self, job_id: str) -> JobView | None:
        """Return the latest snapshot of a job, None when it is not (or no longer) on the board."""
        return self._views.get(job_id)

    def all(self) -> list[JobView]:
        """Return all snapshots, in the order in which the jobs came to the board."""
        with self._changed:
            return list(self._views.values())

    def add(self, view: JobView) -> None:
        """Put a job on the board and forget the oldest ended ones."""
        with self._changed:
            self._put(view)
            ended = [job_id for job_id, known in self._views.items() if known.over]
            for job_id in ended[: max(len(ended) - KEPT_ENDED, 0)]:
                del self._views[job_id]

    def update(self, job_id: str, change: Callable[[JobView], JobView]) -> None:
        """Replace a snapshot; a job that is not on the board is passed over."""
        with self._changed:
            view = self._views.get(job_id)
            if view is not None and (changed := change(view)) != view:
                self._put(changed)

    def wait(self, job_id: str, version: int, timeout: float) -> JobView | None:
        """Wait up to `timeout` seconds until a job's snapshot is newer than `version`."""

        def newer() -> bool:
            view = self._views.get(job_id)
            return view is None or view.version > version

        with self._changed:
            self._changed.wait_for(newer, timeout)
            return self._views.get(job_id)

    def _put(self, view: JobView) -> None:
        self._version += 1
        self._views[view.job.id] = replace(view, version=self._version)
        self._changed.notify_all()

"""Drawing as a service: requests become stored jobs, jobs become pictures.

A job is in the store before it runs, so neither a closed page nor a killed process loses it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from studio.core.errors import DiskFullError, ModelError, NotFoundError
from studio.core.events import Event, ModelLoading, Notice, PictureDone, Preview, Progress
from studio.core.geometry import result_size
from studio.core.picture import Picture
from studio.core.request import MAX_COUNT, MAX_SEED, GenerationRequest
from studio.core.settings import Settings
from studio.services.adapter_shelf import AdapterShelf
from studio.services.editing import edit_inputs, source_size
from studio.services.job_view import JobBoard, JobView, after
from studio.services.models import ModelShelf
from studio.services.panels import PanelSet, SeedPolicy, panel_requests, panel_set_id
from studio.services.remaining import DecodeClock
from studio.services.worker import GpuWorker, JobEnded, JobEvent, JobStarted
from studio.store.jobs import Job, JobStore
from studio.store.pictures import PictureStore
from studio.store.sources import SourceStore

if TYPE_CHECKING:
    from studio.diffusion.sampler import Drawn

SPARE_BYTES = 64 * 2**20  # stays free on the disk: the database and its log must go on
KIND = "draw"
UPSCALERS = "upscalers"  # folder of model files in the models' folder
BYTES_PER_PIXEL = 4  # a PNG of noise is a little larger than its 3 bytes a pixel; and a thumbnail


class Generation:
    """The queue of drawing jobs. Every method may be called from any thread."""

    def __init__(
        self,
        worker: GpuWorker,
        shelf: ModelShelf,
        jobs: JobStore,
        pictures: PictureStore,
        sources: SourceStore,
        settings: Settings,
        adapters: AdapterShelf | None = None,
    ) -> None:
        self._worker = worker
        self._shelf = shelf
        self._jobs = jobs
        self._pictures = pictures
        self._sources = sources
        self._settings = settings
        self._adapters = adapters or AdapterShelf(settings)
        self._board = JobBoard()
        self._submitting = Lock()
        self._ordering = Lock()
        self._clock = DecodeClock()
        worker.listen(self._on_event)

    def recover(self) -> int:
        """Mark what the last run left running as interrupted. Returns how many jobs those are."""
        return self._jobs.interrupt_running()

    def resume_queue(self) -> None:
        """Hand the jobs that waited when the studio was closed to the worker."""
        for job in self._jobs.queued():
            self._enqueue(job)
        self._renumber()

    def submit(
        self,
        request: GenerationRequest,
        *,
        key: str,
        label: str = "",
        set_id: str = "",
        panel: int = 0,
        parent_id: int | None = None,
    ) -> Job:
        """Store a job and queue it; the same key twice is the same job.

        `parent_id` is the picture that the request's source is; one that was deleted for good is
        left out. Raises ModelError when its model is not there or broken, DiskFullError when its
        pictures would not fit, InvalidRequestError when it cannot be drawn, for instance because
        its source is gone.
        """
        request = self._checked(request)
        job = self._jobs.submit(
            request,
            key=key,
            label=label,
            set_id=set_id,
            panel=panel,
            parent_id=self._known_picture(parent_id),
        )
        self._enqueue(job)
        self._renumber()
        return job

    def submit_panels(
        self,
        lines: Sequence[str],
        request: GenerationRequest,
        *,
        seed_policy: SeedPolicy,
        key: str,
        name: str = "Panels",
    ) -> PanelSet:
        """Queue one job a line, all of one named set; see `panel_requests` for style and seeds."""
        requests = panel_requests(lines, request, seed_policy)
        identity = panel_set_id(key)
        jobs = []
        for number, panel in enumerate(requests, start=1):
            label = f"{name}, panel {number} of {len(requests)}"
            job = self._jobs.submit(
                self._checked(panel),
                key=f"{key}/{number}",
                label=label,
                set_id=identity,
                panel=number,
            )
            self._enqueue(job)
            jobs.append(job)
        self._renumber()
        return PanelSet(identity, name, tuple(jobs))

    def cancel(self, job_id: str) -> None:
        """End a job within one step, or take it off the queue; its finished pictures stay.

        Cancelling an interrupted job dismisses it. A job that is over stays as it is. Raises
        NotFoundError when there is no such job.
        """
        if self._worker.cancel(job_id):
            return
        if self._jobs.get(job_id).state in ("queued", "interrupted"):
            self._jobs.mark(job_id, "cancelled")
            self._board.update(job_id, lambda view: after(view, JobEnded("cancelled")))
            self._renumber()

    def move(self, job_id: str, places: int) -> None:
        """Move a waiting job by that many places: negative is earlier."""
        self._jobs.move(job_id, places)
        self._renumber()

    def resubmit(self, job_id: str) -> Job:
        """Queue again what an interrupted, failed or cancelled job did not draw.

        Its finished pictures stay and are not drawn twice. A job that is not over, or that has
        drawn everything, stays as it is. Raises NotFoundError.
        """
        old = self._jobs.get(job_id)
        if old.picture_count >= old.request.count and old.state == "done":
            return old
        job = self._jobs.requeue(job_id)
        self._enqueue(job)
        self._renumber()
        return job

    def view(self, job_id: str) -> JobView:
        """Return a job's snapshot. Raises NotFoundError."""
        return self._board.get(job_id) or self._stored_view(self._jobs.get(job_id))

    def wait(self, job_id: str, version: int, timeout: float) -> JobView:
        """Wait up to `timeout` seconds for a snapshot newer than `version`; return the newest."""
        return self._board.wait(job_id, version, timeout) or self.view(job_id)

    def queue(self) -> list[JobView]:
        """Return what runs and what waits, in that order."""
        views = [view for view in self._board.all() if not view.over]
        return sorted(views, key=lambda view: (view.position, view.job.position))

    def interrupted(self) -> list[JobView]:
        """Return the jobs that the end of an earlier run cut short, newest first."""
        recent = self._jobs.recent(MAX_COUNT)
        return [self._stored_view(job) for job in recent if job.state == "interrupted"]

    def latest(self) -> JobView | None:
        """Return the job that a returning page shows: what runs, else what waits, else the last."""
        queue = self.queue()
        if queue:
            return queue[0]
        drawn = (job for job in self._jobs.recent(MAX_COUNT) if job.kind == KIND)
        last = next(drawn, None)
        return self.view(last.id) if last else None

    def _checked(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request with its model's hash, or say why it cannot be drawn."""
        entry = self._shelf.entry(request.model)
        if entry.problem:
            raise ModelError(entry.problem)
        self._adapters.files(request)
        size = result_size(request, source_size(self._sources, request))
        check_disk(request, shutil.disk_usage(self._settings.data_dir).free, size)
        return request.with_changes(model_hash=self._shelf.hash_of(entry))

    def _known_picture(self, picture_id: int | None) -> int | None:
        if picture_id is None:
            return None
        try:
            return self._pictures.get(picture_id).id
        except NotFoundError:
            return None

    def _enqueue(self, job: Job) -> None:
        """Give a queued job to the worker, once."""
        with self._submitting:
            view = self._board.get(job.id)
            job = self._jobs.get(job.id)  # a job that was sent twice may be over by now
            if job.kind != KIND or job.state != "queued" or (view and not view.over):
                return
            self._board.add(self._stored_view(job))
            self._worker.submit(job.id, partial(self._draw, job))

    def _renumber(self) -> None:
        """Give worker and snapshots the order that the store keeps."""
        with self._ordering:
            waiting = [job.id for job in self._jobs.queued()]
            self._worker.reorder(waiting)
            for position, job_id in enumerate(waiting, start=1):
                self._board.update(job_id, partial(_at_position, position=position))

    def _on_event(self, job_id: str, event: JobEvent) -> None:
        """Record how a job goes: in the store when its state changes, on the board always."""
        view = self._board.get(job_id)
        if view is None:  # somebody else's job
            return
        job = view.job
        try:
            if isinstance(event, JobStarted):
                job = self._jobs.mark(job_id, "running")
            elif isinstance(event, JobEnded):
                job = self._jobs.mark(job_id, event.outcome, event.error)
        finally:  # a full disk must not leave the page waiting
            self._board.update(job_id, lambda view: replace(after(view, event), job=job))
        if isinstance(event, JobStarted | JobEnded):
            self._renumber()

    def _draw(self, job: Job) -> Iterator[Event]:
        """Run a job: load its model, draw, save each picture as it is finished."""
        from studio.diffusion.sampler import Drawn, sample  # brings torch, so only here

        shelf, request = self._shelf, job.request
        if not shelf.is_loaded(request.model):
            yield ModelLoading(request.model)
        model = shelf.load(request.model)
        if request.model_hash != model.sha256:
            yield Notice(
                f"The files of the model '{request.model}' changed while this job waited; "
                "it was drawn with what is there now."
            )
            request = request.with_changes(model_hash=model.sha256)
        first, rest = _undrawn(request, job.picture_count)
        if rest is None:
            return
        finished = 0
        inputs = edit_inputs(self._sources, rest, self._settings.models_dir / UPSCALERS)
        if warning := self._adapters.mismatch(rest):
            yield Notice(warning)
        draw = partial(sample, inputs=inputs)
        with closing(self._adapters.drawn(model, rest, draw)) as events:
            for event in events:
                if isinstance(event, Drawn):
                    finished += 1
                    self._clock.drawn(rest)
                    yield PictureDone(self._save(job, request, first, event))
                elif isinstance(event, Preview):
                    yield replace(event, index=first + event.index)
                elif isinstance(event, Progress):
                    yield self._clock.stepped(event, rest, finished)
                else:
                    yield event
        shelf.measure_device()

    def _save(self, job: Job, request: GenerationRequest, first: int, drawn: Drawn) -> Picture:
        return self._pictures.save(
            drawn.image,
            request,
            job_id=job.id,
            index=first + drawn.index,
            seconds=drawn.seconds,
            parent_id=job.parent_id,
        )

    def _stored_view(self, job: Job) -> JobView:
        if job.picture_count == 0:
            return JobView(job, state=job.state, error=job.error)
        pictures = self._pictures.page(job_id=job.id, limit=MAX_COUNT)
        in_order = tuple(sorted(pictures, key=lambda picture: picture.index))
        return JobView(job, state=job.state, pictures=in_order, error=job.error)


def check_disk(request: GenerationRequest, free: int, size: tuple[int, int]) -> None:
    """Refuse a request whose pictures of `size` may not fit in `free` bytes: DiskFullError."""
    needed = request.count * size[0] * size[1] * BYTES_PER_PIXEL
    if free < needed + SPARE_BYTES:
        raise DiskFullError(
            f"The disk of the data folder has {free / 1e6:,.0f} MB left and these pictures "
            f"may need {needed / 1e6:,.0f} MB. Make room, or choose another --data-dir."
        )


def _undrawn(request: GenerationRequest, done: int) -> tuple[int, GenerationRequest | None]:
    """Return how many pictures a job that was cut short keeps, and the request for the others.

    Pictures are finished in order, and each is drawn from seeds of its own. Seeds at the very end
    of their range cannot be moved on; then all are drawn again.
    """
    if done >= request.count:
        return done, None
    seed, variation_seed = request.seeds_of(done)
    if max(seed, variation_seed) > MAX_SEED:
        return 0, request
    rest = request.with_changes(
        seed=seed, variation_seed=variation_seed, count=request.count - done
    )
    return done, rest


def _at_position(view: JobView, position: int) -> JobView:
    return replace(view, position=position if view.state == "queued" else 0)

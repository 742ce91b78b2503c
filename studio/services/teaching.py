"""Teaching as a service: an artist's own style as a job of the device thread, behind all else.

It gives way after every step, so drawing goes on meanwhile. What a lesson is lies in its folder
before it begins, and so does where it stands: a pause, a closed studio and a killed one lose at
most a minute of computing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from studio.core.errors import EaselError, NotFoundError, TrainingError
from studio.core.events import Event, Notice, StageProgress
from studio.core.lesson import Lesson, check_caption, check_lesson
from studio.services.adapter_shelf import AdapterEntry
from studio.services.model_folder import STARTER
from studio.services.training_place import TrainingPlace
from studio.services.worker import JobEnded, JobEvent, JobStarted, Priority
from studio.store.lessons import LessonStore

if TYPE_CHECKING:
    from studio.training.lora import Example

JOB = "teach"  # ids of jobs: teach-{lesson}
MINUTES = 15.0  # on offer at first
CURVE = 200  # points of the loss that are shown
NEEDED = 128 * 2**20  # bytes free at the start: checkpoints, samples and the adapter, generously
CUT_SHORT = "The studio ended while it was learning. It goes on from where it was."
CHANGED = "A lesson that has begun cannot be changed; begin another one."
_BEGUN = frozenset({"waiting", "running", "paused", "failed"})


@dataclass(frozen=True)
class LessonProgress:
    """Where a lesson is at this moment."""

    phase: str = "wait"  # 'wait', 'load', 'prepare', 'measure', 'lora', 'look'
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None


class Teaching:
    """The lessons of a data folder. Every public method may be called from any thread."""

    def __init__(
        self,
        place: TrainingPlace,
        store: LessonStore,
    ) -> None:
        self._place = place
        self._store = store
        self._lock = Lock()
        self._progress: dict[str, LessonProgress] = {}
        self._notices: dict[str, tuple[str, ...]] = {}
        self._pausing: frozenset[str] = frozenset()
        self._stopping: frozenset[str] = frozenset()
        place.worker.listen(self._on_event)

    # ------------------------------------------------------------------ the lesson

    def recover(self) -> int:
        """Mark what was learning when the studio ended as paused; how many."""
        cut = [one for one in self._store.all() if one.state in ("waiting", "running")]
        for lesson in cut:
            self._store.save(replace(lesson, state="paused", sentence=CUT_SHORT))
        return len(cut)

    def draft(self) -> Lesson:
        """Return the lesson that is being put together; a new one when there is none."""
        with self._lock:
            drafts = (lesson for lesson in self._store.all() if lesson.state == "draft")
            found = next(drafts, None)
            return found or self._store.save(
                replace(self._store.create(), model=STARTER, minutes=MINUTES)
            )

    def all(self) -> list[Lesson]:
        """Return the lessons that have begun, newest first."""
        return [lesson for lesson in self._store.all() if lesson.state != "draft"]

    def get(self, lesson_id: str) -> Lesson:
        """Return a lesson. Raises NotFoundError."""
        return self._store.get(lesson_id)

    def add_picture(self, lesson_id: str, content: bytes, title: str) -> Lesson:
        """Add a picture to a draft. Raises StorageError or TrainingError with its name."""
        with self._lock:
            lesson = self._editable(lesson_id)
            smallest = min(self._place.base(lesson.model).native_size) // 4
            try:
                return self._store.add_picture(lesson_id, content, title, smallest)
            except EaselError as error:
                sentence = str(error).replace("This picture", title)
                raise TrainingError(
                    sentence if sentence.startswith(title) else f"{title}: {sentence}"
                ) from error

    def remove_picture(self, lesson_id: str, picture_id: str) -> Lesson:
        """Take a picture out of a draft."""
        with self._lock:
            self._editable(lesson_id)
            return self._store.remove_picture(lesson_id, picture_id)

    def set_caption(self, lesson_id: str, picture_id: str, caption: str) -> Lesson:
        """Give a picture of a draft its caption. Raises TrainingError when it is too long."""
        check_caption(caption)
        with self._lock:
            lesson = self._editable(lesson_id)
            pictures = tuple(
                replace(picture, caption=caption) if picture.id == picture_id else picture
                for picture in lesson.pictures
            )
            return self._store.save(replace(lesson, pictures=pictures))

    def describe(
        self, lesson_id: str, *, name: str, trigger: str, model: str, minutes: float
    ) -> Lesson:
        """Keep what the form says of a draft, checked only when it begins."""
        with self._lock:
            lesson = self._editable(lesson_id)
            words = {"name": name.strip()[:200], "trigger": trigger.strip()[:200]}
            return self._store.save(replace(lesson, **words, model=model, minutes=minutes))

    def thumbnail(self, lesson_id: str, picture_id: str) -> Path:
        """Return the file of a picture's small copy, a WebP. Raises NotFoundError."""
        return self._store.thumbnail(lesson_id, picture_id)

    # ------------------------------------------------------------------ begin, pause, end

    def start(self, lesson_id: str) -> Lesson:
        """Begin a draft, or let go on what was paused, cut short or failed.

        Raises TrainingError with what is missing, ModelError for its base, DiskFullError.
        """
        with self._lock:
            lesson = self._store.get(lesson_id)
            if lesson.state not in ("draft", "paused", "failed"):
                return lesson
            check_lesson(lesson)
            self._place.base(lesson.model)
            self._place.check_room(NEEDED, "A lesson")
            lesson = self._store.save(replace(lesson, state="waiting", sentence=""))
            self._submit(lesson_id)
            return lesson

    def pause(self, lesson_id: str) -> Lesson:
        """Leave a lesson after its current step; it goes on from there."""
        with self._lock:
            lesson = self._store.get(lesson_id)
            if lesson.state in ("waiting", "running"):
                self._pausing |= {lesson_id}
        self._place.worker.cancel(_job(lesson_id))
        return self._store.get(lesson_id)

    def stop(self, lesson_id: str) -> Lesson:
        """End a lesson now and keep what was learned so far."""
        with self._lock:
            lesson = self._store.get(lesson_id)
            if lesson.state not in _BEGUN:
                return lesson
            self._stopping |= {lesson_id}
            if lesson.state in ("paused", "failed"):
                lesson = self._store.save(replace(lesson, state="waiting", sentence=""))
                self._submit(lesson_id)
        return lesson

    def discard(self, lesson_id: str) -> None:
        """Remove a lesson that does not run; an adapter that came of it stays in the studio."""
        with self._lock:
            if self._store.get(lesson_id).state in ("waiting", "running"):
                raise TrainingError("This lesson is at work; pause or stop it first.")
            self._store.delete(lesson_id)

    # ------------------------------------------------------------------ what is seen of it

    def progress(self, lesson_id: str) -> LessonProgress:
        """Return where a lesson is at this moment."""
        return self._progress.get(lesson_id, LessonProgress())

    def notices(self, lesson_id: str) -> tuple[str, ...]:
        """Return what was said since the lesson began or went on."""
        return self._notices.get(lesson_id, ())

    def is_ending(self, lesson_id: str) -> bool:
        """Whether a lesson was asked to pause or stop and has not answered yet."""
        return lesson_id in self._pausing | self._stopping

    def curve(self, lesson_id: str) -> list[tuple[int, float]]:
        """Return the loss as (last step, mean) over at most CURVE equal stretches of steps."""
        try:
            text = (self._run_folder(lesson_id) / "log.jsonl").read_text(encoding="utf-8")
        except OSError:
            return []
        losses = [_step_and_loss(line) for line in text.splitlines()]
        known = [one for one in losses if one]
        width = max(-(-len(known) // CURVE), 1)
        parts = [known[i : i + width] for i in range(0, len(known), width)]
        return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]

    def samples(self, lesson_id: str) -> list[int]:
        """Return the steps after which sample pictures were drawn, in order."""
        found = (self._run_folder(lesson_id) / "samples").glob("step-??????.png")
        return sorted(int(path.stem.removeprefix("step-")) for path in found)

    def sample(self, lesson_id: str, step: int) -> Path:
        """Return the file of a sheet of samples. Raises NotFoundError."""
        path = self._run_folder(lesson_id) / "samples" / f"step-{step:06d}.png"
        if not path.is_file():
            raise NotFoundError("There are no sample pictures of that step.")
        return path

    def adapter(self, lesson_id: str) -> AdapterEntry:
        """Return what came of a lesson. Raises NotFoundError when it is not done, or gone."""
        lesson = self._store.get(lesson_id)
        if not lesson.adapter:
            raise NotFoundError("This lesson is not finished, so there is no adapter of it yet.")
        return self._place.adapters.find(lesson.adapter)

    # ------------------------------------------------------------------ on the device thread

    def _teach(self, lesson_id: str) -> Iterator[Event]:
        """Run a job: load the base, teach it, and put the result on the shelf."""
        from studio.training import lora
        from studio.training.finetune import load_base

        lesson = self._store.get(lesson_id)
        folder = self._run_folder(lesson_id)
        with self._place.alone(JOB):
            yield StageProgress("load", 0, 1, None)
            entry = self._place.base(lesson.model)
            device, sha256 = self._place.settings.device, self._place.models.hash_of(entry)
            model = load_base(entry.folder, entry.name, device, sha256)
            yield StageProgress("prepare", 0, len(lesson.pictures), None)
            examples = self._examples(lesson)
            config = lora.usual_config(model, lesson.name, lesson.trigger)
            config = replace(config, loop=replace(config.loop, budget=lesson.minutes * 60))
            if lesson_id not in self._stopping:
                with closing(lora.train(model, examples, config, folder)) as events:
                    for event in events:
                        yield event
                        if lesson_id in self._stopping:
                            break
            if lesson_id in self._stopping:
                yield lora.conclude(model, examples, config, folder)
            kept = self._place.adapters.add_trained(folder, lesson.name)
            self._store.save(replace(self._store.get(lesson_id), adapter=kept.sha256))

    def _examples(self, lesson: Lesson) -> list[Example]:
        from studio.training.lora import Example

        return [
            Example(picture.title, self._store.image(lesson.id, picture.id), picture.caption)
            for picture in lesson.pictures
        ]

    # ------------------------------------------------------------------ what the worker tells

    def _on_event(self, job_id: str, event: JobEvent) -> None:
        kind, _, lesson_id = job_id.partition("-")
        if kind != JOB:
            return
        if isinstance(event, JobStarted):
            self._store.save(replace(self._store.get(lesson_id), state="running"))
        elif isinstance(event, StageProgress):
            phase = "measure" if event.stage == "lora" and not event.steps else event.stage
            left = event.seconds_left
            if event.stage == "look":
                left = self.progress(lesson_id).seconds_left
            self._progress[lesson_id] = LessonProgress(phase, event.step, event.steps, left)
        elif isinstance(event, Notice):
            self._notices[lesson_id] = (*self._notices.get(lesson_id, ()), event.sentence)
        elif isinstance(event, JobEnded):
            with self._lock:
                self._ended(lesson_id, event)

    def _ended(self, lesson_id: str, event: JobEnded) -> None:
        """Keep how a lesson's job ended."""
        self._pausing -= {lesson_id}
        self._stopping -= {lesson_id}
        self._progress.pop(lesson_id, None)
        state, sentence = "paused", ""
        if event.outcome == "done":
            state = "done"
        elif event.outcome == "failed":
            state, sentence = "failed", event.error
        elif event.outcome == "interrupted":
            sentence = CUT_SHORT
        self._store.save(replace(self._store.get(lesson_id), state=state, sentence=sentence))

    # ------------------------------------------------------------------ inside

    def _submit(self, lesson_id: str) -> None:
        self._notices[lesson_id] = ()
        self._progress[lesson_id] = LessonProgress()
        job = partial(self._teach, lesson_id)
        self._place.worker.submit(_job(lesson_id), job, priority=Priority.TRAINING)

    def _editable(self, lesson_id: str) -> Lesson:
        lesson = self._store.get(lesson_id)
        if lesson.state != "draft":
            raise TrainingError(CHANGED)
        return lesson

    def _run_folder(self, lesson_id: str) -> Path:
        return self._store.folder(lesson_id) / "run"


def _step_and_loss(line: str) -> tuple[int, float] | None:
    try:
        values = json.loads(line)
        return int(values["step"]), float(values["loss"])
    except (ValueError, KeyError, TypeError):  # half a line
        return None


def _job(lesson_id: str) -> str:
    return f"{JOB}-{lesson_id}"

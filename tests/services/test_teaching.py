"""The Teach tab's service: a lesson is a job that gives way, pauses, stops and survives."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from PIL import Image

from studio.core.errors import DiskFullError, ModelError, NotFoundError, TrainingError
from studio.core.lesson import Lesson
from studio.services.studio import Studio, open_studio
from studio.services.teaching import Teaching
from studio.services.training_place import TrainingPlace
from studio.store.lessons import LessonStore

PATIENCE = 240  # seconds


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def png(colour: tuple[int, int, int] = (200, 30, 40), side: int = 64) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(stream, "PNG")
    return stream.getvalue()


def lesson_of(studio: Studio, count: int = 3, minutes: float = 0.03, name: str = "red") -> Lesson:
    draft = studio.teaching.draft()
    studio.teaching.describe(draft.id, name=name, trigger="zyx", model="tiny", minutes=minutes)
    for number in range(count):
        studio.teaching.add_picture(draft.id, png((40 * number, 0, 0)), f"{number}.png")
    return studio.teaching.get(draft.id)


class Watch:
    """Waits until what the worker tells of a lesson is so."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.told = studio, threading.Condition()
        studio.worker.listen(self._heard)

    def _heard(self, _job: str, _event: object) -> None:
        with self.told:
            self.told.notify_all()

    def until(self, lesson: Lesson, *states: str) -> Lesson:
        def there() -> bool:
            return self.studio.teaching.get(lesson.id).state in states

        with self.told:
            assert self.told.wait_for(there, PATIENCE), self.studio.teaching.get(lesson.id)
        return self.studio.teaching.get(lesson.id)

    def until_step(self, lesson: Lesson, step: int) -> None:
        def there() -> bool:
            now = self.studio.teaching.progress(lesson.id)
            return now.phase == "lora" and now.step >= step

        with self.told:
            assert self.told.wait_for(there, PATIENCE), self.studio.teaching.get(lesson.id)


@pytest.fixture
def watch(studio: Studio) -> Watch:
    return Watch(studio)


@contextmanager
def reopened(studio: Studio) -> Iterator[Studio]:
    studio.close()
    again = open_studio(studio.settings)
    try:
        yield again
    finally:
        again.close()


def steps(studio: Studio, lesson: Lesson) -> list[int]:
    path = studio.settings.data_dir / "teaching" / lesson.id / "run" / "log.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_lesson_ends_with_an_adapter_that_draws(studio, watch, request_tiny):
    lesson = lesson_of(studio)
    studio.teaching.start(lesson.id)
    done = watch.until(lesson, "done", "failed")
    assert (done.state, done.sentence) == ("done", "")
    entry = studio.teaching.adapter(lesson.id)
    assert (entry.name, entry.base, entry.lineage["trigger"]) == ("red", "tiny", "zyx")
    assert entry in studio.adapters.entries()
    assert studio.teaching.curve(lesson.id)[-1][0] == steps(studio, lesson)[-1]
    assert studio.teaching.samples(lesson.id)[0] == 0
    assert studio.teaching.sample(lesson.id, 0).is_file()
    job = studio.generation.submit(request_tiny.with_changes(adapters=(entry.use(),)), key="a")
    view = studio.generation.view(job.id)
    while not view.over:
        view = studio.generation.wait(job.id, view.version, PATIENCE)
    assert view.state == "done", view.error


def test_a_picture_is_drawn_while_a_lesson_runs(studio, watch, request_tiny):
    lesson = lesson_of(studio, minutes=60)
    studio.teaching.start(lesson.id)
    watch.until_step(lesson, 1)
    job = studio.generation.submit(request_tiny, key="a")
    view = studio.generation.view(job.id)
    while not view.over:
        view = studio.generation.wait(job.id, view.version, PATIENCE)
    assert view.state == "done"
    assert studio.teaching.get(lesson.id).state == "running"
    studio.teaching.pause(lesson.id)
    watch.until(lesson, "paused")


def test_a_pause_loses_no_step_and_a_stop_keeps_what_was_learned(studio, watch):
    lesson = lesson_of(studio, minutes=60)
    studio.teaching.start(lesson.id)
    watch.until_step(lesson, 3)
    studio.teaching.pause(lesson.id)
    watch.until(lesson, "paused")
    known = steps(studio, lesson)
    studio.teaching.start(lesson.id)
    watch.until_step(lesson, known[-1] + 1)
    studio.teaching.stop(lesson.id)
    done = watch.until(lesson, "done", "failed")
    assert done.state == "done", done.sentence
    assert steps(studio, lesson) == list(range(1, steps(studio, lesson)[-1] + 1))
    stopped_at = studio.teaching.adapter(lesson.id).lineage["stopped_at"]
    assert known[-1] < stopped_at == steps(studio, lesson)[-1]


def test_a_lesson_that_waits_can_be_paused_and_one_that_is_paused_can_be_stopped(studio, watch):
    first, second = (lesson_of(studio, minutes=60, name=name) for name in ("one", "two"))
    assert first.id == second.id  # there is one draft until it begins
    studio.teaching.start(first.id)
    second = lesson_of(studio, name="two")
    studio.teaching.start(second.id)
    assert studio.teaching.pause(second.id).state == "paused"
    watch.until_step(first, 1)
    studio.teaching.pause(first.id)
    watch.until(first, "paused")
    studio.teaching.stop(first.id)
    watch.until(first, "done")
    studio.teaching.stop(second.id)
    failed = watch.until(second, "failed")
    assert failed.sentence == "Nothing was learned yet, so there is nothing to keep."


def test_a_closed_studio_leaves_the_lesson_paused_and_it_goes_on(studio, watch):
    lesson = lesson_of(studio, minutes=60)
    studio.teaching.start(lesson.id)
    watch.until_step(lesson, 2)
    with reopened(studio) as again:
        found = again.teaching.get(lesson.id)
        assert (found.state, found.sentence[:30]) == ("paused", "The studio ended while it was ")
        known = steps(again, lesson)[-1]
        seen = Watch(again)
        again.teaching.start(lesson.id)
        seen.until_step(lesson, known + 1)
        again.teaching.stop(lesson.id)
        assert seen.until(lesson, "done", "failed").state == "done"
        assert steps(again, lesson) == list(range(1, steps(again, lesson)[-1] + 1))


def test_what_was_running_when_the_process_was_killed_is_paused(studio, tiny_settings):
    lesson = lesson_of(studio)
    path = tiny_settings.data_dir / "teaching" / lesson.id / "lesson.json"
    killed = json.loads(path.read_text()) | {"state": "running"}
    path.write_text(json.dumps(killed))
    with reopened(studio) as again:
        found = again.teaching.get(lesson.id)
        assert found.state == "paused"
        assert found.sentence.startswith("The studio ended")


def test_a_draft_is_kept_and_checked_only_when_it_begins(studio):
    lesson = lesson_of(studio, count=2)
    picture = lesson.pictures[0]
    studio.teaching.set_caption(lesson.id, picture.id, "a red square")
    with reopened(studio) as again:
        draft = again.teaching.draft()
        assert (draft.id, draft.name, draft.pictures[0].caption) == (
            lesson.id, "red", "a red square",
        )  # fmt: skip
        with pytest.raises(TrainingError, match=r"There are 2 pictures .* at least 3. Add more."):
            again.teaching.start(lesson.id)
        again.teaching.add_picture(lesson.id, png(), "c.png")
        again.teaching.describe(lesson.id, name="x", trigger="", model="none", minutes=1)
        with pytest.raises(ModelError, match="There is no model 'none'"):
            again.teaching.start(lesson.id)
        assert again.teaching.get(lesson.id).state == "draft"
        again.teaching.remove_picture(lesson.id, picture.id)
        assert len(again.teaching.draft().pictures) == 2


def test_a_lesson_for_which_the_disk_has_no_room_stays_a_draft(studio):
    lesson = lesson_of(studio)
    place = TrainingPlace(
        studio.settings, studio.worker, studio.models, studio.adapters, free=lambda _: 2**20
    )
    with pytest.raises(DiskFullError, match=r"A lesson needs about 128 MB .* Make room"):
        Teaching(place, LessonStore(studio.settings.data_dir)).start(lesson.id)
    assert studio.teaching.get(lesson.id).state == "draft"


def test_a_disk_that_is_full_at_the_end_is_a_sentence_and_the_same_lesson_goes_on(studio, watch):
    lesson = lesson_of(studio)
    run = studio.settings.data_dir / "teaching" / lesson.id / "run"
    in_the_way = run / "adapter.kohya.tmp"  # where the second of the two files is written
    in_the_way.mkdir(parents=True)
    studio.teaching.start(lesson.id)
    failed = watch.until(lesson, "done", "failed")
    assert (failed.state, "Free some disk space" in failed.sentence) == ("failed", True)
    assert not list(run.glob("adapter*.safetensors"))
    before = steps(studio, lesson)
    in_the_way.rmdir()
    studio.teaching.start(lesson.id)
    assert watch.until(lesson, "done").sentence == ""
    assert steps(studio, lesson) == before
    assert studio.teaching.adapter(lesson.id).name == "red"


def test_a_picture_that_cannot_be_taught_is_told_by_its_name(studio):
    lesson = lesson_of(studio, count=0)
    for content, sentence in (
        (b"nothing", "cat.png is not a PNG, JPEG or WebP picture"),
        (png(side=8), "cat.png: It has 8 x 8 pixels, too few to learn from"),
        (png()[:60], "cat.png is damaged"),
    ):
        with pytest.raises(TrainingError, match=sentence):
            studio.teaching.add_picture(lesson.id, content, "cat.png")
    with pytest.raises(TrainingError, match="A caption has at most"):
        studio.teaching.set_caption(lesson.id, "0" * 12, "cat " * 6000)
    assert studio.teaching.draft().pictures == ()


def test_a_lesson_that_has_begun_cannot_be_changed_or_thrown_away_while_it_runs(studio, watch):
    lesson = lesson_of(studio, minutes=60)
    studio.teaching.start(lesson.id)
    watch.until(lesson, "running")
    for change in (
        lambda: studio.teaching.add_picture(lesson.id, png(), "a.png"),
        lambda: studio.teaching.set_caption(lesson.id, lesson.pictures[0].id, "x"),
        lambda: studio.teaching.remove_picture(lesson.id, lesson.pictures[0].id),
    ):
        with pytest.raises(TrainingError, match="has begun cannot be changed"):
            change()
    with pytest.raises(TrainingError, match="at work; pause or stop it first"):
        studio.teaching.discard(lesson.id)
    studio.teaching.pause(lesson.id)
    watch.until(lesson, "paused")
    studio.teaching.discard(lesson.id)
    assert studio.teaching.all() == []
    with pytest.raises(NotFoundError):
        studio.teaching.get(lesson.id)


def test_another_training_in_the_same_folder_is_waited_for_in_words(studio, watch):
    from studio.store.lock import FileLock

    other = FileLock(studio.settings.data_dir / "training.lock")
    assert other.acquire("train unet")
    lesson = lesson_of(studio)
    studio.teaching.start(lesson.id)
    failed = watch.until(lesson, "failed")
    assert failed.sentence.startswith("'train unet' is being trained in this data folder.")
    other.release()
    studio.teaching.start(lesson.id)
    assert watch.until(lesson, "done", "failed").state == "done"
    assert replace(studio.teaching.get(lesson.id), adapter="") == replace(
        lesson, state="done", adapter=""
    )

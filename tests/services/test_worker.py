"""The device thread, with real generators and without a network in sight."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Event, Thread, current_thread

import pytest

from studio.core.errors import EaselError
from studio.core.events import Event as JobMessage
from studio.core.events import Notice
from studio.services.worker import (
    UNFORESEEN,
    GpuWorker,
    JobEnded,
    JobEvent,
    JobStarted,
    Priority,
)

PATIENCE = 60.0  # seconds until a test that hangs fails


class Diary:
    """A listener that remembers everything and can be waited on."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, JobEvent]] = []
        self._changed = Condition()

    def __call__(self, job_id: str, event: JobEvent) -> None:
        with self._changed:
            self.entries.append((job_id, event))
            self._changed.notify_all()

    def wait_for(self, entry: tuple[str, JobEvent]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: entry in self.entries, PATIENCE), self.entries

    def wait_for_end(self, job_id: str) -> JobEnded:
        with self._changed:
            assert self._changed.wait_for(lambda: self.end_of(job_id) is not None, PATIENCE)
        ended = self.end_of(job_id)
        assert ended is not None
        return ended

    def end_of(self, job_id: str) -> JobEnded | None:
        ends = (e for known, e in self.entries if known == job_id and isinstance(e, JobEnded))
        return next(ends, None)

    def steps(self) -> list[str]:
        return [f"{job_id} {e.sentence}" for job_id, e in self.entries if isinstance(e, Notice)]


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def worker(diary: Diary) -> Iterator[GpuWorker]:
    worker = GpuWorker()
    worker.listen(diary)
    yield worker
    assert worker.close(PATIENCE)


def counting(steps: int) -> Callable[[], Iterator[JobMessage]]:
    return lambda: (Notice(str(step)) for step in range(1, steps + 1))


class Gate:
    """A job whose steps are let through one by one by the test."""

    def __init__(self, steps: int = 1_000) -> None:
        self.closed = Event()
        self.inside = Event()  # the job waits in its step
        self.pass_one = Event()
        self._steps = steps

    def __call__(self) -> Iterator[JobMessage]:
        try:
            for step in range(1, self._steps + 1):
                self.inside.set()
                assert self.pass_one.wait(PATIENCE)
                self.pass_one.clear()
                yield Notice(str(step))
        finally:
            self.closed.set()

    def let_pass(self) -> None:
        assert self.inside.wait(PATIENCE)
        self.inside.clear()
        self.pass_one.set()


def test_a_job_tells_its_start_its_events_and_its_end(worker: GpuWorker, diary: Diary) -> None:
    worker.submit("a", counting(2))
    diary.wait_for_end("a")
    assert diary.entries == [
        ("a", JobStarted()),
        ("a", Notice("1")),
        ("a", Notice("2")),
        ("a", JobEnded("done")),
    ]


def test_interactive_jobs_run_one_after_the_other_as_submitted(
    worker: GpuWorker, diary: Diary
) -> None:
    gate = Gate(1)
    worker.submit("gate", gate)
    for name in ("a", "b", "c"):
        worker.submit(name, counting(2))
    gate.let_pass()
    diary.wait_for_end("c")
    assert diary.steps() == ["gate 1", "a 1", "a 2", "b 1", "b 2", "c 1", "c 2"]


def test_a_picture_preempts_a_training_after_its_step(worker: GpuWorker, diary: Diary) -> None:
    training = Gate(3)
    worker.submit("training", training, priority=Priority.BACKGROUND)
    training.let_pass()
    diary.wait_for(("training", Notice("1")))
    assert training.inside.wait(PATIENCE)
    worker.submit("picture", counting(3))
    training.let_pass()
    diary.wait_for_end("picture")
    training.let_pass()
    assert diary.wait_for_end("training") == JobEnded("done")
    assert diary.steps() == [
        "training 1",
        "training 2",
        "picture 1",
        "picture 2",
        "picture 3",
        "training 3",
    ]


def test_a_begun_background_job_is_finished_before_the_next_one(
    worker: GpuWorker, diary: Diary
) -> None:
    first = Gate(2)
    worker.submit("first", first, priority=Priority.BACKGROUND)
    assert first.inside.wait(PATIENCE)
    worker.submit("second", counting(1), priority=Priority.BACKGROUND)
    worker.reorder(["second", "first"])
    first.let_pass()
    first.let_pass()
    diary.wait_for_end("second")
    assert diary.steps() == ["first 1", "first 2", "second 1"]


def test_reorder_changes_the_order_of_the_waiting_jobs(worker: GpuWorker, diary: Diary) -> None:
    gate = Gate(1)
    worker.submit("gate", gate)
    assert gate.inside.wait(PATIENCE)
    for name in ("a", "b", "c"):
        worker.submit(name, counting(1))
    worker.reorder(["c", "a", "b"])
    assert worker.job_ids() == ("gate", "c", "a", "b")
    gate.let_pass()
    diary.wait_for_end("b")
    assert diary.steps() == ["gate 1", "c 1", "a 1", "b 1"]


def test_cancel_closes_the_running_generator_at_its_next_yield(
    worker: GpuWorker, diary: Diary
) -> None:
    gate = Gate()
    worker.submit("a", gate)
    assert gate.inside.wait(PATIENCE)
    assert worker.cancel("a")
    assert not gate.closed.is_set()
    gate.let_pass()
    assert diary.wait_for_end("a") == JobEnded("cancelled")
    assert gate.closed.is_set()
    assert diary.steps() == ["a 1"]


def test_a_waiting_job_is_cancelled_at_once_and_never_made(worker: GpuWorker, diary: Diary) -> None:
    gate, made = Gate(1), Event()

    def never() -> Iterator[JobMessage]:
        made.set()
        yield Notice("drawn")

    worker.submit("gate", gate)
    assert gate.inside.wait(PATIENCE)
    worker.submit("waiting", never)
    assert worker.cancel("waiting")
    assert diary.end_of("waiting") == JobEnded("cancelled")
    gate.let_pass()
    diary.wait_for_end("gate")
    assert not made.is_set()


def test_cancelling_an_unknown_job_says_so(worker: GpuWorker) -> None:
    assert worker.cancel("nobody") is False


def test_whoever_clicks_goes_before_the_device_thread_and_what_it_starts(
    worker: GpuWorker, diary: Diary
) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def look() -> Iterator[JobMessage]:
        helper = Thread(target=lambda: found.append(niceness()))
        helper.start()
        helper.join()
        yield Notice("looked")

    found: list[int] = []
    worker.submit("look", look)
    diary.wait_for_end("look")
    assert found[0] > niceness() or sys.platform != "linux"


def test_a_job_is_not_queued_twice(worker: GpuWorker, diary: Diary) -> None:
    gate = Gate(1)
    worker.submit("a", gate)
    worker.submit("a", gate)
    gate.let_pass()
    worker.submit("b", counting(1))
    diary.wait_for_end("b")
    assert [e for e in diary.entries if e == ("a", JobStarted())] == [("a", JobStarted())]


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [(EaselError("The model is gone; copy it again."), "The model is gone; copy it again."),
     (ZeroDivisionError("tensor"), UNFORESEEN)],
)  # fmt: skip
def test_a_failing_job_ends_with_a_sentence_and_the_next_one_runs(
    worker: GpuWorker, diary: Diary, raised: Exception, sentence: str
) -> None:
    def failing() -> Iterator[JobMessage]:
        yield Notice("1")
        raise raised

    worker.submit("bad", failing)
    worker.submit("good", counting(1))
    ended = diary.wait_for_end("bad")
    assert (ended.outcome, ended.error) == ("failed", sentence)
    assert ("ZeroDivisionError: tensor" in ended.details) == (sentence == UNFORESEEN)
    assert diary.wait_for_end("good") == JobEnded("done")


def test_a_factory_that_fails_fails_its_job_only(worker: GpuWorker, diary: Diary) -> None:
    def factory() -> Iterator[JobMessage]:
        raise EaselError("There is nothing to draw with.")

    worker.submit("bad", factory)
    worker.submit("good", counting(1))
    assert diary.wait_for_end("bad") == JobEnded("failed", "There is nothing to draw with.")
    assert diary.wait_for_end("good") == JobEnded("done")


def test_a_failing_listener_fails_the_job_and_closes_it(worker: GpuWorker, diary: Diary) -> None:
    def full_disk(job_id: str, event: JobEvent) -> None:
        if isinstance(event, Notice):
            raise EaselError("The disk is full; make room.")

    gate = Gate()
    worker.listen(full_disk)
    worker.submit("a", gate)
    gate.let_pass()
    assert diary.wait_for_end("a") == JobEnded("failed", "The disk is full; make room.")
    assert gate.closed.is_set()


def test_all_steps_of_all_jobs_run_on_one_thread(worker: GpuWorker, diary: Diary) -> None:
    threads: set[Thread] = set()

    def watching() -> Iterator[JobMessage]:
        threads.add(current_thread())
        yield Notice("1")
        threads.add(current_thread())

    for name in ("a", "b", "c"):
        worker.submit(name, watching)
    diary.wait_for_end("c")
    assert len(threads) == 1
    assert current_thread() not in threads


def test_close_interrupts_what_runs_and_leaves_what_waits(diary: Diary) -> None:
    worker, gate = GpuWorker(), Gate()
    worker.listen(diary)
    worker.submit("running", gate)
    worker.submit("waiting", counting(1))
    assert gate.inside.wait(PATIENCE)
    closer = Thread(target=worker.close)
    closer.start()
    with pytest.raises(EaselError):
        while True:  # until the closing has been noticed, submissions of the same job pass silently
            worker.submit("waiting", counting(1))
            assert closer.is_alive()
    gate.let_pass()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    assert diary.end_of("running") == JobEnded("interrupted")
    assert gate.closed.is_set()
    assert diary.end_of("waiting") is None


def test_close_gives_up_on_a_step_that_does_not_end(diary: Diary) -> None:
    worker, gate = GpuWorker(), Gate()
    worker.listen(diary)
    worker.submit("stuck", gate)
    assert gate.inside.wait(PATIENCE)
    assert worker.close(timeout=0.05) is False
    gate.let_pass()
    assert diary.wait_for_end("stuck") == JobEnded("interrupted")


def test_the_device_is_held_while_there_is_work_and_no_longer(diary: Diary) -> None:
    held, free = Event(), Event()

    @contextmanager
    def device(_stopped: Callable[[], bool]) -> Iterator[None]:
        held.set()
        yield
        held.clear()
        free.set()

    worker, gate = GpuWorker(device), Gate(1)
    worker.listen(diary)
    assert not held.is_set()
    worker.submit("a", gate)
    assert gate.inside.wait(PATIENCE)
    assert held.is_set()
    gate.let_pass()
    assert free.wait(PATIENCE)
    assert not held.is_set()
    assert worker.close(PATIENCE)


def test_a_device_that_is_refused_fails_what_waits_with_its_sentence(diary: Diary) -> None:
    @contextmanager
    def device(_stopped: Callable[[], bool]) -> Iterator[None]:
        raise EaselError("The data folder cannot be written to.")
        yield

    worker = GpuWorker(device)
    worker.listen(diary)
    worker.submit("a", counting(1))
    assert diary.wait_for_end("a") == JobEnded("failed", "The data folder cannot be written to.")
    assert worker.close(PATIENCE)


def test_a_held_job_rests_while_others_run_and_frees_the_device(diary: Diary) -> None:
    free = Event()

    @contextmanager
    def device(_stopped: Callable[[], bool]) -> Iterator[None]:
        yield
        free.set()

    worker, gate = GpuWorker(device), Gate(2)
    worker.listen(diary)
    worker.submit("training", gate, priority=Priority.TRAINING)
    assert gate.inside.wait(PATIENCE)
    assert worker.hold("training")
    gate.let_pass()
    assert free.wait(PATIENCE)
    worker.submit("picture", counting(2))
    diary.wait_for_end("picture")
    assert (diary.end_of("training"), gate.closed.is_set()) == (None, False)
    assert worker.hold("training", held=False)
    gate.let_pass()
    assert diary.wait_for_end("training") == JobEnded("done")
    assert worker.hold("training") is False
    assert worker.close(PATIENCE)


def test_a_held_job_can_be_cancelled_and_is_interrupted_by_the_end(diary: Diary) -> None:
    worker, first, second = GpuWorker(), Gate(), Gate()
    worker.listen(diary)
    for name, gate in (("first", first), ("second", second)):
        worker.submit(name, gate)
        assert gate.inside.wait(PATIENCE)
        worker.hold(name)
        gate.let_pass()
        worker.submit(f"after {name}", counting(1))
        diary.wait_for_end(f"after {name}")
    worker.cancel("first")
    assert diary.wait_for_end("first") == JobEnded("cancelled")
    assert worker.close(PATIENCE)
    assert diary.end_of("second") == JobEnded("interrupted")
    assert first.closed.is_set()
    assert second.closed.is_set()


def test_training_gives_way_to_background_work_too(worker: GpuWorker, diary: Diary) -> None:
    gate = Gate(2)
    worker.submit("training", gate, priority=Priority.TRAINING)
    assert gate.inside.wait(PATIENCE)
    worker.submit("campaign", counting(2), priority=Priority.BACKGROUND)
    gate.let_pass()
    diary.wait_for_end("campaign")
    gate.let_pass()
    diary.wait_for_end("training")
    assert diary.steps() == ["training 1", "campaign 1", "campaign 2", "training 2"]

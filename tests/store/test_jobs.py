"""The queue: what is submitted is kept, in order, through crashes."""

from __future__ import annotations

import pytest

from studio.core.errors import NotFoundError
from studio.core.request import AdapterUse, GenerationRequest
from studio.store.database import Database
from studio.store.jobs import JobStore
from tests.postgres_server import on_both_databases

pytestmark = on_both_databases


@pytest.fixture
def jobs(database: Database, clock) -> JobStore:
    return JobStore(database, clock)


def submit(jobs: JobStore, *keys: str) -> list[str]:
    return [jobs.submit(GenerationRequest(prompt=key), key=key).id for key in keys]


def prompts(jobs: JobStore) -> list[str]:
    return [job.request.prompt for job in jobs.queued()]


def test_a_job_comes_back_as_it_was_submitted(jobs: JobStore, clock):
    request = GenerationRequest(
        prompt='a "red" apple,\n飛行機',
        adapters=(AdapterUse("taste", "ab" * 32, 0.5),),
        seed=2**32 - 1,
    )
    job = jobs.submit(request, key="k", kind="draw", label="panel one", set_id="set", panel=3)
    assert jobs.get(job.id) == job
    assert (job.request, job.state, job.submitted_at) == (request, "queued", clock.now)
    assert (job.label, job.set_id, job.panel, job.picture_count) == ("panel one", "set", 3, 0)


def test_a_double_click_submits_once(jobs: JobStore):
    first = jobs.submit(GenerationRequest(seed=1), key="click")
    again = jobs.submit(GenerationRequest(seed=2), key="click")
    assert again == first
    assert len(jobs.queued()) == 1


def test_the_queue_keeps_the_order_of_submission(jobs: JobStore):
    ids = submit(jobs, "a", "b", "c")
    assert [job.id for job in jobs.queued()] == ids
    assert jobs.next_queued().id == ids[0]
    jobs.mark(ids[0], "running")
    assert jobs.next_queued().id == ids[1]
    assert [job.id for job in jobs.running()] == [ids[0]]


def test_an_empty_queue_has_no_next_job(jobs: JobStore):
    assert jobs.next_queued() is None


@pytest.mark.parametrize(
    ("job", "places", "order"),
    [
        ("c", -1, "acbd"),
        ("c", -99, "cabd"),
        ("b", 1, "acbd"),
        ("a", 99, "bcda"),
        ("b", 0, "abcd"),
    ],
)
def test_a_job_moves_through_the_queue_up_to_its_ends(
    jobs: JobStore, job: str, places: int, order: str
):
    ids = dict(zip("abcd", submit(jobs, *"abcd"), strict=True))
    jobs.move(ids[job], places)
    assert "".join(prompts(jobs)) == order
    jobs.submit(GenerationRequest(prompt="e"), key="e")
    assert "".join(prompts(jobs)) == order + "e"


def test_a_running_job_does_not_move(jobs: JobStore):
    first, _second = submit(jobs, "a", "b")
    running = jobs.mark(first, "running")
    assert jobs.move(first, 1) == running


def test_states_carry_their_times(jobs: JobStore, clock):
    (job_id,) = submit(jobs, "a")
    clock.now += 5
    running = jobs.mark(job_id, "running")
    clock.now += 7
    failed = jobs.mark(job_id, "failed", "The disk is full.")
    assert (running.started_at, running.finished_at) == (clock.now - 7, None)
    assert (failed.started_at, failed.finished_at) == (clock.now - 7, clock.now)
    assert (failed.state, failed.error) == ("failed", "The disk is full.")


def test_what_ran_when_the_studio_stopped_is_interrupted_and_can_be_queued_again(jobs: JobStore):
    first, second, third = submit(jobs, "a", "b", "c")
    jobs.mark(first, "running")
    jobs.mark(second, "done")
    assert jobs.interrupt_running() == 1
    assert [jobs.get(i).state for i in (first, second, third)] == ["interrupted", "done", "queued"]
    assert "Submit it again" in jobs.get(first).error
    again = jobs.requeue(first)
    assert (again.id, again.state, again.error, again.started_at) == (first, "queued", "", None)
    assert prompts(jobs) == ["c", "a"]


def test_a_waiting_or_running_job_is_not_queued_twice(jobs: JobStore):
    first, second = submit(jobs, "a", "b")
    running = jobs.mark(first, "running")
    assert jobs.requeue(first) == running
    assert jobs.requeue(second).position == jobs.get(second).position
    assert prompts(jobs) == ["b"]


def test_recent_jobs_come_newest_first_whatever_their_state(jobs: JobStore):
    first, second, third = submit(jobs, "a", "b", "c")
    jobs.mark(second, "cancelled")
    assert [job.id for job in jobs.recent(2)] == [third, second]
    assert [job.id for job in jobs.recent(9)] == [third, second, first]


def test_a_set_lists_its_jobs_by_panel(jobs: JobStore):
    for panel in (2, 3, 1):
        jobs.submit(GenerationRequest(prompt=f"p{panel}"), key=str(panel), set_id="s", panel=panel)
    submit(jobs, "other")
    assert [job.request.prompt for job in jobs.of_set("s")] == ["p1", "p2", "p3"]


@pytest.mark.parametrize("ask", ["get", "requeue"])
def test_an_unknown_job_is_a_sentence(jobs: JobStore, ask: str):
    with pytest.raises(NotFoundError, match="no job 'nothing'"):
        getattr(jobs, ask)("nothing")


def test_an_unknown_job_can_neither_be_marked_nor_moved(jobs: JobStore):
    with pytest.raises(NotFoundError):
        jobs.mark("nothing", "done")
    with pytest.raises(NotFoundError):
        jobs.move("nothing", 1)

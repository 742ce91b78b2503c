"""Runs of fine-tuning in the store: their states, their epochs, their verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.core.errors import NotFoundError, TrainingError
from studio.core.run import Kept, RunEpoch, RunPlan, Verdict
from studio.core.settings import Settings
from studio.store.database import Database, open_database
from studio.store.runs import RunStore

PLAN = RunPlan(
    "Warm 猫", ("a storm", 'a "calm" sea'), ("dog",), campaign="c", model="tiny", minutes=7.5,
    seed=2**31, start="ab" * 32, settings={"rank": 4, "algorithm": "nft", "kl_weight": 0.5},
)  # fmt: skip


@pytest.fixture
def runs(database: Database, clock) -> RunStore:
    return RunStore(database, clock)


def test_a_run_comes_back_as_it_was_planned(runs: RunStore, clock, settings: Settings):
    made = runs.create(PLAN, {"votes": 3})
    assert (made.plan, made.state, made.created_at) == (PLAN, "running", clock.now)
    assert (made.about, made.name, made.kept) == ({"votes": 3}, "Warm 猫", None)
    again = open_database(settings)
    assert RunStore(again).get(made.id) == made
    again.close()


@pytest.mark.parametrize("state", ["running", "paused"])
def test_only_one_run_is_at_work(runs: RunStore, state):
    first = runs.create(PLAN)
    runs.mark(first.id, state)
    with pytest.raises(TrainingError, match="“Warm 猫”"):
        runs.create(replace(PLAN, name="second"))
    runs.mark(first.id, "trained")
    second = runs.create(replace(PLAN, name="second"))
    assert [run.name for run in runs.all()] == ["second", "Warm 猫"]
    runs.mark(first.id, "failed", "The disk is full.")
    with pytest.raises(TrainingError, match="“second”"):
        runs.begin_again(first.id)
    assert runs.get(first.id).sentence == "The disk is full."
    runs.mark(second.id, "discarded")
    assert runs.begin_again(first.id).state == "running"
    assert runs.get(first.id).sentence == ""


def test_only_what_was_running_is_cut_short_by_the_studio_s_end(runs: RunStore):
    paused = runs.create(PLAN)
    runs.mark(paused.id, "trained")
    running = runs.create(PLAN)
    assert runs.interrupt_running() == 1
    assert [run.state for run in runs.all()] == ["interrupted", "trained"]
    assert "goes on from its last finished epoch" in runs.get(running.id).sentence
    assert runs.interrupt_running() == 0


def test_an_epoch_that_is_told_again_replaces_itself(runs: RunStore):
    run = runs.create(PLAN)
    for number, kl in ((1, 0.5), (0, 0.0), (1, 0.7)):
        runs.record(run.id, RunEpoch(number, {"kl": kl, "probes": {"a": 1}}, f"{number}.png"))
    assert runs.epochs(run.id) == [
        RunEpoch(0, {"kl": 0.0, "probes": {"a": 1}}, "0.png"),
        RunEpoch(1, {"kl": 0.7, "probes": {"a": 1}}, "1.png"),
    ]
    runs.plan_epochs(run.id, 12)
    assert runs.get(run.id).epochs == 12


def test_what_is_told_of_a_run_s_origin_adds_up(runs: RunStore):
    run = runs.create(PLAN, {"votes": 3})
    runs.tell_about(run.id, {"reward": "taste"})
    assert runs.get(run.id).about == {"votes": 3, "reward": "taste"}


def test_what_was_kept_stands_with_the_run(runs: RunStore):
    run, kept = runs.create(PLAN), Kept("Warm", "cd" * 32, 0.7, 4)
    assert (runs.keep(run.id, kept).kept, runs.get(run.id).state) == (kept, "kept")


def test_verdicts_are_found_by_run_and_by_campaign(runs: RunStore):
    run = runs.create(PLAN)
    first, second = (
        runs.add_verdict(Verdict(0, run.id, 4, campaign, "ab" * 32, "tiny + Warm at 1"))
        for campaign in ("one", "two")
    )
    assert runs.verdicts(run.id) == [second, first]
    runs.judged(first.number, {"tuned": 12, "base": 8, "ties": 0})
    assert runs.verdict_of("one").by_reward == {"tuned": 12, "base": 8, "ties": 0}
    assert (runs.verdict_of("two"), runs.verdict_of("three")) == (second, None)


def test_a_run_that_is_not_there_is_told_so(runs: RunStore):
    with pytest.raises(NotFoundError, match="Reload the page"):
        runs.get("nothing")

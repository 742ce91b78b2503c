"""How a run is doing, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.core.run import Run, RunEpoch, RunPlan
from studio.services.run_view import health

LIMITS = {"kl_budget": 60, "diversity_drop": 0.15}
RUN = Run("a", RunPlan("warm", ("cat",), ("dog",), settings=LIMITS), "running", 0.0)


def epoch(number: int, reward: float, diversity: float = 1.0, kl: float = 1.0) -> RunEpoch:
    figures = {"reward_held_out": reward, "kl": kl, "probes": {"diversity": diversity}}
    return RunEpoch(number, figures)


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        ([], "Getting ready"),
        ([epoch(0, 0.5)], "Getting ready"),
        ([epoch(0, 0.5), epoch(1, 0.6)], "Learning: on held-out prompts the reward rose from 0.50"),
        ([epoch(0, 0.5), epoch(1, 0.4)], "a few epochs will tell"),
        ([epoch(0, 0.5), *(epoch(n, 0.4) for n in (1, 2, 3))], "No gain on held-out prompts yet"),
        ([epoch(0, 0.5), epoch(1, 0.6, diversity=0.88)], "diversity fell 12 %; it stops at 15 %"),
        ([epoch(0, 0.5), epoch(1, 0.6, kl=50)], "50 of at most 60 nats"),
    ],
)
def test_health_is_one_sentence_about_what_matters_most(epochs, words):
    assert words in health(RUN, epochs)


def test_a_run_that_is_over_says_what_came_of_it_or_why_it_ended():
    rows = [epoch(0, 0.5), epoch(1, 0.6)]
    assert health(replace(RUN, state="trained"), rows).startswith("Done after 1 epoch.")
    longer = [*rows, epoch(2, 0.7), epoch(3, 0.4)]
    assert health(replace(RUN, state="trained"), longer) == (
        "Done after 3 epochs. Epoch 2 drew the held-out prompts best and is the result. "
        "On held-out prompts the reward rose: 0.50 before, 0.70 after."
    )
    stopped = replace(RUN, state="trained", sentence="Stopped: over budget.")
    assert health(stopped, rows) == "Stopped: over budget."


def test_limits_that_an_expert_has_set_are_those_that_are_told():
    strict = replace(RUN, plan=replace(RUN.plan, settings={"diversity_drop": 0.05}))
    rows = [epoch(0, 0.5), epoch(1, 0.6, diversity=0.96)]
    assert "it stops at 5 %" in health(strict, rows)

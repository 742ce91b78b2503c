"""A run's minutes are those of computing, not those of a computer that was asleep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from threading import Event
from time import perf_counter

import pytest
import torch

from studio.core.events import EpochDone
from studio.diffusion.model import load_model
from studio.training.finetune import finetune
from studio.training.rewards import RewardFunction, known_reward
from studio.training.stopwatch import Stopwatch
from tests.diffusion.tiny_model import build_tiny_model
from tests.training.finetune_program import CONFIG, TOOLS

HOURS = 8 * 3600.0


class Clocks:
    """A clock on the wall and one of processor time, moved by what a lap says of itself."""

    def __init__(self) -> None:
        self.wall = 0.0
        self.busy = 0.0

    def laps(self, *laps: tuple[float, float]) -> Iterator[int]:
        for number, (passed, worked) in enumerate(laps):
            self.wall += passed
            self.busy += worked
            yield number

    def told(self, *laps: tuple[float, float]) -> float:
        watch = Stopwatch(lambda: self.wall, lambda: self.busy)
        for _ in watch.timed(self.laps(*laps)):
            self.wall += 1000.0  # somebody else's turn
        return watch.seconds


@pytest.mark.parametrize(
    ("laps", "seconds"),
    [
        ([], 0.0),
        ([(1.0, 1.0)] * 5, 5.0),
        ([(1.0, 0.0)] * 5, 5.0),  # the accelerator computes, the processor waits for it
        ([(1.0, 1.0)] * 5 + [(HOURS + 1, 1.0)], 6.0),
        ([(HOURS, 1.0), *[(1.0, 1.0)] * 5, (HOURS, 1.0)], 7.0),
        ([(1.0, 1.0)] * 5 + [(90.0, 90.0)], 95.0),  # long, and computed all the while
        ([(30.0, 0.0)] * 3 + [(300.0, 0.0)], 390.0),  # slow, not asleep
    ],
)
def test_what_was_slept_through_does_not_count(laps, seconds):
    assert Clocks().told(*laps) == pytest.approx(seconds)


def test_a_run_whose_computer_sleeps_in_its_first_epoch_has_the_length_it_was_given(tmp_path):
    """As the engine sees it, a call that lasts and computes nothing is a computer asleep."""
    build_tiny_model(tmp_path / "tiny")
    asleep, bright = 4.0, known_reward("brightness")
    naps = iter([0.0, asleep])  # the first look, then the first epoch

    def score(images, prompts):
        Event().wait(next(naps, 0.0))
        return bright.score(images, prompts)

    config = replace(CONFIG, epochs=0, minutes=60.0)
    model = load_model(tmp_path / "tiny", "tiny", "cpu", torch.float32)
    reward, begun = RewardFunction("bright", "bright", score), perf_counter()
    events = finetune(model, reward, config, TOOLS, tmp_path / "run")
    one = next(event for event in events if isinstance(event, EpochDone))
    awake = perf_counter() - begun - asleep
    assert one.seconds < awake
    assert one.epochs > 60 * 60 / awake - 1

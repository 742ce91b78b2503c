"""The loop that the stages share: what it computes, and that a kill changes nothing of it."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from studio.core.errors import TrainingError
from studio.core.events import StageArtifact, StageProgress
from studio.core.settings import REPOSITORY
from studio.training import checkpoint
from studio.training.budget import TIMED, WARM_UP, Plan, measure, read_plan, write_plan
from studio.training.loop import (
    LoopConfig,
    learning_rate_factor,
    optimize,
    step_generator,
    take_gradient,
    torch_generator,
)

PROGRAM = Path(__file__).with_name("loop_program.py")
QUICK = LoopConfig(steps=12, learning_rate=0.1, warmup=3, checkpoint_every=5)


def quadratic(start: float = 4.0) -> nn.Linear:
    module = nn.Linear(3, 1)
    nn.init.constant_(module.weight, start)
    return module


def pull(module: nn.Module, config: LoopConfig, folder: Path, loss_at=None) -> list:
    def squares(_step):
        return module.weight.square().sum() + module.bias.square().sum(), {}

    return list(optimize("tiny", module, loss_at or squares, config, folder))


def run_program(*arguments: str) -> list[dict]:
    path = os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_killed_at_random_steps_ends_bit_equal_to_one_that_was_not(tmp_path):
    steps = sorted(random.Random(5).sample(range(20), 3))
    whole, resumed = run_program(str(tmp_path), "steps", *map(str, steps))
    assert resumed.pop("killed") == 3
    assert whole.pop("killed") == 0
    assert resumed == whole
    assert [step for step, _, _ in whole["log"]] == [10, 20]


def test_a_run_killed_at_any_file_call_ends_bit_equal_to_one_that_was_not(tmp_path):
    whole, *resumed = run_program(str(tmp_path), "files", "5")
    del whole["killed"]
    assert len(resumed) >= 8
    for run in resumed:
        assert run.pop("killed") == 1
        assert run == whole


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.1), (4, 0.5), (9, 1), (50, 1), (60, 1), (80, 0.5), (90, 0.25), (99, 0.025)],
)
def test_the_learning_rate_rises_stays_and_falls_to_zero(step, factor):
    config = LoopConfig(steps=100, learning_rate=1.0, warmup=10, decay_share=0.4)
    assert learning_rate_factor(step, config) == pytest.approx(factor)


def test_without_warmup_and_decay_the_learning_rate_is_constant():
    config = LoopConfig(steps=100, learning_rate=1.0, warmup=0, decay_share=0.0)
    assert {learning_rate_factor(step, config) for step in range(100)} == {1.0}


def test_the_loop_is_adamw_with_clipped_gradients_and_the_schedule(tmp_path):
    ours, theirs = quadratic(), quadratic()
    theirs.load_state_dict(ours.state_dict())
    pull(ours, QUICK, tmp_path)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1, weight_decay=QUICK.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: QUICK.learning_rate * learning_rate_factor(step, QUICK)
    )
    for _ in range(QUICK.steps):
        optimizer.zero_grad()
        (theirs.weight.square().sum() + theirs.bias.square().sum()).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), QUICK.gradient_clip)
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_the_moving_average_is_what_its_definition_gives(tmp_path):
    config = LoopConfig(steps=12, learning_rate=0.1, warmup=1, ema_decay=0.6, checkpoint_every=12)
    module = quadratic()
    seen: list[np.ndarray] = []

    def loss_at(_step):
        seen.append(module.weight.detach().double().numpy().copy())
        return module.weight.square().sum() + 0 * module.bias.sum(), {}

    pull(module, config, tmp_path, loss_at)
    seen.append(checkpoint.latest(tmp_path).tensors["weights"]["weight"].double().numpy())
    average = seen[0]
    for step, weights in enumerate(seen[1:]):
        decay = min(0.6, (step + 1) / (step + 10))
        average = decay * average + (1 - decay) * weights
    np.testing.assert_allclose(module.weight.detach().numpy(), average, rtol=1e-6)
    assert not np.allclose(average, seen[-1])


def test_without_a_moving_average_the_module_keeps_its_last_weights(tmp_path):
    module = quadratic()
    pull(module, QUICK, tmp_path)
    found = checkpoint.latest(tmp_path).tensors
    assert torch.equal(module.weight, found["weights"]["weight"])
    assert torch.equal(found["ema"]["weight"], found["weights"]["weight"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_a_sentence(tmp_path, bad):
    module = quadratic()

    def loss_at(step):
        return module(torch.ones(1, 3)).sum() * (bad if step == 8 else 1.0), {}

    with pytest.raises(TrainingError, match=r"stopped being a number at step 8. .* smaller learn"):
        pull(module, QUICK, tmp_path, loss_at)
    found = checkpoint.latest(tmp_path)
    assert found.step == 5
    assert all(v.isfinite().all() for group in found.tensors.values() for v in group.values())
    assert module.weight.isfinite().all()


def test_progress_and_log_tell_the_same(tmp_path):
    events = pull(quadratic(), QUICK, tmp_path)
    progress = [e for e in events if isinstance(e, StageProgress)]
    assert [(e.stage, e.step, e.steps) for e in progress] == [("tiny", 10, 12), ("tiny", 12, 12)]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [e.metrics["loss"] for e in progress]
    assert progress[-1].seconds_left == 0
    written = [Path(e.path).name for e in events if isinstance(e, StageArtifact)]
    assert written == [f"checkpoint-{step:08d}" for step in (5, 10, 12)]


def test_a_finished_run_takes_no_further_step(tmp_path):
    first, second = quadratic(), quadratic()
    pull(first, QUICK, tmp_path)
    assert pull(second, QUICK, tmp_path) == []
    assert torch.equal(second.weight, first.weight)
    assert not second.training


def test_a_log_that_was_torn_is_mended_on_resume(tmp_path):
    module = quadratic()
    run = optimize("tiny", module, lambda s: (module.weight.square().sum(), {}), QUICK, tmp_path)
    next(run)
    run.close()
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 11, "lo')
    pull(quadratic(), QUICK, tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [10, 12]


def test_each_step_and_stream_has_random_numbers_of_its_own():
    draws = {
        (step, stream): step_generator(1, step, stream).random()
        for step in range(50)
        for stream in range(2)
    }
    assert len(set(draws.values())) == 100
    assert step_generator(1, 7, 1).random() == draws[7, 1]
    assert step_generator(2, 7, 1).random() != draws[7, 1]
    firsts = {torch.rand(1, generator=torch_generator(1, step)).item() for step in range(50)}
    assert len(firsts) == 50


def test_a_run_that_is_closed_keeps_what_it_learned_since_its_last_checkpoint(tmp_path):
    whole, paused = twins()
    config = replace(QUICK, report_every=1)
    pull(whole, config, tmp_path / "whole")
    events = optimize("tiny", paused, squares_of(paused), config, tmp_path / "paused")
    for event in events:
        if isinstance(event, StageProgress) and event.step == 7:
            events.close()
    assert checkpoint.latest(tmp_path / "paused").step == 7
    rest = pull(quadratic(), config, tmp_path / "paused")
    assert [e.step for e in rest if isinstance(e, StageProgress)] == [8, 9, 10, 11, 12]
    found = [checkpoint.latest(tmp_path / run).tensors["weights"] for run in ("whole", "paused")]
    assert torch.equal(found[0]["weight"], found[1]["weight"])


def twins() -> tuple[nn.Linear, nn.Linear]:
    first, second = quadratic(), quadratic()
    second.load_state_dict(first.state_dict())
    return first, second


def squares_of(module: nn.Module):
    return lambda _step: (module.weight.square().sum() + module.bias.square().sum(), {})


def test_a_budget_is_turned_into_steps_once_and_a_resumed_run_keeps_them(tmp_path):
    config = replace(QUICK, budget=0.5, report_every=1)
    module = quadratic()
    events = optimize("tiny", module, squares_of(module), config, tmp_path)
    measuring = [next(events) for _ in range(WARM_UP + TIMED)]
    assert all((e.step, e.steps) == (0, 0) for e in measuring)
    plan = read_plan(tmp_path)
    assert plan is None  # written when the measuring is over
    first = next(events)
    plan = read_plan(tmp_path)
    assert plan.steps == max(int(0.5 / plan.seconds_per_step), 1) == first.steps
    events.close()
    write_plan(tmp_path, replace(plan, steps=20))  # as if another machine had measured
    rest = pull(quadratic(), config, tmp_path)
    assert {e.steps for e in rest if isinstance(e, StageProgress)} == {20}
    assert all(e.step for e in rest if isinstance(e, StageProgress))  # nothing was measured


def test_measuring_changes_nothing_of_a_run(tmp_path):
    told, planned = twins()
    write = Plan(steps=9, checkpoint_every=3, seconds_per_step=1.0, budget=9.0)
    (tmp_path / "planned").mkdir()
    for _ in measure(
        lambda step: take_gradient(list(planned.parameters()), squares_of(planned), step)
    ):
        pass
    write_plan(tmp_path / "planned", write)
    warm = replace(QUICK, steps=9, warmup=1)
    pull(told, warm, tmp_path / "told")
    pull(planned, replace(QUICK, budget=9.0), tmp_path / "planned")
    assert torch.equal(told.weight, planned.weight)


@pytest.mark.parametrize("text", ["", "[]", '{"steps": 0}', '{"steps": "many"}', '{"steps": 3}'])
def test_a_damaged_plan_is_a_sentence(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(TrainingError, match=r"plan.json, is damaged. Delete the folder"):
        pull(quadratic(), replace(QUICK, budget=1.0), tmp_path)


def test_the_last_checkpoint_being_damaged_the_one_before_goes_on(tmp_path):
    whole, torn = twins()
    resumed = quadratic()
    pull(whole, QUICK, tmp_path / "whole")
    pull(torn, QUICK, tmp_path / "torn")
    (tmp_path / "torn" / "checkpoint-00000012" / "weights.safetensors").write_bytes(b"torn")
    events = pull(resumed, QUICK, tmp_path / "torn")
    assert [e.step for e in events if isinstance(e, StageProgress)] == [12]  # from 10 on
    assert torch.equal(resumed.weight, whole.weight)

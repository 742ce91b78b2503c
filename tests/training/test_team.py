"""Several processes that train one adapter come to what one process comes to."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from studio.core.errors import TrainingError
from studio.core.settings import REPOSITORY
from studio.diffusion.model import load_model
from studio.training.finetune import finetune
from studio.training.rewards import known_reward
from studio.training.team import ALONE, Team
from tests.diffusion.tiny_model import build_tiny_model
from tests.training.finetune_program import CONFIG, TOOLS

PROGRAM = REPOSITORY / "tests/training/team_program.py"


def program(folder, *words):
    (folder / "runs").mkdir()
    model = build_tiny_model(folder / "tiny")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(model), str(folder / "runs"), *words],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=280, check=False,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("algorithm", ["ppo", "nft"])
def test_two_processes_come_to_what_one_comes_to(tmp_path, algorithm):
    found = program(tmp_path, algorithm)
    [alone], together = found["told"]["1"], found["told"]["2"]
    assert len(alone) == 2
    assert together[0] == together[1]
    for ours, theirs in zip(alone, together[0], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"probes"}:
            assert ours[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-6), name
    assert found["difference"] < 1e-3


def test_what_goes_wrong_in_one_process_stops_all_of_them_with_the_last_good_epoch(tmp_path):
    found = program(tmp_path, "ppo", "diverge")
    for told in found["told"]["2"]:
        assert [entry["epoch"] for entry in told if isinstance(entry, dict)] == [1]
    assert "epoch 1 is kept" in found["told"]["2"][0][-1]


@pytest.mark.parametrize(("things", "count"), [(7, 3), (4, 4), (2, 5), (0, 2)])
def test_parts_are_even_and_together_are_everything(things, count):
    parts = [Team(number, count).part(range(things)) for number in range(count)]
    assert [thing for part in parts for thing in part] == list(range(things))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_spoiled_gradient_is_no_number_for_anyone():
    parameter = torch.ones(2, requires_grad=True)
    ALONE.add_gradients([parameter], spoiled=True)
    assert bool(parameter.grad.isnan().all())


def test_more_processes_than_pictures_are_refused_with_a_sentence(tmp_path):
    model = load_model(build_tiny_model(tmp_path / "tiny"), "tiny", "cpu", torch.float32)
    run = finetune(
        model, known_reward("brightness"), CONFIG, TOOLS, tmp_path / "run", team=Team(0, 3)
    )
    with pytest.raises(TrainingError, match=r"3 processes share 2 pictures"):
        next(run)

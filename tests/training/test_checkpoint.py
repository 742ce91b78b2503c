"""Checkpoints: whole or not there, and the one before when the last is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from studio.core.errors import TrainingError
from studio.core.settings import REPOSITORY
from studio.training import checkpoint
from studio.training.loop import LoopConfig, optimize
from studio.training.made_with import MadeWith

FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from studio.core.errors import DiskFullError
from studio.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead
for limit in map(int, sys.argv[2:]):
    folder = Path(sys.argv[1]) / str(limit)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    checkpoint.save(folder, 1, {"weights": {"a": torch.ones(1000)}}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        checkpoint.save(folder, 2, {"weights": {"a": torch.ones(1000)}}, {})
    except DiskFullError as error:
        sys.stderr.write(f"{error}\\n")
"""


def save(folder, step: int):
    groups = {"weights": {"a": torch.full((3,), float(step))}, "ema": {"a": torch.zeros(3)}}
    return checkpoint.save(folder, step, groups, {"config": {"seed": 4}})


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": lambda path: flip_a_bit(path / "weights.safetensors"),
    "a short file": lambda path: (path / "ema.safetensors").write_bytes(b""),
    "a lost file": lambda path: (path / "ema.safetensors").unlink(),
    "a changed state": lambda path: (path / "state.json").write_text('{"step": 9}'),
    "no manifest": lambda path: (path / "MANIFEST.json").unlink(),
    "half a manifest": lambda path: (path / "MANIFEST.json").write_text('{"weights'),
    "an empty manifest": lambda path: (path / "MANIFEST.json").write_text("{}"),
    "another manifest": lambda path: (path / "MANIFEST.json").write_text("[1]"),
}


def test_what_was_saved_is_found_again(tmp_path):
    save(tmp_path, 7)
    found = checkpoint.latest(tmp_path)
    assert found.step == 7
    assert found.state == {"config": {"seed": 4}, "step": 7}
    assert set(found.tensors) == {"weights", "ema"}
    assert torch.equal(found.tensors["weights"]["a"], torch.full((3,), 7.0))


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.latest(tmp_path) is None


def test_the_last_two_checkpoints_are_kept_and_abandoned_ones_swept(tmp_path):
    (tmp_path / "checkpoint-00000001.tmp").mkdir()
    for step in (2, 3, 4):
        save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-00000003",
        "checkpoint-00000004",
    ]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_when_the_last_is_damaged_the_one_before_is_used(tmp_path, damage):
    save(tmp_path, 1)
    damage(save(tmp_path, 2))
    assert checkpoint.latest(tmp_path).step == 1


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_when_all_are_damaged_a_sentence_says_what_to_delete(tmp_path, damage):
    for step in (1, 2):
        damage(save(tmp_path, step))
    with pytest.raises(TrainingError, match=r"damaged. Delete that folder to start the stage anew"):
        checkpoint.latest(tmp_path)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path):
    save(tmp_path, 1)
    flip_a_bit(save(tmp_path, 2) / "weights.safetensors")
    save(tmp_path, 2)
    assert checkpoint.latest(tmp_path).step == 2


def test_a_full_disk_is_a_sentence_and_leaves_the_checkpoint_before(tmp_path):
    limits = (0, 100, 1000, 4200)  # bytes a file may have; the weights take 4,072
    path = os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), *map(str, limits)],
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    sentences = done.stderr.splitlines()
    assert len(sentences) == 3
    for sentence in sentences:
        assert sentence.startswith("The checkpoint at step 2 could not be written (")
        assert sentence.endswith("it goes on from the checkpoint before.")
    assert [checkpoint.latest(tmp_path / str(limit)).step for limit in limits] == [1, 1, 1, 2]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_checkpoint_of_another_configuration_is_a_sentence(tmp_path):
    config = LoopConfig(steps=2, learning_rate=0.1)
    for width, refused in ((3, False), (4, True)):
        module = nn.Linear(width, 1)
        run = optimize("tiny", module, lambda s, m=module: (m.weight.sum(), {}), config, tmp_path)
        if refused:
            with pytest.raises(TrainingError, match=r"from another configuration. Delete that"):
                list(run)
        else:
            list(run)


@pytest.mark.parametrize("other", ["kind", "frozen"])
def test_a_checkpoint_of_the_same_shapes_but_another_kind_is_a_sentence(tmp_path, other):
    config = LoopConfig(steps=2, learning_rate=0.1)
    for refused in (False, True):
        module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        module[0].requires_grad_(not (refused and other == "frozen"))
        kind = "epsilon" if refused and other == "kind" else "v_prediction"
        run = optimize(
            "tiny", module, lambda s, m=module: (m(torch.ones(3)).sum(), {}), config, tmp_path,
            made_with=MadeWith(kind),
        )  # fmt: skip
        if refused:
            with pytest.raises(TrainingError, match=r"from another configuration. Delete that"):
                list(run)
        else:
            list(run)


def test_an_optimizer_goes_on_as_if_it_had_never_stopped(tmp_path):
    modules = [nn.Linear(3, 2), nn.Linear(3, 2)]
    modules[1].load_state_dict(modules[0].state_dict())
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1) for m in modules]

    def step(number: int) -> None:
        modules[number](torch.arange(3.0)).square().sum().backward()
        optimizers[number].step()
        optimizers[number].zero_grad()

    for _ in range(3):
        step(0)
    groups = {"optimizer": checkpoint.optimizer_tensors(optimizers[0])}
    checkpoint.save(tmp_path, 3, groups, {})
    modules[1].load_state_dict(modules[0].state_dict())
    checkpoint.restore_optimizer(optimizers[1], checkpoint.latest(tmp_path).tensors["optimizer"])
    for number in (0, 1):
        step(number)
    assert torch.equal(modules[0].weight, modules[1].weight)


def test_a_checkpoint_can_be_moved_with_its_stage(tmp_path):
    save(tmp_path / "here", 1)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert checkpoint.latest(tmp_path / "there").step == 1

"""Trains a tiny module through the recipe's loop in children that are killed, then resumed.

    python tests/training/loop_program.py FOLDER steps 7 19 30    SIGKILL at these steps in turn
    python tests/training/loop_program.py FOLDER files EVERY      SIGKILL at each EVERY-th file call

Prints a JSON object a run: {"killed": how often, "log": [[step, loss, norm], ...], "weights": sum}.
The first line is the run that nobody killed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch._dynamo  # or each child imports it at its optimizer's first step
from torch import nn

from studio.training.loop import LoopConfig, optimize, step_generator, torch_generator
from tests.training.children import die, in_child, killed_at_file_call

CONFIG = LoopConfig(
    steps=20, learning_rate=0.05, warmup=5, ema_decay=0.9, checkpoint_every=6, seed=3
)


def train(folder: Path, at_step: Callable[[int], None]) -> None:
    """Train to the end and write a digest of the weights beside the folder."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        at_step(step)
        x = torch.from_numpy(step_generator(CONFIG.seed, step).normal(size=(16, 4))).float()
        noise = torch.randn((16, 1), generator=torch_generator(CONFIG.seed, step))
        return (module(x) - x.sum(dim=1, keepdim=True) - 0.1 * noise).square().mean(), {}

    for _ in optimize("tiny", module, loss_at, CONFIG, folder):
        pass
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.numpy().tobytes())
    folder.with_suffix(".digest").write_text(digest.hexdigest())


def killed_at_step(folder: Path, last: int | None) -> bool:
    return in_child(lambda: train(folder, lambda step: die() if step == last else None))


def report(folder: Path, killed: int) -> None:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [[line["step"], line["loss"], line["gradient_norm"]] for line in lines]
    weights = folder.with_suffix(".digest").read_text()
    sys.stdout.write(json.dumps({"killed": killed, "log": log, "weights": weights}) + "\n")


def runs(folder: Path, mode: str, numbers: list[int]) -> Iterator[tuple[Path, int]]:
    killed_at_step(folder / "whole", None)
    yield folder / "whole", 0
    if mode == "steps":
        killed = sum(killed_at_step(folder / "killed", step) for step in numbers)
        killed_at_step(folder / "killed", None)
        yield folder / "killed", killed
        return
    for number in itertools.count(1, numbers[0]):
        target = folder / f"call-{number}"
        if not killed_at_file_call(target, number, partial(train, target, lambda step: None)):
            return
        killed_at_step(target, None)
        yield target, 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path, times in runs(Path(sys.argv[1]), sys.argv[2], [int(n) for n in sys.argv[3:]]):
        report(path, times)

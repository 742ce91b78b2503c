"""Fine-tunes a tiny model in children that are killed, then goes on; prints what came of it.

    python tests/training/finetune_program.py MODEL FOLDER calls 5 23 60    SIGKILL at these calls
    python tests/training/finetune_program.py MODEL FOLDER files EVERY      at each EVERY-th

Calls are the U-Net's, or those that touch a file of the run.

Prints a JSON object a run: {"killed": how often, "adapter": sha256, "metrics": [...]}. The first
line is the run that nobody killed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch._dynamo  # or each child imports it at its optimizer's first step

from studio.core.events import StageProgress
from studio.diffusion.model import load_model
from studio.training.finetune import finetune
from studio.training.guards import GuardConfig
from studio.training.ppo import PpoConfig
from studio.training.probes import ProbeTools
from studio.training.rewards import known_reward
from studio.training.rollout import PolicyConfig
from studio.training.run_folder import FineTuneConfig
from tests.training.children import die, in_child, killed_at_file_call

CONFIG = FineTuneConfig(
    prompts=("red apple", "castle", "cat"),
    held_out=("dog",),
    epochs=3,
    rank=2,
    prompts_per_epoch=2,
    images_per_prompt=2,
    batch=4,
    look_steps=2,
    policy=PolicyConfig(steps=3, guidance_scale=1.0),
    ppo=PpoConfig(batch=4, updates=2, learning_rate=0.01),
    guards=GuardConfig(kl_budget=1e9, diversity_drop=1.0, patience=99),
)
TOOLS = ProbeTools(lambda images: images[:, ::16, ::16].reshape(len(images), -1) / 255, None)


def train(model_folder: Path, folder: Path, at_call: Callable[[int], None]) -> None:
    model = load_model(model_folder, "tiny", "cpu", torch.float32, sha256="ab")
    calls = itertools.count(1)
    for event in finetune(model, known_reward("brightness"), CONFIG, TOOLS, folder):
        if isinstance(event, StageProgress):
            at_call(next(calls))


def killed_at_call(model: Path, folder: Path, last: int | None) -> bool:
    return in_child(lambda: train(model, folder, lambda call: die() if call == last else None))


def outcome(folder: Path, killed: int) -> str:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    digest = hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
    return json.dumps({"killed": killed, "adapter": digest, "metrics": metrics})


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(model: Path, folder: Path, kind: str, numbers: list[int]) -> None:
    in_child(lambda: train(model, folder / "whole", lambda _: None))
    say(outcome(folder / "whole", 0))
    if kind == "calls":
        killed = sum(killed_at_call(model, folder / "killed", number) for number in numbers)
        killed_at_call(model, folder / "killed", None)
        say(outcome(folder / "killed", killed))
        return
    for number in itertools.count(numbers[0], numbers[0]):
        target = folder / f"file-{number}"
        whole = partial(train, model, target, lambda _: None)
        if not killed_at_file_call(target, number, whole):
            return
        killed_at_call(model, target, None)
        say(outcome(target, 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], [int(n) for n in sys.argv[4:]])

"""The training loop that the stages share: steps, learning rate, moving average, checkpoints.

A stage gives the parameters and a function from step number to loss; `optimize` is a generator of
`StageProgress`. Everything random is drawn from generators seeded by (seed, step), so a run that is
killed and resumed sees the same batches and the same noise as one that is not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor, nn

from studio.core.errors import TrainingError
from studio.core.events import StageArtifact, StageProgress
from studio.training import checkpoint

LossFunction = Callable[[int], tuple[Tensor, dict[str, float]]]  # step -> (loss, metrics)


@dataclass(frozen=True)
class LoopConfig:
    """What every stage's optimisation has in common."""

    steps: int
    learning_rate: float
    warmup: int = 100  # steps of linear rise
    decay_share: float = 0.4  # of the steps, at the end: linear fall to zero
    weight_decay: float = 0.01
    gradient_clip: float = 1.0  # of the global norm
    ema_decay: float = 0.0  # 0: no moving average
    checkpoint_every: int = 250  # steps
    seed: int = 0


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Share of the peak learning rate at `step`: rises, stays, falls to zero at `steps`."""
    rise = min((step + 1) / max(config.warmup, 1), 1.0)
    fall_steps = config.decay_share * config.steps
    fall = min((config.steps - step) / fall_steps, 1.0) if fall_steps else 1.0
    return rise * fall


def step_generator(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """Numpy generator for one step; `stream` separates independent draws within it."""
    return np.random.default_rng((seed, step, stream))


def torch_generator(seed: int, step: int) -> torch.Generator:
    """CPU torch generator for one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def optimize(
    stage: str, module: nn.Module, loss_at: LossFunction, config: LoopConfig, folder: Path
) -> Iterator[StageProgress | StageArtifact]:
    """Train `module` for `config.steps` steps, resuming from `folder` if it holds a checkpoint.

    At the end the module carries the moving average if there is one. Raises `TrainingError` when
    the loss is not finite; the checkpoints on disk are then from before it happened.
    """
    optimizer = make_optimizer(module, config)
    ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
    first = _resume(folder, module, optimizer, ema)
    module.train()
    started = time.monotonic()
    with _open_log(folder, first) as log:
        for step in range(first, config.steps):
            loss, norm, metrics = take_step(optimizer, loss_at, step, config)
            update_ema(ema, module, min(config.ema_decay, (step + 1) / (step + 10)))
            done = step + 1
            if done % 10 == 0 or done == config.steps:
                left = (time.monotonic() - started) / (done - first) * (config.steps - done)
                metrics = {"loss": loss.item(), "gradient_norm": norm.item(), **metrics}
                log.write(json.dumps({"step": done, "time": time.time(), **metrics}) + "\n")
                log.flush()
                yield StageProgress(stage, done, config.steps, left, metrics)
            if done % config.checkpoint_every == 0 or done == config.steps:
                groups = {
                    "weights": dict(module.state_dict()),
                    "ema": ema,
                    "optimizer": checkpoint.optimizer_tensors(optimizer),
                }
                path = checkpoint.save(folder, done, groups, {"config": asdict(config)})
                yield StageArtifact(stage, str(path))
    if config.ema_decay:
        module.load_state_dict(ema)
    module.eval()


def make_optimizer(module: nn.Module, config: LoopConfig) -> torch.optim.AdamW:
    """Make the fused AdamW over everything of `module` that is trained."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def take_step(
    optimizer: torch.optim.Optimizer, loss_at: LossFunction, step: int, config: LoopConfig
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Take one optimisation step; return (loss (), gradient norm () before clipping, metrics).

    Raises `TrainingError`, and leaves the weights as they were, when the gradient is not finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * learning_rate_factor(step, config)
    optimizer.zero_grad(set_to_none=True)
    loss, metrics = loss_at(step)
    loss.backward()
    [group] = optimizer.param_groups
    norm = nn.utils.clip_grad_norm_(group["params"], config.gradient_clip)
    if not torch.isfinite(norm):
        raise TrainingError(
            f"The loss stopped being a number at step {step}. Run the command again with a "
            "smaller learning rate; it goes on from the last good checkpoint."
        )
    optimizer.step()
    return loss, norm, metrics


def _open_log(folder: Path, first: int) -> TextIO:
    """Open the log to append, without what a killed run logged beyond its last checkpoint."""
    path = folder / "log.jsonl"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line + "\n" for line in lines if _logged_step(line) <= first]
        if len(kept) < len(lines):
            partial = folder / "log.jsonl.tmp"
            partial.write_text("".join(kept), encoding="utf-8")
            partial.replace(path)
    return path.open("a", encoding="utf-8")


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # half a line
        return math.inf


def _resume(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor]
) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    found = checkpoint.latest(folder)
    if found is None:
        return 0
    try:
        module.load_state_dict(found.tensors["weights"])
    except RuntimeError as error:
        raise TrainingError(
            f"The checkpoint in {folder} is from another configuration. Delete that folder, or "
            "train with the configuration that it was made with."
        ) from error
    for name, value in found.tensors["ema"].items():
        ema[name].copy_(value)
    checkpoint.restore_optimizer(optimizer, found.tensors["optimizer"])
    return found.step


@torch.no_grad()
def update_ema(ema: Mapping[str, Tensor], module: nn.Module, decay: float) -> None:
    """Move every average `decay` of the way back from the weights; 0 copies the weights."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            ema[name].lerp_(value, 1 - decay)
        else:
            ema[name].copy_(value)

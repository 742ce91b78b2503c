"""What a step of the U-Net's training costs beside its forward pass; method B of the others.

    python tests/benchmarks/training.py

CPU time on one thread, sides in turn. Goals: a step at most 3.4 forward passes, the optimizer and
the batch's making at most 5 % of a step each. Nothing here passes or fails: that a step is one
forward pass and its gradient, and encodes nothing, is counted by tests/training/test_cost.py and
test_recipe.py. The network has the recipe's own size; latents and
text features are random, for their values cost nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from studio.diffusion.schedule import cosine_alphas_cumprod
from studio.training.loop import make_optimizer, take_step, update_ema
from studio.training.stages.pretrain import (
    FRAMES,
    TIMESTEPS,
    Cache,
    UnetConfig,
    build_unet,
    draw_batch,
    step_loss,
    stratified_timesteps,
)
from tests.benchmarks.measure import compare

STEP = 500  # past the warm-up; a batch of the square frame
ROWS, CAPTIONS = 200, 400


def main() -> list[dict]:
    """Return the step's figures: {metric, value, unit, ratio_to, ratio, ci, n} each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = UnetConfig()
    unet, cache = build_unet(config).train(), random_cache(config)
    alphas = cosine_alphas_cumprod(TIMESTEPS)
    optimizer = make_optimizer(unet, config.loop)
    ema = {k: v.detach().clone() for k, v in unet.state_dict().items()}
    latents, features = draw_batch(cache, config, STEP)
    timesteps = stratified_timesteps(len(latents), np.random.default_rng(0))

    def step() -> None:
        take_step(optimizer, lambda s: step_loss(unet, cache, config, alphas, s), STEP, config.loop)
        update_ema(ema, unet, config.loop.ema_decay)

    @torch.no_grad()
    def forward() -> None:
        unet(latents, timesteps, features)

    def batch() -> None:
        draw_batch(cache, config, STEP)
        torch.randn(latents.shape)

    def average() -> None:
        update_ema(ema, unet, config.loop.ema_decay)

    step()  # gives the gradients that the optimizer alone is measured on
    return [
        record("a training step of the U-Net", step, "its forward pass", forward),
        record("fused AdamW of the U-Net", optimizer.step, "a training step", step),
        record("making a batch of the U-Net", batch, "a training step", step),
        record("moving average of the U-Net", average, "a training step", step),
    ]


def record(
    metric: str, ours: Callable[[], object], against: str, theirs: Callable[[], object]
) -> dict:
    """Compare two actions as one record of the runner's."""
    found = compare(ours, theirs)
    return {"metric": f"CPU seconds of {metric}", "ratio_to": against, **found}


def random_cache(config: UnetConfig) -> Cache:
    """Latents, captions and text features as `build_cache` gives them, with random values."""
    chance = torch.Generator().manual_seed(0)
    latents = tuple(
        torch.randn(ROWS, 4, f.height // 8, f.width // 8, generator=chance) for f in FRAMES
    )
    captions = tuple(
        torch.randint(CAPTIONS, (len(values), config.captions_per_picture), generator=chance)
        for values in latents
    )
    features = torch.randn(CAPTIONS, 77, config.text_width, generator=chance).bfloat16()
    return Cache(latents, captions, (np.full(ROWS, 1 / ROWS),) * len(FRAMES), features)


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))

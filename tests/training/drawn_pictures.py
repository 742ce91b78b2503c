"""What the tests of both algorithms and of trajectories do with the tiny model."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import PNDMScheduler

from studio.diffusion.adapters import adapter_parameters
from studio.training.rollout import (
    PolicyConfig,
    RolloutPlan,
    TextFeatures,
    Trajectories,
    make_policy,
    picture_seed,
    sample_trajectories,
)

PROMPTS = ("red apple", "red apple", "castle", "castle")
CONFIG = PolicyConfig(steps=5, guidance_scale=2.0, skip_share=0.0)
ADVANTAGE = torch.tensor([1.0, -0.5, 0.3, -2.0])


def with_stable_diffusion_1_s_schedule(model: Path, folder: Path) -> Path:
    """Copy a model into a folder that says how Stable Diffusion 1.x adds noise; return it."""
    shutil.copytree(model, folder)
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
        skip_prk_steps=True, set_alpha_to_one=False, prediction_type="epsilon",
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    return folder


def nudge(unet, size=0.05, seed=0):
    """Move the adapter away from the base, as some updates would."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(unet):
            parameter.add_(size * torch.randn(parameter.shape, generator=chance))


def drawn_by(model, config, *, batch=4, prompts=PROMPTS, epoch=1, gradients=False) -> Trajectories:
    policy = make_policy(model, config)
    seeds = tuple(picture_seed(0, epoch, i) for i in range(len(prompts)))
    plan = RolloutPlan(prompts, seeds, (64, 64), config.actions(epoch - 1), batch, gradients)
    *_, drawn = sample_trajectories(policy, model, TextFeatures(model), plan)
    return drawn


def pictures_of(model) -> Trajectories:
    """Pictures that nothing was left to chance in, as the forward process learns from."""
    seeds = tuple(picture_seed(0, 1, i) for i in range(len(PROMPTS)))
    plan = RolloutPlan(PROMPTS, seeds, (64, 64), range(0), 4)
    *_, drawn = sample_trajectories(make_policy(model, CONFIG), model, TextFeatures(model), plan)
    return drawn

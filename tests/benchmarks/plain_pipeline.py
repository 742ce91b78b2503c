"""diffusers' own pipelines over the networks that our engine draws with, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffusers import DDIMScheduler

from studio.diffusion.model import LatentDiffusionModel


def plain_pipeline(folder: Path, model: LatentDiffusionModel, kind: type) -> Callable:
    """Return diffusers' pipeline of a `kind` with the networks of `model`, read from `folder`."""
    pipeline = kind.from_pretrained(
        folder,
        unet=model.unet,
        vae=model.vae,
        text_encoder=model.text_encoder,
        scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
        safety_checker=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

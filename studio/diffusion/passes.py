"""One pass of the denoising loop, described: from where, how far, what must stay.

A picture from text takes one pass. An edit takes one for each round, a picture with a second pass
takes another one at the larger size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.core.geometry import Size, is_masked
from studio.core.request import GenerationRequest
from studio.diffusion.denoise import GaussianTransition, SchedulerTransition, Transition
from studio.diffusion.inpaint import (
    ConditionedUnet,
    KnownRegion,
    Region,
    ResampledRegion,
    repetitions,
)
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.samplers import make_scheduler
from studio.diffusion.schedule import noise_schedule
from studio.diffusion.tiles import TiledUnet, tile_side


@dataclass(frozen=True)
class Pass:
    """What one run of the loop needs to know beside the prompt and the noise."""

    size: Size  # pixels, as the model takes them
    steps: int  # of the whole schedule
    run: int  # how many of them, the last ones, are run
    clean: Tensor | None = None  # (1 or B, C, h, w) what noise is added to; None: noise alone
    known: Tensor | None = None  # (1 or B, C, h, w) what is put back outside `change`
    change: Tensor | None = None  # (1, 1, h, w) in [0, 1]; None: all
    soft: bool = False
    times: tuple[int, ...] = ()  # how often each of those steps is drawn; empty: once
    masked_content: str = "original"  # of request.MASKED_CONTENTS
    conditioning: Tensor | None = None  # (1 or B, 1 + C, h, w) for inpainting checkpoints


def steps_to_run(steps: int, strength: float) -> int:
    """Return how many U-Net steps image to image takes: int(steps * strength), as diffusers."""
    return min(int(steps * strength), steps)


def times_to_run(
    model: LatentDiffusionModel, request: GenerationRequest, run: int
) -> tuple[int, ...]:
    """Return how often each of the last `run` steps is drawn; () where none is resampled.

    An inpainting checkpoint needs none of it, and the steps in between must be DDIM's.
    """
    wanted = request.resampling > 1 and is_masked(request) and request.sampler == "DDIM"
    if model.sees_mask or not wanted:
        return ()
    return tuple(repetitions(request.steps, run, request.resampling))


def make_transition(
    model: LatentDiffusionModel,
    request: GenerationRequest,
    wanted: Pass,
    noise: Tensor,
    generators: Sequence[torch.Generator],
) -> Transition:
    """Return the transition of a pass for a batch that begins with noise (B, C, h, w)."""
    scheduler = make_scheduler(request.sampler, model.scheduler_config, wanted.steps)
    clean = _starting_latents(wanted, noise)
    skip = wanted.steps - wanted.run
    inner = SchedulerTransition(scheduler, generators, request.eta, skip, clean)
    if wanted.times:
        schedule = noise_schedule(model.scheduler_config).to(noise.device)
        steps = GaussianTransition(schedule, inner.timesteps, generators, request.eta)
        region = Region(wanted.known, wanted.change, wanted.soft)
        return ResampledRegion(inner, steps, region, schedule, generators, wanted.times)
    # An inpainting checkpoint is told what to keep, and keeps it better when left alone.
    if wanted.known is None or wanted.change is None or wanted.conditioning is not None:
        return inner
    return KnownRegion(inner, Region(wanted.known, wanted.change, wanted.soft))


def make_unet(
    model: LatentDiffusionModel, wanted: Pass, tiled: bool
) -> Callable[..., tuple[Tensor]]:
    """Return the model's U-Net, in tiles if asked, its further channels filled in if it has any."""
    unet = TiledUnet(model.unet, tile_side(model)) if tiled else model.unet
    if wanted.conditioning is None:
        return unet
    return ConditionedUnet(unet, wanted.conditioning)


def _starting_latents(wanted: Pass, noise: Tensor) -> Tensor | None:
    """Return the clean latents to which noise is added; None where a pass begins in noise."""
    clean, change = wanted.clean, wanted.change
    if clean is None:
        return None
    clean = clean.expand(len(noise), -1, -1, -1)
    if change is None or wanted.masked_content not in ("latent noise", "latent nothing"):
        return clean
    under = noise if wanted.masked_content == "latent noise" else torch.zeros_like(noise)
    return (1 - change) * clean + change * under

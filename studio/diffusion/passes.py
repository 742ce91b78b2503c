"""One pass of the denoising loop, described: from where, how far, what must stay.

A picture from text takes one pass. An edit takes one for each round, a picture with a second pass
takes another one at the larger size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.core.geometry import Size
from studio.core.request import GenerationRequest
from studio.diffusion.denoise import SchedulerTransition, Transition
from studio.diffusion.inpaint import ConditionedUnet, KnownRegion
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.samplers import make_scheduler
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
    masked_content: str = "original"  # of request.MASKED_CONTENTS
    conditioning: Tensor | None = None  # (1 or B, 1 + C, h, w) for inpainting checkpoints


def steps_to_run(steps: int, strength: float) -> int:
    """Return how many U-Net steps image to image takes: int(steps * strength), as diffusers."""
    return min(int(steps * strength), steps)


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
    # An inpainting checkpoint is told what to keep, and keeps it better when left alone.
    if wanted.known is None or wanted.change is None or wanted.conditioning is not None:
        return inner
    return KnownRegion(inner, wanted.known, wanted.change, wanted.soft)


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

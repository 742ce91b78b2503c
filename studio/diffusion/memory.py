"""How much memory a picture takes, asked before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from studio.core.errors import NotEnoughMemoryError
from studio.core.geometry import drawn_size, padded_size
from studio.core.request import GenerationRequest
from studio.diffusion.device import free_bytes
from studio.diffusion.guidance import needs_null_pass
from studio.diffusion.model import LatentDiffusionModel

# Live activations at the peak, in units of the largest feature map; measured on the CPU with the
# shapes of the starter model and of Stable Diffusion 1.x, rounded up.
_UNET_MAPS = 48
_DECODER_MAPS = 6
_FIXED_BYTES = 128 * 2**20  # buffers that do not grow with the picture
_SMALLER = (0.75, 0.5, 0.375, 0.25, 0.125)  # sizes to propose, as share of the wanted side


@dataclass(frozen=True)
class MemoryPlan:
    """How a request is cut so that it fits."""

    batch_size: int  # pictures at once
    tiled: bool  # decode in tiles


def estimated_bytes(
    model: LatentDiffusionModel,
    request: GenerationRequest,
    batch_size: int = 1,
    tiled: bool = False,
) -> int:
    """Return roughly how many bytes drawing takes at its peak, the model's weights not counted."""
    rows = batch_size * (2 if needs_null_pass(request.guidance_scale) else 1)
    width, height = padded_size(drawn_size(request), model.vae_scale_factor)
    latent_pixels = width * height // model.vae_scale_factor**2
    itemsize = torch.empty((), dtype=model.dtype).element_size()
    widest = model.unet.config.block_out_channels[0]
    unet = rows * latent_pixels * widest * itemsize * _UNET_MAPS
    pixels = width * height
    channels = model.vae.config.block_out_channels
    if tiled:
        pixels = min(pixels, model.vae.tile_sample_min_size**2)
    finest = max(channels[: min(2, len(channels))])
    decoder = batch_size * pixels * finest * 4 * _DECODER_MAPS
    image = batch_size * width * height * 3 * 4 * 4
    return max(unet, decoder) + image + _FIXED_BYTES


def plan_memory(
    model: LatentDiffusionModel,
    request: GenerationRequest,
    batch_size: int,
    limit: int | None = None,
) -> MemoryPlan:
    """Return the largest batch that fits into `limit` bytes (None: what is free now).

    The picture's size is never changed. Raises NotEnoughMemoryError when one picture, decoded in
    tiles, still does not fit.
    """
    free = free_bytes(model.device) if limit is None else limit
    batch = min(batch_size, request.count)
    while batch > 1 and estimated_bytes(model, request, batch) > free:
        batch = (batch + 1) // 2
    if estimated_bytes(model, request, batch) <= free:
        return MemoryPlan(batch, tiled=False)
    if estimated_bytes(model, request, 1, tiled=True) <= free:
        return MemoryPlan(1, tiled=True)
    raise NotEnoughMemoryError(too_large_sentence(model, request, free))


def too_large_sentence(model: LatentDiffusionModel, request: GenerationRequest, free: int) -> str:
    """Say that a size does not fit, with numbers and a size that does."""
    needed = estimated_bytes(model, request, 1, tiled=True)
    return (
        f"A picture of {request.width} x {request.height} needs about {_gigabytes(needed)} of "
        f"memory and {_gigabytes(free)} are free. {_proposal(model, request, free)}"
    )


def _proposal(model: LatentDiffusionModel, request: GenerationRequest, free: int) -> str:
    for share in _SMALLER:
        width, height = (
            max(64, int(s * share) // 64 * 64) for s in (request.width, request.height)
        )
        smaller = request.with_changes(width=width, height=height, count=1)
        if estimated_bytes(model, smaller) <= free:
            return f"Try {width} x {height}, or close other programs."
    return "Close other programs, or choose a smaller model."


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"

"""How much memory a picture takes, asked before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from studio.core.errors import NotEnoughMemoryError
from studio.core.geometry import Size, drawn_size, padded_size, scaled_size
from studio.core.request import GenerationRequest
from studio.diffusion.device import free_bytes
from studio.diffusion.guidance import needs_null_pass
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.tiles import tile_side

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
    tiled: bool  # encode and decode in tiles
    unet_tiled: bool = False  # the second pass in tiles


def estimated_bytes(
    model: LatentDiffusionModel,
    request: GenerationRequest,
    batch_size: int = 1,
    tiled: bool = False,
    unet_tiled: bool = False,
) -> int:
    """Return roughly how many bytes drawing takes at its peak, the model's weights not counted.

    What counts for an edit is what is drawn, which may be a crop of its source.
    """
    factor = model.vae_scale_factor
    rows = batch_size * (2 if needs_null_pass(request.guidance_scale) else 1)
    first = padded_size(drawn_size(request), factor)
    last = padded_size(scaled_size(drawn_size(request), request.hires_scale), factor)
    seen = last
    if unet_tiled:
        side = tile_side(model) * factor
        seen = min(last[0], side), min(last[1], side)
    unet = rows * max(_area(first), _area(seen)) // factor**2 * _unet_bytes(model)
    pixels = min(_area(last), model.vae.tile_sample_min_size**2) if tiled else _area(last)
    channels = model.vae.config.block_out_channels
    finest = max(channels[: min(2, len(channels))])
    decoder = batch_size * pixels * finest * 4 * _DECODER_MAPS
    image = batch_size * _area(last) * 3 * 4 * 4
    return max(unet, decoder) + image + _FIXED_BYTES


def plan_memory(
    model: LatentDiffusionModel,
    request: GenerationRequest,
    batch_size: int,
    limit: int | None = None,
) -> MemoryPlan:
    """Return the largest batch that fits into `limit` bytes (None: what is free now).

    The picture's size is never changed. Raises NotEnoughMemoryError when one picture, decoded in
    tiles and its second pass in tiles too, still does not fit.
    """
    free = free_bytes(model.device) if limit is None else limit
    batch = min(batch_size, request.count)
    while batch > 1 and estimated_bytes(model, request, batch) > free:
        batch = (batch + 1) // 2
    for tiled, unet_tiled in ((False, False), (True, False), (True, True)):
        if unet_tiled and request.hires_scale == 1:
            break
        if estimated_bytes(model, request, batch, tiled, unet_tiled) <= free:
            return MemoryPlan(batch, tiled, unet_tiled)
    raise NotEnoughMemoryError(too_large_sentence(model, request, free))


def _area(size: Size) -> int:
    return size[0] * size[1]


def _unet_bytes(model: LatentDiffusionModel) -> int:
    """Return what one latent of one row takes inside the U-Net."""
    itemsize = torch.empty((), dtype=model.dtype).element_size()
    return model.unet.config.block_out_channels[0] * itemsize * _UNET_MAPS


def too_large_sentence(model: LatentDiffusionModel, request: GenerationRequest, free: int) -> str:
    """Say that a size does not fit, with numbers and a size that does."""
    needed = estimated_bytes(model, request, 1, tiled=True, unet_tiled=True)
    width, height = scaled_size(drawn_size(request), request.hires_scale)
    return (
        f"A picture of {width} x {height} needs about {_gigabytes(needed)} of "
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

"""The U-Net in overlapping tiles, for pictures larger than memory allows at once.

All tiles of a step are predicted from the same latents and blended before the step is made, so
that they stay one picture: MultiDiffusion (Bar-Tal et al. 2023). It serves a second pass, where
what is where is decided already; a picture from nothing would repeat itself in every tile.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from studio.diffusion.model import LatentDiffusionModel

_SMALLEST_TILE = 32  # latents a side
_OVERLAP = 0.25  # of a tile


def tile_side(model: LatentDiffusionModel) -> int:
    """Return how many latents a side a tile has: what the model was trained at, if not tiny."""
    return max(_SMALLEST_TILE, max(model.native_size) // model.vae_scale_factor)


class TiledUnet:
    """A U-Net that sees tiles of `side` latents, each overlapping its neighbours by a quarter."""

    def __init__(self, unet: Callable[..., tuple[Tensor]], side: int) -> None:
        self._unet = unet
        self._side = side

    def __call__(self, sample: Tensor, timestep: Tensor, **keywords: object) -> tuple[Tensor]:
        """Return the prediction for a sample (B, C, h, w), blended from its tiles."""
        height, width = sample.shape[-2:]
        total: Tensor | None = None
        weights = torch.zeros((1, 1, height, width), device=sample.device)
        for rows in tile_spans(height, self._side):
            for columns in tile_spans(width, self._side):
                part = self._unet(sample[..., rows, columns], timestep, **keywords)[0].float()
                if total is None:
                    total = part.new_zeros((*part.shape[:2], height, width))
                window = _window(part.shape[-2], part.shape[-1], part.device)
                total[..., rows, columns] += part * window
                weights[..., rows, columns] += window
        assert total is not None, "a sample has at least one tile"
        return ((total / weights).to(sample.dtype),)


def tile_spans(length: int, side: int) -> list[slice]:
    """Return the spans that cover a length, each of `side` or of the whole length."""
    if length <= side:
        return [slice(0, length)]
    count = -(-(length - side) // max(1, int(side * (1 - _OVERLAP)))) + 1
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
    return [slice(start, start + side) for start in starts]


def _window(height: int, width: int, device: torch.device) -> Tensor:
    """Return weights (h, w) that fall towards a tile's border and stay above 0."""
    rows, columns = (
        torch.minimum(torch.arange(1, n + 1), torch.arange(n, 0, -1)).float() / n
        for n in (height, width)
    )
    return (rows[:, None] * columns[None, :]).to(device)

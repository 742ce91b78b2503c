"""Bringing pictures to a size: stretched, covered, contained; padded; holes filled."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from studio.core.geometry import Size, contained_size, covering_box

_LANCZOS = Image.Resampling.LANCZOS
_GREY = 127.5  # what stands for nothing


def resized(picture: Image.Image, size: Size, mode: str, mask: bool = False) -> Image.Image:
    """Bring a picture to `size` by one of request.RESIZE_MODES; one of that size stays as it is.

    A mask goes the same way with a filter that does not overshoot.
    """
    if picture.size == size:
        return picture
    method = Image.Resampling.BILINEAR if mask else _LANCZOS
    if mode == "crop and resize":
        return picture.resize(size, method, box=covering_box(picture.size, size))
    if mode == "resize and fill":
        inner = picture.resize(contained_size(picture.size, size), method)
        left, top = ((a - b) // 2 for a, b in zip(size, inner.size, strict=True))
        right, bottom = size[0] - inner.width - left, size[1] - inner.height - top
        return Image.fromarray(extended(np.asarray(inner), (left, top, right, bottom)))
    return picture.resize(size, method)


def extended(pixels: np.ndarray, by: tuple[int, int, int, int]) -> np.ndarray:
    """Continue the edges of pixels (H, W, ...) by (left, top, right, bottom) pixels."""
    left, top, right, bottom = by
    around = ((top, bottom), (left, right)) + ((0, 0),) * (pixels.ndim - 2)
    return np.pad(pixels, around, mode="edge")


def padded(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Mirror pixels (H, W, ...) at their right and lower edges until they have `size`."""
    missing = size[1] - pixels.shape[0], size[0] - pixels.shape[1]
    if not any(missing):
        return pixels
    around = ((0, missing[0]), (0, missing[1])) + ((0, 0),) * (pixels.ndim - 2)
    return np.pad(pixels, around, mode="symmetric")


def filled(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, C) in fp32 with the hole (H, W) filled smoothly from around it.

    Push and pull: averages of what is known at ever coarser levels, then back, each level filling
    only what is unknown there.
    """
    known = torch.from_numpy(~hole)[None, None].float()
    values = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    if not bool(known.any()):
        return np.full(pixels.shape, _GREY, np.float32)
    return _pulled(values, known)[0].permute(1, 2, 0).numpy()


def _pulled(values: Tensor, known: Tensor) -> Tensor:
    """Fill values (1, C, H, W) where known (1, 1, H, W) is 0; recursion ends when all is known."""
    if bool((known > 0).all()):
        return values
    weight = _halved(known)
    coarse = _pulled(_halved(values * known) / weight.clamp(min=1e-12), (weight > 0).float())
    smooth = interpolate(coarse, values.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, values, smooth)


def _halved(values: Tensor) -> Tensor:
    return avg_pool2d(values, 2, ceil_mode=True, count_include_pad=False)

"""Masks: what is repainted, how strongly the repainted shows, and what lies where in latents.

A mask is white where the picture is repainted. Two arrays follow from it. `repaint` is what the
model changes. `opacity` is how much of the model's picture shows: the blurred mask, doubled, so
that all that was painted is fully replaced and the blur fades outwards only. Where `opacity` is 0
the result has the source's bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.core.geometry import Box, Size

_HALF = 128  # from here on a hard mask counts as painted
_SOFT_GAIN = 4  # a soft mask of a quarter shows all that the model made of it


def mask_from_picture(picture: Image.Image) -> Image.Image:
    """Return the mask (mode L) that an uploaded picture stands for.

    Where the picture has transparent parts its opacity is the mask, else its lightness.
    """
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            return alpha
    return picture.convert("L")


def painted_mask(mask: Image.Image, invert: bool, soft: bool) -> np.ndarray:
    """Return the mask (H, W) of bytes as it is meant: inverted if asked; hard unless soft."""
    painted = np.asarray(mask.convert("L"))
    if invert:
        painted = 255 - painted
    return painted if soft else np.where(painted >= _HALF, 255, 0).astype(np.uint8)


def painted_box(mask: np.ndarray) -> Box | None:
    """Return the box around what is not 0 in a mask (H, W); None when all is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def blur_radius(sigma: float) -> int:
    """Return how many pixels a blur of `sigma` reaches."""
    return int(2.5 * sigma + 0.5)


def blurred(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a mask (H, W) of bytes by a Gaussian of `sigma` pixels, edges continued."""
    radius, box = blur_radius(sigma), painted_box(mask)
    if radius == 0 or box is None:
        return mask
    height, width = mask.shape
    left, top = max(0, box[0] - radius), max(0, box[1] - radius)
    part = slice(top, min(height, box[3] + radius)), slice(left, min(width, box[2] + radius))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = (-(offsets**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
    values = torch.from_numpy(mask[part].astype(np.float32))[None, None]
    for _ in range(2):  # along the rows, then along the columns
        values = torch.nn.functional.pad(values, (radius, radius, 0, 0), mode="replicate")
        values = torch.nn.functional.conv2d(values, kernel).transpose(-1, -2)
    result = np.zeros_like(mask)
    result[part] = values[0, 0].round().clamp(0, 255).byte().numpy()
    return result


def opacity_of(softened: np.ndarray, soft: bool) -> np.ndarray:
    """Return how much of the model's picture shows, (H, W) of bytes, from the blurred mask."""
    gain = _SOFT_GAIN if soft else 2
    return np.minimum(softened.astype(np.uint16) * gain, 255).astype(np.uint8)


def latent_mask(repaint: np.ndarray, size: Size, soft: bool) -> Tensor:
    """Return the share of change (1, 1, h, w) in [0, 1] of each latent; size (w, h) of latents.

    A hard mask takes every latent that it touches, so that no thin stroke is lost; a soft one
    gives each latent its average.
    """
    values = torch.from_numpy(repaint.astype(np.float32) / 255)[None, None]
    shape = (size[1], size[0])
    if soft:
        return torch.nn.functional.adaptive_avg_pool2d(values, shape)
    return (torch.nn.functional.adaptive_max_pool2d(values, shape) > 0).float()


def blend(kept: np.ndarray, drawn: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Lay `drawn` over `kept`, both (H, W, 3) of bytes; where `opacity` (H, W) is 0: `kept`."""
    share = opacity[..., None].astype(np.float32) / 255
    mixed = kept * (1 - share) + drawn * share
    return np.where(opacity[..., None] > 0, np.rint(mixed).astype(np.uint8), kept)

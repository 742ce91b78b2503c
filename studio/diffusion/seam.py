"""The seam of an outpainted picture: the new is brought to meet the old, which stays untouched.

As in gradient-domain cloning (Perez, Gangnet & Blake 2003) the error along the seam is carried
into the new part and fades there; the source's own pixels are never changed. It is done twice: what
the model got wrong of the source, its colours mostly, fades slowly; the step that is left between
the source's edge and the first new pixels fades sooner, and is averaged along the seam, lest it
draws streaks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from studio.core.geometry import Box
from studio.diffusion.resize import filled

_BAND = 8  # pixels of the source, along the seam, that say how far off the drawn is
_FADE = 48.0  # pixels into the new part over which a correction fades by a factor of e
_STEP = 4  # pixels over which the decoder spreads a step between what it is given, half a latent
_STEP_FADE = 16.0  # the same for the step that is left at the seam itself
_GRAIN = 5  # pixels along the seam


def matched_at_seam(
    drawn: np.ndarray, canvas: np.ndarray, kept: Box, opacity: np.ndarray
) -> np.ndarray:
    """Return `drawn` (H, W, 3) of bytes, corrected outside `kept` so that it meets `canvas` there.

    kept: the source's rectangle; inside it nothing is changed here, outside it `canvas` continues
    the source's edges. Where `opacity` (H, W) is not 0 inside, the two differ on purpose, and
    nothing is learned.
    """
    left, top, right, bottom = kept
    height, width = drawn.shape[:2]
    rows, columns = np.arange(height), np.arange(width)
    down = np.maximum(np.maximum(top - rows, rows - (bottom - 1)), 0)[:, None]
    across = np.maximum(np.maximum(left - columns, columns - (right - 1)), 0)[None, :]
    distance = np.hypot(down, across).astype(np.float32)
    known = distance == 0
    inner = (
        slice(top + _BAND * (top > 0), bottom - _BAND * (bottom < height)),
        slice(left + _BAND * (left > 0), right - _BAND * (right < width)),
    )
    known[inner] = False
    known &= opacity == 0
    first = (distance > 0) & (distance <= _STEP) & ~_touched((opacity > 0) & (distance == 0))
    matched = drawn + _carried(canvas - drawn.astype(np.float32), known, distance / _FADE)
    left_over = _along_seam(canvas - matched, first, down, across)
    last = first & (distance > _STEP - 1)
    carried = _carried(left_over, last, (distance - _STEP) / _STEP_FADE)
    matched += np.where(first[..., None], left_over, carried)
    return np.rint(matched).clip(0, 255).astype(np.uint8)


def _carried(error: np.ndarray, known: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Carry an error (H, W, 3), known at some pixels, as far as it fades; 0 at no distance."""
    if not known.any():
        return np.zeros_like(error)
    return filled(error, ~known) * np.where(distance > 0, np.exp(-distance), 0)[..., None]


def _along_seam(
    error: np.ndarray, known: np.ndarray, down: np.ndarray, across: np.ndarray
) -> np.ndarray:
    """Average an error (H, W, 3) along the seam, so that the grain of the drawn is kept."""
    values = torch.from_numpy(np.where(known[..., None], error, 0)).permute(2, 0, 1)[None]
    weight = torch.from_numpy(known)[None, None].float()
    averaged = []
    for kernel in ((_GRAIN, 1), (1, _GRAIN)):  # beside the source, and above or below it
        pad = kernel[0] // 2, kernel[1] // 2
        sums, counts = (avg_pool2d(each, kernel, 1, pad) for each in (values, weight))
        averaged.append((sums / counts.clamp(min=1e-6))[0].permute(1, 2, 0).numpy())
    return np.where((across > down)[..., None], *averaged)


def _touched(pixels: np.ndarray) -> np.ndarray:
    """Return those pixels (H, W) of bool and their direct neighbours."""
    around = np.pad(pixels, 1)
    beside = around[1:-1, :-2] | around[1:-1, 2:] | around[:-2, 1:-1] | around[2:, 1:-1]
    return pixels | beside

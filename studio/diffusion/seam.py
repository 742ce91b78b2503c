"""The seam of an outpainted picture: the new is brought to meet the old, which stays untouched.

As in gradient-domain cloning (Perez, Gangnet & Blake 2003) the error along the seam is carried
into the new part and fades there; the source's own pixels are never changed.
"""

from __future__ import annotations

import numpy as np

from studio.core.geometry import Box
from studio.diffusion.resize import filled

_BAND = 8  # pixels of the source, along the seam, that say how far off the drawn is
_FADE = 48.0  # pixels into the new part over which a correction fades by a factor of e


def matched_at_seam(
    drawn: np.ndarray, canvas: np.ndarray, kept: Box, opacity: np.ndarray
) -> np.ndarray:
    """Return `drawn` (H, W, 3) of bytes, corrected outside `kept` so that it meets `canvas` there.

    kept: the source's rectangle; inside it nothing is changed here. Where `opacity` (H, W) is not
    0 the two differ on purpose, and nothing is learned.
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
    if not known.any():
        return drawn
    error = filled(canvas.astype(np.float32) - drawn, ~known)
    fade = np.where(distance > 0, np.exp(-distance / _FADE), 0)[..., None]
    return np.rint(drawn + error * fade).clip(0, 255).astype(np.uint8)

"""Pictures that are there already, by their bytes or to the eye.

A picture's fingerprint is a difference hash: 256 bits that say where its grey rises from left to
right in 16 x 16 cells, and its mean colour. Two pictures of one style are alike when at most four
bits and hardly any colour differ: a red and a green book stay two, an icon under two names is one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

BITS = 4  # of 256 that may differ
LEVELS = 6.0  # of 255 by which each colour's mean may differ
_ONES = np.array([n.bit_count() for n in range(256)], dtype=np.uint8)  # ones in a byte


@dataclass
class Seen:
    """The pictures so far, by style."""

    digests: dict[bytes, int] = field(default_factory=dict)
    marks: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)

    def find_or_add(self, style: str, picture: np.ndarray, number: int) -> int:
        """Return the number of a picture like `picture` (S, S, 3); `number` when it is new."""
        digest = hashlib.sha256(style.encode() + picture.tobytes()).digest()
        if digest in self.digests:
            return self.digests[digest]
        bits, colour = fingerprint(picture)
        known = self.marks.get(style, (np.empty((0, 32), np.uint8), np.empty((0, 3)), np.empty(0)))
        apart = _ONES[known[0] ^ bits].sum(axis=1, dtype=np.int64)
        shifts = np.abs(known[1] - colour).max(axis=1, initial=0)
        alike = np.flatnonzero((apart <= BITS) & (shifts <= LEVELS))
        if len(alike):
            return int(known[2][alike[0]])
        self.digests[digest] = number
        new = (bits[None], colour[None], np.array([number]))
        self.marks[style] = tuple(map(np.concatenate, zip(known, new, strict=True)))
        return number


def fingerprint(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture (S, S, 3) uint8 -> 256 bits as (32,) uint8, and its mean colour (3,)."""
    grey = Image.fromarray(picture).convert("L").resize((17, 16), Image.Resampling.BOX)
    levels = np.asarray(grey, dtype=np.int16)
    bits = np.packbits(levels[:, 1:] > levels[:, :-1] + 1)
    return bits, picture.reshape(-1, 3).mean(axis=0)

"""From an encoder's features to the few numbers that a reward weighs; fitted without votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MAX_ROWS = 4096  # pictures that decide the components; more change nothing that votes could tell
_LEAST_VARIANCE = 1e-6  # of the first component's; what is below is rounding


@dataclass(frozen=True)
class Projection:
    """z = (phi - centre) @ axes: principal components, partly whitened."""

    centre: Floats  # (D,) mean of the pictures' features
    axes: Floats  # (D, d)

    @property
    def width(self) -> int:
        """How many numbers of a picture are kept."""
        return self.axes.shape[1]

    def __call__(self, phi: NDArray[np.floating]) -> Floats:
        """Features (N, D) -> (N, d)."""
        return (np.asarray(phi, dtype=np.float64) - self.centre) @ self.axes


def fit_projection(phi: NDArray[np.floating], components: int, whitening: float) -> Projection:
    """Find the principal components of pictures' features (N, D).

    Component i of variance v_i is divided by v_i^(whitening / 2), and all by one number, so that
    the squared length of a picture's z is 1 on average: 0 leaves the components' spread, as ridge
    on the features themselves would; 1 lets rare differences count as much as common ones.
    """
    rows = np.asarray(phi[:: -(-len(phi) // _MAX_ROWS)], dtype=np.float32)
    centre = rows.mean(axis=0)
    centred = rows - centre
    variance, vectors = np.linalg.eigh(centred.T @ centred / max(len(rows) - 1, 1))
    kept = variance > _LEAST_VARIANCE * max(variance[-1], 1e-12)
    kept[: -min(components, len(rows) - 1)] = False
    variance, vectors = variance[kept][::-1], vectors[:, kept][:, ::-1]
    axes = vectors * variance ** (-whitening / 2)
    length = np.sqrt((variance ** (1 - whitening)).sum())
    return Projection(centre.astype(np.float64), (axes / max(length, 1e-12)).astype(np.float64))

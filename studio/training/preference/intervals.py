"""Intervals of shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # two-sided 95 % of a standard normal


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share seen in `n` independent trials (Wilson 1927); (0, 1) for none."""
    if n <= 0:
        return 0.0, 1.0
    centre = share + Z95**2 / (2 * n)
    half = Z95 * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(float((centre - half) / scale), 0.0), min(float((centre + half) / scale), 1.0)


def clustered_interval(
    values: NDArray[np.float64], cluster: NDArray[np.int64]
) -> tuple[float, float]:
    """95 % interval of a mean of values in [0, 1] that come in clusters (N,), (N,).

    Wilson's interval at the effective number of trials: n over the design effect (Rao & Scott
    1992), which is the variance of the mean between clusters over that of independent trials. It is
    never taken below 1, so few clusters cannot feign certainty. At least two clusters are needed.
    """
    n, share = len(values), float(values.mean()) if len(values) else 0.5
    _, member = np.unique(cluster, return_inverse=True)
    clusters = int(member.max()) + 1 if n else 0
    independent = share * (1 - share) / n if n else 0.0
    if clusters < 2 or independent == 0:
        return wilson_interval(share, n)
    residuals = np.bincount(member, weights=values - share)
    variance = clusters / (clusters - 1) * (residuals @ residuals) / n**2
    return wilson_interval(share, n / max(variance / independent, 1.0))

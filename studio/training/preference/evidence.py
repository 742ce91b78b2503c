"""How wide the prior is, and how much of a taste lies in products: what the votes make likely.

The evidence, or marginal likelihood, is the probability of all answers when the weights are drawn
from the prior. A prior that is too narrow cannot give the answers, one that is too wide could give
any others as well, so the evidence has a top between (MacKay 1992, "Bayesian interpolation";
"empirical Bayes"). No vote has to be held out for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from studio.training.preference.davidson import fit_posterior, log_evidence
from studio.training.preference.projection import mixed

Floats = NDArray[np.float64]

_SETTLED = 1e-3  # nats; differences of evidence that mean anything are a thousand times larger
_MAX_VOTES = 5000  # more change nothing about which prior is best


def most_likely_prior(
    differences: tuple[Floats, Floats | None],
    choice: Floats,
    weight: Floats,
    shares: Sequence[float],
    prior_stds: Sequence[float],
) -> tuple[float, float]:
    """Return the products' share and the prior's width (logits) under which votes are likeliest.

    `differences` are those of components (N, d) and of products (N, p), None for a linear taste;
    answers and weights (N,). For each share the width is sought uphill from the best of the share
    before, at first from the middle one.
    """
    step = -(-len(choice) // _MAX_VOTES)
    z, products = (None if part is None else part[::step] for part in differences)
    votes = choice[::step], weight[::step]
    widths = sorted(prior_stds)
    place = len(widths) // 2
    tried = []
    for share in sorted(shares) if products is not None else (0.0,):
        value, place = _best_width(mixed(z, products, share), votes, widths, place)
        tried.append((value, share, widths[place]))
    _, share, width = max(tried, key=lambda found: found[0])
    return share, width


def _best_width(
    z: Floats, votes: tuple[Floats, Floats], widths: Sequence[float], place: int
) -> tuple[float, int]:
    """Largest evidence over the widths, and its place, by steps uphill from `place`."""
    found = fit_posterior(z, *votes, widths[place], tolerance=_SETTLED)
    best = log_evidence(found, z, *votes, widths[place])
    for step in (-1, 1):
        begun = place
        while 0 <= place + step < len(widths):
            width = widths[place + step]
            near = fit_posterior(z, *votes, width, found.theta, _SETTLED)
            value = log_evidence(near, z, *votes, width)
            if value <= best:
                break
            found, best, place = near, value, place + step
        if place != begun:
            break  # it falls on the other side
    return best, place

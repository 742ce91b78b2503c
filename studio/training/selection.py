"""Which pair to ask next: what would the answer teach?

* `random`: any pair alike; unbiased, so agreement is measured on such pairs.
* `eig`: the pair whose answer tells most about the taste. Expected information gain (Lindley 1956;
  "BALD", Houlsby et al. 2011): the entropy of the answer less its entropy if the taste were known,
  H(E p) - E H(p). It prefers pairs on which the *reward* is unsure and the *rater* would not be.
* `tournament`: good pictures meet good ones, for whoever wants the best picture soon. A taste is
  drawn from the posterior (Thompson 1933), and the pair of the best two pictures under it shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from studio.training.davidson import davidson_log_probabilities
from studio.training.reward import Reward

Floats = NDArray[np.float64]
Strategy = Literal["random", "eig", "tournament"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(16)  # for means over a standard normal


def expected_information_gain(mean: Floats, std: Floats, nu: float) -> Floats:
    """Nats (M,) that the answers to M pairs would tell about the taste.

    The score differences are N(mean, std^2); answers are left, tie or right by Davidson's model.
    The mean over the normal is Gauss-Hermite quadrature with 16 nodes.
    """
    deltas = mean[:, None] + std[:, None] * _NODES
    log_p = davidson_log_probabilities(deltas.ravel(), nu).reshape(*deltas.shape, 3)
    shares = _SHARES / _SHARES.sum()
    known = _entropy(log_p) @ shares
    mixed = np.einsum("k,mkc->mc", shares, np.exp(log_p))
    return np.maximum(_entropy(np.log(np.maximum(mixed, 1e-300))) - known, 0)


def next_pair(
    strategy: Strategy,
    reward: Reward,
    phi_one: NDArray[np.floating],
    phi_other: NDArray[np.floating],
    draw: np.random.Generator,
) -> int:
    """Place of the candidate to show, out of M pairs of pictures with features (M, D), (M, D)."""
    return next_pairs(strategy, reward, (phi_one, phi_other), 1, draw)[0]


def next_pairs(
    strategy: Strategy,
    reward: Reward,
    candidates: tuple[NDArray[np.floating], NDArray[np.floating]],
    count: int,
    draw: np.random.Generator,
) -> list[int]:
    """Places of up to `count` candidates, to be drawn ahead; features (M, D), (M, D).

    With `eig` each pair is chosen as if those before it had been answered: otherwise all would ask
    the same thing.
    """
    total = len(candidates[0])
    if strategy == "random":
        return draw.permutation(total)[:count].tolist()
    one, other = (reward.projection(phi) for phi in candidates)
    if strategy == "tournament":
        return _tournament(reward, one + other, count, draw)
    chosen: list[int] = []
    free = np.ones(total, dtype=bool)
    for _ in range(min(count, total)):
        mean, std = reward.moments(one - other)
        gain = np.where(free, expected_information_gain(mean, std, reward.nu), -np.inf)
        best = int(gain.argmax())
        free[best] = False
        chosen.append(best)
        reward = _as_if_answered(reward, (one - other)[best : best + 1])
    return chosen


def as_if_answered(
    reward: Reward, phi_one: NDArray[np.floating], phi_other: NDArray[np.floating]
) -> Reward:
    """The reward as sure as it will be once these pairs (N, D), (N, D) are answered.

    For pairs that wait in a rater's queue. Which answer is not known, so the scores stay.
    """
    return _as_if_answered(reward, reward.projection(phi_one) - reward.projection(phi_other))


def _as_if_answered(reward: Reward, differences: Floats) -> Reward:
    """Add each pair's Fisher information to the posterior: Sherman & Morrison's update."""
    covariance = reward.covariance
    for z in differences:
        log_p = davidson_log_probabilities(np.array([z @ reward.weights]), reward.nu)
        left, _, right = np.exp(log_p[0])
        information = (left + right) / 4 - ((left - right) / 2) ** 2
        spread = covariance @ z
        covariance = covariance - np.outer(spread, spread) * (
            information / (1 + information * (z @ spread))
        )
    return replace(reward, covariance=covariance)


def _tournament(
    reward: Reward, sums: Floats, count: int, draw: np.random.Generator
) -> Sequence[int]:
    """One taste from the posterior for each pair; the best pair under it that is still free."""
    width = reward.projection.width
    tastes = draw.multivariate_normal(reward.weights, reward.covariance, size=count, method="eigh")
    assert tastes.shape == (count, width)
    chosen: list[int] = []
    for taste in tastes[: len(sums)]:
        order = np.argsort(-(sums @ taste))
        chosen.append(next(int(place) for place in order if int(place) not in chosen))
    return chosen


def _entropy(log_p: Floats) -> Floats:
    """Entropy in nats over the last axis."""
    return -(np.exp(log_p) * log_p).sum(axis=-1)

"""Which pair to ask next: what would the answer teach?

* `random`: any pair alike; unbiased, so agreement is measured on such pairs.
* `eig`: the pair whose answer tells most about how *other* pairs would be answered: the expected
  predictive information gain, to first order (Bickford Smith et al. 2023, "Prediction-oriented
  Bayesian active learning"). The gain about the weights themselves (Lindley 1956; "BALD", Houlsby
  et al. 2011) prefers odd pictures, because they move the weights most, and learned no faster than
  random pairs; the training log has the figures.
* `tournament`: good pictures meet good ones, for whoever wants the best picture soon. A taste is
  drawn from the posterior (Thompson 1933), and the pair of the best two pictures under it shown.

All functions take projected features, z = reward.projection(phi).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from studio.training.preference.davidson import davidson_log_probabilities
from studio.training.preference.reward import Reward

Floats = NDArray[np.float64]
Strategy = Literal["random", "eig", "tournament"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(16)  # for means over a standard normal
_SURE = 350.0  # half a difference of scores, logits, whose exponential is still a number
_NEVER = 1e-300  # a probability whose logarithm is still a number
_NOTHING = 1e-12  # variance of a score difference below which it is certain


def expected_information_gain(mean: Floats, std: Floats, nu: float) -> Floats:
    """Nats (M,) that the answers to M pairs would tell about their own score differences.

    The score differences are N(mean, std^2); answers are left, tie or right by Davidson's model.
    H(E p) - E H(p); the mean over the normal is Gauss-Hermite quadrature with 16 nodes.
    """
    half = np.clip((mean[:, None] + std[:, None] * _NODES) / 2, -_SURE, _SURE)
    shares = _SHARES / _SHARES.sum()
    up, down = np.exp(half), np.exp(-half)
    total = up + down + nu
    left, tie, right = up / total, nu / total, down / total
    # -sum p log p with log p written out: the exponents less log total
    known = np.log(total) - (left - right) * half - tie * np.log(max(nu, _NEVER))
    mixed = np.stack([p @ shares for p in (left, tie, right)], axis=1)
    return np.maximum(_entropy(np.log(np.maximum(mixed, _NEVER))) - known @ shares, 0)


def share_explained(reward: Reward, z: Floats, targets: Floats) -> Floats:
    """Share (M,) of the variance of target pairs (K, d) that answers to pairs z (M, d) explain.

    The mean over the targets. An answer tells about another pair's score difference only through
    its own pair's: with its nats I about that one, as a Gaussian channel of that capacity, and the
    posterior's correlation rho of both differences, it explains rho^2 (1 - exp(-2 I)). To first
    order that is twice the information in nats, -1/2 log(1 - ...), and all targets are one matrix
    (d, d), so that thousands of candidates take a millisecond.
    """
    spread = z @ reward.covariance
    variance = np.maximum(np.einsum("md,md->m", spread, z), _NOTHING)
    nats = expected_information_gain(z @ reward.weights, np.sqrt(variance), reward.nu)
    unsure = variance
    if targets is not z:
        unsure = np.einsum("kd,kd->k", targets @ reward.covariance, targets)
    alike = targets / np.sqrt(len(targets) * np.maximum(unsure, _NOTHING))[:, None]
    every = alike.T @ alike
    return -np.expm1(-2 * nats) * np.einsum("md,md->m", spread @ every, spread) / variance


def next_pair(
    strategy: Strategy, reward: Reward, z_one: Floats, z_other: Floats, draw: np.random.Generator
) -> int:
    """Place of the candidate to show, out of M pairs of pictures (M, d), (M, d).

    Candidates are random pairs of a campaign: with `eig` they also stand for all those that the
    answer should tell about.
    """
    if strategy == "random":
        return int(draw.integers(len(z_one)))
    if strategy == "tournament":
        taste = draw.multivariate_normal(reward.weights, reward.covariance, method="eigh")
        return int(((z_one + z_other) @ taste).argmax())
    differences = z_one - z_other
    return int(share_explained(reward, differences, differences).argmax())


def next_pairs(
    strategy: Strategy,
    reward: Reward,
    candidates: tuple[Floats, Floats],
    count: int,
    draw: np.random.Generator,
) -> list[int]:
    """Places of up to `count` candidates (M, d), (M, d), to be drawn ahead; none twice.

    Each pair is chosen as if those before it had been answered: otherwise all would ask the same.
    """
    one, other = candidates
    free = list(range(len(one)))
    chosen: list[int] = []
    for _ in range(min(count, len(one))):
        place = free.pop(next_pair(strategy, reward, one[free], other[free], draw))
        chosen.append(place)
        reward = as_if_answered(reward, one[place] - other[place])
    return chosen


def as_if_answered(reward: Reward, difference: Floats) -> Reward:
    """The reward as sure as it will be once a pair with this difference (d,) is answered.

    For pairs that wait in a rater's queue. Which answer is not known, so the scores stay; the
    pair's Fisher information is added to the posterior by Sherman & Morrison's update.
    """
    log_p = davidson_log_probabilities(np.array([difference @ reward.weights]), reward.nu)
    left, _, right = np.exp(log_p[0])
    information = (left + right) / 4 - ((left - right) / 2) ** 2
    spread = reward.covariance @ difference
    covariance = reward.covariance - np.outer(spread, spread) * (
        information / (1 + information * (difference @ spread))
    )
    return replace(reward, covariance=covariance)


def _entropy(log_p: Floats) -> Floats:
    """Entropy in nats over the last axis."""
    return -(np.exp(log_p) * log_p).sum(axis=-1)

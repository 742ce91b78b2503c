"""Ranking of contestants from votes: Bradley-Terry with ties, and raw win rates, with intervals.

    P(i beats j) = pi_i / (pi_i + pi_j + nu sqrt(pi_i pi_j)),  P(tie) = nu sqrt(pi_i pi_j) / (same)

with pi = exp(theta) (Bradley and Terry 1952; ties after Davidson 1970, equation 2.4). Without ties
nu goes to 0 and this is Bradley-Terry alone. The reward model ranks pictures by their features;
this ranks a handful of models by nothing but who won.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Comparison = tuple[int, int, float]  # i, j, score of i: 1 won, 0.5 tie, 0 lost
PENALTY = 0.125  # times the sum of theta^2: a prior of 2 logits; who never lost stays finite
Z = 1.959964  # of a 95 % interval
STEPS = 100
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Ranking:
    """Strengths of n contestants; their mean is 0."""

    strength: Floats  # (n,) theta, logits
    covariance: Floats  # (n, n) Laplace approximation
    nu: float  # how readily raters call a tie; 0 without ties

    def interval(self, contestant: int) -> tuple[float, float]:
        """Return the 95 % interval of a strength."""
        half = Z * math.sqrt(max(self.covariance[contestant, contestant], 0.0))
        return float(self.strength[contestant]) - half, float(self.strength[contestant]) + half

    def win_rate(self, contestant: int) -> tuple[float, float, float]:
        """Return how often it is preferred to the others, each as often, with its 95 % interval.

        Ties count half for either, so it is the mean of sigma(theta_i - theta_j) when ties are
        rare. The interval is the delta method's, taken on the logit so that it stays in (0, 1).
        """
        others = [j for j in range(len(self.strength)) if j != contestant]
        if not others:
            return 0.5, 0.0, 1.0
        rates, slopes = [], np.zeros(len(self.strength))
        for other in others:
            rate, slope = _expected_score(self.strength[contestant] - self.strength[other], self.nu)
            rates.append(rate)
            slopes[contestant] += slope / len(others)
            slopes[other] -= slope / len(others)
        mean = float(np.mean(rates))
        spread = math.sqrt(max(float(slopes @ self.covariance @ slopes), 0.0))
        half = Z * spread / max(mean * (1 - mean), 1e-9)
        logit = math.log(mean / (1 - mean))
        return mean, _sigmoid(logit - half), _sigmoid(logit + half)


def rank(
    comparisons: Sequence[Comparison],
    count: int,
    *,
    times: Sequence[float] | None = None,
    penalty: float = PENALTY,
) -> Ranking:
    """Fit strengths of `count` contestants by Newton's method on the penalised likelihood.

    `times` says how often each comparison was seen, once each unless given.
    """
    i, j, score = (np.array([c[k] for c in comparisons]) for k in range(3))
    seen = np.ones(len(comparisons)) if times is None else np.asarray(times, dtype=float)
    ties = int((score == 0.5).sum()) if len(comparisons) else 0
    free = count + (1 if ties else 0)
    values = np.zeros(free)
    hessian = np.eye(free) * 2 * penalty
    for _ in range(STEPS if len(comparisons) else 0):
        gradient, hessian = _derivatives(values, (i, j, score, seen), count, penalty)
        step = np.linalg.solve(hessian, gradient)
        values -= step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < TOLERANCE:
            break
    centre = np.eye(count) - 1 / count
    covariance = centre @ np.linalg.inv(hessian)[:count, :count] @ centre
    nu = float(np.exp(values[count])) if ties else 0.0
    return Ranking(values[:count] - values[:count].mean(), covariance, nu)


def _derivatives(
    values: Floats, votes: tuple[NDArray, NDArray, Floats, Floats], count: int, penalty: float
) -> tuple[Floats, Floats]:
    """Gradient (free,) and Hessian (free, free) of the negative penalised log-likelihood."""
    i, j, score, times = votes
    free = len(values)
    rows = np.arange(len(i))
    # Each outcome's logit is linear in the values: theta_i, theta_j, (theta_i + theta_j)/2 + ln nu.
    design = np.zeros((len(i), 3 if free > count else 2, free))
    design[rows, 0, i] = 1.0
    design[rows, 1, j] = 1.0
    if free > count:
        design[rows, 2, i] = 0.5
        design[rows, 2, j] = 0.5
        design[rows, 2, count] = 1.0
    logits = design @ values
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    seen = np.where(score == 1, 0, np.where(score == 0, 1, 2))
    expected = np.einsum("mk,mkf->mf", shares, design)
    gradient = times @ (expected - design[rows, seen])
    spread = design - expected[:, None, :]
    hessian = np.einsum("m,mk,mkf,mkg->fg", times, shares, spread, spread)
    gradient[:count] += 2 * penalty * values[:count]
    hessian[:count, :count] += 2 * penalty * np.eye(count)
    if free > count:  # the same weak prior on ln nu
        gradient[count] += 2 * penalty * values[count]
        hessian[count, count] += 2 * penalty
    return gradient, hessian


def _expected_score(delta: float, nu: float) -> tuple[float, float]:
    """Return P(win) + P(tie)/2 at theta_i - theta_j = delta, and its derivative."""
    up, down = math.exp(min(delta / 2, 300)), math.exp(min(-delta / 2, 300))
    total = up + down + nu
    score = (up + nu / 2) / total
    slope = (up / 2) / total - score * (up - down) / 2 / total
    return score, slope


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

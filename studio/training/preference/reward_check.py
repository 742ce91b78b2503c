"""What the votes say about the reward: does it predict pairs that it never saw, and how surely?

Everything here is measured by cross-validation over whole prompts: a fold's prior and its share of
products are chosen, and its reward fitted, on the other folds' votes alone. The projection is
fitted on all pictures; it sees no vote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studio.training.preference.comparisons import Comparisons
from studio.training.preference.cross_validation import prompt_folds, splits
from studio.training.preference.davidson import fit_posterior, sigmoid
from studio.training.preference.evidence import most_likely_prior
from studio.training.preference.intervals import clustered_interval
from studio.training.preference.projection import mixed
from studio.training.preference.reward import (
    LEAST_VOTES,
    Reward,
    RewardConfig,
    moderated,
    voted_projection,
)
from studio.training.preference.taste_words import Agreement

Floats = NDArray[np.float64]

BINS = 10  # of the reliability diagram
_STEPS = (0.25, 0.5, 1.0)  # shares of the prompts that the learning curve is measured at
_WORTHWHILE = 0.01  # agreement per hundred votes below which more are not worth it
_MOST_VOTES = 20_000  # no advice goes further


@dataclass(frozen=True)
class HeldOut:
    """Predictions of votes by rewards that did not see their prompts; decisive votes only."""

    mean: Floats  # (M,) predicted score of left minus right
    std: Floats  # (M,) its posterior standard deviation
    left_won: NDArray[np.bool_]  # (M,)
    prompt_group: NDArray[np.int64]  # (M,)

    @property
    def right(self) -> Floats:
        """1 where the prediction names the winner, 0 where not, 0.5 where it has no opinion."""
        return np.where(self.mean == 0, 0.5, (self.mean > 0) == self.left_won)

    @property
    def probability(self) -> Floats:
        """Predicted probability (M,) that left wins, uncertainty included."""
        return moderated(self.mean, self.std)


@dataclass(frozen=True)
class ReliabilityBin:
    """Votes predicted with about the same confidence, and how many went that way."""

    predicted: float  # mean predicted probability of the favourite
    observed: float  # share of votes that the favourite won
    n: int


@dataclass(frozen=True)
class Calibration:
    """Whether 70 % means 70 %: all on held-out decisive votes.

    Log-loss is to be seen beside ln 2 = 0.693 and the Brier score beside 0.25, what a coin gets.
    A temperature above 1 means that the reward is too sure of itself.
    """

    ece: float  # expected calibration error over ten bins of the favourite's probability
    brier: float
    log_loss: float  # nats
    temperature: float  # by which the logits would have to be divided to fit best
    bins: tuple[ReliabilityBin, ...]
    n: int


@dataclass(frozen=True)
class LearningCurve:
    """Held-out agreement by number of votes, and what more would bring."""

    points: tuple[tuple[int, float], ...]  # (votes, agreement) as measured on parts of the prompts
    gain_of_100: float | None  # agreement that a hundred more votes are likely to add
    worth: int | None  # votes in all after which a hundred more add less than one percent


def held_out_predictions(
    comparisons: Comparisons, config: RewardConfig | None = None
) -> HeldOut | None:
    """Predict each decisive vote from the votes on other prompts; None when that cannot be done.

    It takes two prompts and `LEAST_VOTES` votes. A fold whose training votes are fewer than two is
    skipped.
    """
    config = config or RewardConfig()
    if comparisons.prompts < 2 or len(comparisons) < LEAST_VOTES:
        return None
    _, (linear, products) = voted_projection(comparisons, config)
    choice, weight, group = comparisons.choice, comparisons.weights, comparisons.prompt_group
    mean, std = np.full(len(linear), np.nan), np.full(len(linear), np.nan)
    for train, held in splits(prompt_folds(group, config.folds, config.seed)):
        if train.sum() < 2:
            continue
        seen = linear[train], None if products is None else products[train]
        share, width = most_likely_prior(
            seen, choice[train], weight[train], config.product_shares, config.prior_stds
        )
        z = mixed(linear, products, share)
        found = fit_posterior(z[train], choice[train], weight[train], width)
        mean[held] = z[held] @ found.weights
        std[held] = np.sqrt(np.einsum("nd,nd->n", z[held] @ found.covariance, z[held]))
    kept = comparisons.decisive & np.isfinite(mean)
    if not kept.any():
        return None
    return HeldOut(mean[kept], std[kept], choice[kept] == 1, group[kept])


def held_out_agreement(
    comparisons: Comparisons, config: RewardConfig | None = None
) -> Agreement | None:
    """Share of decisive votes predicted right by prompt-grouped cross-validation; ties left out.

    The 95 % interval respects that votes on one prompt resemble each other. None when there are too
    few votes or prompts to hold any out.
    """
    found = held_out_predictions(comparisons, config)
    return None if found is None else agreement_of(found)


def agreement_of(predictions: HeldOut) -> Agreement:
    """Share of right predictions with its interval."""
    return _agreement(predictions.right, predictions.prompt_group)


def agreement_on(reward: Reward, comparisons: Comparisons) -> Agreement | None:
    """How well a reward predicts the decisive ones of votes that it did not learn from.

    For a campaign's random held-out pairs. None when there is no decisive vote.
    """
    kept = comparisons.rows(comparisons.decisive)
    if not len(kept):
        return None
    mean, _ = reward.difference(kept.phi_left, kept.phi_right)
    right = np.where(mean == 0, 0.5, (mean > 0) == (kept.choice == 1))
    return _agreement(right, kept.prompt_group)


def _agreement(right: Floats, group: NDArray[np.int64]) -> Agreement:
    low, high = clustered_interval(right, group)
    return Agreement(float(right.mean()), low, high, len(right))


def calibration(predictions: HeldOut) -> Calibration:
    """Calibration of held-out predictions: ECE, Brier score, log-loss, temperature, bins."""
    p = np.clip(predictions.probability, 1e-12, 1 - 1e-12)
    won = predictions.left_won.astype(np.float64)
    bins = _bins(np.maximum(p, 1 - p), np.where(p >= 0.5, won, 1 - won))
    total = len(p)
    return Calibration(
        ece=sum(b.n * abs(b.predicted - b.observed) for b in bins) / total,
        brier=float(((p - won) ** 2).mean()),
        log_loss=float(-(won * np.log(p) + (1 - won) * np.log1p(-p)).mean()),
        temperature=best_temperature(np.log(p) - np.log1p(-p), won),
        bins=bins,
        n=total,
    )


def _bins(confidence: Floats, favourite_won: Floats) -> tuple[ReliabilityBin, ...]:
    """Ten bins of equal width between 0.5 and 1; empty ones are left out."""
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    members = [place == number for number in range(BINS) if (place == number).any()]
    return tuple(
        ReliabilityBin(float(confidence[m].mean()), float(favourite_won[m].mean()), int(m.sum()))
        for m in members
    )


def best_temperature(logits: Floats, won: Floats) -> float:
    """The T in [0.1, 10] for which sigmoid(logits / T) fits outcomes (M,) best (Guo et al. 2017).

    The log-loss is convex in 1 / T: bisection on its slope.
    """
    low, high = 0.1, 10.0  # of 1 / T
    for _ in range(60):
        middle = np.sqrt(low * high)
        slope = logits @ (sigmoid(middle * logits) - won)
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))


def learning_curve(
    comparisons: Comparisons, config: RewardConfig | None = None, *, now: Agreement | None = None
) -> LearningCurve:
    """Measure agreement on a quarter and half of the prompts, and guess what more would bring.

    Agreement is taken to approach its ceiling as c - b / sqrt(votes): b is fitted to the measured
    points by least squares, each weighted by its votes, and drawn towards `_TYPICAL_SLOPE`, what
    simulated raters show, as strongly as the points are uncertain. `now` saves measuring the whole
    again.
    """
    config = config or RewardConfig()
    order = np.random.default_rng(config.seed).permutation(np.unique(comparisons.prompt_group))
    points: list[tuple[int, float]] = []
    decisive: list[int] = []
    for share in _STEPS:
        kept = np.isin(comparisons.prompt_group, order[: round(share * len(order))])
        part = comparisons.rows(kept)
        found = now if share == 1.0 and now is not None else held_out_agreement(part, config)
        if found is not None:
            points.append((len(part), found.value))
            decisive.append(found.n)
    if len(points) < 2:
        return LearningCurve(tuple(points), None, None)
    slope = _slope(points, decisive)
    votes = len(comparisons)
    gain = slope * (votes**-0.5 - (votes + 100) ** -0.5)
    worth = votes
    while worth < _MOST_VOTES and slope * (worth**-0.5 - (worth + 100) ** -0.5) >= _WORTHWHILE:
        worth += 50
    return LearningCurve(tuple(points), float(gain), worth)


_TYPICAL_SLOPE = (1.2, 0.6)  # mean and std of b over simulated raters; see the training log


def _slope(points: list[tuple[int, float]], decisive: list[int]) -> float:
    """b of agreement = c - b / sqrt(votes), at least 0: least squares with a prior on b."""
    x = -(np.array([votes for votes, _ in points], dtype=np.float64) ** -0.5)
    y = np.array([value for _, value in points])
    precision = np.array(decisive) / 0.24  # of a share near 0.6
    mean_x, mean_y = np.average(x, weights=precision), np.average(y, weights=precision)
    prior_mean, prior_std = _TYPICAL_SLOPE
    data = precision @ (x - mean_x) ** 2
    steep = precision @ ((x - mean_x) * (y - mean_y))
    return max(float((steep + prior_mean / prior_std**2) / (data + prior_std**-2)), 0.0)

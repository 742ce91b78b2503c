"""How far raters agree with each other; and from where on an answer or a rater is remarked on.

With themselves: `Tally.repeats_same` of `Tally.repeats`, only pairs that were decided both times,
as in `held_out_agreement` (`reward_check.py`), of which it is the ceiling.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from studio.core.vote import Vote

ANSWERS = ("left", "right", "tie", "both_bad")  # skips say nothing
FAST_MS = 500  # nobody compares two pictures in half a second
FAST_SHARE = 0.3  # of the votes that may be faster before it is remarked on
ONE_SIDED = 0.15  # departure of the left share from one half that is worth a remark
LEAST_FLAGGED = 20  # votes before anything is said about a rater
RESAMPLES = 1000

_RIGHT_WAY_ROUND = {"left": "right", "right": "left"}.items()


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha with its 95 % interval: 1 is full agreement, 0 what chance gives."""

    value: float
    low: float
    high: float
    units: int  # pairs that at least two raters answered


def krippendorff_alpha(answers: NDArray[np.int64], *, seed: int = 0) -> Alpha | None:
    """Nominal alpha of a table (raters, pairs) of category numbers; -1 means no answer.

    Krippendorff 2011, "Computing Krippendorff's alpha-reliability", C: one less the observed
    over the expected disagreement. The interval is a bootstrap over pairs. None when no pair was
    answered by two raters, or when all answers are of one kind, for which alpha is not defined.
    """
    counts = _counts(answers)
    value = _alpha(counts)
    if value is None:
        return None
    draw = np.random.default_rng(seed)
    rows = (draw.integers(0, len(counts), size=len(counts)) for _ in range(RESAMPLES))
    found = [a for row in rows if (a := _alpha(counts[row])) is not None]
    low, high = np.quantile(found, (0.025, 0.975)) if found else (-1.0, 1.0)
    return Alpha(value, min(float(low), value), max(float(high), value), len(counts))


def _counts(answers: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often each pair got each category (U, C); pairs with one answer or none are left out."""
    categories = range(int(answers.max(initial=-1)) + 1)
    counts = np.stack([(answers == c).sum(axis=0) for c in categories], axis=1) if categories else (
        np.zeros((answers.shape[1], 1))
    )  # fmt: skip
    return counts[counts.sum(axis=1) >= 2].astype(np.float64)


def _alpha(counts: NDArray[np.float64]) -> float | None:
    if not len(counts):
        return None
    answered = counts.sum(axis=1)
    agreeing = (counts * (counts - 1)).sum(axis=1) / (answered - 1)
    total, by_category = answered.sum(), counts.sum(axis=0)
    observed = 1 - agreeing.sum() / total
    expected = 1 - (by_category @ (by_category - 1)) / (total * (total - 1))
    return float(1 - observed / expected) if expected > 0 else None


def answer_table(votes: Iterable[Vote]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Votes -> (raters, pairs) of category numbers for `krippendorff_alpha`, and the raters' names.

    A pair is two pictures of a prompt, whichever side they stood on. Each rater's first answer to a
    pair counts; repeats are for self-consistency. Skips and votes on one picture are left out.
    """
    raters: dict[str, int] = {}
    pairs: dict[tuple[str, str, str], int] = {}
    cells: dict[tuple[int, int], int] = {}
    for vote in votes:
        if vote.choice in ANSWERS:
            one, other = sorted((vote.left, vote.right))
            rater = raters.setdefault(vote.rater, len(raters))
            pair = pairs.setdefault((vote.prompt, one, other), len(pairs))
            cells.setdefault((rater, pair), ANSWERS.index(_sorted_choice(vote)))
    table = np.full((len(raters), len(pairs)), -1, dtype=np.int64)
    for place, category in cells.items():
        table[place] = category
    return table, tuple(raters)


def raters_agreement(votes: Iterable[Vote]) -> Alpha | None:
    """Krippendorff's alpha over all pairs that at least two raters answered; None without any."""
    table, _ = answer_table(votes)
    return krippendorff_alpha(table)


def _sorted_choice(vote: Vote) -> str:
    """The answer as if the two pictures had stood in the order of their names."""
    if vote.left < vote.right:
        return vote.choice
    return dict(_RIGHT_WAY_ROUND).get(vote.choice, vote.choice)

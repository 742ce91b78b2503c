"""A rater with a hidden taste, for tests and benchmarks: votes come from pixels, not from features.

The taste is a sum of things that people look at (colourfulness, warmth, contrast, detail, how much
of the frame is filled, balance), some liked the more the better, some liked in a right amount. It
is computed from pixels with numpy, so no encoder contains it as one of its numbers. Votes follow
Davidson's model of comparisons with ties, at a noise that is set by how often a rater who knew the
utilities exactly would guess a decisive vote right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ORACLE_AGREEMENT = 0.77  # people agree with themselves about as often
TIE_NU = 0.35  # Davidson's nu: about one vote in eight is a tie
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601

Floats = NDArray[np.float64]


def pixel_statistics(pictures: Sequence[NDArray[np.uint8]]) -> Floats:
    """Pictures (H, W, 3) uint8 each -> what the eye notices first, (N, 8) in natural units."""
    return np.stack([_statistics(np.asarray(p, dtype=np.float64) / 255) for p in pictures])


def _statistics(rgb: Floats) -> Floats:
    """One picture (H, W, 3) in [0, 1] -> (8,)."""
    luma = rgb @ np.asarray(_LUMA)
    red_green = rgb[..., 0] - rgb[..., 1]
    yellow_blue = (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    centre = np.hypot(red_green.mean(), yellow_blue.mean())
    colourfulness = spread + 0.3 * centre  # Hasler & Suesstrunk 2003, equation 1
    ground = np.median(rgb[:2].reshape(-1, 3), axis=0)  # the backdrop, from the upper rim
    subject = np.abs(rgb - ground).max(axis=2) > 0.12
    filled = subject.mean()
    rows, columns = np.nonzero(subject) if subject.any() else (np.zeros(1), np.zeros(1))
    height, width = luma.shape
    off_centre = np.hypot(columns.mean() / width - 0.5, rows.mean() / height - 0.5)
    steps = np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()
    asymmetry = np.abs(luma - luma[:, ::-1]).mean()
    warmth = (rgb[..., 0] - rgb[..., 2]).mean()
    return np.array(
        [colourfulness, warmth, luma.mean(), luma.std(), steps, filled, off_centre, asymmetry]
    )


@dataclass(frozen=True)
class Taste:
    """One simulated person's likings: linear ones and right amounts, drawn from a seed."""

    slopes: Floats  # (8,) the more the better, or the less
    peaks: Floats  # (8,) right amounts, in standard deviations of the pool
    sharpness: Floats  # (8,) how much a departure from the right amount hurts

    @classmethod
    def draw(cls, seed: int) -> Taste:
        """Return the taste of person number `seed`."""
        chance = np.random.default_rng(seed)
        count = 8
        return cls(
            slopes=chance.normal(size=count),
            peaks=chance.normal(scale=0.7, size=count),
            sharpness=np.abs(chance.normal(scale=0.35, size=count)),
        )

    def utility(self, statistics: Floats) -> Floats:
        """`pixel_statistics` of a pool (N, 8) -> hidden utility of each picture (N,)."""
        spread = np.maximum(statistics.std(axis=0), 1e-9)
        z = np.clip((statistics - statistics.mean(axis=0)) / spread, -3, 3)
        return z @ self.slopes - ((z - self.peaks) ** 2) @ self.sharpness


@dataclass
class SimulatedRater:
    """Votes on pairs out of a pool whose utilities only the rater knows.

    `utility` (N,) is in logits already: P(left, right or tie) = Davidson(utility[l] - utility[r]).
    """

    utility: Floats
    nu: float = TIE_NU
    left_bias: float = 0.0  # logits added to whatever stands left
    careless: float = 0.0  # share of votes given without looking
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def vote(self, left: int, right: int) -> float:
        """Return 1 for left, 0 for right, 0.5 for a tie; noise is fresh for each call."""
        return float(self.votes(np.array([left]), np.array([right]))[0])

    def votes(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> Floats:
        """Answers (M,) to pairs of rows (M,), (M,): 1 left, 0.5 tie, 0 right."""
        delta = self.utility[left] - self.utility[right] + self.left_bias
        tie = np.full(len(delta), self.nu)
        weight = np.stack([np.exp(delta / 2), tie, np.exp(-delta / 2)])
        looked = self.chance.random(len(delta)) >= self.careless
        share = np.where(looked, weight / weight.sum(axis=0), np.array([[0.5], [0.0], [0.5]]))
        drawn = self.chance.random(len(delta))
        return np.where(drawn < share[0], 1.0, np.where(drawn < share[0] + share[1], 0.5, 0.0))


def scaled_to_agreement(
    utility: Floats,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    *,
    agreement: float = ORACLE_AGREEMENT,
    nu: float = TIE_NU,
) -> Floats:
    """Scale utilities (N,) so that an oracle guesses `agreement` of the decisive votes right.

    The oracle names the side of higher utility; the share is taken over the given pairs of rows.
    """
    delta = np.abs(utility[left] - utility[right])
    low, high = 0.0, 1e4 / max(float(delta.mean()), 1e-12)
    for _ in range(80):
        scale = (low + high) / 2
        if oracle_agreement(scale * utility, left, right, nu=nu) < agreement:
            low = scale
        else:
            high = scale
    return utility * low


def oracle_agreement(
    utility: Floats, left: NDArray[np.int64], right: NDArray[np.int64], *, nu: float = TIE_NU
) -> float:
    """Expected share of decisive votes that go to the side of higher utility."""
    half = np.minimum(np.abs(utility[left] - utility[right]) / 2, 350)
    better, worse = np.exp(half), np.exp(-half)
    total = better + worse + nu
    return float((better / total).sum() / ((better + worse) / total).sum())

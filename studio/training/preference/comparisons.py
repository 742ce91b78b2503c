"""Votes as the numbers that the reward learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from studio.core.vote import Vote

Floats = NDArray[np.float64]
_VALUES = {"left": 1.0, "tie": 0.5, "right": 0.0}.items()  # both_bad and skip prefer neither


@dataclass(frozen=True)
class Comparisons:
    """Votes as numbers: features of both sides, who won, and which belong to one prompt."""

    phi_left: NDArray[np.floating]  # (N, D) features of the pictures on the left
    phi_right: NDArray[np.floating]  # (N, D)
    choice: Floats  # (N,) 1 left, 0.5 tie, 0 right
    prompt_group: NDArray[np.int64]  # (N,) equal numbers for equal prompts
    weight: Floats | None = None  # (N,) how much each counts; None: 1 each
    votes_hash: str = ""  # names the votes; stored with the reward
    encoder_name: str = ""  # whose features these are; stored with the reward
    encoder_sha256: str = ""

    def __len__(self) -> int:
        return len(self.choice)

    @property
    def weights(self) -> Floats:
        """Weight of each vote (N,)."""
        return np.ones(len(self)) if self.weight is None else np.asarray(self.weight, np.float64)

    @property
    def decisive(self) -> NDArray[np.bool_]:
        """Mask (N,) of the votes that are no ties."""
        return self.choice != 0.5

    @property
    def prompts(self) -> int:
        """How many different prompts were voted on."""
        return len(np.unique(self.prompt_group))

    def rows(self, chosen: NDArray) -> Comparisons:
        """Those votes that `chosen` (a mask or indices) names."""
        return replace(
            self,
            phi_left=self.phi_left[chosen],
            phi_right=self.phi_right[chosen],
            choice=self.choice[chosen],
            prompt_group=self.prompt_group[chosen],
            weight=None if self.weight is None else self.weight[chosen],
        )


def comparisons_from_votes(
    votes: Iterable[Vote],
    features: Mapping[str, NDArray[np.floating]],
    *,
    held_out: bool | None = False,
    encoder: tuple[str, str] = ("", ""),
) -> Comparisons:
    """Turn votes into numbers. `features` maps a picture's sha256 to its features (D,).

    `held_out` False leaves out the votes that are kept for evaluation, True takes only those, None
    takes all. Both bad, skips, and votes on pictures whose features are not known (any more) are
    left out; so are stars. Ratings of one rater on one prompt count as comparisons of every two
    pictures that were rated differently, each weighted so that a picture counts as one vote.
    `encoder` is the (name, sha256) that made the features.
    """
    values = dict(_VALUES)
    digest = hashlib.sha256()
    pairs: list[tuple[str, str, float, str, float]] = []  # left, right, choice, prompt, weight
    ratings: dict[tuple[str, str], dict[str, float]] = {}
    for vote in votes:
        if held_out is not None and vote.held_out != held_out:
            continue
        if vote.choice == "rating" and vote.left in features and vote.strength is not None:
            ratings.setdefault((vote.rater, vote.prompt), {})[vote.left] = vote.strength
        elif vote.choice in values and vote.left in features and vote.right in features:
            pairs.append((vote.left, vote.right, values[vote.choice], vote.prompt, 1.0))
        else:
            continue
        digest.update(f"{vote.id} {vote.choice} {vote.strength}\n".encode())
    for (_, prompt), given in ratings.items():
        pairs += _rated_pairs(prompt, given)
    groups: dict[str, int] = {}
    return Comparisons(
        phi_left=_stack(features, [p[0] for p in pairs]),
        phi_right=_stack(features, [p[1] for p in pairs]),
        choice=np.array([p[2] for p in pairs], dtype=np.float64),
        prompt_group=np.array([groups.setdefault(p[3], len(groups)) for p in pairs], np.int64),
        weight=np.array([p[4] for p in pairs], dtype=np.float64),
        votes_hash=digest.hexdigest(),
        encoder_name=encoder[0],
        encoder_sha256=encoder[1],
    )


def _rated_pairs(
    prompt: str, given: Mapping[str, float]
) -> Iterable[tuple[str, str, float, str, float]]:
    """Every two pictures that one rater rated differently; a rating of 0 was taken back.

    n pictures give up to n (n - 1) / 2 pairs, but only n judgements: each pair weighs 2 / (n - 1).
    """
    rated = sorted((sha256, stars) for sha256, stars in given.items() if stars > 0)
    for number, (first, stars) in enumerate(rated):
        for second, others in rated[number + 1 :]:
            if stars != others:
                weight = min(1.0, 2 / (len(rated) - 1))
                yield first, second, float(stars > others), prompt, weight


def _stack(features: Mapping[str, NDArray[np.floating]], names: list[str]) -> NDArray[np.floating]:
    width = len(next(iter(features.values()))) if features else 0
    return np.stack([features[n] for n in names]) if names else np.zeros((0, width), np.float32)

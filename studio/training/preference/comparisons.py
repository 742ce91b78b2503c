"""Votes as the numbers that the reward learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

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


class Judgement(NamedTuple):
    """One comparison that votes make."""

    left: str  # sha256
    right: str
    choice: float  # 1 left, 0.5 tie, 0 right
    prompt: str
    weight: float  # how much it counts
    rated: bool = False  # it comes from ratings, not from a vote on a pair


def teaching(
    votes: Iterable[Vote], known: Container[str], *, held_out: bool | None = False
) -> Iterator[Vote]:
    """Yield the votes that comparisons are made of, whose pictures are `known` by their sha256.

    `held_out` False leaves out the votes that are kept for evaluation, True takes only those, None
    takes all. Both bad, skips and stars compare nothing; ratings do together, see `judgements`.
    """
    values = dict(_VALUES)
    for vote in votes:
        if held_out is not None and vote.held_out != held_out:
            continue
        rated = vote.choice == "rating" and vote.strength is not None
        if vote.left in known and (rated or (vote.choice in values and vote.right in known)):
            yield vote


def judgements(votes: Iterable[Vote]) -> list[Judgement]:
    """Return the comparisons that votes make, as `teaching` gives them: first those on pairs.

    Ratings of one rater on one prompt count as comparisons of every two pictures that were rated
    differently, each weighted so that a picture counts as one vote; its last rating counts.
    """
    values = dict(_VALUES)
    found: list[Judgement] = []
    ratings: dict[tuple[str, str], dict[str, float]] = {}
    for vote in votes:
        if vote.choice == "rating":
            ratings.setdefault((vote.rater, vote.prompt), {})[vote.left] = vote.strength or 0.0
        else:
            found.append(Judgement(vote.left, vote.right, values[vote.choice], vote.prompt, 1.0))
    for (_, prompt), given in ratings.items():
        found += _rated_pairs(prompt, given)
    return found


def comparisons_from_votes(
    votes: Iterable[Vote],
    features: Mapping[str, NDArray[np.floating]],
    *,
    held_out: bool | None = False,
    encoder: tuple[str, str] = ("", ""),
) -> Comparisons:
    """Turn the votes that are `teaching` into numbers, one row for each of their `judgements`.

    `features` maps a picture's sha256 to its features (D,); votes on other pictures, whose files
    are gone, are left out. `encoder` is the (name, sha256) that made the features.
    """
    used = list(teaching(votes, features, held_out=held_out))
    digest = hashlib.sha256()
    for vote in used:
        digest.update(f"{vote.id} {vote.choice} {vote.strength}\n".encode())
    found = judgements(used)
    groups: dict[str, int] = {}
    return Comparisons(
        phi_left=_stack(features, [one.left for one in found]),
        phi_right=_stack(features, [one.right for one in found]),
        choice=np.array([one.choice for one in found], dtype=np.float64),
        prompt_group=np.array([groups.setdefault(o.prompt, len(groups)) for o in found], np.int64),
        weight=np.array([one.weight for one in found], dtype=np.float64),
        votes_hash=digest.hexdigest(),
        encoder_name=encoder[0],
        encoder_sha256=encoder[1],
    )


def _rated_pairs(prompt: str, given: Mapping[str, float]) -> Iterator[Judgement]:
    """Every two pictures that one rater rated differently; a rating of 0 was taken back.

    n pictures give up to n (n - 1) / 2 pairs, but only n judgements: each pair weighs 2 / (n - 1).
    """
    rated = sorted((sha256, stars) for sha256, stars in given.items() if stars > 0)
    for number, (first, stars) in enumerate(rated):
        for second, others in rated[number + 1 :]:
            if stars != others:
                weight = min(1.0, 2 / (len(rated) - 1))
                yield Judgement(first, second, float(stars > others), prompt, weight, rated=True)


def _stack(features: Mapping[str, NDArray[np.floating]], names: list[str]) -> NDArray[np.floating]:
    width = len(next(iter(features.values()))) if features else 0
    return np.stack([features[n] for n in names]) if names else np.zeros((0, width), np.float32)

"""The reward's figures as sentences, for the page and the terminal; standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from studio.core.words import counted

LEAST_AGREEMENT_VOTES = 50  # decisive votes below which a share is hardly more than a coin's
WORTH_TRAINING = 200  # votes from which fine-tuning on the reward makes sense
_WORTHWHILE = 0.01  # agreement that a hundred more votes have to bring


@dataclass(frozen=True)
class Agreement:
    """A share of decisive votes with its 95 % interval. `n` votes stand behind it."""

    value: float
    low: float
    high: float
    n: int


def percent(share: float) -> str:
    """A share as whole percent, without the sign: 0.63 is '63'."""
    return f"{math.floor(100 * share + 0.5)}"


def taste_sentence(held_out: Agreement, self_consistency: Agreement | None = None) -> str:
    """How well the taste is predicted, beside chance and beside the rater's own consistency.

    'your taste is predicted in 63 % of unseen pairs, 57 to 69; a coin gets 50, you agree with
    yourself in 81'.
    """
    sentence = (
        f"Your taste is predicted in {percent(held_out.value)} % of unseen pairs, "
        f"{percent(held_out.low)} to {percent(held_out.high)}; a coin gets 50"
    )
    if self_consistency is not None and self_consistency.n:
        sentence += f", you agree with yourself in {percent(self_consistency.value)}"
    if held_out.low <= 0.5:
        sentence += ". That may still be chance"
    return f"{sentence}."


def more_votes_sentence(
    votes: int, gain_of_100: float | None, worth: int | None, teaching: int | None = None
) -> str:
    """What more votes are likely to bring.

    `gain_of_100`: agreement that the next hundred are likely to add, None while unknown; `worth`:
    votes after which a hundred more add less than one percent; `teaching`: how many of the votes
    the reward learns from, None: all.
    """
    teaching = votes if teaching is None else teaching
    if votes < LEAST_AGREEMENT_VOTES:
        missing = LEAST_AGREEMENT_VOTES - votes
        return (
            f"{counted(votes, 'vote')} {'is' if votes == 1 else 'are'} too few to tell a taste "
            f"from chance. Rate {counted(missing, 'more pair')} for a first figure, "
            f"{WORTH_TRAINING - teaching} before fine-tuning."
        )
    if teaching < WORTH_TRAINING:
        told = f"{votes} votes" if teaching == votes else f"{teaching} of {votes} votes teach and"
        return (
            f"{told} are a beginning; fine-tuning is worth it from {WORTH_TRAINING}. "
            f"Rate {counted(WORTH_TRAINING - teaching, 'more pair')}."
        )
    if gain_of_100 is None:
        return f"{votes} votes are enough to fine-tune. More make the reward surer."
    if gain_of_100 < _WORTHWHILE or worth is None:
        return (
            f"{votes} votes say what these pictures can: a hundred more would add less than one "
            "percent. Rate new prompts, or pictures of a tuned model, rather than more of the same."
        )
    return (
        f"{votes} votes are enough to fine-tune. A hundred more are likely to add "
        f"{100 * gain_of_100:.1f} percent; after about {worth} in all they add less than one."
    )


def telling(agreement: Agreement | None) -> Agreement | None:
    """Return how well votes predict each other, None while they are too few to tell."""
    enough = agreement is not None and agreement.n >= LEAST_AGREEMENT_VOTES
    return agreement if enough else None


def calibration_sentence(predicted: float, observed: float, n: int) -> str:
    """Whether the reward's sureness can be believed: mean certainty against share of hits.

    Over `n` held-out decisive votes: `predicted` is the mean probability of the favourite,
    `observed` the share that the favourite won.
    """
    gap = predicted - observed
    half = 1.96 * math.sqrt(max(observed * (1 - observed), 0.01) / max(n, 1))
    told = f"Where it names a favourite it is {percent(predicted)} % sure on average"
    if abs(gap) <= half:
        return f"{told}, and right in {percent(observed)} %: its sureness can be believed."
    how = "too sure of itself" if gap > 0 else "less sure than it could be"
    return f"{told}, but right in {percent(observed)} %: it is {how}."

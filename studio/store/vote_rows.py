"""Between a vote and its row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import RowMapping

from studio.core.errors import VoteRefusedError
from studio.core.vote import Vote
from studio.store.tables import VOTES

_SAME = ("rater", "left", "right", "choice", "strength", "pair_id", "campaign", "prompt")

# To be said wherever votes are looked up by their pair, or all of a rater's are walked: SQLite uses
# the partial index `votes_once_a_pair` only where its condition stands word for word, not bound.
ON_A_PAIR = VOTES.c.pair_id != text("''")


def vote_of(row: RowMapping) -> Vote:
    """Return a row's vote."""
    values = {name: row[name] for name in Vote.__dataclass_fields__}
    return Vote(**values | {"held_out": bool(values["held_out"])})


def vote_values(vote: Vote, attempt: int) -> dict[str, Any]:
    """Return a vote's row. `attempt` counts the rater's undone votes on the pair before it."""
    return vote.to_dict() | {"held_out": int(vote.held_out), "attempt": attempt}


def same_vote(known: Vote, vote: Vote) -> Vote:
    """Return the stored vote if `vote` says the same.

    Raises `VoteRefusedError` for another vote under its id.
    """
    if any(getattr(known, name) != getattr(vote, name) for name in _SAME):
        raise VoteRefusedError(
            f"Another vote is stored under the id '{vote.id[:40]}'; it stays as it is. "
            "Give this one an id of its own."
        )
    return known

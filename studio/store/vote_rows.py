"""Between a vote and its row."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, FromClause, exists, text
from sqlalchemy.engine import RowMapping

from studio.core.errors import VoteRefusedError
from studio.core.vote import Vote
from studio.store.tables import UNDOS, VOTES

_SAME = ("rater", "left", "right", "choice", "strength", "pair_id", "campaign", "prompt")

# To be said wherever votes are looked up by their pair, or all of a rater's are walked: SQLite uses
# the partial index `votes_once_a_pair` only where its condition stands word for word, not bound.
ON_A_PAIR = VOTES.c.pair_id != text("''")


def not_undone(votes: FromClause = VOTES) -> ColumnElement[bool]:
    """Return the condition that a vote stands, in a form that PostgreSQL knows for what it is.

    An outer join whose undo has no number is the same to us, not to its planner: that reads all
    votes to the last one, and sorts them, for the first page.
    """
    return ~exists().where(UNDOS.c.vote_id == votes.c.id)


class BriefVote(NamedTuple):
    """What is counted of a vote: some fields of `Vote`, taken from its row without a check."""

    number: int  # order of arrival
    created_at: float
    rater: str
    left: str
    right: str
    choice: str
    prompt: str
    response_ms: int
    repeat_of: str | None


BRIEF = tuple(VOTES.c[name] for name in BriefVote._fields)


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

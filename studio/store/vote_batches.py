"""Many votes in one transaction, a batch of statements at a time: for imports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import func, insert, select, text
from sqlalchemy.engine import Connection

from studio.core.errors import VoteRefusedError
from studio.core.vote import Vote
from studio.store.tables import VOTES
from studio.store.tally import TallyChanges
from studio.store.vote_rows import ON_A_PAIR, not_undone, same_vote, vote_of, vote_values

BATCH = 500  # votes a statement


def add_batch(connection: Connection, batch: Sequence[Vote], changes: TallyChanges) -> int:
    """Add the votes that are not there yet, at most BATCH with different ids; returns how many.

    Raises `VoteRefusedError` when another vote is stored under one of the ids.
    """
    known = _by_id(connection, [vote.id for vote in batch])
    for vote in batch:
        if vote.id in known:
            same_vote(known[vote.id], vote)
    new = [vote for vote in batch if vote.id not in known]
    if not new:
        return 0
    attempts = _attempts(connection, new)
    rows = []
    for vote in new:
        key = (vote.pair_id, vote.rater)
        rows.append(vote_values(vote, attempts[key] if vote.pair_id else 0))
        attempts[key] += 1
    connection.execute(insert(VOTES), rows)
    asked = [vote.repeat_of for vote in new if vote.repeat_of is not None]
    repeated = _by_id(connection, asked, standing=True)
    for vote in new:
        changes.add(vote, repeated.get(vote.repeat_of))
    return len(new)


def refuse_second_votes(connection: Connection, after: int) -> None:
    """Refuse when a vote newer than `after` stands beside another on its pair by its rater."""
    other = VOTES.alias()
    query = (
        select(VOTES.c.id)
        .join(
            other,
            (other.c.pair_id == VOTES.c.pair_id)
            & (other.c.pair_id != text("''"))  # see ON_A_PAIR
            & (other.c.rater == VOTES.c.rater)
            & (other.c.number != VOTES.c.number),
        )
        .where(VOTES.c.number > after, VOTES.c.attempt > 0, ON_A_PAIR)
        .where(not_undone(), not_undone(other))
    )
    found = connection.execute(query.limit(1)).scalar()
    if found is not None:
        raise VoteRefusedError(
            f"The vote '{found[:40]}' is a second one of its rater on a pair; the first stands."
        )


def newest_number(connection: Connection) -> int:
    """Return the number of the newest vote; 0 without any."""
    return connection.execute(select(func.max(VOTES.c.number))).scalar() or 0


def _by_id(connection: Connection, ids: Sequence[str], standing: bool = False) -> dict[str, Vote]:
    if not ids:
        return {}
    query = select(VOTES).where(VOTES.c.id.in_(ids))
    if standing:
        query = query.where(not_undone())
    return {row["id"]: vote_of(row) for row in connection.execute(query).mappings()}


def _attempts(connection: Connection, votes: Sequence[Vote]) -> Counter[tuple[str, str]]:
    """Return how many votes there are already on each vote's pair by its rater."""
    pairs = sorted({vote.pair_id for vote in votes if vote.pair_id})
    if not pairs:
        return Counter()
    query = select(VOTES.c.pair_id, VOTES.c.rater, func.count())
    query = query.where(VOTES.c.pair_id.in_(pairs), ON_A_PAIR)
    rows = connection.execute(query.group_by(VOTES.c.pair_id, VOTES.c.rater))
    return Counter({(pair_id, rater): number for pair_id, rater, number in rows})

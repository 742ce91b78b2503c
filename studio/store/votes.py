"""The votes: rows that are only ever added, and read in bounded memory.

A vote is acknowledged after its commit, which the database flushes to disk. Sums over them
(`Tally`) are kept in the same transaction, so that statistics over a million votes are one look-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from sqlalchemy import Column, Select, func, insert, select, update
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError

from studio.core.errors import NotFoundError, VoteRefusedError
from studio.core.vote import Tally, Undo, Vote
from studio.store.database import Database
from studio.store.tables import PAIRS, UNDOS, VOTES
from studio.store.tally import TallyChanges, sum_tallies, tallies_by_rater
from studio.store.vote_batches import BATCH, add_batch, newest_number, refuse_second_votes
from studio.store.vote_rows import (
    BRIEF,
    ON_A_PAIR,
    BriefVote,
    not_undone,
    same_vote,
    vote_of,
    vote_values,
)

PAGE = 1000  # votes in memory while all are read


class VoteStore:
    """Every vote of one database; may be used from several threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Use an open database; `clock` gives seconds since 1970, for undos."""
        self._engine = database.engine
        self._writer = database.writer
        self._clock = clock

    def add(self, vote: Vote) -> Vote:
        """Store a vote durably and return it; when this returns, it survives a power cut.

        The same vote again (a double click, a replayed request) gives the stored one. A vote on a
        pair answers that pair in the queue.

        Raises `VoteRefusedError` for another vote under the same id, for a second vote of a rater
        on a pair that he answered already (another tab) and has not undone, and for a pair that is
        not his or shows other pictures.
        """
        try:
            with self._writer.begin() as connection:
                return self._add(connection, vote)
        except IntegrityError as error:  # another process was faster, between our look and our row
            with self._engine.connect() as connection:
                known = _find(connection, vote.id)
            if known is not None:
                return same_vote(known, vote)
            raise VoteRefusedError(_ANSWERED) from error

    def add_all(self, votes: Iterable[Vote], undos: Iterable[Undo] = ()) -> int:
        """Store many votes and undos, all or none; return how many votes were new.

        Votes that are there already are left as they are. For imports and batches: it answers no
        pair. Ids within `votes` are different. Raises `VoteRefusedError`.
        """
        added, rest = 0, iter(votes)
        with self._writer.begin() as connection:
            before = newest_number(connection)
            changes = TallyChanges()
            while batch := list(islice(rest, BATCH)):
                added += add_batch(connection, batch, changes)
            for undo in undos:
                self._undo(connection, undo, changes)
            refuse_second_votes(connection, before)
            changes.write(connection)
        return added

    def replace_session(self, votes: Sequence[Vote], event_id: Callable[[], str]) -> int:
        """Store what a rater says in a session instead of all before in it: all at once or nothing.

        `votes` have one rater and session; `event_id` makes the ids of the undos. Returns how many
        votes were new. Raises `VoteRefusedError`.
        """
        rater, session_id = votes[0].rater, votes[0].session_id
        query = _votes(False).where(VOTES.c.rater == rater, VOTES.c.session_id == session_id)
        with self._writer.begin() as connection:
            changes = TallyChanges()
            for row in connection.execute(query).mappings().all():
                event = Undo(event_id(), row["id"], self._clock(), rater, session_id)
                self._undo(connection, event, changes)
            added = add_batch(connection, votes, changes)
            changes.write(connection)
        return added

    def undo(self, vote_id: str, event_id: str, *, rater: str | None = None) -> Vote:
        """Take a vote back with an event of its own and return the vote, whose row stays.

        Its pair waits again. Undoing twice, or replaying the event, changes nothing more. With
        `rater`, only his own votes. Raises `NotFoundError`, `VoteRefusedError`.
        """
        try:
            with self._writer.begin() as connection:
                vote = _get(connection, vote_id)
                if rater is not None and vote.rater != rater:
                    raise VoteRefusedError(
                        "This vote is another rater's; only he can take it back."
                    )
                changes = TallyChanges()
                event = Undo(event_id, vote_id, self._clock(), vote.rater, vote.session_id)
                if self._undo(connection, event, changes):
                    changes.write(connection)
                    _set_pair(connection, vote.pair_id, "waiting", "answered")
                return vote
        except IntegrityError:  # undone by another process at the same moment
            return self.get(vote_id)

    def get(self, vote_id: str) -> Vote:
        """Return a vote, undone or not. Raises `NotFoundError`."""
        with self._engine.connect() as connection:
            return _get(connection, vote_id)

    def is_undone(self, vote_id: str) -> bool:
        """Whether a vote was taken back."""
        with self._engine.connect() as connection:
            query = select(UNDOS.c.number).where(UNDOS.c.vote_id == vote_id)
            return connection.execute(query).one_or_none() is not None

    def votes(
        self,
        campaign: str | None = None,
        rater: str | None = None,
        *,
        include_undone: bool = False,
        after: int = 0,
        up_to: int | None = None,
    ) -> Iterator[Vote]:
        """Yield votes in the order of their arrival, a page in memory at a time.

        `after` skips votes up to that `newest_number`, for readers that keep up as votes arrive;
        `up_to` ends with it, for readers that want what is there now.
        """
        chosen = {"include_undone": include_undone, "after": after, "up_to": up_to}
        for _, vote in self.numbered(campaign, rater, **chosen):
            yield vote

    def numbered(
        self,
        campaign: str | None = None,
        rater: str | None = None,
        *,
        include_undone: bool = False,
        after: int = 0,
        up_to: int | None = None,
    ) -> Iterator[tuple[int, Vote]]:
        """Yield (number, vote) as `votes` does."""
        query = _votes(include_undone)
        query = query if up_to is None else query.where(VOTES.c.number <= up_to)
        query = query if campaign is None else query.where(VOTES.c.campaign == campaign)
        query = query if rater is None else query.where(VOTES.c.rater == rater)
        for row in self._rows(query, VOTES.c.number, after):
            yield row.number, vote_of(row._mapping)

    def brief(self, campaign: str) -> Iterator[BriefVote]:
        """Yield what is counted of a campaign's votes, as `votes` does, several times as fast."""
        query = _votes(False).with_only_columns(*BRIEF).where(VOTES.c.campaign == campaign)
        return map(BriefVote._make, self._rows(query, VOTES.c.number))

    def undos(self, campaign: str | None = None, *, up_to: int | None = None) -> Iterator[Undo]:
        """Yield undos in the order of their arrival, a page in memory at a time.

        Those of one campaign's votes, of votes up to that `newest_number`, or all.
        """
        undone = select(UNDOS).join(VOTES, VOTES.c.id == UNDOS.c.vote_id)
        undone = undone if campaign is None else undone.where(VOTES.c.campaign == campaign)
        undone = undone if up_to is None else undone.where(VOTES.c.number <= up_to)
        for row in self._rows(undone, UNDOS.c.number):
            yield Undo(row.id, row.vote_id, row.created_at, row.rater, row.session_id)

    def newest(self, rater: str, session_id: str | None = None) -> Vote | None:
        """Return the rater's last vote that stands, of one session or of all; None without any."""
        query = _votes(False).where(VOTES.c.rater == rater).order_by(VOTES.c.number.desc())
        if session_id is not None:
            query = query.where(VOTES.c.session_id == session_id)
        with self._engine.connect() as connection:
            row = connection.execute(query.limit(1)).mappings().one_or_none()
        return None if row is None else vote_of(row)

    def newest_number(self) -> int:
        """Return a number that grows with each vote; 0 without any. Cheap: for readers that wait.

        An undo does not change it; `events` counts both.
        """
        with self._engine.connect() as connection:
            return newest_number(connection)

    def before_newest(self, count: int, campaigns: Iterable[str]) -> int:
        """Return an `after` for `votes` that leaves the newest `count` of some campaigns.

        Votes that were taken back count too. 0 when there are not more.
        """
        query = select(VOTES.c.number).where(VOTES.c.campaign.in_(list(campaigns)))
        with self._engine.connect() as connection:
            newest = query.order_by(VOTES.c.number.desc()).offset(count).limit(1)
            return connection.execute(newest).scalar() or 0

    def events(self) -> tuple[int, int]:
        """Return the newest numbers of votes and undos: equal when nothing has happened."""
        with self._engine.connect() as connection:
            return newest_number(connection), connection.execute(
                select(func.max(UNDOS.c.number))
            ).scalar() or 0

    def count(self, campaign: str | None = None, rater: str | None = None) -> int:
        """Return how many answers on pairs stand: left, right, tie and both bad."""
        return self.tally(campaign, rater).votes

    def tally(self, campaign: str | None = None, rater: str | None = None) -> Tally:
        """Return the counts of a campaign, a rater, both or all, without looking at the votes."""
        with self._engine.connect() as connection:
            return sum_tallies(connection, campaign, rater)

    def tallies(self, campaign: str | None = None) -> dict[str, Tally]:
        """Return each rater's counts by name, of one campaign or all together."""
        with self._engine.connect() as connection:
            return tallies_by_rater(connection, campaign)

    def _rows(self, query: Select, number: Column, after: int = 0) -> Iterator[Row]:
        """Yield a query's rows with a larger `number` in its order, a page in memory at a time."""
        query = query.order_by(number).limit(PAGE)
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(query.where(number > after)).all()
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1].number

    def _add(self, connection: Connection, vote: Vote) -> Vote:
        known = _find(connection, vote.id)
        if known is not None:
            return same_vote(known, vote)
        if vote.pair_id:
            _check_pair(connection, vote)
        attempt = _attempt(connection, vote)
        if attempt is None:
            raise VoteRefusedError(_ANSWERED)
        connection.execute(insert(VOTES).values(vote_values(vote, attempt)))
        _set_pair(connection, vote.pair_id, "answered", "waiting")
        changes = TallyChanges()
        changes.add(vote, _repeated(connection, vote))
        changes.write(connection)
        return vote

    def _undo(self, connection: Connection, event: Undo, changes: TallyChanges) -> bool:
        """Add the event; False when the vote is undone already."""
        vote = _get(connection, event.vote_id)
        taken = select(UNDOS.c.vote_id, UNDOS.c.id).where(
            (UNDOS.c.vote_id == event.vote_id) | (UNDOS.c.id == event.id)
        )
        for row in connection.execute(taken):
            if row.vote_id == event.vote_id:
                return False
            raise VoteRefusedError("This undo was used for another vote. Reload the page.")
        connection.execute(
            insert(UNDOS).values(
                id=event.id,
                vote_id=event.vote_id,
                created_at=event.created_at,
                rater=event.rater,
                session_id=event.session_id,
            )
        )
        changes.take_back(vote, _repeated(connection, vote))
        for repeat in _repeats_of(connection, vote.id):
            changes.forget_repeat(repeat, vote)
        return True


_ANSWERED = (
    "This pair is answered already, perhaps in another tab; that vote stands. Press U there to "
    "take it back, or go on with the next pair."
)


def _votes(include_undone: bool) -> Select:
    return select(VOTES) if include_undone else select(VOTES).where(not_undone())


def _find(connection: Connection, vote_id: str) -> Vote | None:
    row = connection.execute(select(VOTES).where(VOTES.c.id == vote_id)).mappings().one_or_none()
    return None if row is None else vote_of(row)


def _get(connection: Connection, vote_id: str) -> Vote:
    vote = _find(connection, vote_id)
    if vote is None:
        raise NotFoundError(f"There is no vote '{vote_id[:40]}'. Reload the page.")
    return vote


def _attempt(connection: Connection, vote: Vote) -> int | None:
    """Return how often this rater's votes on the pair were undone; None while one stands."""
    if not vote.pair_id:
        return 0
    query = select(UNDOS.c.id).select_from(VOTES).outerjoin(UNDOS, UNDOS.c.vote_id == VOTES.c.id)
    query = query.where(VOTES.c.pair_id == vote.pair_id, ON_A_PAIR, VOTES.c.rater == vote.rater)
    undone = connection.execute(query).scalars().all()
    return None if None in undone else len(undone)


def _check_pair(connection: Connection, vote: Vote) -> None:
    pair = connection.execute(select(PAIRS).where(PAIRS.c.id == vote.pair_id)).mappings()
    row = pair.one_or_none()
    if row is None or row["state"] == "dropped":
        raise VoteRefusedError("This pair is not there any more; go on with the next one.")
    shown = (row["campaign"], row["rater"], row["left"], row["right"])
    if shown != (vote.campaign, vote.rater, vote.left, vote.right):
        raise VoteRefusedError(
            "This pair is another rater's, or shows other pictures. Reload the page."
        )


def _set_pair(connection: Connection, pair_id: str, state: str, from_state: str) -> None:
    if pair_id:
        pair = (PAIRS.c.id == pair_id) & (PAIRS.c.state == from_state)
        connection.execute(update(PAIRS).where(pair).values(state=state))


def _repeated(connection: Connection, vote: Vote) -> Vote | None:
    """Return the vote that this one asks again, if that one stands."""
    if vote.repeat_of is None:
        return None
    query = _votes(False).where(VOTES.c.id == vote.repeat_of)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else vote_of(row)


def _repeats_of(connection: Connection, vote_id: str) -> list[Vote]:
    query = _votes(False).where(VOTES.c.repeat_of == vote_id)
    return [vote_of(row) for row in connection.execute(query).mappings()]

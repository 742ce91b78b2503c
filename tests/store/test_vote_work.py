"""What the database does for a click does not grow with the votes behind it. Counted, not timed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import event

from studio.core.vote import Vote
from studio.store.database import Database
from tests.store.voting import NUMBERS, Voting, vote

FEW, MANY = 300, 3000  # votes behind Ann; `repeatable` looks at the newest 210
TICK = 20  # instructions of SQLite's machine between two counts


@contextmanager
def counted(database: Database) -> Iterator[list[int]]:
    """Count, in the one number of a list, the ticks of all that the block asks the database."""
    ticks = [0]

    def tick() -> None:
        ticks[0] += 1

    def watch(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_progress_handler(tick, TICK)

    def forget(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_progress_handler(None, TICK)

    event.listen(database.engine, "checkout", watch)
    event.listen(database.engine, "checkin", forget)
    try:
        yield ticks
    finally:
        event.remove(database.engine, "checkout", watch)
        event.remove(database.engine, "checkin", forget)


def test_work_for_a_click_does_not_grow_with_the_votes(voting: Voting, database: Database):
    campaign = voting.campaign()
    first: dict[str, int] = {}
    for behind in (FEW, MANY):
        present = voting.votes.count(campaign.id)
        voting.votes.add_all(old_vote(campaign.id) for _ in range(behind - present))
        with database.writer.begin() as connection:
            connection.exec_driver_sql("ANALYZE")  # statistics tempt the planner
        for name, act in clicks(voting, campaign.id).items():
            with counted(database) as ticks:
                act()
            assert ticks[0] <= 1.3 * first.setdefault(name, ticks[0]) + 30, name


def old_vote(campaign: str) -> Vote:
    """One of Ann's votes on a pair that nobody asks again."""
    return vote(campaign=campaign, pair_id=f"old pair {next(NUMBERS)}")


def clicks(voting: Voting, campaign_id: str) -> dict[str, Callable[[], object]]:
    """What a rater's page and an import ask for, by name, in the order of a click."""
    campaign = voting.campaigns.get(campaign_id)
    voting.draw_ahead(campaign, 3)
    again = f"again {next(NUMBERS)}"

    def import_one() -> None:
        voting.votes.add_all([old_vote(campaign_id)])

    def take_back() -> None:
        voting.votes.undo(voting.votes.newest("Ann", "monday").id, again, rater="Ann")

    return {
        "a pair is drawn ahead": lambda: voting.draw_ahead(campaign, 1),
        "the next pairs": lambda: voting.campaigns.waiting(campaign_id, "Ann", 3),
        "a vote": lambda: voting.answer(campaign),
        "an undo": take_back,
        "the vote after an undo": lambda: voting.answer(campaign),
        "votes to ask again": lambda: voting.campaigns.repeatable(campaign_id, "Ann"),
        "what was shown last": lambda: voting.campaigns.shown(campaign_id, "Ann", newest=5),
        "the counts": lambda: (voting.votes.tally(campaign_id, "Ann"), voting.votes.tally()),
        "has something happened": voting.votes.events,
        "one more vote from a file": import_one,
    }

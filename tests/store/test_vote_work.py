"""What the database does for a click does not grow with the votes behind it. Counted, not timed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import event, insert

from studio.core.vote import Undo, Vote
from studio.store.database import Database
from studio.store.tables import PAIRS
from studio.store.votes import PAGE
from tests.postgres_server import on_both_databases
from tests.store.voting import NUMBERS, Voting, pair_values, vote

pytestmark = on_both_databases
FEW, MANY = PAGE + 200, 4 * PAGE + 800  # votes behind Ann; `repeatable` looks at the newest 210
UNDONE = 80  # one vote of so many was taken back
TICK = 20  # instructions of SQLite's machine between two counts
EXPLAIN = """
LOAD 'auto_explain'; SET client_min_messages = log; SET auto_explain.log_format = json;
SET auto_explain.log_analyze = on; SET auto_explain.log_timing = off;
SET auto_explain.log_min_duration = 0
"""


class SQLiteWork:
    """Counts the instructions of SQLite's machine, a tick at a time."""

    slack = 30

    def __init__(self) -> None:
        self.done = 0

    def watch(self, connection: sqlite3.Connection, *_: object) -> None:
        """Begin to count what a connection is asked."""
        connection.set_progress_handler(self._tick, TICK)

    def forget(self, connection: sqlite3.Connection, *_: object) -> None:
        """Count no more."""
        connection.set_progress_handler(None, TICK)

    def _tick(self) -> None:
        self.done += 1


class PostgresWork:
    """Counts the rows that PostgreSQL looks at: each node's of each plan as it was carried out."""

    slack = 4 * MANY // UNDONE  # PostgreSQL reads all undos where they fill no more than a page

    def __init__(self) -> None:
        self.done = 0

    def watch(self, connection: psycopg.Connection, *_: object) -> None:
        """Begin to count what a connection is asked."""
        connection.execute(EXPLAIN)
        connection.commit()
        connection.add_notice_handler(self._note)

    def forget(self, connection: psycopg.Connection, *_: object) -> None:
        """Count no more."""
        connection.remove_notice_handler(self._note)

    def _note(self, said: psycopg.errors.Diagnostic) -> None:
        self.done += _rows(json.loads(said.message_primary.partition("plan:")[2])["Plan"])


def _rows(node: dict) -> int:
    """Sum what the nodes of a plan gave on and what they threw away."""
    seen = sum(n for key, n in node.items() if key == "Actual Rows" or key.startswith("Rows Rem"))
    return seen * node["Actual Loops"] + sum(_rows(below) for below in node.get("Plans", ()))


@contextmanager
def counted(database: Database) -> Iterator[SQLiteWork | PostgresWork]:
    """Count the work of all that the block asks the database."""
    work = SQLiteWork() if database.is_sqlite else PostgresWork()
    event.listen(database.engine, "checkout", work.watch)
    event.listen(database.engine, "checkin", work.forget)
    try:
        yield work
    finally:
        event.remove(database.engine, "checkout", work.watch)
        event.remove(database.engine, "checkin", work.forget)


def test_work_for_a_click_does_not_grow_with_the_votes(voting: Voting, database: Database):
    campaign = voting.campaign()
    first: dict[str, int] = {}
    for behind in (FEW, MANY):
        vote_long_ago(voting, database, campaign.id, behind)
        for name, act in clicks(voting, campaign.id).items():
            with counted(database) as work:
                act()
            assert 0 < work.done <= 1.3 * first.setdefault(name, work.done) + work.slack, name


def vote_long_ago(voting: Voting, database: Database, campaign: str, behind: int) -> None:
    """Put so many votes behind Ann, on pairs that she answered."""
    missing = behind - voting.votes.count(campaign)
    votes = [old_vote(campaign) for _ in range(missing)]
    undos = [Undo(f"undo of {v.id}", v.id, v.created_at, v.rater) for v in votes[::UNDONE]]
    voting.votes.add_all(votes, undos)
    with database.writer.begin() as connection:
        connection.execute(insert(PAIRS), [pair_values(v) for v in votes])
        connection.exec_driver_sql("ANALYZE")  # statistics tempt the planner


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
        "the first page of the votes": lambda: next(voting.votes.votes()),
        "the first page of a report": lambda: next(voting.votes.brief(campaign_id)),
        "the first page of an export": lambda: next(
            voting.votes.votes(campaign_id, include_undone=True, up_to=voting.votes.newest_number())
        ),
    }

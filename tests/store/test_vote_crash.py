"""Killed at random moments, again and again: every acknowledged vote is there, exactly once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.settings import REPOSITORY, Settings
from studio.store.database import Database, open_database
from tests.postgres_server import PostgresServer
from tests.store.test_votes import recount
from tests.store.voting import open_voting

PROGRAM = Path(__file__).with_name("voting_program.py")


def killed_runs(runs: int, settings: Settings) -> list[list[str]]:
    """What each of the killed processes had acknowledged."""
    path = os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])
    words = [str(runs), "4", str(settings.data_dir), settings.database_url]
    run = subprocess.run(
        [sys.executable, str(PROGRAM), *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def integrity(database: Database) -> str:
    with database.engine.connect() as connection:
        return connection.exec_driver_sql("PRAGMA integrity_check").scalar_one()


@pytest.mark.parametrize(("where", "runs"), [("sqlite", 200), ("postgresql", 40)])
def test_every_acknowledged_vote_survives_kills_at_random_moments(
    where: str, runs: int, settings: Settings, request: pytest.FixtureRequest
):
    if where == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        settings = replace(settings, database_url=server.new_database())
    acknowledged = killed_runs(runs, settings)
    assert len(acknowledged) == runs

    database = open_database(settings)
    voting = open_voting(database, settings.data_dir)
    stored = Counter(v.id for v in voting.votes.votes(include_undone=True))
    undone = Counter(undo.vote_id for undo in voting.votes.undos())
    assert set(stored.values()) == {1} and set(undone.values()) == {1}
    for run, said in enumerate(acknowledged):
        votes = {word for word in said if not word.startswith("undo ")}
        undos = {word.removeprefix("undo ") for word in said} - votes
        assert votes <= set(stored) and undos <= set(undone)
        mine = {vote_id for vote_id in stored if vote_id.startswith(f"{run}/")}
        events = len(mine) + sum(vote_id in mine for vote_id in undone)
        assert events - len(said) in (0, 1)  # at most the one between commit and answer
    in_between = sum(map(len, acknowledged))
    assert in_between > 2 * runs  # the kills met processes that were voting
    assert voting.votes.tally() == recount(voting.votes)
    if database.is_sqlite:
        assert integrity(database) == "ok"
    database.close()

"""A vote on a full disk, through its address and a real SQLite file that may not grow."""

from __future__ import annotations

import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from studio.core.settings import Settings
from studio.services.studio import Studio, open_studio
from studio.ui.rate_routes import add_rate_routes
from tests.services.rated import file_pictures, gallery_campaign

UNBOUNDED = 2**30  # pages


class Disk:
    """How many pages the database may have; SQLite keeps those that it has."""

    def __init__(self, studio: Studio) -> None:
        self.pages = UNBOUNDED
        event.listen(studio.database.engine, "checkout", self._bound)

    def _bound(self, connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={self.pages}")


@pytest.fixture
def studio(settings: Settings) -> Iterator[Studio]:
    opened = open_studio(settings)
    file_pictures(opened, prompts=6, each=4)
    yield opened
    opened.close()


def test_a_vote_on_a_full_disk_is_refused_whole_and_taken_once_when_there_is_room(studio: Studio):
    campaign, app, disk = gallery_campaign(studio), FastAPI(), Disk(studio)
    add_rate_routes(app, studio)
    page, store = TestClient(app), studio.preference.votes
    raters = [f"rater {number}" for number in range(20)]

    def waiting(rater: str) -> list[str]:
        asked = {"campaign": campaign.id, "rater": rater, "count": 2}
        return [p["pair"] for p in page.get("/easel/rate/pairs", params=asked).json()["pairs"]]

    pairs = [(rater, pair) for rater in raters for pair in waiting(rater)]
    studio.preference.queues.settled()
    disk.pages, taken, given = 1, [], Counter()
    for rater, pair in pairs:
        click = {
            "event": str(uuid.uuid4()), "pair": pair, "rater": rater, "session": "session-1",
            "choice": "left", "response_ms": 700,
        }  # fmt: skip
        answer = page.post("/easel/rate/votes", json=click)
        if answer.status_code != 200:
            break
        taken.append(answer.json()["vote"])
        given[rater] += 1
    assert answer.status_code == 507
    assert "The disk is full" in answer.json()["sentence"]
    assert "Free some space and try again" in answer.json()["sentence"]
    assert page.post("/easel/rate/votes", json=click).status_code == 507
    assert [vote.id for vote in store.votes()] == taken
    assert (store.tally().votes, store.tally(rater=rater).left) == (len(taken), given[rater])
    assert waiting(rater)[0] == pair

    disk.pages = UNBOUNDED
    for _ in range(2):  # the page sends it again, and once more
        answer = page.post("/easel/rate/votes", json=click)
        assert (answer.status_code, answer.json()["vote"]) == (200, click["event"])
    assert [vote.id for vote in store.votes()] == [*taken, click["event"]]
    assert store.tally().votes == len(taken) + 1
    assert pair not in waiting(rater)

"""Votes in a child process until it is killed with kill -9, many times; says what was acknowledged.

    voting_program.py RUNS SEED DATA_DIR [DATABASE_URL]

Prints one JSON list a run: the events that the child had acknowledged when it was killed. A child
writes an event's name to its pipe after `VoteStore` has returned, as the page's answer would.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
from pathlib import Path

from studio.core.campaign import CampaignPlan, PairDraft
from studio.core.settings import Settings
from studio.store.database import open_database
from tests.store.voting import open_voting, sha

READY = "ready"
MOST = 8  # events that a child may have acknowledged before the kill is near
LONGEST = 0.02  # seconds from there to the kill; a few votes


def vote_until_killed(settings: Settings, run: int, pipe: int) -> None:
    """Answer pairs, take some votes back, and tell each on the pipe once it is stored."""
    voting = open_voting(open_database(settings), settings.data_dir)
    campaign = voting.campaigns.find("kills") or voting.campaigns.create(CampaignPlan("kills"))
    draw = random.Random(run)
    os.write(pipe, f"{READY}\n".encode())
    for number in range(10_000):
        if not voting.campaigns.waiting_count(campaign.id, "Ann"):
            drafts = [PairDraft("Ann", "x", sha(1), sha(2))] * 4
            voting.campaigns.draw_ahead(campaign.id, drafts)
        given = voting.answer(campaign, draw.choice(["left", "tie"]), id=f"{run}/{number}")
        os.write(pipe, f"{given.id}\n".encode())
        if draw.random() < 0.2:
            voting.votes.undo(given.id, f"undo {given.id}")
            os.write(pipe, f"undo {given.id}\n".encode())


def killed_run(settings: Settings, run: int, draw: random.Random) -> list[str]:
    """Start a child, kill it at a random moment, and return what it had acknowledged."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        vote_until_killed(settings, run, writer)
    os.close(writer)
    said = b""
    if draw.random() < 0.9:  # the others are killed while they open the database
        wanted = draw.randrange(1, MOST)  # the first is 'ready'
        while said.count(b"\n") < wanted:
            said += os.read(reader, 65536)
    select.select([], [], [], draw.uniform(0, LONGEST))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reader, 65536):
        said += more
    os.close(reader)
    return [word for word in said.decode().splitlines() if word != READY]


def main(runs: int, seed: int, data_dir: Path, url: str = "") -> None:
    """Run the runs."""
    settings, draw = Settings(data_dir=data_dir, database_url=url), random.Random(seed)
    open_database(settings).close()
    for run in range(runs):
        sys.stdout.write(json.dumps(killed_run(settings, run, draw)) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])

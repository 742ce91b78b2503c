"""How long votes take: stored one by one, counted, and read, at up to a million.

    python tests/benchmarks/votes.py [--million]

Synthetic votes in a temporary SQLite file, opened and asked by the studio's own store.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import insert

from studio.core.campaign import CampaignPicture, CampaignPlan, PairDraft
from studio.core.settings import Settings
from studio.core.vote import Vote
from studio.store.database import Database, open_database
from studio.store.tables import PAIRS, UNDOS, VOTES
from studio.store.tally import TallyChanges
from studio.store.vote_rows import vote_values
from tests.store.voting import Voting, open_voting, pair_values, sha

SIZES = (10_000, 100_000)
MILLION = 1_000_000
CHUNK = 20_000
UNDONE = 50  # one vote of so many is taken back
PICTURES = 2_000
RATERS = tuple(f"rater {number}" for number in range(40))
REPEATS = 60
CLICKS = 60  # votes of each rater, one after the other
AT_ONCE = 20  # raters

Groups = Mapping[str, Sequence[str]]  # prompt -> sha256 of its pictures


def synthetic_groups() -> Groups:
    """Hashes of pictures that nobody looks at, by prompt."""
    groups: dict[str, list[str]] = {}
    for number in range(PICTURES):
        groups.setdefault(f"a storm over the sea, number {number % 100}", []).append(sha(number))
    return groups


def synthetic_vote(number: int, campaign: str, groups: Groups, draw: random.Random) -> Vote:
    """A vote as a campaign of 40 raters would leave it, 7 % of them repeats."""
    prompt = draw.choice(list(groups))
    left, right = draw.sample(groups[prompt], 2)
    return Vote(
        id=f"vote-{number}",
        created_at=1.7e9 + number,
        rater=RATERS[number % len(RATERS)],
        left=left,
        right=right,
        choice=draw.choices(["left", "right", "tie", "both_bad", "skip"], [40, 38, 12, 5, 5])[0],
        prompt=prompt,
        session_id=f"evening {number // 12_000}",
        campaign=campaign,
        pair_id=f"pair-{number}",
        response_ms=draw.randrange(400, 6000),
        selection="eig",
        repeat_of=f"vote-{number - 400}" if number > 400 and draw.random() < 0.07 else None,
        held_out=draw.random() < 0.1,
        app_version="0.1.0",
    )


def fill(database: Database, campaign: str, first: int, number: int, groups: Groups) -> None:
    """Insert votes on pictures of `groups` with their answered pairs, in large transactions."""
    for begin in range(first, first + number, CHUNK):
        draw = random.Random(begin)
        last = min(begin + CHUNK, first + number)
        votes = [synthetic_vote(n, campaign, groups, draw) for n in range(begin, last)]
        pairs = [pair_values(vote) for vote in votes]
        with database.writer.begin() as connection:
            connection.execute(insert(VOTES), [vote_values(vote, 0) for vote in votes])
            connection.execute(insert(PAIRS), pairs)
            changes = TallyChanges()
            for vote in votes:
                changes.add(vote, None)
            for vote in votes[::UNDONE]:
                changes.take_back(vote, None)
            connection.execute(insert(UNDOS), [_undo_values(vote) for vote in votes[::UNDONE]])
            changes.write(connection)


def _undo_values(vote: Vote) -> dict[str, object]:
    shared = {name: getattr(vote, name) for name in ("created_at", "rater", "session_id")}
    return shared | {"id": f"undo of {vote.id}", "vote_id": vote.id}


def timed(action: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Return the milliseconds of each call, after one to warm up."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1000)
    return times


def questions(voting: Voting, campaign: str) -> dict[str, Callable[[], object]]:
    """What the page asks, by name."""
    rater, draft = RATERS[3], PairDraft(RATERS[3], "a storm", sha(1), sha(2))
    return {
        "next pair": lambda: voting.campaigns.waiting(campaign, rater, 3),
        "a pair drawn ahead": lambda: voting.campaigns.draw_ahead(campaign, [draft]),
        "votes to ask again": lambda: voting.campaigns.repeatable(campaign, rater),
        "the rater's newest vote": lambda: voting.votes.newest(rater),
        "his newest of a session": lambda: voting.votes.newest(rater, "evening 0"),
        "his newest of a new session": lambda: voting.votes.newest(rater, "tomorrow"),
        "counts of everything": voting.votes.tally,
        "counts of the campaign": lambda: voting.votes.tally(campaign),
        "counts of the rater": lambda: voting.votes.tally(campaign, rater),
        "counts of every rater": lambda: voting.votes.tallies(campaign),
        "has something happened": voting.votes.events,
    }


def clicks(voting: Voting, campaign: str, raters: int) -> list[float]:
    """Return the milliseconds from each vote to its acknowledgement, of raters at the same time."""
    times: list[float] = []
    names = [f"clicker {raters}/{number}" for number in range(raters)]
    for name in names:
        drafts = [PairDraft(name, "a storm", sha(1), sha(2))] * CLICKS
        voting.campaigns.draw_ahead(campaign, drafts)

    def rate(name: str) -> None:
        for pair in voting.campaigns.waiting(campaign, name, CLICKS):
            vote = pair.vote(
                "left", id=pair.id, created_at=1.0, session_id="", response_ms=1, app_version=""
            )
            started = time.perf_counter()
            voting.votes.add(vote)
            times.append((time.perf_counter() - started) * 1000)

    threads = [threading.Thread(target=rate, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def export_peak(voting: Voting, folder: Path) -> float:
    """Return the megabytes that an export takes at its most, beyond what was taken before."""
    tracemalloc.start()
    voting.transfer.export_votes("jsonl", folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def main(sizes: tuple[int, ...] = SIZES) -> list[dict]:
    """Return one record a metric and size; `ratio` compares with the smallest size."""
    records: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder) / "data")
        database, present = open_database(settings), 0
        voting = open_voting(database, settings.data_dir)
        campaign = voting.campaigns.create(CampaignPlan("storms")).id
        taking_part = (CampaignPicture(sha(n), "a storm", seed=n) for n in range(PICTURES))
        voting.campaigns.add_pictures(campaign, taking_part)
        smallest: dict[str, float] = {}
        for votes in sorted(sizes):
            fill(database, campaign, present + 1, votes - present, synthetic_groups())
            present = votes
            database.close()  # as after a day's work: statistics refreshed
            database = open_database(settings)
            voting = open_voting(database, settings.data_dir)
            found = {name: timed(ask) for name, ask in questions(voting, campaign).items()}
            found["click to acknowledgement, one rater"] = clicks(voting, campaign, 1)
            found[f"click to acknowledgement, {AT_ONCE} raters"] = clicks(voting, campaign, AT_ONCE)
            for name, times in found.items():
                median = statistics.median(times)
                smallest.setdefault(name, median)
                record = _record(name, median, "ms", votes, median / smallest[name])
                records.append(record | {"p95": round(statistics.quantiles(times, n=20)[-1], 3)})
            peak = export_peak(voting, Path(folder) / f"export-{votes}")
            smallest.setdefault("export", peak)
            records.append(
                _record("memory of an export", peak, "MiB", votes, peak / smallest["export"])
            )
        database.close()
    return records


def _record(metric: str, value: float, unit: str, votes: int, ratio: float) -> dict:
    return {
        "metric": f"votes: {metric}",
        "value": round(value, 3),
        "unit": unit,
        "n": votes,
        "ratio_to": f"{min(SIZES)} votes",
        "ratio": round(ratio, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--million", action="store_true", help="also a million votes (minutes)")
    wanted = SIZES + ((MILLION,) if parser.parse_args().million else ())
    for line in main(wanted):
        print(json.dumps(line))

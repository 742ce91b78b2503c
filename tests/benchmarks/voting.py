"""Clicks on a really started studio: how long until a vote is acknowledged, and a pair is there.

    python tests/benchmarks/voting.py [--raters 1 20] [--million] [--folder DIR] [--postgresql]

Raters are threads of another process, each with a connection of its own, who answer one pair after
the other as the page does: pairs are asked for ahead, a click is one POST. Measured from the click
to the whole answer, which the studio gives after its commit. Idle, and while the starter model
draws without a pause. Goals: p95 under 50 ms at one rater and 150 ms at twenty, at most doubled by
drawing.

With `--million`: how long the services take with a million votes in the database, in this process
(goal: p95 under 100 ms for the next pairs and for statistics), and how much longer and with how
much more memory the commands take that export them and report about them than about a thousand.
They take minutes to write; a database that is kept in DIR is measured again, with the votes that
this adds. With `--postgresql` they are in a PostgreSQL that is started and removed again, with
`--postgresql URL` on that server. With DIR (and URL) but without `--million`, the raters click in
the database that is kept there.

With `--haste`: raters who do not look at the pictures, each click at once after the last one. No
rater does that; it shows how many clicks a second the studio takes in.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from studio.core.settings import REPOSITORY, Settings
from studio.services.rating import Answer
from studio.services.studio import Studio, open_studio
from tests.benchmarks.votes import MILLION, RATERS, fill, timed
from tests.postgres_server import running_postgres
from tests.services.rated import file_pictures, gallery_campaign
from tests.ui.served import served

CROWDS = (1, 20)  # raters at the same time
CLICKS = {1: 80, 20: 15}  # of each rater
LOOK = (0.7, 1.7)  # seconds between two clicks: a fast rater's
GLANCE = (0.3, 0.7)  # one rater alone: nobody is that fast, but the benchmark should end
PROMPTS, EACH = 24, 8  # pictures that are rated
AHEAD = 3  # pairs that the page holds
PATIENCE = 300  # seconds until the first picture is drawn
GOALS = {1: 50, 20: 150}  # milliseconds
METRICS = {
    "votes": "click to acknowledgement",
    "pairs": "next pairs, asked",
    "first": "a newcomer's first pair, all at once",
}
FEW = 1000  # votes of a campaign that is exported to compare with
SITTING = 150  # clicks with a million votes behind them
MILLION_GOAL = 100  # milliseconds
COMMANDS = MappingProxyType({"export": ("--format", "jsonl", "--campaign"), "report": ()})
SERVER = MappingProxyType({"fsync": "on", "shared_buffers": "128MB"})  # PostgreSQL's defaults
OWNER = "owner:secret-owner"
HASTE = "in haste"  # raters of this name do not look


@dataclass
class Rater:
    """One rater's browser."""

    port: int
    name: str
    campaign: str
    clicks: int
    look: tuple[float, float] = LOOK  # seconds

    def __post_init__(self) -> None:
        self.votes: list[float] = []  # milliseconds from click to acknowledgement
        self.pairs: list[float] = []  # milliseconds from asking to a pair with both pictures
        self.first: list[float] = []  # the same for a newcomer, for whom nothing was drawn ahead
        self._http = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def rate(self) -> None:
        """Answer pairs until the clicks are used up."""
        draw, ready, seen = random.Random(self.name), [], set()
        for _ in range(self.clicks):
            if len(ready) < AHEAD:
                ready += self._next_pairs(seen)
            time.sleep(draw.uniform(*self.look))
            pair = ready.pop(0)
            body = {
                "event": str(uuid.UUID(int=draw.getrandbits(128))),
                "pair": pair["pair"],
                "rater": self.name,
                "session": "benchmark",
                "choice": draw.choice(["left", "right", "tie"]),
                "response_ms": 1000,
            }
            self.votes.append(self._timed(lambda body=body: self.ask("votes", body)))

    def _next_pairs(self, seen: set[str]) -> list[dict[str, Any]]:
        query = {"campaign": self.campaign, "rater": self.name, "count": AHEAD + 1}

        def look() -> None:
            found.extend(json.loads(self.ask(f"pairs?{urlencode(query)}"))["pairs"])
            for side in ("left", "right"):
                self.ask(found[-1][side].removeprefix("/easel/rate/"))

        found: list[dict[str, Any]] = []
        (self.pairs if seen else self.first).append(self._timed(look))
        fresh = [pair for pair in found if pair["pair"] not in seen]
        seen.update(pair["pair"] for pair in fresh)
        return fresh

    def ask(self, path: str, body: dict | None = None) -> bytes:
        """Send one request to the Rate tab's addresses, and read its whole answer."""
        key = base64.b64encode(OWNER.encode()).decode()
        headers = {"Authorization": f"Basic {key}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        self._http.request(method, f"/easel/rate/{path}", content, headers)
        answer = self._http.getresponse()
        found = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {found[:300]!r}")
        return found

    @staticmethod
    def _timed(action: Any) -> float:
        started = time.perf_counter()
        action()
        return (time.perf_counter() - started) * 1000


def crowd(port: int, campaign: str, raters: int, clicks: int, tag: str) -> dict[str, list[float]]:
    """Let raters click at the same time; returns {votes, pairs, first} in milliseconds."""
    look = (0.0, 0.0) if tag.startswith(HASTE) else LOOK if raters > 1 else GLANCE
    names = [f"{tag} {number} of {raters}" for number in range(raters)]
    people = [Rater(port, name, campaign, clicks, look) for name in names]
    threads = [threading.Thread(target=person.rate) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "votes": [t for person in people for t in person.votes],
        "pairs": [t for person in people for t in person.pairs],
        "first": [t for person in people for t in person.first],
    }


def in_another_process(*words: object) -> dict[str, list[float]]:
    """Run a crowd apart from this process, so that its threads wait for nothing else."""
    command = [sys.executable, str(Path(__file__).resolve()), "--crowd", *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(
    raters: tuple[int, ...] = CROWDS, haste: bool = False, kept: Path | None = None, url: str = ""
) -> list[dict]:
    """Return the figures of every crowd, idle and while drawing, in a new or a `kept` database."""
    records: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(Settings(), data_dir=(kept or Path(folder)) / "data", database_url=url)
        if kept is None:
            settings.data_dir.mkdir()
        studio = open_studio(settings)
        if kept is None:
            file_pictures(studio, prompts=PROMPTS, each=EACH)
            gallery_campaign(studio, name="many", strategy="eig")
        campaign = studio.preference.campaigns.named("many").id
        studio.close()
        flags = ["--auth", OWNER, *(["--database", url] if url else [])]
        sitting = uuid.uuid4().hex[:12]  # other raters each time that a database is measured
        with served(settings.data_dir, settings.models_dir, flags) as running:
            owner = Rater(running.port, "owner", campaign, 0)
            in_another_process(running.port, campaign, 2, 8, f"warm {sitting}")
            for state in ("idle", "while drawing"):
                if state != "idle":
                    draw_without_pause(owner, f"drawing {sitting}")
                for count in raters:
                    clicks = CLICKS.get(count, 15)
                    tag = f"{HASTE}, {state}" if haste else state
                    say(f"{count} raters, {tag}: {count * clicks} clicks")
                    words = (running.port, campaign, count, clicks, f"{tag} {sitting}")
                    records += crowd_records(in_another_process(*words), count, tag, records)
    return records


def say(line: str) -> None:
    """Tell whoever waits how far it is; figures alone go to standard output."""
    print(line, file=sys.stderr, flush=True)


def draw_without_pause(owner: Rater, name: str) -> None:
    """Begin to draw with the starter model, and wait for the first picture."""
    say("waiting for the first picture to be drawn")
    prompts = [f"red apple, number {number}" for number in range(200)]
    plan = {"name": name, "prompts": prompts, "contestants": [{"model": "starter"}]}
    made = json.loads(owner.ask("owner/campaigns", plan | {"pictures_per_prompt": 4}))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        listed = json.loads(owner.ask("campaigns"))["campaigns"]
        if not next(c for c in listed if c["id"] == made["id"])["doing"].startswith("0 "):
            return
        time.sleep(1)
    raise SystemExit("The starter model drew nothing.")


def crowd_records(found: dict, count: int, state: str, before: list[dict]) -> list[dict]:
    """Turn one crowd's times into records; `ratio` compares with the same crowd at rest."""
    rows = []
    for key, metric in METRICS.items():
        times = found[key]
        p95 = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
        name = f"voting: {metric}, {count} raters"
        at_rest = f"{name}, {state.replace('while drawing', 'idle')}, p95"
        idle = next((r["value"] for r in before if r["metric"] == at_rest), p95)
        goal = {"votes": GOALS.get(count), "pairs": 200}.get(key)
        told = f"; goal {goal} ms idle, 2 while drawing" if goal else ""
        rows.append(
            {
                "metric": f"{name}, {state}, p95",
                "value": round(p95, 1),
                "unit": "ms",
                "n": len(times),
                "ratio_to": f"idle{told}",
                "ratio": round(p95 / idle, 2),
                "median": round(statistics.median(times), 1),
            }
        )
    return rows


def million(votes: int = MILLION, folder: Path | None = None, url: str = "") -> list[dict]:
    """Return what the services take with so many votes in the database, SQLite without a `url`."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = replace(
            Settings(), data_dir=(folder or Path(scratch)) / "data", database_url=url
        )
        if not settings.data_dir.exists():
            write_votes(settings, votes)
        studio = open_studio(settings)
        many = studio.preference.campaigns.named("many").id
        studio.preference.taste.learned()
        found = sitting(studio, many) | statistics_of(studio, many)
        studio.close()
        records = [_million_record(name, times, votes) for name, times in found.items()]
        for command in COMMANDS:
            records += command_records(settings, Path(scratch), votes, command)
        return records


def write_votes(settings: Settings, votes: int) -> None:
    """Fill a new data folder with two campaigns: one of so many votes, one of a few."""
    settings.data_dir.mkdir(parents=True)
    studio = open_studio(settings)
    groups: dict[str, list[str]] = {}
    for picture in file_pictures(studio, 2 * PROMPTS, EACH, ("plain", "tuned")):
        groups.setdefault(picture.request.prompt, []).append(picture.sha256)
    many = gallery_campaign(studio, name="many", strategy="eig").id
    few = gallery_campaign(studio, name="few").id
    shared, started = studio.databases.shared, time.perf_counter()
    fill(shared, few, votes + 1, FEW, groups)
    fill(shared, many, 1, votes, groups)
    say(f"{votes} votes written in {time.perf_counter() - started:.0f} s")
    if not shared.is_sqlite:  # what autovacuum does there within minutes
        with shared.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    studio.close()  # as after a day's work: SQLite's statistics refreshed


def sitting(studio: Studio, campaign: str) -> dict[str, list[float]]:
    """Let one of the raters go on rating; returns milliseconds by what he waits for."""
    rating, rater, draw = studio.preference.rating, RATERS[3], random.Random(1)
    sitting = uuid.uuid4().hex[:12]  # another each time that a database is measured
    found: dict[str, list[float]] = {"next pairs": [], "a vote": []}
    for number in range(SITTING):
        started = time.perf_counter()
        pair = rating.next_pairs(campaign, rater, AHEAD + 1).pairs[0]
        found["next pairs"].append((time.perf_counter() - started) * 1000)
        choice = draw.choice(["left", "right", "tie"])
        answer = Answer(f"{sitting}-{number}", pair.pair, rater, sitting, choice, 1000)
        started = time.perf_counter()
        rating.vote(answer)
        found["a vote"].append((time.perf_counter() - started) * 1000)
    names = (f"newcomer {sitting} {number}" for number in range(SITTING))
    found["a newcomer's first pairs"] = timed(
        lambda: rating.next_pairs(campaign, next(names), AHEAD + 1), 30
    )
    return found


def statistics_of(studio: Studio, campaign: str) -> dict[str, list[float]]:
    """Return the milliseconds that each statistic of the Rate tab takes."""
    standing, rater = studio.preference.standing, RATERS[3]
    return {
        "a rater's quiet line": timed(lambda: standing.sentence(campaign, rater), 30),
        "a campaign's line": timed(lambda: standing.campaign_sentence(campaign), 30),
        "a rater's count": timed(lambda: standing.votes(campaign, rater), 30),
        "the taste's figures": timed(standing.taste, 30),
        "the list of campaigns": timed(studio.preference.campaigns.all, 30),
    }


def command_records(settings: Settings, folder: Path, votes: int, verb: str) -> list[dict]:
    """Run a command about a thousand votes and then about all; compare peak memories."""
    records = []
    for name in ("few", "many"):
        words = ["--data-dir", settings.data_dir, *COMMANDS[verb], name]
        words += ["--database", settings.database_url] if settings.database_url else []
        command = [sys.executable, "launch.py", "votes", verb, "--skip-install"]
        started, peak = time.perf_counter(), 0.0
        process = subprocess.Popen(
            [*command, *map(str, words), "--output", folder / verb / name], cwd=REPOSITORY
        )
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        if process.returncode:
            raise SystemExit(f"The {verb} of '{name}' failed.")
        records.append(
            {
                "metric": f"voting: peak memory of `votes {verb}`, {name}",
                "value": round(peak, 1),
                "unit": "MiB",
                "n": FEW if name == "few" else votes,
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    ratio = records[1]["value"] / records[0]["value"]
    return [records[0], records[1] | {"ratio_to": f"{FEW} votes", "ratio": round(ratio, 2)}]


def peak_memory(process: int) -> float:
    """Return the most MiB that a process has had resident; 0 when it ended just now.

    Not `ru_maxrss`: a child's begins with what its parent had.
    """
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return 0.0
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return int(lines.get("VmHWM", "0 kB").split()[0]) / 1024


def _million_record(name: str, times: list[float], votes: int) -> dict:
    return {
        "metric": f"voting: with many votes, {name}, p95",
        "value": round(statistics.quantiles(times, n=20)[-1], 2),
        "unit": "ms",
        "n": votes,
        "ratio_to": f"goal {MILLION_GOAL} ms",
        "median": round(statistics.median(times), 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raters", type=int, nargs="+", default=list(CROWDS))
    parser.add_argument("--haste", action="store_true", help="raters who do not look")
    parser.add_argument("--million", nargs="?", type=int, const=MILLION, metavar="VOTES")
    parser.add_argument("--folder", type=Path, help="where the database of --million is kept")
    parser.add_argument("--postgresql", nargs="?", const="", metavar="URL", help="of --million")
    parser.add_argument("--crowd", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.crowd:
        port, campaign, *numbers, tag = args.crowd
        print(json.dumps(crowd(int(port), campaign, *map(int, numbers), tag)))
    else:
        if not args.million:
            found = main(tuple(args.raters), args.haste, args.folder, args.postgresql or "")
        elif args.postgresql == "":
            with running_postgres(SERVER) as server:
                found = million(args.million, args.folder, server.new_database())
        else:
            found = million(args.million, args.folder, args.postgresql or "")
        for line in found:
            print(json.dumps(line))

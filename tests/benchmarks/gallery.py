"""How long the gallery's queries take at ten thousand, a hundred thousand and a million pictures.

    python tests/benchmarks/gallery.py [--million]

Synthetic rows in a temporary SQLite file, opened and queried by the studio's own store.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import insert

from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.store.database import Database, open_database
from studio.store.pictures import PictureStore
from studio.store.tables import PICTURES, PROMPT_WORDS

SIZES = (10_000, 100_000)
MILLION = 1_000_000
VOCABULARY = (
    "apple boat castle dog engine forest garden house island jacket kettle lantern mountain night "
    "ocean pencil queen river storm tower umbrella violin window yard zebra red blue green golden "
    "old tiny giant quiet rainy sunny wooden broken flying sleeping running"
)
STYLES = ("flat illustration", "pencil sketch", "3-D toy")
REPEATS = 60


def synthetic_rows(first: int, number: int) -> Iterator[dict[str, object]]:
    """Yield rows as a year of drawing would leave them: 2 % starred, 1 % in the bin."""
    chance, words = random.Random(first), VOCABULARY.split()
    for row in range(first, first + number):
        prompt = f"{' '.join(chance.choices(words, k=3))}, {chance.choice(STYLES)}"
        if row % 5_000 == 0:
            prompt += ", aurora"
        in_bin = chance.random() < 0.01
        yield {
            "id": row,
            "path": f"pictures/2026-01-{1 + row % 28:02d}/job{row // 4}_{row % 4}_{row}.png",
            "sha256": f"{row:064x}",
            "job_id": f"job{row // 4}",
            "idx": row % 4,
            "seed": row,
            "width": 128,
            "height": 128,
            "seconds": 2.0,
            "created_at": 1.7e9 + row,
            "request": GenerationRequest(prompt=prompt, seed=row % 2**32).to_json(),
            "prompt": prompt,
            "model": "starter",
            "model_hash": "ab" * 32,
            "set_id": f"set{row // 600}" if row % 600 < 12 else "",
            "starred": int(chance.random() < 0.02),
            "shelf": "bin" if in_bin else "gallery",
            "deleted_at": 1.7e9 if in_bin else None,
        }


def fill(database: Database, first: int, number: int) -> float:
    """Insert rows and their words in large transactions; returns seconds."""
    started = time.perf_counter()
    for begin in range(first, first + number, 50_000):
        rows = list(synthetic_rows(begin, min(50_000, first + number - begin)))
        with database.writer.begin() as connection:
            connection.execute(insert(PICTURES), rows)
            marks = [("starred " * row["starred"]) + str(row["shelf"]) for row in rows]
            words = [
                {"rowid": row["id"], "words": row["prompt"], "marks": mark.replace("gallery", "")}
                for row, mark in zip(rows, marks, strict=True)
            ]
            connection.execute(insert(PROMPT_WORDS), words)
    return time.perf_counter() - started


def milliseconds(action: Callable[[], object]) -> tuple[float, float]:
    """Return (median, 95th percentile) of `REPEATS` calls, after one to warm up."""
    action()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def queries(store: PictureStore, rows: int) -> dict[str, Callable[[], object]]:
    """The gallery's questions, by name."""
    return {
        "page newest": store.page,
        "page far back": lambda: store.page(before=rows // 10),
        "page starred": lambda: store.page(starred=True),
        "page bin": lambda: store.page(deleted=True),
        "page of a job": lambda: store.page(job_id="job17"),
        "search common word": lambda: store.page(search="flat"),
        "search rare word": lambda: store.page(search="aurora"),
        "search beginning": lambda: store.page(search="ill"),
        "search three words": lambda: store.page(search="red apple pencil"),
        "search in starred": lambda: store.page(search="castle", starred=True),
        "search nothing": lambda: store.page(search="xylophone"),
        "count of a search, first time": lambda: (
            store.forget_counts(),
            store.count(search="flat"),
        ),
        "count, first time": lambda: (store.forget_counts(), store.count()),
        "count, again": store.count,
    }


def main(sizes: tuple[int, ...] = SIZES) -> list[dict]:
    """Return one record a metric and size; `ratio_to` compares with the smallest size."""
    records: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        database, present = open_database(settings), 0
        smallest: dict[str, float] = {}
        for rows in sorted(sizes):
            seconds = fill(database, present + 1, rows - present)
            records.append(_record("inserts", (rows - present) / seconds, "rows/s", rows, None))
            present = rows
            database.close()  # as after a day's work: statistics refreshed
            started = time.perf_counter()
            database = open_database(settings)
            opened = (time.perf_counter() - started) * 1000
            records.append(_record("open and check", opened, "ms", rows, None))
            store = PictureStore(database, settings.data_dir)
            for name, question in queries(store, rows).items():
                median, worst = milliseconds(question)
                smallest.setdefault(name, median)
                record = _record(name, median, "ms", rows, median / smallest[name])
                records.append(record | {"p95": round(worst, 3)})
        database.close()
    return records


def _record(metric: str, value: float, unit: str, rows: int, ratio: float | None) -> dict:
    return {
        "metric": f"gallery: {metric}",
        "value": round(value, 3),
        "unit": unit,
        "n": rows,
        "ratio_to": None if ratio is None else f"{min(SIZES)} rows",
        "ratio": None if ratio is None else round(ratio, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--million", action="store_true", help="also a million rows (minutes)")
    wanted = SIZES + ((MILLION,) if parser.parse_args().million else ())
    for line in main(wanted):
        print(json.dumps(line))

"""Votes of every kind, and files as others write them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pyarrow
from pyarrow import parquet

from studio.core.vote import Vote
from tests.store.voting import Voting, other_file, png, vote

HOLDS = {  # which answers a format can hold
    "jsonl": ("left", "right", "tie", "both_bad", "skip", "rating", "star"),
    "pickapic": ("left", "right", "tie", "both_bad", "skip"),
    "hpdv2": ("left", "right", "tie", "both_bad", "skip"),
    "dpo": ("left", "right"),
    "imagereward": ("left", "right", "tie", "both_bad", "skip", "rating"),
}


def filled(voting: Voting) -> list[Vote]:
    """Votes of every kind, on pictures of every file type, one of them undone."""
    contents = [png(n) for n in range(4)] + [other_file("JPEG"), other_file("WEBP")]
    shown = [voting.pictures.add(content) for content in contents]
    draw = random.Random(5)
    for number in range(24):
        left, right = draw.sample(shown, 2)
        choice = HOLDS["jsonl"][number % 7]
        alone = choice in ("rating", "star")
        voting.votes.add(
            vote(
                left=left,
                right="" if alone else right,
                choice=choice,
                strength=1.0 if alone else draw.choice([None, 0.1 + 0.2]),
                prompt=draw.choice(["a red apple", 'a "late" 猫,\nbefore dawn', ""]),
                negative_prompt=draw.choice(["", "blurry"]),
                rater=draw.choice(["Ann", "Bob"]),
                campaign=draw.choice(["", "c1"]),
                created_at=1_750_000_000 + draw.random() * 1e6,
                held_out=draw.random() < 0.3,
            )
        )
    voting.votes.undo(next(voting.votes.votes()).id, "u1")
    return list(voting.votes.votes())


def pictures_in(folder: Path, count: int = 4) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(number))
    return [hashlib.sha256(png(number)).hexdigest() for number in range(count)]


def write_pickapic(path: Path, rows: list[dict]) -> None:
    kinds = {
        "are_different": pyarrow.bool_(),
        "caption": pyarrow.string(),
        "created_at": pyarrow.timestamp("ns"),
        "has_label": pyarrow.bool_(),
        "jpg_0": pyarrow.binary(),
        "jpg_1": pyarrow.binary(),
        "label_0": pyarrow.float64(),
        "label_1": pyarrow.float64(),
        "ranking_id": pyarrow.int64(),
        "user_id": pyarrow.int64(),
    }
    parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(kinds.items())), path)


def pickapic_row(label: float, **changes: object) -> dict:
    row = {
        "are_different": True,
        "caption": "a fox",
        "created_at": 1_680_000_000_500_000_000,
        "has_label": True,
        "jpg_0": other_file("JPEG"),
        "jpg_1": png(1),
        "label_0": label,
        "label_1": 1 - label,
        "ranking_id": 7,
        "user_id": 42,
    }
    return row | changes

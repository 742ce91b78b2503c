"""Easel's own format: votes.jsonl, one event a line, images.jsonl, and the pictures.

    {"schema_version": 1, "event": "vote", "vote": {...}}       as `Vote.to_dict` gives it
    {"schema_version": 1, "event": "undo", "undo": {...}}
    {"schema_version": 1, "sha256": "...", "file": "images/..."}

Undone votes are there with their undos. A vote whose pictures are gone lists them under "gone".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from studio.core.errors import ImportRefusedError
from studio.core.vote import Undo, Vote
from studio.store.vote_formats.incoming import Incoming, checked_vote
from studio.store.vote_formats.json_rows import json_line, read_json_rows
from studio.store.vote_formats.outgoing import Outgoing

SCHEMA_VERSION = 1
EVENTS, PICTURES = "votes.jsonl", "images.jsonl"


def write(out: Outgoing) -> int:
    """Write every vote, undone ones too; returns how many."""
    count = 0
    with (
        (out.folder / EVENTS).open("w", encoding="utf-8") as events,
        (out.folder / PICTURES).open("w", encoding="utf-8") as images,
    ):
        for row, pictures in event_rows(out):
            events.write(json_line(row))
            for sha256 in pictures:
                name, is_new = out.picture_file(sha256)
                if is_new:
                    images.write(json_line(picture_row(sha256, name)))
            count += row["event"] == "vote"
    return count


def event_rows(out: Outgoing) -> Iterator[tuple[dict[str, Any], set[str]]]:
    """Yield each line of votes.jsonl, with the pictures that leave with it."""
    for vote, gone in out.every_vote():
        row: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "event": "vote"}
        row["vote"] = vote.to_dict()
        if gone:
            row["gone"] = gone
        yield row, {vote.left, vote.right} - {"", *gone}
    for undo in out.undos():
        yield {"schema_version": SCHEMA_VERSION, "event": "undo", "undo": asdict(undo)}, set()


def picture_row(sha256: str, name: str) -> dict[str, Any]:
    """Return the line of images.jsonl about one picture's file."""
    return {"schema_version": SCHEMA_VERSION, "sha256": sha256, "file": name}


def read(folder: Incoming) -> Iterator[Vote | Undo]:
    """Yield votes and undos; the pictures are staged first."""
    _stage_pictures(folder)
    for where, row in read_json_rows(folder.find(EVENTS, f"*/{EVENTS}", "*.jsonl")):
        if row.get("schema_version") != SCHEMA_VERSION:
            raise ImportRefusedError(
                f"{where} is of schema version {str(row.get('schema_version'))[:20]}; this Easel "
                f"reads {SCHEMA_VERSION}. Export it anew, or update Easel."
            )
        if row.get("event") == "vote" and isinstance(row.get("vote"), dict):
            vote = checked_vote(row["vote"], where)
            gone = row.get("gone", [])
            if not isinstance(gone, list):
                raise ImportRefusedError(f"{where}: 'gone' is a list of pictures.")
            for sha256 in (vote.left, vote.right):
                if sha256 and sha256 not in gone and not folder.is_staged(sha256):
                    raise ImportRefusedError(
                        f"{where}: its picture {sha256[:12]}… is not in images.jsonl."
                    )
            yield vote
        elif row.get("event") == "undo" and isinstance(row.get("undo"), dict):
            yield _undo(row["undo"], where)
        else:
            raise ImportRefusedError(f"{where} is neither a vote nor an undo.")


def _stage_pictures(folder: Incoming) -> None:
    for where, row in read_json_rows(folder.find(PICTURES, f"*/{PICTURES}", beside=True)):
        sha256 = folder.picture(row.get("file"), where)
        if sha256 != row.get("sha256"):
            raise ImportRefusedError(
                f"{where}: the picture '{str(row.get('file'))[:80]}' is not the one that was voted "
                "on; its hash differs."
            )


def _undo(values: dict[str, Any], where: str) -> Undo:
    texts = ("id", "vote_id", "rater", "session_id")
    if set(values) - {*texts, "created_at"} or not all(
        isinstance(values.get(name), str) and len(values[name]) <= 200 for name in texts
    ):
        raise ImportRefusedError(f"{where} is no undo: it has {', '.join(texts)}, created_at.")
    created_at = values.get("created_at")
    if type(created_at) not in (int, float) or not 0 <= created_at < 2**36 or not values["id"]:
        raise ImportRefusedError(f"{where} is an undo without its id or time.")
    return Undo(**values)

"""Votes of an import on their way into the store: on disk, and no id twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from studio.core.errors import ImportRefusedError
from studio.core.vote import Undo, Vote
from studio.store.database import as_storage_error


class Spool:
    """A file that holds votes and undos in their order until all were read."""

    def __init__(self, path: Path) -> None:
        """Make the file; whoever made its folder removes it."""
        self._path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            for statement in (
                "PRAGMA journal_mode=OFF",
                "PRAGMA synchronous=OFF",  # of no use after a crash
                "CREATE TABLE votes (number INTEGER PRIMARY KEY, id TEXT UNIQUE, vote TEXT)",
                "CREATE TABLE undos (number INTEGER PRIMARY KEY, id TEXT UNIQUE, undo TEXT)",
            ):
                self._connection.execute(statement)
        except sqlite3.Error as error:
            raise as_storage_error(error, str(path)) from error

    def add(self, event: Vote | Undo) -> None:
        """Keep one. Raises `ImportRefusedError` for an id that was there before."""
        table, column = ("votes", "vote") if isinstance(event, Vote) else ("undos", "undo")
        try:
            self._connection.execute(
                f"INSERT INTO {table} (id, {column}) VALUES (?, ?)",
                (event.id, json.dumps(asdict(event))),
            )
        except sqlite3.IntegrityError as error:
            raise ImportRefusedError(
                f"The id '{event.id[:60]}' stands there twice; nothing was taken in. "
                "Give each row an id of its own."
            ) from error
        except sqlite3.Error as error:
            raise as_storage_error(error, str(self._path)) from error

    def votes(self) -> Iterator[Vote]:
        """Yield the votes in their order."""
        for (text,) in self._connection.execute("SELECT vote FROM votes ORDER BY number"):
            yield Vote(**json.loads(text))

    def undos(self) -> Iterator[Undo]:
        """Yield the undos in their order."""
        for (text,) in self._connection.execute("SELECT undo FROM undos ORDER BY number"):
            yield Undo(**json.loads(text))

    def count(self) -> int:
        """Return how many votes are kept."""
        return self._connection.execute("SELECT count(*) FROM votes").fetchone()[0]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

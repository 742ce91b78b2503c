"""What stands in the page's controls, kept as it is typed and there after a reload or a crash."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from studio.core.errors import StorageError
from studio.store.database import Database
from studio.store.tables import FORMS

MAX_CHARACTERS = 1_000_000  # of one form's JSON
MAX_NAME = 64


class FormStore:
    """One JSON object a form; saving replaces it in one transaction."""

    def __init__(self, database: Database) -> None:
        """Use an open database."""
        self._engine = database.engine
        self._writer = database.writer

    def load(self, name: str) -> dict[str, Any]:
        """Return what was saved under `name`; empty if nothing, or nothing readable."""
        with self._engine.connect() as connection:
            return _state(connection, name)

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Replace the form's state. Raises `StorageError` for what is too large or no JSON."""
        self.change(name, lambda _saved: state)

    def change(self, name: str, run: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Replace the form's state by what `run` makes of it, and return that.

        Nobody else saves in between. Raises `StorageError` for what is too large or no JSON.
        """
        with self._writer.begin() as connection:
            state = run(_state(connection, name))
            _check(name, state)
            connection.execute(delete(FORMS).where(FORMS.c.name == name))
            row = {"name": name, "state": json.dumps(state), "saved_at": time.time()}
            connection.execute(insert(FORMS).values(row))
        return state


def _state(connection: Connection, name: str) -> dict[str, Any]:
    text = connection.execute(select(FORMS.c.state).where(FORMS.c.name == name)).scalar()
    try:
        state = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _check(name: str, state: dict[str, Any]) -> None:
    try:
        text = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(
            f"The form '{name[:MAX_NAME]}' holds something that is not plain text, number or "
            "list, so it was not saved; the last saved state is kept."
        ) from error
    if len(text) > MAX_CHARACTERS or not 0 < len(name) <= MAX_NAME:
        raise StorageError(
            f"The form '{name[:MAX_NAME]}' is too large to save ({len(text):,} characters; "
            f"at most {MAX_CHARACTERS:,}). Shorten its texts; the last saved state is kept."
        )

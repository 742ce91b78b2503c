"""Copies of the SQLite database: one before each upgrade and one a day, the newest seven of each.

On PostgreSQL the server's own tools make the backups.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import sqlite3
import time
from pathlib import Path

from sqlalchemy import Engine

from studio.core.errors import StorageError
from studio.store.files import flush_folder, storage_error

BACKUPS_KEPT = 7  # of each kind
DAILY = "daily"  # the kind of the copies that are made while the studio is used
STAMP = "%Y%m%d-%H%M%S"  # UTC; names sort by time


def back_up(engine: Engine, folder: Path, label: str, now: float | None = None) -> Path:
    """Copy the whole SQLite database to `folder`, durably, and keep the newest seven of its kind.

    The first word of `label` is the kind: 'daily', or 'schema' before an upgrade. `now` is in
    seconds since 1970. The copy is consistent while others read and write, and is looked through
    before it gets its name. Raises `StorageError` or `DiskFullError`.
    """
    stamp = time.strftime(STAMP, time.gmtime(now))
    final = folder / f"easel-{stamp}-{label}.sqlite3"
    unfinished = folder / f"{final.name}.tmp-0"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        with contextlib.closing(engine.raw_connection()) as source:
            _copy(source.driver_connection, unfinished)
        unfinished.replace(final)
        flush_folder(folder)
        for old in copies(folder, label.partition("-")[0])[:-BACKUPS_KEPT]:
            old.unlink()
    except OSError as error:
        raise storage_error(error, "back up the database to", folder) from error
    except sqlite3.Error as error:
        unfinished.unlink(missing_ok=True)
        raise StorageError(
            f"The database could not be backed up to {folder} ({error}); nothing else was changed. "
            "Free some space there or choose another folder with --data-dir."
        ) from error
    return final


def _copy(source: sqlite3.Connection, path: Path) -> None:
    """Write a copy and flush it. Raises `sqlite3.Error` when it does not come out sound."""
    target = sqlite3.connect(path)
    try:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, whole, without -wal beside it
        found = target.execute("PRAGMA quick_check(1)").fetchone()[0]
    finally:
        target.close()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the copy is damaged: {found}")
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copies(folder: Path, kind: str = "") -> list[Path]:
    """Return the backups in `folder`, oldest first; of one kind, or all."""
    return sorted(folder.glob(f"easel-*-{kind}*.sqlite3")) if folder.is_dir() else []


def made_at(copy: Path) -> float:
    """Return when a backup was made, by its name, in seconds since 1970; 0 for a strange name."""
    try:
        return float(calendar.timegm(time.strptime(copy.name[len("easel-") :][:15], STAMP)))
    except ValueError:
        return 0.0

"""Bring a database to the newest schema: backup first, then every missing revision, all or none."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from studio.core.errors import NewerDatabaseError, StorageError
from studio.store.files import storage_error

MIGRATIONS = Path(__file__).resolve().parent / "migrations"
BACKUPS_KEPT = 7


def upgrade_to_newest(writer: Engine, backups: Path | None, migrations: Path = MIGRATIONS) -> None:
    """Run the missing revisions in one transaction on one connection.

    `backups` is the folder for a copy of the database before an upgrade; None on PostgreSQL, where
    backups are the server's business. A database from a newer Easel is refused unchanged.

    Raises `NewerDatabaseError`, and `StorageError` or `DiskFullError` when backup or upgrade fail.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    newest = set(script.get_heads())
    with writer.connect() as connection:
        present = set(MigrationContext.configure(connection).get_current_heads())
    known = {revision.revision for revision in script.walk_revisions()}
    if present - known:
        raise NewerDatabaseError(
            f"This data folder was made by a newer Easel (schema {', '.join(sorted(present))}). "
            "Nothing in it was changed. Update Easel, or choose another folder with --data-dir."
        )
    if present == newest:
        return
    if present and backups is not None:
        back_up(writer, backups, "-".join(sorted(present)))
    with writer.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def back_up(engine: Engine, folder: Path, label: str) -> Path:
    """Copy the whole SQLite database to `folder` and keep the newest seven copies.

    The copy is consistent while others read and write. Raises `StorageError`.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    final = folder / f"easel-{stamp}-schema-{label}.sqlite3"
    unfinished = folder / f"{final.name}.tmp-0"
    source = engine.raw_connection()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        target = sqlite3.connect(unfinished)
        try:
            source.driver_connection.backup(target)
        finally:
            target.close()
        unfinished.replace(final)
        for old in sorted(folder.glob("easel-*.sqlite3"))[:-BACKUPS_KEPT]:
            old.unlink()
    except OSError as error:
        raise storage_error(error, "back up the database to", folder) from error
    except sqlite3.Error as error:
        raise StorageError(
            f"The database could not be backed up to {folder} ({error}), so it was not upgraded. "
            "Free some space there or choose another folder with --data-dir."
        ) from error
    finally:
        source.close()
    return final

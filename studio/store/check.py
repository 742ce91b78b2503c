"""Looks at the database without changing it: for `doctor`, beside a running studio or without."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from studio.store.migrate import MIGRATIONS


def find_database_fault(path: Path, migrations: Path = MIGRATIONS) -> str:
    """Return what is wrong with a SQLite database as a sentence; '' when it is sound or not there.

    Reads only, and makes no file.
    """
    if not path.is_file():
        return ""
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            present = _revisions(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        return f"The database {path} cannot be read ({error})."
    if found != "ok":
        return f"The database {path} is damaged ({found})."
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    known = {r.revision for r in ScriptDirectory.from_config(config).walk_revisions()}
    if present - known:
        return f"The database {path} was made by a newer Easel."
    return ""


def _revisions(connection: sqlite3.Connection) -> set[str]:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
    if tables.fetchone() is None:
        return set()
    return {row[0] for row in connection.execute("SELECT version_num FROM alembic_version")}

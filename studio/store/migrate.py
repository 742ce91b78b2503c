"""Bring a database to the newest schema: backup first, then every missing revision, all or none."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, func, select

from studio.core.errors import NewerDatabaseError
from studio.store.backup import back_up

MIGRATIONS = Path(__file__).resolve().parent / "migrations"
UPGRADE_LOCK = 0xEA5E1  # of PostgreSQL's advisory locks: one studio upgrades at a time


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
        back_up(writer, backups, f"schema-{'-'.join(sorted(present))}")
    with writer.begin() as connection:
        if connection.dialect.name == "postgresql":  # other studios may open it at this moment
            connection.execute(select(func.pg_advisory_xact_lock(UPGRADE_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

"""Open and close the database: SQLite in the data folder, or PostgreSQL by URL.

Facts behind the settings: `isolation_level = None` hands BEGIN to us, because the sqlite3 driver
otherwise begins only before INSERT and UPDATE; `BEGIN IMMEDIATE` is for writers alone, or readers
would wait for each other; `synchronous=FULL` flushes each commit, so that a power cut loses none.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError

from studio.core.errors import DiskFullError, EaselError, StorageError
from studio.core.settings import Settings
from studio.store.files import storage_error
from studio.store.migrate import MIGRATIONS, upgrade_to_newest
from studio.store.network_folder import refuse_network_folder

PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "busy_timeout=5000",  # milliseconds
    "trusted_schema=OFF",
    "temp_store=MEMORY",
    "recursive_triggers=ON",
)
POOL = 24  # connections that stay open: as many as raters click at once; more are made and closed


class Writer:
    """Transactions that write: one after the other on SQLite, in the order of a queue.

    SQLite has one writer at a time and lets the others poll, at last every 100 ms: a queue here is
    faster and fair. Programs on the same file still wait for each other by polling.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(write=True)
        alone = engine.dialect.name == "sqlite"
        self._turn = threading.Lock() if alone else contextlib.nullcontext()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """Write inside the block, all or nothing; durable when it is left without an error."""
        with self._turn, self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """Read inside the block while nobody writes; what is written there is dropped."""
        with self._turn, self._engine.connect() as connection:
            yield connection


@dataclass(frozen=True)
class Database:
    """One engine, and the `writer` on it."""

    engine: Engine
    writer: Writer
    path: Path | None  # of the SQLite file; None on a server

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the file in the data folder and not a server."""
        return self.path is not None

    def close(self) -> None:
        """Fold the write-ahead log into the file, refresh statistics, close every connection."""
        try:
            if self.is_sqlite:
                connection = self.engine.raw_connection()  # no BEGIN: a checkpoint refuses one
                try:
                    with contextlib.suppress(sqlite3.OperationalError):  # a full disk: it can wait
                        connection.driver_connection.execute("PRAGMA optimize")
                    connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    connection.close()
        except sqlite3.Error as error:
            raise as_storage_error(error, str(self.path)) from error
        finally:
            self.engine.dispose()


def open_database(settings: Settings, migrations: Path = MIGRATIONS) -> Database:
    """Open the studio's database, check it and bring it to the newest schema.

    Raises `NewerDatabaseError` (nothing changed), `DiskFullError`, and `StorageError` when the
    folder cannot be written, the file is damaged or the server does not answer.
    """
    url = _url(settings)
    path = Path(url.database) if url.get_backend_name() == "sqlite" else None
    engine = _engine(url)
    database = Database(engine, Writer(engine), path)
    try:
        if path is not None:
            _check_integrity(database)
        backups = settings.data_dir / "backups" if path is not None else None
        upgrade_to_newest(engine.execution_options(write=True), backups, migrations)
    except EaselError:
        engine.dispose()
        raise
    return database


@dataclass(frozen=True)
class Databases:
    """Where a studio keeps what: the same database twice, unless a server is named.

    Gallery, queue and form speak of files in the data folder and stay in its SQLite; campaigns,
    pairs, raters and votes are on the server, where all studios see them.
    """

    own: Database
    shared: Database

    def close(self) -> None:
        """Close both."""
        try:
            if self.shared is not self.own:
                self.shared.close()
        finally:
            self.own.close()


def open_databases(settings: Settings) -> Databases:
    """Open the data folder's database, and the server's if `database_url` names one.

    Raises as `open_database`.
    """
    if not settings.database_url or _url(settings).get_backend_name() == "sqlite":
        own = open_database(settings)
        return Databases(own, own)
    own = open_database(replace(settings, database_url=""))
    try:
        return Databases(own, open_database(settings))
    except EaselError:
        own.close()
        raise


def _url(settings: Settings) -> URL:
    if settings.database_url:
        try:
            url = make_url(settings.database_url)
            url.get_dialect()
        except (ArgumentError, NoSuchModuleError) as error:
            raise StorageError(
                "The database URL cannot be read. It looks like "
                "postgresql+psycopg://user:password@host/database; leave it out to use SQLite."
            ) from error
        if url.get_backend_name() != "sqlite":
            return url
        if not url.database or url.database == ":memory:":
            raise StorageError("The database URL names no file; leave it out to use SQLite.")
    else:
        url = URL.create("sqlite", database=str(settings.database_path))
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, "make the data folder", folder) from error
    refuse_network_folder(folder)
    return url


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "postgresql":
            # Pre-ping: a server that was restarted costs no failed vote.
            engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
        else:
            engine = create_engine(url, pool_size=POOL, max_overflow=-1)
    except ImportError as error:
        raise StorageError(
            f"The database driver for '{url.drivername}' is not installed. Install it into the "
            "studio's .venv (for PostgreSQL: psycopg), or leave the URL out to use SQLite."
        ) from error
    event.listen(engine, "handle_error", partial(_translate, url.database or "of the server"))
    if engine.dialect.name == "sqlite":
        engine.dialect.statement_compiler = _IndexedByCompiler
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
    return engine


class _IndexedByCompiler(SQLiteCompiler):
    """Writes `with_hint(table, "INDEXED BY name", "sqlite")` into the statement.

    Statistics tempt SQLite to walk the primary key through a million pictures for ten in the bin.
    """

    def get_from_hint_text(self, table: object, text: str | None) -> str | None:
        return text


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _check_integrity(database: Database) -> None:
    with database.engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        raise _damaged(str(database.path), found)


def _translate(where: str, context: ExceptionContext) -> EaselError | None:
    """Turn the driver's exception into a sentence; a broken constraint stays as it is.

    So does a failed ping before use: the pool answers it with a fresh connection.
    """
    if (
        context.is_pre_ping
        or context.sqlalchemy_exception is None
        or isinstance(context.sqlalchemy_exception, IntegrityError)
    ):
        return None
    return as_storage_error(context.original_exception, where)


def as_storage_error(error: BaseException, where: str) -> StorageError:
    """Return the sentence for what a database's driver said."""
    said = str(error).split("\n", 1)[0]
    if "disk is full" in said:
        return DiskFullError(
            f"The disk is full, so the database {where} could not be written. "
            "Free some space and try again; everything saved before is kept."
        )
    if "malformed" in said or "not a database" in said:
        return _damaged(where, said)
    if "readonly" in said or "unable to open" in said:
        return StorageError(
            f"The database {where} cannot be written ({said}). Make its folder writable for you, "
            "or choose another with --data-dir."
        )
    if "locked" in said:
        return StorageError(f"Another program holds the database {where}. Close it and try again.")
    return StorageError(
        f"The database {where} answered: {said}. Try again; run doctor if it stays."
    )


def _damaged(where: str, said: str) -> StorageError:
    return StorageError(
        f"The database {where} is damaged ({said}) and was left untouched. Put the newest copy "
        "from the folder 'backups' in its place; its pictures are found again at start."
    )

"""A studio's store on a real SQLite file, or on a real PostgreSQL, new for each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.settings import Settings
from studio.store.database import Database, open_database
from studio.store.pictures import PictureStore
from tests.postgres_server import PostgresServer, running_postgres
from tests.store.voting import Voting, open_voting


class Clock:
    """Time that passes only when a test says so; seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In a module with ON_BOTH_DATABASES, run on both whatever uses the fixture `database`."""
    wanted = getattr(metafunc.module, "ON_BOTH_DATABASES", False)
    if wanted and "database" in metafunc.fixturenames:
        metafunc.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def database(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Database]:
    """An open database: SQLite, or the one of `on_both_databases`."""
    if getattr(request, "param", "sqlite") == "sqlite":
        database = open_database(settings)
        yield database
        database.close()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database()
    database = open_database(replace(settings, database_url=url))
    yield database
    database.close()
    server.drop(url)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, settings: Settings, clock: Clock) -> PictureStore:
    return PictureStore(database, settings.data_dir, clock)


@pytest.fixture
def voting(database: Database, settings: Settings) -> Voting:
    return open_voting(database, settings.data_dir)


@pytest.fixture
def elsewhere(tmp_path: Path):
    """Another, empty studio."""
    folder = tmp_path / "elsewhere"
    database = open_database(Settings(data_dir=folder))
    yield open_voting(database, folder)
    database.close()

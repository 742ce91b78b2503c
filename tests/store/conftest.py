"""A studio's store on a real SQLite file, new for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from studio.core.settings import Settings
from studio.store.database import Database, open_database
from studio.store.pictures import PictureStore


class Clock:
    """Time that passes only when a test says so; seconds since 1970."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    yield database
    database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database: Database, settings: Settings, clock: Clock) -> PictureStore:
    return PictureStore(database, settings.data_dir, clock)

"""Copies of the database: whole, kept by kind, and good enough to go on with."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from studio.core.errors import StorageError
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.store.backup import BACKUPS_KEPT, back_up, copies, made_at
from studio.store.check import find_database_fault
from studio.store.database import Database, open_database
from studio.store.jobs import JobStore

NOON = 1_750_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "copies"


def test_the_newest_seven_of_each_kind_are_kept(database: Database, folder: Path):
    for number in range(BACKUPS_KEPT + 3):
        back_up(database.engine, folder, "daily", NOON + number * 86_400)
    back_up(database.engine, folder, "schema-0001", NOON - 86_400)
    days = [round((made_at(copy) - NOON) / 86_400) for copy in copies(folder, "daily")]
    assert days == list(range(3, BACKUPS_KEPT + 3))
    assert [copy.name[-12:] for copy in copies(folder, "schema")] == ["0001.sqlite3"]
    assert len(copies(folder)) == len(list(folder.iterdir())) == BACKUPS_KEPT + 1


def test_a_copy_made_while_others_write_is_whole(database: Database, folder: Path):
    jobs = JobStore(database)
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            jobs.submit(GenerationRequest(prompt="x" * 3000), key=str(number))
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = [back_up(database.engine, folder, "daily", NOON + n) for n in range(5)]
    finally:
        done.set()
        writer.join()
    assert [find_database_fault(path) for path in made] == [""] * 5
    assert sorted(folder.iterdir()) == made


def test_a_copy_in_the_place_of_the_database_is_gone_on_with(
    database: Database, settings: Settings, folder: Path
):
    JobStore(database).submit(GenerationRequest(prompt="kept"), key="before")
    copy = back_up(database.engine, folder, "daily")
    JobStore(database).submit(GenerationRequest(prompt="lost"), key="after")
    database.close()
    shutil.copy(copy, settings.database_path)
    restored = open_database(settings)
    with restored.engine.connect() as connection:
        keys = connection.exec_driver_sql("SELECT key FROM jobs").scalars().all()
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    restored.close()
    assert (keys, mode) == (["before"], "wal")


def test_a_folder_that_cannot_be_made_is_a_sentence(database: Database, folder: Path):
    folder.write_text("a file of this name")
    with pytest.raises(StorageError, match="back up the database to"):
        back_up(database.engine, folder, "daily")


def test_a_damaged_database_leaves_no_copy_and_removes_none(settings: Settings, folder: Path):
    database = open_database(settings)
    JobStore(database).submit(GenerationRequest(prompt="x" * 9000), key="1")
    good = [back_up(database.engine, folder, "daily", NOON + n) for n in range(BACKUPS_KEPT)]
    database.close()
    content = bytearray(settings.database_path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 64] = b"\xff" * 64
    settings.database_path.write_bytes(content)
    with pytest.raises(StorageError, match="could not be backed up"):
        back_up(database.engine, folder, "daily", NOON + 100)
    assert sorted(folder.iterdir()) == good


def test_the_time_of_a_copy_is_in_its_name(database: Database, folder: Path):
    assert made_at(back_up(database.engine, folder, "daily", NOON)) == NOON
    assert made_at(folder / "easel-of-mine-daily.sqlite3") == 0.0


def test_a_copy_is_one_file_that_reading_leaves_alone(database: Database, folder: Path):
    copy = back_up(database.engine, folder, "daily")
    with sqlite3.connect(copy) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()
    assert find_database_fault(copy) == ""
    assert list(folder.iterdir()) == [copy]

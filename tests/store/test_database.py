"""Opening, closing and refusing databases; upgrades and their backups."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from studio.core.errors import DiskFullError, NewerDatabaseError, StorageError
from studio.core.request import GenerationRequest
from studio.core.settings import REPOSITORY, Settings
from studio.store.database import PRAGMAS, Database, open_database
from studio.store.form import FormStore
from studio.store.jobs import JobStore
from studio.store.migrate import MIGRATIONS
from studio.store.tables import METADATA

REVISIONS = tuple(sorted(p.name[:4] for p in (MIGRATIONS / "versions").glob("[0-9]*.py")))
READ_BACK = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "busy_timeout": 5000,
    "trusted_schema": 0,
    "temp_store": 2,
    "recursive_triggers": 1,
}


def with_one_more_revision(folder: Path) -> Path:
    """A copy of the migrations in which an artist's next update adds a column."""
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "9999_mood.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = '9999'\ndown_revision = '{REVISIONS[-1]}'\n"
        "def upgrade():\n    op.add_column('jobs', sa.Column('mood', sa.Text))\n",
        encoding="utf-8",
    )
    return folder


def test_every_connection_gets_every_pragma(database: Database):
    with database.engine.connect() as one, database.engine.connect() as other:
        for connection in (one, other):
            read = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in (pragma.partition("=")[0] for pragma in PRAGMAS)
            }
            assert read == READ_BACK


def test_the_migrated_schema_equals_the_tables_that_queries_use(database: Database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: "prompt_words" not in (name or "")},
        )
        assert compare_metadata(context, METADATA) == []
        strict = connection.exec_driver_sql("SELECT name, strict FROM pragma_table_list").all()
    assert {name for name, is_strict in strict if is_strict} == set(METADATA.tables)


def test_checks_of_the_migrated_schema_equal_those_of_the_tables(database: Database):
    with database.engine.connect() as connection:
        sql = " ".join(
            connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql NOTNULL").scalars()
        )
    names = {c.name for t in METADATA.tables.values() for c in t.constraints if c.name}
    assert names and all(name in sql for name in names)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_database_of_every_older_revision_is_upgraded_with_a_backup(
    revision: str, settings: Settings, tmp_path: Path
):
    older = tmp_path / "older"
    shutil.copytree(MIGRATIONS, older, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (older / "versions").glob("[0-9]*.py"):
        if path.name[:4] > revision:
            path.unlink()
    open_database(settings, older).close()
    before = settings.database_path.read_bytes()

    newer = with_one_more_revision(tmp_path / "newer")
    database = open_database(settings, newer)
    with database.engine.connect() as connection:
        columns = connection.exec_driver_sql("SELECT name FROM pragma_table_info('jobs')")
        assert "mood" in columns.scalars().all()
    database.close()

    (copy,) = (settings.data_dir / "backups").iterdir()
    assert dump(copy) == dump_bytes(before, tmp_path / "before.sqlite3")
    assert f"schema-{revision}" in copy.name


def test_an_upgrade_that_fails_changes_nothing(settings: Settings, tmp_path: Path):
    open_database(settings).close()
    before = dump(settings.database_path)
    newer = with_one_more_revision(tmp_path / "newer")
    broken = newer / "versions" / "9999_mood.py"
    broken.write_text(
        broken.read_text(encoding="utf-8") + "    op.execute('INSERT INTO nowhere VALUES (1)')\n",
        encoding="utf-8",
    )
    with pytest.raises(StorageError, match="no such table: nowhere"):
        open_database(settings, newer)
    assert dump(settings.database_path) == before


def test_a_fresh_database_needs_no_backup(settings: Settings):
    open_database(settings).close()
    open_database(settings).close()
    assert not (settings.data_dir / "backups").exists()


def test_a_newer_database_is_refused_and_not_a_byte_of_it_changed(
    settings: Settings, tmp_path: Path
):
    open_database(settings, with_one_more_revision(tmp_path / "newer")).close()
    before = settings.database_path.read_bytes()
    with pytest.raises(NewerDatabaseError, match=r"newer Easel .*Nothing in it was changed"):
        open_database(settings)
    assert settings.database_path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_kept(settings: Settings):
    settings.data_dir.mkdir(exist_ok=True)
    settings.database_path.write_bytes(b"holiday letters " * 400)
    with pytest.raises(StorageError, match="damaged"):
        open_database(settings)
    assert settings.database_path.read_bytes() == b"holiday letters " * 400


def test_a_torn_database_is_named_with_the_way_back(settings: Settings):
    database = open_database(settings)
    JobStore(database).submit(GenerationRequest(prompt="x" * 9000), key="1")
    database.close()
    content = bytearray(settings.database_path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 64] = b"\xff" * 64
    settings.database_path.write_bytes(content)
    with pytest.raises(StorageError, match="'backups'"):
        open_database(settings)


def test_a_full_disk_is_a_sentence_and_what_was_saved_stays(database: Database):
    forms = FormStore(database)
    forms.save("txt2img", {"prompt": "kept"})
    # SQLite's own limit gives SQLITE_FULL, as a full disk does; each connection has its own.
    with database.writer.connect() as connection:
        raw = connection.connection.driver_connection
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DiskFullError, match="Free some space"):
        forms.save("txt2img", {"prompt": "x" * 500_000})
    assert forms.load("txt2img") == {"prompt": "kept"}


READ_ONLY = """
import os, sys
from pathlib import Path
from studio.core.errors import StorageError
from studio.core.settings import Settings
from studio.store.database import open_database
if os.geteuid() == 0:
    os.setegid(65534), os.seteuid(65534)  # root may write anywhere
try:
    open_database(Settings(data_dir=Path(sys.argv[1])))
except StorageError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_a_read_only_data_folder_is_a_sentence(settings: Settings, existing: bool, tmp_path: Path):
    settings.data_dir.mkdir(exist_ok=True)
    if existing:
        open_database(settings).close()
        settings.database_path.chmod(0o444)
    settings.data_dir.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder.name.startswith(("pytest-", "popen-")):
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(settings.data_dir)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    settings.data_dir.chmod(0o755)
    assert run.stdout.startswith("StorageError")
    assert "cannot be written" in run.stdout and "--data-dir" in run.stdout


def test_a_data_folder_below_a_file_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageError, match="Check the folder"):
        open_database(Settings(data_dir=tmp_path / "file" / "data"))


@pytest.mark.parametrize("url", ["not a url", "oracle://x/y", "sqlite://", "sqlite:///:memory:"])
def test_a_database_url_that_cannot_serve_is_a_sentence(url: str, tmp_path: Path):
    with pytest.raises(StorageError, match="SQLite"):
        open_database(Settings(data_dir=tmp_path, database_url=url))


def test_close_folds_the_log_into_the_file(settings: Settings):
    database = open_database(settings)
    FormStore(database).save("page", {"seed": 7})
    database.close()
    assert [path.name for path in settings.data_dir.iterdir()] == [settings.database_path.name]
    assert ("page", '{"seed": 7}') in {row[:2] for row in rows_of(settings.database_path, "forms")}


def test_readers_go_on_while_a_writer_is_at_work(database: Database):
    FormStore(database).save("page", {"seed": 1})
    read: list[dict] = []
    with database.writer.begin() as connection:
        connection.exec_driver_sql("UPDATE forms SET state = '{\"seed\": 2}'")
        reader = threading.Thread(target=lambda: read.append(FormStore(database).load("page")))
        reader.start()
        reader.join()  # it would give up after busy_timeout, 5 s
    assert read == [{"seed": 1}]


def test_a_writer_that_failed_lets_the_next_one_write(database: Database):
    with pytest.raises(KeyError), database.writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM forms")
        raise KeyError
    FormStore(database).save("page", {"seed": 3})  # else this would wait for ever
    assert FormStore(database).load("page") == {"seed": 3}


def test_two_writers_wait_for_each_other_and_lose_nothing(database: Database):
    jobs = JobStore(database)

    def submit(name: str) -> None:
        for number in range(20):
            jobs.submit(GenerationRequest(seed=number), key=f"{name}{number}")

    threads = [threading.Thread(target=submit, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    positions = [job.position for job in jobs.queued()]
    assert len(positions) == 60 and len(set(positions)) == 60


def dump(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())


def dump_bytes(content: bytes, path: Path) -> list[str]:
    path.write_bytes(content)
    return dump(path)


def rows_of(path: Path, table: str) -> list[tuple]:
    with sqlite3.connect(path) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()

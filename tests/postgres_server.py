"""A real PostgreSQL for the tests: started on loopback as an unprivileged user, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psycopg
import pytest

from studio.core.settings import Settings
from studio.store.database import open_database
from tests.debian import find_postgres

# Runs a test on both: the fixture `database` takes the parameter.
on_both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
PASSWORD = "easel-tests"
ON_LOOPBACK = MappingProxyType(
    {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "60"}
)
FOR_TESTS = MappingProxyType(
    {"fsync": "off", "shared_buffers": "32MB"}  # no machine is switched off during the tests
)


@dataclass(frozen=True)
class PostgresServer:
    """A running server; `new_database` gives a test one of its own."""

    port: int

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://easel:{PASSWORD}@127.0.0.1:{self.port}/{name}"

    def new_database(self) -> str:
        """Return the URL of a fresh database with the newest schema, copied from a template."""
        name = f"test_{uuid.uuid4().hex}"
        self._run(f"CREATE DATABASE {name} TEMPLATE easel_template")
        return self.url(name)

    def new_empty_database(self) -> str:
        """Return the URL of a database without any table."""
        name = f"empty_{uuid.uuid4().hex}"
        self._run(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self._run(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def make_template(self, folder: Path) -> None:
        self._run("CREATE DATABASE easel_template")
        settings = Settings(data_dir=folder, database_url=self.url("easel_template"))
        open_database(settings).close()

    def _run(self, statement: str) -> None:
        server = f"host=127.0.0.1 port={self.port} user=easel password={PASSWORD} dbname=postgres"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running_postgres(
    settings: Mapping[str, str] = FOR_TESTS,
) -> Iterator[PostgresServer]:
    """Start a server with an empty cluster; stop it and remove the cluster afterwards.

    It ends with this process too, whatever ends that.
    """
    programs = find_postgres()
    assert programs is not None, "There is no PostgreSQL here: install Debian's 'postgresql'."
    folder = Path(tempfile.mkdtemp(prefix="easel-postgres-"))
    owner = _unprivileged_user()
    try:
        _hand_over(folder, owner)
        _initialise(programs, folder, owner)
        port = _free_port()
        process = _start(programs, folder, owner, settings | {"port": str(port)})
        try:
            _wait_until_ready(programs, port, process)
            server = PostgresServer(port)
            server.make_template(folder)
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)  # at once; nothing in it is wanted any more
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return whom the server runs as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _hand_over(folder: Path, owner: pwd.struct_passwd | None) -> None:
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        os.chown(folder / "password", owner.pw_uid, owner.pw_gid)


def _as(owner: pwd.struct_passwd | None) -> list[str]:
    """Return the words before a command that let it run as `owner` and end with this process."""
    if owner is None:
        return ["setpriv", "--pdeathsig", "QUIT"]
    words = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    if not Path(os.devnull).stat().st_mode & stat.S_IWOTH:
        # Some containers keep /dev/null for root; initdb's shell needs it.
        words += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return ["setpriv", *words, "--pdeathsig", "QUIT"]


def _initialise(programs: Path, folder: Path, owner: pwd.struct_passwd | None) -> None:
    options = ["--username=easel", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
    done = subprocess.run(
        [*_as(owner), programs / "initdb", *options, "--no-sync", "-D", folder / "cluster",
         f"--pwfile={folder / 'password'}"],
        capture_output=True, text=True, cwd=folder, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _start(
    programs: Path, folder: Path, owner: pwd.struct_passwd | None, settings: Mapping[str, str]
) -> subprocess.Popen:
    options = [
        word
        for name, value in (settings | ON_LOOPBACK).items()
        for word in ("-c", f"{name}={value}")
    ]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*_as(owner), programs / "postgres", "-D", folder / "cluster", *options],
            stdout=log, stderr=log, cwd=folder, process_group=0,  # Ctrl-C is for the tests alone
        )  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(programs: Path, port: int, process: subprocess.Popen) -> None:
    for _ in range(60):
        ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "1"]
        if subprocess.run(ready, capture_output=True).returncode == 0:
            return
        try:
            process.wait(0.5)  # a pause that ends early when the server has ended
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError("PostgreSQL did not start.")

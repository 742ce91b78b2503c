"""What every test gets: no network, and a data folder of its own."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from launch import studio_environment
from studio.core.settings import Settings
from tests.offline.offline_guard import forbid_outside_connections

OFFLINE_LOG = Path(tempfile.mkdtemp(prefix="easel-offline-")) / "connections.log"


def pytest_configure() -> None:
    """Set what launch.py sets before any import, and put the guard into all child processes.

    A shell's background job starts with Ctrl-C ignored, and hands that on to its children: undo it,
    since some tests send it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(studio_environment(os.environ))
    OFFLINE_LOG.touch()
    os.environ["EASEL_OFFLINE_LOG"] = str(OFFLINE_LOG)
    guard = str(Path(__file__).parent / "offline")
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != guard]
    os.environ["PYTHONPATH"] = os.pathsep.join([guard, *others])
    forbid_outside_connections()
    hypothesis_settings.register_profile(  # on a busy machine an example is slow, not wrong
        "easel", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    hypothesis_settings.load_profile("easel")


@pytest.fixture(autouse=True)
def offline() -> Iterator[Path]:
    """Fail the test if it, or a Python that it started, tried to leave this machine.

    A test that provokes a connection on purpose empties the returned log before it ends.
    """
    before = OFFLINE_LOG.stat().st_size
    yield OFFLINE_LOG
    connections = OFFLINE_LOG.read_text(encoding="utf-8")[before:]
    if connections:
        pytest.fail(f"The test tried to leave this machine:\n{connections}")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose data and model folders are the test's own, and empty."""
    data_dir, models_dir = tmp_path / "data", tmp_path / "models"
    data_dir.mkdir()
    models_dir.mkdir()
    return Settings(data_dir=data_dir, models_dir=models_dir)

"""A disk that is really full: nothing that was saved is lost, and it goes on once there is room."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studio.core.settings import REPOSITORY

PROGRAM = Path(__file__).with_name("full_disk.py")


def may_mount(*flags: str) -> bool:
    """Whether this process may mount in a name space of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", *flags, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What became of the pictures on a disk of two megabytes, pretended without rights."""
    folder = tmp_path_factory.mktemp("disk")
    flags = next((f for f in (("-m",), ("-Urm",)) if may_mount(*f)), None)
    before = ["unshare", *flags] if flags else []
    mode = "mounted" if flags else "injected"
    done = subprocess.run(
        [*before, sys.executable, str(PROGRAM), mode, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"mode": mode}


def test_a_full_disk_is_a_sentence_each_time(told: dict):
    assert told["saved"] > 5
    assert len(told["said"]) == 3
    for is_disk_full, sentence in told["said"]:
        assert is_disk_full, sentence
        assert "disk is full" in sentence and "Free some space" in sentence
    assert told["mode"] == "injected" or "disk is full" in told["backup"].lower()


def test_a_full_disk_loses_no_picture_and_leaves_no_half_file(told: dict):
    assert told["listed"] == told["saved"]
    assert told["left_over"] == []
    assert told["fault"] == ""


def test_with_room_again_the_next_picture_is_saved(told: dict):
    assert told["after"] == told["saved"] + 1
    assert told["adopted"] <= 3  # a file whose row found no room is listed at the next start

"""A disk that is full when the adapter is written: nothing is overwritten, and it goes on later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from studio.core.settings import REPOSITORY
from tests.diffusion.tiny_model import build_tiny_model
from tests.store.test_full_disk import may_mount

PROGRAM = Path(__file__).with_name("last_export_program.py")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("disk")
    model = build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    flags = next((f for f in (("-m",), ("-Urm",)) if may_mount(*f)), None)
    before = ["unshare", *flags] if flags else []
    mode = "mounted" if flags else "hindered"
    done = subprocess.run(
        [*before, sys.executable, str(PROGRAM), mode, str(folder), str(model)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["lora", "finetune"])
def test_neither_of_the_two_files_takes_the_place_of_an_older_one(told: dict, kind: str):
    assert (
        "Free some disk space and try again; what was learned so far is kept" in told[kind]["said"]
    )
    assert told[kind]["kept"] == [True, True]
    assert told[kind]["partials"] == []


@pytest.mark.parametrize("kind", ["lora", "finetune"])
def test_with_room_again_the_same_call_writes_what_it_would_have_written(told: dict, kind: str):
    assert told[kind]["equal"] == [True, True]
    assert told[kind]["again"] == 0  # no epoch is computed twice


def test_half_of_an_adapter_does_not_take_its_name_on_the_shelf(told: dict):
    assert "The disk is full" in told["shelf"]["said"]
    assert told["shelf"]["half"] == []
    assert told["shelf"]["name"] == "red"
    assert told["shelf"]["files"] == ["adapter.kohya.safetensors", "adapter.safetensors"]

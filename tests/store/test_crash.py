"""Killed, torn or out of space at every moment: no finished picture is lost, no half file stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from studio.core.request import GenerationRequest
from studio.core.settings import REPOSITORY, Settings
from studio.store.database import open_database
from studio.store.drafts import DraftStore
from studio.store.pictures import PictureStore
from studio.store.reconcile import Reconciliation
from studio.store.sources import SourceStore, pixel_hash
from tests.store.test_files import encoded

LAYER = Path(__file__).with_name("crash_layer.py")
LAST_DRAFT = encoded(Image.new("L", (32, 32), 90), "PNG")
WANTED = GenerationRequest(prompt='a "late", 猫: apple', seed=5, count=4)


def rounds(tmp_path: Path, operation: str, mode: str) -> list[dict]:
    run = subprocess.run(
        [sys.executable, str(LAYER), operation, mode, str(tmp_path / "t"), str(tmp_path / "r")],
        cwd=REPOSITORY,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A data folder with one picture in the gallery and one in the bin."""
    folder = tmp_path / "t"
    database = open_database(Settings(data_dir=folder))
    store = PictureStore(database, folder)
    for index, prompt in enumerate(("kept", "thrown away")):
        store.save(
            Image.new("RGB", (64, 64), (index * 90, 40, 200)),
            GenerationRequest(prompt=prompt),
            job_id="first",
            index=index,
            seconds=1,
        )
    store.delete(2)
    DraftStore(folder).save("mask", LAST_DRAFT)
    database.close()
    (tmp_path / "r").mkdir()
    return folder


class Recovered:
    """What the next start finds in a round's data folder."""

    def __init__(self, folder: Path) -> None:
        self.files_before = sorted(folder.glob("pictures/*/*.png"))
        database = open_database(Settings(data_dir=folder))  # quick_check included
        store = PictureStore(database, folder)
        self.before = store.page()
        self.found: Reconciliation = store.reconcile()
        self.gallery = store.page()
        self.bin = store.page(deleted=True)
        for picture in self.gallery:
            with Image.open(store.file(picture)) as image:
                image.load()
        self.searched = store.page(search="late")
        self.again = store.reconcile()
        database.close()
        self.temporaries = sorted(folder.rglob("*.tmp-*"))

    @property
    def is_clean(self) -> bool:
        return not self.temporaries and self.again == Reconciliation()


@pytest.mark.parametrize("mode", ["exit", "torn"])
def test_a_kill_at_any_moment_of_a_save_loses_no_finished_picture(
    mode: str, template: Path, tmp_path: Path
):
    outcomes = rounds(tmp_path, "save", mode)
    adopted = swept = 0
    for outcome in outcomes:
        after = Recovered(tmp_path / "r" / str(outcome["n"]))
        assert after.is_clean
        finished = len(after.files_before) == 3
        assert [p.request.prompt for p in after.gallery][-1] == "kept"
        assert [p.request for p in after.gallery[:-1]] == ([WANTED] if finished else [])
        assert [p.index for p in after.searched] == ([2] if finished else [])
        assert finished or outcome["code"] != 0
        adopted += after.found.adopted
        swept += after.found.swept
    assert outcomes[-1]["code"] == 0 and len(outcomes) > 10
    assert adopted >= 2  # between rename and row, and before the commit: both moments were met
    assert swept >= 2  # a temporary file was left at least by the kills at write and fsync


def test_a_disk_that_fills_during_a_save_is_a_sentence_and_leaves_nothing(
    template: Path, tmp_path: Path
):
    outcomes = rounds(tmp_path, "save", "full")
    refused = [outcome for outcome in outcomes if outcome["said"]]
    assert {outcome["said"].split(":")[0] for outcome in refused} == {"DiskFullError"}
    assert {outcome["call"] for outcome in refused} >= {"open", "write", "fsync", "replace"}
    assert {outcome["call"] for outcome in outcomes} >= {"replace", "commit"}
    for outcome in outcomes:
        folder = tmp_path / "r" / str(outcome["n"])
        assert not list(folder.rglob("*.tmp-*"))  # at once, not only at the next start
        after = Recovered(folder)
        assert after.is_clean and after.found.swept == 0
        whole = len(after.files_before) == 3
        assert len(after.gallery) == (2 if whole else 1)
        assert whole or outcome["said"]


def test_a_kill_while_the_bin_is_emptied_brings_nothing_back(template: Path, tmp_path: Path):
    outcomes = rounds(tmp_path, "purge", "exit")
    for outcome in outcomes:
        after = Recovered(tmp_path / "r" / str(outcome["n"]))
        assert [p.request.prompt for p in after.gallery] == ["kept"]
        assert [p.request.prompt for p in after.bin] in ([], ["thrown away"])
        assert after.is_clean
    assert len(outcomes) > 3 and not after.bin


@pytest.mark.parametrize("mode", ["exit", "torn", "full"])
def test_a_source_that_is_cut_short_is_not_there_or_whole(
    mode: str, template: Path, tmp_path: Path
):
    wanted = Image.linear_gradient("L").convert("RGB")
    outcomes = rounds(tmp_path, "source", mode)
    for outcome in outcomes:
        folder = tmp_path / "r" / str(outcome["n"])
        files = sorted((folder / "sources").rglob("*.png"))
        assert [path.stem for path in files] in ([], [pixel_hash(wanted)])
        if files:
            assert SourceStore(folder).image(files[0].stem).tobytes() == wanted.tobytes()
        assert files or outcome["code"] != 0 or outcome["said"].startswith("DiskFullError")
        assert Recovered(folder).is_clean
        assert SourceStore(folder).add(wanted) == pixel_hash(wanted)  # and it can be added again
    assert len(outcomes) > 4


@pytest.mark.parametrize("mode", ["exit", "torn", "full"])
def test_a_draft_that_is_cut_short_is_the_last_one_or_the_new_one(
    mode: str, template: Path, tmp_path: Path
):
    outcomes = rounds(tmp_path, "draft", mode)
    kept = []
    for outcome in outcomes:
        folder = tmp_path / "r" / str(outcome["n"])
        kept.append(DraftStore(folder).load("mask"))
        assert (kept[-1] == LAST_DRAFT) or encoded(Image.new("L", (64, 64), 200), "PNG") == kept[-1]
        assert kept[-1] != LAST_DRAFT or outcome["code"] != 0 or outcome["said"]
        assert Recovered(folder).is_clean
    assert {content == LAST_DRAFT for content in kept} == {True, False}

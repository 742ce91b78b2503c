"""`launch.py train lora`: from a folder of pictures to an adapter in the studio."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from studio.core.settings import REPOSITORY, Settings
from studio.diffusion.adapter_files import LowRank, write_adapter
from studio.services.adapter_shelf import AdapterShelf
from studio.services.lora_command import teach
from studio.store.files import MAX_PIXELS


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (60 * number, 30, 40)).save(folder / f"{number}.png")
    return folder


def flags(images: Path, *more: str) -> list[str]:
    return ["--images", str(images), "--model", "tiny", "--steps", "2", *more]


def test_a_folder_of_pictures_becomes_an_adapter_in_both_namings(tiny_settings, images, capsys):
    (images / "broken.png").write_bytes(b"no picture")
    (images / "0.txt").write_text("a cat")
    assert teach(flags(images, "--name", "My style", "--trigger", "zyx"), tiny_settings) == 0
    said = capsys.readouterr().err
    assert "broken.png is not a PNG, JPEG or WebP picture" in said
    assert "Learning from 3 pictures." in said
    assert "Call it with “zyx”." in said
    [entry] = AdapterShelf(tiny_settings).entries()
    assert (entry.name, entry.problem, entry.base) == ("My-style", "", "tiny")
    assert entry.lineage["trigger"] == "zyx"
    assert (entry.path.parent / "adapter.kohya.safetensors").is_file()
    assert teach(flags(images, "--name", "My style", "--trigger", "zyx"), tiny_settings) == 0
    assert len(AdapterShelf(tiny_settings).entries()) == 1  # taught already: nothing is doubled


def test_another_style_of_the_same_name_does_not_take_the_place_of_the_first(
    tiny_settings, tmp_path
):
    shelf = AdapterShelf(tiny_settings)
    for number in range(2):
        folder = tmp_path / str(number)
        write_adapter({"unet": {"a": low_rank(number)}}, folder, {"base": "tiny"})
        assert shelf.add_trained(folder, "same") == shelf.add_trained(folder, "same")
    first, second = shelf.entries()
    assert (first.name, second.name) == ("same", f"same-{second.sha256[:8]}")
    for entry, folder in ((first, "0"), (second, "1")):
        for path in (tmp_path / folder).iterdir():
            assert (entry.path.parent / path.name).read_bytes() == path.read_bytes()


def low_rank(value: int) -> LowRank:
    return LowRank(torch.full((2, 3), float(value)), torch.ones(4, 2), 2.0)


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (["--name", "a"], 1, "Give a trigger word, or write captions"),
        (["--name", " ", "--trigger", "x"], 1, "Give the style a name"),
        (["--name", "a", "--trigger", "x", "--model", "none"], 1, "There is no model 'none'"),
        (["--name", "a", "--trigger", "x", "--minutes", "5"], 1, "Give --minutes or --steps"),
        (["--name", "a", "--trigger", "x", "--rank", "0"], 2, "--rank is a number from 1 to 256"),
        (["--name", "a", "--trigger", "x", "--learning-rate", "3"], 2, "--learning-rate is a"),
        (["--name", "a", "--trigger", "x", "--colour", "red"], 2, "train lora --help"),
        (["--trigger", "x"], 2, "The following arguments are required: --name"),
    ],
)
def test_what_cannot_be_is_a_sentence(tiny_settings, images, capsys, more, code, sentence):
    assert teach(flags(images, *more), tiny_settings) == code
    assert sentence in capsys.readouterr().err
    assert not (tiny_settings.data_dir / "teaching").exists()


def test_too_few_pictures_are_refused_and_the_unreadable_ones_named(tiny_settings, images, capsys):
    (images / "2.png").write_bytes(b"")
    assert teach(flags(images, "--name", "a", "--trigger", "x"), tiny_settings) == 1
    said = capsys.readouterr().err
    assert "2.png is not a PNG" in said
    assert "There are 2 pictures to learn from; a style needs at least 3. Add more." in said


def test_a_picture_that_would_fill_the_memory_is_named_and_skipped(tiny_settings, images, capsys):
    side = 1 + int(MAX_PIXELS**0.5)
    Image.new("1", (side, side)).save(images / "bomb.png")
    assert (images / "bomb.png").stat().st_size < 2**16
    assert teach(flags(images, "--name", "My style", "--trigger", "zyx"), tiny_settings) == 0
    said = capsys.readouterr().err
    assert "bomb.png has more than 64,000,000 pixels and was not opened" in said
    assert "Learning from 3 pictures." in said


def test_minutes_are_turned_into_steps_once(tiny_settings, images):
    words = ["--images", str(images), "--model", "tiny", "--minutes", "0.02", "--name", "quick"]
    assert teach([*words, "--trigger", "x"], tiny_settings) == 0
    folder = tiny_settings.data_dir / "teaching" / "quick"
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["budget"] == pytest.approx(1.2)
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == plan["steps"] >= 1


def test_the_command_line_knows_lora(images, tiny_settings: Settings):
    """Through launch.py itself, whose parser knows none of the flags."""
    command = [sys.executable, "launch.py", "train", "lora", "--skip-install"]
    folders = ["--data-dir", tiny_settings.data_dir, "--models-dir", tiny_settings.models_dir]
    done = subprocess.run(
        [
            *command,
            *map(str, folders),
            *flags(images, "--name", "x", "--trigger", "x", "--rank", "0"),
        ],
        cwd=REPOSITORY,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (2, "--rank is a number from 1 to 256.\n")

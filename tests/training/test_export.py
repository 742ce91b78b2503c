"""What a stage leaves is written whole or not at all, and a disk that is full is a sentence."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from studio.core.errors import DiskFullError
from studio.core.events import Event, StageArtifact
from studio.training.dataset.corpus import Corpus
from studio.training.stages import autoencoder, clip, pretrain, starter
from studio.training.stages.export import in_place_of, write_text
from tests.training.synthetic import make_corpus, word_bank
from tests.training.test_recipe import CLIP, LOOP, UNET, VAE

ONCE = replace(LOOP, checkpoint_every=2)  # one checkpoint, and one sheet of samples after it
LIMIT = 16_384  # bytes a file may have
WEIGHTS = {
    "autoencoder": "autoencoder/vae/diffusion_pytorch_model.safetensors",
    "clip": "clip/text_with_projection/model.safetensors",
    "unet": "unet/unet/diffusion_pytorch_model.safetensors",
    "starter": "starter/unet/diffusion_pytorch_model.safetensors",
}


def start(stage: str, corpus: Corpus, folders: Path) -> Iterator[Event]:
    if stage == "autoencoder":
        return autoencoder.train(corpus, replace(VAE, loop=ONCE), folders / stage)
    if stage == "clip":
        return clip.train(corpus, word_bank(), replace(CLIP, loop=ONCE), folders / stage)
    if stage == "unet":
        return pretrain.train(corpus, replace(UNET, loop=ONCE), folders)
    return starter.assemble(corpus, UNET, folders, folders / "starter")


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file be larger than LIMIT: what is beyond fails, as on a disk that is full."""
    before, silent = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # half of a module that is imported late would stay
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = silent


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def up_to_export(stage: str, events: Iterator[Event]) -> None:
    """Let a stage train; only what it leaves behind is still to be written."""
    last = {"clip": "checkpoint-00000002"}.get(stage, ".png")
    for event in events if stage != "starter" else ():
        if isinstance(event, StageArtifact) and event.path.endswith(last):
            return


def test_a_full_disk_leaves_each_stage_as_it_was_and_then_it_is_finished(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    for stage, weights in WEIGHTS.items():
        events = start(stage, corpus, tmp_path)
        up_to_export(stage, events)
        older = tmp_path / Path(weights).parent
        older.mkdir(parents=True)
        (older / "older").write_text("still here")
        before = contents(tmp_path)
        with small_files(), pytest.raises(DiskFullError) as refused:
            list(events)
        assert str(refused.value).startswith(f"{tmp_path / stage}")
        assert "Free some disk space and run the same command again" in str(refused.value)
        assert contents(tmp_path) == before
        list(start(stage, corpus, tmp_path))
        assert load_file(tmp_path / weights)
        assert not (older / "older").exists()
        assert not [path for path in tmp_path.rglob(".*") if path.name.endswith((".new", ".old"))]


def test_of_the_clip_pair_both_towers_are_new_or_none(tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    pair = ("text_with_projection", "image_encoder")
    list(start("clip", corpus, tmp_path))
    before = [contents(tmp_path / "clip" / name) for name in pair]
    longer = replace(CLIP, loop=replace(ONCE, steps=3, checkpoint_every=3))
    (tmp_path / "clip" / ".image_encoder.new").write_text("in the way")
    with pytest.raises(DiskFullError):
        list(clip.train(corpus, word_bank(), longer, tmp_path / "clip"))
    assert [contents(tmp_path / "clip" / name) for name in pair] == before


def test_a_text_that_finds_no_room_leaves_the_one_before(tmp_path):
    path = tmp_path / "MODEL_CARD.md"
    write_text(path, "What it is.")
    with small_files(), pytest.raises(DiskFullError, match=r"MODEL_CARD.md could not be written"):
        write_text(path, "x" * 2 * LIMIT)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {path.name: "What it is."}


def test_a_block_that_fails_for_another_reason_leaves_the_folder_too(tmp_path):
    target = tmp_path / "vae"
    with in_place_of(target) as new:
        (new / "a").write_text("1")
    with suppress(ZeroDivisionError), in_place_of(target) as new:
        (new / "b").write_text(str(1 / 0))
    assert {p.name: p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {"a": "1"}
    assert [p.name for p in tmp_path.iterdir()] == ["vae"]

"""What is held out stays out: of every stage's batches, of what the tokenizer reads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from studio.training.dataset.corpus import Corpus
from studio.training.dataset.duplicates import Seen
from studio.training.dataset.scenes import paint_bank
from studio.training.dataset.split import (
    NEW_PAIR,
    NEW_SUBJECT,
    TRAIN,
    family,
    split,
    without_held_out,
)
from studio.training.stages import autoencoder, clip, pretrain
from studio.training.stages.pretrain import Frame
from tests.training import test_recipe
from tests.training.synthetic import make_corpus, word_bank

STYLES = ("3d render", "flat illustration", "pictogram", "pencil sketch")
LABELS = [f"thing {a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrst"]


def test_near_twins_are_one_family():
    assert family("dog face") == family("dog") == "dog"
    assert family("woman detective") == family("detective")
    assert family("man") == "man"
    assert family("person: beard") == "beard"


def test_the_split_depends_on_the_words_alone_and_has_its_shares():
    pictures = [(label, style) for label in LABELS for style in STYLES]
    parts = split(pictures)
    assert split(pictures[::-1])[::-1] == parts
    assert split([p for p in pictures if p[1] != "pictogram"]) == [
        part for p, part in zip(pictures, parts, strict=True) if p[1] != "pictogram"
    ]
    assert 0.02 < parts.count(NEW_SUBJECT) / len(parts) < 0.06
    assert 0.05 < parts.count(NEW_PAIR) / len(parts) < 0.11


def test_of_a_held_out_pair_both_subject_and_style_are_seen():
    pictures = [(label, style) for label in LABELS for style in STYLES]
    parts = split(pictures)
    seen = {p for p, part in zip(pictures, parts, strict=True) if part == TRAIN}
    for (label, style), part in zip(pictures, parts, strict=True):
        if part == NEW_PAIR:
            assert any(seen_label == label for seen_label, _ in seen)
            assert any(seen_style == style for _, seen_style in seen)
        if part == NEW_SUBJECT:
            assert all(seen_label != label for seen_label, _ in seen)
    assert set(split([(label, "pictogram") for label in LABELS])) == {TRAIN, NEW_SUBJECT}


def test_no_caption_but_its_own_has_a_held_out_subject_s_word():
    labels = ["lizard", "dragon", "dragon"]
    tags = [("reptile", "lizard face"), ("lizard", "lizard face", "reptile"), ("lizard head",)]
    parts = [NEW_SUBJECT, TRAIN, NEW_PAIR]
    assert without_held_out(tags, labels, parts) == [tags[0], ("reptile",), ()]
    assert without_held_out(tags, labels, [TRAIN] * 3) == tags


def poisoned(corpus: Corpus) -> Corpus:
    """The same but for what is held out: other pixels, other words."""
    held = np.array([e.split != TRAIN for e in corpus.entries])
    chance = np.random.default_rng(0).integers(0, 256, corpus.pictures.shape, dtype=np.uint8)
    pictures = np.where(held[:, None, None, None], chance, corpus.pictures)
    alpha = np.where(held[:, None, None], chance[..., 0], corpus.alpha)
    entries = [
        replace(e, subject="zebra", tags=("zoo",)) if e.split == NEW_SUBJECT else e
        for e in corpus.entries
    ]
    return Corpus(pictures, tuple(entries), alpha)


SIZES = ((64, 64), (96, 64), (64, 96))
UNET = replace(
    test_recipe.UNET,
    frames=tuple(
        Frame(w, h, share, 4) for (w, h), share in zip(SIZES, (0.4, 0.3, 0.3), strict=True)
    ),
)


def weights_of(corpus: Corpus, folder: Path) -> list[bytes]:
    """Everything that the three stages make of a corpus."""
    list(autoencoder.train(corpus, test_recipe.VAE, folder / "autoencoder"))
    list(
        clip.train(corpus, word_bank(), replace(test_recipe.CLIP, picture_size=64), folder / "clip")
    )
    list(pretrain.train(corpus, UNET, folder))
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".txt"))
    kept = [f for f in files if "checkpoint" not in str(f)]
    assert len(kept) == 5  # three networks and the vision tower, and the tokenizer's merges
    return [f.read_bytes() for f in kept]


def test_no_stage_learns_anything_from_what_is_held_out(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", size=64)
    assert (poisoned(corpus).pictures != corpus.pictures).any()
    texts = [
        list(clip._texts(c, paint_bank(c, c.training_rows, (64, 64), 4, 0), word_bank()))
        for c in (corpus, poisoned(corpus))
    ]
    assert texts[0] == texts[1]
    first = weights_of(corpus, tmp_path / "a")
    shutil.copytree(tmp_path / "a" / "clip" / "tokenizer", tmp_path / "b" / "clip" / "tokenizer")
    assert weights_of(poisoned(corpus), tmp_path / "b") == first


def test_a_picture_that_is_there_already_is_found_by_its_bytes_and_by_its_looks():
    chance = np.random.default_rng(0)
    picture = np.kron(chance.integers(0, 200, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    seen = Seen()
    assert seen.find_or_add("3d render", picture, 0) == 0
    assert seen.find_or_add("3d render", picture.copy(), 1) == 0
    assert seen.find_or_add("3d render", picture + 2, 1) == 0  # to the eye the same
    assert seen.find_or_add("pictogram", picture, 1) == 1  # in another style it is another
    assert seen.find_or_add("3d render", picture[:, ::-1], 2) == 2
    assert seen.find_or_add("3d render", picture // 2 + 90, 3) == 3  # another colour

"""The corpus: one subject in five styles, built once, found whole or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from studio.core.errors import TrainingError
from studio.core.events import StageArtifact
from studio.training import corpus
from studio.training.corpus import on_white, pencil_sketch
from tests.training.synthetic import (
    ALL_STYLES,
    COLOURS,
    SUBJECTS,
    TINY,
    make_corpus,
    make_packages,
)


@pytest.fixture
def built(tmp_path):
    pinned = make_packages(tmp_path / "packages")
    events = list(corpus.build(tmp_path, TINY, pinned))
    return tmp_path, pinned, events


def test_every_subject_is_drawn_in_every_style_on_white(built):
    folder, _, events = built
    found = corpus.load(folder)
    assert {(e.subject, e.style) for e in found.entries} == {
        (subject, style) for subject in SUBJECTS for style in ALL_STYLES
    }
    assert found.pictures.shape == (20, 32, 32, 3)
    assert found.pictures.dtype == np.uint8
    assert all(
        (picture[0] == 255).all()
        for picture, entry in zip(found.pictures, found.entries, strict=True)
        if entry.style != "pencil sketch"  # its strokes are blurred into the margin
    )
    assert events[-1] == StageArtifact("corpus", str(folder / "samples.png"))
    with Image.open(folder / "samples.png") as sheet:
        assert sheet.size == (4 * 32, 5 * 32)


def test_a_row_of_pictures_is_what_its_entry_says(built):
    found = corpus.load(built[0])
    for row, entry in enumerate(found.entries):
        wanted = bytes.fromhex(COLOURS[SUBJECTS.index(entry.subject)][1:])
        centre = found.pictures[row, 16, 16].astype(int)
        if entry.style == "pencil sketch":
            assert centre.min() > 240
        else:
            assert np.abs(centre - list(wanted)).max() < 4, entry


def test_rows_gives_the_asked_subjects_in_the_asked_styles(built):
    found = corpus.load(built[0])
    rows = found.rows(frozenset({"dog", "house"}), ("3d render", "pencil sketch"))
    assert [(found.entries[r].subject, found.entries[r].style) for r in rows] == [
        ("dog", "3d render"),
        ("dog", "pencil sketch"),
        ("house", "3d render"),
        ("house", "pencil sketch"),
    ]


def test_every_picture_carries_the_licence_of_its_package(built):
    licences = {e.style: e.licence for e in corpus.load(built[0]).entries}
    assert licences == {
        "3d render": "MIT",
        "pencil sketch": "MIT",
        "flat illustration": "MIT",
        "shaded cartoon": "Apache-2.0",
        "simple icon": "CC-BY-4.0",
    }


def test_a_finished_corpus_is_not_built_again(built):
    folder, pinned, _ = built
    before = (folder / "pictures.npy").stat().st_mtime_ns
    [event] = corpus.build(folder, TINY, pinned)
    assert event.metrics == {"pictures": 20.0}
    assert (folder / "pictures.npy").stat().st_mtime_ns == before


def test_another_recipe_builds_the_corpus_again(built):
    folder, pinned, _ = built
    list(corpus.build(folder, corpus.CorpusConfig(size=16), pinned))
    assert corpus.load(folder).pictures.shape == (20, 16, 16, 3)


def test_a_missing_corpus_is_a_sentence(tmp_path):
    with pytest.raises(TrainingError, match=r"no corpus yet. Run `python launch.py train corpus`"):
        corpus.load(tmp_path)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_byte(folder / "pictures.npy"),
        lambda folder: (folder / "pictures.npy").unlink(),
        lambda folder: (folder / "index.jsonl").write_text("{"),
        lambda folder: (folder / "MANIFEST.json").write_text('{"recipe": "'),
        lambda folder: (folder / "MANIFEST.json").write_text("[]"),
    ],
)
def test_a_damaged_corpus_is_a_sentence_and_is_built_again(built, damage):
    folder, pinned, _ = built
    whole = np.array(corpus.load(folder).pictures)
    damage(folder)
    with pytest.raises(TrainingError, match=r"damaged. Run `python launch.py train corpus` again"):
        corpus.load(folder)
    list(corpus.build(folder, TINY, pinned))
    assert np.array_equal(corpus.load(folder).pictures, whole)


def test_the_synthetic_corpus_of_other_tests_loads(tmp_path):
    made = make_corpus(tmp_path, size=16)
    loaded = corpus.load(tmp_path)
    assert np.array_equal(loaded.pictures, made.pictures)
    assert loaded.entries == made.entries


def test_a_cut_out_is_composed_on_white_with_a_margin():
    red = Image.new("RGBA", (50, 50), (255, 0, 0, 255))
    picture = np.asarray(on_white(red, 128))
    assert picture.shape == (128, 128, 3)
    assert (picture[:, :4] == 255).all() and (picture[-4:] == 255).all()
    assert (picture[4:-4, 4:-4] == [255, 0, 0]).all()
    assert (np.asarray(on_white(Image.new("RGBA", (50, 50)), 128)) == 255).all()


def test_a_pencil_sketch_has_dark_edges_and_white_areas():
    levels = np.full((128, 128, 3), 250, np.uint8)
    levels[32:96, 32:96] = 90
    sketch = np.asarray(pencil_sketch(Image.fromarray(levels), 64))
    assert sketch.shape == (64, 64, 3)
    assert (sketch[:12] > 245).all()  # outside
    assert (sketch[24:40, 24:40] > 245).all()  # inside, although it is dark in the picture
    assert (sketch[20:44, 16].max(axis=1) < 150).all()  # the left edge, from top to bottom


def test_the_subject_list_has_250_distinct_things_in_lower_case():
    subjects = corpus.starter_subjects()
    assert len(subjects) >= 250
    assert len(set(subjects)) == len(subjects)
    assert all(s == s.strip().lower() and s for s in subjects)
    text = (corpus.STARTER_MODEL / "subjects.txt").read_text(encoding="utf-8")
    assert text.splitlines() == list(subjects)  # nothing else in the file


def test_the_index_is_one_json_object_a_line(built):
    lines = (built[0] / "index.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {
        "subject": "cat",
        "style": "3d render",
        "tags": ["thing", "cat"],
        "licence": "MIT",
    }

"""The corpus: one subject in five styles, built once, found whole or refused."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from studio.core.errors import TrainingError
from studio.core.events import Notice, StageArtifact
from studio.training.dataset import corpus
from studio.training.dataset.corpus import Corpus, Entry
from studio.training.dataset.packages import CLIP_ART, FLAT, GAME_ICONS, NOTO, RENDERS, TWEMOJI
from studio.training.dataset.rasterise import draw_original, ink_drawing, on_white, pencil_sketch
from studio.training.dataset.sources import (
    Original,
    _svg,
    load_originals,
    recipe_of,
    write_originals,
)
from tests.training.synthetic import (
    COLOURS,
    SUBJECTS,
    TINY,
    ellipse,
    make_corpus,
    make_packages,
)


@pytest.fixture
def built(tmp_path):
    pinned = make_packages(tmp_path / "packages")
    events = list(corpus.build(tmp_path, TINY, pinned))
    return tmp_path, pinned, events


EMOJI = ("3d render", "flat illustration", "shaded cartoon", "simple icon")
FROM_RENDERS = (*EMOJI, "pencil sketch", "ink drawing")


def test_every_subject_is_drawn_in_every_style_on_white(built):
    folder, _, events = built
    found = corpus.load(folder)
    assert Counter((e.subject, e.style) for e in found.entries) == Counter(
        [
            *((subject, style) for subject in SUBJECTS for style in FROM_RENDERS),
            ("cat", "pictogram"),
            *(("dog", style) for style in ("clip art", "pencil sketch", "ink drawing")),
        ]
    )
    assert found.pictures.shape == (28, 32, 32, 3)
    assert found.alpha.shape == (28, 32, 32)
    assert found.pictures.dtype == found.alpha.dtype == np.uint8
    assert all(
        (picture[0] == 255).all()
        for picture, entry in zip(found.pictures, found.entries, strict=True)
        if entry.style not in ("pencil sketch", "ink drawing")  # strokes blur into the margin
    )
    assert events[-1] == StageArtifact("corpus", str(folder / "samples.png"))
    with Image.open(folder / "samples.png") as sheet:
        assert sheet.width % 32 == 0 and sheet.height >= 6 * 32


def test_a_row_of_pictures_is_what_its_entry_says(built):
    found = corpus.load(built[0])
    for row, entry in enumerate(found.entries):
        wanted = bytes.fromhex(COLOURS[SUBJECTS.index(entry.subject)][1:])
        centre = found.pictures[row, 16, 16].astype(int)
        assert found.alpha[row, 16, 16] == 255 and found.alpha[row, 0, 0] == 0
        if entry.style in EMOJI:
            assert np.abs(centre - list(wanted)).max() < 4, entry
        elif entry.style == "pencil sketch":
            assert centre.min() > 240


def test_rows_gives_the_asked_subjects_styles_and_parts():
    parts = ("train", "new subject", "train", "train")
    entries = tuple(
        Entry(subject, style, (), "MIT", "", part)
        for subject, part in zip(("cat", "dog", "house", "cat"), parts, strict=True)
        for style in ("3d render", "pencil sketch")
    )
    made = Corpus(np.zeros((8, 2, 2, 3), np.uint8), entries)
    assert made.rows(frozenset({"dog", "house"}), ("3d render",)).tolist() == [4]
    assert made.rows(None, ("3d render",)).tolist() == [0, 4, 6]
    assert made.rows(None, ("3d render",), ("new subject",)).tolist() == [2]
    assert made.training_rows.tolist() == [0, 1, 4, 5, 6, 7]


def test_every_picture_carries_the_licence_of_its_package(built):
    licences = {(e.style, e.source): e.licence for e in corpus.load(built[0]).entries}
    assert licences == {
        ("3d render", RENDERS): "MIT",
        ("pencil sketch", RENDERS): "MIT",
        ("ink drawing", RENDERS): "MIT",
        ("flat illustration", FLAT): "MIT",
        ("shaded cartoon", NOTO): "Apache-2.0",
        ("simple icon", TWEMOJI): "CC-BY-4.0",
        ("pictogram", GAME_ICONS): "CC-BY-3.0",
        ("clip art", CLIP_ART): "public domain",
        ("pencil sketch", CLIP_ART): "public domain",
        ("ink drawing", CLIP_ART): "public domain",
    }


def test_the_originals_make_the_same_corpus_without_packages_or_network(built, tmp_path):
    folder, pinned, _ = built
    other = tmp_path / "other"
    other.mkdir()
    for name in ("originals.zip", "words.npz"):
        shutil.copy2(folder / name, other / name)
    list(corpus.build(other, TINY, pinned))
    assert not (other / "packages").exists()
    assert np.array_equal(corpus.load(other).pictures, corpus.load(folder).pictures)
    assert corpus.load(other).entries == corpus.load(folder).entries


def test_a_corpus_half_built_is_no_corpus_and_takes_nothing_from_the_one_before(tmp_path):
    pinned = make_packages(tmp_path / "packages")
    for before in (None, TINY.size):
        half = corpus.build(tmp_path, corpus.CorpusConfig(size=16), pinned)
        for event in half:
            if "pictures" in getattr(event, "metrics", {}):
                half.close()
        if before is None:
            with pytest.raises(TrainingError, match=r"no corpus yet. Run `python launch.py train"):
                corpus.load(tmp_path)
            list(corpus.build(tmp_path, TINY, pinned))
        else:
            assert corpus.load(tmp_path).pictures.shape == (28, before, before, 3)
    assert not list(tmp_path.glob("*.tmp"))


DRAWN = ("pictures.npy", "alpha.npy", "index.jsonl", "MANIFEST.json")


@pytest.mark.parametrize("file", ["originals.zip", "words.npz", *DRAWN])
def test_a_full_disk_takes_nothing_away_and_the_same_command_goes_on(tmp_path, file):
    pinned = make_packages(tmp_path / "packages")
    if file in DRAWN:
        list(corpus.build(tmp_path, TINY, pinned))
    (tmp_path / f"{file}.tmp").symlink_to("/dev/full")
    larger = corpus.CorpusConfig(size=48)
    with pytest.raises(OSError, match="No space left on device"):
        list(corpus.build(tmp_path, larger, pinned))
    assert not list(tmp_path.glob("*.tmp"))
    if file in DRAWN:
        assert corpus.load(tmp_path).pictures.shape == (28, 32, 32, 3)
    list(corpus.build(tmp_path, larger, pinned))
    assert corpus.load(tmp_path).pictures.shape == (28, 48, 48, 3)


def test_an_old_corpus_can_be_judged_with_and_not_trained_on(tmp_path):
    make_corpus(tmp_path, size=16, old=True)
    assert not corpus.load(tmp_path).has_split
    with pytest.raises(TrainingError, match=r"older recipe: nothing is held out .* it makes it"):
        corpus.load_for_training(tmp_path)


def original(content: bytes, style: str = "flat illustration") -> Original:
    return Original("cat", style, (), "MIT", "somewhere", content)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return b"RIFF" + stream.getvalue()[4:] if kind == "WEBP" else stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='1e9' height='1'><rect/></svg>",
        b"RIFF\x00\x00",
        encoded(Image.new("RGBA", (64, 64), "red"), "WEBP")[:60],
        encoded(Image.new("RGBA", (8, 8)), "WEBP"),
        encoded(Image.new("RGB", (8, 8), "white"), "WEBP"),
        encoded(Image.new("CMYK", (8, 8)), "JPEG"),
        encoded(Image.new("I;16", (8, 8)), "PNG"),
    ],
)
def test_an_original_that_cannot_be_read_or_shows_nothing_is_left_out(content):
    assert draw_original(original(content), 32, 2) == []


BOMB = encoded(Image.new("RGB", (4001, 4000), "red"), "WEBP", lossless=True, method=0)
LARGE = encoded(Image.new("1", (4001, 4000)), "PNG")  # a few kB, 16 million pixels and some


@pytest.mark.parametrize(
    "content",
    [
        BOMB,
        b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><rect width='9' height='9'/>"
        b"<image width='9' height='9' href='data:image/png;base64,%s'/></svg>"
        % base64.b64encode(LARGE),
    ],
)
def test_an_original_that_would_fill_the_memory_is_left_out_before_it_is_decoded(content):
    assert draw_original(original(content), 32, 2) == []


def test_what_is_left_out_is_told_by_name_and_the_rest_is_there(built, tmp_path):
    folder, pinned, events = built
    assert not any(isinstance(event, Notice) for event in events)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy2(folder / "words.npz", other / "words.npz")
    path = folder / "originals.zip"
    bomb = replace(original(BOMB), subject="whale")
    whole = [bomb, *load_originals(path), *([original(b"")] * 9)]
    write_originals(other / "originals.zip", iter(whole), recipe_of(path))
    [told] = [e.sentence for e in corpus.build(other, TINY, pinned) if isinstance(e, Notice)]
    assert told.startswith(
        "10 originals left out, which cannot be read, show nothing or are larger"
    )
    assert "than 16,000,000 pixels: whale (flat illustration), cat (flat illustration)," in told
    assert told.endswith(" and 2 more.")
    assert np.array_equal(corpus.load(other).pictures, corpus.load(folder).pictures)


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGBA", (1, 1), "red"),
        Image.new("RGBA", (3000, 20), "red"),
        Image.new("P", (20, 20), 7),
        Image.new("RGB", (50, 50), "blue"),
    ],
)
def test_an_original_of_any_shape_and_mode_is_fitted_into_the_square(picture):
    content = encoded(picture.convert("RGBA"), "WEBP", lossless=True)
    [(style, levels, alpha)] = draw_original(original(content), 32, 2)
    assert (style, levels.shape, alpha.shape) == ("flat illustration", (32, 32, 3), (32, 32))
    assert alpha.max() == 255 and (levels[alpha == 0] == 255).all()


def test_two_frames_of_one_original_count_as_one_picture():
    frames = [Image.new("RGBA", (16, 16), c) for c in ("red", "blue")]
    content = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    [(_, levels, _)] = draw_original(original(content), 32, 2)
    assert (levels[16, 16] == [255, 0, 0]).all()


def test_tags_that_name_what_is_held_out_are_left_out(tmp_path):
    make_corpus(tmp_path, size=16)
    originals = [
        Original(subject, "flat illustration", tags, "MIT", "", svg(number))
        for number, (subject, tags) in enumerate(
            {"lizard": ("reptile",), "dragon": ("lizard", "lizard face", "reptile")}.items()
        )
    ]
    origin = corpus._origin(corpus.PACKAGES)
    write_originals(tmp_path / "originals.zip", iter(originals), origin)
    list(corpus.build(tmp_path, TINY))
    found = {e.subject: (e.split, e.tags) for e in corpus.load(tmp_path).entries}
    assert found == {
        "lizard": ("new subject", ("reptile",)), "dragon": ("train", ("reptile",))
    }  # fmt: skip


def svg(number: int) -> bytes:
    return _svg(ellipse(number), 16, 16).encode()


def test_a_finished_corpus_is_not_built_again(built):
    folder, pinned, _ = built
    before = (folder / "pictures.npy").stat().st_mtime_ns
    [event] = corpus.build(folder, TINY, pinned)
    assert event.metrics == {"pictures": 28.0}
    assert (folder / "pictures.npy").stat().st_mtime_ns == before


def test_another_recipe_builds_the_corpus_again(built):
    folder, pinned, _ = built
    list(corpus.build(folder, corpus.CorpusConfig(size=16), pinned))
    assert corpus.load(folder).pictures.shape == (28, 16, 16, 3)


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
    whole = on_white(red, 128)
    picture, alpha = whole[..., :3], whole[..., 3]
    assert picture.shape == (128, 128, 3)
    assert (alpha[4:-4, 4:-4] == 255).all() and not alpha[:4].any()
    assert (picture[:, :4] == 255).all() and (picture[-4:] == 255).all()
    assert (picture[4:-4, 4:-4] == [255, 0, 0]).all()
    assert (on_white(Image.new("RGBA", (50, 50)), 128)[..., :3] == 255).all()


def test_a_pencil_sketch_has_dark_edges_and_white_areas():
    levels = np.full((128, 128, 3), 250, np.uint8)
    levels[32:96, 32:96] = 90
    sketch = np.asarray(pencil_sketch(Image.fromarray(levels), 64))
    assert sketch.shape == (64, 64, 3)
    assert (sketch[:12] > 245).all()  # outside
    assert (sketch[24:40, 24:40] > 245).all()  # inside, although it is dark in the picture
    assert (sketch[20:44, 16].max(axis=1) < 150).all()  # the left edge, from top to bottom


def test_an_ink_drawing_is_black_and_white_with_lines_where_the_picture_changes():
    levels = np.full((128, 128, 3), 250, np.uint8)
    levels[32:96, 32:96] = 150
    ink = np.asarray(ink_drawing(Image.fromarray(levels), 64))
    assert (ink[:12] > 245).all()
    assert ink[20:44, 15:18].min() < 100
    assert ((ink < 60) | (ink > 195)).mean() > 0.9


def test_the_subject_list_has_250_distinct_things_in_lower_case():
    subjects = corpus.starter_subjects()
    assert len(subjects) >= 250
    assert len(set(subjects)) == len(subjects)
    assert all(s == s.strip().lower() and s for s in subjects)
    text = corpus.SUBJECTS.read_text(encoding="utf-8")
    assert text.splitlines() == list(subjects)  # nothing else in the file


def test_the_index_is_one_json_object_a_line(built):
    lines = (built[0] / "index.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {
        "subject": "cat",
        "style": "3d render",
        "tags": ["thing", "cat"],
        "licence": "MIT",
        "source": RENDERS,
        "split": "train",
    }

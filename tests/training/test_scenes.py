"""Composed scenes: what the caption says is what stands in the picture, and nothing held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import TrainingError
from studio.training.dataset.backdrops import BACKDROPS, TIMES, paint_backdrop
from studio.training.dataset.captions import SHOTS, read_caption
from studio.training.dataset.scenes import (
    ASPECTS,
    Scene,
    describe,
    draw_scene,
    paint,
    paint_bank,
    said_of,
    sibling,
)
from studio.training.stages.evaluate import at_size, in_place, placement
from tests.training.synthetic import make_corpus

SIZES = ((128, 128), (176, 96), (96, 176))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("scenes"), size=64)


def pools(corpus) -> dict[str, np.ndarray]:
    rows: dict[str, list[int]] = {}
    for row in corpus.training_rows:
        rows.setdefault(corpus.entries[row].style, []).append(row)
    return {style: np.array(found) for style, found in rows.items()}


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from(SIZES))
def test_a_scenes_caption_is_read_back_as_the_scene(corpus, seed, size):
    choose = np.random.default_rng(seed)
    scene = draw_scene(corpus, pools(corpus), size, choose)
    for one in (scene, sibling(scene, size, choose)):
        text = describe(one, corpus)
        asked = read_caption(text)
        assert asked.shot == (one.shot or None)
        assert asked.count == (one.count if one.count > 1 else None)
        if len(one.rows) == 1:
            assert asked.place == (one.place or None)
        assert text.endswith(one.style)
        assert one.backdrop in text and one.time in text and one.colour in text
        for (aspect, values), number in zip(ASPECTS.items(), said_of(one), strict=True):
            unsaid = 1 if aspect == "count" else ""
            assert getattr(one, aspect) == (unsaid if number < 0 else values[number])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from(SIZES))
def test_siblings_differ_in_one_thing_that_the_caption_tells(corpus, seed, size):
    choose = np.random.default_rng(seed)
    scene = draw_scene(corpus, pools(corpus), size, choose)
    other = sibling(scene, size, choose)
    assert sum(a != b for a, b in zip(vars(scene).values(), vars(other).values(), strict=True)) == 1
    assert describe(scene, corpus) != describe(other, corpus)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", ["on the left", "in the centre", "on the right"])
@pytest.mark.parametrize("shot", ["medium shot", "wide shot", "extreme wide shot"])
def test_a_subject_is_measured_on_the_side_and_at_the_size_that_was_asked_for(
    corpus, size, place, shot
):
    if SHOTS[shot] * min(size) > 0.7 * size[0]:
        place = ""
    row = pools(corpus)["simple icon"][0]
    scene = Scene((int(row),), "simple icon", shot=shot, place=place)
    found = placement(paint(scene, corpus, size, np.random.default_rng(0)))
    assert not place or in_place(found, place)
    assert at_size(found, shot, size)
    wrong = {"on the left": "on the right"}.get(place, "on the left")
    assert not in_place(found, wrong)
    assert not at_size(found, "close-up", size)


def test_a_counted_thing_stands_there_as_often(corpus):
    row = int(pools(corpus)["flat illustration"][0])
    for count in (2, 3, 4, 5):
        scene = Scene((row,), "flat illustration", count=count)
        picture = paint(scene, corpus, (176, 96), np.random.default_rng(0))
        columns = (picture.min(axis=2) < 200).any(axis=0)
        assert (np.diff(columns.astype(int)) == 1).sum() + columns[0] == count


def test_scenes_are_the_same_for_one_seed_and_others_for_another(corpus):
    first, again, other = (
        paint_bank(corpus, corpus.training_rows, (64, 64), 6, seed) for seed in (1, 1, 2)
    )
    assert first.captions == again.captions != other.captions
    assert np.array_equal(first.pictures, again.pictures)


def test_a_scene_holds_nothing_that_is_held_out(corpus):
    bank = paint_bank(corpus, corpus.training_rows, (32, 32), 200, 0)
    used = {row for scene in bank.scenes for row in scene.rows}
    assert used <= set(corpus.training_rows.tolist())
    assert len(used) > len(corpus.training_rows) // 2


@pytest.mark.parametrize("words", ["", *BACKDROPS])
def test_every_backdrop_is_painted_by_day_and_night(words):
    for time in ("", *TIMES):
        picture = paint_backdrop(words, time, (44, 24), np.random.default_rng(0))
        assert picture.size == (44, 24)
    day, night = (
        np.asarray(paint_backdrop(words, t, (44, 24), np.random.default_rng(0))).mean()
        for t in ("by day", "at night")
    )
    assert night < day - 40 or not words.startswith(("in", "by")) or words == "in a room"


def test_an_old_corpus_cannot_be_composed_from_and_says_so(tmp_path):
    old = make_corpus(tmp_path, size=16, old=True)
    with pytest.raises(TrainingError, match=r"no cut-outs. Run `python launch.py train corpus`"):
        paint(Scene((0,), "3d render"), old, (16, 16), np.random.default_rng(0))

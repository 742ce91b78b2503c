"""Captions: varied, and read back as they were meant."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.training.dataset.captions import (
    NUMBERS,
    PLACES,
    SHOTS,
    Asked,
    caption,
    is_countable,
    noun,
    plural,
    read_caption,
)

TAGS = ("apple", "fruit", "red", "food", "diet")


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_caption_names_its_style_and_the_subject_or_its_synonyms(seed):
    text = caption("red apple", TAGS, "3d render", np.random.default_rng(seed))
    assert "3d render" in text
    assert "red apple" in text or set(text.split(", ")) <= {"fruit", "food", "diet", "3d render"}


def test_captions_vary_in_words_and_order():
    choose = np.random.default_rng(0)
    found = Counter(caption("red apple", TAGS, "3d render", choose) for _ in range(1000))
    assert {
        "red apple, 3d render",
        "3d render of a red apple",
        "a red apple, 3d render",
        "3d render, red apple",
    } <= found.keys()
    assert 330 < found["red apple, 3d render"] < 470
    assert len(found) > 10


@pytest.mark.parametrize(
    ("subject", "one", "many"),
    [
        ("cat", "a cat", "cats"),
        ("owl", "an owl", "owls"),
        ("fox", "a fox", "foxes"),
        ("berry", "a berry", "berries"),
        ("key", "a key", "keys"),
        ("unicorn", "a unicorn", "unicorns"),
    ],
)
def test_things_have_an_article_and_a_plural(subject, one, many):
    assert (noun(subject), plural(subject), is_countable(subject)) == (one, many, True)


@pytest.mark.parametrize("subject", ["glasses", "woman", "man in suit", "person running", "mouse"])
def test_what_has_no_plain_plural_is_not_counted(subject):
    assert not is_countable(subject)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Wide shot of a cat on the left, 3d render", Asked("wide shot", "on the left", None)),
        ("extreme wide shot of a cat", Asked("extreme wide shot", None, None)),
        ("flat illustration, close-up of two cats", Asked("close-up", None, 2)),
        ("five red owls, on a blue background, clip art", Asked(None, None, 5)),
        ("cat, 3d render", Asked(None, None, None)),
        ("a left shoe", Asked(None, None, None)),
        ("", Asked(None, None, None)),
    ],
)
def test_a_caption_is_read_back(text, asked):
    assert read_caption(text) == asked


@given(st.text(max_size=200))
def test_any_text_is_read_without_failing(text):
    asked = read_caption(text)
    assert asked.shot in (None, *SHOTS) and asked.place in (None, *PLACES)
    assert asked.count in (None, *NUMBERS)

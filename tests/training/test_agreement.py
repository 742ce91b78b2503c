"""How far raters can be trusted, against the krippendorff package and made-up raters."""

from __future__ import annotations

from itertools import count

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from studio.core.vote import Vote
from studio.training.preference.agreement import (
    answer_table,
    krippendorff_alpha,
    raters_agreement,
)
from studio.training.preference.comparisons import comparisons_from_votes

NUMBERS = count()


def picture(number):
    return f"{number:064x}"


def vote(left, right, choice, *, rater="ada", prompt="owl", ms=2000, **more):
    return Vote(
        id=f"v{next(NUMBERS)}", created_at=1.0, rater=rater, left=picture(left),
        right="" if choice in ("star", "rating") else picture(right), choice=choice,
        prompt=prompt, response_ms=ms, **more,
    )  # fmt: skip


@given(
    arrays(np.int64, st.tuples(st.integers(2, 5), st.integers(1, 12)), elements=st.integers(-1, 3))
)
@settings(max_examples=60, deadline=None)
def test_alpha_is_the_krippendorff_packages(table):
    found = krippendorff_alpha(table)
    counts = np.stack([(table == c).sum(axis=0) for c in range(4)], axis=1)
    counts = counts[counts.sum(axis=1) >= 2]
    if len(counts) == 0 or (counts.sum(axis=0) > 0).sum() < 2:
        assert found is None
        return
    data = np.where(table < 0, np.nan, table)
    oracle = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
    assert found.value == pytest.approx(oracle, abs=1e-9)
    assert found.low <= found.value <= found.high


def test_raters_who_answer_alike_agree_whichever_side_the_pictures_stood_on():
    votes = []
    for pair in range(20):
        one, other = 2 * pair, 2 * pair + 1
        votes.append(vote(one, other, "left" if pair % 2 else "right"))
        votes.append(vote(other, one, "right" if pair % 2 else "left", rater="bob"))
    found = raters_agreement(votes)
    assert (found.value, found.units) == (1.0, 20)
    assert raters_agreement(votes[::2]) is None


def test_the_interval_of_alpha_narrows_with_more_pairs():
    chance = np.random.default_rng(0)

    def width(pairs):
        truth = chance.integers(2, size=pairs)
        table = np.where(chance.random((3, pairs)) < 0.2, 1 - truth, truth)
        found = krippendorff_alpha(table)
        assert found.low < 0.36 + 0.15 and found.high > 0.36 - 0.15  # (1 - 2 * 0.2)^2
        return found.high - found.low

    assert width(400) < 0.6 * width(60)


def test_an_answer_table_keeps_each_raters_first_answer_and_no_skips():
    votes = [
        vote(1, 2, "left"), vote(2, 1, "left", repeat_of="v0"), vote(1, 2, "skip", rater="bob"),
        vote(3, 4, "tie", rater="bob"),
    ]  # fmt: skip
    table, raters = answer_table(votes)
    assert raters == ("ada", "bob")
    assert table.tolist() == [[0, -1], [-1, 2]]


FEATURES = {picture(n): np.full(3, float(n), dtype=np.float32) for n in range(10)}


def test_votes_become_numbers_and_what_prefers_nothing_is_left_out():
    votes = [
        vote(1, 2, "left"), vote(3, 4, "right", prompt="castle"), vote(5, 6, "tie"),
        vote(1, 3, "both_bad"), vote(1, 4, "skip"), vote(1, 99, "left"),
        vote(2, 0, "star", strength=1),
        vote(1, 2, "left", held_out=True),
    ]  # fmt: skip
    found = comparisons_from_votes(votes, FEATURES, encoder=("name", "ab"))
    assert found.choice.tolist() == [1.0, 0.0, 0.5]
    assert found.phi_left[:, 0].tolist() == [1, 3, 5]
    assert found.prompt_group.tolist() == [0, 1, 0]
    assert found.encoder_sha256 == "ab"
    assert len(comparisons_from_votes(votes, FEATURES, held_out=True)) == 1
    assert len(comparisons_from_votes(votes, FEATURES, held_out=None)) == 4


def test_ratings_of_one_prompt_are_comparisons_that_weigh_as_many_votes_as_pictures():
    votes = [vote(n, 0, "rating", strength=s) for n, s in ((1, 5), (2, 3), (3, 3), (4, 0))]
    found = comparisons_from_votes(votes, FEATURES)
    pairs = list(zip(found.phi_left[:, 0], found.phi_right[:, 0], found.choice, strict=True))
    assert pairs == [(1, 2, 1.0), (1, 3, 1.0)]  # 2 and 3 alike; 4 was taken back
    assert found.weight.tolist() == [1.0, 1.0]


def test_the_hash_names_the_votes():
    votes = [vote(1, 2, "left"), vote(3, 4, "right")]
    one = comparisons_from_votes(votes, FEATURES).votes_hash
    assert one == comparisons_from_votes(list(votes), FEATURES).votes_hash
    assert one != comparisons_from_votes(votes[:1], FEATURES).votes_hash


def test_no_votes_are_no_comparisons():
    found = comparisons_from_votes([], FEATURES)
    assert (len(found), found.phi_left.shape, found.prompts) == (0, (0, 3), 0)

"""The geometry of edits: sizes, crops and extensions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import InvalidRequestError
from studio.core.geometry import (
    contained_size,
    covering_box,
    crop_box,
    drawn_size,
    extension_to_aspect,
    padded_size,
    result_size,
)
from studio.core.request import GenerationRequest

TEXT = GenerationRequest(width=128, height=64)
SOURCE, MASK = "a" * 64, "b" * 64
SIDES = st.integers(1, 3000)
SIZES = st.tuples(SIDES, SIDES)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (128, 64)),
        ({"hires_scale": 1.5}, (192, 96)),
        ({"source": SOURCE}, (128, 64)),
        ({"source": SOURCE, "extend": (10, 0, 5, 1)}, (143, 65)),
        ({"source": SOURCE, "mask": MASK}, (128, 64)),
        ({"source": SOURCE, "mask": MASK, "inpaint_area": "only masked"}, (300, 200)),
        ({"source": SOURCE, "inpaint_area": "only masked"}, (128, 64)),
        ({"source": SOURCE, "inpaint_area": "only masked", "extend": (0, 7, 0, 0)}, (300, 207)),
    ],
)
def test_result_has_the_size_that_the_request_says(changes, expected):
    request = TEXT.with_changes(**changes)
    assert result_size(request, (300, 200)) == expected


def test_only_a_crop_is_drawn_at_the_size_of_the_request():
    request = TEXT.with_changes(
        source=SOURCE, mask=MASK, inpaint_area="only masked", extend=(0, 0, 500, 0)
    )
    assert drawn_size(request) == (128, 64)
    assert drawn_size(request.with_changes(inpaint_area="whole picture")) == (628, 64)


def test_growing_out_of_reach_is_refused_at_its_field():
    request = TEXT.with_changes(source=SOURCE, width=4096, extend=(4096, 0, 4096, 0))
    with pytest.raises(InvalidRequestError, match="12288 x 64") as refusal:
        result_size(request, (300, 200))
    assert refusal.value.field == "extend"


@pytest.mark.parametrize(
    ("size", "aspect", "expected"),
    [
        ((90, 90), (16, 9), (32, 0, 38, 0)),
        ((160, 90), (16, 9), (0, 0, 0, 0)),
        ((160, 80), (16, 9), (0, 0, 0, 10)),
        ((100, 100), (1, 2), (0, 48, 0, 52)),
    ],
)
def test_extension_to_an_aspect_grows_on_both_sides(size, aspect, expected):
    assert extension_to_aspect(size, aspect) == expected


@given(SIZES, st.tuples(st.integers(1, 32), st.integers(1, 32)))
def test_extension_reaches_the_aspect_and_cuts_nothing(size, aspect):
    left, top, right, bottom = extension_to_aspect(size, aspect)
    width, height = size[0] + left + right, size[1] + top + bottom
    assert min(left, top, right, bottom) >= 0
    assert width == size[0] or height == size[1]
    wider, taller = (width + 0.5) / (height - 0.5), (width - 0.5) / (height + 0.5)
    assert taller <= aspect[0] / aspect[1] <= wider


def test_proportions_of_nothing_are_refused():
    with pytest.raises(InvalidRequestError):
        extension_to_aspect((10, 10), (0, 9))


@st.composite
def painted_boxes(draw):
    width, height = draw(SIZES)
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return (width, height), (left, top, right, bottom)


@given(painted_boxes(), st.integers(0, 300), SIZES)
def test_crop_holds_all_that_is_painted_and_stays_inside(painted, padding, frame):
    bounds, (left, top, right, bottom) = painted
    box = crop_box((left, top, right, bottom), padding, bounds, frame)
    assert 0 <= box[0] <= left and right <= box[2] <= bounds[0]
    assert 0 <= box[1] <= top and bottom <= box[3] <= bounds[1]
    assert box[0] <= max(0, left - padding) and box[3] >= min(bounds[1], bottom + padding)


@given(painted_boxes(), st.integers(0, 300), SIZES)
def test_crop_has_the_proportions_that_are_drawn_where_there_is_room(painted, padding, frame):
    bounds, box = painted
    left, top, right, bottom = crop_box(box, padding, bounds, frame)
    width, height = right - left, bottom - top
    off = abs(width * frame[1] - height * frame[0])
    one_pixel = max(frame)  # what rounding a side to whole pixels may change of the products
    assert off <= one_pixel or width == bounds[0] or height == bounds[1]


@given(SIZES, SIZES)
def test_contained_size_fits_and_touches_the_frame(size, frame):
    width, height = contained_size(size, frame)
    assert 1 <= width <= frame[0] and 1 <= height <= frame[1]
    assert width == frame[0] or height == frame[1]


@given(SIZES, SIZES)
def test_covering_box_is_inside_and_has_the_frames_proportions(size, frame):
    left, top, right, bottom = covering_box(size, frame)
    assert left >= -1e-6 and top >= -1e-6
    assert right <= size[0] and bottom <= size[1]
    assert (right - left) / (bottom - top) == pytest.approx(frame[0] / frame[1], rel=1e-6)


@given(SIZES, st.sampled_from([1, 8, 16]))
def test_padded_size_is_the_next_multiple(size, factor):
    for side, padded in zip(size, padded_size(size, factor), strict=True):
        assert padded % factor == 0 and padded >= max(side, 64)
        assert padded < max(side, 64) + factor

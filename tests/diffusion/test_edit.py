"""Edits: what lies outside the mask stays, byte for byte; what is drawn has the wished size."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from studio.core.errors import InvalidRequestError
from studio.core.events import Notice, Preview
from studio.core.geometry import result_size
from studio.core.request import (
    INPAINT_AREAS,
    MASKED_CONTENTS,
    RESIZE_MODES,
    SAMPLERS,
    GenerationRequest,
)
from studio.diffusion.edit import EditInputs, lay_out_edit
from studio.diffusion.masks import mask_from_picture
from studio.diffusion.sampler import Drawn, sample

REQUEST = GenerationRequest(
    prompt="red apple", width=64, height=64, steps=2, strength=0.9, seed=5, source="a" * 64
)
MASKED = REQUEST.with_changes(mask="b" * 64)


def noise(width: int = 64, height: int = 64, bands: int = 3, seed: int = 0) -> Image.Image:
    chance = np.random.default_rng(seed)
    return Image.fromarray(chance.integers(0, 256, (height, width, bands), np.uint8))


def square(width: int = 64, height: int = 64, box=(24, 24, 40, 40)) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


def drawn(model, request, source=None, mask=None, **options) -> list[Image.Image]:
    inputs = EditInputs(source or noise(request.width, request.height), mask)
    events = sample(model, request, inputs=inputs, **options)
    return [event.image for event in events if isinstance(event, Drawn)]


def reach(mask: np.ndarray, radius: int) -> np.ndarray:
    """Where a square window of `radius` around a pixel sees the mask, found pixel by pixel."""
    seen = np.zeros(mask.shape, bool)
    for row, column in np.argwhere(mask):
        top, left = max(0, row - radius), max(0, column - radius)
        seen[top : row + radius + 1, left : column + radius + 1] = True
    return seen


@st.composite
def masked_edits(draw):
    """A source of any size, a mask of rectangles and greys, and every setting of an edit."""
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(0, 3))):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        w, h = draw(st.integers(1, 20)), draw(st.integers(1, 20))
        mask[y : y + h, x : x + w] = draw(st.sampled_from([1, 100, 127, 128, 200, 255]))
    area = draw(st.sampled_from(INPAINT_AREAS))
    size = (width, height)
    if area == "only masked" or width < 8 or height < 8:
        area = "only masked"
        size = draw(st.integers(8, 96)), draw(st.integers(8, 96))
    request = MASKED.with_changes(
        width=size[0],
        height=size[1],
        inpaint_area=area,
        mask_invert=draw(st.booleans()),
        mask_blur=draw(st.floats(0, 12)),
        mask_padding=draw(st.integers(0, 64)),
        masked_content=draw(st.sampled_from(MASKED_CONTENTS)),
        soft_inpainting=draw(st.booleans()),
        extend=draw(st.sampled_from([(0, 0, 0, 0), (5, 0, 0, 0), (3, 9, 17, 1)])),
    )
    return request, noise(width, height, draw(st.sampled_from([3, 4]))), mask


@settings(max_examples=100, deadline=None)
@given(masked_edits(), st.integers(0, 99))
def test_outside_the_blurred_mask_every_byte_is_the_sources(edit, seed):
    """Whatever the model draws: here noise, laid in as `sample` lays in its pictures."""
    request, source, mask = edit
    laid_out = lay_out_edit(request, source, Image.fromarray(mask), 8)
    result = laid_out.finished(np.asarray(noise(*laid_out.padded, seed=seed)))
    assert result.size == result_size(request, source.size)
    check_outside(edit, result)


def check_outside(edit, result: Image.Image) -> None:
    """Compare every byte that the blurred mask does not reach with the source's."""
    request, source, mask = edit
    painted = 255 - mask if request.mask_invert else mask
    painted = painted > 0 if request.soft_inpainting else painted >= 128
    left, top, _, _ = request.extend
    inside = np.asarray(result)[top : top + source.height, left : left + source.width]
    outside = ~reach(painted, int(2.5 * request.mask_blur + 0.5))
    assert np.array_equal(inside[outside], np.asarray(source)[outside])


@settings(max_examples=15, deadline=None)
@given(masked_edits())
def test_outside_stays_through_the_whole_engine_too(tiny, edit):
    request, source, mask = edit
    [result] = drawn(tiny, request, source, Image.fromarray(mask))
    check_outside(edit, result)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("area", INPAINT_AREAS)
def test_inside_the_mask_the_picture_is_new(tiny, sampler, area):
    source = noise()
    [result] = drawn(
        tiny, MASKED.with_changes(sampler=sampler, inpaint_area=area), source, square()
    )
    inside = np.asarray(result)[24:40, 24:40], np.asarray(source)[24:40, 24:40]
    assert (inside[0] != inside[1]).mean() > 0.9


def test_no_strength_gives_the_source_back(tiny):
    for bands in (3, 4):
        source = noise(61, 75, bands)
        request = MASKED.with_changes(width=61, height=75, strength=0.0)
        for wanted in (request, request.with_changes(mask="")):
            [result] = drawn(tiny, wanted, source, square(61, 75))
            assert result.mode == source.mode
            assert result.tobytes() == source.tobytes()


def test_a_strength_below_one_step_says_so_and_changes_nothing(tiny):
    source = noise()
    events = list(sample(tiny, REQUEST.with_changes(strength=0.3), inputs=EditInputs(source)))
    assert [type(e) for e in events] == [Notice, Drawn]
    assert "0.3" in events[0].sentence and events[1].image.tobytes() == source.tobytes()


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.29, 0.5, 0.75, 0.99, 1.0])
def test_the_unet_is_asked_strength_times_steps(fresh_tiny, counted, strength):
    calls = counted(fresh_tiny.unet)
    drawn(fresh_tiny, REQUEST.with_changes(steps=20, strength=strength))
    assert len(calls) == int(20 * strength)


def test_full_strength_starts_from_noise_alone(tiny):
    request = REQUEST.with_changes(strength=1.0)
    [first], [second] = drawn(tiny, request, noise()), drawn(tiny, request, noise(seed=1))
    [text] = [e.image for e in sample(tiny, request.with_changes(source="")) if type(e) is Drawn]
    assert first.tobytes() == second.tobytes() == text.tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask": "b" * 64, "masked_content": "latent noise", "eta": 0.5},
        {"mask": "b" * 64, "inpaint_area": "only masked", "soft_inpainting": True},
        {"extend": (16, 0, 8, 0), "strength": 1.0, "loopback": 2},
        {"hires_scale": 1.5, "hires_upscaler": "latent", "variation_strength": 0.3},
    ],
)
def test_equal_requests_give_equal_pictures_in_any_batch(tiny, changes):
    request = REQUEST.with_changes(count=3, **changes)
    first = drawn(tiny, request, mask=square(), batch_size=1)
    again = drawn(tiny, request, mask=square(), batch_size=1)
    assert [i.tobytes() for i in first] == [i.tobytes() for i in again]
    together = drawn(tiny, request, mask=square(), batch_size=3)
    for one, other in zip(first, together, strict=True):
        difference = np.asarray(one).astype(float) - np.asarray(other)
        assert np.square(difference).mean() < 1
    assert first[0].tobytes() != first[1].tobytes()


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [(64, 64), (90, 61), (8, 300)])
def test_every_resize_mode_gives_the_wished_size(tiny, mode, size):
    request = REQUEST.with_changes(width=size[0], height=size[1], resize_mode=mode)
    for strength in (0.0, 0.9):
        [result] = drawn(tiny, request.with_changes(strength=strength), noise(70, 40))
        assert result.size == size


def test_resizing_keeps_proportions_or_cuts_or_fills_as_its_name_says(tiny):
    """A source with a red left and a blue right half, twice as wide as high."""
    source = Image.new("RGB", (128, 64), (255, 0, 0))
    source.paste((0, 0, 255), (64, 0, 128, 64))
    request = REQUEST.with_changes(strength=0.0)
    looks = {}
    for mode in RESIZE_MODES:
        [result] = drawn(tiny, request.with_changes(resize_mode=mode), source)
        looks[mode] = np.asarray(result)[:, :, 0] > 128
    for look in looks.values():
        assert look[:, :31].all() and not look[:, 33:].any()
    gradient = Image.fromarray(np.tile(np.arange(128, dtype=np.uint8), (64, 1))).convert("RGB")
    [cut] = drawn(tiny, request.with_changes(resize_mode="crop and resize"), gradient)
    [all_of_it] = drawn(tiny, request.with_changes(resize_mode="just resize"), gradient)
    [fill] = drawn(tiny, request.with_changes(resize_mode="resize and fill"), gradient)
    assert np.asarray(cut)[0, [0, 63], 0].tolist() == [32, 95]
    assert np.asarray(all_of_it)[0, 0, 0] < 2 and np.asarray(all_of_it)[0, 63, 0] > 125
    assert np.array_equal(np.asarray(fill)[0], np.asarray(fill)[16])


@pytest.mark.parametrize("source_size", [(1, 1), (3, 200), (64, 9)])
def test_tiny_and_narrow_sources_are_drawn(tiny, source_size):
    [result] = drawn(tiny, REQUEST, noise(*source_size))
    assert result.size == (64, 64)


def test_an_empty_mask_says_so_and_changes_nothing(tiny):
    source = noise()
    for area in INPAINT_AREAS:
        inputs = EditInputs(source, Image.new("L", (64, 64)))
        events = list(sample(tiny, MASKED.with_changes(inpaint_area=area), inputs=inputs))
        assert [type(e) for e in events] == [Notice, Drawn]
        assert "mask is empty" in events[0].sentence
        assert events[1].image.tobytes() == source.tobytes()


def test_a_full_mask_repaints_all(tiny):
    source = noise()
    for area in INPAINT_AREAS:
        request = MASKED.with_changes(inpaint_area=area)
        [result] = drawn(tiny, request, source, Image.new("L", (64, 64), 255))
        assert (np.asarray(result) != np.asarray(source)).mean() > 0.9


def test_what_does_not_fit_together_is_refused_at_its_field(tiny):
    for inputs, field in [
        (None, "source"),
        (EditInputs(), "source"),
        (EditInputs(noise()), "mask"),
        (EditInputs(noise(), square(64, 63)), "mask"),
    ]:
        with pytest.raises(InvalidRequestError) as refusal:
            list(sample(tiny, MASKED, inputs=inputs))
        assert refusal.value.field == field
    with pytest.raises(InvalidRequestError) as refusal:
        drawn(tiny, MASKED.with_changes(hires_scale=2.0), mask=square())
    assert refusal.value.field == "hires_scale"


def test_alpha_is_kept_and_an_extension_is_opaque(tiny):
    source = noise(64, 64, 4)
    [result] = drawn(tiny, MASKED.with_changes(extend=(8, 0, 0, 0)), source, square())
    alpha = np.asarray(result)[..., 3]
    assert np.array_equal(alpha[:, 8:], np.asarray(source)[..., 3])
    assert (alpha[:, :8] == 255).all()


def test_an_extension_leaves_the_source_untouched(tiny):
    source = noise()
    [result] = drawn(tiny, REQUEST.with_changes(extend=(3, 0, 20, 9), strength=1.0), source)
    assert result.size == (87, 73)
    assert np.array_equal(np.asarray(result)[:64, 3:67], np.asarray(source))


@pytest.mark.parametrize("off", [0.0, 40.0, -25.0])
def test_an_extension_of_other_brightness_is_brought_to_meet_the_source(off):
    """The model's picture goes on as the source does, but is off by a slowly changing colour."""
    rows, columns = np.mgrid[0:64, 0:128]
    scene = np.repeat((60 + columns / 2 + rows / 2)[..., None], 3, axis=2)
    shifted = scene + off * (1 + np.sin(rows / 20))[..., None]
    source = Image.fromarray(scene[:, :64].astype(np.uint8))
    edit = lay_out_edit(REQUEST.with_changes(extend=(0, 0, 64, 0)), source, None, 8)
    result = np.asarray(edit.finished(shifted.clip(0, 255).astype(np.uint8))).astype(float)
    assert np.array_equal(result[:, :64], np.asarray(source))
    step = np.abs(result[:, 64] - result[:, 63])
    assert step.mean() < 1.5 and step.max() <= 5
    inside = np.abs(result[:, 65:] - result[:, 64:-1])
    assert inside.max() <= 6  # and the correction itself makes no new edge


def test_a_soft_mask_repaints_in_proportion(tiny):
    """A third grey, a third white: the darker, the nearer to the source."""
    source = noise(96, 64)
    mask = np.zeros((64, 96), np.uint8)
    mask[:, 32:64], mask[:, 64:] = 100, 255
    request = MASKED.with_changes(
        width=96, steps=10, strength=0.99, soft_inpainting=True, mask_blur=0
    )
    kept, some, all_of_it = [], [], []
    for seed in range(3):
        [result] = drawn(tiny, request.with_changes(seed=seed), source, Image.fromarray(mask))
        change = np.abs(np.asarray(result).astype(float) - np.asarray(source)).mean((0, 2))
        kept.append(change[:32].mean())
        some.append(change[40:56].mean())
        all_of_it.append(change[72:].mean())
    assert np.mean(kept) == 0 < np.mean(some) < np.mean(all_of_it)


def test_masked_contents_lead_to_different_pictures(tiny):
    results = {
        content: drawn(tiny, MASKED.with_changes(masked_content=content), mask=square())[0]
        for content in MASKED_CONTENTS
    }
    assert len({picture.tobytes() for picture in results.values()}) == len(MASKED_CONTENTS)


def test_variations_stay_near_their_seed_and_reach_the_other_one(tiny):
    text = REQUEST.with_changes(source="", count=1)
    pictures = {}
    for share in (0.0, 0.1, 1.0):
        request = text.with_changes(variation_seed=9, variation_strength=share)
        [pictures[share]] = [e.image for e in sample(tiny, request) if isinstance(e, Drawn)]
    [other] = [e.image for e in sample(tiny, text.with_changes(seed=9)) if isinstance(e, Drawn)]

    def far(a, b):
        return np.square(np.asarray(a).astype(float) - np.asarray(b)).mean()

    assert far(pictures[1.0], other) < 1
    assert 0 < far(pictures[0.1], pictures[0.0]) < far(other, pictures[0.0]) / 2


def test_variations_of_a_batch_share_their_seed(tiny):
    request = REQUEST.with_changes(source="", count=3, variation_strength=0.2, variation_seed=40)
    events = [e for e in sample(tiny, request) if isinstance(e, Drawn)]
    assert [e.seed for e in events] == [5, 5, 5]
    assert len({e.image.tobytes() for e in events}) == 3


def test_loopback_draws_from_its_own_result(fresh_tiny, counted):
    calls = counted(fresh_tiny.unet)
    request = MASKED.with_changes(loopback=3, steps=4, strength=0.5)
    [result] = drawn(fresh_tiny, request, noise(), square())
    assert len(calls) == 6
    [once] = drawn(fresh_tiny, request.with_changes(loopback=1), noise(), square())
    assert result.tobytes() != once.tobytes()


def test_previews_show_an_edit_in_its_place(tiny):
    source = Image.new("RGB", (128, 128), (10, 200, 30))
    request = MASKED.with_changes(width=64, height=64, steps=5, inpaint_area="only masked")
    inputs = EditInputs(source, square(128, 128, (90, 90, 110, 110)))

    events = sample(tiny, request, inputs=inputs, preview_every=0)
    jpeg = next(e for e in events if isinstance(e, Preview)).jpeg
    shown = np.asarray(Image.open(BytesIO(jpeg))).astype(int)
    assert shown.shape == (128, 128, 3)
    assert np.abs(shown[:40, :40] - [10, 200, 30]).max() < 8


def test_masks_come_from_transparency_or_lightness():
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[..., 3] = [[255, 0], [128, 255]]
    assert np.array_equal(mask_from_picture(Image.fromarray(picture)), picture[..., 3])
    opaque = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("RGBA")
    assert np.asarray(mask_from_picture(opaque)).tolist() == [[0, 255]]


def test_gradient_mode_does_not_leak_from_an_edit(tiny):
    inputs = EditInputs(noise(), square())
    for _ in sample(tiny, MASKED.with_changes(loopback=2), inputs=inputs):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()

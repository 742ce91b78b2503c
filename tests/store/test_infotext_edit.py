"""A1111's keys of edits, variations and the second pass, written exactly and read in full."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.request import (
    INPAINT_AREAS,
    LANCZOS,
    LATENT_UPSCALERS,
    MASKED_CONTENTS,
    MAX_LOOPBACK,
    MAX_PIXELS,
    MAX_SEED,
    RESIZE_MODES,
    GenerationRequest,
)
from studio.store.infotext import parse_infotext, write_infotext
from studio.store.infotext_request import request_from_infotext

SOURCE, MASK = "0a" * 32, "0b" * 32


def written(**values) -> str:
    """The pairs that the values add to the text, those of a plain drawing left out."""
    line = write_infotext(GenerationRequest(**values)).splitlines()[-1]
    return re.search(r"Model: starter, (.*?),? ?Version: ", line)[1]


def read(pairs: str, size: str = "64x64") -> tuple[GenerationRequest, tuple[str, ...]]:
    text = f"a pear\nSteps: 9, Sampler: Euler, CFG scale: 6, Seed: 3, Size: {size}, {pairs}"
    return request_from_infotext(parse_infotext(text))


@pytest.mark.parametrize(
    ("values", "pairs"),
    [
        ({"source": SOURCE, "strength": 0.75}, "Denoising strength: 0.75"),
        (
            {"source": SOURCE, "mask": MASK, "strength": 0.5},
            "Denoising strength: 0.5, Mask blur: 4",
        ),
        (
            {
                "source": SOURCE, "mask": MASK, "strength": 1.0, "mask_blur": 2.5,
                "mask_invert": True, "inpaint_area": "only masked", "mask_padding": 12,
                "masked_content": "latent noise", "soft_inpainting": True, "eta": 0.5,
            },
            "Denoising strength: 1, Mask blur: 2.5, Mask mode: Inpaint not masked, "
            "Inpaint area: Only masked, Masked area padding: 12, Masked content: latent noise, "
            "Soft inpainting enabled: True, Eta: 0.5",
        ),
        (
            {"source": SOURCE, "strength": 0.5, "resize_mode": "crop and resize", "loopback": 3},
            "Denoising strength: 0.5, Resize mode: Crop and resize, Loopback: 3",
        ),
        (
            {"source": SOURCE, "extend": (25, 0, 25, 8), "masked_content": "fill"},
            "Denoising strength: 1, Outpaint: 25 0 25 8, Mask blur: 4, Masked content: fill",
        ),
        (
            {"hires_scale": 2.0, "hires_steps": 7, "hires_upscaler": "latent (bicubic)"},
            "Denoising strength: 0.5, Hires upscale: 2, Hires steps: 7, "
            "Hires upscaler: Latent (bicubic)",
        ),
        (
            {"source": SOURCE, "strength": 0.6, "hires_scale": 1.5, "hires_strength": 0.3},
            "Denoising strength: 0.6, Hires upscale: 1.5, Hires upscaler: Lanczos, "
            "Hires denoising strength: 0.3",
        ),
        (
            {"variation_seed": 77, "variation_strength": 0.25},
            "Variation seed: 77, Variation seed strength: 0.25",
        ),
        ({"mask_blur": 9.0, "mask_padding": 3, "variation_seed": 5}, ""),
    ],
    ids=[
        "img2img", "mask", "all of the mask", "rounds", "outpainting", "hires", "both",
        "variation", "without effect",
    ],
)  # fmt: skip
def test_the_writer_uses_a1111s_keys_in_its_order(values: dict, pairs: str):
    assert written(**values) == pairs


def test_each_variation_says_its_own_seed():
    request = GenerationRequest(seed=3, variation_seed=40, variation_strength=0.5, count=4)
    assert "Seed: 3, " in write_infotext(request, 2)
    assert "Variation seed: 42, " in write_infotext(request, 2)


EDITS = st.builds(
    GenerationRequest,
    source=st.just(SOURCE),
    mask=st.just(MASK),
    strength=st.floats(0, 1),
    resize_mode=st.sampled_from(RESIZE_MODES),
    loopback=st.integers(1, MAX_LOOPBACK),
    mask_blur=st.floats(0, 64),
    mask_invert=st.booleans(),
    soft_inpainting=st.booleans(),
    resampling=st.integers(1, 20),
    masked_content=st.sampled_from(MASKED_CONTENTS),
    inpaint_area=st.just(INPAINT_AREAS[1]),
    mask_padding=st.integers(0, 1024),
    variation_seed=st.integers(0, MAX_SEED),
    variation_strength=st.floats(0.01, 1),
    hires_scale=st.floats(1.01, 8),
    hires_steps=st.integers(0, 500),
    hires_strength=st.floats(0, 1),
    hires_upscaler=st.sampled_from((LANCZOS, *LATENT_UPSCALERS)),
)


@given(request=EDITS)
def test_every_setting_that_the_text_has_a_key_for_reads_back_equal(request: GenerationRequest):
    found, notices = request_from_infotext(parse_infotext(write_infotext(request)))
    assert found == request.with_changes(source="", mask="")
    assert notices == ()


@given(
    scale=st.floats(1.01, 8),
    strength=st.floats(0, 1),
    upscaler=st.sampled_from((LANCZOS, *LATENT_UPSCALERS)),
)
def test_a_second_pass_of_a_drawing_reads_back_equal(scale: float, strength: float, upscaler: str):
    request = GenerationRequest(
        hires_scale=scale, hires_strength=strength, hires_upscaler=upscaler, hires_steps=3
    )
    assert request_from_infotext(parse_infotext(write_infotext(request))) == (request, ())


def test_a_size_for_the_second_pass_is_read_as_a_scale():
    found, notices = read("Denoising strength: 0.4, Hires resize: 128x128, Hires upscaler: Latent")
    assert (found.hires_scale, found.hires_upscaler, found.hires_strength) == (2.0, "latent", 0.4)
    assert (found.strength, notices) == (1.0, ())


def test_an_upscaler_that_is_not_here_becomes_lanczos_with_a_sentence():
    found, notices = read("Hires upscale: 2, Hires upscaler: R-ESRGAN 4x+")
    assert (found.hires_scale, found.hires_upscaler) == (2.0, LANCZOS)
    assert notices == ("The upscaler 'R-ESRGAN 4x+' may not be here; lanczos enlarges instead.",)


def test_a_second_pass_beyond_reach_becomes_smaller_with_a_sentence():
    found, notices = read("Hires upscale: 8, Hires upscaler: Latent", size="4096x2048")
    assert found.hires_scale == 2.0
    assert notices == ("A second pass of 8 times became 2 times.",)


HOSTILE = st.sampled_from(["nan", "inf", "-inf", "1e400", "-3", "", "x", "9" * 5000, "0x10", "٣"])
KEYS = (
    *("Denoising strength", "Mask blur", "Mask mode", "Inpaint area", "Masked area padding"),
    *("Masked content", "Variation seed", "Variation seed strength", "Hires upscale"),
    *("Hires steps", "Hires upscaler", "Hires resize", "Soft inpainting enabled"),
)


@given(
    values=st.dictionaries(st.sampled_from(KEYS), HOSTILE | st.text(max_size=9), max_size=13),
    size=st.sampled_from(["64x64", "0x0", "4096x2304", "99999x9", "64x4096"]),
)
def test_whatever_stands_there_becomes_a_request_that_can_be_drawn(values: dict, size: str):
    found, _ = read(", ".join(f"{key}: {value}" for key, value in values.items()), size)
    assert found == found.with_changes()
    assert found.width * found.height <= MAX_PIXELS

"""Prompts, noise, decoding and previews."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from studio.diffusion.latents import (
    STABLE_DIFFUSION_LATENT_RGB,
    LatentRgb,
    fit_latent_rgb,
    initial_latents,
    latent_to_rgb,
    picture_generators,
    preview_jpeg,
    read_latent_rgb,
    to_uint8,
    write_latent_rgb,
)
from studio.diffusion.text import cut_off, encode_prompts, token_count

SIMPLE = LatentRgb(((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (0, 0, 0)), (0.1, 0.0, -0.1))


def test_features_have_one_row_a_prompt_in_order(tiny):
    features = encode_prompts(tiny, ["cat", "dog", "cat"])
    assert features.shape == (3, 77, 16)
    assert torch.equal(features[0], features[2])
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize(("words", "rest"), [(74, ""), (75, ""), (76, "dog")])
def test_cut_off_begins_after_75_tokens(tiny, words, rest):
    prompt = " ".join(["cat"] * (words - 1) + ["dog"])
    assert token_count(tiny, prompt) == words
    assert cut_off(tiny, prompt) == rest


@settings(max_examples=40, deadline=None)
@given(prompt=st.text(max_size=120))
def test_any_text_can_be_encoded(tiny, prompt):
    assert encode_prompts(tiny, [prompt]).isfinite().all()


@given(seed=st.integers(0, 2**32 + 63), others=st.lists(st.integers(0, 2**32), max_size=3))
def test_noise_of_a_picture_depends_on_its_seed_alone(seed, others):
    alone = initial_latents(picture_generators([seed]), (4, 4, 6))
    among = initial_latents(picture_generators([*others, seed]), (4, 4, 6))
    assert alone.shape == (1, 4, 4, 6)
    assert torch.equal(alone[0], among[-1])


def test_pixels_span_the_whole_range():
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_uint8(images)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_preview_map_is_linear_in_the_latents():
    latents = torch.tensor([0.5, 0.0, -0.5, 9.0]).reshape(1, 4, 1, 1)
    assert latent_to_rgb(latents, SIMPLE)[0, 0, 0].tolist() == [204, 127, 51]


def test_preview_map_is_found_again_by_the_fit():
    latents = torch.randn((8, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    rgb = torch.einsum("bchw,cd->bdhw", latents, torch.tensor(SIMPLE.matrix))
    images = rgb + torch.tensor(SIMPLE.bias).reshape(1, 3, 1, 1)
    found = fit_latent_rgb(latents, torch.nn.functional.interpolate(images, scale_factor=8.0))
    assert np.allclose(found.matrix, SIMPLE.matrix, atol=1e-4)
    assert np.allclose(found.bias, SIMPLE.bias, atol=1e-4)


def test_preview_map_survives_its_file_and_leaves_other_keys(tmp_path):
    (tmp_path / "easel.json").write_text('{"subjects": 7}')
    write_latent_rgb(tmp_path, SIMPLE)
    assert read_latent_rgb(tmp_path, 4) == SIMPLE
    assert json.loads((tmp_path / "easel.json").read_text())["subjects"] == 7


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"latent_rgb": 3}', '{"latent_rgb": {"matrix": [[1, 2]]}}']
)
def test_absent_or_broken_preview_map_falls_back(tmp_path, text):
    if text is not None:
        (tmp_path / "easel.json").write_text(text)
    assert read_latent_rgb(tmp_path, 4) == STABLE_DIFFUSION_LATENT_RGB


@pytest.mark.parametrize(
    ("size", "shown"),
    [((128, 128), (128, 128)), ((2048, 1152), (512, 288)), ((64, 640), (51, 512))],
)
def test_preview_is_at_most_512_pixels_and_keeps_its_shape(size, shown):
    jpeg = preview_jpeg(np.zeros((size[1] // 8, size[0] // 8, 3), np.uint8), size)
    assert Image.open(io.BytesIO(jpeg)).size == shown


def test_preview_of_not_a_number_is_still_a_picture():
    rgb = latent_to_rgb(torch.full((1, 4, 8, 8), float("nan")), SIMPLE)
    assert rgb.shape == (1, 8, 8, 3)

"""The autoencoder: 48 to 1, its loss, and latents of unit variance that nobody notices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from studio.training.dataset.corpus import drawn_rows
from studio.training.loop import LoopConfig
from studio.training.stages.autoencoder import (
    AutoencoderConfig,
    build_autoencoder,
    compression,
    decode,
    encode,
    fold_normalisation,
    reconstruction_loss,
    to_tensor,
    train,
)
from tests.training.synthetic import make_corpus, shape

TINY = AutoencoderConfig(channels=(4, 4, 8, 8), norm_num_groups=2)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.stack([shape(number, style, 64) for number in range(4) for style in range(2)])


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return build_autoencoder(TINY).eval()


def test_one_number_of_the_latents_stands_for_48_of_the_picture():
    vae = build_autoencoder(AutoencoderConfig())
    with torch.inference_mode():
        latents = vae.encode(torch.zeros(1, 3, 128, 128)).latent_dist.mean
    assert latents.shape == (1, 4, 16, 16)
    assert compression((3, 128, 128), tuple(latents.shape[1:])) == 48
    assert vae.config.scaling_factor == 1


def test_encode_and_decode_keep_shapes_and_do_not_depend_on_the_batch(vae, pictures):
    latents = encode(vae, pictures, batch_size=8)
    assert latents.shape == (8, 4, 8, 8)
    torch.testing.assert_close(encode(vae, pictures, batch_size=3), latents, rtol=1e-4, atol=1e-5)
    rebuilt = decode(vae, latents)
    assert rebuilt.shape == pictures.shape
    assert rebuilt.dtype == np.uint8


def test_pictures_become_numbers_from_minus_one_to_one():
    levels = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1).repeat(3, axis=3)
    tensor = to_tensor(levels)
    assert tensor.shape == (1, 3, 1, 3)
    torch.testing.assert_close(tensor[0, 0, 0], torch.tensor([-1.0, -0.6, 1.0]))


def test_folding_gives_zero_mean_and_unit_variance_and_keeps_every_picture(vae, pictures):
    vae.double()
    x = to_tensor(pictures).double()
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        rebuilt = vae.decode(before.mean).sample
        fold_normalisation(vae, before.mean)
        after = vae.encode(x).latent_dist
        torch.testing.assert_close(vae.decode(after.mean).sample, rebuilt)
    zeros, ones = torch.zeros(4).double(), torch.ones(4).double()
    assert (before.mean.mean(dim=(0, 2, 3)) - zeros).abs().max() > 0.01
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), zeros)
    torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), ones)
    scale = before.mean.std(dim=(0, 2, 3))[:, None, None]
    torch.testing.assert_close(after.std, before.std / scale)


def test_the_loss_of_equal_pictures_is_zero(pictures):
    x = to_tensor(pictures)
    assert reconstruction_loss(x, x, 1.0, 2.0) == 0


def test_a_wrong_colour_costs_pixels_and_means_but_no_edges():
    x = torch.zeros(2, 3, 16, 16)
    loss = reconstruction_loss(x + 0.5, x, edge_weight=10, colour_weight=2)
    assert loss.item() == pytest.approx(0.5 + 0.25 + 2 * 0.5)


def test_stripes_cost_pixels_and_edges_but_no_means():
    x = torch.zeros(1, 3, 16, 16)
    stripes = x.clone()
    stripes[..., ::2], stripes[..., 1::2] = 0.5, -0.5
    for turned in (stripes, stripes.transpose(2, 3)):
        loss = reconstruction_loss(turned, x, edge_weight=3, colour_weight=10)
        assert loss.item() == pytest.approx(0.5 + 0.25 + 3 * 1.0)


def foreign(folder, factor: float = 0.18215):
    """An autoencoder as Stable Diffusion has it: its latents are scaled by the pipeline."""
    torch.manual_seed(0)
    vae = build_autoencoder(TINY).eval()
    vae.register_to_config(scaling_factor=factor)
    vae.save_pretrained(folder)
    return vae


def test_latents_of_a_foreign_autoencoder_are_scaled_and_come_back(tmp_path, pictures):
    vae = foreign(tmp_path)
    with torch.no_grad():
        plain = vae.encode(to_tensor(pictures)).latent_dist.mean
        rebuilt = ((vae.decode(plain).sample / 2 + 0.5).clamp(0, 1) * 255).round()
    latents = encode(vae, pictures)
    torch.testing.assert_close(latents, 0.18215 * plain, rtol=1e-4, atol=1e-6)
    expected = rebuilt.permute(0, 2, 3, 1).to(torch.int16)
    found = torch.from_numpy(decode(vae, latents)).to(torch.int16)
    assert (found - expected).abs().max() <= 1  # rounding


def test_a_foreign_autoencoder_that_is_trained_on_has_latents_of_unit_variance(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", size=64)
    foreign(tmp_path / "foreign")
    loop = LoopConfig(steps=1, learning_rate=1e-9, checkpoint_every=1)
    config = replace(TINY, batch_size=2, scenes=2, loop=loop)
    list(train(corpus, config, tmp_path / "run", start=tmp_path / "foreign"))
    vae = AutoencoderKL.from_pretrained(tmp_path / "run" / "vae", local_files_only=True)
    assert vae.config.scaling_factor == 1
    latents = encode(vae, corpus.pictures[drawn_rows(corpus, everything=False)])
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)
    decoder = replace(config, decoder_only=True)
    list(train(corpus, decoder, tmp_path / "decoder", start=tmp_path / "foreign"))
    vae = AutoencoderKL.from_pretrained(tmp_path / "decoder" / "vae", local_files_only=True)
    assert vae.config.scaling_factor == 0.18215  # its encoder, and so its latents, are as they were

"""Encoders and their cache: the shipped one against its package, CLIP against transformers."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from studio.core.errors import ModelError, NotFoundError
from studio.training.preference.efficientnet import EfficientNetLite0, convert
from studio.training.preference.feature_cache import FeatureCache
from studio.training.preference.features import load_encoder

HAS_PACKAGE = importlib.util.find_spec("efficientnet_lite_pytorch") is not None


@pytest.fixture(scope="module")
def shipped():
    return load_encoder()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny CLIP vision tower with random weights, as transformers saves it."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8, projection_dim=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("clip") / "taste"
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def noise(count, height=128, width=128, seed=0):
    chance = np.random.default_rng(seed)
    return chance.integers(256, size=(count, height, width, 3), dtype=np.uint8)


def test_the_shipped_encoder_gives_finite_numbers_that_depend_on_the_picture(shipped):
    found = shipped.embed(noise(3))
    assert found.shape == (3, shipped.width) == (3, 1632)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    assert not np.allclose(found[0], found[1], atol=1e-3)


def test_arrays_and_pictures_and_batches_give_the_same_features(shipped):
    pictures = noise(3, 96, 176)
    together = shipped.embed(pictures)
    one_by_one = [shipped.embed([Image.fromarray(p)])[0] for p in pictures]
    np.testing.assert_allclose(together, np.stack(one_by_one), atol=1e-4)


def test_a_picture_without_colour_or_with_transparency_is_read_as_rgb(shipped):
    grey = Image.new("L", (64, 64), 128)
    found = shipped.embed([grey, grey.convert("RGB"), grey.convert("RGBA")])
    np.testing.assert_allclose(found, np.tile(found[:1], (3, 1)), atol=1e-4)


def test_the_same_files_give_the_same_hash(shipped):
    assert load_encoder().sha256 == shipped.sha256
    assert len(shipped.sha256) == 64


def test_the_network_is_the_packages_with_norms_folded():
    """The oracle is the package that trains with the judge; its weights there are random here."""
    assert HAS_PACKAGE  # launch.py test installs what training needs
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(convert(theirs.state_dict()))
    pixels = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        expected = theirs.extract_features(pixels)
        torch.testing.assert_close(ours(pixels), expected, atol=1e-4, rtol=1e-4)
    assert expected.abs().mean() > 1e-3


def test_a_clip_folder_gives_transformers_embeddings_at_unit_length(clip_folder):
    encoder = load_encoder(clip_folder)
    tower = CLIPVisionModelWithProjection.from_pretrained(clip_folder).eval()
    pictures = noise(2, 32, 32)
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(tower(pixels).image_embeds, dim=1)
    np.testing.assert_allclose(encoder.embed(pictures), expected.numpy(), atol=1e-5)
    assert encoder.name == "CLIP vision tower taste"


def test_other_weights_are_another_encoder(clip_folder, tmp_path):
    other = tmp_path / "taste"
    tower = CLIPVisionModelWithProjection.from_pretrained(clip_folder)
    with torch.no_grad():
        tower.visual_projection.weight.mul_(2)
    tower.save_pretrained(other)
    assert load_encoder(other).sha256 != load_encoder(clip_folder).sha256


@pytest.mark.parametrize("wrong", ["absent", "pickled", "another model", "cut short"])
def test_a_folder_that_is_no_encoder_is_refused_in_a_sentence(clip_folder, tmp_path, wrong):
    folder = tmp_path / "it"
    if wrong != "absent":
        folder.mkdir()
        config = (clip_folder / "config.json").read_text()
        if wrong == "another model":
            config = config.replace("clip_vision_model", "bert")
        (folder / "config.json").write_text(config)
        weights = (clip_folder / "model.safetensors").read_bytes()
        name = "pytorch_model.bin" if wrong == "pickled" else "model.safetensors"
        (folder / name).write_bytes(weights[:-5] if wrong == "cut short" else weights)
    with pytest.raises(ModelError) as refusal:
        load_encoder(folder)
    assert str(refusal.value).endswith(".")


class Album:
    """Pictures by name, counting how often each was read."""

    def __init__(self, count: int) -> None:
        self.names = [hashlib.sha256(bytes([n])).hexdigest() for n in range(count)]
        self.pictures = dict(zip(self.names, noise(count, 32, 32), strict=True))
        self.reads: list[str] = []

    def read(self, name: str) -> np.ndarray:
        self.reads.append(name)
        if name not in self.pictures:
            raise NotFoundError("This picture is gone.")
        return self.pictures[name]


@pytest.fixture
def cache(clip_folder, tmp_path):
    return FeatureCache(tmp_path / "features", load_encoder(clip_folder))


def test_a_picture_is_looked_at_once(cache):
    album = Album(5)
    first = cache.features(album.names, album.read)
    again = cache.features(album.names * 2, album.read)
    assert album.reads == album.names
    np.testing.assert_array_equal(np.stack([*first.values()]), np.stack([*again.values()]))
    np.testing.assert_allclose(
        np.stack([*first.values()]), cache.encoder.embed([*album.pictures.values()]), atol=1e-6
    )


def test_a_picture_that_is_gone_is_left_out(cache):
    album = Album(3)
    assert list(cache.features([*album.names, "f" * 64], album.read)) == album.names


def test_a_damaged_file_is_made_again(cache, tmp_path):
    album = Album(2)
    first = cache.features(album.names, album.read)
    for number, path in enumerate(sorted(Path(tmp_path / "features").rglob("*.npy"))):
        path.write_bytes(path.read_bytes()[:-4] if number else b"")
    again = cache.features(album.names, album.read)
    np.testing.assert_array_equal(np.stack([*first.values()]), np.stack([*again.values()]))
    assert len(album.reads) == 4


def test_a_name_that_is_no_hash_reaches_no_file(cache):
    with pytest.raises(ValueError, match="no sha256"):
        cache.known("../../etc/passwd")

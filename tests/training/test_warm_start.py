"""Going on from a model that is there, with another text tower."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from studio.core.errors import TrainingError
from studio.training.stages.pretrain import UnetConfig, build_unet
from studio.training.stages.warm_start import translate, turn_cross_attention, warm_start

SMALL = UnetConfig(channels=(32, 32, 32), heads=2, text_width=32)


def test_features_in_other_numbers_are_translated_back():
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(40, 9, 32, generator=generator)
    turned, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator))
    found, explained = translate(old @ turned, old)
    assert explained == pytest.approx(1, abs=1e-4)
    assert torch.allclose(found, turned.T, atol=5e-3)


def test_features_that_say_nothing_explain_nothing():
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 200, 9, 16, generator=generator)
    assert abs(translate(new, old)[1]) < 0.05


@torch.inference_mode()
def test_a_u_net_hears_the_same_in_the_new_tower_s_features():
    torch.manual_seed(0)
    unet = build_unet(SMALL).eval()
    latents, text = torch.randn(2, 4, 16, 16), torch.randn(2, 9, 32)
    before = unet(latents, 500, text).sample
    turned, _ = torch.linalg.qr(torch.randn(32, 32))
    assert not torch.allclose(unet(latents, 500, text @ turned).sample, before, atol=1e-3)
    turn_cross_attention(unet, turned.T)
    assert torch.allclose(unet(latents, 500, text @ turned).sample, before, atol=1e-4)


def test_a_folder_without_a_u_net_of_this_size_is_refused(tmp_path):
    unet = build_unet(SMALL)
    with pytest.raises(TrainingError, match="no model of this size"):
        warm_start(unet, tmp_path, ["cat"], torch.zeros(1, 77, 32))
    other: UNet2DConditionModel = build_unet(UnetConfig(channels=(32, 64, 64), heads=2))
    other.save_pretrained(tmp_path / "unet")
    with pytest.raises(TrainingError, match="--from"):
        warm_start(unet, tmp_path, ["cat"], torch.zeros(1, 77, 32))

"""What training costs, counted; and the profiles for machines of all sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from studio.core.events import Notice, StageProgress
from studio.diffusion.schedule import cosine_alphas_cumprod
from studio.training.cost import forward_flops, with_speed
from studio.training.hardware import PLAIN
from studio.training.loop import make_optimizer, take_step
from studio.training.stages.autoencoder import build_autoencoder
from studio.training.stages.pretrain import TIMESTEPS, Frame, UnetConfig, build_unet, step_loss
from studio.training.stages.profiles import PROFILES
from studio.training.stages.towers import ClipPair
from tests.benchmarks.training import random_cache

SHIPPED_LIMIT = 100e6  # bytes of the starter model in fp16


@pytest.mark.parametrize(("side", "gigaflops"), [(128, 2.15), (256, 9.35)])
def test_the_counted_work_is_that_of_the_reference(side, gigaflops):
    """Counted elsewhere, by the same rules, for a U-Net of 19.9 million parameters."""
    config = UnetConfig(channels=(96, 192, 288), frames=(Frame(side, side, 1.0),))
    assert forward_flops(config) / 1e9 == pytest.approx(gigaflops, rel=0.01)


def test_progress_tells_samples_and_flops_a_second():
    config = UnetConfig(channels=(32, 32, 32), batch_size=4)
    events = [StageProgress("unet", step, 30, 1.0, {"loss": 1.0}) for step in (10, 20, 30)]
    found = list(with_speed([Notice("a"), *events], config, PLAIN))
    assert [type(event) for event in found] == [Notice] + [StageProgress] * 3
    assert found[1].metrics == {"loss": 1.0}  # there is nothing before it to measure against
    work = 3 * forward_flops(config)
    for event in found[2:]:
        speed = event.metrics["samples_per_second"]
        assert speed > 0
        assert event.metrics["tflops"] == pytest.approx(speed * work / 1e12)
        assert "mfu" not in event.metrics  # a CPU's peak is nobody's business


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_fits_together_and_into_the_shipped_size(name):
    profile = PROFILES[name]
    side = profile.corpus.size
    native = profile.unet.frames[0]
    assert (native.width, native.height) == (side, side)
    assert profile.autoencoder.picture_size == profile.clip.picture_size == side
    assert side % profile.clip.patch == 0
    assert profile.unet.text_width == profile.clip.width
    assert sum(frame.share for frame in profile.unet.frames) == pytest.approx(1)
    assert all(f.width % 16 == f.height % 16 == 0 for f in profile.unet.frames)
    with torch.device("meta"):
        networks = (
            build_unet(profile.unet),
            build_autoencoder(profile.autoencoder),
            ClipPair(profile.clip, profile.clip.vocabulary, profile.clip.vocabulary - 1),
        )
    size = 2 * sum(p.numel() for network in networks for p in network.parameters())
    assert size < SHIPPED_LIMIT


@pytest.mark.parametrize("name", PROFILES)
def test_the_decoder_does_not_dominate_a_picture(name):
    """Its work beside that of the U-Net's calls for one picture: 20 steps with guidance."""
    profile = PROFILES[name]
    native = replace(profile.unet.frames[0], share=1.0)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        latents = torch.empty(1, 4, native.height // 8, native.width // 8)
        build_autoencoder(profile.autoencoder).decode(latents)
    denoising = 2 * 20 * forward_flops(replace(profile.unet, frames=(native,)))
    assert 0.01 < counter.get_total_flops() / denoising < 0.1  # Stable Diffusion's at 256: 1.66


def test_a_training_step_is_one_forward_pass_and_its_gradient():
    """Counted, so that no second pass hides in it: 3 forward passes; the goal on time is 3.4."""
    config = UnetConfig(
        channels=(32, 32, 32), heads=2, text_width=32, batch_size=4,
        frames=(Frame(128, 128, 1.0),),
    )  # fmt: skip
    unet, cache = build_unet(config), random_cache(config)
    optimizer, alphas = make_optimizer(unet, config.loop), cosine_alphas_cumprod(TIMESTEPS)
    calls: list[int] = []
    unet.register_forward_hook(lambda *_: calls.append(1))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        step_loss(unet, cache, config, alphas, 0)
    with FlopCounterMode(display=False) as step:
        take_step(optimizer, lambda s: step_loss(unet, cache, config, alphas, s), 0, config.loop)
    assert 2.8 < step.get_total_flops() / forward.get_total_flops() <= 3
    assert len(calls) == 2  # one each
    assert [group["fused"] for group in optimizer.param_groups] == [True]

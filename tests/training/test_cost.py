"""What training costs, counted; and the profiles for machines of all sizes."""

from __future__ import annotations

import pytest
import torch

from studio.core.events import Notice, StageProgress
from studio.training.cost import forward_flops, with_speed
from studio.training.hardware import PLAIN
from studio.training.stages.autoencoder import build_autoencoder
from studio.training.stages.pretrain import Frame, UnetConfig, build_unet
from studio.training.stages.profiles import PROFILES
from studio.training.stages.towers import ClipPair

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

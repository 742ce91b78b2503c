"""The U-Net's stage: its loss against the papers and diffusers, its batches, its frames."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import mse_loss

from studio.core.errors import TrainingError
from studio.diffusion.schedule import cosine_alphas_cumprod, zero_terminal_snr
from studio.training.hardware import Hardware
from studio.training.stages import pretrain
from studio.training.stages.pretrain import (
    FRAMES,
    TIMESTEPS,
    Cache,
    UnetConfig,
    draw_batch,
    noise_prediction_loss,
    prediction_target,
    prediction_weight,
    stratified_timesteps,
)
from tests.training.synthetic import make_corpus

INFINITE = math.inf


def normal(seed: int) -> torch.Tensor:
    return torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(seed)).double()


@pytest.fixture
def scheduler() -> DDIMScheduler:
    found = DDIMScheduler(**pretrain.scheduler_settings(UnetConfig()))
    found.alphas_cumprod = found.alphas_cumprod.double()
    return found


@pytest.mark.parametrize("t", [0, 10, 500, 900, 999])
def test_what_the_unet_predicts_is_diffusers_noise_or_velocity(scheduler, t):
    x_0, noise, timesteps = normal(0), normal(1), torch.full((4,), t)
    alpha = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
    v = scheduler.get_velocity(x_0, noise, timesteps)
    torch.testing.assert_close(prediction_target(x_0, noise, alpha, "v_prediction"), v)
    assert prediction_target(x_0, noise, alpha, "epsilon") is noise


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@settings(deadline=None)
@given(alpha=st.floats(1e-6, 1 - 1e-6), gamma=st.floats(0.5, 50), seed=st.integers(0, 99))
def test_min_snr_weighs_the_error_of_the_picture(prediction_type, alpha, gamma, seed):
    """Hang et al. 2023, equation 8: min(SNR, gamma) ||x_0 - x_theta||^2, whatever is predicted."""
    abar = torch.tensor(alpha, dtype=torch.float64)
    x_0, noise, output = normal(seed), normal(seed + 1), normal(seed + 2)
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * noise
    if prediction_type == "epsilon":
        found = (x_t - (1 - abar).sqrt() * output) / abar.sqrt()
    else:
        found = abar.sqrt() * x_t - (1 - abar).sqrt() * output
    expected = min(alpha / (1 - alpha), gamma) * mse_loss(found, x_0)
    target = prediction_target(x_0, noise, abar, prediction_type)
    weight = prediction_weight(abar, prediction_type, INFINITE, gamma)
    torch.testing.assert_close(noise_prediction_loss(output, target, weight), expected)


@settings(deadline=None)
@given(alpha=st.floats(1e-6, 1 - 1e-6), cap=st.floats(1, 50))
def test_the_cap_limits_the_weight_of_the_picture_error(alpha, cap):
    abar = torch.tensor(alpha, dtype=torch.float64)
    snr = alpha / (1 - alpha)  # the squared error of v is SNR + 1 times that of the picture
    weight = prediction_weight(abar, "v_prediction", cap).item()
    assert weight * (snr + 1) == pytest.approx(min(snr + 1, cap))
    assert prediction_weight(abar, "v_prediction", INFINITE).item() == pytest.approx(1)


def test_with_epsilon_the_loss_is_the_simple_one_of_ho_et_al(scheduler):
    weight = prediction_weight(scheduler.alphas_cumprod, "epsilon", 5.0)
    assert weight.shape == (1000,) and weight.eq(1).all()
    noise, noise_pred = normal(1), normal(2)
    torch.testing.assert_close(
        noise_prediction_loss(noise_pred, noise, weight[:4].reshape(4, 1, 1, 1)),
        mse_loss(noise_pred, noise),
    )


def test_zero_terminal_snr_is_diffusers_and_leaves_no_signal():
    config = UnetConfig(zero_terminal_snr=True)
    alphas = pretrain.training_schedule(config)
    theirs = DDIMScheduler(**pretrain.scheduler_settings(config)).alphas_cumprod
    torch.testing.assert_close(alphas, theirs, rtol=2e-4, atol=1e-7)
    assert alphas[-1] == 0
    assert alphas[0] == pytest.approx(pretrain.training_schedule(UnetConfig())[0].item())
    stable = cosine_alphas_cumprod(1000).clamp(min=0.0047)  # as much as Stable Diffusion leaves
    assert zero_terminal_snr(stable)[-1] == 0


def test_zero_terminal_snr_has_a_finite_gradient_everywhere_and_refuses_epsilon():
    config = UnetConfig(zero_terminal_snr=True)
    alphas = pretrain.training_schedule(config)
    for cap, gamma in ((5.0, 0.0), (INFINITE, 0.0), (5.0, 5.0)):
        assert prediction_weight(alphas, "v_prediction", cap, gamma).isfinite().all()
    with pytest.raises(TrainingError, match="use zero-terminal SNR with v-prediction"):
        UnetConfig(zero_terminal_snr=True, prediction_type="epsilon")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_network_that_knows_the_noise_has_no_loss(prediction_type, scheduler):
    """The whole step: a network that is told picture and noise must come out at zero."""
    cache, config = small_cache(), UnetConfig(prediction_type=prediction_type, batch_size=8)
    alphas = scheduler.alphas_cumprod.float()
    latents, _ = draw_batch(cache, config, 3)

    class Knowing(torch.nn.Module):
        def forward(self, noisy, t, features):
            alpha = alphas[t].reshape(-1, 1, 1, 1)
            noise = (noisy - alpha.sqrt() * latents) / (1 - alpha).sqrt()
            v = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
            found = noise if prediction_type == "epsilon" else v
            return type("Output", (), {"sample": found})

    loss, metrics = pretrain.step_loss(Knowing(), cache, config, alphas, 3)
    assert loss.item() < 1e-3
    assert metrics["noise_mse"] < 1e-3


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_timesteps_come_one_from_each_slice_and_in_any_order(seed):
    t = stratified_timesteps(20, np.random.default_rng(seed))
    assert t.dtype == torch.int64
    assert sorted((t // 50).tolist()) == list(range(20))


def test_timesteps_are_uniform_and_shuffled():
    choose = np.random.default_rng(0)
    draws = torch.stack([stratified_timesteps(16, choose) for _ in range(1000)]).double()
    assert draws.min() == 0 and draws.max() == TIMESTEPS - 1
    assert (draws.mean(dim=0) - 499.5).abs().max() < 40  # each place of the batch, 4 sigma


def small_cache(rows: int = 5, captions: int = 4) -> Cache:
    """Latents that hold their item's number, and features that hold their caption's."""
    latents, numbers, first = [], [], 1
    for frame in FRAMES:
        size = (frame.height // 8, frame.width // 8)
        values = torch.arange(first, first + rows).float()
        latents.append(values.reshape(-1, 1, 1, 1).expand(-1, 4, *size))
        numbers.append(torch.arange(first, first + rows)[:, None].expand(-1, captions))
        first += rows
    features = torch.arange(first).float().reshape(-1, 1, 1).expand(-1, 77, 2)
    weights = (np.full(rows, 1 / rows),) * len(FRAMES)
    return Cache(tuple(latents), tuple(numbers), weights, features)


def batches(config: UnetConfig, count: int = 150):
    cache = small_cache()
    return [draw_batch(cache, config, step) for step in range(count)]


def test_a_picture_and_its_caption_stay_together_in_every_frame():
    config = UnetConfig(caption_dropout=0.0, batch_size=4)
    shapes = set()
    for latents, features in batches(config):
        assert torch.equal(latents[:, 0, 0, 0], features[:, 0, 0])
        shapes.add(tuple(latents.shape[2:]))
    assert shapes == {(f.height // 8, f.width // 8) for f in FRAMES}


def test_pictures_are_drawn_by_their_weights_in_every_frame():
    cache, config = small_cache(), UnetConfig(batch_size=4)
    only_the_last = replace(cache, weights=(np.array([0.0, 0, 0, 0, 1]),) * 3)
    seen = torch.cat([draw_batch(only_the_last, config, s)[0][:, 0, 0, 0] for s in range(150)])
    assert set(seen.tolist()) == {5, 10, 15}  # items 1 to 5 are square, 6 to 10 wide, then tall


def test_one_caption_in_ten_is_left_empty():
    dropped = torch.cat([f[:, 0, 0] == 0 for _, f in batches(UnetConfig(batch_size=32))])
    assert 0.08 < dropped.double().mean() < 0.12  # 4,800 draws: five sigma are 0.022
    always = UnetConfig(caption_dropout=1.0, batch_size=4)
    assert all(features.eq(0).all() for _, features in batches(always, 5))


def test_a_batch_is_a_function_of_its_step_and_the_seed():
    cache, config = small_cache(), UnetConfig(batch_size=8)
    first, again, other = (draw_batch(cache, config, step)[1] for step in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_frames_shares_are_shares():
    assert sum(frame.share for frame in FRAMES) == pytest.approx(1)
    assert all(frame.width % 8 == frame.height % 8 == 0 for frame in FRAMES)


def test_the_unet_without_the_stages_before_is_a_sentence(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", size=16)
    with pytest.raises(TrainingError, match=r"autoencoder stage first. Run `python launch.py"):
        next(pretrain.train(corpus, UnetConfig(), tmp_path))


def test_training_in_bf16_on_a_cpu_takes_the_gradient_of_fp32():
    torch.manual_seed(0)
    config = UnetConfig(channels=(32, 32, 64), heads=2, text_width=16)
    unet = pretrain.build_unet(config).eval()
    noisy, text, t = torch.randn(3, 4, 12, 22), torch.randn(3, 9, 16), torch.tensor([5, 400, 990])
    with torch.no_grad():
        theirs = unet(noisy, t, text).sample

    gradients = []
    for hardware in (Hardware(torch.device("cpu")), Hardware(torch.device("cpu"), bf16=True)):
        hardware.prepare(unet)
        with torch.no_grad():  # attention is diffusers' own, to the bit
            assert torch.equal(unet(noisy, t, text).sample, theirs)
        unet.zero_grad()
        with hardware.autocast():
            output = unet(noisy, t, text).sample
        assert output.dtype == (torch.bfloat16 if hardware.bf16 else torch.float32)
        output.float().square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in unet.parameters()]))
    exact, quick = gradients
    assert (quick - exact).norm() < 0.03 * exact.norm()

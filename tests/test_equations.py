"""The equations of the architecture page against diffusers and torch.distributions."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.diffusion.ddim import GaussianStep, ddim_transition
from studio.diffusion.guidance import classifier_free_guidance
from studio.diffusion.schedule import (
    add_noise,
    cosine_alphas_cumprod,
    noise_schedule,
    predicted_original_and_noise,
    velocity,
)

COSINE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
}
STABLE_DIFFUSION = COSINE | {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
SHAPE = (3, 4, 8, 8)


def normal(seed: int, shape=SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_schedule_equals_diffusers():
    expected = DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    assert torch.equal(cosine_alphas_cumprod(1000), expected)


def test_cosine_schedule_is_its_formula_before_the_cap():
    t = torch.arange(0, 901, dtype=torch.float64) + 1
    f = torch.cos((t / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
    f_0 = torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2, dtype=torch.float64)) ** 2
    assert torch.allclose(cosine_alphas_cumprod(1000)[:901].double(), f / f_0, atol=1e-5)


@given(t=st.integers(0, 999), seed=st.integers(0, 9))
def test_added_noise_and_velocity_equal_diffusers(t, seed):
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    schedule = noise_schedule(COSINE)
    x0, eps, timesteps = normal(seed), normal(seed + 100), torch.full((3,), t)
    abar_t = schedule.alpha_cumprod(timesteps)
    assert torch.allclose(add_noise(x0, eps, abar_t), scheduler.add_noise(x0, eps, timesteps))
    assert torch.allclose(
        velocity(x0, eps, abar_t), scheduler.get_velocity(x0, eps, timesteps), atol=1e-6
    )


@given(t=st.integers(0, 950), seed=st.integers(0, 9))
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_prediction_is_taken_apart_into_what_it_was_made_of(prediction_type, t, seed):
    abar_t = noise_schedule(COSINE).alpha_cumprod(t)
    x0, eps = normal(seed), normal(seed + 100)
    output = eps if prediction_type == "epsilon" else velocity(x0, eps, abar_t)
    got = predicted_original_and_noise(output, add_noise(x0, eps, abar_t), abar_t, prediction_type)
    assert torch.allclose(got[0], x0, atol=1e-4)
    assert torch.allclose(got[1], eps, atol=1e-4)


@pytest.mark.parametrize("config", [COSINE, STABLE_DIFFUSION], ids=["cosine", "sd"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_transition_equals_diffusers_at_every_timestep(prediction_type, eta, config):
    config = config | {"prediction_type": prediction_type}
    scheduler = DDIMScheduler(**config)
    schedule = noise_schedule(config)
    for steps in (4, 20, 50):
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps.tolist():
            latents, output, noise = normal(t), normal(t + 1), normal(t + 2)
            expected = scheduler.step(output, t, latents, eta=eta, variance_noise=noise)
            ours = ddim_transition(output, t, t - 1000 // steps, latents, schedule, eta)
            got = ours.mean + ours.std * noise
            assert torch.allclose(got, expected.prev_sample, rtol=1e-5, atol=1e-5)


def test_ddim_with_eta_one_and_all_steps_has_the_variance_of_ddpm():
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="fixed_small")
    schedule = noise_schedule(COSINE)
    for t in range(1, 1000):
        std = ddim_transition(normal(0), t, t - 1, normal(1), schedule, eta=1.0).std
        assert float(std) == pytest.approx(float(scheduler._get_variance(t)) ** 0.5, rel=1e-3)


def test_transition_of_a_batch_with_mixed_timesteps_equals_single_ones():
    schedule = noise_schedule(COSINE | {"prediction_type": "v_prediction"})
    output, latents, t = normal(0), normal(1), torch.tensor([951, 501, 1])
    together = ddim_transition(output, t, t - 50, latents, schedule, eta=1.0)
    for i in range(3):
        one = slice(i, i + 1)
        single = ddim_transition(
            output[one], int(t[i]), int(t[i]) - 50, latents[one], schedule, eta=1.0
        )
        assert torch.equal(together.mean[one], single.mean)
        assert torch.equal(together.std[i].squeeze(), single.std)


@settings(max_examples=50)
@given(std=st.floats(0.005, 2.0), seed=st.integers(0, 99))
def test_log_prob_equals_torch_distributions(std, seed):
    mean, x = normal(seed).double(), normal(seed + 1).double()
    step = GaussianStep(mean, torch.tensor(std, dtype=torch.float64))
    expected = torch.distributions.Normal(mean, std).log_prob(x).mean((1, 2, 3))
    assert torch.allclose(step.log_prob(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [4, 10, 20, 50])
def test_a_floor_on_sigma_keeps_every_cosine_step_scorable(steps):
    schedule = noise_schedule(COSINE | {"prediction_type": "v_prediction"})
    for number in range(steps):
        t = number * (1000 // steps) + 1
        step = ddim_transition(
            normal(0), t, t - 1000 // steps, normal(1), schedule, eta=1.0, min_std=0.03
        )
        drawn = step.sample([torch.Generator().manual_seed(i) for i in range(3)])
        assert float(step.std) >= 0.03 - 1e-6
        assert bool(step.log_prob(drawn).isfinite().all())


def test_a_deterministic_step_is_never_scored():
    step = ddim_transition(normal(0), 501, 451, normal(1), noise_schedule(COSINE), eta=0.0)
    with pytest.raises(AssertionError):
        step.log_prob(normal(2))


def test_gradient_of_log_prob_flows_through_the_mean_only():
    mean = normal(0).requires_grad_()
    x = normal(1).requires_grad_()
    GaussianStep(mean, torch.tensor(0.5)).log_prob(x).sum().backward()
    assert x.grad is None
    assert torch.allclose(mean.grad, (x - mean).detach() / 0.25 / mean[0].numel(), atol=1e-6)


@given(scale=st.floats(0, 20))
def test_guidance_is_its_equation(scale):
    null, text = normal(0), normal(1)
    expected = (1 - scale) * null + scale * text
    assert torch.allclose(classifier_free_guidance(null, text, scale), expected, atol=1e-4)

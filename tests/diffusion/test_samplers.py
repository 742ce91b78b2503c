"""Every sampler must solve the same problem from the same start."""

from __future__ import annotations

import pytest
import torch

from studio.core.errors import InvalidRequestError, ModelError
from studio.core.request import SAMPLERS
from studio.diffusion.denoise import GaussianTransition, SchedulerTransition
from studio.diffusion.latents import initial_latents, picture_generators
from studio.diffusion.samplers import make_scheduler
from studio.diffusion.schedule import ddim_scheduler, noise_schedule, velocity
from tests.test_equations import COSINE, STABLE_DIFFUSION

DETERMINISTIC = [name for name in SAMPLERS if name != "Euler a"]
# A Gaussian data distribution, one mean and standard deviation a channel: its optimal prediction
# and the probability-flow ODE's solution are known in closed form.
MEAN = torch.tensor([1.0, -0.5, 0.0, 2.0]).reshape(1, 4, 1, 1)
STD = torch.tensor([0.1, 0.5, 1.0, 0.3]).reshape(1, 4, 1, 1)
SAMPLES = 1000


def optimal_prediction(model_input, abar_t, prediction_type):
    signal, noise = abar_t.sqrt(), (1 - abar_t).sqrt()
    eps = noise * (model_input - signal * MEAN) / (abar_t * STD**2 + noise**2)
    if prediction_type == "epsilon":
        return eps
    return velocity((model_input - noise * eps) / signal, eps, abar_t)


def solve(name, config, steps):
    """The sampler's result (N, 4, 1, 1), and the ODE's exact solution from the same noise."""
    schedule = noise_schedule(config)
    generators = picture_generators(range(SAMPLES))
    transition = SchedulerTransition(make_scheduler(name, config, steps), generators)
    noise = initial_latents(generators, (4, 1, 1))
    latents = transition.begin(noise)
    for t in transition.timesteps:
        model_input = transition.model_input(latents, t)
        output = optimal_prediction(
            model_input, schedule.alpha_cumprod(int(t)), schedule.prediction_type
        )
        latents, _ = transition.advance(output, t, latents)
    start = schedule.alpha_cumprod(int(transition.timesteps[0]))
    spread = (start * STD**2 + 1 - start).sqrt()
    return latents, MEAN + STD * (noise - start.sqrt() * MEAN) / spread


@pytest.mark.parametrize(
    ("config", "steps", "tolerance"),
    [
        pytest.param(COSINE, 20, 0.05, id="cosine-20"),
        pytest.param(COSINE, 50, 0.02, id="cosine-50"),
        pytest.param(STABLE_DIFFUSION, 20, 0.07, id="sd-20"),
        pytest.param(STABLE_DIFFUSION, 50, 0.05, id="sd-50"),
    ],
)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_sampler_comes_close_to_the_exact_solution(name, prediction_type, config, steps, tolerance):
    got, exact = solve(name, config | {"prediction_type": prediction_type}, steps)
    assert float((got - exact).square().mean().sqrt()) < tolerance


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ancestral_sampler_draws_from_the_right_distribution(prediction_type):
    got, _ = solve("Euler a", COSINE | {"prediction_type": prediction_type}, 50)
    assert torch.allclose(got.mean(0), MEAN[0], atol=0.1)
    assert torch.allclose(got.std(0), STD[0], rtol=0.25)


@pytest.mark.parametrize("config", [COSINE, STABLE_DIFFUSION], ids=["cosine", "sd"])
@pytest.mark.parametrize("steps", [10, 20, 30, 50, 100])
def test_every_sampler_starts_at_the_timestep_of_ddim(steps, config):
    starts = {int(make_scheduler(name, config, steps).timesteps[0]) for name in SAMPLERS}
    assert len(starts) == 1
    assert starts.pop() >= 900


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "DDIM"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 150, 400, 500])
def test_odd_step_counts_start_in_noise_and_visit_each_timestep_once(name, steps):
    timesteps = make_scheduler(name, COSINE, steps).timesteps.tolist()
    assert len(timesteps) == steps
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert timesteps[0] >= 900


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("name", DETERMINISTIC[1:])
def test_samplers_in_sigma_never_start_beyond_reason(name, spacing):
    scheduler = make_scheduler(name, COSINE | {"timestep_spacing": spacing}, 20)
    assert 100 < float(scheduler.sigmas[0]) <= 160


def test_a_schedule_without_signal_at_its_end_can_be_sampled():
    config = STABLE_DIFFUSION | {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    }
    got, exact = solve("DPM++ 2M", config, 30)
    assert float((got - exact).square().mean().sqrt()) < 0.05


def test_stable_diffusions_pndm_configuration_is_drawn_with_ddim():
    config = STABLE_DIFFUSION | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    timesteps = make_scheduler("DDIM", config, 20).timesteps.tolist()
    assert timesteps == list(range(951, 0, -50))


def test_policy_transition_has_the_moments_of_ddim():
    schedule = noise_schedule(COSINE | {"prediction_type": "v_prediction"})
    scheduler = make_scheduler("DDIM", COSINE | {"prediction_type": "v_prediction"}, 50)
    generators = picture_generators(range(SAMPLES))
    transition = GaussianTransition(schedule, scheduler.timesteps, generators, eta=1.0)
    latents = transition.begin(initial_latents(generators, (4, 1, 1)))
    actions = 0
    for t in transition.timesteps:
        output = optimal_prediction(latents, schedule.alpha_cumprod(int(t)), "v_prediction")
        latents, step = transition.advance(output, t, latents)
        actions += step is not None
    assert actions == 49  # the step to the end of the chain is not an action
    assert torch.allclose(latents.mean(0), MEAN[0], atol=0.1)
    assert torch.allclose(latents.std(0), STD[0], rtol=0.25)


def test_more_steps_than_timesteps_are_refused_with_the_limit():
    with pytest.raises(InvalidRequestError, match="at most 99"):
        make_scheduler("DDIM", COSINE | {"num_train_timesteps": 100}, 100)


@pytest.mark.parametrize(
    "broken",
    [
        {"beta_schedule": "nonsense"},
        {"prediction_type": "flow"},
        {"num_train_timesteps": "many"},
        {"trained_betas": "x"},
    ],
)
def test_broken_schedule_is_refused_with_a_sentence(broken):
    with pytest.raises(ModelError, match=r"\.$"):
        ddim_scheduler(COSINE | broken)

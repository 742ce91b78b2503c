"""RePaint's resampling: what is drawn comes to fit what is known, and the known stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from studio.core.events import Notice, Progress
from studio.core.request import GenerationRequest
from studio.diffusion.denoise import GaussianTransition, SchedulerTransition
from studio.diffusion.edit import EditInputs
from studio.diffusion.inpaint import Region, ResampledRegion, repetitions
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.sampler import Drawn, sample
from studio.diffusion.schedule import noise_schedule

CORRELATION = 0.95  # of two neighbours, one known and one to be drawn
PICTURES, STEPS = 300, 20


def exact_noise(latents: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The expected noise in two correlated standard normal values: a perfect U-Net."""
    noisy = abar * torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]]) + (1 - abar) * torch.eye(
        2
    )
    return (1 - abar).sqrt() * latents @ torch.linalg.inv(noisy)


def slope(times: int) -> float:
    """How far the drawn value follows the known one, from pictures drawn side by side."""
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="epsilon")
    scheduler.set_timesteps(STEPS)
    schedule = noise_schedule(dict(scheduler.config))
    generators = [torch.Generator().manual_seed(seed) for seed in range(PICTURES)]
    known = torch.linspace(-2, 2, PICTURES).reshape(-1, 1, 1, 1).repeat(1, 1, 1, 2)
    region = Region(known, torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2))
    begun = SchedulerTransition(scheduler, generators)
    steps = GaussianTransition(schedule, begun.timesteps, generators)
    often = repetitions(STEPS, STEPS, times)
    transition = ResampledRegion(begun, steps, region, schedule, generators, often)
    latents = transition.begin(torch.randn(PICTURES, 1, 1, 2, generator=generators[0]))
    for t in transition.timesteps:
        noise = exact_noise(latents, schedule.alpha_cumprod(int(t)))
        latents, _ = transition.advance(noise, t, latents)
    assert torch.equal(latents[..., :1], known[..., :1])
    x, y = known[:, 0, 0, 0], latents[:, 0, 0, 1]
    return float((x * y).sum() / (x * x).sum())


def test_with_a_perfect_network_the_drawn_follows_the_known_as_it_should():
    assert slope(1) < 0.8 * CORRELATION  # putting back alone: the new knows too little of the old
    assert 0.9 * CORRELATION < slope(10) < 1.05 * CORRELATION


@pytest.mark.parametrize(
    ("steps", "run", "times", "expected"),
    [(5, 5, 3, [3, 3, 3, 3, 1]), (10, 4, 3, [3, 3, 1, 1]), (1, 1, 9, [1]), (3, 0, 2, [])],
)
def test_the_noisier_steps_are_repeated_and_the_last_never(steps, run, times, expected):
    assert repetitions(steps, run, times) == expected


def extended(model: LatentDiffusionModel, **changes: object) -> tuple[list[Image.Image], list]:
    """Extend a small picture to the right; return the pictures and the other events."""
    source = Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8))
    request = GenerationRequest(
        source="a" * 64, extend=(0, 0, 24, 0), width=64, height=64, steps=5, guidance_scale=1.0,
        eta=1.0, masked_content="fill", resampling=3, seed=7,
    ).with_changes(**changes)  # fmt: skip
    events = list(sample(model, request, inputs=EditInputs(source, None, None)))
    pictures = [event.image for event in events if isinstance(event, Drawn)]
    for picture in pictures:
        kept = picture.crop((0, 0, 64, 64))
        assert kept.tobytes() == source.tobytes()
    return pictures, events


def test_resampling_costs_what_its_steps_count_and_leaves_the_source(tiny: LatentDiffusionModel):
    calls: list[int] = []
    hook = tiny.unet.register_forward_hook(lambda *_: calls.append(1))
    pictures, events = extended(tiny)
    hook.remove()
    progress = [event for event in events if isinstance(event, Progress)]
    assert len(calls) == len(progress) == progress[-1].steps == 3 * 4 + 1
    assert pictures[0].size == (88, 64)
    again, _ = extended(tiny, count=2, seed=6)  # the same seed in a batch
    assert np.abs(np.asarray(again[1], int) - np.asarray(pictures[0], int)).max() <= 1
    once, _ = extended(tiny, resampling=1)
    assert once[0].tobytes() != pictures[0].tobytes()


def test_another_sampler_draws_each_step_once_and_says_so(tiny: LatentDiffusionModel):
    _, events = extended(tiny, sampler="Euler")
    assert sum(isinstance(event, Progress) for event in events) == 5
    assert any("acts with DDIM only" in e.sentence for e in events if isinstance(e, Notice))

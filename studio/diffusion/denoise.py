"""The denoising loop: one loop for the artist's picture and for the policy's rollout.

    noise_pred -> guidance -> transition

What differs is the transition x_t -> x_t': a named sampler's step, or a Gaussian whose log-density
is wanted. Repainting under a mask wraps such a transition; see inpaint.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from studio.diffusion.ddim import GaussianStep, ddim_transition
from studio.diffusion.guidance import predict_noise
from studio.diffusion.schedule import NoiseSchedule


class Transition(Protocol):
    """How latents get from one timestep to the next."""

    timesteps: Tensor  # (steps,) falling

    def begin(self, noise: Tensor) -> Tensor:
        """Standard normal noise (B, C, h, w) -> latents at the first timestep."""

    def model_input(self, latents: Tensor, t: Tensor) -> Tensor:
        """Latents in the scale that the U-Net was trained on (variance preserving)."""

    def advance(
        self, noise_pred: Tensor, t: Tensor, latents: Tensor
    ) -> tuple[Tensor, GaussianStep | None]:
        """Return the next latents, and their distribution where it is known."""


class SchedulerTransition:
    """The step of a diffusers scheduler whose timesteps are set; serves one batch.

    `skip` leaves out the first timesteps, and `clean` latents (B, C, h, w) are what the noise is
    then added to: image to image.
    """

    def __init__(
        self,
        scheduler: SchedulerMixin,
        generators: Sequence[torch.Generator],
        eta: float = 0.0,
        skip: int = 0,
        clean: Tensor | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.timesteps: Tensor = scheduler.timesteps[skip:]
        self._clean = clean
        if skip and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skip)
        accepted = inspect.signature(scheduler.step).parameters
        choices = {"eta": eta, "generator": list(generators)}
        self._choices = {name: value for name, value in choices.items() if name in accepted}

    def begin(self, noise: Tensor) -> Tensor:
        """Scale noise for schedulers that count in sigma: their latents are x_t / sqrt(abar_t).

        Where there are clean latents they are noised instead, to the first timestep.
        """
        if self._clean is not None:
            return self.noised(self._clean, noise, self.timesteps[0])
        if self.scheduler.init_noise_sigma == 1:
            return noise
        return noise * float(self.scheduler.sigmas[0] ** 2 + 1) ** 0.5

    def noised(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return clean latents (B, C, h, w) with noise as at t, the next step, in our scale."""
        return self.scheduler.add_noise(clean, noise, t[None])

    def model_input(self, latents: Tensor, t: Tensor) -> Tensor:
        """See Transition."""
        return self.scheduler.scale_model_input(latents, t)

    def advance(
        self, noise_pred: Tensor, t: Tensor, latents: Tensor
    ) -> tuple[Tensor, GaussianStep | None]:
        """See Transition; the distribution is not known."""
        step = self.scheduler.step(noise_pred, t, latents, return_dict=False, **self._choices)
        return step[0], None


class GaussianTransition:
    """A draw from p_theta(x_t' | x_t): the policy's action, with its distribution."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        timesteps: Tensor,
        generators: Sequence[torch.Generator],
        eta: float = 1.0,
        min_std: float = 0.0,
    ) -> None:
        self.timesteps = timesteps
        self._schedule = schedule
        self._generators = generators
        self._eta = eta
        self._min_std = min_std
        following = [*timesteps.tolist()[1:], -1]
        self._next = dict(zip(timesteps.tolist(), following, strict=True))

    def begin(self, noise: Tensor) -> Tensor:
        """See Transition."""
        return noise

    def model_input(self, latents: Tensor, t: Tensor) -> Tensor:
        """See Transition."""
        return latents

    def advance(
        self, noise_pred: Tensor, t: Tensor, latents: Tensor
    ) -> tuple[Tensor, GaussianStep | None]:
        """See Transition. The last step, to the end of the chain, is not an action: its mean."""
        t, t_prev = int(t), self._next[int(t)]
        final = t_prev < 0
        eta, floor = (0.0, 0.0) if final else (self._eta, self._min_std)
        step = ddim_transition(noise_pred, t, t_prev, latents, self._schedule, eta, floor)
        if not bool((step.std > 0).all()):
            return step.mean, None
        return step.sample(self._generators), step


@dataclass(frozen=True)
class DenoisingStep:
    """One step of the loop, just done. All tensors (B, C, h, w) in fp32."""

    number: int  # 1 to steps
    timestep: Tensor  # (), where the U-Net was asked
    model_input: Tensor  # x_t as the U-Net saw it
    noise_pred: Tensor  # after guidance
    latents: Tensor  # x_t', in the transition's scale
    distribution: GaussianStep | None  # of `latents`, when the step was an action of a policy


@torch.no_grad()
def denoise(
    unet: Callable[..., tuple[Tensor]],
    latents: Tensor,
    prompt_embeds: Tensor,
    transition: Transition,
    guidance_scale: float,
) -> Iterator[DenoisingStep]:
    """Yield after every step from x_T = `latents` to the end of the transition's timesteps.

    unet: the network, or what wraps it; latents: what `transition.begin` returned; prompt_embeds:
    see `predict_noise`. A consumer that stops pulling stops the loop.
    """
    for number, t in enumerate(transition.timesteps, start=1):
        model_input = transition.model_input(latents, t)
        noise_pred = predict_noise(unet, model_input, t, prompt_embeds, guidance_scale)
        latents, distribution = transition.advance(noise_pred, t, latents)
        yield DenoisingStep(number, t, model_input, noise_pred, latents, distribution)

"""One DDIM transition p_theta(x_t' | x_t) as a Gaussian: what a picture follows and PPO scores.

With eta = 0 the transition is deterministic and only its mean is used; with eta = 1 it has the
variance of DDPM. Song et al. 2021 (DDIM), equations 12 and 16; as a policy: Black et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.diffusion.schedule import NoiseSchedule, predicted_original_and_noise


@dataclass(frozen=True)
class GaussianStep:
    """The distribution of the next latents, independent in every element."""

    mean: Tensor  # (B, C, h, w)
    std: Tensor  # () or (B, 1, 1, 1), one per transition

    def sample(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw (B, C, h, w) with one CPU generator a picture, so that a batch changes nothing."""
        noise = torch.cat([torch.randn((1, *self.mean.shape[1:]), generator=g) for g in generators])
        return self.mean + self.std * noise.to(self.mean)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of x, the mean over all but the batch dimension, shape (B,).

        The mean, not the sum: the sum's ratio overflows at 16,384 dimensions. The gradient flows
        through `mean` only, so pass the latents that were really drawn. A deterministic step
        (std 0) is no action of the policy and must not be scored.
        """
        assert bool((self.std > 0).all()), "a deterministic step has no density"
        log_density = (
            -((x.detach() - self.mean) ** 2) / (2 * self.std**2)
            - self.std.log()
            - 0.5 * math.log(2 * math.pi)
        )
        return log_density.flatten(1).mean(1)


def ddim_transition(
    noise_pred: Tensor,
    t: int | Tensor,
    t_prev: int | Tensor,
    latents: Tensor,
    schedule: NoiseSchedule,
    eta: float = 0.0,
    min_std: float = 0.0,
) -> GaussianStep:
    """Return p_theta(x_t' | x_t) for the U-Net's prediction at x_t.

    noise_pred, latents: (B, C, h, w); t, t_prev: timesteps, a number or (B,), t_prev < t; a
    negative t_prev means the end of the chain. `min_std` is a floor on sigma for a policy: on the
    cosine schedule the last stochastic steps have sigma = 0.0064 and would eat the whole trust
    region. Equals diffusers' `DDIMScheduler.step` where the floor does not act.
    """
    abar_t = schedule.alpha_cumprod(t)
    abar_prev = schedule.alpha_cumprod(t_prev)
    original, eps = predicted_original_and_noise(
        noise_pred, latents, abar_t, schedule.prediction_type
    )
    variance = (1 - abar_prev) / (1 - abar_t) * (1 - abar_t / abar_prev)
    std = (eta * variance.clamp(min=0).sqrt()).clamp(min=min_std)
    direction = (1 - abar_prev - std**2).clamp(min=0).sqrt()
    return GaussianStep(mean=abar_prev.sqrt() * original + direction * eps, std=std)

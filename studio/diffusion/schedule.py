"""The forward process: how much signal and how much noise a latent holds at each timestep.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps          DDPM, Ho et al. 2020, equation 4

abar_t is `alphas_cumprod[t]`; sigma_t = sqrt((1 - abar_t) / abar_t) is the noise in units of the
signal, the variable of Karras et al. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from studio.core.errors import ModelError

PREDICTION_TYPES = ("epsilon", "v_prediction")
_DDIM_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
    "set_alpha_to_one",
)


@dataclass(frozen=True)
class NoiseSchedule:
    """What a checkpoint was trained on: abar per timestep, and what its U-Net predicts."""

    alphas_cumprod: Tensor  # (T,) fp32, falling from about 1 to about 0
    final_alpha_cumprod: Tensor  # () abar "before" timestep 0, the target of the last step
    prediction_type: str  # one of PREDICTION_TYPES

    def alpha_cumprod(self, t: int | Tensor) -> Tensor:
        """abar at timestep t, shape () for a number and (B, 1, 1, 1) for timesteps (B,).

        Negative timesteps stand for the end of the chain and give `final_alpha_cumprod`.
        """
        t = torch.as_tensor(t, device=self.alphas_cumprod.device)
        alphas = self.alphas_cumprod[t.clamp(min=0).long()]
        alphas = torch.where(t < 0, self.final_alpha_cumprod, alphas)
        return alphas if alphas.dim() == 0 else alphas.reshape(-1, 1, 1, 1)

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """Return the same schedule with its tensors on `device`."""
        return NoiseSchedule(
            self.alphas_cumprod.to(device),
            self.final_alpha_cumprod.to(device),
            self.prediction_type,
        )


def cosine_alphas_cumprod(timesteps: int, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """The cosine schedule (T,): abar_t = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) * pi/2).

    Each beta is capped so that the last step keeps a trace of signal; diffusers calls this
    `squaredcos_cap_v2`. Nichol & Dhariwal 2021, equation 17.
    """

    def f(t: int) -> float:
        return math.cos((t / timesteps + s) / (1 + s) * math.pi / 2) ** 2

    betas = [min(1 - f(t + 1) / f(t), max_beta) for t in range(timesteps)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), dim=0)


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Stretch a schedule (T,) so that no signal is left at its end and its beginning stays.

    sqrt(abar) is shifted to 0 at the last timestep and scaled back at the first. Lin et al. 2024,
    algorithm 1.
    """
    signal = alphas_cumprod.sqrt()
    first, last = signal[0], signal[-1]
    return ((signal - last) * first / (first - last)).square()


def add_noise(x0: Tensor, eps: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """Noise clean latents: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps; shapes as `x0`."""
    return alphas_cumprod_t.sqrt() * x0 + (1 - alphas_cumprod_t).sqrt() * eps


def velocity(x0: Tensor, eps: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    """The target of v-prediction: v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.

    Salimans & Ho 2022, appendix D.
    """
    return alphas_cumprod_t.sqrt() * eps - (1 - alphas_cumprod_t).sqrt() * x0


def predicted_original_and_noise(
    noise_pred: Tensor, latents: Tensor, alphas_cumprod_t: Tensor, prediction_type: str
) -> tuple[Tensor, Tensor]:
    """Split a U-Net's prediction at x_t into its x_0 and its eps, both shaped as `latents`."""
    signal, noise = alphas_cumprod_t.sqrt(), (1 - alphas_cumprod_t).sqrt()
    if prediction_type == "epsilon":
        return (latents - noise * noise_pred) / signal, noise_pred
    assert prediction_type == "v_prediction", prediction_type
    return signal * latents - noise * noise_pred, signal * noise_pred + noise * latents


def ddim_scheduler(scheduler_config: Mapping[str, Any]) -> DDIMScheduler:
    """Build the checkpoint's DDIM scheduler from its `scheduler_config.json`, whatever its class.

    Stable Diffusion 1.x ships the configuration of PNDM: the noise schedule is what counts. As in
    diffusers' pipeline, `steps_offset` is 1 and predictions are not clipped, since latents have no
    fixed range. Raises ModelError for a schedule that Easel cannot draw with.
    """
    chosen = {k: scheduler_config[k] for k in _DDIM_KEYS if scheduler_config.get(k) is not None}
    chosen.setdefault("set_alpha_to_one", False)
    if chosen.setdefault("prediction_type", "epsilon") not in PREDICTION_TYPES:
        raise ModelError(
            f"This model predicts '{str(chosen['prediction_type'])[:40]}', which Easel cannot draw "
            f"with yet; choose a model that predicts {' or '.join(PREDICTION_TYPES)}."
        )
    spacing = scheduler_config.get("timestep_spacing") or "leading"
    try:
        return DDIMScheduler(**chosen, steps_offset=1, clip_sample=False, timestep_spacing=spacing)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            "The model's scheduler_config.json does not describe a noise schedule "
            f"({str(error)[:200]}); copy the folder again from its source."
        ) from error


def noise_schedule(scheduler_config: Mapping[str, Any]) -> NoiseSchedule:
    """Return the noise schedule that a `scheduler_config.json` describes, on the CPU."""
    ddim = ddim_scheduler(scheduler_config)
    return NoiseSchedule(ddim.alphas_cumprod, ddim.final_alpha_cumprod, ddim.config.prediction_type)

"""The named samplers: diffusers schedulers, all set up to start where DDIM starts.

Left to themselves the schedulers in sigma (Euler, DPM++ and others) start at the last training
timestep, which is sigma = 14.6 for Stable Diffusion but 20,291 on the cosine schedule: nearly all
steps would be spent where no picture is decided yet. So each of them is handed the checkpoint's
betas only up to DDIM's first timestep, and spaces its steps evenly from there ("trailing"): all
samplers start from the same noise at the same timestep and approximate the same solution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from studio.core.errors import InvalidRequestError
from studio.diffusion.schedule import ddim_scheduler

DDIM = "DDIM"
_SIGMA_SAMPLERS: Mapping[str, Callable[..., SchedulerMixin]] = MappingProxyType(
    {
        "Euler": EulerDiscreteScheduler,
        "Euler a": EulerAncestralDiscreteScheduler,
        "DPM++ 2M": DPMSolverMultistepScheduler,
        "UniPC": UniPCMultistepScheduler,
    }
)
_EARLIEST_START = 0.9  # share of T; DDIM's own spacing starts lower for some step counts
_MAX_SIGMA = 160.0  # beyond this a latent is noise to seven bits, and fp32 sigmas lose precision


def make_scheduler(name: str, scheduler_config: Mapping[str, Any], steps: int) -> SchedulerMixin:
    """Return the sampler `name` (one of request.SAMPLERS) with its timesteps set for `steps`.

    Raises InvalidRequestError when `steps` does not stay below the model's timesteps.
    """
    ddim = ddim_scheduler(scheduler_config)
    trained = ddim.config.num_train_timesteps
    if steps >= trained:
        raise InvalidRequestError(
            "steps", f"This model has {trained:,} timesteps; choose at most {trained - 1:,} steps."
        )
    ddim.set_timesteps(steps)
    if name == DDIM:
        return ddim
    start = max(int(ddim.timesteps[0]), int(_EARLIEST_START * trained), steps - 1)
    sigmas = ((1 - ddim.alphas_cumprod) / ddim.alphas_cumprod).sqrt()
    while start > 0 and not sigmas[start] <= _MAX_SIGMA:
        start -= 1
    scheduler = _SIGMA_SAMPLERS[name](
        num_train_timesteps=start + 1,
        trained_betas=ddim.betas[: start + 1].tolist(),
        prediction_type=ddim.config.prediction_type,
        timestep_spacing="trailing",
        steps_offset=0,
    )
    scheduler.set_timesteps(steps)
    return scheduler

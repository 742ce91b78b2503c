"""Previews: when the next one is due, and what the U-Net expects the picture to become."""

from __future__ import annotations

import math
from time import perf_counter

from torch import Tensor

from studio.diffusion.denoise import DenoisingStep
from studio.diffusion.schedule import NoiseSchedule, predicted_original_and_noise

FIRST_PREVIEW_STEP = 2
_PREVIEW_SHARE = 0.02  # of the time at most, however slow the previews are


class PreviewClock:
    """When the next preview is due: after two steps, then by time, and never costly."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = math.inf
        self._first = True

    def restart(self) -> None:
        """Begin another batch: other pictures, shown after two steps."""
        self._first = True

    def due(self, step: int) -> bool:
        """Whether to show a preview after this step."""
        if math.isinf(self._every) or step < FIRST_PREVIEW_STEP:
            return False
        return self._first or perf_counter() >= self._next

    def shown(self, cost: float) -> None:
        """Note that previews were made in `cost` seconds."""
        self._first = False
        self._next = perf_counter() + max(self._every, cost / _PREVIEW_SHARE)


def predicted_picture(step: DenoisingStep, schedule: NoiseSchedule) -> Tensor:
    """Return the x_0 (B, C, h, w) that the U-Net expects at this step."""
    abar_t = schedule.alpha_cumprod(int(step.timestep))
    return predicted_original_and_noise(
        step.noise_pred, step.model_input, abar_t, schedule.prediction_type
    )[0]

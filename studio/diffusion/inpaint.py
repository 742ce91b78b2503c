"""Repainting a part: the known region is put back at every step.

A checkpoint for text to image knows nothing of masks, so after each step the known region is
replaced by the source, noised to the level of the next step: RePaint's equation 8 without its
resampling (Lugmayr et al. 2022), which is also what diffusers does. A grey mask frees each latent
when as much of the schedule is left as it may change: differential diffusion (Levin & Fried 2023).
An inpainting checkpoint is told mask and surroundings in further channels, and needs neither.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from studio.diffusion.ddim import GaussianStep
from studio.diffusion.denoise import SchedulerTransition


class KnownRegion:
    """A transition that keeps the known region of a picture while another one draws the rest.

    known: clean latents (1 or B, C, h, w); change: (1, 1, h, w), 1 where all may change and 0
    where nothing may. With `soft` what lies between is freed in its turn.
    """

    def __init__(
        self, inner: SchedulerTransition, known: Tensor, change: Tensor, soft: bool = False
    ) -> None:
        self.timesteps = inner.timesteps
        self._inner = inner
        self._known = known
        self._change = change
        self._soft = soft
        self._noise: Tensor | None = None  # the noise that drawing began with
        self._done = 0  # steps

    def begin(self, noise: Tensor) -> Tensor:
        """See Transition."""
        self._noise = noise
        return self._inner.begin(noise)

    def model_input(self, latents: Tensor, t: Tensor) -> Tensor:
        """See Transition."""
        return self._inner.model_input(latents, t)

    def advance(
        self, noise_pred: Tensor, t: Tensor, latents: Tensor
    ) -> tuple[Tensor, GaussianStep | None]:
        """See Transition; the distribution of what is partly put back is not known."""
        assert self._noise is not None, "begin() comes before advance()"
        latents, _ = self._inner.advance(noise_pred, t, latents)
        self._done += 1
        steps = len(self.timesteps)
        known = self._known
        if self._done < steps:
            known = self._inner.noised(known, self._noise, self.timesteps[self._done])
        free = self._change
        if self._soft:
            free = (free > (steps - self._done) / steps).to(latents.dtype)
        return (1 - free) * known + free * latents, None


class ConditionedUnet:
    """The U-Net of an inpainting checkpoint with its further channels filled in.

    extra: (1 or B, 1 + C, h, w), the mask (1 = repaint) and the latents of the picture without
    what lies under it.
    """

    def __init__(self, unet: Callable[..., tuple[Tensor]], extra: Tensor) -> None:
        self._unet = unet
        self._extra = extra

    def __call__(self, sample: Tensor, timestep: Tensor, **keywords: object) -> tuple[Tensor]:
        """Return what the U-Net says of a sample (B, C, h, w), guided pairs one after the other."""
        extra = self._extra.repeat(len(sample) // len(self._extra), 1, 1, 1).to(sample.dtype)
        return self._unet(torch.cat([sample, extra], dim=1), timestep, **keywords)

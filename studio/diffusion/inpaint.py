"""Repainting a part: the known region is put back at every step.

A checkpoint for text to image knows nothing of masks, so after each step the known region is
replaced by the source, noised to the level of the next step: RePaint's equation 8 (Lugmayr et al.
2022), without its resampling also what diffusers does. With resampling each step is taken back
and drawn anew several times, so that the new comes to fit the known; a picture that is extended
would else get a second subject beside the first, cut at the seam. A grey mask frees each latent
when as much of the schedule is left as it may change: differential diffusion (Levin & Fried 2023).
An inpainting checkpoint is told mask and surroundings in further channels, and needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from studio.diffusion.ddim import GaussianStep
from studio.diffusion.denoise import GaussianTransition, SchedulerTransition
from studio.diffusion.latents import initial_latents
from studio.diffusion.schedule import NoiseSchedule

RESAMPLED_SHARE = 0.8  # of the schedule, its noisier part; later steps only sharpen what is there


@dataclass(frozen=True)
class Region:
    """What stays of a picture while the rest is drawn."""

    known: Tensor  # clean latents (1 or B, C, h, w)
    change: Tensor  # (1, 1, h, w): 1 where all may change, 0 where nothing may
    soft: bool = False  # what lies between is freed in its turn

    def put_back(self, known: Tensor, drawn: Tensor, left: float) -> Tensor:
        """Return `drawn` with `known`, noised alike, where nothing may change.

        `left` is the share of the steps to come: a soft change waits for its own share.
        """
        free = (self.change > left).to(drawn.dtype) if self.soft else self.change
        return (1 - free) * known + free * drawn


class KnownRegion:
    """A transition that keeps the known region of a picture while another one draws the rest."""

    def __init__(self, inner: SchedulerTransition, region: Region) -> None:
        self.timesteps = inner.timesteps
        self._inner = inner
        self._region = region
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
        known = self._region.known
        if self._done < steps:
            known = self._inner.noised(known, self._noise, self.timesteps[self._done])
        return self._region.put_back(known, latents, (steps - self._done) / steps), None


def repetitions(steps: int, run: int, times: int) -> list[int]:
    """Return how often each of the last `run` of `steps` steps is drawn, the final one once."""
    noisier = RESAMPLED_SHARE * steps
    numbers = range(steps - run, steps)
    return [times if number < noisier and number + 1 < steps else 1 for number in numbers]


class ResampledRegion:
    """RePaint's algorithm 1, jumps of one step: the known region stays, steps are drawn again.

    It begins as DDIM's transition `begun`, whose scale is ours, and steps as `steps` do; `times`
    are those of `repetitions`, one a timestep. The known region's noise is drawn anew each time,
    from the picture's own generator.
    """

    def __init__(
        self,
        begun: SchedulerTransition,
        steps: GaussianTransition,
        region: Region,
        schedule: NoiseSchedule,
        generators: Sequence[torch.Generator],
        times: Sequence[int],
    ) -> None:
        repeats = torch.tensor(times, device=begun.timesteps.device)
        self.timesteps = begun.timesteps.repeat_interleave(repeats)
        self._begun = begun
        self._region = region
        self._steps = steps
        self._schedule = schedule
        self._generators = generators
        self._next = dict(pairwise([*begun.timesteps.tolist(), -1]))
        self._done = 0  # of the repeated timesteps

    def begin(self, noise: Tensor) -> Tensor:
        """See Transition."""
        return self._begun.begin(noise)

    def model_input(self, latents: Tensor, t: Tensor) -> Tensor:
        """See Transition."""
        return self._begun.model_input(latents, t)

    def advance(
        self, noise_pred: Tensor, t: Tensor, latents: Tensor
    ) -> tuple[Tensor, GaussianStep | None]:
        """See Transition; where the same step follows, the latents come back noised to it."""
        drawn, _ = self._steps.advance(noise_pred, t, latents)
        following = self._next[int(t)]
        reached = self._schedule.alpha_cumprod(following)
        known = self._region.known
        if following >= 0:
            known = reached.sqrt() * known + (1 - reached).sqrt() * self._noise(latents)
        self._done += 1
        left = 1 - self._done / len(self.timesteps)
        mixed = self._region.put_back(known, drawn, left)
        if self._done == len(self.timesteps) or self.timesteps[self._done] != t:
            return mixed, None
        kept = self._schedule.alpha_cumprod(int(t)) / reached
        return kept.sqrt() * mixed + (1 - kept).sqrt() * self._noise(latents), None

    def _noise(self, like: Tensor) -> Tensor:
        return initial_latents(self._generators, like.shape[1:]).to(like)


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

"""Forward-process fine-tuning: no trajectory, no density, only finished pictures and rewards.

    v+ = v_old + beta (v_theta - v_old)        v- = v_old - beta (v_theta - v_old)
    L  = r |x_0(v+) - x_0|^2 + (1 - r) |x_0(v-) - x_0|^2,   r = A / (2 A_max) + 1/2 in [0, 1]

A picture that was liked pulls the prediction towards itself, one that was not pushes it away, at
noise levels drawn anew (DiffusionNFT, Zheng et al. 2025, 2509.16117, equations 5 to 7). What is
predicted for is x_0, each term divided by its own mean distance, as there. Two things differ: v_old
is the policy that drew the epoch's pictures, without a moving average, and the prediction is the
guided one, since that is what an artist draws with. Noise levels come from a band: where nearly
all is noise the gradient is the largest and says the least. The divergence from the base is
measured at the trajectory's trained steps, so that its unit is PPO's.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from studio.diffusion.adapters import adapter_off, adapter_state, restore_adapter
from studio.diffusion.guidance import predict_noise
from studio.diffusion.schedule import add_noise, predicted_original_and_noise
from studio.training.loop import step_generator, torch_generator
from studio.training.ppo import PpoConfig
from studio.training.rollout import Policy, TextFeatures, Trajectories
from studio.training.team import ALONE, Team
from studio.training.update import DivergedError, Means, Update


@dataclass(frozen=True)
class NftConfig:
    """What differs from PPO; optimizer, batches and advantages are PPO's."""

    beta: float = 1.0  # how far v+ and v- stand from v_old; the paper: 0.1 to 1
    levels: int = 3  # noise levels a picture, one in each part of the band
    band: tuple[float, float] = (0.15, 0.45)  # of the schedule; the paper: all of it. Above it
    # the gradient is the largest and nearly all noise (measured, see LOG.md)
    kl_weight: float = 0.0  # on the squared distance to the base's prediction; the paper: 1e-4,
    # which does nothing in a run of minutes and costs a U-Net call more; the budget holds it


@dataclass(frozen=True)
class Noised:
    """Some (picture, noise level) pairs, folded into one batch; on the device."""

    clean: Tensor  # (B, C, h, w) x_0
    latents: Tensor  # (B, C, h, w) x_t
    t: Tensor  # (B,) timesteps
    optimality: Tensor  # (B,) r
    prompt_embeds: Tensor  # (B, L, D), or (2B, L, D) with guidance


@dataclass(frozen=True)
class Predicted:
    """What the U-Net says of some pairs."""

    noise_pred: Tensor  # (B, C, h, w)
    original: Tensor  # (B, C, h, w) x_0


def optimality(advantage: Tensor, largest: float) -> Tensor:
    """r = A / (2 A_max) + 1/2, in [0, 1]: how much a picture is one of the good ones."""
    return (advantage / (2 * largest) + 0.5).clamp(0, 1)


def nft_loss(
    original: Tensor, original_old: Tensor, clean: Tensor, optimality: Tensor, beta: float
) -> Tensor:
    """Return the loss of each pair, (B,), divided by beta; see the equations above.

    original, original_old: x_0 as theta and the old policy predict it; clean: x_0 as it was drawn,
    all (B, C, h, w); optimality: r, (B,).
    """
    change = beta * (original - original_old.detach())
    liked = _distance(original_old.detach() + change, clean)
    disliked = _distance(original_old.detach() - change, clean)
    return (optimality * liked + (1 - optimality) * disliked) / beta


def _distance(original: Tensor, clean: Tensor) -> Tensor:
    """Squared distance over the mean absolute one, which carries no gradient, (B,)."""
    difference = (original - clean).flatten(1)
    scale = difference.detach().abs().mean(1).clamp(min=1e-5)
    return difference.square().mean(1) / scale


class NftUpdate(Update):
    """The forward-process update of one epoch's pictures."""

    def __init__(
        self,
        policy: Policy,
        texts: TextFeatures,
        optimizer: torch.optim.Optimizer,
        config: tuple[PpoConfig, NftConfig],
        team: Team = ALONE,
    ) -> None:
        shared, self.config = config
        super().__init__(policy, texts, optimizer, shared, team)
        self._largest = shared.advantage_clip
        self._old = adapter_state(policy.unet)
        self._times = torch.zeros(0, 0, dtype=torch.long)  # (N, levels) that are learned at
        self._noise = torch.zeros(0)  # (N, levels, C, h, w)
        self._steps_measured = range(0)  # of the trajectory: PPO's, so that the unit is the same
        self._noise_measured = torch.zeros(0)  # (N, steps, C, h, w)

    def _begin(self, drawn: Trajectories, seed: int, epoch: int) -> None:
        """Keep the policy that drew, and draw each picture's noise levels and noise."""
        self._old = adapter_state(self.policy.unet)
        count, shape = len(drawn.prompts), drawn.latents.shape[1:]
        self._times = self._drawn_times(count, step_generator(seed, epoch, stream=4))
        self._steps_measured = self.policy.config.actions(epoch - 1)
        generator = torch_generator(seed, epoch)
        self._noise, self._noise_measured = (
            torch.randn((count, places, *shape), generator=generator)
            for places in (self.config.levels, len(self._steps_measured))
        )

    def _drawn_times(self, count: int, chance: np.random.Generator) -> Tensor:
        """Return timesteps (count, levels), one from each of `levels` equal parts of the band."""
        low, high = self.config.band
        parts = (np.arange(self.config.levels) + chance.random((count, self.config.levels))) * (
            (high - low) / self.config.levels
        )
        return torch.from_numpy((low + parts) * len(self.policy.schedule.alphas_cumprod)).long()

    def _places(self, drawn: Trajectories) -> int:
        return self._times.shape[1]

    def _places_measured(self, drawn: Trajectories) -> int:
        return len(self._steps_measured)

    def calls(self, pictures: int, actions: int) -> int:
        """See Update."""
        return self._count_calls(pictures, self.config.levels, actions)

    def _calls_a_batch(self, step: int) -> int:
        return 1 + (step > 0) + (self.config.kl_weight > 0)

    def _gradient(
        self, drawn: Trajectories, advantage: Tensor, chosen: Tensor, share: float
    ) -> Iterator[int]:
        batch = self._fold(drawn, advantage, chosen)
        base = old = None
        if self.config.kl_weight > 0:
            base = self._base(batch).noise_pred
            yield len(chosen)
        if self._step > 0:  # before the first step theta is the old policy
            old = self._old_original(batch)
            yield len(chosen)
        self._backward(batch, base, old, share)
        yield len(chosen)

    def _fold(self, drawn: Trajectories, advantage: Tensor, chosen: Tensor) -> Noised:
        pictures, places = chosen.unbind(1)
        times, noise = self._times[pictures, places], self._noise[pictures, places]
        return self._noised(drawn, pictures, times, noise, advantage)

    def _noised(
        self, drawn: Trajectories, pictures: Tensor, times: Tensor, noise: Tensor, advantage: Tensor
    ) -> Noised:
        device = self.policy.timesteps.device
        prompts = [drawn.prompts[i] for i in pictures.tolist()]
        embeds = self._texts.batch(prompts, self.policy.config.guidance_scale)
        clean, t = drawn.latents[pictures].to(device), times.to(device)
        latents = add_noise(clean, noise.to(device), self.policy.schedule.alpha_cumprod(t))
        r = optimality(advantage[pictures], self._largest).to(device)
        return Noised(clean, latents, t, r, embeds)

    def _means(self, drawn: Trajectories, chosen: Tensor) -> Generator[int, None, Means]:
        pictures, places = chosen.unbind(1)
        numbers = self._steps_measured.start + places
        times = self.policy.timesteps.cpu()[numbers]
        noise, nothing = self._noise_measured[pictures, places], torch.zeros(len(drawn.prompts))
        batch = self._noised(drawn, pictures, times, noise, nothing)
        base = self._base(batch)
        yield len(chosen)
        now = self._looked_at(batch)
        yield len(chosen)
        numbers = numbers.to(self.policy.timesteps.device)
        step, base_step = (
            self.policy.distribution(one.noise_pred, numbers, batch.latents) for one in (now, base)
        )
        return step.mean, base_step.mean, step.std

    def _predicted(self, batch: Noised) -> Predicted:
        """One U-Net call."""
        policy = self.policy
        scale = policy.config.guidance_scale
        noise_pred = predict_noise(policy.unet, batch.latents, batch.t, batch.prompt_embeds, scale)
        original, _ = predicted_original_and_noise(
            noise_pred,
            batch.latents,
            policy.schedule.alpha_cumprod(batch.t),
            policy.schedule.prediction_type,
        )
        return Predicted(noise_pred, original)

    @torch.no_grad()
    def _looked_at(self, batch: Noised) -> Predicted:
        return self._predicted(batch)

    def _base(self, batch: Noised) -> Predicted:
        """What the base says, the adapter switched off."""
        with adapter_off(self.policy.unet):
            return self._looked_at(batch)

    def _old_original(self, batch: Noised) -> Tensor:
        """x_0 as the policy predicts it that drew the pictures."""
        now = adapter_state(self.policy.unet)
        restore_adapter(self.policy.unet, self._old)
        try:
            return self._looked_at(batch).original
        finally:
            restore_adapter(self.policy.unet, now)

    @torch.enable_grad()
    def _backward(
        self, batch: Noised, base_pred: Tensor | None, old: Tensor | None, share: float
    ) -> None:
        config, figures = self.config, self.figures
        now = self._predicted(batch)
        old = now.original.detach() if old is None else old
        losses = nft_loss(now.original, old, batch.clean, batch.optimality, config.beta)
        if base_pred is not None:
            distance = (now.noise_pred - base_pred).square().flatten(1).mean(1)
            losses = losses + config.kl_weight * distance
        if not bool(losses.isfinite().all()):
            raise DivergedError("The loss stopped being a number.")
        (losses.mean() * share).backward()
        figures.pairs += len(losses)
        figures.loss += float(losses.detach().sum())

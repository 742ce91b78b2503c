"""Forward-process fine-tuning: no trajectory, no density, only finished pictures and rewards.

    v+ = v_old + beta (v_theta - v_old)        v- = v_old - beta (v_theta - v_old)
    L  = r |x_0(v+) - x_0|^2 + (1 - r) |x_0(v-) - x_0|^2,   r = A / (2 A_max) + 1/2 in [0, 1]

A picture that was liked pulls the prediction towards itself, one that was not pushes it away, at
noise levels drawn anew (DiffusionNFT, Zheng et al. 2025, 2509.16117, equations 5 to 7). What is
predicted for is x_0, each term divided by its own mean distance, as there. Two things differ: v_old
is the policy that drew the epoch's pictures, without a moving average, and the prediction is the
guided one, since that is what an artist draws with. Noise levels are those of the trajectory's
trained steps, so that the divergence from the base is in the unit of PPO's.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from studio.diffusion.adapters import adapter_off, adapter_state, restore_adapter
from studio.diffusion.ddim import GaussianStep
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
    levels: int = 3  # noise levels a picture, no two alike; the paper: all of the sampler's
    kl_weight: float = 0.0  # on the squared distance to the base's prediction; the paper: 1e-4,
    # which does nothing in a run of minutes and costs a U-Net call more; the budget holds it


@dataclass(frozen=True)
class Noised:
    """Some (picture, noise level) pairs, folded into one batch; on the device."""

    clean: Tensor  # (B, C, h, w) x_0
    latents: Tensor  # (B, C, h, w) x_t
    numbers: Tensor  # (B,) number of the step whose noise level it is
    optimality: Tensor  # (B,) r
    prompt_embeds: Tensor  # (B, L, D), or (2B, L, D) with guidance


@dataclass(frozen=True)
class Predicted:
    """What the U-Net says of some pairs."""

    step: GaussianStep  # the transition that follows
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
        self._numbers = torch.zeros(0, 0, dtype=torch.long)  # (N, levels)
        self._noise = torch.zeros(0)  # (N, levels, C, h, w)

    def _begin(self, drawn: Trajectories, seed: int, epoch: int) -> None:
        """Keep the policy that drew, and draw each picture's noise levels and noise."""
        self._old = adapter_state(self.policy.unet)
        chance = step_generator(seed, epoch, stream=4)
        levels = self.policy.config.actions(epoch - 1)
        count = min(self.config.levels, len(levels))
        rows = [chance.permutation(len(levels))[:count] for _ in drawn.prompts]
        self._numbers = levels.start + torch.from_numpy(np.stack(rows))
        shape = (*self._numbers.shape, *drawn.latents.shape[1:])
        self._noise = torch.randn(shape, generator=torch_generator(seed, epoch))

    def _places(self, drawn: Trajectories) -> int:
        return self._numbers.shape[1]

    def calls(self, pictures: int, actions: int) -> int:
        """See Update."""
        return super().calls(pictures, min(actions, self.config.levels))

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
        device = self.policy.timesteps.device
        prompts = [drawn.prompts[i] for i in pictures.tolist()]
        embeds = self._texts.batch(prompts, self.policy.config.guidance_scale)
        clean = drawn.latents[pictures].to(device)
        numbers = self._numbers[pictures, places].to(device)
        noise = self._noise[pictures, places].to(device)
        latents = add_noise(clean, noise, self._abar(numbers))
        r = optimality(advantage[pictures], self._largest).to(device)
        return Noised(clean, latents, numbers, r, embeds)

    def _abar(self, numbers: Tensor) -> Tensor:
        return self.policy.schedule.alpha_cumprod(self.policy.timesteps[numbers])

    def _means(self, drawn: Trajectories, chosen: Tensor) -> Generator[int, None, Means]:
        batch = self._fold(drawn, torch.zeros(len(drawn.prompts)), chosen)
        base = self._base(batch)
        yield len(chosen)
        now = self._looked_at(batch)
        yield len(chosen)
        return now.step.mean, base.step.mean, now.step.std

    def _predicted(self, batch: Noised) -> Predicted:
        """One U-Net call."""
        step, noise_pred = self.policy.step(batch.latents, batch.numbers, batch.prompt_embeds)
        schedule, abar = self.policy.schedule, self._abar(batch.numbers)
        original, _ = predicted_original_and_noise(
            noise_pred, batch.latents, abar, schedule.prediction_type
        )
        return Predicted(step, noise_pred, original)

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

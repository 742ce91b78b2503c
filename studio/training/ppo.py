"""Proximal policy optimization over denoising steps: the equations, and the loss of a batch.

    A     = (r - mean_prompt) / std_prompt, clipped
    rho   = p_theta(x_t' | x_t) / p_old(x_t' | x_t)
    L     = mean of  -min(rho A, clip(rho, 1 - eps, 1 + eps) A)  +  beta KL(theta || base)

Black et al. 2023 (DDPO), Schulman et al. 2017 (PPO, equation 7), and for the divergence Flow-GRPO
(2505.05470). rho is the ratio of densities averaged over the D dimensions of a latent, so the trust
region of `clip_nats` on the true log-ratio is eps = clip_nats / D: DDPO's 1e-4 is 1.64 nats at the
16,384 dimensions of Stable Diffusion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from studio.core.errors import TrainingError
from studio.diffusion.adapters import adapter_off
from studio.diffusion.ddim import GaussianStep
from studio.training.rollout import Policy, TextFeatures, Trajectories
from studio.training.team import ALONE, Team
from studio.training.update import DivergedError, Means, Update, kl_to_base


@dataclass(frozen=True)
class PpoConfig:
    """What the update does with a reward. Defaults: the reference's for a small model."""

    updates: int = 1  # optimizer steps an epoch, each over its own share of the pictures; with
    # few pictures more steps only follow their noise (measured, see LOG.md; DanceGRPO: 1)
    learning_rate: float = 3e-3  # AdamW on a LoRA; HERO: 1e-3, for many more updates than minutes
    final_rate: float = 0.1  # share of it in the last epoch, reached linearly: noise averages out
    weight_decay: float = 1e-4  # everywhere in the field
    gradient_clip: float = 1.0  # of the global norm
    clip_nats: float = 1.64  # trust region on the summed log-ratio of one step
    advantage_clip: float = 3.0  # standard deviations
    kl_weight: float = 0.02  # beta; Flow-GRPO 0.01 to 0.04
    std_floor: float = 1e-2  # share of all rewards' spread below which a prompt has none
    history: int = 32  # rewards remembered a prompt; ddpo-pytorch 16 to 32
    min_count: int = 8  # rewards of a prompt before its own spread counts
    batch: int = 16  # (picture, step) pairs a U-Net call
    one_pass: bool = False  # with one update and no pull of the base: the gradient of each picture
    # is kept while it is drawn, since the ratio is 1; saves a U-Net call a step, takes the memory

    def __post_init__(self) -> None:
        if self.one_pass and (self.updates != 1 or self.kl_weight):
            raise TrainingError(
                "Learning while drawing works with one update an epoch and no pull of the base "
                "(KL weight 0); set both, or switch it off."
            )


class PromptStatistics:
    """The last rewards of each prompt, which a picture of that prompt is measured against."""

    def __init__(self, history: int, kept: Mapping[str, Sequence[float]] | None = None) -> None:
        self._history = history
        self._rewards = {p: deque(r, maxlen=history) for p, r in (kept or {}).items()}

    def add(self, prompts: Sequence[str], rewards: Tensor) -> None:
        """Remember rewards (N,), one a prompt."""
        for prompt, reward in zip(prompts, rewards.tolist(), strict=True):
            self._rewards.setdefault(prompt, deque(maxlen=self._history)).append(reward)

    def rewards(self, prompt: str) -> Tensor:
        """Return what is remembered of a prompt, (n,) in fp64."""
        return torch.tensor(list(self._rewards.get(prompt, ())), dtype=torch.float64)

    def as_json(self) -> dict[str, list[float]]:
        """Return everything, for a checkpoint; Python writes and reads floats exactly."""
        return {prompt: list(rewards) for prompt, rewards in self._rewards.items()}


def advantages(
    rewards: Tensor, prompts: Sequence[str], statistics: PromptStatistics, config: PpoConfig
) -> Tensor:
    """Phase 3: A = (r - mean_prompt) / std_prompt, clipped; (N,) in fp32. Remembers the rewards.

    A prompt with fewer than `min_count` rewards uses the spread around the prompts' means of the
    whole batch; one with a single reward the batch's mean, too. Equal rewards give 0.
    """
    rewards = rewards.double()
    statistics.add(prompts, rewards)
    known = {prompt: statistics.rewards(prompt) for prompt in set(prompts)}
    means = torch.stack([known[p].mean() if len(known[p]) > 1 else rewards.mean() for p in prompts])
    pooled = (rewards - means).square().mean().sqrt()
    everything = torch.cat([known[prompt] for prompt in sorted(known)])
    floor = config.std_floor * everything.std(correction=0) + 1e-8
    stds = torch.stack(
        [
            known[p].std(correction=0) if len(known[p]) >= config.min_count else pooled
            for p in prompts
        ]
    )
    scaled = (rewards - means) / torch.maximum(stds, floor)
    return scaled.clamp(-config.advantage_clip, config.advantage_clip).float()


def spread_within(rewards: Tensor, prompts: Sequence[str]) -> float:
    """Return the standard deviation of rewards (N,) between pictures of one prompt, pooled.

    0 where no prompt has two pictures.
    """
    groups = [rewards[[p == prompt for p in prompts]].double() for prompt in sorted(set(prompts))]
    free = len(prompts) - len(groups)
    squares = sum(float((group - group.mean()).square().sum()) for group in groups)
    return (squares / free) ** 0.5 if free else 0.0


def ppo_clip_loss(
    log_prob: Tensor, log_prob_old: Tensor, advantages: Tensor, clip_range: float
) -> Tensor:
    """Return -min(rho A, clip(rho, 1 - eps, 1 + eps) A) of each pair, (B,). PPO, equation 7."""
    ratio = (log_prob - log_prob_old).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return -torch.minimum(ratio * advantages, clipped * advantages)


@dataclass(frozen=True)
class Pairs:
    """Some (picture, step) pairs, folded into one batch; on the device."""

    before: Tensor  # (B, C, h, w)
    after: Tensor  # (B, C, h, w)
    numbers: Tensor  # (B,) number of the step
    log_prob: Tensor  # (B,) when it was drawn
    advantage: Tensor  # (B,)
    prompt_embeds: Tensor  # (B, L, D), or (2B, L, D) with guidance


class PpoUpdate(Update):
    """The clipped update of one epoch's trajectories; the settings are PPO's."""

    def __init__(
        self,
        policy: Policy,
        texts: TextFeatures,
        optimizer: torch.optim.Optimizer,
        config: PpoConfig,
        team: Team = ALONE,
    ) -> None:
        super().__init__(policy, texts, optimizer, config, team)
        self.config = config

    def calls(self, pictures: int, actions: int) -> int:
        """See Update."""
        return self._count_calls(pictures, 0 if self.config.one_pass else actions, actions)

    def _calls_a_batch(self, step: int) -> int:
        return 2 if self.config.kl_weight > 0 else 1

    def _all_gradients(
        self, drawn: Trajectories, advantage: Tensor, pairs: Tensor
    ) -> Iterator[int]:
        """Where the rollout kept gradients: -A grad log p, which is the loss's at ratio 1."""
        if drawn.gradients is None:
            return (yield from super()._all_gradients(drawn, advantage, pairs))
        [group] = self._optimizer.param_groups
        mine = self._team.part(torch.arange(len(advantage)))
        whole = -(advantage[mine] @ drawn.gradients[mine]) / len(pairs)
        sizes = [parameter.numel() for parameter in group["params"]]
        for parameter, part in zip(group["params"], whole.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter)
        self.figures.pairs += len(mine) * len(drawn.actions)
        self.figures.loss -= float(advantage[mine].sum()) * len(drawn.actions)
        return "well" if bool(whole.isfinite().all()) else "diverged"

    def _gradient(
        self, drawn: Trajectories, advantage: Tensor, chosen: Tensor, share: float
    ) -> Iterator[int]:
        batch = self._fold(drawn, advantage, chosen)
        base_mean = None
        if self.config.kl_weight > 0:
            base_mean = self._base_mean(batch)
            yield len(chosen)
        self._backward(batch, base_mean, share)
        yield len(chosen)

    def _fold(self, drawn: Trajectories, advantage: Tensor, chosen: Tensor) -> Pairs:
        pictures, places = chosen.unbind(1)
        device = self.policy.timesteps.device
        prompts = [drawn.prompts[i] for i in pictures.tolist()]
        embeds = self._texts.batch(prompts, self.policy.config.guidance_scale)
        rows = (
            drawn.before[pictures, places],
            drawn.after[pictures, places],
            places + drawn.actions.start,
            drawn.log_prob[pictures, places],
            advantage[pictures],
        )
        return Pairs(*(row.to(device) for row in rows), prompt_embeds=embeds)

    def _means(self, drawn: Trajectories, chosen: Tensor) -> Generator[int, None, Means]:
        batch = self._fold(drawn, torch.zeros(len(drawn.prompts)), chosen)
        base_mean = self._base_mean(batch)
        yield len(chosen)
        step = self._transition(batch)
        yield len(chosen)
        return step.mean, base_mean, step.std

    @torch.no_grad()
    def _transition(self, batch: Pairs) -> GaussianStep:
        step, _ = self.policy.step(batch.before, batch.numbers, batch.prompt_embeds)
        return step

    @torch.no_grad()
    def _base_mean(self, batch: Pairs) -> Tensor:
        """The mean of the base's transition, the adapter switched off."""
        with adapter_off(self.policy.unet):
            return self._transition(batch).mean

    @torch.enable_grad()
    def _backward(self, batch: Pairs, base_mean: Tensor | None, share: float) -> None:
        config, figures = self.config, self.figures
        step, _ = self.policy.step(batch.before, batch.numbers, batch.prompt_embeds)
        log_prob = step.log_prob(batch.after)
        dimensions = batch.before[0].numel()
        clip_range = config.clip_nats / dimensions
        losses = ppo_clip_loss(log_prob, batch.log_prob, batch.advantage, clip_range)
        if base_mean is not None:
            kl = kl_to_base(step.mean, base_mean, step.std)
            losses = losses + config.kl_weight * kl
        if not bool(losses.isfinite().all()):
            raise DivergedError("The loss stopped being a number.")
        (losses.mean() * share).backward()
        log_ratio = (log_prob - batch.log_prob).detach()
        figures.pairs += len(losses)
        figures.loss += float(losses.detach().sum())
        figures.clipped += float(((log_ratio.exp() - 1).abs() > clip_range).sum())
        figures.approx_kl += float(0.5 * log_ratio.square().sum())
        figures.largest_log_ratio = max(figures.largest_log_ratio, float(log_ratio.abs().max()))

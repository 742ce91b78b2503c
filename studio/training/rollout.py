"""Trajectories of the policy: pictures drawn step by step, with what was done at each step.

The loop is the artist's own (`diffusion/denoise.py`); the transition is a draw from a Gaussian, the
policy's action (Black et al. 2023, DDPO, section 4). The last transition, to the end of the chain,
is deterministic: it is no action and is never scored. Latents and log-densities stay in fp32:
stored in half precision they would move the ratio by more than the clip before any update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from studio.core.errors import TrainingError
from studio.diffusion.adapters import row_gradients
from studio.diffusion.ddim import GaussianStep, ddim_transition
from studio.diffusion.denoise import DenoisingStep, GaussianTransition, denoise
from studio.diffusion.guidance import needs_null_pass, predict_noise
from studio.diffusion.latents import decode, initial_latents, picture_generators, to_uint8
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.schedule import NoiseSchedule, ddim_scheduler, noise_schedule
from studio.diffusion.summed_adapter import repeated
from studio.diffusion.text import encode_prompts


@dataclass(frozen=True)
class PolicyConfig:
    """How a picture is drawn as a sequence of actions; the same in sampling and in scoring."""

    steps: int = 6  # of a trajectory; fewer than a drawing's (Flow-GRPO: 10 against 40): more
    # pictures count for more than finer steps
    guidance_scale: float = 3.0  # as artists draw; 1 halves the cost
    eta: float = 1.0  # 1: DDPM's noise (Black et al.)
    min_std: float = 0.03  # floor on sigma: the cosine schedule's last steps have 0.0064
    skip_share: float = (
        0.25  # of the actions, the first ones, that are not trained: what is decided
    )
    # among noise is blamed for everything that follows (measured, see LOG.md)
    train_share: float = 0.85  # of the actions, up to which they are trained (DanceGRPO: all)
    window: int = 0  # > 0: only so many steps are stochastic and trained, a window that slides with
    # the epochs, the others deterministic (MixGRPO: 4)

    def __post_init__(self) -> None:
        if self.eta <= 0:
            raise TrainingError(
                "A deterministic policy (eta 0) has no actions to learn from; choose an eta from "
                "0.1 to 1."
            )
        if self.steps < 2 or not 0 <= self.skip_share < self.train_share <= 1:
            raise TrainingError(
                "A trajectory needs at least 2 steps and a share above 0 of them to train on."
            )

    def actions(self, epoch: int) -> range:
        """Return the numbers of the steps that are trained in an epoch; the last never is."""
        possible = self.steps - 1
        if self.window > 0:
            length = min(self.window, possible)
            first = epoch % (possible - length + 1)
            return range(first, first + length)
        last = max(1, round(self.train_share * possible))
        return range(min(round(self.skip_share * possible), last - 1), last)


@dataclass(frozen=True)
class Policy:
    """The U-Net as a policy over latents."""

    unet: nn.Module
    schedule: NoiseSchedule
    timesteps: Tensor  # (steps,) int64, falling
    config: PolicyConfig

    def step(
        self, latents: Tensor, numbers: Tensor, prompt_embeds: Tensor
    ) -> tuple[GaussianStep, Tensor]:
        """Return p(x_t' | x_t) for latents (B, C, h, w) at steps `numbers` (B,), and eps~.

        prompt_embeds as `predict_noise` takes them. One U-Net call; the gradient flows.
        """
        t = self.timesteps[numbers]
        noise_pred = predict_noise(self.unet, latents, t, prompt_embeds, self.config.guidance_scale)
        return self.distribution(noise_pred, numbers, latents), noise_pred

    def distribution(self, noise_pred: Tensor, numbers: Tensor, latents: Tensor) -> GaussianStep:
        """Return the action's distribution for a prediction; both passes come through here."""
        config = self.config
        t, t_prev = self.timesteps[numbers], self.timesteps[numbers + 1]
        return ddim_transition(
            noise_pred, t, t_prev, latents, self.schedule, config.eta, config.min_std
        )


def make_policy(model: LatentDiffusionModel, config: PolicyConfig) -> Policy:
    """Return the model's U-Net as a policy, its timesteps spaced as the checkpoint says."""
    scheduler = ddim_scheduler(model.scheduler_config)
    scheduler.set_timesteps(config.steps)
    schedule = noise_schedule(model.scheduler_config).to(model.device)
    return Policy(model.unet, schedule, scheduler.timesteps.to(model.device), config)


@dataclass(frozen=True)
class Trajectories:
    """What one epoch's sampling leaves behind; tensors on the CPU in fp32."""

    prompts: tuple[str, ...]  # (N,)
    actions: range  # numbers of the steps that were kept
    before: Tensor  # (N, A, C, h, w) x_t
    after: Tensor  # (N, A, C, h, w) x_t'
    log_prob: Tensor  # (N, A), mean over dimensions, under the policy that drew
    latents: Tensor  # (N, C, h, w) x_0, where the chain ended
    images: np.ndarray  # (N, H, W, 3) bytes
    gradients: Tensor | None = None  # (N, P) of the sum of a picture's log_prob, by the adapter

    @property
    def dimensions(self) -> int:
        """Numbers in one latent."""
        return self.latents[0].numel()


def joined(parts: Sequence[Trajectories]) -> Trajectories:
    """Return the trajectories of several batches, or processes, as one."""
    if len(parts) == 1:
        return parts[0]
    before, after, log_prob, latents = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("before", "after", "log_prob", "latents")
    )
    prompts = tuple(prompt for part in parts for prompt in part.prompts)
    images = np.concatenate([part.images for part in parts])
    apart = [part.gradients for part in parts if part.gradients is not None]
    return Trajectories(
        prompts, parts[0].actions, before, after, log_prob, latents, images,
        torch.cat(apart) if apart else None,
    )  # fmt: skip


@dataclass(frozen=True)
class RolloutPlan:
    """What is to be sampled."""

    prompts: tuple[str, ...]  # one a picture
    seeds: tuple[int, ...]  # one a picture
    size: tuple[int, int]  # width, height in pixels
    actions: range  # that are kept; none: nothing is left to chance, as artists draw
    batch: int  # pictures at once
    gradients: bool = False  # kept of each picture, for an update that needs no pass of its own


class WindowTransition(GaussianTransition):
    """Stochastic at the trained steps, deterministic (DDIM) at the others. MixGRPO, 2507.21802."""

    def __init__(
        self, policy: Policy, generators: Sequence[torch.Generator], actions: range
    ) -> None:
        config = policy.config
        super().__init__(policy.schedule, policy.timesteps, generators, config.eta, config.min_std)
        self._stochastic = {int(policy.timesteps[number]) for number in actions}
        self._plain = GaussianTransition(policy.schedule, policy.timesteps, generators, eta=0.0)

    def advance(
        self, noise_pred: Tensor, t: Tensor, latents: Tensor
    ) -> tuple[Tensor, GaussianStep | None]:
        """See Transition."""
        if int(t) in self._stochastic:
            return super().advance(noise_pred, t, latents)
        return self._plain.advance(noise_pred, t, latents)


@torch.no_grad()
def sample_batch(
    policy: Policy,
    noise: Tensor,
    prompt_embeds: Tensor,
    transition: GaussianTransition,
    unet: Callable[..., tuple[Tensor]] | None = None,
) -> Iterator[tuple[DenoisingStep, Tensor | None]]:
    """Draw a batch; yield each step with its log-probability (B,), None when it is no action.

    `unet` is what wraps the policy's own.
    """
    scale = policy.config.guidance_scale
    for step in denoise(unet or policy.unet, noise, prompt_embeds, transition, scale):
        if step.distribution is None:
            yield step, None
            continue
        numbers = torch.full((len(noise),), step.number - 1, device=noise.device)
        scored = policy.distribution(step.noise_pred, numbers, step.model_input)
        yield step, scored.log_prob(step.latents)


class ScoredUnet:
    """A U-Net that keeps its last prediction with what leads back to the adapter's weights."""

    def __init__(self, policy: Policy, actions: range) -> None:
        self._policy = policy
        self._scored = {int(policy.timesteps[number]) for number in actions}
        self._last: Tensor | None = None
        self._gradients: list[Tensor] = []  # (B, P) each

    def __call__(self, latents: Tensor, t: Tensor, **conditions: Any) -> tuple[Tensor]:
        """Predict as the U-Net does."""
        with torch.set_grad_enabled(int(t) in self._scored):
            [self._last] = self._policy.unet(latents, t, **conditions)
        return (self._last.detach(),)

    @property
    def gradients(self) -> Tensor:
        """Of the log-densities that `score` was told of, summed over steps: (B, P), on the CPU."""
        return torch.stack(self._gradients).sum(0).cpu()

    @torch.enable_grad()
    def score(self, step: DenoisingStep, prompt_embeds: Tensor) -> None:
        """Add the gradient of the log-density of a step that was just taken."""
        assert self._last is not None, "nothing was predicted"
        last, scale = self._last.detach().requires_grad_(), self._policy.config.guidance_scale
        count = len(step.latents)
        numbers = torch.full((count,), step.number - 1, device=step.latents.device)
        conditions = (step.model_input, step.timestep, prompt_embeds, scale)
        noise_pred = predict_noise(lambda *_, **__: (last,), *conditions)
        action = self._policy.distribution(noise_pred, numbers, step.model_input)
        action.log_prob(step.latents).sum().backward()
        with row_gradients(self._policy.unet) as found:
            self._last.backward(last.grad)
        rows = torch.cat([part.flatten(1) for part in found], 1)  # null half and text half
        self._gradients.append(rows.reshape(-1, count, rows.shape[1]).sum(0))


@torch.no_grad()
def sample_trajectories(
    policy: Policy, model: LatentDiffusionModel, texts: TextFeatures, plan: RolloutPlan
) -> Iterator[int | Trajectories]:
    """Phase 1: sample. Yields after every U-Net call (how many pictures it drew a step of).

    The last thing that comes out is the `Trajectories`. Noise depends on a picture's seed alone.
    """
    parts = []
    for first in range(0, len(plan.prompts), plan.batch):
        rows = slice(first, first + plan.batch)
        generators = picture_generators(plan.seeds[rows])
        noise = initial_latents(generators, model.latent_shape(*plan.size)).to(model.device)
        embeds = texts.batch(plan.prompts[rows], policy.config.guidance_scale)
        transition = _transition(policy, generators, plan.actions)
        before, after, log_probs, latents = [], [], [], noise
        scored = ScoredUnet(policy, plan.actions) if plan.gradients else None
        for step, log_prob in sample_batch(policy, noise, embeds, transition, scored):
            if step.number - 1 in plan.actions:
                assert log_prob is not None, "a trained step was deterministic"
                if scored is not None:
                    scored.score(step, embeds)
                before.append(step.model_input.cpu())
                after.append(step.latents.cpu())
                log_probs.append(log_prob.cpu())
            latents = step.latents
            yield len(noise)
        empty = torch.zeros(len(noise), 0)
        chain = (torch.stack(kept, 1) if kept else empty for kept in (before, after, log_probs))
        images = to_uint8(decode(model.vae, latents))
        drawn = (*chain, latents.cpu(), images, scored.gradients if scored else None)
        parts.append(Trajectories(plan.prompts[rows], plan.actions, *drawn))
    yield joined(parts)


def _transition(
    policy: Policy, generators: Sequence[torch.Generator], actions: range
) -> GaussianTransition:
    config = policy.config
    if config.window > 0 or not actions:
        return WindowTransition(policy, generators, actions)
    return GaussianTransition(
        policy.schedule, policy.timesteps, generators, config.eta, config.min_std
    )


class TextFeatures:
    """Features of prompts, each encoded once while it stays among the last few hundred."""

    KEPT = 512  # prompts; 120 MB of Stable Diffusion's features

    def __init__(self, model: LatentDiffusionModel, negative_prompt: str = "") -> None:
        self._model = model
        self._negative = negative_prompt
        self._features: dict[str, Tensor] = {}

    def batch(self, prompts: Sequence[str], guidance_scale: float) -> Tensor:
        """Return (B, L, D), or (2B, L, D) with the null features first when guidance acts."""
        null = [self._negative] * len(prompts) if needs_null_pass(guidance_scale) else []
        asked = [*null, *prompts]
        distinct = list(dict.fromkeys(asked))
        features = torch.cat([self._of(prompt) for prompt in distinct])
        return repeated(features, [distinct.index(prompt) for prompt in asked])

    def _of(self, prompt: str) -> Tensor:
        if prompt not in self._features:
            if len(self._features) >= self.KEPT:
                del self._features[next(iter(self._features))]
            self._features[prompt] = encode_prompts(self._model, [prompt])
        return self._features[prompt]


def picture_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of one picture of one epoch of a run; the same whenever it is asked."""
    state = np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))

"""The update phase that the algorithms share: shares of the pictures, batches, gradient, step.

An epoch takes a few optimizer steps, each over its own share of the pictures. What is learned from
is a *pair*: a picture and a step of denoising. Pairs are folded into batches of any size, since
their gradients add up; when memory runs out the same sum is made of smaller parts.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from studio.core.errors import TrainingError
from studio.diffusion.device import is_out_of_memory, release_memory
from studio.training.loop import step_generator
from studio.training.rollout import Policy, TextFeatures, Trajectories
from studio.training.team import ALONE, Team


class UpdateConfig(Protocol):
    """What every algorithm's settings say about its optimizer steps."""

    @property
    def updates(self) -> int:
        """Optimizer steps an epoch, each over its own share of the pictures."""

    @property
    def batch(self) -> int:
        """Pairs of a picture and a step a U-Net call."""

    @property
    def gradient_clip(self) -> float:
        """Largest global norm of the gradient."""

    @property
    def learning_rate(self) -> float:
        """AdamW's."""

    @property
    def weight_decay(self) -> float:
        """AdamW's."""


def kl_to_base(mean: Tensor, base_mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std) || N(base_mean, std)), the mean over all but the batch dimension, (B,)."""
    return ((mean - base_mean).square() / (2 * std**2)).flatten(1).mean(1)


class DivergedError(TrainingError):
    """The loss or its gradient is not a number; the weights are as before the update."""


Means = tuple[Tensor, Tensor, Tensor]  # mean, the base's mean, (B, C, h, w) each; and std


@dataclass
class UpdateFigures:
    """Sums over the pairs of one epoch's updates; the divergence is measured after them."""

    pairs: int = 0
    kl_pairs: int = 0
    kl: float = 0.0  # over `kl_pairs`: nats a step, summed over the dimensions of a latent
    clipped: float = 0.0
    loss: float = 0.0
    approx_kl: float = 0.0  # to the policy that drew, per dimension
    largest_log_ratio: float = 0.0

    def mean(self, name: str) -> float:
        """Return the mean of a sum over its pairs."""
        pairs = self.kl_pairs if name == "kl" else self.pairs
        return getattr(self, name) / max(pairs, 1)

    def together(self, others: Sequence[UpdateFigures]) -> UpdateFigures:
        """Return what these figures and those of other processes are as one."""
        everyone = (self, *others)
        added = {f.name: sum(getattr(one, f.name) for one in everyone) for f in fields(self)}
        added["largest_log_ratio"] = max(one.largest_log_ratio for one in everyone)
        return UpdateFigures(**added)


class Update:
    """Phase 4: one epoch's optimizer steps. An algorithm says what the loss of a batch is."""

    def __init__(
        self,
        policy: Policy,
        texts: TextFeatures,
        optimizer: torch.optim.Optimizer,
        config: UpdateConfig,
        team: Team = ALONE,
    ) -> None:
        self.policy = policy
        self.batch = config.batch  # shrinks when memory runs out
        self.measured = config.batch  # pairs that the divergence is measured on, by all together
        self.figures = UpdateFigures()
        self._texts = texts
        self._optimizer = optimizer
        self._steps = config.updates
        self._gradient_clip = config.gradient_clip
        self._team = team
        self._step = 0  # number of the optimizer step within the epoch

    def run(self, drawn: Trajectories, advantage: Tensor, seed: int, epoch: int) -> Iterator[int]:
        """Take the epoch's optimizer steps; yields after every U-Net call.

        Each step sums the gradient over all trained steps of its share of the pictures, and over
        all processes of the team. Raises DivergedError before the weights are touched by a gradient
        that is not a number.
        """
        self.figures = UpdateFigures()
        self._begin(drawn, seed, epoch)
        chance = step_generator(seed, epoch, stream=1)
        order = chance.permutation(len(drawn.prompts))
        for number, share in enumerate(torch.from_numpy(order).tensor_split(self._steps)):
            self._step = number
            pairs = torch.cartesian_prod(share, torch.arange(self._places(drawn)))
            pairs = pairs[torch.from_numpy(chance.permutation(len(pairs)))]
            yield from self._one_step(drawn, advantage, pairs)
        yield from self._measure(drawn, chance)

    def calls(self, pictures: int, actions: int) -> int:
        """Return how many U-Net calls an epoch's update of so many trained steps takes."""
        return self._count_calls(pictures, actions, actions)

    def _count_calls(self, pictures: int, places: int, measured_places: int) -> int:
        shares = torch.arange(pictures).tensor_split(self._steps)
        mine = (len(self._team.part(range(len(share) * places))) for share in shares)
        learning = sum(
            -(-pairs // self.batch) * self._calls_a_batch(number)
            for number, pairs in enumerate(mine)
        )
        measured = len(self._team.part(range(min(self.measured, pictures * measured_places))))
        return learning + 2 * -(-measured // self.batch)  # the divergence at the end

    def _begin(self, drawn: Trajectories, seed: int, epoch: int) -> None:
        """Prepare an epoch."""

    def _places(self, drawn: Trajectories) -> int:
        """Return how many pairs each picture has."""
        return len(drawn.actions)

    def _places_measured(self, drawn: Trajectories) -> int:
        """Return how many steps of each picture the divergence is measured at."""
        return self._places(drawn)

    def _calls_a_batch(self, step: int) -> int:
        """Return how many U-Net calls a batch takes in optimizer step number `step`."""
        raise NotImplementedError

    def _gradient(
        self, drawn: Trajectories, advantage: Tensor, chosen: Tensor, share: float
    ) -> Iterator[int]:
        """Add `share` times the gradient of the mean loss of pairs (B, 2): picture, place.

        Yields after every U-Net call. Raises DivergedError when the loss is not a number.
        """
        raise NotImplementedError

    def _means(self, drawn: Trajectories, chosen: Tensor) -> Generator[int, None, Means]:
        """Return the transition of pairs (B, 2), adapted and of the base; no gradient."""
        raise NotImplementedError

    def _measure(self, drawn: Trajectories, chance: np.random.Generator) -> Iterator[int]:
        """How far the policy is from its base now, on a batch of the epoch's pairs."""
        places = self._places_measured(drawn)
        chosen = torch.from_numpy(chance.permutation(len(drawn.prompts) * places))
        chosen = chosen[: self.measured]
        pairs = torch.stack([chosen // places, chosen % places], 1)
        mine = self._team.part(pairs)
        for some in mine.split(self.batch) if len(mine) else ():
            mean, base_mean, std = yield from self._means(drawn, some)
            self.figures.kl_pairs += len(some)
            self.figures.kl += float(kl_to_base(mean, base_mean, std).sum()) * mean[0].numel()

    def _one_step(self, drawn: Trajectories, advantage: Tensor, pairs: Tensor) -> Iterator[int]:
        [group] = self._optimizer.param_groups
        figures = self.figures
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            self.figures = UpdateFigures(**vars(figures))
            outcome = yield from self._all_gradients(drawn, advantage, pairs)
            if outcome != "no memory":
                break
            release_memory(self.policy.timesteps.device)
            if self.batch == 1:
                raise TrainingError(
                    "Memory ran out even with one step of one picture at a time. Close other "
                    "programs, train on smaller pictures or choose a smaller model."
                )
            self.batch = (self.batch + 1) // 2  # the same sum in smaller parts
        self._team.add_gradients(group["params"], spoiled=outcome == "diverged")
        norm = torch.nn.utils.clip_grad_norm_(group["params"], self._gradient_clip)
        if not torch.isfinite(norm):
            raise DivergedError("The loss stopped being a number.")
        self._optimizer.step()

    def _all_gradients(
        self, drawn: Trajectories, advantage: Tensor, pairs: Tensor
    ) -> Iterator[int]:
        """Add up the gradient of this process's pairs; returns how that went."""
        for chosen in self._team.part(pairs).split(self.batch):
            calls = self._gradient(drawn, advantage, chosen, len(chosen) / len(pairs))
            while True:
                try:
                    done = next(calls, None)
                except DivergedError:
                    return "diverged"
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    return "no memory"
                if done is None:
                    break
                yield done
        return "well"


def make_optimizer(parameters: Sequence[Tensor], config: UpdateConfig) -> torch.optim.AdamW:
    """Return the AdamW that the field trains LoRA policies with."""
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )

"""A run of fine-tuning: epochs of learning on a LoRA, each committed, each resumable to the bit.

    look -> [sample -> score -> advantages -> update -> look -> commit] x epochs

A run lives in one folder: `run.json` says what it is, `checkpoints/` where it stands, `ladder/`
holds adapters of earlier epochs, `pictures/` the same pictures after each epoch, `metrics.jsonl`
the figures, and `adapter.safetensors` the result so far. Everything random follows from the run's
seed and the epoch, so a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from studio.core.errors import TrainingError
from studio.core.events import EpochDone, Event, Notice, StageArtifact, StageProgress
from studio.diffusion.adapters import (
    adapter_off,
    adapter_state,
    add_trainable_adapter,
    continue_from,
    remove_trained_adapter,
    restore_adapter,
    save_adapter,
    weakened,
)
from studio.diffusion.device import is_out_of_memory, release_memory
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.training.guards import EpochFigures, why_to_stop
from studio.training.nft import NftUpdate
from studio.training.ppo import PpoUpdate, PromptStatistics, advantages, spread_within
from studio.training.probes import DIVERSITY, LookPlan, ProbeTools, draw_look, likeness, probe
from studio.training.rewards import Images, RewardFunction
from studio.training.rollout import (
    RolloutPlan,
    TextFeatures,
    Trajectories,
    joined,
    make_policy,
    picture_seed,
    sample_trajectories,
)
from studio.training.run_folder import NFT, PPO, FineTuneConfig, RunFolder, RunState
from studio.training.stopwatch import Stopwatch
from studio.training.team import ALONE, Team
from studio.training.update import DivergedError, Update, UpdateFigures, make_optimizer

SAMPLE, SCORE, ADVANTAGES, UPDATE, LOOK = "sample", "score", "advantages", "update", "look"


@dataclass(frozen=True)
class Start:
    """An adapter that a run goes on from."""

    adapter: Path
    strength: float = 1.0  # as it was kept


def load_base(folder: Path, name: str, device: str, sha256: str) -> LatentDiffusionModel:
    """Load a model of this run's own, in fp32, on all cores. Raises ModelError."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    return load_model(folder, name, device, dtype=torch.float32, sha256=sha256)


def finetune(
    model: LatentDiffusionModel,
    reward: RewardFunction,
    config: FineTuneConfig,
    tools: ProbeTools,
    folder: Path,
    start: Start | None = None,
    team: Team = ALONE,
) -> Iterator[Event]:
    """Train an adapter on `model` towards `reward`, or go on with the run in `folder`.

    `model` is this run's own, in fp32; it is given back without the adapter. Yields after every
    U-Net call, and EpochDone when an epoch is committed; who stops pulling stops the run, which
    then goes on from the last committed epoch. `start` is what to begin with. Every process
    of a `team` calls this with the same arguments; the one that leads writes the folder.

    Raises TrainingError when the folder holds another run, DiskFullError, ModelError.
    """
    add_trainable_adapter(model.unet, config.rank, config.seed)
    try:
        if start is not None:
            continue_from(model.unet, start.adapter, start.strength)
        yield from _Run(model, reward, config, tools, RunFolder(folder), team).events(start)
    finally:
        remove_trained_adapter(model.unet)


def conclude(
    model: LatentDiffusionModel,
    reward: RewardFunction,
    config: FineTuneConfig,
    tools: ProbeTools,
    folder: Path,
) -> Iterator[Event]:
    """End a run before its plan: its best epoch so far becomes the result.

    Raises as `finetune`.
    """
    add_trainable_adapter(model.unet, config.rank, config.seed)
    try:
        yield from _Run(model, reward, config, tools, RunFolder(folder), ALONE).end_now()
    finally:
        remove_trained_adapter(model.unet)


class _Run:
    """One run while it is being computed."""

    def __init__(
        self,
        model: LatentDiffusionModel,
        reward: RewardFunction,
        config: FineTuneConfig,
        tools: ProbeTools,
        folder: RunFolder,
        team: Team,
    ) -> None:
        self.model = model
        self.reward = reward
        self.config = config
        self.tools = tools
        self.folder = folder
        self.team = team
        pictures = min(len(config.epoch_prompts(1)), len(config.look_prompts()))
        if team.count > pictures:
            raise TrainingError(
                f"{team.count} processes share {pictures} pictures: each needs at least one. Start "
                "fewer, or draw more pictures an epoch."
            )
        self.state = RunState(rollout_batch=config.batch, update_batch=config.ppo.batch)
        self.texts = TextFeatures(model, config.negative_prompt)
        self.policy = make_policy(model, config.policy)
        named = dict(model.unet.named_parameters())
        parameters = [named[name] for name in adapter_state(model.unet)]
        self.optimizer = make_optimizer(parameters, config.ppo)
        self.update = self._make_update()
        self.good = adapter_state(model.unet)  # of the best epoch that was well
        self._watch = Stopwatch()  # of this epoch
        self._calls = 0  # of the U-Net, in this epoch

    def events(self, start: Start | None) -> Iterator[Event]:
        """Go through the epochs that are left; each is timed without what others did meanwhile."""
        identity = self.config.identity(self.model.sha256, self.reward.identity)
        if self.team.leads:
            self.folder.claim(identity)
        self.team.wait()
        self._resume()
        if self.state.base is None:
            yield from self._watch.timed(self._first_look(start))
            self._commit()
            yield StageArtifact(LOOK, str(self.folder.picture(0)))
        while not self.state.stopped and not self._finished():
            self._watch, self._calls = Stopwatch(), 0
            yield from self._watch.timed(self._epoch())
        yield from self._end()

    def end_now(self) -> Iterator[Event]:
        """Write the result of the epochs that are committed."""
        self.folder.claim(self.config.identity(self.model.sha256, self.reward.identity))
        self._resume()
        yield from self._end()

    def _resume(self) -> None:
        found = self.folder.latest(self.config)
        if found is None:
            return
        self.state, tensors, restore = found
        restore_adapter(self.model.unet, tensors["adapter"])
        restore(self.optimizer)
        self.good = tensors["good"]
        self.update.batch = self.state.update_batch

    def _finished(self) -> bool:
        planned = self.state.epochs or self.config.epochs
        return 0 < planned <= self.state.epoch

    def _first_look(self, start: Start | None) -> Generator[Event, None, None]:
        """Measure the base, and what the run starts from: what the guards compare with."""
        with adapter_off(self.model.unet):
            images = yield from self._look(0)
        self.state.base = self._figures(images, reward_mean=0.0, kl=0.0)
        if start is not None:
            own = yield from self._strip(self.config.look, self.team)
            images = np.concatenate(self.team.gathered(own))
            self.state.start = self._figures(images, reward_mean=0.0, kl=0.0)
            digest = hashlib.sha256(start.adapter.read_bytes()).hexdigest()
            self.state.began_with = {"sha256": digest, "strength": start.strength}
        self.state.spent += max(self.team.gathered(self._watch.seconds))

    def _epoch(self) -> Generator[Event, None, None]:
        number = self.state.epoch + 1
        statistics = PromptStatistics(self.config.ppo.history, self.state.statistics)
        try:
            own = yield from self._sample(number)
            own_rewards = self.reward(own.images, own.prompts)
            yield self._progress(SCORE)
            drawn, rewards = joined(self.team.gathered(own)), self._gathered(own_rewards)
            self._check_finite(drawn, rewards)
            advantage = advantages(rewards, drawn.prompts, statistics, self.config.ppo)
            yield self._progress(ADVANTAGES)
            self._set_rate(number)
            figures = yield from self._update(drawn, advantage, number)
        except DivergedError as error:
            restore_adapter(self.model.unet, self.good)
            self.state.stopped = (
                f"{error} The adapter of epoch {self.state.good_epoch} is kept. Train again in "
                "another folder with a smaller learning rate."
            )
            return
        images = yield from self._look(number)
        now = self._figures(images, reward_mean=float(rewards.mean()), kl=figures.mean("kl"))
        self.state.epoch = number
        self.state.statistics = statistics.as_json()
        self.state.history.append(now)
        seconds = max(self.team.gathered(self._watch.seconds))
        self.state.spent += seconds
        base, guards = self.state.base, self.config.guards
        assert base is not None, "the first look comes before the first epoch"
        self.state.stopped = why_to_stop(
            self.state.history, base, guards, learned=self.reward.learned, start=self.state.start
        )
        self.state.beyond = bool(self.state.stopped) and not self.state.good_epoch
        if self.state.beyond or (not self.state.stopped and self.state.is_best(now)):
            self.good = adapter_state(self.model.unet)
            self.state.good_epoch = number
        self.state.plan(self.config, seconds)
        done = self._done(now, figures.mean("clipped"))
        if self.team.leads:
            self.folder.log(self.state, done)
        self._commit()
        yield done
        yield StageArtifact(LOOK, str(self.folder.picture(number)))

    def _sample(self, number: int) -> Generator[Event, None, Trajectories]:
        """Phase 1: this process's part; in smaller batches, anew, when memory runs out."""
        prompts = self.config.epoch_prompts(number)
        seeds = tuple(picture_seed(self.config.seed, number, i) for i in range(len(prompts)))
        actions = self.config.rollout_actions(number)
        size = self.config.size or self.model.native_size
        mine = self.team.part(prompts), self.team.part(seeds)
        while True:
            kept = self.config.algorithm == PPO and self.config.ppo.one_pass
            plan = RolloutPlan(*mine, size, actions, self.state.rollout_batch, kept)
            parts = sample_trajectories(self.policy, self.model, self.texts, plan)
            drawn = yield from self._drawn(parts, SAMPLE)
            if isinstance(drawn, Trajectories):
                return drawn
            self.state.rollout_batch = self._halved(self.state.rollout_batch)

    def _gathered(self, own: Tensor) -> Tensor:
        """Rewards (n,) of this process's pictures -> those of all of the epoch's (N,): phase 2."""
        return torch.cat(self.team.gathered(own))

    def _check_finite(self, drawn: Trajectories, rewards: Tensor) -> None:
        if not bool(rewards.isfinite().all() and drawn.log_prob.isfinite().all()):
            raise DivergedError("The pictures turned into values that are not numbers.")

    def _make_update(self) -> Update:
        config, parts = self.config, (self.policy, self.texts, self.optimizer)
        if config.algorithm == NFT:
            return NftUpdate(*parts, (config.ppo, config.nft), self.team)
        return PpoUpdate(*parts, config.ppo, self.team)

    def _update(
        self, drawn: Trajectories, advantage: Tensor, number: int
    ) -> Generator[Event, None, UpdateFigures]:
        """Phase 4."""
        for _ in self.update.run(drawn, advantage, self.config.seed, number):
            self._calls += 1
            yield self._progress(UPDATE)
        self.state.update_batch = self.update.batch
        first, *others = self.team.gathered(self.update.figures)
        return first.together(others)

    def _set_rate(self, number: int) -> None:
        """The learning rate of an epoch; the first may come before the plan has a length."""
        ppo, last = self.config.ppo, self.state.epochs or self.config.epochs
        done = (number - 1) / max(last - 1, 1)
        for group in self.optimizer.param_groups:
            group["lr"] = ppo.learning_rate * (1 - (1 - ppo.final_rate) * min(done, 1.0))

    def _look(self, number: int) -> Generator[Event, None, Images]:
        """Draw the film strip of this epoch, each process its part, and store it."""
        own = yield from self._strip(self.config.look, self.team)
        images = np.concatenate(self.team.gathered(own))
        if self.team.leads:
            self.folder.save_picture(number, images)
        return images

    def _strip(
        self, planned: Callable[[tuple[int, int], int], LookPlan], team: Team
    ) -> Generator[Event, None, Images]:
        """Draw this process's part of some pictures, as an artist would."""
        while True:
            plan = planned(self.model.native_size, self.state.rollout_batch)
            mine = replace(plan, prompts=team.part(plan.prompts), seeds=team.part(plan.seeds))
            own = yield from self._drawn(draw_look(self.model, self.texts, mine), LOOK)
            if own is not None:
                return own
            self.state.rollout_batch = self._halved(self.state.rollout_batch)

    def _drawn(self, parts: Iterator[object], phase: str) -> Generator[Event, None, object]:
        """Pull until the result, which is the last part; None when memory ran out."""
        while True:
            part = _pull(parts)
            if not isinstance(part, int):
                return part
            self._calls += 1
            yield self._progress(phase)

    def _halved(self, batch: int) -> int:
        release_memory(self.model.device)
        if batch == 1:
            raise TrainingError(
                "Memory ran out even with one picture at a time. Close other programs, train on "
                "smaller pictures or choose a smaller model."
            )
        return (batch + 1) // 2

    def _figures(self, images: Images, *, reward_mean: float, kl: float) -> EpochFigures:
        prompts = self.config.look_prompts()
        rewards = self.reward(images, prompts)
        return EpochFigures(
            kl=kl,
            reward_mean=reward_mean,
            reward_held_out=float(rewards.mean()),
            probes=probe(images, prompts, self.tools),
            spread=spread_within(rewards, prompts),
        )

    def _progress(self, phase: str) -> StageProgress:
        planned = self.state.epochs or self.config.epochs
        left = None
        if planned and self.state.epoch:
            each = self.state.spent / self.state.epoch
            left = max(0.0, each * (planned - self.state.epoch) - self._watch.seconds)
        epoch = min(self.state.epoch + 1, planned or self.state.epoch + 1)
        about = {"epoch": float(epoch), "epochs": float(planned)}
        return StageProgress(phase, self._calls, self._calls_an_epoch(), left, about)

    def _calls_an_epoch(self) -> int:
        config, batch = self.config, self.state.rollout_batch
        pictures = config.prompts_per_epoch * config.images_per_prompt
        mine, looked_at = (
            len(self.team.part(range(count))) for count in (pictures, len(config.look_prompts()))
        )
        sampling = -(-mine // batch) * config.policy.steps
        looking = -(-looked_at // batch) * config.look_steps
        return sampling + self.update.calls(pictures, len(config.policy.actions(0))) + looking

    def _done(self, now: EpochFigures, clip_fraction: float) -> EpochDone:
        return EpochDone(
            epoch=self.state.epoch,
            epochs=self.state.epochs,
            images=self.config.prompts_per_epoch * self.config.images_per_prompt,
            reward_mean=now.reward_mean,
            reward_held_out=now.reward_held_out,
            kl=now.kl,
            clip_fraction=clip_fraction,
            diversity=now.probes[DIVERSITY],
            seconds=self._watch.seconds,
            probes=dict(now.probes),
        )

    def _commit(self) -> None:
        """Write the checkpoint, and the rung of the ladder when one is due."""
        state = self.state
        if not self.team.leads:
            self.team.wait()
            return
        if state.epoch and state.epoch % state.stride(self.config) == 0:
            save_adapter(self.model.unet, self.folder.rung(state.epoch), self._lineage(state.epoch))
        current = adapter_state(self.model.unet)
        self.folder.commit(state, current, self.good, self.optimizer)
        self.team.wait()

    def _end(self) -> Iterator[Event]:
        """Write the result: of the epochs that were well, the best on the held-out prompts."""
        if not self.team.leads:
            return
        strength = yield from self._settled()
        restore_adapter(self.model.unet, weakened(self.good, strength))
        lineage = self._lineage(self.state.good_epoch if strength else 0) | {"strength": strength}
        path, _ = save_adapter(self.model.unet, self.folder.path, lineage)
        sentences = [self.state.stopped] if self.state.stopped else []
        if not strength:
            sentences.append("Even a tenth of it does, so the result draws as the base does.")
        elif strength < 1:
            why = ", within what a run may change" if self.state.beyond else ""
            why = why or ": further on the pictures' subjects begin to fade"
            sentences.append(
                f"Kept at {strength:.0%} of its strength{why}. At strength {1 / strength:.2g} it "
                "draws as it was trained."
            )
        if sentences:
            yield Notice(" ".join(sentences))
        yield StageArtifact("adapter", str(path))

    def _settled(self) -> Generator[Event, None, float]:
        """Return the largest strength, in tenths, at which the pictures stay like the base's.

        A taste is met early on the way, and subjects fade towards its end (see LOG.md). Likeness
        falls as strength rises, so a few looks find it. A first epoch that went further than the
        guards allow is weakened until they do: a run that learned leaves something.
        """
        state, self._calls, before = self.state, 0, None
        alike = self.reward.learned and self.config.guards.likeness > 0
        if not state.good_epoch or not (alike or state.beyond):
            return 1.0
        if alike:
            with adapter_off(self.model.unet):
                before = yield from self._strip(self.config.settling, ALONE)
        good, bad, wanted = 1, 11, 10  # tenths: the least that is kept, and more than there is
        if state.beyond:
            good, bad, wanted = 0, 10, 5
        while bad - good > 1:
            restore_adapter(self.model.unet, weakened(self.good, wanted / 10))
            fits = yield from self._fits(wanted / 10, before)
            good, bad = (wanted, bad) if fits else (good, wanted)
            wanted = (good + bad) // 2
        return good / 10

    def _fits(self, strength: float, before: Images | None) -> Generator[Event, None, bool]:
        """Whether the result, at the strength that it has now, may be kept."""
        state, guards = self.state, self.config.guards
        if before is not None:
            after = yield from self._strip(self.config.settling, ALONE)
            if likeness(after, before) < guards.likeness:
                return False
        if not state.beyond:
            return True
        images = yield from self._strip(self.config.look, ALONE)
        kl = state.history[-1].kl * strength**2  # means move in proportion, nearly
        now = self._figures(images, reward_mean=0.0, kl=kl)
        assert state.base is not None, "the first look comes before the first epoch"
        learned = self.reward.learned
        return not why_to_stop([now], state.base, guards, learned=learned, start=state.start)

    def _lineage(self, epoch: int) -> dict[str, object]:
        return {
            "made_by": "easel finetune",
            "base": self.model.name,
            "base_sha256": self.model.sha256,
            "reward": self.reward.name,
            "reward_identity": self.reward.identity,
            **self.reward.lineage,
            "began_with": self.state.began_with,
            "epoch": epoch,
            "config": self.config.summary(),
        }


def _pull(parts: Iterator[object]) -> object:
    """Return the next part, or None when memory ran out."""
    try:
        return next(parts)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    return None

"""What a run of fine-tuning is, and the folder that it lives in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.core.errors import DiskFullError, TrainingError
from studio.core.events import EpochDone
from studio.training import checkpoint
from studio.training.guards import EpochFigures, GuardConfig
from studio.training.nft import NftConfig
from studio.training.ppo import PpoConfig
from studio.training.probes import LookPlan
from studio.training.rewards import Images
from studio.training.rollout import PolicyConfig

LOOK_SEED = 1000  # of the first picture of each held-out prompt
PPO, NFT = "ppo", "nft"
ALGORITHMS = (PPO, NFT)
_SETTLED_ON = 24  # prompts of the training
_STRIP = 6  # pictures in a row of the film strip


@dataclass(frozen=True)
class FineTuneConfig:
    """Everything that decides a run, its model and reward aside."""

    prompts: tuple[str, ...]  # trained on
    held_out: tuple[str, ...]  # looked at only
    epochs: int = 0  # 0: as many as `minutes` allow
    minutes: float = 0.0  # of computing; 0: no limit. Turned into epochs after the first one
    seed: int = 0
    rank: int = 8  # of the LoRA
    prompts_per_epoch: int = 8
    images_per_prompt: int = 6
    batch: int = 16  # pictures a U-Net call while drawing
    look_seeds: int = 2  # pictures of each held-out prompt after each epoch
    look_steps: int = 20  # as artists draw
    rungs: int = 10  # adapters on the ladder
    negative_prompt: str = ""
    size: tuple[int, int] | None = None  # width, height in pixels; None: the model's own
    algorithm: str = PPO  # one of ALGORITHMS
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)  # optimizer and advantages: for both
    nft: NftConfig = field(default_factory=NftConfig)
    guards: GuardConfig = field(default_factory=GuardConfig)

    def __post_init__(self) -> None:
        if not self.prompts or not self.held_out:
            raise TrainingError("There are no prompts to train on; give at least one.")
        if self.epochs <= 0 and self.minutes <= 0:
            raise TrainingError("Say how long to train: a number of epochs, or of minutes.")
        if self.algorithm not in ALGORITHMS:
            raise TrainingError(
                f"There is no algorithm '{self.algorithm[:40]}'. Choose {' or '.join(ALGORITHMS)}."
            )
        if self.prompts_per_epoch * self.images_per_prompt < 2:
            raise TrainingError("An epoch needs at least two pictures to compare.")

    def epoch_prompts(self, epoch: int) -> tuple[str, ...]:
        """Return the prompt of each picture of an epoch: every prompt once before one comes again.

        Each round through the prompts has an order of its own.
        """
        each = min(self.prompts_per_epoch, len(self.prompts))
        chosen = []
        for place in range((epoch - 1) * each, epoch * each):
            number, within = divmod(place, len(self.prompts))
            order = np.random.default_rng((self.seed, number, 2)).permutation(len(self.prompts))
            chosen.append(self.prompts[order[within]])
        pictures = self.prompts_per_epoch * self.images_per_prompt
        return tuple(chosen[i * each // pictures] for i in range(pictures))

    def rollout_actions(self, epoch: int) -> range:
        """Return the steps of an epoch's pictures that are actions; none where none is scored."""
        return self.policy.actions(epoch - 1) if self.algorithm == PPO else range(0)

    def look_prompts(self) -> tuple[str, ...]:
        """Return the prompt of each picture of the film strip."""
        return tuple(p for p in self.held_out for _ in range(self.look_seeds))

    def look(self, native_size: tuple[int, int], batch: int) -> LookPlan:
        """Return what is drawn after each epoch."""
        seeds = tuple(LOOK_SEED + i for _ in self.held_out for i in range(self.look_seeds))
        guidance = self.policy.guidance_scale
        size = self.size or native_size
        return LookPlan(self.look_prompts(), seeds, size, self.look_steps, guidance, batch)

    def settling(self, native_size: tuple[int, int], batch: int) -> LookPlan:
        """Return what is drawn to see how strong a result must be: many prompts, one picture each.

        The held-out ones, and as many as `_SETTLED_ON` of those that were trained on.
        """
        step = -(-len(self.prompts) // _SETTLED_ON)
        prompts = (*self.prompts[::step], *self.held_out)
        look = self.look(native_size, batch)
        return replace(look, prompts=prompts, seeds=(LOOK_SEED,) * len(prompts))

    def identity(self, base_sha256: str, reward_identity: str) -> dict[str, Any]:
        """Return what must be the same for a run to go on."""
        return {"base": base_sha256, "reward": reward_identity, "settings": self.summary()}

    def summary(self) -> dict[str, Any]:
        """Return the settings as JSON; the prompts, which may be thousands, as their hash."""
        values = json.loads(json.dumps(asdict(self)))
        for name in ("prompts", "held_out"):
            text = "\n".join(getattr(self, name))
            values[name] = {
                "count": len(getattr(self, name)),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
        return values


@dataclass
class RunState:
    """Where a run stands after an epoch; with the tensors it is all that resuming needs."""

    rollout_batch: int  # as memory allowed so far
    update_batch: int
    epoch: int = 0  # epochs done
    epochs: int = 0  # planned; 0 until `minutes` are turned into epochs
    good_epoch: int = 0  # of those that were well, the best on the held-out prompts
    beyond: bool = False  # none was: it is the first, and is to be weakened until it is well
    spent: float = 0.0  # seconds computed
    stopped: str = ""  # why the run ended early, in a sentence
    base: EpochFigures | None = None
    start: EpochFigures | None = None  # what an adapter to go on from drew; None without one
    began_with: dict[str, Any] = field(default_factory=dict)  # that adapter: sha256 and strength
    history: list[EpochFigures] = field(default_factory=list)  # one an epoch
    statistics: dict[str, list[float]] = field(default_factory=dict)  # rewards by prompt

    def plan(self, config: FineTuneConfig, seconds: float) -> None:
        """Turn minutes into a number of epochs, once: after the first, which took `seconds`."""
        if self.epochs:
            return
        self.epochs = config.epochs
        if config.minutes > 0:
            left = config.minutes * 60 - self.spent
            affordable = self.epoch + max(0, int(left / max(seconds, 1e-9)))
            self.epochs = min(affordable, config.epochs) if config.epochs else affordable

    def is_best(self, now: EpochFigures) -> bool:
        """Whether no earlier result drew the held-out prompts better; what counts is not seen."""
        if not self.good_epoch:
            return True
        return now.reward_held_out >= self.history[self.good_epoch - 1].reward_held_out

    def stride(self, config: FineTuneConfig) -> int:
        """Return every how many epochs the ladder gets a rung."""
        return max(1, -(-(self.epochs or config.epochs or 1) // config.rungs))


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Make the folder this run's, or check that it is. Raises TrainingError when it is not."""
        file = self.path / "run.json"
        text = json.dumps(identity, indent=1, sort_keys=True)
        if not file.exists():
            write_text(file, text)
            return
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if known == json.loads(text):
            return
        changed = next((k for k in identity if known.get(k) != json.loads(text)[k]), "")
        reasons = {
            "base": "its base model has changed since, or was another one",
            "reward": "its reward was another one, or has learned from new votes since",
        }
        raise TrainingError(
            f"The folder {self.path.name} holds another run: "
            f"{reasons.get(changed, 'its settings or prompts were others')}. Choose another "
            "folder, or give back what it was started with to go on."
        )

    def latest(
        self, config: FineTuneConfig
    ) -> tuple[RunState, Mapping[str, dict[str, Tensor]], Callable[..., None]] | None:
        """Return the last commit: state, tensors, and a function that restores the optimizer."""
        found = checkpoint.latest(self.path / "checkpoints")
        if found is None:
            return None
        values = dict(found.state["run"])
        first = {name: values.pop(name, None) for name in ("base", "start")}
        looked = {name: EpochFigures(**found) if found else None for name, found in first.items()}
        history = [EpochFigures(**figures) for figures in values.pop("history")]
        state = RunState(**values, **looked, history=history)
        optimizer_state = found.tensors.get("optimizer", {})

        def restore(optimizer: torch.optim.Optimizer) -> None:
            if optimizer_state:
                checkpoint.restore_optimizer(optimizer, optimizer_state)

        return state, found.tensors, restore

    def commit(
        self,
        state: RunState,
        adapter: dict[str, Tensor],
        good: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Write everything that resuming needs, in one piece. Raises DiskFullError."""
        tensors = {"adapter": adapter, "good": good}
        if state.epoch:
            tensors["optimizer"] = checkpoint.optimizer_tensors(optimizer)
        checkpoint.save(self.path / "checkpoints", state.epoch, tensors, {"run": asdict(state)})

    def log(self, state: RunState, done: EpochDone) -> None:
        """Append the epoch's figures; what a killed run wrote beyond its last commit goes."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        kept = lines[: state.epoch - 1]
        write_text(file, "".join(f"{line}\n" for line in [*kept, json.dumps(asdict(done))]))

    def rung(self, epoch: int) -> Path:
        """Return the folder of an epoch's adapter on the ladder."""
        return self.path / "ladder" / f"epoch-{epoch:04d}"

    def picture(self, epoch: int) -> Path:
        """Return the file of an epoch's film strip."""
        return self.path / "pictures" / f"epoch-{epoch:04d}.png"

    def save_picture(self, epoch: int, images: Images) -> None:
        """Write the pictures (B, H, W, 3) of an epoch side by side."""
        rows = -(-len(images) // _STRIP)
        blank = np.zeros((rows * _STRIP - len(images), *images.shape[1:]), dtype=np.uint8)
        grid = np.concatenate([images, blank]).reshape(rows, _STRIP, *images.shape[1:])
        sheet = grid.transpose(0, 2, 1, 3, 4).reshape(rows * images.shape[1], -1, 3)
        path = self.picture(epoch)
        partial = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sheet).save(partial, "PNG")
            partial.replace(path)
        except OSError as error:
            raise _disk_full(error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text durably, in one piece or not at all. Raises DiskFullError."""
    partial = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise _disk_full(error) from error


def _disk_full(error: OSError) -> DiskFullError:
    return DiskFullError(
        f"The run's folder cannot be written to ({error.strerror}). Free some disk space and give "
        "the same command again; it goes on from the last epoch."
    )

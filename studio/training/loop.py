"""The training loop that the stages share: steps, learning rate, moving average, checkpoints.

A stage gives the parameters and a function from step number to loss; `optimize` is a generator of
`StageProgress`. Everything random is drawn from generators seeded by (seed, step), so a run that is
killed and resumed sees the same batches and the same noise as one that is not.

Several processes may train together (`team.py`): each brings the loss of its part of the batch,
their gradients are summed, and all take the same step.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from studio.core.errors import DiskFullError, TrainingError
from studio.core.events import StageArtifact, StageProgress
from studio.training import checkpoint
from studio.training.budget import Plan, measure, read_plan, write_plan
from studio.training.made_with import MadeWith
from studio.training.team import ALONE, Team

Metrics = Mapping[str, Tensor | float]  # () each; of this process's part where there are several
LossFunction = Callable[[int], tuple[Tensor, Metrics]]  # step -> (loss, metrics)


@dataclass(frozen=True)
class LoopConfig:
    """What every stage's optimisation has in common."""

    steps: int
    learning_rate: float
    warmup: int = 100  # steps of linear rise
    decay_share: float = 0.4  # of the steps, at the end: linear fall to zero
    weight_decay: float = 0.01
    gradient_clip: float = 1.0  # of the global norm
    ema_decay: float = 0.0  # 0: no moving average
    checkpoint_every: int = 250  # steps
    report_every: int = 10  # steps between two events and lines of the log
    budget: float = 0.0  # seconds; 0: `steps` as they stand. Turned into steps once, by measuring
    seed: int = 0


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Share of the peak learning rate at `step`: rises, stays, falls to zero at `steps`."""
    rise = min((step + 1) / max(config.warmup, 1), 1.0)
    fall_steps = config.decay_share * config.steps
    fall = min((config.steps - step) / fall_steps, 1.0) if fall_steps else 1.0
    return rise * fall


def step_generator(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """Numpy generator for one step; `stream` separates independent draws within it."""
    return np.random.default_rng((seed, step, stream))


def torch_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch generator for one step; on CUDA, where a CPU's would take a tenth of the step."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + step)


def optimize(
    stage: str,
    module: nn.Module,
    loss_at: LossFunction,
    config: LoopConfig,
    folder: Path,
    team: Team = ALONE,
    made_with: MadeWith | None = None,
) -> Iterator[StageProgress | StageArtifact]:
    """Train `module` for `config.steps` steps, resuming from `folder` if it holds a checkpoint.

    made_with: what the shapes of the weights do not say of the run; only one of the same is
    resumed. A checkpoint that does not say goes on as it always did.

    At the end the module carries the moving average if there is one. Who closes the generator
    loses nothing: what was trained since the last checkpoint is committed first. With a `team`
    every process runs this with its own part of each batch, and only the leader writes; the losses
    of the parts add up to the batch's.

    Raises `TrainingError` when `folder` holds another configuration's run, and when the loss is not
    finite; the checkpoints on disk are then from before it happened.
    """
    run = _Run(stage, module, config, (folder, made_with or MadeWith()), team)
    module.train()
    if config.budget:
        run.config = yield from _planned(run, loss_at)
    yield from run.steps(loss_at)
    if config.ema_decay:
        module.load_state_dict(run.ema)
    module.eval()


class _Run:
    """One stage's optimisation while it is being computed."""

    def __init__(
        self,
        stage: str,
        module: nn.Module,
        config: LoopConfig,
        place: tuple[Path, MadeWith],  # folder, and the run that it may hold
        team: Team,
    ) -> None:
        self.stage, self.module, self.config = stage, module, config
        (self.folder, self.made_with), self.team = place, team
        self.optimizer = make_optimizer(module, config)
        self.ema = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.done, self.record = _resume(place, module, self.optimizer, self.ema)
        self.committed = self.done
        self.spent = 0.0  # seconds of own work since this process began
        team.wait()  # nobody writes while another still reads

    def steps(self, loss_at: LossFunction) -> Iterator[StageProgress | StageArtifact]:
        """Take the steps that are left."""
        config, first = self.config, self.done
        with _open_log(self.folder, first) if self.team.leads else nullcontext() as log:
            try:
                for step in range(first, config.steps):
                    begun = time.monotonic()
                    taken = take_step(self.optimizer, loss_at, step, config, self.team)
                    decay = min(config.ema_decay, (step + 1) / (step + 10))
                    update_ema(self.ema, self.module, decay)
                    self.done = step + 1
                    self.spent += time.monotonic() - begun
                    if self._is_due(config.report_every):
                        left = self.spent / (self.done - first) * (config.steps - self.done)
                        metrics = self._metrics(*taken)
                        if log is not None:
                            _write_line(log, {"step": self.done, "time": time.time(), **metrics})
                        yield StageProgress(self.stage, self.done, config.steps, left, metrics)
                    if self._is_due(config.checkpoint_every):
                        yield from self._commit()
            except GeneratorExit:
                for _ in self._commit() if self.done > self.committed else ():
                    pass
                raise

    def _is_due(self, every: int) -> bool:
        return self.done % every == 0 or self.done == self.config.steps

    def _metrics(self, loss: Tensor, norm: Tensor, metrics: Metrics) -> dict[str, float]:
        """Return what is told of a step: of the whole batch, whoever computed its parts."""
        own = {"loss": float(loss)} | {name: float(value) for name, value in metrics.items()}
        parts = self.team.gathered(own)
        whole = {name: sum(part[name] for part in parts) for name in own}
        return {"loss": whole.pop("loss"), "gradient_norm": norm.item(), **whole}

    def _commit(self) -> Iterator[StageArtifact]:
        if self.team.leads:
            groups = {
                "weights": dict(self.module.state_dict()),
                "ema": self.ema,
                "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            }
            state = {"config": asdict(self.config), "kind": self.made_with.kind}
            if self.record is not None:
                state["made_with"] = self.record
            path = checkpoint.save(self.folder, self.done, groups, state)
            self.committed = self.done
            yield StageArtifact(self.stage, str(path))


def _planned(run: _Run, loss_at: LossFunction) -> Generator[StageProgress, None, LoopConfig]:
    """Return the configuration with as many steps as the budget allows.

    Measured once and written down; a run that is resumed keeps its plan, however fast it is now.
    """
    plan = read_plan(run.folder)
    if plan is None:
        parameters = [p for p in run.module.parameters() if p.requires_grad]
        measured = 0.0
        for seconds in measure(lambda step: take_gradient(parameters, loss_at, step, run.team)):
            measured = seconds
            yield StageProgress(run.stage, 0, 0, None)
        plan = Plan.make(run.config.budget, max(run.team.gathered(measured)))
        if run.team.leads:
            write_plan(run.folder, plan)
    return replace(
        run.config,
        steps=plan.steps,
        warmup=min(run.config.warmup, max(plan.steps // 10, 1)),
        checkpoint_every=min(run.config.checkpoint_every, plan.checkpoint_every),
    )


def make_optimizer(module: nn.Module, config: LoopConfig) -> torch.optim.AdamW:
    """Make the fused AdamW over everything of `module` that is trained."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def take_step(
    optimizer: torch.optim.Optimizer,
    loss_at: LossFunction,
    step: int,
    config: LoopConfig,
    team: Team = ALONE,
) -> tuple[Tensor, Tensor, Metrics]:
    """Take one optimisation step; return (loss (), gradient norm () before clipping, metrics).

    Raises `TrainingError`, and leaves the weights as they were, when the gradient is not finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * learning_rate_factor(step, config)
    [group] = optimizer.param_groups
    loss, metrics = take_gradient(group["params"], loss_at, step, team)
    norm = nn.utils.clip_grad_norm_(group["params"], config.gradient_clip)
    if not torch.isfinite(norm):
        raise TrainingError(
            f"The loss stopped being a number at step {step}. Run the command again with a "
            "smaller learning rate; it goes on from the last good checkpoint."
        )
    optimizer.step()
    return loss.detach(), norm, metrics


def take_gradient(
    parameters: list[nn.Parameter], loss_at: LossFunction, step: int, team: Team = ALONE
) -> tuple[Tensor, Metrics]:
    """Leave the gradient of a step's loss on the parameters, the whole team's summed."""
    for parameter in parameters:
        parameter.grad = None
    loss, metrics = loss_at(step)
    loss.backward()
    team.add_gradients(parameters)
    return loss, metrics


def _open_log(folder: Path, first: int) -> FileIO:
    """Open the log to append, without what a killed run logged beyond its last checkpoint."""
    path = folder / "log.jsonl"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line + "\n" for line in lines if _logged_step(line) <= first]
        if len(kept) < len(lines):
            partial = folder / "log.jsonl.tmp"
            partial.write_text("".join(kept), encoding="utf-8")
            partial.replace(path)
    return path.open("ab", buffering=0)  # what cannot be written is not tried again at its end


def _write_line(log: FileIO, entry: Mapping[str, float]) -> None:
    try:
        log.write(json.dumps(entry).encode() + b"\n")
    except OSError as error:
        raise DiskFullError(
            f"The log of the training could not be written ({error.strerror}). Free some disk "
            "space and run the same command again; it goes on from its last checkpoint."
        ) from error


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # half a line
        return math.inf


def _resume(
    place: tuple[Path, MadeWith],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
) -> tuple[int, dict[str, Any] | None]:
    """Return the step that the run has come to, and what its checkpoints record of it."""
    folder, made_with = place
    folder.mkdir(parents=True, exist_ok=True)
    found = checkpoint.latest(folder)
    if found is None:
        return 0, made_with.record()
    recorded = found.state.get("made_with")
    if recorded is not None and (changes := made_with.changes(recorded)):
        raise _another(folder, changes)
    kind = made_with.kind
    if found.state.get("kind", kind) != kind or not _fits(optimizer, found.tensors["optimizer"]):
        raise _another(folder)
    try:
        module.load_state_dict(found.tensors["weights"])
    except RuntimeError as error:
        raise _another(folder) from error
    for name, value in found.tensors["ema"].items():
        ema[name].copy_(value)
    checkpoint.restore_optimizer(optimizer, found.tensors["optimizer"])
    return found.step, None if recorded is None else made_with.record(recorded)


def _another(folder: Path, changes: Sequence[str] = ()) -> TrainingError:
    told = f" ({'; '.join(changes)})" if changes else ""
    return TrainingError(
        f"The checkpoint in {folder} is from another configuration{told}. Delete that folder, or "
        "move it away, to begin anew; or train on with what it was made with."
    )


def _fits(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> bool:
    """Whether all that is stored belongs to one of the parameters, and has its shape."""
    [group] = optimizer.param_groups
    shapes = {f"{i}.exp_avg": p.shape for i, p in enumerate(group["params"])}
    return all(shapes.get(k) == v.shape for k, v in state.items() if k.endswith(".exp_avg"))


@torch.no_grad()
def update_ema(ema: Mapping[str, Tensor], module: nn.Module, decay: float) -> None:
    """Move every average `decay` of the way back from the weights; 0 copies the weights."""
    averages, values = [], []
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            averages.append(ema[name])
            values.append(value)
        else:
            ema[name].copy_(value)
    torch._foreach_lerp_(averages, values, 1 - decay)

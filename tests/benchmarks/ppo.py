"""PPO against trl 0.23.1's DDPOTrainer, the last release that had one.

trl lives in an environment of its own below the data folder, made on the first run, which sees this
one's packages. There both train the same LoRA on the same U-Net with the same prompts and reward:

* loss and gradient for the same trajectories, over the transitions that both score;
* pictures sampled and learned from per second, by CPU time on one thread and by the clock on two;
* the peak of memory at equal micro-batch.

    python -m tests.benchmarks.ppo [MODEL FOLDER]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from studio.core.settings import STARTER_MODEL, Settings
from studio.diffusion.adapters import adapter_parameters, add_trainable_adapter
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.training.ppo import PpoConfig, PpoUpdate, PromptStatistics, advantages
from studio.training.rewards import known_reward
from studio.training.rollout import (
    PolicyConfig,
    RolloutPlan,
    TextFeatures,
    Trajectories,
    make_policy,
    picture_seed,
    sample_trajectories,
)
from studio.training.update import make_optimizer

TRL = "trl==0.23.1"
ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("red apple, flat illustration", "castle, pencil sketch", "owl, 3d render", "robot")
IMAGES = 16  # an epoch
UPDATES = 1  # optimizer steps an epoch: our default, and trl's own accumulation over an epoch
BATCH = 4  # pictures at once while sampling, and trl's while training
RANK = 4  # as trl's own pipeline
ROUNDS = 2  # after one that warms up
MEMORY = ("ours", "one pass", "trl")
# Everything that differs from trl switched off: all actions, no floor, no divergence from the base.
POLICY = PolicyConfig(steps=10, guidance_scale=3.0, min_std=0.0, skip_share=0.0, train_share=1.0)
PPO = PpoConfig(updates=UPDATES, kl_weight=0.0, learning_rate=3e-4, batch=16)


def main(folder: Path = STARTER_MODEL) -> list[dict]:
    """Return the figures: {metric, value, unit, ratio_to, ratio, ci, n} each."""
    python = environment(Settings().data_dir / "bench" / "trl")
    found: dict[str, Any] = {}
    for task in ("equal", "one thread", "two threads", *(f"memory {name}" for name in MEMORY)):
        command = [str(python), "-m", "tests.benchmarks.ppo", "--child", task, str(folder)]
        threads = "2" if task == "two threads" else "1"
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )  # fmt: skip
        found[task] = json.loads(done.stdout.strip().splitlines()[-1])
    return records(found)


def records(found: dict[str, Any]) -> list[dict]:
    """Turn what the children measured into the runner's records."""
    equal = found["equal"]
    rows: list[dict] = [
        {"metric": f"PPO: {what}, ours against trl", "value": equal[key], "unit": "relative"}
        for what, key in (("difference of the loss", "loss"), ("of the gradient", "gradient"))
    ]
    for task, unit in (("one thread", "CPU s"), ("two threads", "s")):
        for name, seconds in found[task].items():
            if name != "trl":
                rows.append(
                    {
                        "metric": f"PPO: pictures a {unit}, {task}, {name}",
                        "value": IMAGES / seconds,
                        "unit": f"1/{unit}",
                        "ratio_to": f"trl's DDPOTrainer, batch {BATCH}",
                        "ratio": found[task]["trl"] / seconds,
                        "n": ROUNDS,
                    }
                )
    theirs = found["memory trl"]["megabytes"]
    for name in ("ours", "one pass"):
        ours = found[f"memory {name}"]["megabytes"]
        rows.append(
            {
                "metric": f"PPO: peak memory above the model, micro-batch {BATCH}, {name}",
                "value": ours,
                "unit": "MB",
                "ratio_to": f"trl's DDPOTrainer ({theirs:.0f} MB)",
                "ratio": ours / max(theirs, 1e-9),
            }
        )
    return rows


def environment(folder: Path) -> Path:
    """Make trl's environment, unless it is there; return its Python."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (folder / "ready").exists():
        return python
    venv.create(folder, with_pip=False, clear=True)
    own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(own) / "easel.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", TRL]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (folder / "ready").write_text(TRL, encoding="utf-8")
    return python


# In trl's environment ---------------------------------------------------------------------------


def child(task: str, folder: Path) -> dict[str, float]:
    """Measure one thing where trl can be imported."""
    if task == "equal":
        return equality(folder)
    if task in ("memory ours", "memory one pass"):
        ppo = replace(PPO, batch=BATCH, one_pass=task == "memory one pass")
        return memory(our_epoch(load(folder), POLICY, ppo))
    if task == "memory trl":
        return memory(trl_epoch(folder))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    clock = time.process_time if task == "one thread" else time.perf_counter
    model = load(folder)
    ways = {
        "trl": trl_epoch(folder),
        "the same, scored in a second pass": our_epoch(model, POLICY, PPO),
        "the same, learned while drawing": our_epoch(model, POLICY, replace(PPO, one_pass=True)),
        "defaults but the divergence": our_epoch(model, PolicyConfig(), PPO),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):  # the first warms up
        for name, epoch in ways.items():
            begun = clock()
            epoch()
            seconds[name].append(clock() - begun)
    return {name: min(found[1:]) for name, found in seconds.items()}


def load(folder: Path) -> LatentDiffusionModel:
    model = load_model(folder, "bench", "cpu", torch.float32)
    add_trainable_adapter(model.unet, RANK, seed=0)
    return model


def drawn_by(
    model: LatentDiffusionModel, config: PolicyConfig, texts: TextFeatures, kept: bool = False
) -> Trajectories:
    prompts = tuple(PROMPTS[i * len(PROMPTS) // IMAGES] for i in range(IMAGES))
    seeds = tuple(picture_seed(0, 1, i) for i in range(IMAGES))
    plan = RolloutPlan(prompts, seeds, model.native_size, config.actions(0), BATCH, kept)
    *_, drawn = sample_trajectories(make_policy(model, config), model, texts, plan)
    return drawn


def our_epoch(
    model: LatentDiffusionModel, config: PolicyConfig, ppo: PpoConfig
) -> Callable[[], None]:
    """Return one epoch of ours, ready to run."""
    texts, reward = TextFeatures(model), known_reward("brightness")
    optimizer = make_optimizer(adapter_parameters(model.unet), ppo)

    def epoch() -> None:
        drawn = drawn_by(model, config, texts, ppo.one_pass)
        rewards = reward(drawn.images, drawn.prompts)
        advantage = advantages(rewards, drawn.prompts, PromptStatistics(32), ppo)
        update = PpoUpdate(make_policy(model, config), texts, optimizer, ppo)
        update.measured = 0  # trl does not measure how far it is from the base
        for _ in update.run(drawn, advantage, seed=0, epoch=1):
            pass

    return epoch


def trl_trainer(folder: Path) -> Any:
    """Build trl's trainer on a model folder; its pipeline loads the folder itself."""
    import accelerate

    accelerate.PartialState()  # its own logger is asked for before it makes one
    from itertools import cycle

    from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline

    pipeline = DefaultDDPOStableDiffusionPipeline(str(folder), use_lora=True)
    pipeline.set_progress_bar_config(disable=True)
    config = DDPOConfig(
        sample_num_steps=POLICY.steps,
        sample_guidance_scale=POLICY.guidance_scale,
        sample_batch_size=BATCH,
        sample_num_batches_per_epoch=IMAGES // BATCH,
        train_batch_size=BATCH,
        train_gradient_accumulation_steps=IMAGES // BATCH // UPDATES,
        train_timestep_fraction=(POLICY.steps - 1) / POLICY.steps,
        train_clip_range=clip_range(pipeline),
        train_adv_clip_max=PPO.advantage_clip,
        train_learning_rate=PPO.learning_rate,
        mixed_precision="no",
        log_with=None,
        seed=1,
    )
    prompts = cycle(PROMPTS)

    def brightness(images: torch.Tensor, *_: object) -> tuple[torch.Tensor, dict]:
        return images.float().mean((1, 2, 3)), {}

    return DDPOTrainer(config, brightness, lambda: (next(prompts), {}), pipeline)


def clip_range(pipeline: Any) -> float:
    unet = pipeline.unet.config
    return PPO.clip_nats / (unet.in_channels * unet.sample_size**2)


def trl_epoch(folder: Path) -> Callable[[], None]:
    """Return one epoch of trl's, ready to run."""
    trainer = trl_trainer(folder)
    return lambda: trainer.step(0, 0)


def equality(folder: Path) -> dict[str, float]:
    """Return the relative differences of loss and gradient over the same trajectories."""
    model, trainer = load(folder), trl_trainer(folder)
    texts, chance = TextFeatures(model), torch.Generator().manual_seed(0)
    drawn = drawn_by(model, POLICY, texts)
    parameters = adapter_parameters(model.unet)
    with torch.no_grad():  # away from the policy that drew, so that the ratio and its clip matter
        for parameter in parameters:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=chance))
    advantage = torch.randn(IMAGES, generator=chance)
    ppo = replace(PPO, updates=1, learning_rate=0.0, gradient_clip=1e9)
    update = PpoUpdate(make_policy(model, POLICY), texts, make_optimizer(parameters, ppo), ppo)
    for _ in update.run(drawn, advantage, seed=0, epoch=1):
        pass
    ours = torch.cat([p.grad.flatten() for p in parameters])
    for parameter in parameters:
        parameter.grad = None
    loss = trl_loss(trainer, model, texts, drawn, advantage)
    loss.backward()
    theirs = torch.cat([p.grad.flatten() for p in parameters])
    mean = update.figures.mean("loss")
    return {
        "loss": abs(mean - float(loss)) / abs(float(loss)),
        "gradient": float((ours - theirs).norm() / theirs.norm()),
        "clip_fraction": update.figures.mean("clipped"),
    }


def trl_loss(
    trainer: Any,
    model: LatentDiffusionModel,
    texts: TextFeatures,
    drawn: Trajectories,
    advantage: torch.Tensor,
) -> torch.Tensor:
    """trl's own loss of our trajectories, the mean over the transitions that both score."""
    trainer.sd_pipeline.sd_pipeline.unet = model.unet
    trainer.sd_pipeline.scheduler.set_timesteps(POLICY.steps)
    timesteps = make_policy(model, POLICY).timesteps
    embeds = texts.batch(drawn.prompts, POLICY.guidance_scale)
    losses = [
        trainer.calculate_loss(
            drawn.before[:, place],
            timesteps[number].repeat(IMAGES),
            drawn.after[:, place],
            drawn.log_prob[:, place],
            advantage,
            embeds,
        )[0]
        for place, number in enumerate(drawn.actions)
    ]
    return torch.stack(losses).mean()


def memory(epoch: Callable[[], None]) -> dict[str, float]:
    """Return by how many megabytes an epoch raises the process's peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    epoch()
    return {"megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2], Path(sys.argv[3]))))
    else:
        print(json.dumps(main(*map(Path, sys.argv[1:])), indent=1))

"""What an artist may decide about a run of fine-tuning, and the run that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.core.errors import TrainingError
from studio.core.request import MAX_PROMPT_CHARACTERS
from studio.core.run import RunPlan

if TYPE_CHECKING:
    from studio.training.run_folder import FineTuneConfig

MOST_HELD_OUT = 12  # prompts on the film strip
MAX_PROMPTS = 10_000
MAX_MINUTES = 60 * 24 * 30
MAX_NAME = 60  # characters


@dataclass(frozen=True)
class Knob:
    """A number that an expert may turn, under the name that the papers give it."""

    name: str  # its key in a plan's settings
    title: str
    paper: str  # the symbol or name in the literature
    default: float
    low: float
    high: float
    hint: str  # one sentence on what turning it up does
    part: str = ""  # of the configuration: '', 'policy', 'ppo' or 'guards'
    whole: bool = False
    algorithm: str = ""  # the only one that it does anything in; empty: all


KNOBS = (
    Knob("rank", "Rank", "LoRA r", 8, 1, 128, "Higher can learn more and takes more memory.",
         whole=True),
    Knob("learning_rate", "Learning rate", "AdamW", 3e-3, 1e-6, 0.1,
         "Higher learns faster, and too high tears the pictures apart.", "ppo"),
    Knob("updates", "Updates an epoch", "optimizer steps", 1, 1, 64,
         "More learn more from the same pictures, and trust them more.", "ppo", whole=True),
    Knob("clip_nats", "Trust region", "clip ε · D, nats", 1.64, 0.01, 100,
         "Higher lets one update go further.", "ppo", algorithm="ppo"),
    Knob("advantage_clip", "Advantage clip", "A clip", 3, 0.5, 20,
         "Higher listens more to single pictures.", "ppo"),
    Knob("kl_weight", "Pull of the base", "β, KL weight", 0.02, 0, 10,
         "Higher keeps the model closer to its base.", "ppo", algorithm="ppo"),
    Knob("prompts_per_epoch", "Prompts an epoch", "batch of prompts", 8, 1, 256,
         "More are fairer and slower.", whole=True),
    Knob("images_per_prompt", "Pictures of each", "group size", 6, 1, 64,
         "More compare better within a prompt, and are slower.", whole=True),
    Knob("steps", "Steps of a trajectory", "T", 6, 2, 200,
         "More are closer to how artists draw, and slower.", "policy", whole=True),
    Knob("window", "Trained window", "MixGRPO window, 0 for most steps", 0, 0, 200,
         "Trains only so many steps at a time: faster, a little rougher.", "policy", whole=True,
         algorithm="ppo"),
    Knob("guidance_scale", "Guidance scale (CFG)", "w", 3, 0, 30,
         "As you draw; 1 halves the cost.", "policy"),
    Knob("kl_budget", "Budget of change", "KL, nats a step", 60, 0.1, 10_000,
         "Higher allows the model to move further before training stops by itself.", "guards"),
    Knob("diversity_drop", "Diversity that may be lost", "share of the base's", 0.15, 0.01, 1,
         "Higher lets the pictures become more alike before training stops.", "guards"),
)  # fmt: skip
REWARDS = MappingProxyType(  # the known ones of training/rewards.py, in an artist's words
    {
        "brightness": "Brighter",
        "darkness": "Darker",
        "saturation": "More colourful",
        "compressibility": "Simpler (small as a JPEG)",
        "incompressibility": "Richer in detail (large as a JPEG)",
        "random": "Chance (a control: nothing should change)",
    }
)
ALGORITHMS = MappingProxyType(
    {"ppo": "PPO (DDPO, Black et al. 2023)", "nft": "Forward process (DiffusionNFT, 2025)"}
)
USUAL_ALGORITHM = "ppo"  # which the figures do not speak against, see training/LOG.md


def split_prompts(prompts: tuple[str, ...], seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return prompts to train on and prompts to look at; with fewer than three they are the same.

    Which are held out follows from the seed.
    """
    if len(prompts) < 3:
        return prompts, prompts
    order = np.random.default_rng((seed, 3)).permutation(len(prompts))
    count = min(MOST_HELD_OUT, max(1, len(prompts) // 5))
    held_out = set(order[:count].tolist())
    return (
        tuple(p for i, p in enumerate(prompts) if i not in held_out),
        tuple(p for i, p in enumerate(prompts) if i in held_out),
    )


def joined_prompts(plan: RunPlan) -> tuple[str, ...]:
    """Return a run's prompts in the order from which `split_prompts` parts them as it did then."""
    if plan.prompts == plan.held_out:
        return plan.prompts
    count = len(plan.prompts) + len(plan.held_out)
    order = np.random.default_rng((plan.seed, 3)).permutation(count)
    places = set(order[: len(plan.held_out)].tolist())
    train, held_out = iter(plan.prompts), iter(plan.held_out)
    return tuple(next(held_out if place in places else train) for place in range(count))


def parted(plan: RunPlan) -> RunPlan:
    """Return a plan whose prompts are parted into those to train on and those to look at.

    Raises TrainingError for prompts, an effort or a name that cannot be.
    """
    lines = (line.strip() for line in plan.prompts)
    prompts = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not prompts:
        raise TrainingError("There are no prompts to train on; write one a line.")
    if len(prompts) > MAX_PROMPTS:
        raise TrainingError(f"A run takes at most {MAX_PROMPTS:,} prompts; leave some out.")
    if any(len(prompt) > MAX_PROMPT_CHARACTERS for prompt in prompts):
        raise TrainingError(f"A prompt has at most {MAX_PROMPT_CHARACTERS:,} characters.")
    name = plan.name.strip()
    if not 0 < len(name) <= MAX_NAME or any(ord(c) < 32 for c in name):
        raise TrainingError(f"Give the run a name of at most {MAX_NAME} characters.")
    if not (0 < plan.minutes <= MAX_MINUTES or plan.epochs > 0):
        raise TrainingError("Say for how many minutes it may compute, 1 to 43,200.")
    train, held_out = split_prompts(prompts, plan.seed)
    settings = checked_settings(plan.settings)
    return replace(plan, name=name, prompts=train, held_out=held_out, settings=settings)


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an expert's settings without those at their default. Raises TrainingError."""
    knobs = {knob.name: knob for knob in KNOBS}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "algorithm":
            if value not in ALGORITHMS:
                raise TrainingError(f"The algorithm is {' or '.join(ALGORITHMS)}.")
            if value != USUAL_ALGORITHM:
                found[name] = value
            continue
        knob = knobs.get(name)
        if knob is None:
            raise TrainingError(f"There is no setting '{name[:40]}' of a run; reload the page.")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not knob.low <= value <= knob.high:
            raise TrainingError(f"{knob.title} is a number from {knob.low:g} to {knob.high:g}.")
        if knob.whole and value != int(value):
            raise TrainingError(f"{knob.title} is a whole number.")
        if value != knob.default:
            found[name] = int(value) if knob.whole else value
    return found


def written_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with every default beside them: a run keeps those that it began with."""
    defaults = {knob.name: int(knob.default) if knob.whole else knob.default for knob in KNOBS}
    return {"algorithm": USUAL_ALGORITHM, **defaults, **settings}


def make_config(plan: RunPlan) -> FineTuneConfig:
    """Return the engine's configuration of a run. Device thread only: it brings torch."""
    from studio.training.run_folder import FineTuneConfig

    config = FineTuneConfig(
        plan.prompts, plan.held_out, epochs=plan.epochs, minutes=plan.minutes, seed=plan.seed
    )
    if "algorithm" in plan.settings:
        config = replace(config, algorithm=plan.settings["algorithm"])
    for knob in KNOBS:
        if knob.name not in plan.settings:
            continue
        change = {knob.name: plan.settings[knob.name]}
        if knob.part:
            part = replace(getattr(config, knob.part), **change)
            change = {knob.part: part}
        config = replace(config, **change)
    return config

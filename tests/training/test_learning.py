"""It learns what it is asked for: known rewards move, a hidden taste is met better than before.

Invariants 10 and 11 of diffusion PPO, on a tiny model whose pictures differ enough to be told
apart; `tests/benchmarks/learning.py` measures the same on the starter model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.diffusion.adapter_files import read_lineage
from studio.diffusion.adapters import AppliedAdapters
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.training.finetune import finetune
from studio.training.guards import GuardConfig
from studio.training.nft import NftConfig
from studio.training.ppo import PpoConfig
from studio.training.preference.comparisons import Comparisons
from studio.training.preference.features import Encoder
from studio.training.preference.reward import fit_reward
from studio.training.preference.simulated_rater import SimulatedRater, scaled_to_agreement
from studio.training.probes import LookPlan, draw_look
from studio.training.rewards import (
    Images,
    RewardFunction,
    brightness,
    known_reward,
    learned_reward,
    luma,
)
from studio.training.rollout import PolicyConfig, TextFeatures
from studio.training.run_folder import FineTuneConfig
from tests.training.finetune_program import TOOLS

PROMPTS, HELD_OUT = ("red apple", "castle", "cat", "house"), ("dog", "tree")
UNGUARDED = GuardConfig(kl_budget=1e9, diversity_drop=1.0, patience=99)
RUN = FineTuneConfig(
    PROMPTS,
    HELD_OUT,
    epochs=6,
    prompts_per_epoch=4,
    images_per_prompt=8,
    batch=32,
    look_seeds=1,
    look_steps=2,
    policy=PolicyConfig(steps=4, guidance_scale=1.0),
    nft=NftConfig(band=(0.2, 0.9)),  # random weights have learned nothing about any noise level
    guards=UNGUARDED,
)
RATES = {"ppo": 0.02, "nft": 0.01}
pytestmark = pytest.mark.usefixtures("one_thread")


def load(folder: Path) -> LatentDiffusionModel:
    """The tiny model with contrast: random weights alone paint everything the same grey."""
    model = load_model(folder, "tiny", "cpu", torch.float32, sha256="ab")
    with torch.no_grad():
        model.vae.decoder.conv_out.weight.mul_(8)
    return model


def drawn(model: LatentDiffusionModel, prompts: Sequence[str], each: int) -> Images:
    asked = tuple(prompt for prompt in prompts for _ in range(each))
    seeds = tuple(5000 + i for i in range(len(asked)))
    *_, images = draw_look(model, TextFeatures(model), LookPlan(asked, seeds, (64, 64), 4, 1.0, 64))
    return images


def before_and_after(
    folder: Path, run: Path, reward: RewardFunction, config: FineTuneConfig
) -> tuple[Images, Images]:
    """Pictures of held-out prompts at the same seeds by the base, and by what was trained."""
    model = load(folder)
    base = drawn(model, HELD_OUT, 32)
    list(finetune(model, reward, config, TOOLS, run))
    applied = AppliedAdapters(model, [(run / "adapter.safetensors", 1.0)])
    with applied.on():
        tuned = drawn(model, HELD_OUT, 32)
    return base, tuned


def standard_errors(before: np.ndarray, after: np.ndarray) -> float:
    """How many pooled standard errors the mean moved by."""
    pooled = np.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
    return float((after.mean() - before.mean()) / pooled)


def asked_of(
    name: str, folder: Path, run: Path, algorithm: str, seed: int = 0
) -> tuple[float, float]:
    """How far the asked reward, and brightness, moved, in standard errors."""
    ppo = PpoConfig(batch=32, learning_rate=RATES[algorithm], kl_weight=1e-3)
    config = replace(RUN, algorithm=algorithm, ppo=ppo, seed=seed)
    images = before_and_after(folder, run, known_reward(name), config)
    asked, light = (
        [np.asarray(score(i, [""] * len(i))) for i in images]
        for score in (known_reward(name), brightness)
    )
    return standard_errors(*asked), standard_errors(*light)


@pytest.mark.parametrize("algorithm", ["ppo", "nft"])
def test_brightness_rises_when_it_is_asked_for_and_falls_when_darkness_is(
    folder, tmp_path, algorithm
):
    brighter, _ = asked_of("brightness", folder, tmp_path / "up", algorithm)
    darker, light = asked_of("darkness", folder, tmp_path / "down", algorithm)
    assert brighter > 2
    assert darker > 2
    assert light < -2


@pytest.mark.parametrize("algorithm", ["ppo", "nft"])
def test_a_random_reward_has_no_direction(folder, tmp_path, algorithm):
    """Noise moves random weights somewhere, each seed elsewhere: a trainer leans to no side."""
    light = [
        asked_of("random", folder, tmp_path / str(seed), algorithm, seed)[1] for seed in (1, 2, 3)
    ]
    assert min(light) < 0 < max(light)


def coarse_encoder() -> Encoder:
    """Features that do not hold the hidden utility as one of their numbers: 4 x 4 colours."""

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)

    plain = (0.5, 0.5, 0.5)
    return Encoder("colours", "cd" * 32, 48, 64, plain, plain, torch.device("cpu"), forward)


def liking(images: Images) -> np.ndarray:
    """The rater's hidden utility: light, and more so in the upper half."""
    light = luma(images)
    return light.mean((1, 2)) + 0.5 * light[:, :32].mean((1, 2))


def test_a_hidden_taste_is_met_better_after_its_votes_were_learned_and_trained_on(folder, tmp_path):
    pool = drawn(load(folder), PROMPTS, 16)
    chance = np.random.default_rng(0)
    prompt = chance.integers(len(PROMPTS), size=300)
    sides = np.array([chance.permutation(16)[:2] for _ in prompt])
    left, right = (prompt * 16 + sides[:, i] for i in range(2))
    utility = scaled_to_agreement(liking(pool), left, right)
    votes = SimulatedRater(utility, chance=chance).votes(left, right)
    encoder = coarse_encoder()
    phi = encoder.embed(pool)
    comparisons = Comparisons(
        phi[left], phi[right], votes, prompt,
        encoder_name=encoder.name, encoder_sha256=encoder.sha256, votes_hash="simulated",
    )  # fmt: skip
    reward = learned_reward(fit_reward(comparisons), encoder)
    budget = replace(UNGUARDED, kl_budget=400.0)
    ppo = PpoConfig(batch=32, learning_rate=RATES["nft"])
    config = replace(RUN, algorithm="nft", ppo=ppo, guards=budget)
    run = tmp_path / "run"
    base, tuned = before_and_after(folder, run, reward, config)
    assert standard_errors(liking(base), liking(tuned)) > 2
    kept = read_lineage(run / "adapter.safetensors")["epoch"]
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[kept - 1])["kl"] <= 400.0

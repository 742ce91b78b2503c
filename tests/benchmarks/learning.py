"""Does fine-tuning learn, and what it was asked to? Hours of a core; goes on where it stopped.

(a) Known rewards on the starter model: brightness and compressibility must move by at least two
    standard errors in the asked direction, a random reward by less than noise. Three seeds.
(b) End to end: a simulated rater whose utility is hidden from everything but the rater gives 300
    votes; the tuned model must beat its base in at least 65 % of blind pairs of held-out prompts
    (Wilson's lower bound above 55 %). Beside it stands what re-ranking four pictures of the base by
    the same learned reward gives. Five seeds.

Each run keeps its folder below the data folder and its verdict in a file, so that a benchmark that
is interrupted, or given only some minutes, measures the rest the next time. Given epochs, a run is
the same on a crowded machine; the CPU time that it took stands beside it.

    python -m tests.benchmarks.learning [--minutes M | --epochs N] [--only NAME-SEED]
        [--algorithm ppo|nft] [--learning-rate R] [--folder FOLDER] [--corpus FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from studio.core.errors import TrainingError
from studio.core.events import EpochDone, Event, Notice
from studio.core.settings import STARTER_MODEL, Settings
from studio.diffusion.adapters import AppliedAdapters
from studio.diffusion.model import load_model
from studio.diffusion.model_files import hash_model
from studio.training.dataset.corpus import load as load_corpus
from studio.training.finetune import finetune
from studio.training.ppo import PpoConfig
from studio.training.preference.comparisons import Comparisons
from studio.training.preference.features import load_encoder
from studio.training.preference.intervals import wilson_interval
from studio.training.preference.reward import fit_reward
from studio.training.preference.simulated_rater import (
    SimulatedRater,
    Taste,
    pixel_statistics,
    scaled_to_agreement,
)
from studio.training.probes import LookPlan, draw_look, load_tools, probe
from studio.training.rewards import Images, RewardFunction, known_reward, learned_reward
from studio.training.rollout import TextFeatures
from studio.training.run_folder import ALGORITHMS, NFT, FineTuneConfig
from studio.training.stages.judge import build_bank, features, hit_rates, load_network, rank

KNOWN = ("brightness", "compressibility", "random")
KNOWN_SEEDS, TASTE_SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)
MINUTES = 20.0  # of training, as asked
VOTES = 300
POOL = 4  # pictures of each prompt that are voted on, and that (b) compares
KNOWN_POOL = 2  # that (a) compares
TRAINED, FRESH = 60, 52  # prompts of the training, and held-out ones
STYLE = "flat illustration"
STEPS, GUIDANCE, BATCH = 20, 3.0, 16


@dataclass(frozen=True)
class Verdict:
    """What one run showed on held-out prompts at fixed seeds, base against tuned."""

    name: str
    seed: int
    epochs: int
    kl: float
    pictures: int
    change: float  # mean difference of the reward (a) or of the hidden utility (b)
    standard_error: float  # of that mean over prompts, paired
    diversity: float  # tuned / base
    wins: float | None = None  # (b): share of decisive votes for the tuned picture
    wins_low: float | None = None
    wins_high: float | None = None
    rerank_wins: float | None = None  # (b): of the best of four of the base against one of it
    recognised: float | None = None  # tuned: share of subjects in the judge's first five
    recognised_before: float | None = None  # base; None where there is no corpus to judge with
    cpu_seconds: float = 0.0  # of training
    stopped: str = ""


@dataclass(frozen=True)
class Effort:
    """How long each run trains, how, and where it keeps its files."""

    folder: Path
    minutes: float = 0.0
    epochs: int = 0
    algorithm: str = NFT
    learning_rate: float = PpoConfig.learning_rate
    corpus: Path = Settings().training_dir / "corpus"  # what the judge compares with

    def run(self, name: str, seed: int) -> Path:
        """Return a run's folder."""
        length = f"{self.epochs}-epochs" if self.epochs else f"{self.minutes:g}-minutes"
        return self.folder / f"{name}-{seed}-{self.algorithm}-{self.learning_rate:g}-{length}"


def main(effort: Effort | None = None, only: str = "") -> list[dict]:
    """Measure what is missing and return all figures."""
    effort = effort or Effort(Settings().data_dir / "bench" / "learning", minutes=MINUTES)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    wanted = [(n, s) for n in KNOWN for s in KNOWN_SEEDS] + [("taste", s) for s in TASTE_SEEDS]
    rows = []
    for name, seed in wanted:
        if only and only not in (name, f"{name}-{seed}"):
            continue
        file = effort.run(name, seed) / "verdict.json"
        if not file.exists():
            verdict = judged(name, seed, effort)
            file.write_text(json.dumps(asdict(verdict), indent=1), encoding="utf-8")
        rows += records(Verdict(**json.loads(file.read_text(encoding="utf-8"))))
    return rows


def records(verdict: Verdict) -> list[dict]:
    """Turn a verdict into the runner's records."""
    title = f"{verdict.name}, seed {verdict.seed}, {verdict.epochs} epochs, KL {verdict.kl:.1f}"
    half = 1.96 * verdict.standard_error
    rows: list[dict] = [
        {
            "metric": f"learning {title}: change",
            "value": verdict.change,
            "unit": "reward" if verdict.wins is None else "hidden utility",
            "ci": [verdict.change - half, verdict.change + half],
            "n": verdict.pictures,
        },
        {"metric": f"learning {title}: diversity", "value": verdict.diversity, "unit": "of base"},
        {"metric": f"learning {title}: training", "value": verdict.cpu_seconds, "unit": "CPU s"},
    ]
    if verdict.recognised is not None and verdict.recognised_before is not None:
        rows.append(
            {
                "metric": f"learning {title}: subjects recognised in the first five",
                "value": verdict.recognised,
                "unit": "share",
                "ratio_to": f"the base ({verdict.recognised_before:.3f})",
                "ratio": verdict.recognised / max(verdict.recognised_before, 1e-9),
            }
        )
    if verdict.wins is not None:
        rows.append(
            {
                "metric": f"learning {title}: blind pairs won by the tuned model",
                "value": verdict.wins,
                "unit": "share",
                "ci": [verdict.wins_low, verdict.wins_high],
                "n": verdict.pictures,
                "ratio_to": "best of four of the base",
                "ratio": verdict.wins / max(verdict.rerank_wins or 0, 1e-9),
            }
        )
    return rows


def prompts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the prompts to train on and the held-out ones: subjects of the starter model."""
    subjects = (STARTER_MODEL / "subjects.txt").read_text(encoding="utf-8").split("\n")
    names = [s.strip() for s in subjects if s.strip()]
    order = np.random.default_rng(0).permutation(len(names))[: TRAINED + FRESH]
    chosen = tuple(f"{names[i]}, {STYLE}" for i in order)
    return chosen[:TRAINED], chosen[TRAINED:]


def judged(name: str, seed: int, effort: Effort) -> Verdict:
    """Train, then compare base and tuned on held-out prompts."""
    run = effort.run(name, seed)
    model = load_model(STARTER_MODEL, "starter", "cpu", torch.float32)
    tools = load_tools(model, STARTER_MODEL)
    trained, fresh = prompts()
    rater = HiddenRater(seed)
    reward = known_reward(name) if name != "taste" else rater.taught(effort, trained)
    config = FineTuneConfig(
        trained,
        fresh[-6:],
        minutes=effort.minutes,
        epochs=effort.epochs,
        seed=seed,
        algorithm=effort.algorithm,
        look_steps=10,
        ppo=PpoConfig(learning_rate=effort.learning_rate),
    )
    last, stopped, seconds = trained_by(finetune(model, reward, config, tools, run), run)
    pool = POOL if name == "taste" else KNOWN_POOL
    asked, seeds = numbered(fresh[:-2], pool)
    base = base_pictures(effort, asked, seeds)
    tuned = draw(asked, seeds, run / "adapter.safetensors")
    before, after = (probe(images, asked, tools)["diversity"] for images in (base, tuned))
    common = {"name": name, "seed": seed, "epochs": last.epoch, "kl": last.kl}
    common |= {"pictures": len(asked), "diversity": after / before, "stopped": stopped}
    common |= {"cpu_seconds": seconds} | recognition(base, tuned, asked, effort.corpus)
    if name != "taste":
        rewards = (reward(images, asked).numpy() for images in (base, tuned))
        return Verdict(**common, **paired(*rewards, pool))
    return Verdict(**common, **rater.verdict(base, tuned, reward, asked))


def trained_by(events: Iterable[Event], run: Path) -> tuple[EpochDone, str, float]:
    """Pull a run to its end; return the last epoch, why it stopped, and seconds of CPU time.

    The CPU time of all sittings stands in a file beside the run.
    """
    file = run / "cpu-seconds.txt"
    spent = float(file.read_text()) if file.exists() else 0.0
    begun, stopped = time.process_time(), ""
    for event in events:
        if isinstance(event, EpochDone):
            file.write_text(str(spent + time.process_time() - begun))
            sys.stderr.write(f"{run.name}: {event}\n")
        elif isinstance(event, Notice):
            stopped = event.sentence
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return EpochDone(**json.loads(lines[-1])), stopped, float(file.read_text())


def numbered(subjects: Sequence[str], pool: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return each prompt `pool` times, and the seed of each of those pictures."""
    asked = tuple(prompt for prompt in subjects for _ in range(pool))
    return asked, tuple(5000 + i % pool for i in range(len(asked)))


def base_pictures(effort: Effort, asked: Sequence[str], seeds: Sequence[int]) -> Images:
    """Return what the base draws for these prompts; drawn once for all runs."""
    wanted = json.dumps([asked, seeds]).encode()
    digest = hashlib.sha256(wanted).hexdigest()[:12]
    file = effort.folder / f"base-{hash_model(STARTER_MODEL)[:12]}-{digest}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, draw(asked, seeds))
    return np.load(file)


def draw(asked: Sequence[str], seeds: Sequence[int], adapter: Path | None = None) -> Images:
    """Draw one picture a prompt and seed, as an artist would."""
    model = load_model(STARTER_MODEL, "starter", "cpu")
    applied = AppliedAdapters(model, [(adapter, 1.0)] if adapter else [])
    plan = LookPlan(tuple(asked), tuple(seeds), model.native_size, STEPS, GUIDANCE, BATCH)
    with applied.on():
        *_, images = draw_look(model, TextFeatures(model), plan)
    return images


def recognition(
    base: Images, tuned: Images, asked: Sequence[str], folder: Path
) -> dict[str, float]:
    """Return how many subjects the judge finds in its first five, where there is a corpus."""
    try:
        corpus = load_corpus(folder)
        network = load_network()
    except TrainingError as error:
        sys.stderr.write(f"Recognisability is not measured: {error}\n")
        return {}
    bank = build_bank(network, corpus).without_style(STYLE)
    shares = []
    for images in (base, tuned):
        found = features(network, list(images))
        names = (prompt.removesuffix(f", {STYLE}") for prompt in asked)
        ranks = [rank(feature, name, bank) for feature, name in zip(found, names, strict=True)]
        shares.append(hit_rates(ranks)["first_5"])
    return {"recognised_before": shares[0], "recognised": shares[1]}


def paired(base: np.ndarray, tuned: np.ndarray, pool: int) -> dict[str, float]:
    """Return the mean difference and its standard error; the pictures of a prompt count as one."""
    by_prompt = (tuned - base).reshape(-1, pool).mean(1)
    error = by_prompt.std(ddof=1) / np.sqrt(len(by_prompt))
    return {"change": float(by_prompt.mean()), "standard_error": float(error)}


class HiddenRater:
    """A simulated rater, and the pool of pictures that its votes are about."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._taste = Taste.draw(seed)
        self._pool = np.zeros((0, 8))  # statistics of the pool
        self._scale = 1.0  # utilities are in logits after it

    def taught(self, effort: Effort, trained: Sequence[str]) -> RewardFunction:
        """Let the rater vote on pictures of the base; return the reward learned from the votes."""
        pictures = base_pictures(effort, *numbered(trained, POOL))
        self._pool = pixel_statistics(list(pictures))
        chance = np.random.default_rng((self._seed, 1))
        prompt = chance.integers(len(trained), size=VOTES)
        sides = np.array([chance.permutation(POOL)[:2] for _ in range(VOTES)])
        left, right = (prompt * POOL + sides[:, i] for i in range(2))
        plain = self._taste.utility(self._pool)
        utility = scaled_to_agreement(plain, left, right)
        spread = plain.std()
        self._scale = float(utility.std() / spread) if spread else 1.0
        votes = SimulatedRater(utility, chance=chance).votes(left, right)
        encoder = load_encoder()
        phi = encoder.embed(pictures)
        comparisons = Comparisons(
            phi[left], phi[right], votes, prompt,
            encoder_name=encoder.name, encoder_sha256=encoder.sha256,
            votes_hash=f"simulated-{self._seed}",
        )  # fmt: skip
        return learned_reward(fit_reward(comparisons), encoder)

    def utility(self, images: Images) -> np.ndarray:
        """Return hidden utilities in logits, measured against the pool that was voted on."""
        statistics = pixel_statistics(list(images))
        # The taste is relative to a pool: repeated, so that the new pictures hardly move it.
        whole = np.concatenate([np.tile(self._pool, (50, 1)), statistics])
        return self._taste.utility(whole)[-len(images) :] * self._scale

    def verdict(
        self, base: Images, tuned: Images, reward: RewardFunction, asked: Sequence[str]
    ) -> dict[str, float]:
        """Let the rater compare base and tuned blindly, sides shuffled; and base with the best."""
        before, after = self.utility(base), self.utility(tuned)
        wins, n = self._share(before, after)
        low, high = wilson_interval(wins, n)
        scores = reward(base, asked).numpy().reshape(-1, POOL)
        best = before.reshape(-1, POOL)[np.arange(len(scores)), scores.argmax(1)]
        reranked, _ = self._share(before, best.repeat(POOL))
        return {
            **paired(before, after, POOL),
            "wins": wins,
            "wins_low": low,
            "wins_high": high,
            "rerank_wins": reranked,
        }

    def _share(self, one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
        """Return the share of decisive votes that go to `other`, and their number."""
        chance = np.random.default_rng((self._seed, 2))
        rater = SimulatedRater(np.concatenate([one, other]), chance=chance)
        first = np.arange(len(one))
        swapped = chance.random(len(one)) < 0.5
        left = np.where(swapped, first + len(one), first)
        right = np.where(swapped, first, first + len(one))
        votes = rater.votes(left, right)
        decisive = votes != 0.5
        won = np.where(swapped, votes == 1, votes == 0)[decisive]
        return float(won.mean()) if len(won) else 0.5, int(decisive.sum())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default=NFT)
    parser.add_argument("--learning-rate", type=float, default=PpoConfig.learning_rate)
    parser.add_argument("--folder", type=Path, default=Settings().data_dir / "bench" / "learning")
    parser.add_argument("--corpus", type=Path, default=Effort.corpus)
    args = parser.parse_args()
    chosen = Effort(
        args.folder,
        0.0 if args.epochs else args.minutes,
        args.epochs,
        args.algorithm,
        args.learning_rate,
        args.corpus,
    )
    print(json.dumps(main(chosen, args.only), indent=1))

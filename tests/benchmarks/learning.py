"""Does fine-tuning learn, and what it was asked to? Hours of a core; goes on where it stopped.

(a) Known rewards on the starter model: brightness and compressibility must move by at least two
    standard errors in the asked direction, a random reward by less than noise. Three seeds. A
    random reward is noise anew for every new picture, so how far brightness and compressibility
    moved under it is what says whether it moved anything.
(b) End to end: a simulated rater whose utility is hidden from everything but the rater gives 300
    votes; the tuned model must beat its base in at least 65 % of blind pairs of held-out prompts
    (Wilson's lower bound above 55 %). Beside it stands what re-ranking four pictures of the base by
    the same learned reward gives. Five seeds. In two rounds, as an artist goes on: 180 votes about
    the base's pictures, training, 120 about the tuned model's and the base's, training again from
    where the first round ended (`--anew`: from the base) towards what all 300 teach.

Each run keeps its folder below the data folder and its verdict in a file, so that a benchmark that
is interrupted, or given only some minutes, measures the rest the next time. Given epochs, a run is
the same on a crowded machine; the CPU time that it took stands beside it.

    python -m tests.benchmarks.learning [--minutes M | --epochs N] [--only NAME-SEED]
        [--algorithm ppo|nft] [--learning-rate R] [--rounds 1|2] [--anew]
        [--folder FOLDER] [--corpus FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from studio.core.errors import TrainingError
from studio.core.events import EpochDone, Event, Notice
from studio.core.settings import STARTER_MODEL, Settings
from studio.diffusion.adapters import add_trainable_adapter, continue_from
from studio.diffusion.model import load_model
from studio.diffusion.model_files import hash_model
from studio.training.dataset.corpus import load as load_corpus
from studio.training.finetune import Start, finetune
from studio.training.ppo import PpoConfig
from studio.training.probes import LookPlan, draw_look, load_tools, probe
from studio.training.rewards import Images, RewardFunction, known_reward
from studio.training.rollout import TextFeatures
from studio.training.run_folder import ALGORITHMS, PPO, FineTuneConfig
from studio.training.stages.judge import build_bank, features, hit_rates, load_network, rank
from tests.benchmarks.hidden_rater import HiddenRater, paired

KNOWN = ("brightness", "compressibility", "random")
KNOWN_SEEDS, TASTE_SEEDS = (0, 1, 2), (0, 1, 2, 3, 4)
MINUTES = 20.0  # of training, as asked
VOTES = 300
FIRST_VOTES = 180  # of them about the base's pictures, where there are two rounds; one of either
TUNED_POOL = 2  # kind a prompt is left for the second
FIRST_SHARE = 0.4  # of the epochs or minutes: only what is to be voted on comes of it
AHEAD = 2.0  # strength at which its last epoch is voted on: where it leads, to be seen clearly
POOL = 4  # pictures of each prompt that are voted on, and that (b) compares
KNOWN_POOL = 2  # that (a) compares
TRAINED, COMPARED, LOOKED_AT = 60, 50, 12  # prompts; those after each epoch are no verdict's
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
    cpu_seconds: float = 0.0  # of training, and of drawing what the second round votes on
    stopped: str = ""  # why the last round ended
    drift: dict[str, float] = field(default_factory=dict)  # (a): by how many standard errors the
    # pictures' brightness and compressibility moved, whatever was asked for
    rounds: int = 1
    first_wins: float | None = None  # (b): of pairs that the first round's model won, training's


@dataclass(frozen=True)
class Effort:
    """How long each run trains, how, and where it keeps its files."""

    folder: Path
    minutes: float = 0.0
    epochs: int = 0
    algorithm: str = PPO
    learning_rate: float = PpoConfig.learning_rate
    corpus: Path = Settings().training_dir / "corpus"  # what the judge compares with
    rounds: int = 2  # of votes and training, where there are votes
    anew: bool = False  # whether the second round begins with the base

    def run(self, name: str, seed: int) -> Path:
        """Return a run's folder."""
        length = f"{self.epochs}-epochs" if self.epochs else f"{self.minutes:g}-minutes"
        rounds = f"-{self.rounds}-rounds" if name == "taste" and self.rounds > 1 else ""
        rounds += "-anew" if rounds and self.anew else ""
        how = f"{self.algorithm}-{self.learning_rate:g}-{length}{rounds}"
        return self.folder / f"{name}-{seed}-{how}"

    def parted(self) -> tuple[Effort, Effort]:
        """Return what each of two rounds may take."""
        epochs, minutes = round(FIRST_SHARE * self.epochs), FIRST_SHARE * self.minutes
        return (
            replace(self, epochs=epochs, minutes=minutes),
            replace(self, epochs=self.epochs - epochs, minutes=self.minutes - minutes),
        )


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
    rows += [
        {"metric": f"learning {title}: {name} moved", "value": value, "unit": "standard errors"}
        for name, value in verdict.drift.items()
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


@dataclass(frozen=True)
class Prompts:
    """Subjects of the starter model; no prompt is in two of the parts."""

    trained: tuple[str, ...]
    compared: tuple[str, ...]
    looked_at: tuple[str, ...]  # after each epoch: they choose the result


def prompts() -> Prompts:
    """Return the prompts; the same in every run."""
    subjects = (STARTER_MODEL / "subjects.txt").read_text(encoding="utf-8").split("\n")
    names = [s.strip() for s in subjects if s.strip()]
    order = np.random.default_rng(0).permutation(len(names))
    chosen = [f"{names[i]}, {STYLE}" for i in order[: TRAINED + COMPARED + LOOKED_AT]]
    end = TRAINED + COMPARED
    return Prompts(tuple(chosen[:TRAINED]), tuple(chosen[TRAINED:end]), tuple(chosen[end:]))


def judged(name: str, seed: int, effort: Effort) -> Verdict:
    """Train, then compare base and tuned on held-out prompts."""
    run, asked_for = effort.run(name, seed), prompts()
    run.mkdir(parents=True, exist_ok=True)
    rater = None
    if name == "taste":
        rater = HiddenRater(seed, base_pictures(effort, *numbered(asked_for.trained, POOL)), POOL)
        trained = taught(rater, seed, effort, asked_for)
    else:
        trained = train(known_reward(name), seed, effort, asked_for, run)
    pool = POOL if rater else KNOWN_POOL
    asked, seeds = numbered(asked_for.compared, pool)
    base = base_pictures(effort, asked, seeds)
    tuned = draw(asked, seeds, trained.adapter)
    tools = load_tools(load_model(STARTER_MODEL, "starter", "cpu"), STARTER_MODEL)
    before, after = (probe(images, asked, tools)["diversity"] for images in (base, tuned))
    common = {"name": name, "seed": seed, "epochs": trained.last.epoch, "kl": trained.last.kl}
    common |= {"pictures": len(asked), "diversity": after / before, "stopped": trained.stopped}
    common |= {"cpu_seconds": trained.cpu_seconds, "first_wins": trained.first_wins}
    common |= {"rounds": effort.rounds if rater else 1}
    common |= recognition(base, tuned, asked, effort.corpus)
    if rater is None:
        common["drift"] = {n: moved(n, base, tuned, pool) for n in KNOWN if n != "random"}
        rewards = (trained.reward(images, asked).numpy() for images in (base, tuned))
        return Verdict(**common, **paired(*rewards, pool))
    return Verdict(**common, **rater.verdict(base, tuned, trained.reward, asked))


def moved(name: str, base: Images, tuned: Images, pool: int) -> float:
    """Return by how many standard errors a known reward of the pictures moved, paired."""
    reward = known_reward(name)
    found = paired(*(reward(images, [""] * len(images)).numpy() for images in (base, tuned)), pool)
    return found["change"] / max(found["standard_error"], 1e-12)


@dataclass(frozen=True)
class Trained:
    """What came of a run, or of its last round."""

    adapter: Path
    reward: RewardFunction
    last: EpochDone
    stopped: str
    cpu_seconds: float
    first_wins: float | None = None


def taught(rater: HiddenRater, seed: int, effort: Effort, asked_for: Prompts) -> Trained:
    """Train towards what the rater's votes teach, in one round or in two."""
    run = effort.run("taste", seed)
    if effort.rounds == 1:
        rater.vote_on_base(VOTES)
        return train(rater.reward(), seed, effort, asked_for, run)
    rater.vote_on_base(FIRST_VOTES)
    early, late = effort.parted()
    first = train(rater.reward(), seed, early, asked_for, run / "round-1")
    tuned, seconds = drawn_once(run / "round-1", asked_for)
    wins = rater.vote_on_tuned(tuned, TUNED_POOL)
    start = None if effort.anew else first.adapter
    last = train(rater.reward(), seed, late, asked_for, run / "round-2", start)
    spent = first.cpu_seconds + seconds + last.cpu_seconds
    return replace(last, cpu_seconds=spent, first_wins=wins)


def train(
    reward: RewardFunction,
    seed: int,
    effort: Effort,
    asked_for: Prompts,
    run: Path,
    adapter: Path | None = None,
) -> Trained:
    """Train in a folder, or go on there."""
    model = load_model(STARTER_MODEL, "starter", "cpu", torch.float32)
    config = FineTuneConfig(
        asked_for.trained,
        asked_for.looked_at,
        minutes=effort.minutes,
        epochs=effort.epochs,
        seed=seed,
        algorithm=effort.algorithm,
        look_steps=10,
        ppo=PpoConfig(learning_rate=effort.learning_rate),
    )
    tools = load_tools(model, STARTER_MODEL)
    run.mkdir(parents=True, exist_ok=True)
    start = Start(adapter) if adapter else None
    figures = trained_by(finetune(model, reward, config, tools, run, start), run)
    return Trained(run / "adapter.safetensors", reward, *figures)


def drawn_once(run: Path, asked_for: Prompts) -> tuple[Images, float]:
    """Return pictures of the training's prompts by a run's last epoch, and their CPU seconds."""
    file, seconds = run / "tuned.npy", run / "tuned-cpu-seconds.txt"
    if not file.exists():
        begun = time.process_time()
        *_, rung = sorted((run / "ladder").iterdir())
        adapter = rung / "adapter.safetensors"
        pictures = draw(*numbered(asked_for.trained, TUNED_POOL), adapter, AHEAD)
        seconds.write_text(str(time.process_time() - begun))
        np.save(file, pictures)
    return np.load(file), float(seconds.read_text())


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
            sys.stderr.write(f"{run}: {event}\n")
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


def draw(
    asked: Sequence[str], seeds: Sequence[int], adapter: Path | None = None, strength: float = 1.0
) -> Images:
    """Draw one picture a prompt and seed, as an artist would; the adapter summed, as in training.

    (That is a fifth faster, and differs from an artist's adapter by rounding.)
    """
    model = load_model(STARTER_MODEL, "starter", "cpu", torch.float32)
    if adapter:
        add_trainable_adapter(model.unet, FineTuneConfig.rank, seed=0)
        continue_from(model.unet, adapter)
        with torch.no_grad():
            for name, weight in model.unet.named_parameters():
                if ".lora_B." in name:
                    weight.mul_(strength)
    plan = LookPlan(tuple(asked), tuple(seeds), model.native_size, STEPS, GUIDANCE, BATCH)
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default=PPO)
    parser.add_argument("--learning-rate", type=float, default=PpoConfig.learning_rate)
    parser.add_argument("--rounds", type=int, choices=(1, 2), default=2)
    parser.add_argument("--anew", action="store_true")
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
        args.rounds,
        args.anew,
    )
    print(json.dumps(main(chosen, args.only), indent=1))

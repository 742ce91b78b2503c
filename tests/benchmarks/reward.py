"""How fast a taste is learned, on pictures of the starter model and tastes that only raters know.

    python tests/benchmarks/reward.py [--seeds N] [--folder DIR] [--only agreement active time]

(a) Held-out agreement at 200 and 1,000 votes on random pairs, for the encoders that ship.
    Goals: 0.62 and 0.66, where a rater who knew the utilities would reach 0.77.
(b) Chosen pairs against random ones: after how many votes `eig` predicts as well as random pairs
    do after 400. Goal: 280. On three times as many tastes: from 280 to 400 votes the curves rise
    by no more than the mean of twenty is uncertain.
(c) Seconds to fit 5,000 votes. Goal: 2.

Everything goes through the functions that the studio uses. The pool (120 prompts, 8 pictures each)
is drawn once, which takes minutes, and kept with its features in DIR.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from studio.core.settings import STARTER_MODEL, Settings
from studio.diffusion.model import load_model
from studio.services.pairing import CANDIDATES
from studio.training.preference.comparisons import Comparisons
from studio.training.preference.davidson import bradley_terry_loss, fit_posterior
from studio.training.preference.evidence import most_likely_prior
from studio.training.preference.features import Encoder, load_shipped, load_starter
from studio.training.preference.projection import Projection, fit_products, mixed
from studio.training.preference.reward import (
    LEAST_VOTES,
    Reward,
    RewardConfig,
    fit_reward,
    untrained_reward,
)
from studio.training.preference.reward_check import held_out_agreement
from studio.training.preference.selection import (
    as_if_answered,
    expected_information_gain,
    next_pair,
)
from studio.training.preference.simulated_rater import (
    TIE_NU,
    SimulatedRater,
    Taste,
    pixel_statistics,
    scaled_to_agreement,
)
from studio.training.probes import LookPlan, draw_look
from studio.training.rollout import TextFeatures

SEEDS = 20
PROMPTS, EACH = 120, 8
STYLES = ("3d render", "flat illustration", "pencil sketch")
STEPS, GUIDANCE, BATCH = 10, 3.0, 16
VOTES, GOALS = (200, 1000), (0.62, 0.66)
ACTIVE, WANTED = 400, 280  # votes on random pairs, and on chosen ones that are to reach as far
STRATEGIES = ("random", "bald", "eig")
AHEAD, EVERY = 6, 20  # as the studio does; votes between two looks at agreement
MANY = 5000
CONFIG = RewardConfig()

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Pictures by prompt, and what can be known about them."""

    statistics: Floats  # (P, 8), what hidden tastes are made of
    features: dict[str, NDArray[np.float32]]  # encoder -> (P, D)

    @property
    def prompts(self) -> int:
        """How many prompts there are, `EACH` pictures of each."""
        return len(self.statistics) // EACH

    @staticmethod
    def pairs(prompts: Ints) -> Ints:
        """Every pair of two pictures of a prompt (M, 2)."""
        one, other = np.triu_indices(EACH, 1)
        both = np.stack([one, other], axis=1)
        return (prompts[:, None, None] * EACH + both).reshape(-1, 2)


@dataclass(frozen=True)
class Person:
    """A hidden taste, the prompts that it is asked about and those that it is judged on."""

    utility: Floats  # (P,) logits
    asked: Ints  # (M, 2) pairs, in random order
    unseen: Ints  # (K, 2) pairs of other prompts
    rater: SimulatedRater

    @classmethod
    def draw(cls, pool: Pool, seed: int) -> Person:
        """A quarter of the prompts is kept unseen; which, and the votes, the seed decides."""
        chance = np.random.default_rng(1000 + seed)
        order = chance.permutation(pool.prompts)
        every = pool.pairs(order)
        plain = Taste.draw(seed).utility(pool.statistics)
        utility = scaled_to_agreement(plain, every[:, 0], every[:, 1])
        unseen, asked = pool.pairs(order[: len(order) // 4]), pool.pairs(order[len(order) // 4 :])
        rater = SimulatedRater(utility, chance=np.random.default_rng(seed))
        return cls(utility, chance.permutation(asked), unseen, rater)

    def agreement(self, scores: Floats) -> float:
        """Expected share of decisive votes on unseen prompts that the scores (P,) predict."""
        left, right = self.unseen.T
        delta, guess = self.utility[left] - self.utility[right], scores[left] - scores[right]
        for_left, for_right = (
            np.exp(-bradley_terry_loss(delta, np.full(len(delta), side), TIE_NU))
            for side in (1.0, 0.0)
        )
        return float(np.where(guess > 0, for_left, for_right).sum() / (for_left + for_right).sum())


def load_pool(folder: Path) -> Pool:
    """Draw the pool and look at it, or read what was kept."""
    drawn, looked = folder / "pool.npy", folder / "features.npz"
    folder.mkdir(parents=True, exist_ok=True)
    if not looked.exists():
        if not drawn.exists():
            np.save(drawn, draw_pool())
        pictures = np.load(drawn)
        encoders: list[Encoder] = [
            make(torch.device("cpu")) for make in (load_shipped, load_starter)
        ]
        found = {encoder.name: encoder.embed(pictures) for encoder in encoders}
        np.savez(looked, statistics=pixel_statistics(list(pictures)), **found)
    kept = dict(np.load(looked))
    return Pool(kept.pop("statistics"), kept)


def draw_pool() -> NDArray[np.uint8]:
    """Draw `EACH` pictures of every prompt with the starter model, prompt by prompt."""
    subjects = (STARTER_MODEL / "subjects.txt").read_text(encoding="utf-8").split("\n")
    names = [name.strip() for name in subjects if name.strip()]
    order = np.random.default_rng(0).permutation(len(names))[:PROMPTS]
    prompts = [f"{names[i]}, {STYLES[place % 3]}" for place, i in enumerate(order)]
    model = load_model(STARTER_MODEL, "starter", "cpu", torch.float32)
    asked = tuple(prompt for prompt in prompts for _ in range(EACH))
    seeds = tuple(range(EACH)) * PROMPTS
    plan = LookPlan(asked, seeds, model.native_size, STEPS, GUIDANCE, BATCH)
    *_, pictures = draw_look(model, TextFeatures(model), plan)
    return pictures


def voted(phi: NDArray[np.float32], pairs: Ints, choice: Floats) -> Comparisons:
    """Votes on pairs of rows as the reward gets them."""
    left, right = pairs.T
    return Comparisons(phi[left], phi[right], choice, left // EACH)


def agreement_rows(pool: Pool, seeds: int) -> Iterator[dict]:
    """(a): on unseen prompts, and as the page shows it, by cross-validation."""
    for encoder, phi in pool.features.items():
        for votes, goal in zip(VOTES, GOALS, strict=True):
            unseen, shown = [], []
            for seed in range(seeds):
                person = Person.draw(pool, seed)
                pairs = person.asked[:votes]
                comparisons = voted(phi, pairs, person.rater.votes(*pairs.T))
                unseen.append(person.agreement(fit_reward(comparisons).score(phi)))
                shown.append(held_out_agreement(comparisons).value)
            name = f"reward: agreement at {votes} votes, {encoder}"
            yield _row(f"{name}, unseen prompts", unseen, goal)
            yield _row(f"{name}, held_out_agreement", shown, goal)


@dataclass(frozen=True)
class Laid:
    """The pool's pictures as a reward may see them: fitted once, it sees no votes."""

    prior: Reward  # before any vote
    projection: Projection  # with products, whose share the votes decide
    components: Floats  # (P, d)
    products: Floats  # (P, p)

    def features(self, reward: Reward) -> Floats:
        """What this reward weighs, (P, its width)."""
        found = reward.projection.products
        return mixed(self.components, self.products, 0.0 if found is None else found.share)


def laid_out(pool: Pool, encoder: str) -> Laid:
    """Project all pictures, about how those of one prompt differ."""
    phi = pool.features[encoder]
    one, other = pool.pairs(np.arange(pool.prompts)).T
    prior = untrained_reward(phi, differences=phi[one] - phi[other])
    z = prior.projection(phi)
    products = fit_products(z[one], z[other], CONFIG.squares)
    return Laid(prior, replace(prior.projection, products=products), z, products(z))


def learn(pool: Pool, laid: Laid, strategy: str, seed: int) -> list[float]:
    """Agreement on unseen prompts after every `EVERY` votes on pairs that a strategy chose.

    As the studio does it, but that the projection, which sees no votes, is fitted once: it is most
    of the time. Prior and products' share are chosen anew whenever the votes have grown by a fifth.
    """
    person = Person.draw(pool, seed)
    draw = np.random.default_rng(seed)
    free = np.ones(len(person.asked), dtype=bool)
    places: list[int] = []
    choice: list[float] = []
    reward, z, curve, looked = laid.prior, laid.components, [], 0
    while len(places) < ACTIVE:
        sure = reward
        for _ in range(min(AHEAD, EVERY - len(places) % EVERY)):
            some = draw.permutation(np.flatnonzero(free))[:CANDIDATES]
            one, other = (z[person.asked[some, side]] for side in (0, 1))
            best = chosen(strategy, sure, one, other, draw)
            sure = as_if_answered(sure, one[best] - other[best])
            free[some[best]] = False
            places.append(int(some[best]))
            choice.append(person.rater.vote(*person.asked[some[best]]))
        if len(places) >= LEAST_VOTES:
            anew = len(places) >= CONFIG.refit_growth * looked
            looked = len(places) if anew else looked
            reward = _refit(reward, laid, person.asked[places], np.array(choice), anew)
            z = laid.features(reward)
        if len(places) % EVERY == 0:
            curve.append(person.agreement(z @ reward.weights))
    return curve


def _refit(reward: Reward, laid: Laid, pairs: Ints, choice: Floats, anew: bool) -> Reward:
    """The posterior of votes on pairs of rows; prior and share are chosen anew, or as they were."""
    left, right = pairs.T
    weight = np.ones(len(choice))
    if anew:
        both = tuple(part[left] - part[right] for part in (laid.components, laid.products))
        share, width = most_likely_prior(
            both, choice, weight, CONFIG.product_shares, CONFIG.prior_stds
        )
        reward = replace(reward, projection=laid.projection.with_share(share), prior_std=width)
    z = laid.features(reward)
    found = fit_posterior(z[left] - z[right], choice, weight, reward.prior_std)
    return replace(reward, weights=found.weights, covariance=found.covariance, nu=found.nu)


def chosen(
    strategy: str, reward: Reward, one: Floats, other: Floats, draw: np.random.Generator
) -> int:
    """Place of the pair to ask; `bald` is here only to be compared with."""
    if strategy != "bald":
        return next_pair(strategy, reward, one, other, draw)
    return int(expected_information_gain(*reward.moments(one - other), reward.nu).argmax())


def active_rows(pool: Pool, seeds: int, encoder: str) -> Iterator[dict]:
    """(b): agreement at 280 chosen against 400 random votes, paired, and where they meet."""
    laid = laid_out(pool, encoder)
    curves = {
        strategy: np.array([learn(pool, laid, strategy, seed) for seed in range(seeds)])
        for strategy in STRATEGIES
    }
    far, near = ACTIVE // EVERY - 1, WANTED // EVERY - 1
    yield _row(f"reward: {ACTIVE} random votes, unseen prompts", curves["random"][:, far])
    for strategy in STRATEGIES:
        found = curves[strategy]
        yield _row(f"reward: {WANTED} votes by {strategy}, unseen prompts", found[:, near])
        gap = found[:, near] - curves["random"][:, far]
        yield _row(f"reward: {WANTED} by {strategy} less {ACTIVE} random", gap, 0.0)
        yield _meeting(found, curves["random"][:, far], strategy)
        points = ", ".join(f"{value:.3f}" for value in found.mean(axis=0))
        sys.stderr.write(f"{strategy} after each {EVERY} votes: {points}\n")


def _meeting(curves: Floats, goals: Floats, strategy: str) -> dict:
    """Votes after which the mean curve reaches random's last point; 95 % bootstrap over seeds."""
    chance = np.random.default_rng(0)
    rows = chance.integers(len(curves), size=(2000, len(curves)))
    found = [_crossing(curves[row].mean(axis=0), goals[row].mean()) for row in rows]
    low, high = np.quantile(found, (0.025, 0.975))
    value = _crossing(curves.mean(axis=0), goals.mean())
    return {
        "metric": f"reward: votes by {strategy} that do what {ACTIVE} random ones do",
        "value": value,
        "unit": "votes",
        "ci": [float(low), float(high)],
        "n": len(curves),
        "ratio_to": f"{ACTIVE} random; goal {WANTED}",
        "ratio": round(value / ACTIVE, 3),
    }


def _crossing(curve: Floats, goal: float) -> float:
    """Votes at which a curve, smoothed over three points, reaches a goal; `ACTIVE` if never."""
    smooth = np.convolve(np.pad(curve, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    above = np.flatnonzero(smooth >= goal)
    if not len(above):
        return float(ACTIVE)
    at = int(above[0])
    if at == 0:
        return float(EVERY)
    part = (goal - smooth[at - 1]) / (smooth[at] - smooth[at - 1])
    return float(EVERY * (at + part))


def time_rows(pool: Pool, encoder: str) -> Iterator[dict]:
    """(c): a fit from nothing, and one that goes on from the last."""
    phi, person = pool.features[encoder], Person.draw(pool, 0)
    chance = np.random.default_rng(0)
    pairs = person.asked[chance.integers(len(person.asked), size=MANY)]
    comparisons = voted(phi, pairs, person.rater.votes(*pairs.T))
    first = fit_reward(comparisons.rows(np.arange(MANY - 20)))
    for name, start in (("from nothing", None), ("of 20 more votes", first)):
        seconds = [
            _seconds(lambda start=start: fit_reward(comparisons, start=start)) for _ in "123"
        ]
        yield {
            "metric": f"reward: fit of {MANY} votes, {name}",
            "value": round(min(seconds), 3),
            "unit": "s",
            "n": MANY,
            "ratio_to": "goal 2 s",
        }


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def _row(metric: str, values: Sequence[float] | Floats, goal: float | None = None) -> dict:
    """Mean over seeds with Student's 95 % interval."""
    found = np.asarray(values)
    half = student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    mean = float(found.mean())
    return {
        "metric": metric,
        "value": round(mean, 4),
        "unit": "share",
        "ci": [round(mean - half, 4), round(mean + half, 4)],
        "n": len(found),
        "ratio_to": "" if goal is None else f"goal {goal}",
    }


def main(
    seeds: int = SEEDS,
    folder: Path | None = None,
    only: Sequence[str] = ("agreement", "active", "time"),
) -> list[dict]:
    """Return all figures."""
    pool = load_pool(folder or Settings().data_dir / "bench" / "reward")
    encoder = next(iter(pool.features))
    rows: list[dict] = []
    if "time" in only:
        rows += time_rows(pool, encoder)
    if "agreement" in only:
        rows += agreement_rows(pool, seeds)
    if "active" in only:
        rows += active_rows(pool, 3 * seeds, encoder)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="+", default=["agreement", "active", "time"])
    args = parser.parse_args()
    for line in main(args.seeds, args.folder, args.only):
        print(json.dumps(line))

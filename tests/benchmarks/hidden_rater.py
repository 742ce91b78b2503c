"""A simulated rater of the learning benchmark: a hidden utility, its votes, its verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from studio.training.preference.comparisons import Comparisons
from studio.training.preference.features import load_encoder
from studio.training.preference.intervals import wilson_interval
from studio.training.preference.reward import TRAINED_TOWARDS, fit_reward
from studio.training.preference.simulated_rater import (
    SimulatedRater,
    Taste,
    pixel_statistics,
    scaled_to_agreement,
)
from studio.training.rewards import Images, RewardFunction, learned_reward


class HiddenRater:
    """A rater, the pictures that its votes are about, and the votes so far."""

    def __init__(self, seed: int, pictures: Images, each: int) -> None:
        """`pictures` are those of the base, `each` of every prompt in turn; the first to vote on.

        What is liked, and in which amount, is measured against them for good.
        """
        self._seed = seed
        self._each = each
        self._taste = Taste.draw(seed)
        self._pool = pixel_statistics(list(pictures))
        self._scale = 1.0  # utilities are in logits after the first votes
        self._encoder = load_encoder()
        self._phi = self._encoder.embed(pictures)
        self._utility = np.zeros(0)
        self._left, self._right, self._prompt = (np.zeros(0, int) for _ in range(3))
        self._votes = np.zeros(0)

    def vote_on_base(self, count: int) -> None:
        """Vote on random pairs, each of two of the base's pictures of one prompt."""
        chance = np.random.default_rng((self._seed, 1))
        prompt = chance.integers(len(self._pool) // self._each, size=count)
        sides = np.array([chance.permutation(self._each)[:2] for _ in range(count)])
        left, right = (prompt * self._each + sides[:, i] for i in range(2))
        plain = self._taste.utility(self._pool)
        self._utility = scaled_to_agreement(plain, left, right)
        spread = plain.std()
        self._scale = float(self._utility.std() / spread) if spread else 1.0
        self._vote(left, right, prompt, chance)

    def vote_on_tuned(self, tuned: Images, each: int) -> float:
        """Vote on `tuned`, `each` a prompt: against each other, and the first against the base's.

        Returns the share of the latter, of one prompt and seed, that the tuned model won. Half of
        the votes are of either kind, one of each a prompt.
        """
        chance = np.random.default_rng((self._seed, 3))
        prompts, before = len(tuned) // each, len(self._phi)
        self._phi = np.concatenate([self._phi, self._encoder.embed(tuned)])
        self._utility = np.concatenate([self._utility, self.utility(tuned)])
        prompt = np.arange(prompts)
        first, second = before + prompt * each, before + prompt * each + 1
        self._vote(first, second, prompt, chance)
        base, swapped = prompt * self._each, chance.random(prompts) < 0.5
        left, right = np.where(swapped, first, base), np.where(swapped, base, first)
        votes = self._vote(left, right, prompt, chance)
        return float(np.where(swapped, votes, 1 - votes).mean())

    def reward(self) -> RewardFunction:
        """Return what the votes so far teach."""
        comparisons = Comparisons(
            self._phi[self._left], self._phi[self._right], self._votes, self._prompt,
            encoder_name=self._encoder.name, encoder_sha256=self._encoder.sha256,
            votes_hash=f"simulated-{self._seed}-{len(self._votes)}",
        )  # fmt: skip
        return learned_reward(fit_reward(comparisons, TRAINED_TOWARDS), self._encoder)

    def utility(self, images: Images) -> np.ndarray:
        """Return hidden utilities in logits, measured against the pool that was voted on first."""
        statistics = pixel_statistics(list(images))
        # The taste is relative to a pool: repeated, so that the new pictures hardly move it.
        whole = np.concatenate([np.tile(self._pool, (50, 1)), statistics])
        return self._taste.utility(whole)[-len(images) :] * self._scale

    def verdict(
        self, base: Images, tuned: Images, reward: RewardFunction, asked: Sequence[str]
    ) -> dict[str, float]:
        """Compare base and tuned blindly, sides shuffled; and base with its best of a few."""
        before, after = self.utility(base), self.utility(tuned)
        wins, n = self._share(before, after)
        low, high = wilson_interval(wins, n)
        scores = reward(base, asked).numpy().reshape(-1, self._each)
        best = before.reshape(-1, self._each)[np.arange(len(scores)), scores.argmax(1)]
        reranked, _ = self._share(before, best.repeat(self._each))
        return {
            **paired(before, after, self._each),
            "wins": wins,
            "wins_low": low,
            "wins_high": high,
            "rerank_wins": reranked,
        }

    def _vote(
        self, left: np.ndarray, right: np.ndarray, prompt: np.ndarray, chance: np.random.Generator
    ) -> np.ndarray:
        votes = SimulatedRater(self._utility, chance=chance).votes(left, right)
        self._left, self._right = (
            np.concatenate(sides) for sides in ((self._left, left), (self._right, right))
        )
        self._prompt = np.concatenate([self._prompt, prompt])
        self._votes = np.concatenate([self._votes, votes])
        return votes

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


def paired(base: np.ndarray, tuned: np.ndarray, pool: int) -> dict[str, float]:
    """Return the mean difference and its standard error; the pictures of a prompt count as one."""
    by_prompt = (tuned - base).reshape(-1, pool).mean(1)
    error = by_prompt.std(ddof=1) / np.sqrt(len(by_prompt))
    return {"change": float(by_prompt.mean()), "standard_error": float(error)}

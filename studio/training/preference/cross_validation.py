"""What the held-out votes say: cross-validation over whole prompts.

Two pictures of one prompt resemble each other, so a vote on a prompt must never help to predict
another vote on the same prompt: a fold holds out prompts, not votes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def prompt_folds(prompt_group: NDArray[np.int64], folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Give each vote (N,) the number of the fold that holds out its prompt.

    Prompts go, the most voted first and equals in random order, to the fold with fewest votes. With
    fewer prompts than folds each prompt is a fold of its own.
    """
    groups, member, counts = np.unique(prompt_group, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(-counts[order], kind="stable")]
    filled = np.zeros(max(min(folds, len(groups)), 1), dtype=np.int64)
    fold_of = np.zeros(len(groups), dtype=np.int64)
    for group in order:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += counts[group]
    return fold_of[member]


def splits(fold: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield (train, held out) as masks over the votes, one pair a fold."""
    for number in np.unique(fold):
        yield fold != number, fold == number

"""Which prior, and what the held-out votes say: cross-validation over whole prompts.

Two pictures of one prompt resemble each other, so a vote on a prompt must never help to predict
another vote on the same prompt: a fold holds out prompts, not votes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from studio.training.preference.davidson import (
    Posterior,
    bradley_terry_loss,
    curvature,
    fit_posterior,
    slope,
)

Floats = NDArray[np.float64]

_CHORD_STEPS = 8
_SETTLED = 1e-3  # nats by which the training votes could still be fitted better


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


def choose_prior(
    z: Floats,
    choice: Floats,
    weight: Floats,
    fold: NDArray[np.int64],
    prior_stds: Sequence[float],
) -> float:
    """Return the prior's width that predicts held-out votes best, by log-likelihood.

    z (N, d), answers, weights and folds (N,). Widths are tried from narrow to wide, each started
    from the one before; the search ends at the first that makes it worse. With a single
    fold nothing can be held out and the middle one is taken.
    """
    widths = sorted(prior_stds)
    if len(np.unique(fold)) < 2:
        return widths[len(widths) // 2]
    losses: list[float] = []
    theta = None
    for width in widths:
        whole = fit_posterior(z, choice, weight, width, theta)
        theta, loss = whole.theta, 0.0
        for train, held in splits(fold):
            found = _without(whole, (z, choice, weight), train, width)
            nu = float(np.exp(found[-1]))
            loss += weight[held] @ bradley_terry_loss(z[held] @ found[:-1], choice[held], nu)
        losses.append(loss)
        if len(losses) > 1 and losses[-1] > losses[-2]:
            break
    return widths[int(np.argmin(losses))]


def _without(
    whole: Posterior, votes: tuple[Floats, Floats, Floats], train: NDArray[np.bool_], width: float
) -> Floats:
    """The optimum theta (d + 1,) of the training votes, from that of all.

    Newton's method with one Hessian, that of all votes less that of the held-out ones: the step to
    an optimum so near needs no new one, and gradients cost a hundredth of a Hessian. Where it does
    not settle, the full method takes over.
    """
    z, choice, weight = votes
    held = ~train
    _, p = slope(whole.theta, z[held], choice[held], weight[held], width)
    inverse = np.linalg.inv(whole.hessian - curvature(z[held], p, weight[held]))
    kept = z[train], choice[train], weight[train]
    theta = whole.theta
    for _ in range(_CHORD_STEPS):
        gradient, _ = slope(theta, *kept, width)
        gradient[-1] *= bool((choice == 0.5).any())  # nu stays where no tie was seen
        step = inverse @ gradient
        theta = theta - step
        if gradient @ step < _SETTLED:
            return theta
    return fit_posterior(*kept, width, whole.theta).theta

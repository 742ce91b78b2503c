"""Contestants are ranked as choix ranks them, ties included, with intervals that cover."""

from __future__ import annotations

import math

import choix
import numpy as np
import pytest

from studio.training.preference.ranking import rank

STRENGTHS = np.array([0.8, 0.1, -0.3, -0.6])


def played(games: int, seed: int, nu: float = 0.0) -> list[tuple[int, int, float]]:
    """Simulated games between four contestants of known strength."""
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(games):
        i, j = (int(k) for k in chance.choice(4, 2, replace=False))
        half = (STRENGTHS[i] - STRENGTHS[j]) / 2
        weights = np.array([math.exp(half), nu, math.exp(-half)])
        found.append((i, j, float(chance.choice([1, 0.5, 0], p=weights / weights.sum()))))
    return found


def test_strengths_agree_with_choix_where_nobody_ties():
    games = played(400, seed=1)
    wins = [(i, j) if score == 1 else (j, i) for i, j, score in games]
    theirs = choix.opt_pairwise(4, wins, alpha=0.01)
    ours = rank(games, 4, penalty=0.01)
    assert ours.strength == pytest.approx(theirs - theirs.mean(), abs=1e-3)
    assert ours.nu == 0


def test_counting_a_game_three_times_is_playing_it_three_times():
    games = played(50, seed=2, nu=0.5)
    thrice = rank(games, 4, times=[3.0] * 50)
    assert thrice.strength == pytest.approx(rank(games * 3, 4).strength, abs=1e-8)


def test_ties_are_fitted_as_davidson_says():
    fitted = rank(played(4000, seed=3, nu=0.6), 4)
    assert fitted.nu == pytest.approx(0.6, abs=0.08)
    assert fitted.strength == pytest.approx(STRENGTHS - STRENGTHS.mean(), abs=0.12)


def test_intervals_cover_the_truth_about_nineteen_times_in_twenty():
    truth = STRENGTHS - STRENGTHS.mean()
    covered = 0
    for seed in range(60):
        fitted = rank(played(200, seed, nu=0.4), 4)
        covered += sum(
            low <= value <= high
            for value, (low, high) in zip(truth, map(fitted.interval, range(4)), strict=True)
        )
    assert 0.90 <= covered / 240 <= 0.99


def test_a_contestant_that_never_lost_stays_finite():
    fitted = rank([(0, 1, 1.0)] * 20, 2)
    share, low, high = fitted.win_rate(0)
    assert 0.9 < share < 1
    assert 0 < low < share < high < 1


def test_nothing_played_says_nothing():
    share, low, high = rank([], 2).win_rate(0)
    assert (share, low < 0.01, high > 0.99) == (0.5, True, True)

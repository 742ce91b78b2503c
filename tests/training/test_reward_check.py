"""Held-out agreement, calibration, learning curve, and their sentences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.stats import binomtest

from studio.training.preference.comparisons import Comparisons
from studio.training.preference.davidson import davidson_log_probabilities, sigmoid
from studio.training.preference.intervals import clustered_interval, wilson_interval
from studio.training.preference.reward import fit_reward
from studio.training.preference.reward_check import (
    HeldOut,
    agreement_on,
    best_temperature,
    calibration,
    held_out_agreement,
    held_out_predictions,
    learning_curve,
)
from studio.training.preference.taste_words import (
    Agreement,
    calibration_sentence,
    more_votes_sentence,
    taste_sentence,
)


def made_votes(count, *, taste_size=2.0, seed=0, prompts=40):
    chance = np.random.default_rng(seed)
    left, right = chance.normal(size=(2, count, 8))
    taste = taste_size * np.ones(8) / np.sqrt(8)
    p = np.exp(davidson_log_probabilities((left - right) @ taste, 0.35))
    drawn = chance.random(count)
    choice = np.where(drawn < p[:, 0], 1.0, np.where(drawn < p[:, 0] + p[:, 1], 0.5, 0.0))
    return Comparisons(left, right, choice, chance.integers(prompts, size=count))


def test_a_taste_that_is_there_is_predicted_and_one_that_is_not_is_chance():
    found = held_out_agreement(made_votes(600))
    assert found.value > 0.75 and found.low > 0.5
    assert found.n == made_votes(600).decisive.sum()
    coins = [held_out_agreement(made_votes(300, taste_size=0, seed=s)) for s in range(12)]
    assert np.mean([c.value for c in coins]) == pytest.approx(0.5, abs=0.03)
    assert sum(c.low <= 0.5 <= c.high for c in coins) >= 9


def test_a_prompts_own_votes_never_help_to_predict_it():
    """Each prompt has a taste of its own: votes on the others cannot know it."""
    chance = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 10)
    left, right = chance.normal(size=(2, 600, 60))
    side = chance.choice([-1.0, 1.0], size=60)
    left[np.arange(600), group] += 3.0  # tells the prompt, and which side won there
    votes = Comparisons(left, right, (side[group] > 0).astype(float), group)
    assert held_out_agreement(votes).value == pytest.approx(0.5, abs=0.1)


def test_ties_are_left_out_of_the_agreement():
    votes = made_votes(300)
    found = held_out_predictions(votes)
    assert len(found.mean) == votes.decisive.sum() < 300


def test_nothing_is_held_out_of_one_prompt_or_of_nine_votes():
    votes = made_votes(200)
    assert held_out_agreement(replace(votes, prompt_group=np.zeros(200, int))) is None
    assert held_out_agreement(votes.rows(np.arange(9))) is None


def test_agreement_on_votes_kept_aside_counts_the_decisive_ones():
    votes, aside = made_votes(500), made_votes(400, seed=1)
    reward = fit_reward(votes)
    found = agreement_on(reward, aside)
    kept = aside.decisive
    right = (reward.score(aside.phi_left) > reward.score(aside.phi_right)) == (aside.choice == 1)
    assert (found.value, found.n) == (pytest.approx(right[kept].mean()), kept.sum())
    assert agreement_on(reward, aside.rows(~kept)) is None


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (5, 8), (63, 100), (250, 250)])
def test_wilsons_interval_is_scipys(hits, n):
    oracle = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson_interval(hits / n, n) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_votes_that_repeat_each_other_widen_the_interval():
    chance = np.random.default_rng(0)
    once = chance.integers(2, size=50).astype(float)
    alone = clustered_interval(once, np.arange(50))
    copied = clustered_interval(np.repeat(once, 10), np.repeat(np.arange(50), 10))
    taken_at_face_value = wilson_interval(once.mean(), 500)
    assert copied == pytest.approx(alone, abs=0.02)
    assert copied[1] - copied[0] > 2.5 * (taken_at_face_value[1] - taken_at_face_value[0])


def test_the_interval_covers_a_clustered_share_about_as_often_as_it_says():
    chance, covered = np.random.default_rng(0), 0
    for _ in range(300):
        rates = np.clip(chance.normal(0.65, 0.2, size=40), 0, 1)
        hits = (chance.random((40, 8)) < rates[:, None]).astype(float).ravel()
        low, high = clustered_interval(hits, np.repeat(np.arange(40), 8))
        covered += low <= 0.645 <= high  # clipping moves the mean a little
    assert 0.90 <= covered / 300 <= 0.99


def honest(count=20_000, factor=1.0, seed=0):
    """Predictions whose outcomes follow their own probabilities, then scaled by `factor`."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(scale=1.2, size=count)
    won = chance.random(count) < sigmoid(logits)
    return HeldOut(factor * logits, np.zeros(count), won, np.arange(count))


def test_honest_predictions_are_calibrated():
    found = calibration(honest())
    assert found.ece < 0.015
    assert found.temperature == pytest.approx(1, abs=0.05)
    assert sum(b.n for b in found.bins) == found.n == 20_000
    assert found.log_loss < np.log(2) and found.brier < 0.25


def test_predictions_three_times_too_sure_are_seen_and_the_temperature_mends_them():
    found = calibration(honest(factor=3.0))
    assert found.temperature == pytest.approx(3, abs=0.15)
    assert found.ece > 0.1
    assert all(b.observed < b.predicted for b in found.bins if b.n > 200 and b.predicted > 0.6)


def test_brier_and_log_loss_are_torchs():
    made = honest(500)
    found = calibration(made)
    p, won = torch.tensor(made.probability), torch.tensor(made.left_won).double()
    assert found.brier == pytest.approx(torch.nn.functional.mse_loss(p, won).item())
    oracle = torch.nn.functional.binary_cross_entropy(p, won).item()
    assert found.log_loss == pytest.approx(oracle)


def test_the_temperature_is_the_one_that_scipy_finds():
    made = honest(800, factor=1.7)
    won = made.left_won.astype(float)

    def loss(temperature):
        return np.logaddexp(0, -(2 * won - 1) * made.mean / temperature).mean()

    oracle = optimize.minimize_scalar(loss, bounds=(0.1, 10), method="bounded").x
    assert best_temperature(made.mean, won) == pytest.approx(oracle, abs=1e-3)


def test_more_votes_are_worth_more_at_the_beginning():
    few, many = learning_curve(made_votes(150)), learning_curve(made_votes(2400, prompts=100))
    assert few.gain_of_100 > many.gain_of_100 >= 0
    assert [votes for votes, _ in many.points][-1] == 2400
    assert many.worth >= 2400 and few.worth >= 150
    assert learning_curve(made_votes(12)).gain_of_100 is None


def test_the_taste_is_told_beside_chance_and_the_raters_own_consistency():
    held_out, own = Agreement(0.63, 0.57, 0.69, 240), Agreement(0.81, 0.7, 0.9, 40)
    assert taste_sentence(held_out, own) == (
        "Your taste is predicted in 63 % of unseen pairs, 57 to 69; a coin gets 50, you agree "
        "with yourself in 81."
    )
    assert taste_sentence(Agreement(0.55, 0.42, 0.67, 60)).endswith("That may still be chance.")


@pytest.mark.parametrize(
    ("votes", "gain", "worth", "sentence"),
    [
        (1, None, None, "1 vote is too few"),
        (199, None, None, "Rate 1 more pair."),
        (12, None, None, "Rate 38 more pairs for a first figure, 188 before fine-tuning."),
        (150, 0.02, 700, "Rate 50 more pairs."),
        (400, 0.014, 650, "likely to add 1.4 percent; after about 650 in all"),
        (3000, 0.001, 3000, "Rate new prompts"),
        (300, None, None, "enough to fine-tune"),
    ],
)
def test_how_many_more_votes_are_worth_it_is_said_plainly(votes, gain, worth, sentence):
    assert sentence in more_votes_sentence(votes, gain, worth)


def test_votes_that_do_not_teach_are_not_counted_towards_fine_tuning():
    told = more_votes_sentence(210, None, None, teaching=190)
    assert told.startswith("190 of 210 votes teach and are a beginning")
    assert "Rate 10 more pairs." in told
    assert "171 before fine-tuning" in more_votes_sentence(40, None, None, teaching=29)


@pytest.mark.parametrize(
    ("sure", "right", "n", "sentence"),
    [
        (0.66, 0.63, 200, "66 % sure on average, and right in 63 %: its sureness can be believed"),
        (0.80, 0.63, 200, "too sure of itself"),
        (0.58, 0.75, 200, "less sure than it could be"),
        (0.80, 0.63, 16, "can be believed"),
    ],
)
def test_whether_its_sureness_can_be_believed_is_said_plainly(sure, right, n, sentence):
    assert sentence in calibration_sentence(sure, right, n)

"""Which pair next: the information gain against plain integration, and what each strategy asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate
from scipy.stats import norm

from studio.training.preference.davidson import davidson_log_probabilities, fit_posterior
from studio.training.preference.reward import Reward, untrained_reward
from studio.training.preference.selection import (
    STRATEGIES,
    as_if_answered,
    expected_information_gain,
    next_pair,
    next_pairs,
    share_explained,
)
from studio.training.preference.simulated_rater import (
    TIE_NU,
    SimulatedRater,
    Taste,
    oracle_agreement,
    pixel_statistics,
    scaled_to_agreement,
)


def draw():
    return np.random.default_rng(0)


def made_reward(width=6):
    """A reward before any vote, and projected features of 200 pictures."""
    phi = np.random.default_rng(1).normal(size=(200, width))
    reward = untrained_reward(phi)
    return reward, reward.projection(phi)


@pytest.mark.parametrize(("mean", "std", "nu"), [(0, 1, 0.4), (0.7, 0.5, 0.1), (-2, 2, 1.0)])
def test_the_information_gain_is_the_mutual_information_of_answer_and_taste(mean, std, nu):
    def p(x):
        return np.exp(davidson_log_probabilities(np.array([x]), nu))[0]

    def entropy(q):
        return -(q * np.log(q)).sum()

    def over_posterior(f):
        return integrate.quad(
            lambda x: norm.pdf(x, mean, std) * f(x), mean - 8 * std, mean + 8 * std
        )[0]

    mixed = np.array([over_posterior(lambda x, c=c: p(x)[c]) for c in range(3)])
    oracle = entropy(mixed) - over_posterior(lambda x: entropy(p(x)))
    [found] = expected_information_gain(np.array([float(mean)]), np.array([float(std)]), nu)
    assert found == pytest.approx(oracle, abs=2e-3)


def test_nothing_is_learned_where_nothing_is_unsure():
    assert expected_information_gain(np.array([0.0]), np.array([0.0]), 0.4)[0] < 1e-12


def test_eig_asks_what_is_unsure_and_not_what_is_decided():
    reward, _ = made_reward(2)
    reward = replace(reward, covariance=np.diag([1.0, 1e-6]))
    one, same = np.eye(2)[::-1], np.zeros((2, 2))
    assert next_pair("eig", reward, one, same, draw()) == 1
    decided = replace(reward, weights=np.array([30.0, 0.0]), covariance=np.diag([1.0, 0.5]))
    assert next_pair("eig", decided, one, same, draw()) == 0


def test_what_an_answer_explains_of_other_pairs_is_that_of_their_joint_normal():
    """One minus the variance that is left of a target, given the answer's Gaussian channel."""
    reward, z = made_reward()
    chance = np.random.default_rng(3)
    root = chance.normal(size=(6, 6))
    reward = replace(reward, covariance=root @ root.T / 6, weights=chance.normal(size=6))
    asked, targets = z[:5], z[5:12]
    mean, std = reward.moments(asked)
    nats = expected_information_gain(mean, std, reward.nu)
    oracle = np.zeros(5)
    for number, pair in enumerate(asked):
        noise = std[number] ** 2 / np.expm1(2 * nats[number])  # of a channel with these nats
        for target in targets:
            both = np.stack([pair, target])
            joint = both @ reward.covariance @ both.T + np.diag([noise, 0.0])
            left = np.linalg.det(joint) / joint[0, 0]
            oracle[number] += (1 - left / joint[1, 1]) / len(targets)
    np.testing.assert_allclose(share_explained(reward, asked, targets), oracle, rtol=1e-9)


def test_an_odd_pair_that_tells_about_no_other_is_not_asked():
    reward, _ = made_reward(2)
    like_all, odd = np.array([1.0, 0.0]), np.array([0.0, 3.0])
    one = np.stack([odd, *[like_all] * 9])
    assert expected_information_gain(np.zeros(1), np.array([3.0]), reward.nu) > (
        expected_information_gain(np.zeros(1), np.ones(1), reward.nu)
    )
    assert next_pair("eig", reward, one, np.zeros((10, 2)), draw()) != 0


def test_pairs_drawn_ahead_do_not_all_ask_the_same():
    reward, _ = made_reward(2)
    one = np.repeat(np.eye(2), 5, axis=0)  # five pairs along each direction
    chosen = next_pairs("eig", reward, (one, np.zeros((10, 2))), 2, draw())
    assert {place // 5 for place in chosen} == {0, 1}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_different_pairs_and_as_many_as_there_are(strategy):
    reward, z = made_reward()
    pairs = z[:7], z[7:14]
    assert sorted(next_pairs(strategy, reward, pairs, 99, draw())) == list(range(7))
    assert len(set(next_pairs(strategy, reward, pairs, 4, draw()))) == 4


def test_tournament_shows_the_best_once_the_taste_is_known():
    reward, z = made_reward()
    width = reward.projection.width
    sure = replace(reward, weights=np.ones(width), covariance=1e-9 * np.eye(width))
    scores = (z[:50] + z[50:100]) @ sure.weights
    assert next_pair("tournament", sure, z[:50], z[50:100], draw()) == scores.argmax()


def test_a_pair_that_waits_makes_the_reward_as_sure_as_its_answer_would():
    """The update is exact where the likelihood's curvature is: at the posterior's own mean."""
    reward, pictures = made_reward()
    z = pictures[:40] - pictures[40:80]
    found: Reward = reward
    for difference in z:
        found = as_if_answered(found, difference)
    left, _, right = np.exp(davidson_log_probabilities(np.zeros(1), reward.nu))[0]
    information = (left + right) / 4
    oracle = np.linalg.inv(np.linalg.inv(reward.covariance) + information * z.T @ z)
    np.testing.assert_allclose(found.covariance, oracle, atol=1e-9)
    np.testing.assert_array_equal(found.weights, reward.weights)


def test_random_ignores_the_reward_and_follows_its_generator():
    reward, z = made_reward()
    pairs = z[:100], z[100:]
    drawn = [next_pairs("random", reward, pairs, 5, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_active_questions_leave_the_taste_less_unsure_than_random_ones():
    chance = np.random.default_rng(0)
    phi = chance.normal(size=(400, 12)) * np.linspace(2, 0.2, 12)
    reward = untrained_reward(phi)
    taste = chance.normal(size=12)
    pairs = reward.projection(phi[:200]), reward.projection(phi[200:])
    z = pairs[0] - pairs[1]
    p = np.exp(davidson_log_probabilities(3 * z @ taste, 0.3))
    choice = np.where(chance.random(200) < p[:, 0], 1.0, 0.0)
    left = {}
    for strategy in ("random", "eig"):
        asked = next_pairs(strategy, reward, pairs, 40, draw())
        found = fit_posterior(z[asked], choice[asked], np.ones(40), 1.0)
        left[strategy] = np.linalg.slogdet(found.covariance)[1]
    assert left["eig"] < left["random"]


def test_a_simulated_raters_noise_is_what_was_asked_for():
    chance = np.random.default_rng(0)
    utility = chance.normal(size=500)
    left, right = chance.integers(500, size=(2, 40_000))
    scaled = scaled_to_agreement(utility, left, right, agreement=0.77)
    assert oracle_agreement(scaled, left, right) == pytest.approx(0.77, abs=1e-6)
    votes = SimulatedRater(scaled, chance=chance).votes(left, right)
    decided = (votes != 0.5) & (left != right)
    hits = (votes == 1) == (scaled[left] > scaled[right])
    assert hits[decided].mean() == pytest.approx(0.77, abs=0.01)
    assert 0.05 < (votes == 0.5).mean() < 0.25


def test_a_biased_and_a_careless_rater_show_it():
    utility, none = np.zeros(10), np.zeros(20_000, dtype=int)
    sided = SimulatedRater(utility, left_bias=1.0, chance=draw()).votes(none, none + 1)
    expected = np.exp(davidson_log_probabilities(np.ones(1), TIE_NU))[0]
    assert (sided == 1).mean() == pytest.approx(expected[0], abs=0.01)
    sure = np.array([50.0, 0.0])
    careless = SimulatedRater(sure, careless=0.4, chance=draw()).votes(none, none + 1)
    assert (careless == 1).mean() == pytest.approx(0.8, abs=0.01)


def test_a_taste_is_computed_from_pixels_and_differs_from_person_to_person():
    pictures = np.random.default_rng(0).integers(256, size=(12, 32, 32, 3), dtype=np.uint8)
    pictures[:6] //= 3
    statistics = pixel_statistics(list(pictures))
    assert statistics.shape == (12, 8)
    one, other = (Taste.draw(s).utility(statistics) for s in (0, 1))
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(one, Taste.draw(0).utility(statistics))

"""The reward: its likelihood, optimum and posterior against outside oracles; its file; its uses."""

from __future__ import annotations

import json
from dataclasses import replace

import choix
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy import integrate, optimize
from scipy.stats import norm

from studio.core.errors import ModelError, TrainingError
from studio.training.preference.comparisons import Comparisons
from studio.training.preference.cross_validation import prompt_folds, splits
from studio.training.preference.davidson import (
    bradley_terry_loss,
    davidson_log_probabilities,
    fit_posterior,
    log_evidence,
    penalised_loss,
    sigmoid,
)
from studio.training.preference.evidence import most_likely_prior
from studio.training.preference.projection import Projection, fit_products, fit_projection, mixed
from studio.training.preference.reward import (
    Reward,
    RewardConfig,
    fit_reward,
    load_reward,
    moderated,
    save_reward,
    untrained_reward,
)


def made_votes(count=300, width=12, *, nu=0.4, seed=0, prompts=40):
    """Votes of a linear taste on random features, with Davidson's ties."""
    chance = np.random.default_rng(seed)
    left, right = chance.normal(size=(2, count, width))
    taste = chance.normal(size=width)
    p = np.exp(davidson_log_probabilities((left - right) @ taste, nu))
    drawn = chance.random(count)
    choice = np.where(drawn < p[:, 0], 1.0, np.where(drawn < p[:, 0] + p[:, 1], 0.5, 0.0))
    group = chance.integers(prompts, size=count)
    return Comparisons(left, right, choice, group, encoder_name="made", encoder_sha256="ab"), taste


def torch_loss(theta, z, choice, weight, prior_std):
    """The objective once more, as torch would say it: a softmax over the three answers."""
    delta = z @ theta[:-1]
    logits = torch.stack([delta / 2, theta[-1].expand_as(delta), -delta / 2], dim=1)
    answer = torch.tensor([{1.0: 0, 0.5: 1, 0.0: 2}[c] for c in choice.tolist()])
    losses = torch.nn.functional.cross_entropy(logits, answer, reduction="none")
    prior = torch.distributions.Normal(0.0, prior_std).log_prob(theta[:-1]).sum()
    prior = prior + torch.distributions.Normal(-1.0, 1.5).log_prob(theta[-1])
    return (weight * losses).sum() - prior


def test_without_ties_the_loss_is_minus_log_sigmoid_of_the_difference():
    delta = np.linspace(-40, 40, 81)
    expected = -torch.nn.functional.logsigmoid(torch.tensor(delta)).numpy()
    np.testing.assert_allclose(bradley_terry_loss(delta, np.ones(81)), expected, atol=1e-12)
    np.testing.assert_allclose(bradley_terry_loss(-delta, np.zeros(81)), expected, atol=1e-12)


def test_a_tie_counts_half_for_each_side_where_the_model_has_none():
    [loss] = bradley_terry_loss(np.array([0.7]), np.array([0.5]))
    sides = bradley_terry_loss(np.array([0.7, 0.7]), np.array([1.0, 0.0]))
    assert loss == pytest.approx(sides.mean())


@given(st.floats(-500, 500), st.floats(1e-6, 1e3))
def test_davidsons_probabilities_sum_to_one_and_keep_bradley_terrys_odds(delta, nu):
    [log_p] = davidson_log_probabilities(np.array([delta]), nu)
    assert np.exp(log_p).sum() == pytest.approx(1)
    assert log_p[0] - log_p[2] == pytest.approx(delta, abs=1e-9)
    assert log_p[1] - (log_p[0] + log_p[2]) / 2 == pytest.approx(np.log(nu), abs=1e-9)


def test_newton_finds_the_minimum_that_scipy_finds():
    votes, _ = made_votes()
    z = votes.phi_left - votes.phi_right
    weight = np.random.default_rng(1).uniform(0.2, 2, len(z))
    found = fit_posterior(z, votes.choice, weight, 1.3)
    oracle = optimize.minimize(
        penalised_loss, np.zeros(13), (z, votes.choice, weight, 1.3), method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9, "maxfun": 100_000},
    )  # fmt: skip
    np.testing.assert_allclose(found.theta, oracle.x, atol=1e-4)
    assert penalised_loss(found.theta, z, votes.choice, weight, 1.3) <= oracle.fun + 1e-9


def test_the_posteriors_precision_is_autograds_hessian_and_its_gradient_is_zero():
    votes, _ = made_votes()
    z = votes.phi_left - votes.phi_right
    weight = np.random.default_rng(1).uniform(0.2, 2, len(z))
    found = fit_posterior(z, votes.choice, weight, 0.8)
    data = [torch.tensor(v) for v in (z, votes.choice, weight)]

    def loss(theta):
        return torch_loss(theta, *data, 0.8)

    theta = torch.tensor(found.theta, requires_grad=True)
    [gradient] = torch.autograd.grad(loss(theta), theta)
    hessian = torch.autograd.functional.hessian(loss, theta.detach()).numpy()
    np.testing.assert_allclose(gradient.numpy(), np.zeros(13), atol=1e-4)
    np.testing.assert_allclose(found.hessian, hessian, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(hessian)[:-1, :-1], atol=1e-7)


def test_strengths_agree_with_choix_on_votes_without_ties():
    chance = np.random.default_rng(3)
    strengths = chance.normal(size=15)
    pairs = np.array([chance.choice(15, 2, replace=False) for _ in range(600)])
    left_wins = chance.random(600) < sigmoid(strengths[pairs[:, 0]] - strengths[pairs[:, 1]])
    one_hot = np.eye(15)
    z = one_hot[pairs[:, 0]] - one_hot[pairs[:, 1]]
    alpha = 0.5  # choix: alpha |theta|^2 with the likelihood; ours: |theta|^2 / (2 std^2)
    wins = [(a, b) if won else (b, a) for (a, b), won in zip(pairs, left_wins, strict=True)]
    oracle = choix.opt_pairwise(15, wins, alpha=alpha, tol=1e-10)
    found = fit_posterior(z, left_wins.astype(float), np.ones(600), (2 * alpha) ** -0.5)
    ours = found.weights - found.weights.mean()
    np.testing.assert_allclose(ours, oracle - oracle.mean(), atol=1e-3)
    assert found.nu < 1e-6


def test_a_vote_of_weight_two_counts_as_two_votes():
    votes, _ = made_votes(60, 5)
    z = votes.phi_left - votes.phi_right
    twice = fit_posterior(np.concatenate([z, z]), np.tile(votes.choice, 2), np.ones(120), 1.0)
    heavy = fit_posterior(z, votes.choice, np.full(60, 2.0), 1.0)
    np.testing.assert_allclose(heavy.theta, twice.theta, atol=1e-8)


def test_swapping_the_sides_of_every_vote_changes_nothing():
    votes, _ = made_votes()
    swapped = replace(
        votes, phi_left=votes.phi_right, phi_right=votes.phi_left, choice=1 - votes.choice
    )
    one, other = fit_reward(votes), fit_reward(swapped)
    np.testing.assert_allclose(one.score(votes.phi_left), other.score(votes.phi_left), atol=1e-4)


def test_the_reward_finds_a_linear_taste():
    votes, taste = made_votes(2000)
    reward = fit_reward(votes)
    chance = np.random.default_rng(9)
    fresh = chance.normal(size=(500, 12))
    assert np.corrcoef(reward.score(fresh), fresh @ taste)[0, 1] > 0.97
    assert reward.nu == pytest.approx(0.4, abs=0.1)
    assert (reward.votes, reward.prompts) == (2000, 40)


def test_the_posterior_covers_the_truth_as_often_as_it_claims():
    covered = []
    for seed in range(30):
        votes, taste = made_votes(200, 6, seed=seed)
        found = fit_posterior(votes.phi_left - votes.phi_right, votes.choice, np.ones(200), 1.0)
        std = np.sqrt(np.diag(found.covariance))
        covered += (np.abs(found.weights - taste) < 1.96 * std).tolist()
    assert 0.88 <= np.mean(covered) <= 0.99  # 180 weights


def test_the_moderated_probability_is_the_mean_over_the_posterior():
    for mean, std in ((0.3, 0.5), (-1.2, 1.0), (2.0, 2.0)):
        normal = torch.distributions.Normal(mean, std)

        def integrand(x, normal=normal):
            return float(normal.log_prob(torch.tensor(x)).exp()) * float(sigmoid(np.array(x)))

        exact, _ = integrate.quad(integrand, mean - 9 * std, mean + 9 * std)
        [found] = moderated(np.array([mean]), np.array([std]))
        assert found == pytest.approx(exact, abs=0.02)


def test_the_lower_bound_falls_behind_where_nothing_was_seen():
    votes, _ = made_votes()
    reward = fit_reward(votes)
    near, far = votes.phi_left[:1], 50 * votes.phi_left[:1]
    gap = reward.score(near) - reward.lower_bound(near, 2.0)
    np.testing.assert_allclose(gap, 2 * reward.score_std(near))
    assert reward.score_std(far) > 10 * reward.score_std(near)


def test_the_difference_of_a_picture_and_itself_is_certain():
    votes, _ = made_votes()
    mean, std = fit_reward(votes).difference(votes.phi_left, votes.phi_left)
    assert not mean.any() and not std.any()


def test_before_any_vote_every_score_is_zero_and_as_unsure_as_the_prior():
    phi = np.random.default_rng(0).normal(size=(400, 20))
    reward = untrained_reward(phi, prior_std=2.0)
    assert not reward.score(phi).any()
    # The projection makes a picture's mean squared length 1.
    assert np.mean(reward.score_std(phi) ** 2) == pytest.approx(4, rel=0.01)


def test_before_any_vote_what_counts_is_how_pictures_that_meet_differ():
    chance = np.random.default_rng(0)
    phi = chance.normal(size=(60, 5)) * [9, 1, 1, 1, 1]
    phi[1::2, 0] = phi[::2, 0]  # pictures that meet are alike in what differs most elsewhere
    reward = untrained_reward(phi, differences=phi[::2] - phi[1::2])
    assert np.abs(reward.projection.axes[0]).max() < 1e-9


def test_too_few_votes_are_refused_with_how_many_are_missing():
    votes, _ = made_votes(7)
    with pytest.raises(TrainingError, match="Rate 3 more pairs"):
        fit_reward(votes)


def test_a_refit_starts_from_the_last_one_and_finds_what_a_fresh_fit_finds():
    votes, _ = made_votes(330)
    first = fit_reward(votes.rows(np.arange(300)))
    refit = fit_reward(votes, start=first)
    assert refit.projection is first.projection
    assert (refit.prior_std, refit.fitted_votes) == (first.prior_std, 300)
    z = first.projection(votes.phi_left) - first.projection(votes.phi_right)
    fresh = fit_posterior(z, votes.choice, votes.weights, first.prior_std)
    np.testing.assert_allclose(refit.weights, fresh.weights, atol=1e-4)


def test_a_refit_begins_anew_when_the_votes_have_grown_or_the_encoder_has_changed():
    votes, _ = made_votes(400)
    first = fit_reward(votes.rows(np.arange(300)))
    assert fit_reward(votes, start=first).fitted_votes == 400
    other = replace(votes.rows(np.arange(310)), encoder_sha256="cd")
    assert fit_reward(other, start=first).fitted_votes == 310


def test_the_projections_axes_span_the_leading_singular_vectors():
    chance = np.random.default_rng(0)
    differences = chance.normal(size=(500, 30)) @ chance.normal(size=(30, 30))
    found = fit_projection(differences, np.zeros(30), 8)
    spread = np.sqrt((differences**2).mean(axis=0))
    _, values, rows = np.linalg.svd(differences / spread, full_matrices=False)  # the oracle
    span, _ = np.linalg.qr(found.axes * spread[:, None])
    np.testing.assert_allclose(np.linalg.norm(rows[:8] @ span, axis=1), np.ones(8), atol=1e-3)
    z = differences @ found.axes
    assert np.mean((z**2).sum(axis=1)) == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose((z**2).sum(axis=0), values[:8] ** 2 * 500 / (values[:8] ** 2).sum(),
                               rtol=1e-3)  # fmt: skip


def test_the_unit_of_a_feature_does_not_matter_and_a_constant_one_is_ignored():
    chance = np.random.default_rng(0)
    differences = np.column_stack([chance.normal(size=(300, 10)), np.zeros(300)])
    units = np.array([1e-3, 1e3, 7, 1, 1, 1, 1, 1, 1, 1, 1])
    one = fit_projection(differences, np.zeros(11), 5)
    other = fit_projection(differences * units, np.zeros(11), 5)
    np.testing.assert_allclose(
        np.abs(one(differences)), np.abs(other(differences * units)), atol=1e-4
    )
    assert not one.axes[10].any()


@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=40)
def test_a_prompt_is_never_on_both_sides_of_a_fold(prompts, folds, seed):
    group = np.random.default_rng(seed).integers(prompts, size=80)
    fold = prompt_folds(group, folds, seed)
    assert len(np.unique(fold)) == min(folds, len(np.unique(group)))
    for train, held in splits(fold):
        assert not set(group[train]) & set(group[held])
        assert (train ^ held).all()


def test_folds_get_about_as_many_votes_each():
    group = np.repeat(np.arange(100), np.random.default_rng(0).integers(1, 20, 100))
    counts = np.bincount(prompt_folds(group, 5))
    assert counts.max() - counts.min() <= 20


def test_the_evidence_is_the_integral_of_likelihood_times_prior():
    chance = np.random.default_rng(0)
    z = chance.normal(size=(60, 1))
    p = np.exp(davidson_log_probabilities(z[:, 0] * 1.5, 0.4))
    drawn, ones = chance.random(60), np.ones(60)
    choice = np.where(drawn < p[:, 0], 1.0, np.where(drawn < p[:, 0] + p[:, 1], 0.5, 0.0))

    def joint(weight, log_nu=None, answers=choice, width=2.0):
        nu = 0.0 if log_nu is None else np.exp(log_nu)
        loss = bradley_terry_loss(z[: len(answers), 0] * weight, answers, nu).sum()
        ties = 1.0 if log_nu is None else norm.pdf(log_nu, -1.0, 1.5)
        return np.exp(-loss) * norm.pdf(weight, scale=width) * ties

    exact, _ = integrate.dblquad(joint, -4, 2, -1, 5)  # over log nu and the weight
    found = log_evidence(fit_posterior(z, choice, ones, 2.0), z, choice, ones, 2.0)
    assert found == pytest.approx(np.log(exact), abs=0.05)
    decisive = (choice > 0.25).astype(float)
    exact, _ = integrate.quad(lambda w: joint(w, answers=decisive), -3, 8)
    found = log_evidence(fit_posterior(z, decisive, ones, 2.0), z, decisive, ones, 2.0)
    assert found == pytest.approx(np.log(exact), abs=0.05)


def test_the_evidence_of_answers_that_say_nothing_is_a_coins():
    z, choice, ones = np.zeros((7, 3)), np.array([1.0, 0, 0, 1, 1, 0, 1]), np.ones(7)
    for width in (0.1, 1.0, 9.0):
        found = log_evidence(fit_posterior(z, choice, ones, width), z, choice, ones, width)
        assert found == pytest.approx(-7 * np.log(2))


def test_the_prior_is_wide_for_a_clear_taste_and_narrow_for_none():
    votes, taste = made_votes(600)
    z, ones = votes.phi_left - votes.phi_right, np.ones(600)
    coin = np.random.default_rng(0).integers(2, size=600).astype(float)
    widths = RewardConfig().prior_stds
    share, wide = most_likely_prior((z, None), votes.choice, ones, (0.0, 1.0), widths)
    assert share == 0  # there are no products
    assert wide / np.sqrt(np.mean(taste**2)) == pytest.approx(1, abs=0.42)  # the grid's next
    assert most_likely_prior((z, None), coin, ones, (0.0,), widths)[1] == min(widths)


def test_the_width_found_uphill_is_the_best_of_all():
    votes, _ = made_votes(200)
    z, ones, widths = votes.phi_left - votes.phi_right, np.ones(200), RewardConfig().prior_stds
    evidence = [
        log_evidence(fit_posterior(z, votes.choice, ones, w), z, votes.choice, ones, w)
        for w in widths
    ]
    found = most_likely_prior((z, None), votes.choice, ones, (0.0,), widths)
    assert found == (0.0, widths[int(np.argmax(evidence))])


def test_without_products_the_projection_is_the_linear_one_bit_by_bit():
    votes, _ = made_votes(200)
    linear = fit_projection(votes.phi_left - votes.phi_right, np.zeros(12), 5)
    z = linear(votes.phi_left), linear(votes.phi_right)
    both = Projection(linear.centre, linear.axes, fit_products(*z, 3))
    assert (both.width, linear.width) == (5 + 6, 5)
    np.testing.assert_array_equal(both.with_share(0.0)(votes.phi_left), z[0])
    np.testing.assert_array_equal(both.components(votes.phi_left), z[0])
    one, other = (
        fit_reward(votes, RewardConfig(squares=0)),
        fit_reward(votes, RewardConfig(product_shares=(0.0,))),
    )
    np.testing.assert_array_equal(one.weights, other.weights)
    assert one.projection.products is None and other.projection.products is None


def test_components_and_products_share_a_difference_of_length_one():
    votes, _ = made_votes(500)
    projection = fit_projection(votes.phi_left - votes.phi_right, np.zeros(12), 12)
    left, right = projection(votes.phi_left), projection(votes.phi_right)
    products = fit_products(left, right, 4)
    linear, quadratic = left - right, products(left) - products(right)
    for share in (0.0, 0.3, 1.0):
        length = (mixed(linear, quadratic, share) ** 2).sum(axis=1).mean()
        assert length == pytest.approx(1, rel=1e-3)
    far = products(1e6 * left)
    assert np.abs(far / products.scale).max() <= 16 + 1e-9  # four standard deviations, twice


def test_the_unit_of_the_components_decides_how_much_their_product_counts():
    """A plain polynomial kernel on z, but for centre, clipping and one number."""
    chance = np.random.default_rng(0)
    left, right = chance.normal(size=(2, 400, 2)).clip(-3, 3) * [3.0, 0.5]
    products = fit_products(left, right, 2)
    centred = np.concatenate([left, right]) - np.concatenate([left, right]).mean(axis=0)
    x = centred[:400]
    plain = np.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2], axis=1)
    ratio = products(left) / plain
    np.testing.assert_allclose(ratio, np.full((400, 3), ratio[0, 0]), rtol=1e-9)


def test_pictures_that_are_all_alike_have_no_products():
    same = np.ones((20, 3))
    assert fit_products(same, same, 2) is None
    assert fit_products(same, same, 0) is None


def quadratic_votes(count=1500, seed=0):
    """Votes of a taste for which two features must go together; neither is liked alone."""
    chance = np.random.default_rng(seed)
    left, right = chance.normal(size=(2, count, 4))
    delta = 2 * (left[:, 0] * left[:, 1] - right[:, 0] * right[:, 1])
    choice = (chance.random(count) < sigmoid(delta)).astype(float)
    return Comparisons(left, right, choice, chance.integers(40, size=count)), left


def test_a_taste_for_two_things_together_is_learned_with_products_only():
    votes, phi = quadratic_votes()
    liked = phi[:, 0] * phi[:, 1]
    reward, linear = fit_reward(votes), fit_reward(votes, RewardConfig(squares=0))
    assert reward.projection.products.share == 1.0
    assert np.corrcoef(reward.score(phi), liked)[0, 1] > 0.9
    assert abs(np.corrcoef(linear.score(phi), liked)[0, 1]) < 0.3


def test_a_refit_from_products_begins_anew_where_the_taste_is_to_be_linear():
    votes, _ = quadratic_votes(330)
    first = fit_reward(votes.rows(np.arange(300)))
    assert fit_reward(votes, start=first).projection is first.projection
    linear = fit_reward(votes, RewardConfig(squares=0), start=first)
    assert (linear.projection.products, linear.fitted_votes) == (None, 330)


@pytest.fixture
def saved(tmp_path):
    votes, _ = made_votes()
    reward = fit_reward(replace(votes, votes_hash="cafe"))
    path = tmp_path / "rewards" / "taste.safetensors"
    save_reward(reward, path)
    return reward, path


def test_a_reward_comes_back_from_its_file_as_it_was(saved):
    reward, path = saved
    found = load_reward(path)
    assert (found.encoder_name, found.encoder_sha256, found.votes_hash) == ("made", "ab", "cafe")
    for name in ("nu", "prior_std", "votes", "prompts", "fitted_votes"):
        assert getattr(found, name) == getattr(reward, name)
    phi = np.random.default_rng(1).normal(size=(20, 12))
    np.testing.assert_array_equal(found.score(phi), reward.score(phi))
    np.testing.assert_array_equal(found.score_std(phi), reward.score_std(phi))
    assert [p.name for p in path.parent.iterdir()] == ["taste.safetensors"]


def test_a_file_cut_short_is_no_reward(saved):
    _, path = saved
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError):
        load_reward(path)


def test_a_reward_with_products_comes_back_from_its_file_as_it_was(tmp_path):
    votes, phi = quadratic_votes(300)
    reward = fit_reward(votes)
    assert reward.projection.products is not None
    save_reward(reward, tmp_path / "it.safetensors")
    found = load_reward(tmp_path / "it.safetensors")
    np.testing.assert_array_equal(found.score(phi), reward.score(phi))
    np.testing.assert_array_equal(found.score_std(phi), reward.score_std(phi))
    assert found.projection.products.share == reward.projection.products.share


ABOUT = {
    "nu": 0.3, "prior_std": 1.0, "votes": 1, "prompts": 1, "fitted_votes": 1, "votes_hash": "",
    "encoder_name": "", "encoder_sha256": "",
}  # fmt: skip


def linear_file():
    """Tensors and metadata of a reward as the first format had it."""
    arrays = {
        "centre": np.zeros(4), "axes": np.eye(4, 2), "weights": np.array([1.0, -2.0]),
        "covariance": np.eye(2),
    }  # fmt: skip
    return arrays, {"format": "easel-reward-1", "reward": json.dumps(ABOUT)}


def product_file():
    """Tensors and metadata of a reward with the square of its first component."""
    arrays, metadata = linear_file()
    arrays |= {
        "weights": np.zeros(3), "covariance": np.eye(3), "product_mean": np.zeros(1),
        "product_std": np.ones(1), "product_scale": np.ones(1), "product_share": np.array([0.6]),
    }  # fmt: skip
    return arrays, metadata | {"format": "easel-reward-2"}


def test_a_reward_of_the_first_format_is_linear_as_it_was(tmp_path):
    arrays, metadata = linear_file()
    save_file(arrays, tmp_path / "it.safetensors", metadata=metadata)
    found = load_reward(tmp_path / "it.safetensors")
    phi = np.random.default_rng(0).normal(size=(5, 4))
    assert found.projection.products is None
    np.testing.assert_allclose(found.score(phi), phi[:, 0] - 2 * phi[:, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": np.zeros(2)},
        {"weights": np.array([0.0, np.nan, 0.0])},
        {"centre": np.array([0.0, np.inf, 0.0, 0.0])},
        {"axes": None},
        {"product_mean": None},
        {"product_mean": np.zeros((1, 1))},
        {"product_std": np.zeros(1)},
        {"product_std": np.ones(2)},
        {"product_scale": np.ones(2), "weights": np.zeros(4), "covariance": np.eye(4)},
        {"product_scale": np.array([np.inf])},
        {"product_scale": np.ones(1, np.float32)},
        {"product_share": np.array([1.5])},
        {"product_share": np.array([np.nan])},
        {"product_share": np.zeros(1)},
        {
            "product_mean": np.zeros(3), "product_std": np.ones(3), "product_scale": np.ones(6),
            "weights": np.zeros(8), "covariance": np.eye(8),
        },
        {"format": "easel-reward-9"},
        {"format": None},
        {"reward": None},
        {"reward": json.dumps({**ABOUT, "nu": "much"})},
        {"reward": json.dumps({**ABOUT, "nu": float("nan")})},
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_no_reward(tmp_path, wrong):
    arrays, metadata = product_file()
    path = tmp_path / "it.safetensors"
    save_file(arrays, path, metadata=metadata)
    assert isinstance(load_reward(path), Reward)  # so that only what follows is refused
    for name, value in wrong.items():
        place = metadata if name in metadata else arrays
        if value is None:
            del place[name]
        else:
            place[name] = value
    save_file(arrays, path, metadata=metadata)
    with pytest.raises(ModelError, match="Fit it again"):
        load_reward(path)


def test_the_votes_config_and_seed_decide_the_reward_bit_by_bit():
    votes, _ = made_votes()
    one, other = fit_reward(votes, RewardConfig()), fit_reward(votes, RewardConfig())
    np.testing.assert_array_equal(one.weights, other.weights)

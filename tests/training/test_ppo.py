"""PPO over denoising steps: what must hold between the policy that drew and the one that learns.

The names of the tests follow the fourteen invariants of diffusion PPO; those of a whole run are in
test_finetune.py, those of the transition itself in tests/test_equations.py as well.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import TrainingError
from studio.diffusion.adapters import (
    adapter_parameters,
    adapter_state,
    add_trainable_adapter,
    remove_trained_adapter,
    restore_adapter,
)
from studio.diffusion.ddim import ddim_transition
from studio.diffusion.model import load_model
from studio.diffusion.schedule import noise_schedule
from studio.training.ppo import (
    PpoConfig,
    PpoUpdate,
    PromptStatistics,
    advantages,
    ppo_clip_loss,
)
from studio.training.rollout import (
    TextFeatures,
    make_policy,
)
from studio.training.update import DivergedError, kl_to_base, make_optimizer
from tests.training.drawn_pictures import (
    ADVANTAGE,
    CONFIG,
    drawn_by,
    nudge,
    with_stable_diffusion_1_s_schedule,
)

COSINE = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}


def update_of(model, config, ppo) -> PpoUpdate:
    optimizer = make_optimizer(adapter_parameters(model.unet), ppo)
    return PpoUpdate(make_policy(model, config), TextFeatures(model), optimizer, ppo)


def gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in adapter_parameters(model.unet)])


def gradients_of_first_step(model, config, ppo, drawn, advantage) -> torch.Tensor:
    """The gradient that the epoch's single optimizer step would use, before clipping."""
    ppo = replace(ppo, updates=1, gradient_clip=1e9)
    update = update_of(model, config, ppo)
    for _ in update.run(drawn, advantage, seed=0, epoch=1):
        pass
    return gradient(model)


PPO = PpoConfig(batch=4, updates=1)


# 1. The log-probability is that of torch.distributions.


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_log_probability_is_that_of_a_normal_distribution(dtype, within, prediction_type):
    chance = torch.Generator().manual_seed(0)
    schedule = noise_schedule({**COSINE, "prediction_type": prediction_type})
    noise_pred, latents, x = (
        torch.randn((3, 4, 8, 8), generator=chance, dtype=dtype) for _ in range(3)
    )
    t, t_prev = torch.tensor([900, 500, 200]), torch.tensor([800, 400, 100])
    step = ddim_transition(noise_pred, t, t_prev, latents, schedule, eta=1.0, min_std=0.03)
    expected = torch.distributions.Normal(step.mean, step.std).log_prob(x).mean((1, 2, 3))
    assert torch.allclose(step.log_prob(x), expected, rtol=within, atol=within)


# 2. The transition is diffusers'.


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_transition_is_that_of_diffusers_at_every_timestep(prediction_type, eta):
    config = {**COSINE, "prediction_type": prediction_type, "steps_offset": 1}
    theirs = DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=False)
    theirs.set_timesteps(20)
    schedule, chance = noise_schedule(config), torch.Generator().manual_seed(1)
    following = [*theirs.timesteps.tolist()[1:], -1]
    for t, t_prev in zip(theirs.timesteps.tolist(), following, strict=True):
        latents, noise_pred, noise = (torch.randn((2, 4, 8, 8), generator=chance) for _ in range(3))
        expected = theirs.step(
            noise_pred, t, latents, eta=eta, variance_noise=noise, return_dict=False
        )[0]
        numbers = torch.tensor([t, t]), torch.tensor([t_prev, t_prev])
        step = ddim_transition(noise_pred, *numbers, latents, schedule, eta=eta)
        scale = float(expected.abs().max())
        assert torch.allclose(step.mean + step.std * noise, expected, atol=1e-5 * max(1, scale))


def test_with_eta_one_and_all_timesteps_the_variance_is_that_of_ddpm():
    schedule = noise_schedule({**COSINE, "prediction_type": "epsilon"})
    ddpm = DDPMScheduler(**COSINE)
    zeros = torch.zeros(1, 1, 1, 1)
    for t in (999, 700, 300, 20, 2):
        step = ddim_transition(zeros, t, t - 1, zeros, schedule, eta=1.0)
        expected = ddpm._get_variance(t) ** 0.5
        assert float(step.std) == pytest.approx(float(expected), rel=2e-3)


# 4. Before the first update the ratio is exactly 1.


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("schedule", ["cosine, v", "scaled linear, epsilon"])
def test_before_the_first_update_the_ratio_is_exactly_one_at_the_same_batch_shape(
    folder, tmp_path, one_thread, guidance_scale, schedule
):
    if schedule != "cosine, v":
        folder = with_stable_diffusion_1_s_schedule(folder, tmp_path / "sd1")
    model = load_model(folder, "tiny", device="cpu", dtype=torch.float32)
    add_trainable_adapter(model.unet, 4, seed=0)
    nudge(model.unet)
    config = replace(CONFIG, guidance_scale=guidance_scale)
    drawn = drawn_by(model, config, batch=4)
    policy, texts = make_policy(model, config), TextFeatures(model)
    embeds = texts.batch(drawn.prompts, guidance_scale)
    for place, number in enumerate(drawn.actions):
        numbers = torch.full((4,), number)
        step, _ = policy.step(drawn.before[:, place], numbers, embeds)
        assert torch.equal(step.log_prob(drawn.after[:, place]), drawn.log_prob[:, place])


def test_a_window_s_ratio_is_one_before_the_first_update(model):
    nudge(model.unet)
    config = replace(CONFIG, window=2)
    drawn = drawn_by(model, config, epoch=2)
    assert drawn.actions == range(1, 3)
    update = update_of(model, config, replace(PPO, learning_rate=0.0))
    for _ in update.run(drawn, ADVANTAGE, seed=0, epoch=2):
        pass
    assert update.figures.largest_log_ratio < 1e-5


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_at_another_batch_shape_the_log_ratio_is_tiny(model, batch):
    nudge(model.unet)
    drawn = drawn_by(model, CONFIG, batch=2)
    update = update_of(model, CONFIG, replace(PPO, batch=batch, learning_rate=0.0))
    for _ in update.run(drawn, ADVANTAGE, seed=0, epoch=1):
        pass
    assert update.figures.largest_log_ratio < 1e-5
    assert update.figures.clipped == 0


def test_the_ratio_is_one_after_saving_and_loading_the_adapter(model, folder):
    nudge(model.unet)
    drawn, state = drawn_by(model, CONFIG), adapter_state(model.unet)
    other = load_model(folder, "tiny", device="cpu", dtype=torch.float32)
    add_trainable_adapter(other.unet, 4, seed=7)
    restore_adapter(other.unet, state)
    step, _ = make_policy(other, CONFIG).step(
        drawn.before[:, 0],
        torch.zeros(4, dtype=torch.long),
        TextFeatures(other).batch(drawn.prompts, CONFIG.guidance_scale),
    )
    assert torch.equal(step.log_prob(drawn.after[:, 0]), drawn.log_prob[:, 0])


# 5. At ratio 1 the gradient is REINFORCE's.


def test_at_ratio_one_the_gradient_is_that_of_reinforce(model):
    nudge(model.unet)
    drawn = drawn_by(model, CONFIG)
    ppo = replace(PPO, kl_weight=0.0, batch=64)
    got = gradients_of_first_step(model, CONFIG, replace(ppo, learning_rate=0.0), drawn, ADVANTAGE)
    model.unet.zero_grad()
    policy, texts = make_policy(model, CONFIG), TextFeatures(model)
    embeds, total = texts.batch(drawn.prompts, CONFIG.guidance_scale), torch.zeros(())
    for place, number in enumerate(drawn.actions):
        step, _ = policy.step(drawn.before[:, place], torch.full((4,), number), embeds)
        total = total - (ADVANTAGE * step.log_prob(drawn.after[:, place])).sum()
    (total / (4 * len(drawn.actions))).backward()
    expected = gradient(model)
    assert expected.norm() > 0
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-6 * float(expected.abs().max()))


# 6. The loss has the gradient of its equation.


def test_gradient_of_the_loss_is_that_of_finite_differences():
    chance = torch.Generator().manual_seed(0)
    old = torch.randn(8, generator=chance, dtype=torch.float64)
    new = old + 0.05 * torch.randn(8, generator=chance, dtype=torch.float64)
    advantage = torch.randn(8, generator=chance, dtype=torch.float64)
    new.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: (
            ppo_clip_loss(x, old, advantage, 0.03).sum()
            + kl_to_base(x[:, None, None, None], old[:, None, None, None], torch.tensor(0.5)).sum()
        ),
        (new,),
    )


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "learns"),
    [(1, 0.1, False), (-1, -0.1, False), (1, -0.1, True), (-1, 0.1, True), (1, 0.0, True)],
)
def test_only_the_side_beyond_the_trust_region_has_no_gradient(advantage, log_ratio, learns):
    new = torch.tensor([log_ratio], requires_grad=True)
    ppo_clip_loss(new, torch.zeros(1), torch.tensor([float(advantage)]), 0.05).sum().backward()
    assert bool(new.grad != 0) == learns


# 7. Advantages.


def of(rewards, prompts, **changes) -> torch.Tensor:
    config = replace(PpoConfig(), **changes)
    return advantages(torch.tensor(rewards), prompts, PromptStatistics(32), config)


def test_advantages_are_standardised_within_each_prompt():
    prompts = ["a"] * 16 + ["b"] * 16
    rewards = [float(i % 16) + 100 * (i >= 16) for i in range(32)]
    found = of(rewards, prompts)
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(found[:16], found[16:], atol=1e-5)


def test_whole_numbers_are_not_truncated():
    assert torch.equal(of([0, 1, 2, 4], list("aabb")), of([0.0, 1.0, 2.0, 4.0], list("aabb")))


@given(st.permutations(range(8)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_pictures_does_not_matter(order):
    rewards, prompts = [0.1, 0.5, 0.2, 0.9, 3.0, 2.0, 2.5, 2.2], list("aaaabbbb")
    shuffled = of([rewards[i] for i in order], [prompts[i] for i in order])
    assert torch.allclose(shuffled, of(rewards, prompts)[list(order)], atol=1e-6)


@pytest.mark.parametrize("reward", [0.0, -3.0, 1e6])
def test_equal_rewards_are_no_reason_to_change(reward):
    found = of([reward] * 6, list("aabbcc"))
    assert torch.equal(found, torch.zeros(6))


def test_a_prompt_s_own_spread_counts_only_once_it_has_enough_rewards():
    rewards, prompts = [0.0, 2.0, 0.0, 20.0], list("aabb")
    pooled = of(rewards, prompts, min_count=3)
    own = of(rewards, prompts, min_count=2)
    assert float(pooled[3]) == pytest.approx(10 / (50.5**0.5), rel=1e-4)
    assert own.tolist() == pytest.approx([-1, 1, -1, 1], rel=1e-4)


def test_a_single_picture_of_a_prompt_is_compared_with_the_batch():
    found = of([1.0, 2.0, 3.0], list("abc"))
    assert found.tolist() == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], rel=1e-4)


def test_outliers_are_clipped():
    assert float(of([0.0] * 31 + [1e9], ["a"] * 32, advantage_clip=3.0).max()) == 3.0


def test_earlier_rewards_of_a_prompt_are_remembered_up_to_a_bound():
    statistics = PromptStatistics(4, {"a": [1.0, 2.0, 3.0]})
    statistics.add(["a", "a"], torch.tensor([4.0, 5.0]))
    assert statistics.as_json() == {"a": [2.0, 3.0, 4.0, 5.0]}


# 8. Accumulation, and what the gradient touches.


def test_small_batches_add_up_to_the_gradient_of_a_large_one(model):
    nudge(model.unet)
    drawn, found = drawn_by(model, CONFIG), []
    for batch in (64, 5, 1):
        ppo = replace(PPO, batch=batch, learning_rate=0.0)
        found.append(gradients_of_first_step(model, CONFIG, ppo, drawn, ADVANTAGE))
    scale = float(found[0].abs().max())
    assert torch.allclose(found[0], found[1], atol=2e-4 * scale)
    assert torch.allclose(found[0], found[2], atol=2e-4 * scale)


@pytest.mark.parametrize(("scale", "window"), [(2.0, 0), (1.0, 0), (2.0, 2)])
def test_gradients_kept_while_drawing_are_those_of_the_update_s_own_pass(model, scale, window):
    nudge(model.unet)
    config = replace(CONFIG, guidance_scale=scale, window=window)
    ppo = PpoConfig(updates=1, kl_weight=0.0, gradient_clip=1e9, learning_rate=0.0)
    told = {}
    for kept in (False, True):
        drawn = drawn_by(model, config, batch=2, gradients=kept)
        assert (drawn.gradients is not None) == kept
        update = update_of(model, config, replace(ppo, one_pass=kept))
        calls = len(list(update.run(drawn, ADVANTAGE, seed=0, epoch=1)))
        assert calls == update.calls(len(ADVANTAGE), len(drawn.actions))
        told[kept] = gradient(model), update.figures, drawn.latents, calls
    (two, figures, latents, calls), (one, others, same, fewer) = told[False], told[True]
    assert float((one - two).norm() / two.norm()) < 1e-5
    assert torch.equal(latents, same)  # the pictures are the ones that they would have been
    assert (others.pairs, fewer) == (figures.pairs, calls - 1)
    assert others.loss == pytest.approx(figures.loss, abs=1e-5)
    assert others.kl == pytest.approx(figures.kl)


@pytest.mark.parametrize("changes", [{"updates": 2, "kl_weight": 0.0}, {"kl_weight": 0.02}])
def test_learning_while_drawing_is_refused_where_the_ratio_is_not_one(changes):
    with pytest.raises(TrainingError, match="one update an epoch"):
        PpoConfig(one_pass=True, **changes)


def test_only_the_adapter_changes(model):
    def frozen():
        others = {n: p for n, p in model.unet.named_parameters() if not p.requires_grad}
        rest = (model.vae.named_parameters(), model.text_encoder.named_parameters())
        return {**others, **dict(rest[0]), **dict(rest[1])}

    before = {name: weight.detach().clone() for name, weight in frozen().items()}
    state = adapter_state(model.unet)
    update = update_of(model, CONFIG, PPO)
    for _ in update.run(drawn_by(model, CONFIG), ADVANTAGE, seed=0, epoch=1):
        pass
    after = frozen()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert all(weight.grad is None for weight in after.values())
    moved = adapter_state(model.unet)
    assert any(not torch.equal(weight, moved[name]) for name, weight in state.items())


def test_a_learning_rate_of_zero_changes_nothing(model):
    state = adapter_state(model.unet)
    update = update_of(model, CONFIG, replace(PPO, learning_rate=0.0))
    for _ in update.run(drawn_by(model, CONFIG), ADVANTAGE, seed=0, epoch=1):
        pass
    assert all(torch.equal(weight, adapter_state(model.unet)[n]) for n, weight in state.items())


# 9. The divergence from the base.


def test_kl_is_that_of_torch_distributions_and_never_negative():
    chance = torch.Generator().manual_seed(0)
    mean, base = (torch.randn((3, 4, 8, 8), generator=chance) for _ in range(2))
    std = torch.tensor([0.1, 0.5, 2.0]).reshape(-1, 1, 1, 1)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(base, std))
    assert torch.allclose(kl_to_base(mean, base, std), expected.mean((1, 2, 3)), rtol=1e-5)
    assert bool((kl_to_base(mean, base, std) >= 0).all())
    assert torch.equal(kl_to_base(mean, mean, std), torch.zeros(3))


@pytest.mark.parametrize("moved", [False, True])
def test_kl_of_a_run_is_exactly_zero_at_the_base_and_positive_elsewhere(model, moved):
    if moved:
        nudge(model.unet)
    drawn = drawn_by(model, CONFIG)
    update = update_of(model, CONFIG, replace(PPO, learning_rate=0.0))
    for _ in update.run(drawn, ADVANTAGE, seed=0, epoch=1):
        pass
    assert (update.figures.kl > 0) == moved


def test_a_higher_weight_on_the_divergence_keeps_the_policy_nearer(folder):
    ends = []
    for weight in (0.01, 100.0):
        model = load_model(folder, "tiny", device="cpu", dtype=torch.float32)
        add_trainable_adapter(model.unet, 4, seed=0)
        ppo = replace(PPO, kl_weight=weight, learning_rate=3e-3, updates=2)
        update = update_of(model, CONFIG, ppo)
        for epoch in range(1, 6):
            drawn = drawn_by(model, CONFIG, epoch=epoch)
            for _ in update.run(drawn, ADVANTAGE, seed=0, epoch=epoch):
                pass
        ends.append(update.figures.mean("kl"))
        remove_trained_adapter(model.unet)
    assert ends[1] < ends[0]


# 13. and what goes wrong.


def test_a_gradient_that_is_not_a_number_leaves_the_weights_alone(model):
    drawn, state = drawn_by(model, CONFIG), adapter_state(model.unet)
    update = update_of(model, CONFIG, PPO)
    with pytest.raises(DivergedError, match="stopped being a number"):
        list(update.run(drawn, ADVANTAGE * float("nan"), seed=0, epoch=1))
    assert all(torch.equal(weight, adapter_state(model.unet)[n]) for n, weight in state.items())


def test_when_memory_runs_out_smaller_batches_give_the_same_gradient(model):
    nudge(model.unet)
    drawn = drawn_by(model, CONFIG)
    ppo = replace(PPO, batch=8, learning_rate=0.0)
    whole = gradients_of_first_step(model, CONFIG, ppo, drawn, ADVANTAGE)

    def refuse(_network, inputs, _keywords):
        if torch.is_grad_enabled() and len(inputs[0]) > 2 * 3:  # two rows a pair, with guidance
            raise torch.OutOfMemoryError("out of memory")

    hook = model.unet.register_forward_pre_hook(refuse, with_kwargs=True)
    update = update_of(model, CONFIG, replace(ppo, gradient_clip=1e9))
    for _ in update.run(drawn, ADVANTAGE, seed=0, epoch=1):
        pass
    hook.remove()
    assert update.batch == 2
    assert update.figures.pairs == 4 * len(drawn.actions)
    assert torch.allclose(gradient(model), whole, atol=2e-4 * float(whole.abs().max()))


def test_no_memory_for_a_single_pair_is_a_sentence(model):
    drawn = drawn_by(model, CONFIG)

    def refuse(*_):
        raise torch.OutOfMemoryError("out of memory")

    model.unet.register_forward_pre_hook(refuse)
    with pytest.raises(TrainingError, match=r"one step of one picture at a time\. Close"):
        list(update_of(model, CONFIG, PPO).run(drawn, ADVANTAGE, seed=0, epoch=1))

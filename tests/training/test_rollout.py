"""Trajectories: what the policy draws, which of its steps are actions, and how guidance enters."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from studio.core.errors import TrainingError
from studio.diffusion.ddim import ddim_transition
from studio.diffusion.guidance import predict_noise
from studio.diffusion.latents import decode, to_uint8
from studio.diffusion.summed_adapter import DISTINCT
from studio.training.rollout import PolicyConfig, TextFeatures, make_policy
from tests.training.drawn_pictures import CONFIG, PROMPTS, drawn_by, nudge

STEPS = CONFIG.steps

# 3. Nothing deterministic is scored, and all is finite.


def test_a_deterministic_policy_is_refused_with_a_sentence():
    with pytest.raises(TrainingError, match=r"no actions to learn from; choose"):
        PolicyConfig(eta=0.0)


@pytest.mark.parametrize("steps", [4, 10, 20, 50])
def test_every_action_on_the_cosine_schedule_is_finite_and_the_last_step_is_none(model, steps):
    config = PolicyConfig(steps=steps, guidance_scale=1.0, skip_share=0.0, train_share=1.0)
    drawn = drawn_by(model, config, prompts=PROMPTS[:1])
    assert drawn.actions == range(steps - 1)
    assert drawn.log_prob.shape == (1, steps - 1)
    assert all(bool(t.isfinite().all()) for t in (drawn.before, drawn.after, drawn.log_prob))


def test_the_floor_on_sigma_acts_where_both_passes_come_through(model):
    policy = make_policy(model, CONFIG)
    numbers = torch.arange(STEPS - 1)
    latents = torch.zeros(STEPS - 1, 4, 8, 8)
    stds = policy.distribution(latents, numbers, latents).std.flatten()
    assert float(stds.min()) == pytest.approx(CONFIG.min_std)


# 14. Guidance.


def test_without_guidance_the_null_prompt_is_never_asked(model):
    rows = []
    model.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    config = replace(CONFIG, guidance_scale=1.0)
    plain = drawn_by(model, config)
    assert set(rows) == {4}
    below = drawn_by(model, replace(config, guidance_scale=0.5))
    assert torch.equal(plain.after, below.after)
    assert TextFeatures(model).batch(PROMPTS, 1.0).shape[0] == 4
    assert TextFeatures(model, "blue").batch(PROMPTS, 2.0).shape[0] == 8


# Trajectories.


def test_a_picture_depends_on_its_seed_and_not_on_its_batch(model):
    nudge(model.unet)
    together, alone = drawn_by(model, CONFIG, batch=4), drawn_by(model, CONFIG, batch=1)
    assert torch.allclose(together.after, alone.after, atol=1e-4)
    again = drawn_by(model, CONFIG, batch=4)
    assert torch.equal(together.after, again.after)
    assert not torch.equal(together.after, drawn_by(model, CONFIG, epoch=2).after)


def test_latents_and_densities_stay_in_fp32(model):
    drawn = drawn_by(model, CONFIG)
    assert {t.dtype for t in (drawn.before, drawn.after, drawn.log_prob)} == {torch.float32}


def test_a_trajectory_is_a_chain(model):
    drawn = drawn_by(model, CONFIG)
    assert torch.equal(drawn.after[:, :-1], drawn.before[:, 1:])


def test_the_first_and_the_last_actions_are_not_trained():
    assert PolicyConfig(steps=10, skip_share=0.25, train_share=0.85).actions(0) == range(2, 8)
    assert PolicyConfig(steps=10, skip_share=0.0, train_share=1.0).actions(5) == range(9)
    assert PolicyConfig(steps=2, skip_share=0.0, train_share=0.1).actions(0) == range(1)
    assert PolicyConfig(steps=3, skip_share=0.8, train_share=0.9).actions(0) == range(1, 2)


def test_a_window_slides_over_all_actions_and_never_over_the_last_step():
    config = PolicyConfig(steps=6, window=3)
    assert [config.actions(epoch) for epoch in range(4)] == [
        range(3), range(1, 4), range(2, 5), range(3),
    ]  # fmt: skip


def test_outside_the_window_nothing_is_left_to_chance(model):
    """From the end of the window on, the deterministic way leads to the same pictures."""
    config = replace(CONFIG, window=2)
    drawn = drawn_by(model, config)
    assert drawn.actions == range(2)
    policy, latents = make_policy(model, config), drawn.after[:, -1]
    embeds = TextFeatures(model).batch(drawn.prompts, config.guidance_scale)
    times = [*policy.timesteps.tolist(), -1]
    for t, t_prev in pairwise(times[2:]):
        with torch.no_grad():
            at = torch.full((4,), t)
            noise_pred = predict_noise(model.unet, latents, at, embeds, config.guidance_scale)
        latents = ddim_transition(noise_pred, t, t_prev, latents, policy.schedule).mean
    difference = to_uint8(decode(model.vae, latents)).astype(int) - drawn.images
    assert abs(difference).max() <= 1


def test_each_prompt_is_encoded_once(model):
    calls = []
    model.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    texts = TextFeatures(model)
    for _ in range(3):
        texts.batch(PROMPTS, 2.0)
    assert len(calls) == 3  # two prompts and the empty one


def test_keys_and_values_of_a_prompt_are_computed_once_for_all_its_pictures(model):
    nudge(model.unet)
    asked = ("castle", "red apple", "castle", "castle")
    features = TextFeatures(model).batch(asked, 3.0)
    distinct, where = getattr(features, DISTINCT)
    assert (len(distinct), len(where)) == (3, 8)
    plain = features.clone()
    assert not hasattr(plain, DISTINCT)
    assert torch.equal(distinct[where], plain)
    layers = [m for n, m in model.unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v"))]
    seen = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append(getattr(given[0], DISTINCT)))
    predict_noise(model.unet, torch.zeros(4, 4, 8, 8), torch.tensor(5), features, 3.0)
    assert len(seen) == len(layers)
    outs, gradients = [], []
    for given in (features, plain):
        for layer in layers:
            layer._forward_pre_hooks.clear()
        out = layers[0](given)
        outs.append(out.detach())
        loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
        gradients += torch.autograd.grad(loss, list(layers[0].lora_B.parameters()))
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*gradients)
    setattr(features, DISTINCT, (torch.zeros_like(distinct), where))
    assert not torch.allclose(layers[0](features), outs[0])  # nothing else was looked at

"""Forward-process fine-tuning: its equations, and that it is a run like PPO's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from studio.core.errors import TrainingError
from studio.core.events import EpochDone, StageProgress
from studio.diffusion.adapters import adapter_parameters, adapter_state
from studio.diffusion.model import load_model
from studio.training.finetune import finetune
from studio.training.nft import NftConfig, NftUpdate, nft_loss, optimality
from studio.training.ppo import PpoConfig
from studio.training.rewards import known_reward
from studio.training.rollout import (
    TextFeatures,
    make_policy,
)
from studio.training.update import DivergedError, make_optimizer
from tests.training.drawn_pictures import ADVANTAGE, CONFIG, pictures_of
from tests.training.finetune_program import CONFIG as RUN
from tests.training.finetune_program import TOOLS

SHARED = PpoConfig(batch=4, updates=2, learning_rate=1e-3)
NFT = NftConfig(levels=2)


def update_of(model, shared=SHARED, nft=NFT) -> NftUpdate:
    optimizer = make_optimizer(adapter_parameters(model.unet), shared)
    return NftUpdate(make_policy(model, CONFIG), TextFeatures(model), optimizer, (shared, nft))


def gradient(model, shared, nft=NFT) -> torch.Tensor:
    shared = replace(shared, updates=1, learning_rate=0.0, gradient_clip=1e9)
    list(update_of(model, shared, nft).run(pictures_of(model), ADVANTAGE, seed=0, epoch=1))
    return torch.cat([p.grad.flatten() for p in adapter_parameters(model.unet)])


def test_optimality_is_the_advantage_between_nought_and_one():
    found = optimality(torch.tensor([-9.0, -3.0, 0.0, 1.5, 3.0]), 3.0)
    assert found.tolist() == [0.0, 0.0, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("r", "towards"), [(1.0, True), (0.0, False)])
def test_a_liked_picture_pulls_the_prediction_and_a_disliked_one_pushes_it(r, towards):
    clean = torch.ones(1, 4, 2, 2)
    old = torch.zeros(1, 4, 2, 2)
    prediction = old.clone().requires_grad_()
    nft_loss(prediction, old, clean, torch.tensor([r]), beta=0.5).sum().backward()
    assert bool((prediction.grad < 0).all()) == towards  # a step against it goes up, to `clean`


def test_a_picture_of_average_worth_leaves_the_old_policy_where_it_is():
    clean, old = torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    prediction = old.clone().requires_grad_()
    nft_loss(prediction, old, clean, torch.tensor([0.5]), beta=0.5).sum().backward()
    assert torch.equal(prediction.grad, torch.zeros_like(old))


def test_gradient_of_the_loss_is_that_of_finite_differences():
    """Along the directions in which its weights, which carry no gradient, stand still."""
    chance = torch.Generator().manual_seed(0)
    clean, old = (torch.randn((3, 1, 1, 2), generator=chance).double() for _ in range(2))
    r = torch.tensor([0.2, 0.5, 0.9]).double()
    prediction = (old + 0.1).requires_grad_()
    [found] = torch.autograd.grad(nft_loss(prediction, old, clean, r, 0.7).sum(), prediction)

    def scale(sign):
        return (old + sign * 0.7 * 0.1 - clean).abs().mean((1, 2, 3), keepdim=True)

    shape = (3, 1, 1, 1)
    liked, disliked = (old + sign * 0.7 * 0.1 - clean for sign in (1, -1))
    expected = r.view(shape) * liked / scale(1) - (1 - r).view(shape) * disliked / scale(
        -1
    )  # 2 / 2 elements, and beta / beta
    assert torch.allclose(found, expected)


def test_pictures_are_drawn_without_chance_and_keep_no_trajectory(model):
    drawn = pictures_of(model)
    assert drawn.latents.shape == (4, 4, 8, 8)
    assert drawn.before.numel() == drawn.log_prob.numel() == 0
    assert torch.equal(drawn.latents, pictures_of(model).latents)


def test_small_batches_add_up_to_the_gradient_of_a_large_one(model):
    with torch.no_grad():
        for parameter in adapter_parameters(model.unet):
            parameter.add_(0.05)
    nft = replace(NFT, kl_weight=0.1)
    whole, *parts = (gradient(model, replace(SHARED, batch=n), nft) for n in (64, 3, 1))
    assert whole.norm() > 0
    for part in parts:
        assert torch.allclose(whole, part, atol=2e-4 * float(whole.abs().max()))


def test_a_picture_s_noise_levels_lie_one_in_each_part_of_the_band(model):
    update = update_of(model, nft=replace(NFT, levels=3, band=(0.1, 0.4)))
    list(update.run(pictures_of(model), ADVANTAGE, seed=0, epoch=1))
    assert all(
        100 <= row[0] < 200 <= row[1] < 300 <= row[2] < 400 for row in update._times.tolist()
    )
    assert len({time for row in update._times.tolist() for time in row}) > 6
    assert update.figures.pairs == 4 * 3


def test_after_the_first_step_the_old_policy_is_still_the_one_that_drew(model):
    before, calls = adapter_state(model.unet), []
    update = update_of(model)
    drawn = pictures_of(model)
    for _ in update.run(drawn, ADVANTAGE, seed=0, epoch=1):
        calls.append(1)
    assert all(torch.equal(update._old[name], weight) for name, weight in before.items())
    assert len(calls) == update.calls(4, len(CONFIG.actions(0))) == 1 + 2 + 2
    assert any(not torch.equal(before[n], w) for n, w in adapter_state(model.unet).items())


def test_the_divergence_is_nought_at_the_base_and_has_the_unit_of_ppo(model):
    update = update_of(model, replace(SHARED, learning_rate=0.0))
    list(update.run(pictures_of(model), ADVANTAGE, seed=0, epoch=1))
    assert update.figures.kl == 0
    update = update_of(model)
    list(update.run(pictures_of(model), ADVANTAGE, seed=0, epoch=1))
    assert update.figures.mean("kl") > 0


def test_a_loss_that_is_not_a_number_leaves_the_weights_alone(model):
    state = adapter_state(model.unet)
    with pytest.raises(DivergedError):
        list(update_of(model).run(pictures_of(model), ADVANTAGE * float("nan"), seed=0, epoch=1))
    assert all(torch.equal(weight, adapter_state(model.unet)[n]) for n, weight in state.items())


def test_a_run_resumes_to_the_bit(folder, tmp_path):
    config, seen = replace(RUN, algorithm="nft", nft=NFT), []

    def load():
        return load_model(folder, "tiny", "cpu", torch.float32, sha256="ab")

    def timeless(events):
        return [replace(e, seconds=0.0) for e in events if isinstance(e, EpochDone)]

    reward = known_reward("brightness")
    whole = timeless(finetune(load(), reward, config, TOOLS, tmp_path / "whole"))
    for stop in (9, 16, None):
        run = finetune(load(), reward, config, TOOLS, tmp_path / "stopped")
        for number, event in enumerate(run):
            seen.append(event)
            if number == stop:
                break
        run.close()
    assert timeless(seen) == whole
    ours, theirs = (tmp_path / n / "adapter.safetensors" for n in ("stopped", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_progress_counts_the_calls_of_an_epoch(folder, tmp_path):
    model = load_model(folder, "tiny", "cpu", torch.float32, sha256="ab")
    config = replace(RUN, algorithm="nft", nft=NFT, epochs=2)
    events = list(finetune(model, known_reward("brightness"), config, TOOLS, tmp_path / "run"))
    last = [e for e in events if isinstance(e, StageProgress)][-1]
    assert (last.step, last.stage) == (last.steps, "look")


def test_an_unknown_algorithm_is_a_sentence():
    with pytest.raises(TrainingError, match=r"no algorithm 'magic'\. Choose ppo or nft"):
        replace(RUN, algorithm="magic")

"""The adversarial term: who learns from what, how it weighs, and that a kill changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from studio.core.errors import TrainingError
from studio.core.events import StageProgress
from studio.training.loop import LoopConfig
from studio.training.stages import autoencoder
from studio.training.stages.autoencoder import AutoencoderConfig, build_autoencoder
from studio.training.stages.critic import (
    STRONGEST,
    PatchCritic,
    adaptive_weight,
    adversarial_losses,
    hinge_loss,
)
from studio.training.team import ALONE
from tests.training.synthetic import make_corpus

LOOP = LoopConfig(steps=4, learning_rate=1e-3, warmup=1, checkpoint_every=2, report_every=1)
CONFIG = AutoencoderConfig(
    channels=(4, 4, 8, 8), norm_num_groups=2, batch_size=2, scenes=4, bf16=False,
    adversarial_weight=0.8, adversarial_from=1, loop=LOOP,
)  # fmt: skip
WEIGHTS = Path("vae", "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("critic"), size=64)


@pytest.fixture
def critic() -> PatchCritic:
    torch.manual_seed(0)
    return PatchCritic(8)


def test_a_verdict_is_on_a_patch_of_34_pixels(critic):
    pictures = torch.rand(1, 3, 128, 128, requires_grad=True)
    verdicts = critic(pictures)
    assert verdicts.shape == (1, 1, 30, 30)
    # without the norms, whose statistics are of the whole picture
    bare = nn.Sequential(*(layer for layer in critic.layers if not isinstance(layer, nn.GroupNorm)))
    [gradient] = torch.autograd.grad(bare(pictures)[0, 0, 15, 15], pictures)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == 34


def test_neither_of_the_two_learns_from_the_other_ones_loss(critic):
    rebuilt = torch.rand(2, 3, 32, 32, requires_grad=True)
    fooling, learning = adversarial_losses(critic, rebuilt, torch.rand(2, 3, 32, 32))
    inner = list(critic.parameters())
    found = torch.autograd.grad(fooling, [rebuilt, *inner], allow_unused=True, retain_graph=True)
    assert found[0].norm() > 0 and all(g is None for g in found[1:])
    found = torch.autograd.grad(learning, [rebuilt, *inner], allow_unused=True)
    assert found[0] is None and all(g is not None for g in found[1:])
    assert fooling == -critic(rebuilt).mean()


def test_the_hinge_loss_asks_for_one_and_minus_one_and_for_no_more():
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    assert hinge_loss(values[3:], values[:2]) == 0
    assert hinge_loss(values[:1], values[4:]) == (4 + 4) / 2
    assert hinge_loss(values[2:3], values[2:3]) == 1


def test_the_weight_makes_both_gradients_equally_long():
    layer = nn.Linear(3, 2)
    out = layer(torch.tensor([1.0, 2.0, 3.0]))
    rebuilding, fooling = 5 * out.square().sum(), 0.01 * out.sum()
    weight = adaptive_weight(rebuilding, fooling, layer.weight, ALONE)
    assert not weight.requires_grad
    (first,), (second,) = (
        torch.autograd.grad(loss, layer.weight, retain_graph=True)
        for loss in (rebuilding, weight * fooling)
    )
    torch.testing.assert_close(second.norm(), first.norm(), rtol=0.01, atol=0)
    flat = 0 * out.sum()
    assert adaptive_weight(rebuilding, flat, layer.weight, ALONE) <= STRONGEST


def test_a_critic_that_is_shown_both_tells_them_apart(critic):
    chance = torch.Generator().manual_seed(1)
    sharp = torch.rand(8, 3, 32, 32, generator=chance).round() * 2 - 1
    blurred = nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    for _ in range(30):
        _, learning = adversarial_losses(critic, blurred, sharp)
        optimizer.zero_grad()
        learning.backward()
        optimizer.step()
    assert learning < 0.2  # 1 at the start
    assert critic(sharp).mean() > 0 > critic(blurred).mean()


def test_a_stopped_run_with_a_critic_goes_on_bit_equal_with_both(corpus, tmp_path):
    whole = list(autoencoder.train(corpus, CONFIG, tmp_path / "whole"))
    stopped = autoencoder.train(corpus, CONFIG, tmp_path / "stopped")
    for event in stopped:
        if isinstance(event, StageProgress) and event.step == 3:
            stopped.close()
    list(autoencoder.train(corpus, CONFIG, tmp_path / "stopped"))
    files = [WEIGHTS, *(f"checkpoint-00000004/{n}.safetensors" for n in ("weights", "optimizer"))]
    for file in files:
        ours, theirs = (load_file(tmp_path / run / file) for run in ("whole", "stopped"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), file
    told = [event.metrics for event in whole if isinstance(event, StageProgress)]
    assert all({"critic", "fooling"} <= metrics.keys() for metrics in told[:4])


def test_only_the_decoder_learns_and_the_latents_stay_as_they_are(corpus, tmp_path):
    torch.manual_seed(3)
    before = build_autoencoder(CONFIG).eval()
    before.save_pretrained(tmp_path / "model" / "vae")
    config = replace(CONFIG, decoder_only=True)
    for start in (tmp_path / "model", tmp_path / "model" / "vae"):
        list(autoencoder.train(corpus, config, tmp_path / start.name, start=start))
        after = load_file(tmp_path / start.name / WEIGHTS)
        about = (tmp_path / start.name / "vae" / "config.json").read_text(encoding="utf-8")
        assert str(tmp_path) not in about
        for name, value in before.state_dict().items():
            frozen = name.startswith(("encoder.", "quant_conv."))
            assert torch.equal(after[name], value) == frozen, name


def test_a_decoder_needs_an_encoder_to_start_from(corpus, tmp_path):
    config = replace(CONFIG, decoder_only=True)
    with pytest.raises(TrainingError, match="Say with `--from DIR` in which model's folder"):
        next(autoencoder.train(corpus, config, tmp_path / "run"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    for start in (tmp_path / "nowhere", tmp_path, tmp_path / "torn"):
        with pytest.raises(TrainingError, match=r"no autoencoder to go on from in .*Name the fold"):
            next(autoencoder.train(corpus, config, tmp_path / "run", start=start))
    assert not (tmp_path / "run").exists()

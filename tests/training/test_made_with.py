"""A run is gone on with as it was begun; what changed is named, and nothing of it is touched."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from studio.core.errors import TrainingError
from studio.training import checkpoint
from studio.training.loop import LoopConfig, optimize
from studio.training.made_with import MadeWith
from studio.training.stages import autoencoder
from studio.training.stages.autoencoder import AutoencoderConfig
from studio.training.stages.pretrain import Frame, UnetConfig
from tests.training.synthetic import make_corpus

LOOP = LoopConfig(steps=2, learning_rate=0.1, checkpoint_every=1, ema_decay=0.5)
UNET = UnetConfig(loop=LOOP)
FILES = {"corpus": "c", "autoencoder": "a"}
VAE = AutoencoderConfig(
    channels=(4, 4, 8, 8), norm_num_groups=2, batch_size=2, scenes=2,
    loop=replace(LOOP, learning_rate=1e-3),
)  # fmt: skip


def run(folder, config: UnetConfig, files: dict[str, str]) -> int:
    """Train something small as if it were this U-Net; return the step that it has come to."""
    module = nn.Linear(3, 1)
    made_with = MadeWith.of("", config, files)
    events = optimize(
        "tiny", module, lambda _: (module.weight.sum(), {}), config.loop, folder,
        made_with=made_with,
    )  # fmt: skip
    list(events)
    return checkpoint.latest(folder).step


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        (replace(UNET, min_snr_gamma=5.0), FILES, "min snr gamma: 0.0 then, 5.0 now"),
        (replace(UNET, batch_size=8), FILES, "batch size: 16 then, 8 now"),
        (replace(UNET, loop=replace(LOOP, seed=1)), FILES, "seed: 0 then, 1 now"),
        (replace(UNET, frames=(Frame(128, 128, 1.0),)), FILES, "frames: others"),
        (UNET, {**FILES, "autoencoder": "b"}, "the autoencoder is another one"),
        (UNET, {**FILES, "start": "m"}, "did not begin from what --from names now"),
    ],
)
def test_what_changed_is_named_and_the_run_stays_as_it_was(tmp_path, config, files, said):
    assert run(tmp_path, UNET, FILES) == 2
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    config = replace(config, loop=replace(config.loop, steps=3))
    with pytest.raises(TrainingError) as refused:
        run(tmp_path, config, files)
    assert "from another configuration (" in str(refused.value)
    assert said in str(refused.value)
    assert "Delete that folder, or move it away, to begin anew; or train on" in str(refused.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_run_may_become_longer_learn_slower_and_report_more_often(tmp_path):
    run(tmp_path, UNET, FILES)
    later = replace(
        LOOP, steps=4, learning_rate=0.01, warmup=1, decay_share=0.2, checkpoint_every=4,
        report_every=1,
    )  # fmt: skip
    assert run(tmp_path, replace(UNET, loop=later), FILES) == 4


def test_the_model_that_a_run_began_from_need_not_be_named_again_but_is_remembered(tmp_path):
    run(tmp_path, UNET, {**FILES, "start": "a"})
    longer = replace(UNET, loop=replace(LOOP, steps=3))
    assert run(tmp_path, longer, FILES) == 3
    longest = replace(UNET, loop=replace(LOOP, steps=4))
    with pytest.raises(TrainingError, match=r"leave --from out to go on"):
        run(tmp_path, longest, {**FILES, "start": "b"})
    assert run(tmp_path, longest, {**FILES, "start": "a"}) == 4


def test_a_checkpoint_that_does_not_say_what_it_was_made_with_goes_on(tmp_path):
    run(tmp_path, UNET, FILES)
    newest = sorted(tmp_path.glob("checkpoint-*"))[-1]
    state = json.loads((newest / "state.json").read_text())
    del state["made_with"]
    (newest / "state.json").write_text(json.dumps(state))
    sums = json.loads((newest / "MANIFEST.json").read_text())
    sums["state.json"] = checkpoint._sha256(newest / "state.json")
    (newest / "MANIFEST.json").write_text(json.dumps(sums))
    other = replace(UNET, batch_size=8, loop=replace(LOOP, steps=3))
    assert run(tmp_path, other, {**FILES, "autoencoder": "b"}) == 3
    assert "made_with" not in checkpoint.latest(tmp_path).state  # nobody knows


def test_an_autoencoder_that_was_saved_is_not_saved_anew_from_the_same_checkpoint(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", size=64)
    folder = tmp_path / "autoencoder"
    first = list(autoencoder.train(corpus, VAE, folder))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    again = list(autoencoder.train(corpus, VAE, folder))
    assert weights.stat().st_mtime_ns == before
    assert again[-1].metrics["psnr"] == pytest.approx(first[-1].metrics["psnr"], abs=0.05)
    longer = replace(VAE, loop=replace(VAE.loop, steps=3))
    list(autoencoder.train(corpus, longer, folder))
    assert weights.stat().st_mtime_ns > before


def test_a_decoder_of_another_encoder_is_another_run(tmp_path):
    corpus = make_corpus(tmp_path / "corpus", size=64)
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        autoencoder.build_autoencoder(VAE).save_pretrained(tmp_path / name / "vae")
    config = replace(VAE, decoder_only=True)
    list(autoencoder.train(corpus, config, tmp_path / "run", start=tmp_path / "a"))
    trained = tmp_path / "run" / "vae"
    longer = replace(config, loop=replace(config.loop, steps=3))
    with pytest.raises(TrainingError, match=r"did not begin from what --from names"):
        list(autoencoder.train(corpus, longer, tmp_path / "run", start=tmp_path / "b"))
    list(autoencoder.train(corpus, longer, tmp_path / "run", start=trained))  # the same encoder
    assert checkpoint.latest(tmp_path / "run").step == 3


def test_what_makes_latents_is_what_a_u_net_builds_on():
    vae = autoencoder.build_autoencoder(VAE)
    names = {name.split(".")[0] for name in autoencoder.encoder_weights(vae)}
    assert names == {"encoder", "quant_conv"}

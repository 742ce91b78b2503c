"""What the U-Net should predict and how errors weigh: an ablation of equal cost, in minutes.

    python -m tests.benchmarks.ablation --stages DIR --folder DIR [--steps N] [--seeds N]

--stages: a training folder with a finished corpus, autoencoder and CLIP pair. The same small
network sees the same batches of the same 32 pictures for as many steps with each switch, on one
thread. Each run is resumed where it was stopped; a finished one is not run again. Prints a table
for LOG.md:

* error of x_0 (latents have unit variance) on the training pictures at five noise levels, with the
  moving average;
* drawn with 20 DDIM steps and guidance 2 from one seed a picture: cosine of the judge's features
  with the picture that was asked for, and how often it is nearest to that one of all 32.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from studio.diffusion.schedule import add_noise, predicted_original_and_noise
from studio.training.dataset import corpus as corpora
from studio.training.loop import LoopConfig, optimize
from studio.training.made_with import MadeWith
from studio.training.stages.autoencoder import decode, encode
from studio.training.stages.judge import features, load_network
from studio.training.stages.pretrain import (
    Cache,
    Frame,
    UnetConfig,
    build_unet,
    encode_captions,
    load_encoders,
    scheduler_settings,
    step_loss,
    training_schedule,
)

SUBJECTS, STYLES = 16, ("3d render", "flat illustration")
LEVELS = (100, 300, 500, 700, 900)  # timesteps
SMALL = UnetConfig(
    channels=(32, 64, 96),
    frames=(Frame(128, 128, 1.0, 0),),
    batch_size=32,
    captions_per_picture=1,
    loop=LoopConfig(steps=400, learning_rate=1e-3, warmup=40, ema_decay=0.99, checkpoint_every=100),
)
SWITCHES: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "epsilon (Ho et al.)": {"prediction_type": "epsilon"},
        "epsilon, min-SNR 5": {"prediction_type": "epsilon", "min_snr_gamma": 5.0},
        "v, plain": {"snr_cap": math.inf},
        "v, SNR + 1 capped at 5": {},
        "v, min-SNR 5": {"min_snr_gamma": 5.0},
        "v, capped, zero-terminal SNR": {"zero_terminal_snr": True},
    }
)


def main(stages: Path, folder: Path, steps: int = 400, seeds: int = 1) -> list[dict]:
    """Run what is not finished yet; return all results and write `table.md`."""
    torch.set_num_threads(1)
    vae, tokenizer, text = load_encoders(stages)
    corpus = corpora.load(stages / "corpus")
    wanted = frozenset(corpora.starter_subjects()[:: 252 // SUBJECTS][:SUBJECTS])
    rows = corpus.rows(wanted, STYLES)
    entries = [corpus.entries[row] for row in rows]
    pictures = np.asarray(corpus.pictures[rows])
    captions = ["", *(f"{e.subject}, {e.style}" for e in entries)]
    cache = Cache(
        (encode(vae, pictures),),
        (torch.arange(1, len(captions))[:, None],),
        (np.full(len(rows), 1 / len(rows)),),
        encode_captions(tokenizer, text, captions),
    )
    real = features(load_network(), pictures)
    results = []
    for name, switch in SWITCHES.items():
        for seed in range(seeds):
            loop = replace(SMALL.loop, steps=steps, seed=seed)
            config = replace(SMALL, **switch, loop=loop)
            place = folder / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            results.append(run(name, config, cache, (vae, real), place))
            (folder / "table.md").write_text(table(results), encoding="utf-8")
    return results


def run(
    name: str,
    config: UnetConfig,
    cache: Cache,
    judged: tuple[AutoencoderKL, torch.Tensor],
    place: Path,
) -> dict:
    """Train one network with its switch, or find it finished; return its figures."""
    finished = place / "result.json"
    if finished.exists():
        return json.loads(finished.read_text(encoding="utf-8"))
    torch.manual_seed(config.loop.seed)
    unet, alphas, begun = build_unet(config), training_schedule(config), time.process_time()
    for event in optimize(
        "ablation", unet, lambda s: step_loss(unet, cache, config, alphas, s), config.loop, place,
        made_with=MadeWith.of(name, config, {}),
    ):  # fmt: skip
        sys.stderr.write(f"{name}: {event}\n")
    spent = time.process_time() - begun
    drawn = features(load_network(), decode(judged[0], sample(unet, config, cache)))
    similar = drawn @ judged[1].T
    own = similar.argmax(dim=1) == torch.arange(len(similar))
    result = {
        "name": name,
        "seed": config.loop.seed,
        "steps": config.loop.steps,
        "cpu_seconds": spent,  # of this process; less when it was resumed
        "x0_error": errors(unet, config, cache),
        "cosine": float(similar.diagonal().mean()),
        "first": float(own.float().mean()),
    }
    finished.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


@torch.inference_mode()
def errors(unet: UNet2DConditionModel, config: UnetConfig, cache: Cache) -> list[float]:
    """Mean squared error of x_0 on all pictures at each of LEVELS, with fixed noise."""
    [latents], [captions] = cache.latents, cache.captions
    chance = torch.Generator().manual_seed(1)
    found = []
    for t in LEVELS:
        noise = torch.randn(latents.shape, generator=chance)
        alpha = training_schedule(config)[t].reshape(1, 1, 1, 1)
        noisy = add_noise(latents, noise, alpha)
        output = unet(noisy, t, cache.features[captions[:, 0]].float()).sample
        x0, _ = predicted_original_and_noise(output, noisy, alpha, config.prediction_type)
        found.append(float((x0 - latents).square().mean()))
    return found


@torch.inference_mode()
def sample(unet: UNet2DConditionModel, config: UnetConfig, cache: Cache) -> torch.Tensor:
    """Draw every caption once: latents (N, 4, h, w)."""
    scheduler = DDIMScheduler(**scheduler_settings(config))
    scheduler.set_timesteps(20)
    text = cache.features[cache.captions[0][:, 0]].float()
    null = cache.features[:1].float().expand_as(text)
    latents = torch.randn(cache.latents[0].shape, generator=torch.Generator().manual_seed(2))
    for t in scheduler.timesteps:
        output = unet(torch.cat([latents] * 2), t, torch.cat([null, text])).sample
        uncond, cond = output.chunk(2)
        latents = scheduler.step(uncond + 2 * (cond - uncond), t, latents).prev_sample
    return latents


def table(results: Sequence[dict]) -> str:
    """Return the results as Markdown, one line a run."""
    head = " | ".join(f"t = {t}" for t in LEVELS)
    return "\n".join(
        (
            f"| | seed | {head} | cosine | its own first |",
            "|---" * (len(LEVELS) + 4) + "|",
            *(
                f"| {r['name']} | {r['seed']} | {' | '.join(f'{e:.3f}' for e in r['x0_error'])} "
                f"| {r['cosine']:.3f} | {r['first']:.0%} |"
                for r in results
            ),
            "",
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stages", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    main(chosen.stages, chosen.folder, chosen.steps, chosen.seeds)
    print((chosen.folder / "table.md").read_text(encoding="utf-8"))

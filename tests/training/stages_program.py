"""Trains the three stages of the recipe at a tiny size, alone or as one of several processes.

    python tests/training/stages_program.py FOLDER
    accelerate launch --multi_gpu --num_processes 2 tests/training/stages_program.py FOLDER

FOLDER holds a corpus already; each stage leaves its log and its weights there.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from studio.training.dataset import corpus
from studio.training.dataset.words import WORDS, load_words
from studio.training.hardware import find_hardware
from studio.training.loop import LoopConfig
from studio.training.stages import autoencoder, clip, pretrain, towers

LOOP = LoopConfig(
    steps=4, learning_rate=1e-3, warmup=1, checkpoint_every=4, report_every=1, ema_decay=0.5
)
VAE = autoencoder.AutoencoderConfig(
    channels=(4, 4, 8, 8), norm_num_groups=2, batch_size=3, bf16=False, scenes=4, loop=LOOP,
    adversarial_weight=0.8, adversarial_from=2,
)  # fmt: skip
CLIP = towers.ClipConfig(
    width=32, layers=1, heads=2, projection=16, vocabulary=620, patch=32, batch_size=4, scenes=4,
    words=8, checked=40, loop=LOOP,
)  # fmt: skip
FRAMES = tuple(replace(frame, scenes=4) for frame in pretrain.FRAMES)
UNET = pretrain.UnetConfig(
    channels=(32, 32, 32), heads=2, text_width=32, batch_size=3, frames=FRAMES, loop=LOOP
)


def main(folder: Path) -> None:
    """Train; a batch of three cannot be parted evenly."""
    torch.set_num_threads(1)
    hardware = find_hardware("cpu")
    pictures = corpus.load(folder / "corpus")
    words = load_words(folder / "corpus" / WORDS)
    stages = (
        autoencoder.train(pictures, VAE, folder / "autoencoder", hardware),
        clip.train(pictures, words, CLIP, folder / "clip", hardware),
        pretrain.train(pictures, UNET, folder, hardware),
    )
    told = sum(1 for events in stages for _ in events)
    (folder / f"told-{hardware.team.number}-of-{hardware.team.count}").write_text(str(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Trains the three stages of the recipe at a tiny size, alone or as one of several processes.

    python tests/training/stages_program.py FOLDER
    accelerate launch --multi_gpu --num_processes 2 tests/training/stages_program.py FOLDER

FOLDER holds a corpus already; each stage leaves its log and its weights there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from studio.training import autoencoder, clip, corpus, pretrain
from studio.training.hardware import find_hardware
from studio.training.loop import LoopConfig

LOOP = LoopConfig(
    steps=4, learning_rate=1e-3, warmup=1, checkpoint_every=4, report_every=1, ema_decay=0.5
)
VAE = autoencoder.AutoencoderConfig(
    channels=(4, 4, 8, 8), norm_num_groups=2, batch_size=3, bf16=False, loop=LOOP
)
CLIP = clip.ClipConfig(
    width=32, layers=1, heads=2, projection=16, vocabulary=620, patch=32, batch_size=4, loop=LOOP
)
UNET = pretrain.UnetConfig(channels=(32, 32, 32), heads=2, text_width=32, batch_size=3, loop=LOOP)


def main(folder: Path) -> None:
    """Train; a batch of three cannot be parted evenly."""
    torch.set_num_threads(1)
    hardware = find_hardware("cpu")
    pictures = corpus.load(folder / "corpus")
    stages = (
        autoencoder.train(pictures, VAE, folder / "autoencoder", hardware),
        clip.train(pictures, CLIP, folder / "clip", hardware),
        pretrain.train(pictures, UNET, folder, hardware),
    )
    told = sum(1 for events in stages for _ in events)
    (folder / f"told-{hardware.team.number}-of-{hardware.team.count}").write_text(str(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

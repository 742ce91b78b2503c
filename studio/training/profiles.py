"""Sizes of all stages for a machine: what `train --profile NAME` uses.

`cpu` made the shipped starter model in hours on two cores. `h200` is the same recipe at twice the
side and about four times the parameters, for a budget of an hour on one large GPU:

    python launch.py train all --profile h200 --budget 60m --compile
    accelerate launch --num_processes 8 launch.py train all --profile h200 --budget 60m --compile
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from studio.training.autoencoder import AutoencoderConfig
from studio.training.clip import ClipConfig
from studio.training.corpus import CorpusConfig
from studio.training.loop import LoopConfig
from studio.training.pretrain import Frame, UnetConfig

CPU = "cpu"


@dataclass(frozen=True)
class Profile:
    """The configuration of every stage."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)


H200 = Profile(
    corpus=CorpusConfig(size=256),
    autoencoder=AutoencoderConfig(
        channels=(32, 64, 96, 128),
        picture_size=256,
        batch_size=64,
        kl_weight=1.25e-5,  # four times as many latents a picture as at 128 pixels
        loop=LoopConfig(steps=20_000, learning_rate=8e-4, checkpoint_every=2000, report_every=50),
    ),
    clip=ClipConfig(
        picture_size=256,
        patch=32,
        batch_size=512,
        loop=LoopConfig(
            steps=4000,
            learning_rate=8e-4,
            weight_decay=0.05,
            checkpoint_every=1000,
            report_every=50,
        ),
    ),
    unet=UnetConfig(
        channels=(96, 192, 320),
        layers_per_block=2,
        heads=8,
        batch_size=256,
        frames=(
            Frame(256, 256, 0.8),
            Frame(352, 192, 0.12, (("on the left", 0.08), ("", 0.5), ("on the right", 0.92))),
            Frame(192, 352, 0.08, (("", 0.5),)),
        ),
        captions_per_picture=4,
        loop=LoopConfig(
            steps=60_000,
            learning_rate=4e-4,
            warmup=500,
            ema_decay=0.9995,
            checkpoint_every=5000,
            report_every=50,
        ),
    ),
)
PROFILES: Mapping[str, Profile] = MappingProxyType({CPU: Profile(), "h200": H200})

"""Sizes of all stages for a machine: what `train --profile NAME` uses.

`cpu` is the shipped starter model's, which was made in hours on two cores, though in several goes
of more steps than these (its card tells them). `h200` is the same recipe at twice the side and
about four times the parameters, on the whole corpus, for a budget of an hour on one large GPU.
`--rehearse` runs either through every stage at a tiny size first:

    python launch.py train all --profile h200 --rehearse
    python launch.py train all --profile h200 --budget 60m --compile
    accelerate launch --num_processes 8 launch.py train all --profile h200 --budget 60m --compile
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from studio.training.dataset.corpus import CorpusConfig
from studio.training.loop import LoopConfig
from studio.training.stages.autoencoder import AutoencoderConfig
from studio.training.stages.evaluation import EvaluationConfig
from studio.training.stages.judge import JudgeConfig
from studio.training.stages.pretrain import Frame, UnetConfig
from studio.training.stages.towers import ClipConfig

CPU = "cpu"


@dataclass(frozen=True)
class Profile:
    """The configuration of every stage."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    unet: UnetConfig = field(default_factory=UnetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


H200 = Profile(
    corpus=CorpusConfig(size=256),
    autoencoder=AutoencoderConfig(
        channels=(32, 64, 96, 128),
        picture_size=256,
        batch_size=64,
        kl_weight=1.25e-5,  # four times as many latents a picture as at 128 pixels
        perceptual_weight=0.5,
        everything=True,
        scenes=6000,
        loop=LoopConfig(steps=20_000, learning_rate=8e-4, checkpoint_every=2000, report_every=50),
    ),
    clip=ClipConfig(
        picture_size=256,
        patch=32,
        batch_size=512,
        vocabulary=10_000,
        scenes=12_000,
        words=512,
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
            Frame(256, 256, 0.76, 16_000),
            Frame(352, 192, 0.14, 12_000),
            Frame(192, 352, 0.1, 8000),
        ),
        everything=True,
        monochrome_share=0.35,
        scene_share=0.25,
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


def rehearsal(profile: Profile) -> Profile:
    """Return the same recipe at a size that two cores finish in a minute: it shows that all fits.

    Every stage, style, frame and switch of the profile is there; networks, pictures and steps are
    few and small. What it draws is noise.
    """

    def few(loop: LoopConfig) -> LoopConfig:
        return replace(loop, steps=4, warmup=1, checkpoint_every=2, report_every=1)

    frames = tuple(
        Frame(width, height, frame.share, 8)
        for frame, (width, height) in zip(
            profile.unet.frames, ((64, 64), (96, 64), (64, 96)), strict=True
        )
    )
    return Profile(
        corpus=replace(profile.corpus, size=64, limit=150),
        autoencoder=replace(
            profile.autoencoder,
            channels=(8, 8, 16, 16),
            picture_size=64,
            batch_size=8,
            scenes=8,
            loop=few(profile.autoencoder.loop),
        ),
        clip=replace(
            profile.clip,
            width=32,
            layers=1,
            heads=2,
            picture_size=64,
            patch=32,
            batch_size=8,
            scenes=8,
            words=16,
            checked=40,
            vocabulary=1000,
            loop=few(profile.clip.loop),
        ),
        unet=replace(
            profile.unet,
            channels=(32, 32, 32),
            layers_per_block=1,
            heads=2,
            text_width=32,
            frames=frames,
            batch_size=4,
            loop=few(profile.unet.loop),
        ),
        evaluation=EvaluationConfig(
            pictures=2, subjects=1, reconstructions=8, judge=JudgeConfig(steps=2)
        ),
    )


PROFILES: Mapping[str, Profile] = MappingProxyType({CPU: Profile(), "h200": H200})

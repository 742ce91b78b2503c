"""What a running job tells its readers (page, command line, tests).

A job is a generator of these; the worker passes them on. All are plain, frozen and free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.core.picture import Picture


@dataclass(frozen=True)
class ModelLoading:
    """The shelf is reading a model; nothing is drawn yet."""

    model: str


@dataclass(frozen=True)
class Progress:
    """One step of `steps` over the whole job is done."""

    step: int
    steps: int
    seconds_left: float | None  # None until it can be estimated


@dataclass(frozen=True)
class Preview:
    """A rough look at picture `index` while it grows out of noise."""

    index: int
    jpeg: bytes  # at most 512 pixels a side


@dataclass(frozen=True)
class PictureDone:
    """A picture is on disk and in the store."""

    picture: Picture


@dataclass(frozen=True)
class Notice:
    """A sentence that the artist should read; the job goes on."""

    sentence: str


@dataclass(frozen=True)
class StageProgress:
    """One step of a training stage, with what was measured."""

    stage: str  # 'corpus', 'autoencoder', 'clip', 'unet', ...
    step: int
    steps: int
    seconds_left: float | None
    metrics: dict[str, float] = field(default_factory=dict)  # name -> value, e.g. 'loss'


@dataclass(frozen=True)
class StageArtifact:
    """A training stage wrote a file that is worth looking at (a sample sheet, a checkpoint)."""

    stage: str
    path: str


@dataclass(frozen=True)
class EpochDone:
    """An epoch of fine-tuning is committed; it will not be computed again."""

    epoch: int  # from 1
    epochs: int  # that are planned; 0 while that is not known
    images: int  # sampled in this epoch
    reward_mean: float  # of those pictures
    reward_held_out: float  # of pictures at fixed seeds, of prompts that are not trained on
    kl: float  # from the base, nats a step
    clip_fraction: float  # share of (picture, step) pairs outside the trust region
    diversity: float  # mean distance between the held-out pictures
    seconds: float  # that were computed, pauses not counted
    probes: dict[str, float] = field(default_factory=dict)  # of the held-out pictures, by name


Event = (
    ModelLoading
    | Progress
    | Preview
    | PictureDone
    | Notice
    | StageProgress
    | StageArtifact
    | EpochDone
)

"""A run of fine-tuning as its artist planned it, and as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

RunState = Literal[
    "running", "paused", "interrupted", "failed", "trained", "kept", "discarded"
]  # 'trained' waits for its verdict
RUN_STATES: tuple[RunState, ...] = get_args(RunState)
UNFINISHED = frozenset(("paused", "interrupted", "failed"))  # these can go on
JUDGED = frozenset(("trained", "kept", "discarded"))  # these have a result


@dataclass(frozen=True)
class RunPlan:
    """What an artist asked for; decided once, so that a resumed run is the same run."""

    name: str
    prompts: tuple[str, ...]  # trained on
    held_out: tuple[str, ...]  # looked at only: the film strip, the verdict
    campaign: str = ""  # id of the campaign whose votes teach; empty: all votes
    reward: str = ""  # a known reward; empty: the taste learned from votes
    model: str = "starter"
    model_hash: str = ""  # of the base, when the run was planned
    minutes: float = 0.0  # of computing; 0: no limit
    epochs: int = 0  # 0: as many as the minutes allow
    seed: int = 0
    start: str = ""  # sha256 of the adapter to go on from; empty: the base alone
    start_strength: float = 1.0  # of that adapter, as it was kept
    settings: Mapping[str, Any] = field(default_factory=dict)  # knobs by name


@dataclass(frozen=True)
class Kept:
    """What an artist kept of a run."""

    name: str  # on the adapter shelf
    sha256: str
    strength: float  # at which it is used unless told otherwise
    epoch: int


@dataclass(frozen=True)
class Run:
    """One run as it stands in the store."""

    id: str
    plan: RunPlan
    state: RunState
    created_at: float  # seconds since 1970
    sentence: str = ""  # why it is in this state, where there is something to say
    epochs: int = 0  # planned; 0 until minutes were turned into epochs
    about: Mapping[str, Any] = field(default_factory=dict)  # its origin
    kept: Kept | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.plan.name


@dataclass(frozen=True)
class RunEpoch:
    """What was measured after an epoch; epoch 0 is the base."""

    epoch: int
    figures: Mapping[str, Any]  # reward_mean, reward_held_out, kl, clip_fraction, probes, ...
    picture: str = ""  # file of the film strip, relative to the data folder


@dataclass(frozen=True)
class Verdict:
    """A blind comparison of the base with an epoch's adapter."""

    number: int
    run: str
    epoch: int
    campaign: str  # id of the campaign that asks its pairs
    sha256: str  # of the adapter
    label: str  # the tuned contestant's, in the campaign
    by_reward: Mapping[str, float] = field(default_factory=dict)

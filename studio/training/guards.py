"""When a run has gone far enough: a budget of divergence, and probes that must not drift.

A reward is a stand-in for taste. Past some point it still rises and the pictures get worse (Gao et
al. 2022, scaling laws for reward model overoptimization), so a run ends there, with the last epoch
that was still well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from studio.training.probes import DIVERSITY, FIDELITY

_LOOKS = ("brightness", "saturation", "sharpness")  # may change a lot: that may be the taste


@dataclass(frozen=True)
class GuardConfig:
    """How far a run may go from its base."""

    kl_budget: float = 60.0  # nats a step, on average over the trained steps; at 1,024 dimensions
    # of a latent a learned reward rises beyond it and the taste behind it does not (see LOG.md)
    diversity_drop: float = 0.15  # share of the base's diversity
    fidelity_drop: float = 0.15  # share of the base's prompt fidelity
    look_factor: float = 2.0  # brightness, saturation, sharpness: times or divided by; learned only
    reach: float = 2.0  # learned only: how far held-out pictures may rise, in standard deviations
    # between the first pictures of one prompt; votes compared none that lie much further apart
    likeness: float = 0.974  # learned only: how like the base's a result's pictures stay, see
    # probes.py; subjects fade below it (measured). A result is weakened until they are; 0: never
    patience: int = 4  # epochs in which training rewards may rise while held-out ones fall


@dataclass(frozen=True)
class EpochFigures:
    """What the guards look at after an epoch."""

    kl: float
    reward_mean: float
    reward_held_out: float
    probes: Mapping[str, float]
    spread: float = 0.0  # standard deviation of held-out rewards between pictures of one prompt


def why_to_stop(
    epochs: Sequence[EpochFigures],
    base: EpochFigures,
    config: GuardConfig,
    *,
    learned: bool,
    start: EpochFigures | None = None,
) -> str:
    """Return the reason to stop after the last of `epochs` in a sentence; empty to go on.

    What the pictures may lose is counted from the base, however many rounds ago that was. How far
    the reward may rise is counted from the `start` of this round, since its votes are about that.
    """
    now, start = epochs[-1], start or base
    if now.kl > config.kl_budget:
        return (
            f"Stopped: the model moved {now.kl:.0f} nats a step away from its base, and the budget "
            f"is {config.kl_budget:.0f}."
        )
    return (
        _drop(DIVERSITY, "the pictures became alike", now, base, config.diversity_drop)
        or _drop(FIDELITY, "the pictures left their prompts", now, base, config.fidelity_drop)
        or (_look(now, base, config.look_factor) if learned else "")
        or (_beyond(now, start, config.reach * start.spread) if learned else "")
        or _hacked(epochs, start, config.patience)
    )


def _drop(name: str, words: str, now: EpochFigures, base: EpochFigures, allowed: float) -> str:
    before, after = base.probes.get(name, 0.0), now.probes.get(name, 0.0)
    if before <= 0 or after >= before * (1 - allowed):
        return ""
    share = 1 - after / before
    return f"Stopped: {words} ({name.replace('_', ' ')} fell by {share:.0%})."


def _look(now: EpochFigures, base: EpochFigures, factor: float) -> str:
    for name in _LOOKS:
        before, after = base.probes.get(name, 0.0), now.probes.get(name, 0.0)
        if before > 0 and not before / factor <= after <= before * factor:
            return (
                f"Stopped: the pictures' {name} went from {before:.3f} to {after:.3f}, which no "
                "vote asked for so strongly."
            )
    return ""


def _beyond(now: EpochFigures, start: EpochFigures, reach: float) -> str:
    """A learned reward is a guess beyond the pictures that were compared; 0 is no limit."""
    if reach <= 0 or now.reward_held_out - start.reward_held_out <= reach:
        return ""
    return (
        "Stopped: the votes compared no pictures that differ as much as these now do from "
        "those that it began with. Rate the new pictures, and go on from there."
    )


def _hacked(epochs: Sequence[EpochFigures], start: EpochFigures, patience: int) -> str:
    """Training rewards above those before, held-out ones below the start's, all the while."""
    if len(epochs) < 2 * patience:
        return ""
    recent, earlier = epochs[-patience:], epochs[-2 * patience : -patience]
    rises = _mean(recent) > _mean(earlier)
    falls = all(epoch.reward_held_out < start.reward_held_out for epoch in recent)
    if not (rises and falls):
        return ""
    return (
        f"Stopped: for {patience} epochs the reward rose on the prompts of the training and was "
        "below where it began on the held-out ones."
    )


def _mean(epochs: Sequence[EpochFigures]) -> float:
    return sum(epoch.reward_mean for epoch in epochs) / len(epochs)

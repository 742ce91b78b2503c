"""A run as its artist sees it: how it is doing in words, and single pictures of its film strip."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from studio.core.errors import NotFoundError
from studio.core.run import JUDGED, Run, RunEpoch
from studio.services.run_plan import KNOBS
from studio.store.files import open_picture

COLUMNS = 6  # pictures in a row of a film strip, as `training/run_folder.py` lays it out
LOOK_SEEDS = 2  # pictures of each prompt on it
NEAR = 0.5  # share of what is allowed from which a drift is worth a word
_DEFAULTS = tuple((knob.name, knob.default) for knob in KNOBS)


def health(run: Run, epochs: Sequence[RunEpoch]) -> str:
    """Say how a run is doing, in a sentence."""
    if run.sentence and run.state != "running":
        return run.sentence
    done = [epoch for epoch in epochs if epoch.epoch]
    if not done:
        return "Getting ready: the base is looked at first." if run.state == "running" else ""
    base, now = epochs[0], done[-1]
    if run.state in JUDGED:
        return _came_to(base, done)
    return _drift(run, base, now) or _learning(base, now, len(done))


def _drift(run: Run, base: RunEpoch, now: RunEpoch) -> str:
    """Say what comes near its limit; empty while nothing does."""
    limits = dict(_DEFAULTS) | dict(run.plan.settings)
    before, after = (_probe(epoch, "diversity") for epoch in (base, now))
    allowed = float(limits["diversity_drop"])
    lost = 1 - after / before if before > 0 else 0.0
    if lost > NEAR * allowed:
        return f"Drifting: diversity fell {lost:.0%}; it stops at {allowed:.0%}.".replace("%", " %")
    budget, kl = float(limits["kl_budget"]), float(now.figures.get("kl", 0.0))
    if kl > (1 - NEAR / 2) * budget:
        return f"Far from its base: {kl:.0f} of at most {budget:.0f} nats a step."
    return ""


def _came_to(base: RunEpoch, done: Sequence[RunEpoch]) -> str:
    """Say how long it took, which epoch is the result, and what it is worth."""
    best = max(done, key=lambda row: (float(row.figures.get("reward_held_out", 0.0)), row.epoch))
    chosen = ""
    if best is not done[-1]:
        chosen = f" Epoch {best.epoch} drew the held-out prompts best and is the result."
    epochs = "epoch" if len(done) == 1 else "epochs"
    return f"Done after {len(done)} {epochs}.{chosen} {_rise(base, best)}"


def _rise(base: RunEpoch, now: RunEpoch) -> str:
    first, last = (float(epoch.figures.get("reward_held_out", 0.0)) for epoch in (base, now))
    verb = "rose" if last > first else "did not rise"
    return f"On held-out prompts the reward {verb}: {first:.2f} before, {last:.2f} after."


def _learning(base: RunEpoch, now: RunEpoch, epochs: int) -> str:
    first, last = (float(epoch.figures.get("reward_held_out", 0.0)) for epoch in (base, now))
    if last > first:
        return f"Learning: on held-out prompts the reward rose from {first:.2f} to {last:.2f}."
    if epochs < 3:
        return "Training; a few epochs will tell."
    return (
        f"No gain on held-out prompts yet ({first:.2f} at the start, {last:.2f} now). More votes, "
        "or more minutes, may help."
    )


def _probe(epoch: RunEpoch, name: str) -> float:
    return float(epoch.figures.get("probes", {}).get(name, 0.0))


def strip_picture(sheet: Path, prompts: int, prompt: int, seed: int = 0) -> bytes:
    """Return one picture of a film strip of so many prompts as PNG: a prompt's, from 0.

    Raises NotFoundError when the strip is not there or has no such picture.
    """
    if not sheet.is_file() or not 0 <= prompt < prompts or not 0 <= seed < LOOK_SEEDS:
        raise NotFoundError("This picture of the film strip is not there (any more).")
    image = open_picture(sheet)
    rows = -(-prompts * LOOK_SEEDS // COLUMNS)
    width, height = image.width // COLUMNS, image.height // rows
    row, column = divmod(prompt * LOOK_SEEDS + seed, COLUMNS)
    cut = image.crop((column * width, row * height, (column + 1) * width, (row + 1) * height))
    stream = io.BytesIO()
    cut.save(stream, "PNG")
    return stream.getvalue()

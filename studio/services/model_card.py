"""What goes along with a tuned adapter: a model card, and everything as one archive."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from studio.core.run import Run, RunEpoch
from studio.services.adapter_shelf import AdapterEntry
from studio.services.run_plan import REWARDS
from studio.services.verdict import Outcome

ADAPTERS = ("adapter.safetensors", "adapter.kohya.safetensors")
CARD = "README.md"  # what model sites show first
SHOWN_PROMPTS = 12


def model_card(
    run: Run,
    adapter: AdapterEntry,
    epochs: Sequence[RunEpoch],
    by_votes: Outcome | None,
    by_reward: Outcome | None,
) -> str:
    """Return the card in Markdown: what it is, where it comes from, what was measured."""
    told = adapter.lineage
    parts = [
        f"# {run.name}",
        _intended(run, told.get("epoch", "")),
        "## Where it comes from",
        _table(_origin(run, adapter)),
        "## What was measured",
        _measured(epochs, int(told.get("epoch", 0)), by_votes, by_reward),
        "## Prompts",
        _prompts(run),
        "## Settings",
        f"```json\n{json.dumps(told.get('config', {}), indent=1, sort_keys=True)}\n```",
        "## How to use it",
        _use(run),
    ]
    return "\n\n".join(parts) + "\n"


def archive(card: str, adapter: AdapterEntry, run_folder: Path, name: str) -> bytes:
    """Return a zip of the adapter in both namings, its card, the figures and two film strips.

    The strips are the base's and that of the adapter's own epoch.
    """
    files = {CARD: card.encode()}
    folder = adapter.path.parent
    for file in ADAPTERS:
        if (folder / file).is_file():
            files[file] = (folder / file).read_bytes()
    log = run_folder / "metrics.jsonl"
    if log.is_file():
        files["metrics.jsonl"] = log.read_bytes()
    for title, epoch in (("base.png", 0), ("tuned.png", int(adapter.lineage.get("epoch", 0)))):
        strip = run_folder / "pictures" / f"epoch-{epoch:04d}.png"
        if strip.is_file():
            files[title] = strip.read_bytes()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file, content in files.items():
            zipped.writestr(f"{name}/{file}", content)
    return stream.getvalue()


def _intended(run: Run, epoch: object) -> str:
    towards = (
        f"the measure “{REWARDS.get(run.plan.reward, run.plan.reward)}”"
        if run.plan.reward
        else "the taste in one artist's votes"
    )
    when = datetime.fromtimestamp(run.created_at, UTC).date().isoformat()
    return (
        f"A LoRA on the U-Net of `{run.plan.model}`, fine-tuned by Easel on {when} towards "
        f"{towards}; the adapter of epoch {epoch}. It knows nothing that its base does not know."
    )


def _origin(run: Run, adapter: AdapterEntry) -> list[tuple[str, object]]:
    told = adapter.lineage
    rows = [
        ("Base model", run.plan.model),
        ("Base, sha256", told.get("base_sha256", "")),
        ("Adapter, sha256", adapter.sha256),
        ("Reward", told.get("reward", "")),
        ("Reward, identity", told.get("reward_identity", "")),
        ("Votes", told.get("votes", "")),
        ("Votes, sha256", told.get("votes_sha256", "")),
        ("Reward, sha256", told.get("reward_sha256", "")),
        ("Begun from adapter, sha256", run.plan.start),
        ("Share of the epoch's strength", _strength(told)),
        ("Seed", run.plan.seed),
    ]
    agreement = run.about.get("agreement")
    if agreement:
        share = f"{agreement['value']:.0%} ({agreement['low']:.0%} to {agreement['high']:.0%})"
        rows.append(("Unseen votes predicted", share))
    return [(name, value) for name, value in rows if value != ""]


def _strength(told: Mapping[str, Any]) -> str:
    """What part of the epoch's change the file holds, where it is not all of it."""
    strength = told.get("strength", 1.0)
    return "" if strength == 1 else f"{strength:g}; tuned.png and the figures show all of it"


def _table(rows: Sequence[tuple[str, object]]) -> str:
    lines = [f"| {name} | `{_cell(value)}` |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: object) -> str:
    return str(value).replace("|", "/").replace("`", "'").replace("\n", " ")


def _measured(
    epochs: Sequence[RunEpoch],
    last_epoch: int,
    by_votes: Outcome | None,
    by_reward: Outcome | None,
) -> str:
    lines = []
    if by_votes is not None and by_votes.pairs:
        lines.append(f"* Blind pairs against the base, by votes: {by_votes.sentence}")
    if by_reward is not None:
        lines.append(f"* The same pairs, by the reward: {by_reward.sentence}")
    done = [row.figures for row in epochs if 0 < row.epoch <= last_epoch]
    if done:
        first, last = epochs[0].figures, done[-1]
        lines.append(
            f"* Reward on held-out prompts: {first.get('reward_held_out', 0):.3f} before, "
            f"{last['reward_held_out']:.3f} after epoch {last_epoch}"
        )
        lines.append(f"* Distance from the base: {last['kl']:.1f} nats a step")
        before, after = (f.get("probes", {}).get("diversity", 0) for f in (first, last))
        lines.append(f"* Diversity: {before:.3f} before, {after:.3f} after")
    return "\n".join(lines) or "Nothing yet."


def _prompts(run: Run) -> str:
    shown = [f"* {_cell(prompt)}" for prompt in run.plan.prompts[:SHOWN_PROMPTS]]
    more = len(run.plan.prompts) - len(shown)
    return "\n".join([*shown, f"* and {more:,} more"] if more > 0 else shown)


def _use(run: Run) -> str:
    return (
        "In Easel: pick it under *Adapter* in the header. In diffusers:\n\n"
        "```python\n"
        'pipe.load_lora_weights(".", weight_name="adapter.safetensors")\n'
        "```\n\n"
        f"Programs that read kohya's names (AUTOMATIC1111, ComfyUI): `{ADAPTERS[1]}`, with "
        f"`{_cell(run.plan.model)}` as the base."
    )

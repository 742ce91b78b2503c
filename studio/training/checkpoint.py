"""Checkpoints that survive a kill: written beside, synced, then renamed.

    <stage>/checkpoint-00001200/
        weights.safetensors, ema.safetensors, optimizer.safetensors
        state.json          step, config
        MANIFEST.json       SHA-256 of every file

`latest` verifies the sums and falls back to the checkpoint before when the last is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.core.errors import DiskFullError, TrainingError

KEEP = 2  # checkpoints on disk


@dataclass(frozen=True)
class Checkpoint:
    """What `latest` found: named groups of tensors, and the stage's state."""

    step: int
    tensors: Mapping[str, dict[str, Tensor]]
    state: Mapping[str, Any]


def save(
    folder: Path, step: int, tensors: Mapping[str, dict[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint in one piece or not at all; return its folder.

    Raises `DiskFullError` when the disk is full or cannot be written to; the checkpoints before it
    are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"checkpoint-{step:08d}"
    partial = folder / f"{final.name}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        for name, group in tensors.items():
            contiguous = {k: v.detach().cpu().contiguous() for k, v in group.items()}
            save_file(contiguous, partial / f"{name}.safetensors")
        _write(partial / "state.json", json.dumps({**state, "step": step}, indent=1))
        sums = {p.name: _sha256(p) for p in sorted(partial.iterdir())}
        _write(partial / "MANIFEST.json", json.dumps(sums, indent=1))
        for path in partial.iterdir():
            _sync(path)
        _sync(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise DiskFullError(
            f"The checkpoint at step {step} could not be written ({reason}). Free some disk space "
            "and run the same command again; it goes on from the checkpoint before."
        ) from error
    _prune(folder)
    return final


def latest(folder: Path) -> Checkpoint | None:
    """Read the newest undamaged checkpoint, or None when there is none.

    Raises `TrainingError` when there are checkpoints and all of them are damaged.
    """
    found = _folders(folder)
    for path in reversed(found):
        if _is_whole(path):
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            groups = {f.stem: load_file(f) for f in sorted(path.glob("*.safetensors"))}
            return Checkpoint(int(state["step"]), groups, state)
    if found:
        raise TrainingError(
            f"Every checkpoint in {folder} is damaged. Delete that folder to start the stage anew."
        )
    return None


def newest_sum(folder: Path) -> str:
    """Return the SHA-256 of the newest checkpoint's manifest, '' when there is none."""
    manifests = [path / "MANIFEST.json" for path in _folders(folder)[-1:]]
    return next((_sha256(path) for path in manifests if path.is_file()), "")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimizer's state to named tensors: '<parameter number>.<name>'."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, slots in state.items() for name, value in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `optimizer_tensors` back into an optimizer over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("checkpoint-????????") if p.is_dir())


def _is_whole(path: Path) -> bool:
    manifest = path / "MANIFEST.json"
    if not manifest.exists():
        return False
    try:
        sums = json.loads(manifest.read_text(encoding="utf-8"))
        return bool(sums) and all(_sha256(path / name) == s for name, s in sums.items())
    except (ValueError, AttributeError, OSError):  # not JSON, not an object, a file is missing
        return False


def _prune(folder: Path) -> None:
    abandoned = folder.glob("checkpoint-????????.tmp")  # a killed run was writing them
    for path in (*_folders(folder)[:-KEEP], *abandoned):
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no descriptor for a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

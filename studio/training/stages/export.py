"""What a stage leaves behind, written beside and renamed: whole, or what was there stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError

from studio.core.errors import DiskFullError


@contextmanager
def in_place_of(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target` to write to; at the end of the block it takes its place.

    Raises `DiskFullError` when the disk is full or cannot be written to.
    """
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        with told_when_full(target):
            new.mkdir(parents=True)
            yield new
            _swap(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def told_when_full(target: Path) -> Iterator[None]:
    """Raise `DiskFullError` with a sentence for what goes wrong with writing `target`."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors
        raise DiskFullError(
            f"{target} could not be written ({_reason(error)}). Free some disk space and run the "
            "same command again; what was learned is kept, and what was there before is untouched."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text in one piece. Raises `DiskFullError`."""
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with told_when_full(path):
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG in one piece. Raises `DiskFullError`."""
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with told_when_full(path):
            picture.save(partial, "PNG")
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Say in the system's words what went wrong; `copytree` collects one for each file."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return str(getattr(error, "strerror", None) or error)


def _swap(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; one of the two is there again if the move fails."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)

"""Features of pictures, kept: one small file a picture, named by its sha256.

data/features/<encoder's sha256>/<aa>/<picture's sha256>.npy    (D,) float32
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from studio.core.errors import EaselError
from studio.training.preference.features import BATCH, Encoder, Picture

_SHA256 = re.compile("[0-9a-f]{64}")
Features = dict[str, NDArray[np.float32]]


class FeatureCache:
    """Reads what is on disk, embeds the rest in batches, writes it beside.

    A damaged or half-written file counts as missing. Two processes may work at once: they write the
    same bytes.
    """

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        """`folder` is data/features; the encoder gets a folder of its own in it."""
        self.encoder = encoder
        self._folder = folder / encoder.sha256

    def features(self, names: Iterable[str], read: Callable[[str], Picture]) -> Features:
        """Features (D,) of each picture by its sha256; `read` gives the picture for one.

        A picture that `read` cannot give (it raises `EaselError`) is left out: a vote on a deleted
        picture is kept, but nothing can be learned from it.
        """
        found: Features = {}
        missing: list[str] = []
        for name in dict.fromkeys(names):
            known = self.known(name)
            if known is None:
                missing.append(name)
            else:
                found[name] = known
        for begin in range(0, len(missing), BATCH):
            found |= self._embed(missing[begin : begin + BATCH], read)
        return found

    def known(self, name: str) -> NDArray[np.float32] | None:
        """The features (D,) that are on disk, or None."""
        path = self._path(name)
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fits = values.shape == (self.encoder.width,) and values.dtype == np.float32
        return values if fits and np.isfinite(values).all() else None

    def _embed(self, names: Sequence[str], read: Callable[[str], Picture]) -> Features:
        pictures: dict[str, Picture] = {}
        for name in names:
            try:
                pictures[name] = read(name)
            except EaselError:
                continue
        values = self.encoder.embed(list(pictures.values()))
        found = dict(zip(pictures, values, strict=True))
        for name, features in found.items():
            self._write(name, features)
        return found

    def _write(self, name: str, features: NDArray[np.float32]) -> None:
        """Keep features; a full disk only means that they are made again next time."""
        path = self._path(name)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.save(file, features, allow_pickle=False)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        if not _SHA256.fullmatch(name):
            raise ValueError(f"{name!r} is no sha256")
        return self._folder / name[:2] / f"{name}.npy"

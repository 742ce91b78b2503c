"""Thumbnails: WebP files of at most 256 pixels a side, made once and made again when lost."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from studio.store.files import atomic_write, open_picture

SIDE = 256  # pixels; smaller pictures keep their size


def make_thumbnail(picture: Image.Image | Path, path: Path) -> None:
    """Write the thumbnail of a picture to `path`. Raises `StorageError`."""
    small = open_picture(picture) if isinstance(picture, Path) else picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, format="WEBP", quality=85, method=2)
    atomic_write(path, stream.getvalue())

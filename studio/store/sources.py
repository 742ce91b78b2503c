"""Pictures that edits begin from, and their masks, kept under the hash of their pixels.

A request names its source and mask by that hash, so an equal request always means equal pixels,
wherever the file came from and whatever became of it since.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from PIL import Image

from studio.core.errors import InvalidRequestError, NotFoundError, StorageError
from studio.core.request import MAX_SIDE, MIN_SIDE_OF_EDIT
from studio.store.files import AS_IT_IS, atomic_write, open_picture, storage_error

FOLDER = "sources"  # in the data folder
MAX_SOURCE_SIDE = 2 * MAX_SIDE  # pixels; the largest picture that a second pass makes
UNUSED_FOR = 7 * 86400.0  # seconds after which a picture that nothing names is swept
_HASH = re.compile(r"[0-9a-f]{64}")


class SourceStore:
    """Files sources/{aa}/{sha256}.png in a data folder; may be used from several processes."""

    def __init__(self, data_dir: Path) -> None:
        """Use a data folder; its folder of sources is made with the first one."""
        self._root = data_dir / FOLDER

    def add(self, image: Image.Image) -> str:
        """Keep a picture (RGB or RGBA) or a mask (L) and return the sha256 of its pixels.

        Other modes become the one of these that loses nothing. The same pixels are kept once.
        Raises InvalidRequestError for a size that cannot be edited, StorageError, DiskFullError.
        """
        image = _plain(image)
        if image.mode != "L":
            _check_size(image)
        sha256 = pixel_hash(image)
        if self._is_intact(sha256):
            os.utime(self._file(sha256))  # in use again: younger than any sweep
            return sha256
        stream = io.BytesIO()
        image.save(stream, format="PNG", compress_level=1)  # a click waits for it
        atomic_write(self._file(sha256), stream.getvalue())
        return sha256

    def add_file(self, source: Path | bytes) -> str:
        """Keep an uploaded picture, opened by the guarded loader; a grey one becomes RGB.

        Raises NotFoundError, StorageError for what is no picture, InvalidRequestError for its size.
        """
        image = open_picture(source, AS_IT_IS)
        return self.add(image.convert("RGB") if image.mode == "L" else image)

    def add_mask_file(self, source: Path | bytes) -> str:
        """Keep an uploaded mask as L, white to be repainted.

        A picture with transparency is painted where it is opaque; any other is read by its light.
        """
        return self.add(mask_of(open_picture(source, AS_IT_IS)))

    def image(self, sha256: str) -> Image.Image:
        """Return a picture or mask in the mode in which it was kept.

        Raises NotFoundError when it is gone, StorageError when its pixels are not those any more.
        """
        image = open_picture(self.path(sha256), AS_IT_IS)
        if pixel_hash(image) != sha256:
            raise StorageError(
                f"The source picture {sha256[:12]} was changed on disk and is not used. "
                "Choose the picture once more; that mends it."
            )
        return image

    def size(self, sha256: str) -> tuple[int, int]:
        """Return (width, height) in pixels without decoding. Raises NotFoundError, StorageError."""
        path = self.path(sha256)
        try:
            with Image.open(path, formats=("PNG",)) as image:
                return image.size
        except (OSError, SyntaxError, ValueError) as error:
            raise StorageError(
                f"The source picture {sha256[:12]} is damaged on disk. "
                "Choose the picture once more; that mends it."
            ) from error

    def path(self, sha256: str) -> Path:
        """Return where a picture is. Raises NotFoundError for a hash that is unknown or none."""
        path = self._file(sha256) if _HASH.fullmatch(sha256) else None
        if path is None or path.is_symlink() or not path.is_file():
            raise NotFoundError(
                f"The source picture {sha256[:12]} is not in the data folder (any more). "
                "Choose the picture once more; your settings and your mask are kept."
            )
        return path

    def sweep(self, named: Collection[str], unused_for: float = UNUSED_FOR) -> int:
        """Remove the pictures that nothing in `named` names; returns how many.

        One that was added or added again in the last `unused_for` seconds stays: whoever added it
        may be about to name it. Raises StorageError.
        """
        swept, limit = 0, time.time() - unused_for
        for path in self._root.glob("*/*.png"):
            try:
                if path.stem not in named and path.stat().st_mtime < limit:
                    path.unlink(missing_ok=True)
                    swept += 1
            except FileNotFoundError:  # swept by another process
                continue
            except OSError as error:
                raise storage_error(error, "delete", path) from error
        return swept

    def _is_intact(self, sha256: str) -> bool:
        try:
            self.image(sha256)
        except (NotFoundError, StorageError):
            return False
        return True

    def _file(self, sha256: str) -> Path:
        return self._root / sha256[:2] / f"{sha256}.png"


def pixel_hash(image: Image.Image) -> str:
    """Return the sha256 of a picture's mode, size and pixels: what requests call it by."""
    head = f"{image.mode} {image.width} {image.height}\n".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def hashes_in(text: str) -> set[str]:
    """Return every sha256 that a text names, for instance a form's JSON."""
    return set(_HASH.findall(text))


def mask_of(image: Image.Image) -> Image.Image:
    """Return the mask (L) that a picture means: its alpha if that says anything, else its light."""
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            return alpha
    return image.convert("RGB").convert("L")


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE_OF_EDIT or max(width, height) > MAX_SOURCE_SIDE:
        raise InvalidRequestError(
            "source",
            f"This picture is {width} x {height} pixels; one that is edited has "
            f"{MIN_SIDE_OF_EDIT} to {MAX_SOURCE_SIDE:,} a side. Choose another, or resize it.",
        )

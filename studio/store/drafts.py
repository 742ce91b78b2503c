"""What is being painted: masks and strokes, saved while the brush still moves.

A draft is one PNG under a name that the page chooses. It is replaced whole or not at all, so a
crash costs at most the strokes since the last save.
"""

from __future__ import annotations

import re
from pathlib import Path

from studio.core.errors import NotFoundError, StorageError
from studio.store.files import AS_IT_IS, atomic_write, open_picture, read_bytes, storage_error
from studio.store.sources import hashes_in

FOLDER = "drafts"  # in the data folder
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class DraftStore:
    """Files drafts/{name}.png in a data folder."""

    def __init__(self, data_dir: Path) -> None:
        """Use a data folder; its folder of drafts is made with the first one."""
        self._root = data_dir / FOLDER

    def save(self, name: str, png: bytes) -> None:
        """Replace a draft, durably. What is no whole PNG is refused and the last draft stays.

        Raises NotFoundError for a name that is none, StorageError, DiskFullError.
        """
        path = self._file(name)
        if not png.startswith(_PNG_SIGNATURE):
            raise StorageError("A draft is a PNG; this one was not saved, the last one is kept.")
        open_picture(png, AS_IT_IS)
        atomic_write(path, png)

    def load(self, name: str) -> bytes:
        """Return a draft's PNG. Raises NotFoundError when nothing is kept under that name."""
        path = self._file(name)
        if not path.is_file():
            raise _nothing(name)
        return read_bytes(path)

    def delete(self, name: str) -> None:
        """Forget a draft; one that is not there is forgotten already. Raises StorageError."""
        path = self._file(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, "delete", path) from error

    def named_sources(self) -> set[str]:
        """Return the sources that drafts carry in their names."""
        return {sha256 for path in self._root.glob("*.png") for sha256 in hashes_in(path.stem)}

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise _nothing(name)
        return self._root / f"{name}.png"


def _nothing(name: str) -> NotFoundError:
    return NotFoundError(f"There is no draft '{name[:40]}' (any more); begin a new one.")

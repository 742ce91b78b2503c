"""The pictures that votes are about, by the sha256 of their files, wherever they lie.

A picture of the gallery lies there; an imported one under data/rated; and where several studios
share a server, one that another studio drew is fetched from its database once and then kept here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Collection, Iterable
from pathlib import Path

from PIL import Image
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from studio.core.errors import NotFoundError, StorageError
from studio.core.vote import is_sha256
from studio.store.database import Database
from studio.store.files import atomic_write, open_picture, read_bytes
from studio.store.pictures import PictureStore
from studio.store.tables import SHARED_PICTURES

PART_BYTES = 2**20
MAX_BYTES = 32 * 2**20  # of a picture that is shared or imported


class VotePictures:
    """Finds the files of pictures by their sha256; may be used from several threads."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        gallery: PictureStore,
        *,
        share: bool | None = None,
    ) -> None:
        """Use the database that holds the votes, and this studio's folder and gallery.

        `share` says whether other studios fetch from that database: so it is on a server.
        """
        self._engine = database.engine
        self._writer = database.writer
        self._folder = data_dir / "rated"
        self._gallery = gallery
        self._share = not database.is_sqlite if share is None else share
        self._sizes: dict[str, tuple[int, int]] = {}  # of pictures that are not of the gallery

    def content(self, sha256: str) -> bytes:
        """Return a picture's file as it was voted on.

        Raises `NotFoundError` when it is nowhere, or in the bin of this studio's gallery.
        """
        picture = self._gallery.find(sha256)
        if picture is not None:
            return self._gallery.file(picture).read_bytes()
        if is_sha256(sha256) and not self._gallery.is_in_bin(sha256):
            path = self.path(sha256)
            if path.is_file():
                return path.read_bytes()
            if self._share:
                return self._fetch(sha256)
        raise NotFoundError("This picture is not here any more; go on with the next pair.")

    def sizes(self, hashes: Collection[str]) -> dict[str, tuple[int, int]]:
        """Return width and height in pixels of those of some pictures that `content` would find.

        Cheap: those of the gallery are looked up together, and no file of theirs is read.
        """
        found = {}
        listed = self._gallery.find_all(hashes)
        for sha256 in hashes:
            with contextlib.suppress(NotFoundError):
                picture = listed.get(sha256)
                if picture is None:
                    found[sha256] = self._size_elsewhere(sha256)
                else:
                    self._gallery.file(picture)  # raises when it is gone
                    found[sha256] = (picture.width, picture.height)
        return found

    def _size_elsewhere(self, sha256: str) -> tuple[int, int]:
        if sha256 not in self._sizes or not self.has(sha256):
            with Image.open(io.BytesIO(self.content(sha256))) as image:
                self._sizes[sha256] = image.size
        return self._sizes[sha256]

    def has(self, sha256: str) -> bool:
        """Whether `content` would find a picture, without reading it all."""
        if self._gallery.find(sha256) is not None:
            return True
        if not is_sha256(sha256) or self._gallery.is_in_bin(sha256):
            return False
        return self.path(sha256).is_file() or self._is_shared(sha256)

    def path(self, sha256: str) -> Path:
        """Return where a picture that is not of the gallery lies, or would lie."""
        if not is_sha256(sha256):
            raise NotFoundError("A picture of a vote is named by its sha256.")
        return self._folder / sha256[:2] / sha256

    def add(self, content: bytes) -> str:
        """Keep a picture that is not of the gallery; returns its sha256.

        Raises `StorageError` for what is no picture, or is too large, `DiskFullError`.
        """
        sha256 = check_picture(content)
        if not self.has(sha256):
            atomic_write(self.path(sha256), content)
        self.share([sha256])
        return sha256

    def share(self, pictures: Iterable[str]) -> None:
        """Hand pictures to every studio of a server; does nothing on SQLite.

        Raises `NotFoundError`, `StorageError`.
        """
        if not self._share:
            return
        for sha256 in pictures:
            if not self._is_shared(sha256):
                self._hand_out(sha256, self.content(sha256))

    def _hand_out(self, sha256: str, content: bytes) -> None:
        if len(content) > MAX_BYTES:
            raise _too_large()
        starts = range(0, len(content), PART_BYTES)
        rows = [
            {
                "sha256": sha256,
                "part": part,
                "parts": len(starts),
                "content": content[start : start + PART_BYTES],
            }
            for part, start in enumerate(starts)
        ]
        try:
            with self._writer.begin() as connection:
                connection.execute(insert(SHARED_PICTURES), rows)
        except IntegrityError:  # another studio was faster
            return

    def _is_shared(self, sha256: str) -> bool:
        if not self._share:
            return False
        query = select(SHARED_PICTURES.c.part).where(
            SHARED_PICTURES.c.sha256 == sha256, SHARED_PICTURES.c.part == 0
        )
        with self._engine.connect() as connection:
            return connection.execute(query).one_or_none() is not None

    def _fetch(self, sha256: str) -> bytes:
        """Fetch a picture part by part, and keep it only if its hash is right."""
        query = select(SHARED_PICTURES.c.parts, SHARED_PICTURES.c.content)
        query = query.where(SHARED_PICTURES.c.sha256 == sha256).order_by(SHARED_PICTURES.c.part)
        with self._engine.connect() as connection:
            rows = connection.execute(query.limit(MAX_BYTES // PART_BYTES + 1)).all()
        content = b"".join(row.content for row in rows)
        if not rows or hashlib.sha256(content).hexdigest() != sha256:
            raise NotFoundError("This picture is not here any more; go on with the next pair.")
        atomic_write(self.path(sha256), content)
        return content


def check_picture(content: bytes) -> str:
    """Return the sha256 of a file that decodes as a picture of bounded size.

    Raises `StorageError` with the reason.
    """
    if len(content) > MAX_BYTES:
        raise _too_large()
    open_picture(content)
    return hashlib.sha256(content).hexdigest()


def read_picture(path: Path) -> bytes:
    """Return a picture's file, bounded. Raises `StorageError`, `NotFoundError`."""
    content = read_bytes(path)
    if len(content) > MAX_BYTES:
        raise _too_large()
    return content


def _too_large() -> StorageError:
    return StorageError(
        f"A picture of a vote is larger than {MAX_BYTES >> 20} MB; save it smaller."
    )

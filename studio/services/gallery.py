"""The pictures that were made, for the page: look, find, judge, throw away, take along."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Unpack

from studio.core.picture import Picture
from studio.store.picture_query import Filters
from studio.store.pictures import PictureStore
from studio.store.sets import PictureSet

MAX_PAGE = 200  # pictures a page


class Gallery:
    """What the page may do with finished pictures. Every method may be called from any thread."""

    def __init__(self, pictures: PictureStore) -> None:
        self._pictures = pictures

    def get(self, picture_id: int) -> Picture:
        """Return a picture. Raises NotFoundError."""
        return self._pictures.get(picture_id)

    def page(
        self,
        *,
        before: int | None = None,
        limit: int = 60,
        **filters: Unpack[Filters],
    ) -> list[Picture]:
        """Return pictures, newest first; `before` is the last id of the page before.

        `search` looks for words in the prompts, `starred` and `deleted` (the bin) narrow;
        `drawn_for` leaves out those that campaigns drew, or all others.
        """
        return self._pictures.page(before=before, limit=max(1, min(limit, MAX_PAGE)), **filters)

    def count(self, **filters: Unpack[Filters]) -> int:
        """Return how many pictures `page` would walk through."""
        return self._pictures.count(**filters)

    def panels(self, set_id: str) -> list[Picture]:
        """Return the pictures of a set of panels, in the order of its lines."""
        return self._pictures.set_pictures(set_id)

    def sets(self) -> list[PictureSet]:
        """Return the sets of panels, the one drawn last first."""
        return self._pictures.sets()

    def star(self, picture_id: int, starred: bool) -> Picture:
        """Give a picture its star or take it away. Raises NotFoundError."""
        return self._pictures.star(picture_id, starred)

    def rate(self, picture_id: int, rating: int | None) -> Picture:
        """Rate a picture 1 to 5, None takes the rating back. Raises NotFoundError."""
        return self._pictures.rate(picture_id, rating)

    def delete(self, picture_id: int) -> Picture:
        """Put a picture into the bin, whence `restore` brings it back. Raises NotFoundError."""
        return self._pictures.delete(picture_id)

    def restore(self, picture_id: int) -> Picture:
        """Take a picture out of the bin. Raises NotFoundError."""
        return self._pictures.restore(picture_id)

    def file(self, picture: Picture) -> Path:
        """Return where a picture's PNG is."""
        return self._pictures.file(picture)

    def find(self, content: bytes | Path) -> Picture | None:
        """Return the picture whose file this is, byte for byte; None when it is none of ours."""
        content = content.read_bytes() if isinstance(content, Path) else content
        return self._pictures.find(hashlib.sha256(content).hexdigest())

    def thumbnail(self, picture: Picture) -> Path:
        """Return where a picture's 256-pixel WebP is, making it again if it was lost."""
        return self._pictures.thumbnail(picture)

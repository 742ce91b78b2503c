"""The files of pictures by their sha256, as votes name them."""

from __future__ import annotations

from studio.core.errors import NotFoundError
from studio.store.pictures import PictureStore

GONE = "This picture is not here any more; go on with the next pair."


class RatedPictures:
    """Hands out pictures of the gallery by the hash of their files; binned ones are gone."""

    def __init__(self, pictures: PictureStore) -> None:
        self._pictures = pictures

    def content(self, sha256: str) -> bytes:
        """Return a picture's file. Raises NotFoundError."""
        picture = self._pictures.find(sha256)
        if picture is None:
            raise NotFoundError(GONE)
        return self._pictures.file(picture).read_bytes()

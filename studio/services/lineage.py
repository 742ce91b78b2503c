"""Where a picture comes from and what became of it: stored with each picture, walked here."""

from __future__ import annotations

from studio.core.errors import NotFoundError
from studio.core.picture import Picture
from studio.store.pictures import PictureStore

MAX_GENERATIONS = 100  # shown; a longer chain is cut


class Lineage:
    """The family of edited pictures. Every method may be called from any thread."""

    def __init__(self, pictures: PictureStore) -> None:
        self._pictures = pictures

    def parents(self, picture_id: int) -> list[Picture]:
        """Return what a picture was made from: its parent, that one's parent, and so on.

        Pictures in the bin are among them; the chain ends where one was deleted for good.
        Raises NotFoundError when the picture itself is not there.
        """
        chain = [self._pictures.get(picture_id)]
        seen = {picture_id}
        while (parent_id := chain[-1].parent_id) is not None and parent_id not in seen:
            seen.add(parent_id)
            try:
                chain.append(self._pictures.get(parent_id))
            except NotFoundError:
                break
            if len(chain) > MAX_GENERATIONS:
                break
        return chain[1:]

    def children(self, picture_id: int) -> list[Picture]:
        """Return what was made from a picture, oldest first, those in the bin included."""
        return self._pictures.children(picture_id)

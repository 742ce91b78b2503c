"""What an export writes from: votes as they may leave, and their pictures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from studio.core.errors import NotFoundError
from studio.core.vote import Undo, Vote
from studio.store.files import atomic_write, open_picture
from studio.store.metadata import PNG_SIGNATURE, read_metadata, strip_metadata
from studio.store.vote_pictures import VotePictures, check_picture
from studio.store.votes import VoteStore

REMEMBERED = 32_768  # pictures whose name and file in the export are known: some 20 MB
SUFFIXES = ((PNG_SIGNATURE, ".png"), (b"\xff\xd8", ".jpg"), (b"RIFF", ".webp"))
IMAGES = "images"
STRIPPED = ".stripped"  # removed before the export is handed over


@dataclass(frozen=True)
class ExportChoices:
    """What the artist decided about an export."""

    campaign: str | None = None  # id; None: all votes
    pseudonyms: bool = False  # raters' names stay here
    without_recipes: bool = False  # pictures leave without prompt, seed and model in their files


class Outgoing:
    """One export: its folder, and the votes as they are to leave."""

    def __init__(
        self,
        folder: Path,
        votes: VoteStore,
        pictures: VotePictures,
        choices: ExportChoices,
        pseudonym: Callable[[str], str],
    ) -> None:
        """Write into `folder`; `pseudonym` gives what stands for a rater's name."""
        self.folder = folder
        self.choices = choices
        self.left_out: Counter[str] = Counter()  # reason -> votes
        self.picture_count = 0
        self._votes = votes
        self._pictures = pictures
        self._newest = votes.newest_number()  # what comes meanwhile stays here, with its undos
        self._rater = pseudonym if choices.pseudonyms else lambda name: name
        self._name_of = lru_cache(REMEMBERED)(self._find_name)
        self._files: dict[str, str] = {}  # hash -> name of the file that was written

    def votes(self) -> Iterator[Vote]:
        """Yield the votes that stand and whose pictures are all there; the others are counted."""
        for vote in self._votes.votes(self.choices.campaign, up_to=self._newest):
            leaving = self.leaving(vote)
            if leaving is None:
                self.left_out["their pictures are gone"] += 1
            else:
                yield leaving

    def every_vote(self) -> Iterator[tuple[Vote, list[str]]]:
        """Yield also undone votes, and with each the pictures of it that are gone."""
        every = {"include_undone": True, "up_to": self._newest}
        for vote in self._votes.votes(self.choices.campaign, **every):
            shown = [picture for picture in (vote.left, vote.right) if picture]
            names = {picture: self._name_of(picture) for picture in shown}
            left, right = names[vote.left] or vote.left, names.get(vote.right) or vote.right
            leaving = replace(vote, left=left, right=right, rater=self._rater(vote.rater))
            yield leaving, [picture for picture in shown if names[picture] is None]

    def undos(self) -> Iterator[Undo]:
        """Yield the undos of the votes that `every_vote` yields."""
        for undo in self._votes.undos(self.choices.campaign, up_to=self._newest):
            yield replace(undo, rater=self._rater(undo.rater))

    def leaving(self, vote: Vote) -> Vote | None:
        """Return a vote as it leaves; None when a picture of it is gone."""
        left = self._name_of(vote.left)
        right = self._name_of(vote.right) if vote.right else ""
        if left is None or right is None:
            return None
        return replace(vote, left=left, right=right, rater=self._rater(vote.rater))

    def content(self, sha256: str) -> bytes:
        """Return the file of a picture that leaves, by the hash that it leaves under."""
        path = self._parked(sha256)
        return path.read_bytes() if path.is_file() else self._pictures.content(sha256)

    def picture_file(self, sha256: str) -> tuple[str, bool]:
        """Return the name of a picture's file in the export, and whether it was written now."""
        if sha256 in self._files:
            return self._files[sha256], False
        content = self.content(sha256)
        name = file_name(sha256, content)
        if len(self._files) == REMEMBERED:
            self._files.clear()
        self._files[sha256] = name
        is_new = not (self.folder / name).exists()
        if is_new:
            atomic_write(self.folder / name, content)
            self.picture_count += 1
        return name, is_new

    def model_of(self, sha256: str) -> str:
        """Return the name of the model that drew a picture, if its file says so."""
        recipe = read_metadata(self.content(sha256))
        return recipe.request.model if recipe.request is not None else recipe.model_name

    def _find_name(self, sha256: str) -> str | None:
        """Return the hash that a picture leaves under; None when the picture is gone."""
        if not self.choices.without_recipes:
            return sha256 if self._pictures.has(sha256) else None
        try:
            content = without_recipe(self._pictures.content(sha256))
        except NotFoundError:
            return None
        name = check_picture(content)
        if not self._parked(name).is_file():
            atomic_write(self._parked(name), content)
        return name

    def _parked(self, sha256: str) -> Path:
        """Where a stripped picture waits; the folder does not leave."""
        return self.folder / STRIPPED / sha256


def file_name(sha256: str, content: bytes) -> str:
    """Return the name of a picture's file in an export."""
    suffix = next((end for start, end in SUFFIXES if content.startswith(start)), "")
    return f"{IMAGES}/{sha256}{suffix}"


def without_recipe(content: bytes) -> bytes:
    """Return a picture's file with the same pixels and nothing else in it."""
    if content.startswith(PNG_SIGNATURE):
        return strip_metadata(content)
    stream = io.BytesIO()
    open_picture(content).save(stream, format="PNG")
    return stream.getvalue()

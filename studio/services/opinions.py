"""What is said about pictures outside the Rate tab: stars, ratings, the best of a batch.

Each becomes a vote of its own kind. The same taste learns from picks, and from ratings of one
prompt's pictures that differ (`judgements` in training/preference/comparisons.py); a star is kept
and counted, and teaches nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

import studio
from studio.core.errors import VoteRefusedError
from studio.core.picture import Picture
from studio.core.vote import Choice, Selection, Vote
from studio.store.votes import VoteStore

ARTIST = "artist"  # the rater's name for whatever is not said on the Rate tab


class Opinions:
    """Stores opinions as votes. Every method may be called from any thread."""

    def __init__(self, votes: VoteStore, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since 1970."""
        self._votes = votes
        self._clock = clock

    def starred(self, picture: Picture) -> Vote:
        """Record that a picture got its star, or lost it."""
        return self._add("star", picture, float(picture.starred))

    def rated(self, picture: Picture) -> Vote:
        """Record a picture's rating; one that was taken back counts as 0."""
        return self._add("rating", picture, float(picture.rating or 0))

    def best_of_batch(self, best: Picture, batch: Sequence[Picture]) -> int:
        """Record that one picture is better than each other one of its batch; returns how many.

        Picking again takes the earlier pick of this batch back, in the same transaction. Raises
        VoteRefusedError when there is nothing to compare with.
        """
        others = [picture for picture in batch if picture.sha256 != best.sha256]
        if not others:
            raise VoteRefusedError(
                "This picture is alone in its batch. Draw two or more at once to pick the best."
            )
        session = f"batch-{best.job_id}"
        votes = []
        for place, other in enumerate(others):
            left, right = (best, other) if place % 2 else (other, best)  # the side says nothing
            choice: Choice = "left" if left is best else "right"
            votes.append(self._vote(choice, left, right.sha256, "batch", session=session))
        return self._votes.replace_session(votes, _identity)

    def _add(self, choice: Choice, picture: Picture, strength: float) -> Vote:
        return self._votes.add(self._vote(choice, picture, "", "stars", strength=strength))

    def _vote(
        self,
        choice: Choice,
        left: Picture,
        right: str,
        selection: Selection,
        *,
        strength: float | None = None,
        session: str = "",
    ) -> Vote:
        return Vote(
            id=_identity(),
            created_at=self._clock(),
            rater=ARTIST,
            left=left.sha256,
            right=right,
            choice=choice,
            prompt=left.request.prompt,
            negative_prompt=left.request.negative_prompt,
            session_id=session,
            strength=strength,
            selection=selection,
            app_version=studio.__version__,
        )


def _identity() -> str:
    return str(uuid.uuid4())

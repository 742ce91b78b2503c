"""Rating: each rater's next pairs, blind, and their votes, durable before they are acknowledged.

The vote's way is short on purpose: look the pair up, one commit, answer. Choosing pairs happens
ahead of time on a thread of its own (`queues`); learning happens on the device thread.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

import studio
from studio.core.campaign import Campaign, Pair
from studio.core.errors import NotFoundError, VoteRefusedError
from studio.core.vote import MAX_RESPONSE_MS, Choice, Vote
from studio.services.pairing import Pool
from studio.services.queues import Queues
from studio.store.campaigns import CampaignStore
from studio.store.metadata import PNG_SIGNATURE, strip_metadata
from studio.store.raters import RaterStore
from studio.store.votes import VoteStore

ANSWERS: tuple[Choice, ...] = ("left", "right", "tie", "both_bad", "skip")
MAX_NAME = 40  # characters of a rater's name


class Pictures(Protocol):
    """Whatever hands out the files of pictures by their sha256."""

    def content(self, sha256: str) -> bytes:
        """Return a picture's file. Raises NotFoundError when it is gone or binned."""

    def sizes(self, hashes: Collection[str]) -> dict[str, tuple[int, int]]:
        """Return width and height in pixels of those pictures that `content` would find."""


@dataclass(frozen=True)
class BlindPair:
    """All that a rater gets to know of a pair."""

    pair: str
    prompt: str
    left: str  # random public names
    right: str
    width: int  # pixels
    height: int


@dataclass(frozen=True)
class NextPairs:
    """The front of a rater's queue, or why it is empty."""

    pairs: tuple[BlindPair, ...]
    sentence: str = ""
    over: bool = False  # nothing more will come by itself


@dataclass(frozen=True)
class Answer:
    """A click as the page sends it."""

    event: str  # id of the vote, made by the page, so that a click sent twice is one vote
    pair: str
    rater: str
    session: str
    choice: str
    response_ms: int


class Rating:
    """Pairs and votes of all raters. Every method may be called from any thread."""

    def __init__(
        self,
        votes: VoteStore,
        campaigns: CampaignStore,
        raters: RaterStore,
        pictures: Pictures,
        queues: Queues,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since 1970, for votes."""
        self._votes = votes
        self._campaigns = campaigns
        self._raters = raters
        self._pictures = pictures
        self._queues = queues
        self._clock = clock
        self._known_raters: frozenset[str] = frozenset()

    def next_pairs(self, campaign_id: str, rater: str, count: int = 3) -> NextPairs:
        """Return the next pairs of a rater's queue: at least one, and more as they are chosen.

        A pair stays at the front until it is answered: a reloaded page, or a second tab, gets the
        same ones. Raises NotFoundError, VoteRefusedError for an impossible name.
        """
        rater = self._ensure(rater)
        campaign = self._campaigns.get(campaign_id)
        if campaign.state != "running":
            return NextPairs(
                (), f"“{campaign.name}” is {campaign.state}; nobody is asked now.", True
            )
        while waiting := self._queues.front(campaign, rater, count):
            if pairs := self._blind(waiting):  # else all were dropped: their pictures are gone
                return NextPairs(tuple(pairs))
        return self._nothing(campaign)

    def vote(self, answer: Answer) -> Vote:
        """Store an answer durably; when this returns, it survives a power cut.

        The same event twice is one vote. Raises NotFoundError for an unknown pair, and
        VoteRefusedError for an answer that does not fit it (answered in another tab, another
        rater's, an impossible number).
        """
        if answer.choice not in ANSWERS:
            raise VoteRefusedError(f"An answer is one of {', '.join(ANSWERS)}.")
        pair = self._campaigns.pair(answer.pair)
        if pair.rater != answer.rater:
            raise VoteRefusedError("This pair is another rater's. Reload the page.")
        return self._votes.add(
            pair.vote(
                answer.choice,
                id=answer.event,
                created_at=self._clock(),
                session_id=answer.session,
                response_ms=max(0, min(answer.response_ms, MAX_RESPONSE_MS)),
                app_version=studio.__version__,
            )
        )

    def undo(self, vote_id: str, event_id: str, rater: str) -> BlindPair:
        """Take a vote of this rater back and return its pair, which waits again.

        Undoing twice changes nothing more. Raises NotFoundError, VoteRefusedError.
        """
        vote = self._votes.undo(vote_id, event_id, rater=rater)
        shown = self._blind([self._campaigns.pair(vote.pair_id)]) if vote.pair_id else []
        if not shown:
            raise NotFoundError("The vote is taken back, but its pictures are not there any more.")
        return shown[0]

    def newest(self, rater: str, session: str) -> Vote | None:
        """Return the last vote of a sitting that stands."""
        return self._votes.newest(rater, session)

    def picture(self, name: str) -> bytes:
        """Return a picture of a pair by its public name, without any of its recipe.

        Raises NotFoundError.
        """
        content = self._pictures.content(self._campaigns.picture_named(name))
        if content.startswith(PNG_SIGNATURE):
            return strip_metadata(content)
        with Image.open(io.BytesIO(content)) as image:  # an imported JPEG or WebP
            stream = io.BytesIO()
            image.convert("RGB").save(stream, "PNG")
        return stream.getvalue()

    def pool(self, campaign_id: str) -> Pool:
        """Return the pictures that take part in a campaign, with those that came since."""
        return self._queues.pool(campaign_id)

    def pair_count(self, campaign: Campaign) -> int:
        """Return how many different pairs a campaign has once its pictures are drawn.

        A rater answers each of them once, and some of them again: more votes need more raters.
        """
        plan = campaign.plan
        if not plan.prompts:
            return self.pool(campaign.id).pair_count()
        each, who = plan.pictures_per_prompt, max(1, len(plan.contestants))
        if who == 1:
            return len(plan.prompts) * each * (each - 1) // 2
        meetings = (each if plan.same_seed else each**2) * who * (who - 1) // 2
        return len(plan.prompts) * (meetings + plan.own_pairs)

    def _ensure(self, rater: str) -> str:
        rater = rater.strip()
        if len(rater) > MAX_NAME:
            raise VoteRefusedError(f"A rater's name has at most {MAX_NAME} characters.")
        if rater not in self._known_raters:
            self._raters.ensure(rater)
            self._known_raters |= {rater}
        return rater

    def _blind(self, pairs: Sequence[Pair]) -> list[BlindPair]:
        """Return what may be shown of pairs; drops those of which a picture is gone."""
        sizes = self._pictures.sizes({name for pair in pairs for name in (pair.left, pair.right)})
        shown = []
        for pair in pairs:
            if not sizes.keys() >= {pair.left, pair.right}:
                self._campaigns.drop_pair(pair.id)
                continue
            size = max(sizes[pair.left], sizes[pair.right])
            shown.append(BlindPair(pair.id, pair.prompt, pair.left_name, pair.right_name, *size))
        return shown

    def _nothing(self, campaign: Campaign) -> NextPairs:
        wanted = campaign.plan.wanted_pictures
        if campaign.pictures < wanted:
            return NextPairs(
                (),
                f"The next pair is being drawn ({campaign.pictures} of {wanted} pictures are "
                "ready). It appears here by itself.",
            )
        return NextPairs((), "You have seen every pair of this campaign. Thank you!", True)

"""Raters' queues, filled ahead: choosing pairs costs more than a click may wait.

Whoever has a pair left is served at once, and a thread of its own adds more. Only who has none, a
newcomer, waits for a first few, which are random ones.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from studio.core.campaign import Campaign, CampaignPicture, Pair
from studio.core.vote import Vote
from studio.services.pairing import Choose, Pool, Queue, draft_pairs, ordered, pool_of
from studio.services.worker import let_others_first
from studio.store.campaigns import CampaignStore
from studio.store.votes import VoteStore

LOW = 4  # pairs that wait for a rater; below it the queue is filled up
FILL = 6  # pairs it then gets: few, so that they are chosen by what was learned last
FIRST = 2  # pairs that somebody waits for, not chosen: many may begin at the same time
REPEAT_DISTANCE = 10  # votes between a pair and its repeat

Strategy = Callable[[Campaign, Mapping[str, CampaignPicture]], Choose | None]
Place = tuple[str, str]  # campaign and rater

logger = logging.getLogger(__name__)


class Queues:
    """The next pairs of every rater. Every method may be called from any thread."""

    def __init__(
        self, votes: VoteStore, campaigns: CampaignStore, strategy: Strategy | None = None
    ) -> None:
        """`strategy` gives a campaign's way to choose among candidates, None chooses at random."""
        self._votes = votes
        self._campaigns = campaigns
        self._strategy = strategy
        self._lock = Lock()
        self._filling: dict[Place, Lock] = {}  # one fill at a time, or two tabs would double it
        self._coming: set[Place] = set()  # queues that the background thread was asked to fill
        self._pools: dict[str, Pool] = {}
        self._draw = random.Random(secrets.randbits(128))
        self._background = ThreadPoolExecutor(1, "queues", initializer=let_others_first)

    def front(self, campaign: Campaign, rater: str, count: int) -> list[Pair]:
        """Return up to `count` pairs of a rater's queue, fewer while it is being filled.

        None only when there is nothing more to ask.
        """
        waiting = self._campaigns.waiting(campaign.id, rater, max(count, LOW))
        if not waiting:
            waiting = self._fill(campaign, rater, FIRST, low=1, strategy=None)
        if len(waiting) < LOW:
            self._fill_later(campaign, rater)
        return waiting[:count]

    def pool(self, campaign_id: str) -> Pool:
        """Return the pictures that take part in a campaign, with those that came since."""
        with self._lock:
            pool = self._pools.get(campaign_id)
            if pool is None:
                plan = self._campaigns.get(campaign_id).plan
                pool = pool_of(campaign_id, plan)
                self._pools[campaign_id] = pool
            pool.add(self._campaigns.pictures(campaign_id, after=pool.newest))
            return pool

    def settled(self) -> None:
        """Wait until the queues that were asked for are full."""
        self._background.submit(bool).result()

    def close(self) -> None:
        """End the background thread after the queue that it fills."""
        self._background.shutdown(cancel_futures=True)

    def _fill_later(self, campaign: Campaign, rater: str) -> None:
        place = (campaign.id, rater)
        with self._lock:
            if place in self._coming:
                return
            self._coming.add(place)
        self._background.submit(self._fill_up, campaign, rater).add_done_callback(_tell_failure)

    def _fill_up(self, campaign: Campaign, rater: str) -> None:
        with self._lock:
            self._coming.discard((campaign.id, rater))
        self._fill(campaign, rater, FILL, low=LOW, strategy=self._strategy)

    def _fill(
        self, campaign: Campaign, rater: str, count: int, *, low: int, strategy: Strategy | None
    ) -> list[Pair]:
        """Put `count` pairs into a queue with fewer than `low`; returns its front."""
        with self._lock:
            filling = self._filling.setdefault((campaign.id, rater), Lock())
        with filling:
            waiting = self._campaigns.waiting(campaign.id, rater, LOW)
            if len(waiting) >= low:
                return waiting
            pool = self.pool(campaign.id)
            queue = Queue(
                campaign,
                rater,
                {ordered(*pair) for pair in self._campaigns.shown(campaign.id, rater)},
                self._repeats(campaign, rater),
                strategy(campaign, pool.pictures) if strategy else None,
            )
            drafts = draft_pairs(queue, pool, count, self._draw)
            return [*waiting, *self._campaigns.draw_ahead(campaign.id, drafts)]

    def _repeats(self, campaign: Campaign, rater: str) -> Callable[[], Vote | None]:
        """Return a function that gives votes to ask again, looked up when first needed."""
        found: list[str] | None = None

        def repeat() -> Vote | None:
            nonlocal found
            if found is None:
                found = self._campaigns.repeatable(campaign.id, rater, at_least_ago=REPEAT_DISTANCE)
            return self._votes.get(found.pop()) if found else None

        return repeat


def _tell_failure(filled: Future[None]) -> None:
    """Log why a queue was not filled; its rater is told when it is empty."""
    if not filled.cancelled() and (error := filled.exception()) is not None:
        logger.warning("A queue of pairs was not filled: %s", error)

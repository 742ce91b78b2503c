"""Which two pictures a rater sees next: repeats, held-out pairs, and the campaign's strategy.

A campaign's possible pairs are parted in two by a hash that every studio computes alike: the
held-out part is drawn at random and in the same order for every rater, so that the reward is
evaluated, and raters are compared, on pairs that nothing learned from. The rest is chosen by the
strategy.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from threading import Lock

from studio.core.campaign import Campaign, CampaignPicture, CampaignPlan, PairDraft
from studio.core.vote import Selection, Vote

CANDIDATES = 2000  # pairs among which a strategy chooses: the more, the sooner it learns
TRIES = 40  # draws for each candidate that is wanted
FEW_PAIRS = 4000  # a pool of up to so many pairs is looked at whole
MOST_WALKED = 1_000_000  # draws, times TRIES, out of a larger one
LOOKED_AT = 10_000  # draws for one more held-out pair

Groups = list[tuple[tuple[str, str], list[CampaignPicture]]]
Pair = tuple[str, str]  # two sha256 in ascending order
Choose = Callable[[Sequence[Pair]], int]  # candidates -> the place of the one to show
Repeat = Callable[[], Vote | None]  # the next vote of the rater that may be asked again


@dataclass
class _HeldOut:
    """Held-out pairs of a pool as they are found."""

    newest: int  # picture of the pool
    rest: Iterator[tuple[tuple[str, str], Pair]]  # pairs that were not looked at yet
    found: list[tuple[tuple[str, str], Pair]] = field(default_factory=list)


@dataclass
class Pool:
    """The pictures of one campaign by prompt; grows while the campaign is drawn.

    One thread at a time may `add`; the others go on reading what was there.
    """

    campaign: str
    mixed: bool = False  # several contestants draw: they meet each other and not themselves
    by_prompt: dict[tuple[str, str], list[CampaignPicture]] = field(default_factory=dict)
    pictures: dict[str, CampaignPicture] = field(default_factory=dict)  # by sha256
    newest: int = 0  # number of the last picture that was added
    same_seed: bool = False  # and only on pictures of the same seed
    itself: str = ""  # label of the one contestant of a mixed pool that meets itself too,
    apart: int = 0  # on pictures whose seeds differ by so much
    _grouped: tuple[int, Groups] = field(default=(-1, []), repr=False)
    _held: _HeldOut | None = field(default=None, repr=False)
    _searching: Lock = field(default_factory=Lock, repr=False)

    def add(self, pictures: Iterable[CampaignPicture]) -> None:
        """Take in pictures that came since."""
        fresh: dict[tuple[str, str], list[CampaignPicture]] = {}
        for picture in pictures:
            fresh.setdefault((picture.prompt, picture.negative_prompt), []).append(picture)
        if not fresh:
            return
        came = [picture for group in fresh.values() for picture in group]
        grown = {key: [*self.by_prompt.get(key, ()), *group] for key, group in fresh.items()}
        self.pictures = {**self.pictures, **{picture.sha256: picture for picture in came}}
        self.by_prompt = {**self.by_prompt, **grown}
        self.newest = max(self.newest, *(picture.number for picture in came))

    def groups(self) -> Groups:
        """Return the prompts with at least one pair, in a fixed order."""
        newest = self.newest
        if self._grouped[0] != newest:
            found = [(key, group) for key, group in self.by_prompt.items() if self._pairs_of(group)]
            self._grouped = (newest, sorted(found, key=lambda entry: entry[0]))
        return self._grouped[1]

    def held_out(self, share: float, seen: Collection[Pair]) -> tuple[tuple[str, str], Pair] | None:
        """Return the first held-out pair that was not seen, in an order common to all raters.

        What was found once is remembered: after thousands of votes the search begins far on.
        """
        with self._searching:
            return next(((k, pair) for k, pair in self._held_out(share) if pair not in seen), None)

    def _held_out(self, share: float) -> Iterator[tuple[tuple[str, str], Pair]]:
        """Yield the held-out pairs; a pair may come again."""
        if self._held is None or self._held.newest != self.newest:
            draw = random.Random(self.campaign)
            self._held = _HeldOut(self.newest, _walk(self, draw, MOST_WALKED))
        held = self._held
        yield from held.found
        for key, pair in islice(held.rest, LOOKED_AT):
            if is_held_out(self.campaign, pair, share):
                held.found.append((key, pair))
                yield key, pair

    def pair_count(self) -> int:
        """Return how many different pairs can be shown."""
        return sum(self._pairs_of(group) for group in self.by_prompt.values())

    def pairs_of(self, group: list[CampaignPicture]) -> list[Pair]:
        """List one prompt's pairs."""
        return [
            ordered(one.sha256, other.sha256)
            for one, other in combinations(group, 2)
            if self.may_meet(one, other)
        ]

    def may_meet(self, one: CampaignPicture, other: CampaignPicture) -> bool:
        """Whether two pictures of a prompt are a pair of this campaign."""
        if one.sha256 == other.sha256:
            return False
        if self.mixed and one.contestant == other.contestant:
            return one.contestant == self.itself and abs(one.seed - other.seed) == self.apart
        return not self.same_seed or one.seed == other.seed

    def _pairs_of(self, group: list[CampaignPicture]) -> int:
        """Count a prompt's pairs, where possible without listing them."""
        if self.same_seed or self.itself:
            return len(self.pairs_of(group))
        if not self.mixed:
            return len(group) * (len(group) - 1) // 2
        sizes = Counter(picture.contestant for picture in group).values()
        return (len(group) ** 2 - sum(size**2 for size in sizes)) // 2


def pool_of(campaign_id: str, plan: CampaignPlan) -> Pool:
    """Return the empty pool of a campaign; its plan decides who meets whom."""
    itself = plan.contestants[-1].label if plan.own_pairs else ""
    return Pool(
        campaign_id,
        len(plan.contestants) > 1,
        same_seed=plan.same_seed,
        itself=itself,
        apart=plan.pictures_per_prompt,
    )


def ordered(one: str, other: str) -> Pair:
    """Return two pictures in the one order that stands for the pair, whatever its sides."""
    return (one, other) if one < other else (other, one)


def is_held_out(campaign: str, pair: Pair, share: float) -> bool:
    """Whether a pair belongs to the part that nothing learns from."""
    digest = hashlib.sha256("/".join((campaign, *pair)).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@dataclass(frozen=True)
class Queue:
    """Whose pairs are drafted, and what decides them."""

    campaign: Campaign
    rater: str
    shown: Iterable[Pair]  # what the rater has seen
    repeat: Repeat
    choose: Choose | None = None  # the campaign's strategy; None chooses at random


def draft_pairs(queue: Queue, pool: Pool, count: int, draw: random.Random) -> list[PairDraft]:
    """Return up to `count` pairs for a rater's queue, fewer when all were shown."""
    plan = queue.campaign.plan
    seen, drafts = set(queue.shown), []
    free: dict[Pair, tuple[str, str]] = {}  # pairs to choose among, with their prompts
    for left in range(count, 0, -1):
        chance = draw.random()
        draft = None
        if chance < plan.repeat_share:
            draft = _repeat(queue.rater, queue.repeat())
        elif chance < plan.repeat_share + plan.held_out_share:
            draft = _held_out(queue, pool, seen)
        if draft is None:
            free = free or _candidates(queue, pool, seen, left, draw)
            draft = _chosen(queue, free)
        if draft is None:  # everything that may be learned from was shown: the rest is held out
            draft = _held_out(queue, pool, seen)
        if draft is None:
            break
        pair = ordered(draft.one, draft.other)
        seen.add(pair)
        free.pop(pair, None)
        drafts.append(draft)
    return drafts


def _repeat(rater: str, vote: Vote | None) -> PairDraft | None:
    """Ask a vote's pair again with its sides swapped; a held-out pair stays held out."""
    if vote is None:
        return None
    return PairDraft(
        rater,
        vote.prompt,
        vote.right,
        vote.left,
        vote.negative_prompt,
        selection="repeat",
        held_out=vote.held_out,
        repeat_of=vote.id,
    )


def _held_out(queue: Queue, pool: Pool, seen: set[Pair]) -> PairDraft | None:
    """Return the first held-out pair, in an order common to all raters, that is new to this one."""
    campaign = queue.campaign
    share = campaign.plan.held_out_share
    if not share:
        return None
    found = pool.held_out(share, seen)
    if found is None:
        return None
    key, pair = found
    return PairDraft(queue.rater, key[0], *pair, key[1], "random", held_out=True)


def _candidates(
    queue: Queue, pool: Pool, seen: set[Pair], count: int, draw: random.Random
) -> dict[Pair, tuple[str, str]]:
    """Return random pairs that are new to the rater: enough to choose `count` of them."""
    campaign, share = queue.campaign, queue.campaign.plan.held_out_share
    wanted = CANDIDATES if queue.choose else count
    found: dict[Pair, tuple[str, str]] = {}
    for key, pair in _walk(pool, draw, wanted):
        if pair not in seen and not is_held_out(campaign.id, pair, share):
            found[pair] = key
            if len(found) == wanted:
                break
    return found


def _chosen(queue: Queue, free: Mapping[Pair, tuple[str, str]]) -> PairDraft | None:
    """Return the pair that the strategy takes out of new ones."""
    if not free:
        return None
    pairs, choose = list(free), queue.choose
    pair = pairs[choose(pairs) if choose else 0]
    selection: Selection = queue.campaign.plan.strategy if choose else "random"
    return PairDraft(queue.rater, free[pair][0], *pair, free[pair][1], selection)


def _walk(pool: Pool, draw: random.Random, wanted: int) -> Iterator[tuple[tuple[str, str], Pair]]:
    """Yield pairs in a random order: each once in a small pool, drawn with replacement else."""
    groups = pool.groups()
    if not groups:
        return
    if pool.pair_count() <= FEW_PAIRS:
        every = [(key, pair) for key, group in groups for pair in pool.pairs_of(group)]
        draw.shuffle(every)
        yield from every
        return
    for _ in range(TRIES * wanted):
        key, group = groups[draw.randrange(len(groups))]
        one, other = draw.sample(group, 2)
        if pool.may_meet(one, other):
            yield key, ordered(one.sha256, other.sha256)

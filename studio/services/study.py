"""What a campaign found: contestants ranked, votes over time, agreement, pairs to look at.

Only figures are made here; `study_page.py` turns them into a page and a table.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType

from studio.core.vote import Tally, Vote
from studio.store.vote_rows import BriefVote
from studio.training.preference.agreement import FAST_MS, FAST_SHARE, LEAST_FLAGGED, ONE_SIDED
from studio.training.preference.intervals import wilson_interval
from studio.training.preference.ranking import rank

COMPARED = frozenset(("left", "right", "tie"))  # 'both bad' ranks neither; 'skip' is no answer
SCORES = MappingProxyType({"left": 1.0, "tie": 0.5, "right": 0.0})
EXAMPLES = 6
KEPT_EXAMPLES = 400  # from which those are drawn
PERIODS = 24  # bars of the time axis


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval and the number that it was counted over."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class ContestantRow:
    """How one contestant did."""

    label: str
    wins: int
    ties: int
    losses: int
    raw: Rate  # wins and half the ties, of all its comparisons; Wilson
    strength: float  # theta of Bradley-Terry with ties, logits; the mean is 0
    strength_low: float
    strength_high: float
    fitted: Rate  # against the others, each as often, by that model


@dataclass(frozen=True)
class RaterRow:
    """How one rater answered; the name is the one given to this function's caller."""

    name: str
    votes: int
    ties: int
    both_bad: int
    median_ms: int
    fast_share: float  # of votes given in under FAST_MS
    left_share: Rate  # of decisive votes
    self_consistency: Rate  # of repeats decided both times, decided as before
    flags: tuple[str, ...]  # sentences; a flagged rater's votes stay


@dataclass(frozen=True)
class Example:
    """A pair as it was judged."""

    prompt: str
    left: str  # sha256
    right: str
    choice: str
    left_label: str
    right_label: str


@dataclass(frozen=True)
class Study:
    """Everything that a report says."""

    name: str
    tally: Tally
    contestants: tuple[ContestantRow, ...]  # strongest first
    beats: Mapping[tuple[str, str], Rate] = field(default_factory=dict)  # row against column, raw
    per_period: tuple[tuple[float, int], ...] = ()  # (start in seconds since 1970, votes)
    raters: tuple[RaterRow, ...] = ()
    alpha: Rate | None = None  # Krippendorff's, between raters; None for one rater
    examples: tuple[Example, ...] = ()
    nu: float = 0.0  # Davidson's tie parameter


@dataclass
class _Counts:
    """What one pass over the votes keeps; bounded however many votes there are."""

    comparisons: Counter[tuple[str, str, float]] = field(default_factory=Counter)
    times: Counter[int] = field(default_factory=Counter)  # minutes since 1970
    milliseconds: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    examples: list[Example] = field(default_factory=list)
    seen: int = 0


def make_study(
    name: str,
    votes: Iterable[Vote | BriefVote],
    labels: Mapping[str, str],
    tallies: Mapping[str, Tally],
    tally: Tally,
    alpha: Rate | None = None,
) -> Study:
    """Count a campaign's votes once and fit its contestants.

    `labels` names the contestant behind each picture's sha256; pictures without one are left out
    of the ranking. Repeats are asked to learn about the rater, so they rank nobody twice.
    """
    counts = _Counts()
    draw = random.Random(name)
    for vote in votes:
        _count(counts, vote, labels, draw)
    contestants, nu = _ranked(counts)
    return Study(
        name=name,
        tally=tally,
        contestants=contestants,
        beats=dict(_beats(counts)),
        per_period=_periods(counts.times),
        raters=tuple(_rater_row(r, t, counts.milliseconds[r]) for r, t in sorted(tallies.items())),
        alpha=alpha,
        examples=tuple(draw.sample(counts.examples, min(EXAMPLES, len(counts.examples)))),
        nu=nu,
    )


def rater_flags(tally: Tally, fast_share: float) -> tuple[str, ...]:
    """Return what is odd about a rater's answers, as sentences; nothing is ever deleted for it."""
    flags = []
    if tally.votes >= LEAST_FLAGGED and fast_share > FAST_SHARE:
        flags.append(f"{fast_share:.0%} of the votes came within {FAST_MS / 1000:g} seconds.")
    decisive = tally.left + tally.right
    if decisive >= LEAST_FLAGGED:
        share = tally.left / decisive
        low, high = wilson_interval(share, decisive)
        if abs(share - 0.5) > ONE_SIDED and not low <= 0.5 <= high:
            side, part = ("left", share) if share > 0.5 else ("right", 1 - share)
            flags.append(f"{part:.0%} of the decisive votes went to the {side} side.")
    if tally.repeats >= LEAST_FLAGGED:
        same = tally.repeats_same / tally.repeats
        if wilson_interval(same, tally.repeats)[0] <= 0.5:
            flags.append(f"{same:.0%} of the repeats were decided as before, perhaps by chance.")
    return tuple(flags)


def _count(
    counts: _Counts, vote: Vote | BriefVote, labels: Mapping[str, str], draw: random.Random
) -> None:
    counts.times[int(vote.created_at // 60)] += 1
    counts.milliseconds[vote.rater][min(vote.response_ms // 100, 600)] += 1
    if vote.choice not in COMPARED or vote.repeat_of is not None:
        return
    left, right = labels.get(vote.left, ""), labels.get(vote.right, "")
    counts.seen += 1  # a reservoir: every pair has the same chance
    place = counts.seen - 1 if counts.seen <= KEPT_EXAMPLES else draw.randrange(counts.seen)
    if place < KEPT_EXAMPLES:
        example = Example(vote.prompt, vote.left, vote.right, vote.choice, left, right)
        counts.examples[place : place + 1] = [example]
    if left and right and left != right:
        score = SCORES[vote.choice]
        key = (left, right, score) if left < right else (right, left, 1 - score)
        counts.comparisons[key] += 1


def _ranked(counts: _Counts) -> tuple[tuple[ContestantRow, ...], float]:
    names = sorted({name for key in counts.comparisons for name in key[:2]})
    if not names:
        return (), 0.0
    place = {name: at for at, name in enumerate(names)}
    keys = list(counts.comparisons)
    ranking = rank(
        [(place[a], place[b], score) for a, b, score in keys],
        len(names),
        times=[counts.comparisons[key] for key in keys],
    )
    rows = []
    for name in names:
        wins, ties, losses = _record(counts.comparisons, name)
        played = wins + ties + losses
        low, high = ranking.interval(place[name])
        rows.append(
            ContestantRow(
                name, wins, ties, losses,
                _rate(wins + ties / 2, played),
                float(ranking.strength[place[name]]), low, high,
                Rate(*ranking.win_rate(place[name]), played),
            )
        )  # fmt: skip
    return tuple(sorted(rows, key=lambda row: -row.strength)), ranking.nu


def _record(comparisons: Counter[tuple[str, str, float]], name: str) -> tuple[int, int, int]:
    """Return a contestant's wins, ties and losses."""
    found: Counter[float] = Counter()
    for (first, second, score), times in comparisons.items():
        if name == first:
            found[score] += times
        elif name == second:
            found[1 - score] += times
    return found[1.0], found[0.5], found[0.0]


def _beats(counts: _Counts) -> Iterator[tuple[tuple[str, str], Rate]]:
    """Yield how often each contestant was preferred to each other one."""
    for first, second in {key[:2] for key in counts.comparisons}:
        times = [counts.comparisons[first, second, score] for score in (1.0, 0.5, 0.0)]
        for pair, wins in (
            ((first, second), times[0] + times[1] / 2),
            ((second, first), times[2] + times[1] / 2),
        ):
            yield pair, _rate(wins, sum(times))


def _periods(times: Counter[int]) -> tuple[tuple[float, int], ...]:
    """Sum minutes into at most PERIODS equal periods."""
    if not times:
        return ()
    first, last = min(times), max(times)
    width = max(1, -(-(last - first + 1) // PERIODS))
    bars = [0] * (-(-(last - first + 1) // width))
    for minute, votes in times.items():
        bars[(minute - first) // width] += votes
    return tuple((60.0 * (first + at * width), votes) for at, votes in enumerate(bars))


def _rater_row(name: str, tally: Tally, tenths: Counter[int]) -> RaterRow:
    count = sum(tenths.values())
    fast = sum(n for tenth, n in tenths.items() if tenth * 100 < FAST_MS)
    decisive = tally.left + tally.right
    share = fast / count if count else 0.0
    return RaterRow(
        name=name,
        votes=tally.votes,
        ties=tally.ties,
        both_bad=tally.both_bad,
        median_ms=int(median(tenths.elements()) * 100) if count else 0,
        fast_share=share,
        left_share=_rate(tally.left, decisive),
        self_consistency=_rate(tally.repeats_same, tally.repeats),
        flags=rater_flags(tally, share),
    )


def _rate(part: float, whole: int) -> Rate:
    share = part / whole if whole else 0.0
    return Rate(share, *wilson_interval(share, whole), whole)

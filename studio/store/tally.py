"""Sums over votes, one row for each campaign and rater, kept beside the votes."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType

from sqlalchemy import case, distinct, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from studio.core.vote import Tally, Vote
from studio.store.tables import TALLIES

COUNTS = tuple(
    column.name for column in TALLIES.columns if column.name not in ("campaign", "rater")
)
_OF_CHOICE = MappingProxyType(
    {
        "left": ("votes", "left"),
        "right": ("votes", "right"),
        "tie": ("votes", "ties"),
        "both_bad": ("votes", "both_bad"),
        "skip": ("skips",),
        "star": ("on_one_picture",),
        "rating": ("on_one_picture",),
    }
)


class TallyChanges:
    """What one transaction changes in the sums; `write` applies it."""

    def __init__(self) -> None:
        self._changes: Counter[tuple[str, str, str]] = Counter()  # (campaign, rater, count)

    def add(self, vote: Vote, repeated: Vote | None) -> None:
        """Count a new vote; `repeated` is the vote that it asks again, if that stands."""
        self._count(vote, repeated, 1)

    def take_back(self, vote: Vote, repeated: Vote | None) -> None:
        """Count a vote no more, since it was undone."""
        self._count(vote, repeated, -1)
        self._changes[vote.campaign, vote.rater, "undone"] += 1

    def forget_repeat(self, repeat: Vote, repeated: Vote) -> None:
        """Stop counting `repeat` as a repeat: the vote that it asked again was undone."""
        self._count_repeat(repeat, repeated, -1)

    def write(self, connection: Connection) -> None:
        """Apply the changes, always in the same order, so that no two writers block each other."""
        keys = sorted({(campaign, rater) for campaign, rater, _ in self._changes})
        for campaign, rater in keys:
            changes = {name: self._changes[campaign, rater, name] for name in COUNTS}
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            row = dialect.insert(TALLIES).values(campaign=campaign, rater=rater, **changes)
            connection.execute(
                row.on_conflict_do_update(
                    index_elements=["campaign", "rater"],
                    set_={name: TALLIES.c[name] + changes[name] for name in COUNTS},
                )
            )
        self._changes.clear()

    def _count(self, vote: Vote, repeated: Vote | None, step: int) -> None:
        names = _OF_CHOICE[vote.choice]
        if "votes" in names and vote.held_out:
            names = (*names, "held_out")
        for name in names:
            self._changes[vote.campaign, vote.rater, name] += step
        if repeated is not None:
            self._count_repeat(vote, repeated, step)

    def _count_repeat(self, repeat: Vote, repeated: Vote, step: int) -> None:
        same = repeat.repeats_decision(repeated)
        if same is not None:
            self._changes[repeat.campaign, repeat.rater, "repeats"] += step
            self._changes[repeat.campaign, repeat.rater, "repeats_same"] += step * same


def sum_tallies(
    connection: Connection, campaign: str | None = None, rater: str | None = None
) -> Tally:
    """Return the counts of a campaign, a rater, both or all."""
    sums = [func.coalesce(func.sum(TALLIES.c[name]), 0).label(name) for name in COUNTS]
    raters = func.count(distinct(case((TALLIES.c.votes > 0, TALLIES.c.rater)))).label("raters")
    query = select(*sums, raters)
    query = query if campaign is None else query.where(TALLIES.c.campaign == campaign)
    query = query if rater is None else query.where(TALLIES.c.rater == rater)
    return Tally(**{k: int(v) for k, v in connection.execute(query).mappings().one().items()})


def tallies_by_rater(connection: Connection, campaign: str | None = None) -> dict[str, Tally]:
    """Return each rater's counts by name, of one campaign or of all together."""
    sums = [func.sum(TALLIES.c[name]).label(name) for name in COUNTS]
    query = select(TALLIES.c.rater, *sums).group_by(TALLIES.c.rater).order_by(TALLIES.c.rater)
    query = query if campaign is None else query.where(TALLIES.c.campaign == campaign)
    found = {}
    for row in connection.execute(query).mappings():
        counts = {name: int(row[name]) for name in COUNTS}
        found[row["rater"]] = Tally(**counts, raters=int(counts["votes"] > 0))
    return found

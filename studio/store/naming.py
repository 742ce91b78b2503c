"""What keeps a picture in the bin from being removed for good: something that names it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Engine, or_, select

from studio.store.tables import CAMPAIGN_PICTURES, JOBS, PAIRS, PICTURES, VOTES

AT_ONCE = 500  # hashes in one question
BY_CONTENT = (
    VOTES.c.left, VOTES.c.right, PAIRS.c.left, PAIRS.c.right, CAMPAIGN_PICTURES.c.sha256
)  # fmt: skip


def is_named() -> ColumnElement[bool]:
    """Return the condition on a row of `PICTURES` that something else names it.

    A vote, a pair or a campaign does so by the file's sha256; a picture that was made from it, and
    a job that may still be drawn, by its number. A job that is done is history and names nothing.
    """
    sha256, number = PICTURES.c.sha256, PICTURES.c.id
    child = PICTURES.alias("child")
    jobs = select(JOBS.c.parent_id).where(JOBS.c.state != "done", JOBS.c.parent_id.is_not(None))
    children = select(child.c.parent_id).where(child.c.parent_id.is_not(None))
    return or_(
        *(sha256.in_(select(column)) for column in BY_CONTENT),
        number.in_(children),
        number.in_(jobs),
    )


def named_for_raters(engine: Engine, hashes: Sequence[str]) -> set[str]:
    """Return those of the files' hashes that votes, pairs or campaigns of this database name.

    For votes on a server, whose tables `is_named` does not see.
    """
    named: set[str] = set()
    with engine.connect() as connection:
        for first in range(0, len(hashes), AT_ONCE):
            some = hashes[first : first + AT_ONCE]
            for column in BY_CONTENT:
                query = select(column).where(column.in_(some)).distinct()
                named.update(connection.execute(query).scalars())
    return named

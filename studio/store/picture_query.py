"""The gallery's queries: each walks one index backwards from a given id, and stops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from sqlalchemy import ColumnElement, Select, func, not_, select

from studio.core.campaign import DRAWN_FOR
from studio.store.search import contains_all, match_expression, matches, query_words
from studio.store.tables import PICTURES, PROMPT_WORDS

DrawnFor = Literal["", "artist", "campaigns"]  # '': whoever asked for them
AFTER = DRAWN_FOR[:-1] + chr(ord(DRAWN_FOR[-1]) + 1)  # the first text behind all job_ids of those


class Filters(TypedDict, total=False):
    """Words that `PictureStore.page` and `count` take; each narrows."""

    search: str  # prompts that hold all its words, by their beginnings
    starred: bool
    deleted: bool  # those in the bin instead
    job_id: str | None
    set_id: str | None
    drawn_for: DrawnFor  # pictures that the artist asked for, or those of campaigns


@dataclass(frozen=True)
class PictureFilter:
    """Which pictures are wanted; the fields are those of `Filters`."""

    search: str = ""
    starred: bool = False
    deleted: bool = False
    job_id: str | None = None
    set_id: str | None = None
    drawn_for: DrawnFor = ""


def page_query(
    dialect: str, wanted: PictureFilter, before: int | None, limit: int
) -> Select | None:
    """Return the query for a page, newest first; None if the search can find nothing."""
    query = _restricted(select(PICTURES), dialect, wanted, index_for(wanted))
    if query is None:
        return None
    # FTS5 walks its lists in the order of its own row numbers, so that the limit stops it.
    key = PROMPT_WORDS.c.rowid if _walks_words(dialect, wanted) else PICTURES.c.id
    if before is not None:
        query = query.where(key < before)
    return query.order_by(key.desc()).limit(limit)


def count_query(dialect: str, wanted: PictureFilter) -> Select | None:
    """Return the query for the number of pictures; None if the search can find nothing."""
    words = query_words(wanted.search)
    if wanted.drawn_for == "artist":  # counting all and the others looks up fewer rows
        every = count_query(dialect, replace(wanted, drawn_for=""))
        others = count_query(dialect, replace(wanted, drawn_for="campaigns"))
        if every is None or others is None:
            return None
        return select(every.scalar_subquery() - others.scalar_subquery())
    if words and _walks_words(dialect, wanted) and not wanted.drawn_for:
        # The marks say all; no row need be looked up.
        return select(func.count()).select_from(PROMPT_WORDS).where(_matches(wanted, words))
    index = "pictures_by_job" if wanted.drawn_for else index_for(wanted)
    return _restricted(select(func.count()).select_from(PICTURES), dialect, wanted, index)


def _walks_words(dialect: str, wanted: PictureFilter) -> bool:
    """Whether the full-text index leads; a job or set is so small that its own index does."""
    narrow = wanted.job_id is not None or wanted.set_id is not None
    return dialect == "sqlite" and bool(wanted.search.strip()) and not narrow


def _restricted(query: Select, dialect: str, wanted: PictureFilter, index: str) -> Select | None:
    """Add the conditions and name the index: statistics must not talk SQLite out of it."""
    query = query.where(*_conditions(wanted))
    hint = f"INDEXED BY {index}"
    if wanted.search.strip():
        if dialect != "sqlite":
            return query.where(contains_all(wanted.search))
        words = query_words(wanted.search)
        if not words:
            return None
        same = PICTURES.c.id == PROMPT_WORDS.c.rowid
        if _walks_words(dialect, wanted):
            query = query.where(same, _matches(wanted, words))
            hint = "NOT INDEXED"  # pictures are looked up by their number, one a match
        else:
            found = select(PROMPT_WORDS.c.rowid).where(same, _matches(wanted, words))
            query = query.where(found.correlate(PICTURES).exists())
    return query.with_hint(PICTURES, hint, "sqlite")


def _matches(wanted: PictureFilter, words: list[str]) -> ColumnElement[bool]:
    return matches(match_expression(words, wanted.starred, wanted.deleted))


def index_for(wanted: PictureFilter) -> str:
    """Return the index that serves these filters."""
    if wanted.job_id is not None:
        return "pictures_by_job"
    if wanted.set_id is not None:
        return "pictures_by_set"
    return "pictures_by_star" if wanted.starred else "pictures_by_shelf"


def _conditions(wanted: PictureFilter) -> list[ColumnElement[bool]]:
    conditions = [PICTURES.c.shelf == ("bin" if wanted.deleted else "gallery")]
    if wanted.starred:
        conditions.append(PICTURES.c.starred == 1)
    if wanted.job_id is not None:
        conditions.append(PICTURES.c.job_id == wanted.job_id)
    if wanted.set_id is not None:
        conditions.append(PICTURES.c.set_id == wanted.set_id)
    of_campaign = (PICTURES.c.job_id >= DRAWN_FOR) & (PICTURES.c.job_id < AFTER)
    if wanted.drawn_for:
        conditions.append(of_campaign if wanted.drawn_for == "campaigns" else not_(of_campaign))
    return conditions

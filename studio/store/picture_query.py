"""The gallery's queries: each walks one index backwards from a given id, and stops."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, func, select

from studio.store.search import contains_all, match_expression, matches, query_words
from studio.store.tables import PICTURES, PROMPT_WORDS


@dataclass(frozen=True)
class PictureFilter:
    """Which pictures are wanted; the fields are those of `PictureStore.page`."""

    search: str = ""
    starred: bool = False
    deleted: bool = False
    job_id: str | None = None
    set_id: str | None = None


def page_query(
    dialect: str, wanted: PictureFilter, before: int | None, limit: int
) -> Select | None:
    """Return the query for a page, newest first; None if the search can find nothing."""
    searching = bool(wanted.search.strip())
    if searching and dialect == "sqlite":
        words = query_words(wanted.search)
        if not words:
            return None
        query = _matching(select(PICTURES), wanted, words)
        key = PROMPT_WORDS.c.rowid  # FTS5 walks its lists in this order, so the limit stops it
    else:
        query = _filtered(select(PICTURES), wanted)
        if searching:
            query = query.where(contains_all(wanted.search))
        key = PICTURES.c.id
    if before is not None:
        query = query.where(key < before)
    return query.order_by(key.desc()).limit(limit)


def count_query(dialect: str, wanted: PictureFilter) -> Select | None:
    """Return the query for the number of pictures; None if the search can find nothing."""
    counted = select(func.count())
    if not wanted.search.strip():
        return _filtered(counted.select_from(PICTURES), wanted)
    if dialect != "sqlite":
        return _filtered(counted.select_from(PICTURES), wanted).where(contains_all(wanted.search))
    words = query_words(wanted.search)
    return _matching(counted, wanted, words) if words else None


def _filtered(query: Select, wanted: PictureFilter) -> Select:
    """Add the conditions, and name the index: statistics must not talk SQLite out of it."""
    return query.where(*_conditions(wanted)).with_hint(
        PICTURES, f"INDEXED BY {index_for(wanted)}", "sqlite"
    )


def _matching(query: Select, wanted: PictureFilter, words: list[str]) -> Select:
    expression = match_expression(words, wanted.starred, wanted.deleted)
    joined = query.select_from(PROMPT_WORDS.join(PICTURES, PICTURES.c.id == PROMPT_WORDS.c.rowid))
    return joined.where(matches(expression), *_conditions(wanted))


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
    return conditions

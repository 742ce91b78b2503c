"""Which sources and masks were ever named by a job or a picture: those are never swept."""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from studio.core.request import GenerationRequest
from studio.store.sources import hashes_in
from studio.store.tables import FORMS, USED_SOURCES


def note_use(connection: Connection, request: GenerationRequest) -> None:
    """Record that a request names its source and mask, in the caller's transaction."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    for sha256 in filter(None, (request.source, request.mask)):
        statement = dialect.insert(USED_SOURCES).values(sha256=sha256)
        connection.execute(statement.on_conflict_do_nothing())


def used_sources(engine: Engine) -> set[str]:
    """Return the hashes that jobs, pictures and the page's forms name."""
    with engine.connect() as connection:
        used = set(connection.execute(select(USED_SOURCES.c.sha256)).scalars())
        for state in connection.execute(select(FORMS.c.state)).scalars():
            used |= hashes_in(state)
    return used

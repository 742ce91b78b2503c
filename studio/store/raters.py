"""Raters: a name, what it may do, and the pseudonym that stands for it outside."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from sqlalchemy import insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError

from studio.core.campaign import ROLES, Rater, Role
from studio.core.errors import NotFoundError, VoteRefusedError
from studio.core.vote import MAX_NAME_CHARACTERS
from studio.store.database import Database
from studio.store.tables import RATERS


class RaterStore:
    """Every rater of one database; may be used from several threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Use an open database; `clock` gives seconds since 1970."""
        self._engine = database.engine
        self._writer = database.writer
        self._clock = clock

    def ensure(self, name: str, role: Role = "rater") -> Rater:
        """Return the rater of that name, made now if there is none; a present role stays.

        Raises `VoteRefusedError` for a name that is empty, too long or holds control characters.
        """
        name = check_name(name, "rater")
        if role not in ROLES:
            raise VoteRefusedError(f"A rater's role is one of {', '.join(ROLES)}.")
        known = self._find(name)
        if known is not None:
            return known
        rater = Rater(name, role, f"rater-{secrets.token_hex(6)}", self._clock())
        try:
            with self._writer.begin() as connection:
                connection.execute(
                    insert(RATERS).values(
                        name=name,
                        role=role,
                        pseudonym=rater.pseudonym,
                        created_at=rater.created_at,
                    )
                )
        except IntegrityError:  # another tab or studio was faster
            return self.get(name)
        return rater

    def set_role(self, name: str, role: Role) -> Rater:
        """Change what a rater may do. Raises `NotFoundError`, `VoteRefusedError`."""
        if role not in ROLES:
            raise VoteRefusedError(f"A rater's role is one of {', '.join(ROLES)}.")
        with self._writer.begin() as connection:
            connection.execute(update(RATERS).where(RATERS.c.name == name).values(role=role))
        return self.get(name)

    def get(self, name: str) -> Rater:
        """Return a rater. Raises `NotFoundError`."""
        rater = self._find(name)
        if rater is None:
            raise NotFoundError(f"There is no rater '{name[:40]}'. Enter the name on the Rate tab.")
        return rater

    def all(self) -> list[Rater]:
        """Return every rater by name."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(RATERS).order_by(RATERS.c.name)).mappings()
            return [_rater(row) for row in rows]

    def pseudonyms(self) -> dict[str, str]:
        """Return what stands for each rater's name in exports that ask for it."""
        return {rater.name: rater.pseudonym for rater in self.all()}

    def _find(self, name: str) -> Rater | None:
        with self._engine.connect() as connection:
            query = select(RATERS).where(RATERS.c.name == name)
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else _rater(row)


def check_name(name: str, whose: str) -> str:
    """Return the name without spaces around it. Raises `VoteRefusedError`."""
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise VoteRefusedError(
            f"The name of a {whose} has 1 to {MAX_NAME_CHARACTERS} printable characters."
        )
    return name


def _rater(row: RowMapping) -> Rater:
    return Rater(row["name"], row["role"], row["pseudonym"], row["created_at"])

"""Full-text search over prompts: which words a prompt is found by, and what a query asks for.

On SQLite the table `prompt_words` (FTS5) holds a row for each picture: its words, and marks
('starred', 'bin', 'missing') so that a search among the starred is an intersection of two sorted
lists. It is kept here, in the transaction that changes the picture. PostgreSQL uses ILIKE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, insert, literal_column, update
from sqlalchemy.engine import Connection

from studio.store.tables import PICTURES, PROMPT_WORDS

MAX_QUERY_CHARACTERS = 200
MAX_QUERY_WORDS = 12
# Kana, Han with its extensions: written without spaces, so each character is a word of its own.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_NO_WORD = re.compile(r"[\W_]+")


def index_prompt(connection: Connection, picture_id: int, prompt: str) -> None:
    """Enter a new picture's prompt; nothing to do on a server."""
    if connection.dialect.name == "sqlite":
        connection.execute(
            insert(PROMPT_WORDS).values(rowid=picture_id, words=_separate(prompt), marks="")
        )


def mark_prompt(connection: Connection, picture: Mapping[str, Any]) -> None:
    """Bring the marks up to date with the picture's row."""
    if connection.dialect.name == "sqlite":
        marks = ["starred"] if picture["starred"] else []
        if picture["shelf"] != "gallery":
            marks.append(picture["shelf"])
        connection.execute(
            update(PROMPT_WORDS)
            .where(PROMPT_WORDS.c.rowid == picture["id"])
            .values(marks=" ".join(marks))
        )


def forget_prompt(connection: Connection, picture_id: int) -> None:
    """Take a purged picture's prompt out."""
    if connection.dialect.name == "sqlite":
        connection.execute(delete(PROMPT_WORDS).where(PROMPT_WORDS.c.rowid == picture_id))


def query_words(search: str) -> list[str]:
    """Split what was typed into at most twelve words or phrases; empty for pure punctuation."""
    words = (_separate(word) for word in search[:MAX_QUERY_CHARACTERS].split())
    return [word for word in words if word][:MAX_QUERY_WORDS]


def match_expression(words: list[str], starred: bool, deleted: bool) -> str:
    """Return FTS5 query text: every word, by its beginning, and the marks.

    Words hold letters and digits only, so no query syntax can come in with them.
    """
    terms = [f'words : "{word}" *' for word in words]
    terms += ['marks : "starred"'] if starred else []
    if deleted:
        return " AND ".join([*terms, 'marks : "bin"'])
    return f'({" AND ".join(terms)}) NOT marks : "bin" NOT marks : "missing"'


def matches(expression: str) -> ColumnElement[bool]:
    """The condition `prompt_words MATCH expression`."""
    return literal_column(PROMPT_WORDS.name).op("MATCH", is_comparison=True)(expression)


def contains_all(search: str) -> ColumnElement[bool]:
    """The condition for databases without FTS5: the prompt contains every word, in any case."""
    words = search[:MAX_QUERY_CHARACTERS].replace("\0", " ").split()[:MAX_QUERY_WORDS]
    return and_(*(PICTURES.c.prompt.icontains(word, autoescape=True) for word in words))


def _separate(text: str) -> str:
    return _UNSPACED.sub(r" \1 ", _NO_WORD.sub(" ", text)).strip()

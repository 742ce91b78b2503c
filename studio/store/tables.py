"""The tables of the newest schema, for queries; `migrations/` makes them.

Column types are those that SQLite's STRICT tables accept, with variants that keep the range on
PostgreSQL: REAL there has 4 bytes and INTEGER 32 bits. Times are seconds since 1970, UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    column,
    table,
    text,
)

METADATA = MetaData()
SECONDS = Double().with_variant(REAL(), "sqlite")
WIDE = BigInteger().with_variant(Integer(), "sqlite")  # seeds and row numbers

PICTURES = Table(
    "pictures",
    METADATA,
    Column("id", WIDE, primary_key=True, autoincrement=True),
    Column("path", Text, nullable=False, unique=True),  # relative to the data folder
    Column("sha256", Text, nullable=False),  # of the file's bytes
    Column("job_id", Text, nullable=False),
    Column("idx", Integer, nullable=False),  # within its job
    Column("seed", WIDE, nullable=False),  # of this picture alone: request.seed + idx
    Column("width", Integer, nullable=False),  # pixels
    Column("height", Integer, nullable=False),
    Column("seconds", SECONDS, nullable=False),  # drawing time
    Column("created_at", SECONDS, nullable=False),
    Column("request", Text, nullable=False),  # canonical JSON of the whole GenerationRequest
    Column("prompt", Text, nullable=False),  # copied out of the request for searching
    Column("model", Text, nullable=False),
    Column("model_hash", Text, nullable=False),
    Column("set_id", Text, nullable=False, server_default=text("''")),  # 'one panel a line'
    Column("panel", Integer, nullable=False, server_default=text("0")),  # number within its set
    Column("parent_id", WIDE),  # the picture this one was made from; may have been purged
    Column("starred", Integer, nullable=False, server_default=text("0")),
    Column("rating", Integer),
    Column("shelf", Text, nullable=False, server_default=text("'gallery'")),
    Column("deleted_at", SECONDS),  # in the bin since then
    CheckConstraint("starred IN (0, 1)", name="pictures_starred_is_boolean"),
    CheckConstraint("rating BETWEEN 1 AND 5", name="pictures_rating_is_1_to_5"),
    CheckConstraint("shelf IN ('gallery', 'bin', 'missing')", name="pictures_shelf_is_known"),
    CheckConstraint("(shelf = 'bin') = (deleted_at IS NOT NULL)", name="pictures_bin_has_a_date"),
    # Keyset paging walks one of these four backwards, whatever the filters.
    Index("pictures_by_shelf", "shelf", "id"),
    Index("pictures_by_star", "starred", "shelf", "id"),
    Index("pictures_by_job", "job_id", "id"),
    Index("pictures_by_set", "set_id", "id"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

JOBS = Table(
    "jobs",
    METADATA,
    Column("number", WIDE, primary_key=True, autoincrement=True),  # grows with each submission
    Column("id", Text, nullable=False, unique=True),
    Column("key", Text, nullable=False, unique=True),  # makes a submission idempotent
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("request", Text, nullable=False),  # canonical JSON
    Column("position", SECONDS, nullable=False),  # queue order, smallest first
    Column("submitted_at", SECONDS, nullable=False),
    Column("started_at", SECONDS),
    Column("finished_at", SECONDS),
    Column("error", Text, nullable=False, server_default=text("''")),
    Column("label", Text, nullable=False, server_default=text("''")),
    Column("set_id", Text, nullable=False, server_default=text("''")),
    Column("panel", Integer, nullable=False, server_default=text("0")),
    CheckConstraint(
        "state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'interrupted')",
        name="jobs_state_is_known",
    ),
    Index("jobs_in_order", "state", "position"),
    Index("jobs_by_set", "set_id", "number"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

FORMS = Table(
    "forms",
    METADATA,
    Column("name", Text, primary_key=True, nullable=False),
    Column("state", Text, nullable=False),  # JSON object
    Column("saved_at", SECONDS, nullable=False),
    sqlite_strict=True,
)

# SQLite's full-text index over prompts; `search.py` keeps it. No part of METADATA: a virtual table.
PROMPT_WORDS = table("prompt_words", column("rowid"), column("words"), column("marks"))

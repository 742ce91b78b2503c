"""Pictures, jobs and page state; on SQLite also the full-text index over prompts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables. Types are explained in `studio/store/tables.py`."""
    _make_pictures()
    _make_jobs()
    op.create_table(
        "forms",
        sa.Column("name", sa.Text, primary_key=True, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("saved_at", _seconds(), nullable=False),
        sqlite_strict=True,
    )
    if op.get_context().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE prompt_words USING fts5("
            "words, marks, tokenize = 'unicode61 remove_diacritics 2', prefix = '1 2 3 4 5 6')"
        )


def _make_pictures() -> None:
    op.create_table(
        "pictures",
        sa.Column("id", _wide(), primary_key=True, autoincrement=True),
        sa.Column("path", sa.Text, nullable=False, unique=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("idx", sa.Integer, nullable=False),
        sa.Column("seed", _wide(), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("seconds", _seconds(), nullable=False),
        sa.Column("created_at", _seconds(), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("model_hash", sa.Text, nullable=False),
        sa.Column("set_id", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("panel", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("parent_id", _wide()),
        sa.Column("starred", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("rating", sa.Integer),
        sa.Column("shelf", sa.Text, nullable=False, server_default=sa.text("'gallery'")),
        sa.Column("deleted_at", _seconds()),
        sa.CheckConstraint("starred IN (0, 1)", name="pictures_starred_is_boolean"),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name="pictures_rating_is_1_to_5"),
        sa.CheckConstraint(
            "shelf IN ('gallery', 'bin', 'missing')", name="pictures_shelf_is_known"
        ),
        sa.CheckConstraint(
            "(shelf = 'bin') = (deleted_at IS NOT NULL)", name="pictures_bin_has_a_date"
        ),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index("pictures_by_shelf", "pictures", ["shelf", "id"])
    op.create_index("pictures_by_star", "pictures", ["starred", "shelf", "id"])
    op.create_index("pictures_by_job", "pictures", ["job_id", "id"])
    op.create_index("pictures_by_set", "pictures", ["set_id", "id"])


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", _wide(), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("position", _seconds(), nullable=False),
        sa.Column("submitted_at", _seconds(), nullable=False),
        sa.Column("started_at", _seconds()),
        sa.Column("finished_at", _seconds()),
        sa.Column("error", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("label", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("set_id", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("panel", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'cancelled', 'interrupted')",
            name="jobs_state_is_known",
        ),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_in_order", "jobs", ["state", "position"])
    op.create_index("jobs_by_set", "jobs", ["set_id", "number"])


def _seconds() -> sa.types.TypeEngine:
    return sa.Double().with_variant(sa.REAL(), "sqlite")


def _wide() -> sa.types.TypeEngine:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")

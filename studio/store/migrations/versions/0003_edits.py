"""What edits need: a job's parent, a way from a picture to its children, the sources in use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add them. Columns are explained in `studio/store/tables.py`."""
    wide = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("jobs", sa.Column("parent_id", wide))
    op.create_index(
        "pictures_by_parent",
        "pictures",
        ["parent_id", "id"],
        sqlite_where=sa.text("parent_id IS NOT NULL"),
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_table(
        "used_sources",
        sa.Column("sha256", sa.Text, primary_key=True, nullable=False),
        sqlite_strict=True,
    )

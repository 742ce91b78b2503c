"""Runs of fine-tuning, what was measured after each epoch, and their verdicts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
STATES = "'running', 'paused', 'interrupted', 'failed', 'trained', 'kept', 'discarded'"


def upgrade() -> None:
    """Add them. Columns are explained in `studio/store/tables.py`."""
    wide = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    seconds = sa.Double().with_variant(sa.REAL(), "sqlite")
    op.create_table(
        "runs",
        sa.Column("number", wide, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("created_at", seconds, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("epochs", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("about", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("kept", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.CheckConstraint(f"state IN ({STATES})", name="runs_state_is_known"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "run_epochs",
        sa.Column("run", sa.Text, sa.ForeignKey("runs.id"), primary_key=True, nullable=False),
        sa.Column("epoch", sa.Integer, primary_key=True, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
        sa.Column("picture", sa.Text, nullable=False, server_default=sa.text("''")),
        sqlite_strict=True,
    )
    op.create_table(
        "run_verdicts",
        sa.Column("number", wide, primary_key=True, autoincrement=True),
        sa.Column("run", sa.Text, sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("campaign", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("by_reward", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index("run_verdicts_by_run", "run_verdicts", ["run", "number"])
    op.create_index("run_verdicts_by_campaign", "run_verdicts", ["campaign"])

"""Votes, which nothing can change or remove, and what they are about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

APPEND_ONLY = ("votes", "undos")


def upgrade() -> None:
    """Make what raters share. Columns are explained in `studio/store/tables.py`."""
    op.create_index("pictures_by_sha256", "pictures", ["sha256"])
    _make_campaigns()
    _make_campaign_pictures()
    _make_pairs()
    _make_raters()
    _make_votes()
    _index_votes()
    _make_undos()
    _make_tallies()
    _make_shared_pictures()
    for table in APPEND_ONLY:
        make_append_only(table)


def make_append_only(table: str) -> None:
    """Let the database refuse every change and removal. A batch migration drops these triggers."""
    if op.get_context().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION '{table} are append-only' "
        "USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    for verb, each in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER {table}_refuse_{verb.lower()} BEFORE {verb} ON {table} "
            f"FOR EACH {each} EXECUTE FUNCTION {table}_are_append_only()"
        )


def _make_campaigns() -> None:
    op.create_table(
        "campaigns",
        sa.Column("number", _wide(), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("created_at", _seconds(), nullable=False),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'archived')", name="campaigns_state_is_known"
        ),
        sa.CheckConstraint("name <> ''", name="campaigns_have_a_name"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )


def _make_campaign_pictures() -> None:
    op.create_table(
        "campaign_pictures",
        sa.Column("number", _wide(), primary_key=True, autoincrement=True),
        sa.Column("campaign", sa.Text, sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("negative_prompt", sa.Text, nullable=False),
        sa.Column("contestant", sa.Text, nullable=False),
        sa.Column("seed", _wide(), nullable=False),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index(
        "campaign_pictures_once", "campaign_pictures", ["campaign", "sha256"], unique=True
    )
    op.create_index("campaign_pictures_in_order", "campaign_pictures", ["campaign", "number"])


def _make_pairs() -> None:
    op.create_table(
        "pairs",
        sa.Column("number", _wide(), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("campaign", sa.Text, sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("negative_prompt", sa.Text, nullable=False),
        sa.Column("left", sa.Text, nullable=False, quote=True),
        sa.Column("right", sa.Text, nullable=False, quote=True),
        sa.Column("left_name", sa.Text, nullable=False, unique=True),
        sa.Column("right_name", sa.Text, nullable=False, unique=True),
        sa.Column("selection", sa.Text, nullable=False),
        sa.Column("held_out", sa.Integer, nullable=False),
        sa.Column("repeat_of", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.CheckConstraint("held_out IN (0, 1)", name="pairs_held_out_is_boolean"),
        sa.CheckConstraint('"left" <> "right"', name="pairs_show_two_pictures"),
        sa.CheckConstraint(
            "state IN ('waiting', 'answered', 'dropped')", name="pairs_state_is_known"
        ),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index("pairs_in_order", "pairs", ["campaign", "rater", "state", "number"])
    op.create_index(
        "pairs_by_repeat",
        "pairs",
        ["repeat_of"],
        sqlite_where=sa.text("repeat_of IS NOT NULL"),
        postgresql_where=sa.text("repeat_of IS NOT NULL"),
    )


def _make_raters() -> None:
    op.create_table(
        "raters",
        sa.Column("name", sa.Text, primary_key=True, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("pseudonym", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", _seconds(), nullable=False),
        sa.CheckConstraint("role IN ('artist', 'rater')", name="raters_role_is_known"),
        sa.CheckConstraint("name <> ''", name="raters_have_a_name"),
        sqlite_strict=True,
    )


def _make_votes() -> None:
    op.create_table(
        "votes",
        sa.Column("number", _wide(), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("created_at", _seconds(), nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("campaign", sa.Text, nullable=False),
        sa.Column("pair_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("negative_prompt", sa.Text, nullable=False),
        sa.Column("left", sa.Text, nullable=False, quote=True),
        sa.Column("right", sa.Text, nullable=False, quote=True),
        sa.Column("choice", sa.Text, nullable=False),
        sa.Column("strength", _seconds()),
        sa.Column("response_ms", sa.Integer, nullable=False),
        sa.Column("selection", sa.Text, nullable=False),
        sa.Column("repeat_of", sa.Text),
        sa.Column("held_out", sa.Integer, nullable=False),
        sa.Column("app_version", sa.Text, nullable=False),
        sa.CheckConstraint("id <> '' AND rater <> ''", name="votes_have_an_id_and_a_rater"),
        sa.CheckConstraint(
            "choice IN ('left', 'right', 'tie', 'both_bad', 'skip', 'star', 'rating')",
            name="votes_choice_is_known",
        ),
        sa.CheckConstraint(
            "(choice IN ('star', 'rating')) = (\"right\" = '')",
            name="votes_right_is_there_for_pairs",
        ),
        sa.CheckConstraint(
            "choice NOT IN ('star', 'rating') OR "
            "(strength IS NOT NULL AND strength BETWEEN 0 AND 5)",
            name="votes_on_one_picture_have_a_strength",
        ),
        sa.CheckConstraint('"left" <> "right"', name="votes_compare_two_pictures"),
        sa.CheckConstraint('length("left") = 64', name="votes_left_is_a_sha256"),
        sa.CheckConstraint('length("right") IN (0, 64)', name="votes_right_is_a_sha256"),
        sa.CheckConstraint("response_ms BETWEEN 0 AND 86400000", name="votes_took_at_most_a_day"),
        sa.CheckConstraint(
            "selection IN ('random', 'eig', 'repeat', 'control', 'tournament', 'import', 'batch', "
            "'stars')",
            name="votes_selection_is_known",
        ),
        sa.CheckConstraint("held_out IN (0, 1)", name="votes_held_out_is_boolean"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )


def _index_votes() -> None:
    op.create_index("votes_by_campaign", "votes", ["campaign", "number"])
    op.create_index("votes_by_campaign_and_rater", "votes", ["campaign", "rater", "number"])
    op.create_index("votes_by_rater", "votes", ["rater", "number"])
    op.create_index("votes_by_session", "votes", ["rater", "session_id", "number"])
    op.create_index(
        "votes_once_a_pair",
        "votes",
        ["pair_id", "rater", "attempt"],
        unique=True,
        sqlite_where=sa.text("pair_id <> ''"),
        postgresql_where=sa.text("pair_id <> ''"),
    )
    op.create_index(
        "votes_by_repeat",
        "votes",
        ["repeat_of"],
        sqlite_where=sa.text("repeat_of IS NOT NULL"),
        postgresql_where=sa.text("repeat_of IS NOT NULL"),
    )


def _make_undos() -> None:
    op.create_table(
        "undos",
        sa.Column("number", _wide(), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("vote_id", sa.Text, sa.ForeignKey("votes.id"), nullable=False, unique=True),
        sa.Column("created_at", _seconds(), nullable=False),
        sa.Column("rater", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.CheckConstraint("id <> ''", name="undos_have_an_id"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )


def _make_tallies() -> None:
    op.create_table(
        "tallies",
        sa.Column("campaign", sa.Text, primary_key=True, nullable=False),
        sa.Column("rater", sa.Text, primary_key=True, nullable=False),
        *(
            sa.Column(name, sa.Integer, nullable=False, quote=True)
            for name in ("votes", "left", "right", "ties", "both_bad", "skips", "on_one_picture")
        ),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("held_out", "repeats", "repeats_same", "undone")
        ),
        sqlite_strict=True,
    )


def _make_shared_pictures() -> None:
    op.create_table(
        "shared_pictures",
        sa.Column("sha256", sa.Text, primary_key=True, nullable=False),
        sa.Column("part", sa.Integer, primary_key=True, nullable=False),
        sa.Column("parts", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("part BETWEEN 0 AND parts - 1", name="shared_pictures_part_is_within"),
        sa.CheckConstraint("length(content) <= 1048576", name="shared_pictures_part_is_small"),
        sqlite_strict=True,
    )


def _seconds() -> sa.types.TypeEngine:
    return sa.Double().with_variant(sa.REAL(), "sqlite")


def _wide() -> sa.types.TypeEngine:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")

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
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
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
    Index("pictures_by_sha256", "sha256"),
    Index(
        "pictures_by_parent",
        "parent_id",
        "id",
        sqlite_where=text("parent_id IS NOT NULL"),
        postgresql_where=text("parent_id IS NOT NULL"),
    ),
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
    Column("parent_id", WIDE),  # the picture that its pictures are made from
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

# Sources and masks that a job or picture names; their files are never swept.
USED_SOURCES = Table(
    "used_sources",
    METADATA,
    Column("sha256", Text, primary_key=True, nullable=False),  # of the pixels
    sqlite_strict=True,
)

# What raters share. On a server many studios see these; the tables above are each studio's own.
CAMPAIGNS = Table(
    "campaigns",
    METADATA,
    Column("number", WIDE, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("plan", Text, nullable=False),  # JSON of the CampaignPlan
    Column("created_at", SECONDS, nullable=False),
    CheckConstraint("state IN ('running', 'paused', 'archived')", name="campaigns_state_is_known"),
    CheckConstraint("name <> ''", name="campaigns_have_a_name"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

CAMPAIGN_PICTURES = Table(
    "campaign_pictures",
    METADATA,
    Column("number", WIDE, primary_key=True, autoincrement=True),
    Column("campaign", Text, ForeignKey("campaigns.id"), nullable=False),
    Column("sha256", Text, nullable=False),  # of the file's bytes
    Column("prompt", Text, nullable=False),
    Column("negative_prompt", Text, nullable=False),
    Column("contestant", Text, nullable=False),
    Column("seed", WIDE, nullable=False),
    Index("campaign_pictures_once", "campaign", "sha256", unique=True),
    Index("campaign_pictures_in_order", "campaign", "number"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

PAIRS = Table(
    "pairs",
    METADATA,
    Column("number", WIDE, primary_key=True, autoincrement=True),  # the queue's order
    Column("id", Text, nullable=False, unique=True),
    Column("campaign", Text, ForeignKey("campaigns.id"), nullable=False),
    Column("rater", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("negative_prompt", Text, nullable=False),
    Column("left", Text, nullable=False, quote=True),  # sha256; shuffled here, not in the page
    Column("right", Text, nullable=False, quote=True),
    Column("left_name", Text, nullable=False, unique=True),  # random, of this pair alone
    Column("right_name", Text, nullable=False, unique=True),
    Column("selection", Text, nullable=False),
    Column("held_out", Integer, nullable=False),
    Column("repeat_of", Text),
    Column("state", Text, nullable=False),
    CheckConstraint("held_out IN (0, 1)", name="pairs_held_out_is_boolean"),
    CheckConstraint('"left" <> "right"', name="pairs_show_two_pictures"),
    CheckConstraint("state IN ('waiting', 'answered', 'dropped')", name="pairs_state_is_known"),
    Index("pairs_in_order", "campaign", "rater", "state", "number"),
    Index(
        "pairs_by_repeat",
        "repeat_of",
        sqlite_where=text("repeat_of IS NOT NULL"),
        postgresql_where=text("repeat_of IS NOT NULL"),
    ),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

RATERS = Table(
    "raters",
    METADATA,
    Column("name", Text, primary_key=True, nullable=False),
    Column("role", Text, nullable=False),
    Column("pseudonym", Text, nullable=False, unique=True),
    Column("created_at", SECONDS, nullable=False),
    CheckConstraint("role IN ('artist', 'rater')", name="raters_role_is_known"),
    CheckConstraint("name <> ''", name="raters_have_a_name"),
    sqlite_strict=True,
)

# Append-only: triggers refuse UPDATE, DELETE and TRUNCATE of votes and undos.
VOTES = Table(
    "votes",
    METADATA,
    Column("number", WIDE, primary_key=True, autoincrement=True),  # order of arrival
    Column("id", Text, nullable=False, unique=True),
    Column("created_at", SECONDS, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("rater", Text, nullable=False),
    Column("campaign", Text, nullable=False),
    Column("pair_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),  # undone votes of the rater on this pair before
    Column("prompt", Text, nullable=False),
    Column("negative_prompt", Text, nullable=False),
    Column("left", Text, nullable=False, quote=True),
    Column("right", Text, nullable=False, quote=True),
    Column("choice", Text, nullable=False),
    Column("strength", SECONDS),
    Column("response_ms", Integer, nullable=False),
    Column("selection", Text, nullable=False),
    Column("repeat_of", Text),
    Column("held_out", Integer, nullable=False),
    Column("app_version", Text, nullable=False),
    CheckConstraint("id <> '' AND rater <> ''", name="votes_have_an_id_and_a_rater"),
    CheckConstraint(
        "choice IN ('left', 'right', 'tie', 'both_bad', 'skip', 'star', 'rating')",
        name="votes_choice_is_known",
    ),
    CheckConstraint(
        "(choice IN ('star', 'rating')) = (\"right\" = '')", name="votes_right_is_there_for_pairs"
    ),
    CheckConstraint(
        "choice NOT IN ('star', 'rating') OR (strength IS NOT NULL AND strength BETWEEN 0 AND 5)",
        name="votes_on_one_picture_have_a_strength",
    ),
    CheckConstraint('"left" <> "right"', name="votes_compare_two_pictures"),
    CheckConstraint('length("left") = 64', name="votes_left_is_a_sha256"),
    CheckConstraint('length("right") IN (0, 64)', name="votes_right_is_a_sha256"),
    CheckConstraint("response_ms BETWEEN 0 AND 86400000", name="votes_took_at_most_a_day"),
    CheckConstraint(
        "selection IN ('random', 'eig', 'repeat', 'control', 'tournament', 'import', 'batch', "
        "'stars')",
        name="votes_selection_is_known",
    ),
    CheckConstraint("held_out IN (0, 1)", name="votes_held_out_is_boolean"),
    Index("votes_by_campaign", "campaign", "number"),
    Index("votes_by_campaign_and_rater", "campaign", "rater", "number"),
    Index("votes_by_rater", "rater", "number"),
    Index("votes_by_session", "rater", "session_id", "number"),
    Index(
        "votes_once_a_pair",
        "pair_id",
        "rater",
        "attempt",
        unique=True,
        sqlite_where=text("pair_id <> ''"),
        postgresql_where=text("pair_id <> ''"),
    ),
    Index(
        "votes_by_repeat",
        "repeat_of",
        sqlite_where=text("repeat_of IS NOT NULL"),
        postgresql_where=text("repeat_of IS NOT NULL"),
    ),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

UNDOS = Table(
    "undos",
    METADATA,
    Column("number", WIDE, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("vote_id", Text, ForeignKey("votes.id"), nullable=False, unique=True),
    Column("created_at", SECONDS, nullable=False),
    Column("rater", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    CheckConstraint("id <> ''", name="undos_have_an_id"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

# Sums over votes and undos, kept in the transactions that add those; can be counted anew.
TALLIES = Table(
    "tallies",
    METADATA,
    Column("campaign", Text, primary_key=True, nullable=False),
    Column("rater", Text, primary_key=True, nullable=False),
    *(
        Column(name, Integer, nullable=False, quote=True)
        for name in ("votes", "left", "right", "ties", "both_bad", "skips", "on_one_picture")
    ),
    *(
        Column(name, Integer, nullable=False)
        for name in ("held_out", "repeats", "repeats_same", "undone")
    ),
    sqlite_strict=True,
)

# Files of pictures that a server hands to every studio, in parts of at most 1 MiB.
SHARED_PICTURES = Table(
    "shared_pictures",
    METADATA,
    Column("sha256", Text, primary_key=True, nullable=False),
    Column("part", Integer, primary_key=True, nullable=False),  # from 0
    Column("parts", Integer, nullable=False),  # of the whole file
    Column("content", LargeBinary, nullable=False),
    CheckConstraint("part BETWEEN 0 AND parts - 1", name="shared_pictures_part_is_within"),
    CheckConstraint("length(content) <= 1048576", name="shared_pictures_part_is_small"),
    sqlite_strict=True,
)

# Runs of fine-tuning; their checkpoints and pictures lie in the data folder.
RUNS = Table(
    "runs",
    METADATA,
    Column("number", WIDE, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("plan", Text, nullable=False),  # JSON of the RunPlan
    Column("created_at", SECONDS, nullable=False),
    Column("sentence", Text, nullable=False, server_default=text("''")),  # why it is in this state
    Column("epochs", Integer, nullable=False, server_default=text("0")),  # planned
    Column("about", Text, nullable=False, server_default=text("'{}'")),  # JSON: lineage
    Column("kept", Text, nullable=False, server_default=text("''")),  # JSON of Kept
    CheckConstraint(
        "state IN ('running', 'paused', 'interrupted', 'failed', 'trained', 'kept', 'discarded')",
        name="runs_state_is_known",
    ),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

RUN_EPOCHS = Table(
    "run_epochs",
    METADATA,
    Column("run", Text, ForeignKey("runs.id"), primary_key=True, nullable=False),
    Column("epoch", Integer, primary_key=True, nullable=False),  # 0 is the base
    Column("figures", Text, nullable=False),  # JSON
    Column("picture", Text, nullable=False, server_default=text("''")),  # relative to the folder
    sqlite_strict=True,
)

RUN_VERDICTS = Table(
    "run_verdicts",
    METADATA,
    Column("number", WIDE, primary_key=True, autoincrement=True),
    Column("run", Text, ForeignKey("runs.id"), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("campaign", Text, nullable=False),  # id; its votes may lie on a server
    Column("sha256", Text, nullable=False),  # of the adapter
    Column("label", Text, nullable=False),  # the tuned contestant's
    Column("by_reward", Text, nullable=False, server_default=text("'{}'")),  # JSON
    Index("run_verdicts_by_run", "run", "number"),
    Index("run_verdicts_by_campaign", "campaign"),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)

# SQLite's full-text index over prompts; `search.py` keeps it. No part of METADATA: a virtual table.
PROMPT_WORDS = table("prompt_words", column("rowid"), column("words"), column("marks"))

"""Repeats are counted where the pair was decided both times; so are those from before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_REPEATS = """
    SELECT repeat.campaign, repeat.rater, count(*) AS repeats,
        sum(CASE WHEN (repeat.choice = first.choice) = (repeat."left" = first."left")
            THEN 1 ELSE 0 END) AS same
    FROM votes AS repeat
    JOIN votes AS first ON first.id = repeat.repeat_of
    WHERE repeat.repeat_of IS NOT NULL
        AND repeat.choice IN ('left', 'right') AND first.choice IN ('left', 'right')
        AND ((repeat."left" = first."left" AND repeat."right" = first."right")
            OR (repeat."left" = first."right" AND repeat."right" = first."left"))
        AND NOT EXISTS (SELECT 1 FROM undos WHERE vote_id = repeat.id)
        AND NOT EXISTS (SELECT 1 FROM undos WHERE vote_id = first.id)
    GROUP BY repeat.campaign, repeat.rater
"""


def upgrade() -> None:
    """Count them anew; votes stay as they are."""
    connection = op.get_bind()
    found = connection.execute(sa.text(_REPEATS)).mappings().all()
    connection.execute(sa.text("UPDATE tallies SET repeats = 0, repeats_same = 0"))
    for row in found:
        connection.execute(
            sa.text(
                "UPDATE tallies SET repeats = :repeats, repeats_same = :same"
                " WHERE campaign = :campaign AND rater = :rater"
            ),
            dict(row),
        )

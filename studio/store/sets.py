"""Named sets of panels: what 'one panel a line' drew, for the gallery's filter."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from studio.store.tables import JOBS, PICTURES

MAX_SETS = 500


@dataclass(frozen=True)
class PictureSet:
    """One set with its pictures outside the bin."""

    id: str  # `Job.set_id` and `PictureFilter.set_id`
    name: str  # as its artist called it; '' when the database that knew was lost
    pictures: int


def named_sets(engine: Engine) -> list[PictureSet]:
    """Return the sets that have pictures outside the bin, the one drawn last first."""
    inside = (PICTURES.c.set_id > "", PICTURES.c.shelf == "gallery")
    counted = (
        select(PICTURES.c.set_id, func.count().label("pictures"), func.max(PICTURES.c.id))
        .where(*inside)
        .group_by(PICTURES.c.set_id)
        .order_by(func.max(PICTURES.c.id).desc())
        .limit(MAX_SETS)
    )
    with engine.connect() as connection:
        counts = {row.set_id: row.pictures for row in connection.execute(counted)}
        labels = select(JOBS.c.set_id, func.max(JOBS.c.label).label("label"))
        labelled = labels.where(JOBS.c.set_id.in_(counts)).group_by(JOBS.c.set_id)
        names = {row.set_id: _name(row.label) for row in connection.execute(labelled)}
    return [PictureSet(set_id, names.get(set_id, ""), n) for set_id, n in counts.items()]


def _name(label: str) -> str:
    """Return 'Harbour' of a panel's label 'Harbour, panel 3 of 12'."""
    return label.rpartition(", panel ")[0] or label

"""At start-up: bring picture files and rows together after a crash or a tidy-up by hand."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from PIL import Image
from sqlalchemy import select, update

from studio.core.errors import NotFoundError, StorageError
from studio.core.picture import Picture
from studio.store.database import Writer
from studio.store.files import FORMATS, open_picture, read_bytes, sweep_temporaries
from studio.store.metadata import PictureRecord, read_metadata
from studio.store.search import mark_prompt
from studio.store.tables import PICTURES

SWEPT = ("pictures", "thumbnails", "sources", "drafts")  # folders where killed writes may lie
Orphans = dict[int, str]  # adopted pictures whose parent was not listed yet -> its sha256


@dataclass(frozen=True)
class Reconciliation:
    """What was found: counts, for the status line and the log."""

    adopted: int = 0  # whole files of ours without a row, listed now
    missing: int = 0  # rows whose file is gone: hidden, kept
    found_again: int = 0  # rows whose file came back: shown again
    swept: int = 0  # temporary files of killed writes, removed
    foreign: int = 0  # PNGs without a readable recipe of ours, left alone


class Rows(Protocol):
    """What reconciliation needs of the store."""

    def add_row(
        self, path: str, content: bytes, record: PictureRecord, size: tuple[int, int]
    ) -> Picture:
        """List a file that is already in place."""


def reconcile_folder(
    rows: Rows, root: Path, writer: Writer, filing: threading.Lock, opened_at: float
) -> Reconciliation:
    """Compare `root`/pictures with the rows, a day's folder at a time.

    `filing` is held while a folder is compared, so that no picture is between file and row.
    `opened_at` is when the store was opened, in seconds since 1970.
    """
    pictures = root / "pictures"
    swept = sum(sweep_temporaries(root / name, opened_at) for name in SWEPT)
    folders = (
        {path.name for path in pictures.iterdir() if path.is_dir()} if pictures.is_dir() else set()
    )
    totals, parentless = Reconciliation(swept=swept), Orphans()
    for day in sorted(folders | _days_of_rows(writer)):
        with filing:
            found = _reconcile_day(rows, root, writer, f"pictures/{day}/", parentless)
        totals = Reconciliation(
            totals.adopted + found.adopted,
            totals.missing + found.missing,
            totals.found_again + found.found_again,
            swept,
            totals.foreign + found.foreign,
        )
    _give_parents(writer, parentless)
    return totals


def _days_of_rows(writer: Writer) -> set[str]:
    """Return the days' folders that rows name, hopping from one to the next by the path's index."""
    days: set[str] = set()
    after = "pictures/"
    with writer.connect() as connection:
        while True:
            query = select(PICTURES.c.path).where(PICTURES.c.path > after)
            path = connection.execute(query.order_by(PICTURES.c.path).limit(1)).scalar()
            if path is None or not path.startswith("pictures/") or path.count("/") != 2:
                return days
            days.add(path.split("/")[1])
            after = path.rpartition("/")[0] + "0"  # '0' is the character after '/'


def _reconcile_day(
    rows: Rows, root: Path, writer: Writer, prefix: str, parentless: Orphans
) -> Reconciliation:
    folder = root / prefix
    on_disk = (
        {f"{prefix}{entry.name}" for entry in folder.glob("*.png") if not entry.is_symlink()}
        if folder.is_dir()
        else set()
    )
    listed = select(PICTURES.c.path, PICTURES.c.id, PICTURES.c.shelf).where(
        PICTURES.c.path >= prefix, PICTURES.c.path < f"{prefix[:-1]}0"
    )
    with writer.connect() as connection:
        known = {row.path: (row.id, row.shelf) for row in connection.execute(listed)}
    gone = [i for path, (i, shelf) in known.items() if path not in on_disk and shelf == "gallery"]
    back = [i for path, (i, shelf) in known.items() if path in on_disk and shelf == "missing"]
    _shelve(writer, gone, "missing")
    _shelve(writer, back, "gallery")
    orphans = sorted(on_disk - set(known))
    adopted = sum(_adopt(rows, root, path, writer, parentless) for path in orphans)
    return Reconciliation(adopted, len(gone), len(back), 0, len(orphans) - adopted)


def _shelve(writer: Writer, picture_ids: list[int], shelf: str) -> None:
    if not picture_ids:
        return
    with writer.begin() as connection:
        for picture_id in picture_ids:
            statement = update(PICTURES).where(PICTURES.c.id == picture_id).values(shelf=shelf)
            row = connection.execute(statement.returning(PICTURES)).mappings().one()
            mark_prompt(connection, row)


def _adopt(rows: Rows, root: Path, path: str, writer: Writer, parentless: Orphans) -> bool:
    """List an orphan if it is whole and carries our recipe."""
    try:
        content = read_bytes(root / path)
        record = read_metadata(content).record
        if record is None or not record.job_id:
            return False
        open_picture(content)
    except (StorageError, NotFoundError):
        return False
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        size = image.size
    if record.parent:  # its number counts only in the database that it was written under
        record = replace(record, parent_id=_number_of(writer, record.parent))
    picture = rows.add_row(path, content, record, size)
    if record.parent and picture.parent_id is None:
        parentless[picture.id] = record.parent
    return True


def _give_parents(writer: Writer, parentless: Orphans) -> None:
    """Link the adopted pictures whose parent was adopted after them."""
    for picture_id, parent in parentless.items():
        parent_id = _number_of(writer, parent)
        if parent_id is not None and parent_id != picture_id:
            change = update(PICTURES).where(PICTURES.c.id == picture_id)
            with writer.begin() as connection:
                connection.execute(change.values(parent_id=parent_id))


def _number_of(writer: Writer, sha256: str) -> int | None:
    query = select(PICTURES.c.id).where(PICTURES.c.sha256 == sha256).order_by(PICTURES.c.id)
    with writer.connect() as connection:
        return connection.execute(query.limit(1)).scalar()

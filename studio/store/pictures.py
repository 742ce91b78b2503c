"""Finished pictures: a PNG each under the data folder, and a row that finds it.

The PNG is durable before its row exists, and carries everything the row needs: whatever moment the
power goes, the picture is whole and listed, whole and adopted at the next start, or not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Unpack

from PIL import Image
from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import IntegrityError

from studio.core.errors import InvalidRequestError, NotFoundError, StorageError
from studio.core.picture import Picture
from studio.core.request import GenerationRequest
from studio.store.database import Database
from studio.store.files import atomic_write, remove
from studio.store.metadata import PictureRecord, encode_png
from studio.store.naming import is_named, named_for_raters
from studio.store.picture_query import Filters, PictureFilter, count_query, page_query
from studio.store.reconcile import Reconciliation, reconcile_folder
from studio.store.search import forget_prompt, index_prompt, mark_prompt
from studio.store.sets import PictureSet, named_sets
from studio.store.tables import JOBS, PICTURES
from studio.store.thumbnails import make_thumbnail
from studio.store.used_sources import note_use

PAGE = 60  # pictures a page shows
MAX_PAGE = 1000
MAX_COUNTS = 256  # remembered; one a filter


class PictureStore:
    """Every picture of one data folder; may be used from several threads."""

    def __init__(
        self, database: Database, data_dir: Path, clock: Callable[[], float] = time.time
    ) -> None:
        """Use an open database; `clock` gives seconds since 1970."""
        self._engine = database.engine
        self._writer = database.writer
        self._root = data_dir.resolve()
        self._clock = clock
        self._opened_at = time.time()
        self._filing = threading.Lock()  # between file and row: `reconcile` must not look
        self._counts: dict[tuple[PictureFilter, int | None], int] = {}

    def save(
        self,
        image: Image.Image,
        request: GenerationRequest,
        *,
        job_id: str,
        index: int,
        seconds: float,
        parent_id: int | None = None,
    ) -> Picture:
        """File a finished picture, durably; its set and panel are those of its job.

        Raises `DiskFullError` or `StorageError`. If only the row could not be written, the file is
        kept and listed at the next start.
        """
        if not job_id or not all(c.isascii() and (c.isalnum() or c == "-") for c in job_id):
            raise ValueError(f"a job's id is made by us: {job_id!r}")
        set_id, panel = self._set_of(job_id)
        parent = self._sha256_of(parent_id)
        record = PictureRecord(
            request, index, job_id, seconds, self._clock(), parent_id, set_id, panel, parent
        )
        content = encode_png(image, record)
        with self._filing:
            path = self._free_path(record)
            atomic_write(self._root / path, content)
            picture = self.add_row(path, content, record, image.size)
        with contextlib.suppress(StorageError):  # `thumbnail` makes it again when asked for
            make_thumbnail(image, self._thumbnail_path(picture))
        return picture

    def add_row(
        self, path: str, content: bytes, record: PictureRecord, size: tuple[int, int]
    ) -> Picture:
        """List a file that is already in place; `size` is (width, height) in pixels.

        A file that is listed already gives its present row.
        """
        request = record.request
        values = {
            "path": path,
            "sha256": hashlib.sha256(content).hexdigest(),
            "job_id": record.job_id,
            "idx": record.index,
            "seed": request.seeds_of(record.index)[0],
            "width": size[0],
            "height": size[1],
            "seconds": record.seconds,
            "created_at": record.created_at,
            "request": request.to_json(),
            "prompt": request.prompt,
            "model": request.model,
            "model_hash": request.model_hash,
            "set_id": record.set_id,
            "panel": record.panel,
            "parent_id": record.parent_id,
        }
        try:
            with self._writer.begin() as connection:
                row = connection.execute(insert(PICTURES).values(values).returning(PICTURES))
                picture = _picture(row.mappings().one())
                index_prompt(connection, picture.id, request.prompt)
                note_use(connection, request)
        except IntegrityError:  # another process adopted it in between
            with self._engine.connect() as connection:
                row = connection.execute(select(PICTURES).where(PICTURES.c.path == path))
                return _picture(row.mappings().one())
        self.forget_counts()
        return picture

    def get(self, picture_id: int) -> Picture:
        """Return a picture, also one in the bin. Raises `NotFoundError`."""
        with self._engine.connect() as connection:
            return _picture(_row(connection, picture_id))

    def find(self, sha256: str) -> Picture | None:
        """Return the newest picture whose file has this hash and that is not in the bin."""
        return self.find_all([sha256]).get(sha256)

    def find_all(self, hashes: Collection[str]) -> dict[str, Picture]:
        """Return what `find` does for each of some hundred hashes, by hash; lost ones are missing.

        One question to the database, however many there are.
        """
        query = (
            select(PICTURES)
            .where(PICTURES.c.sha256.in_(hashes), PICTURES.c.shelf == "gallery")
            .order_by(PICTURES.c.id)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return {row["sha256"]: _picture(row) for row in rows}

    def is_in_bin(self, sha256: str) -> bool:
        """Whether a picture with this hash was thrown away and is not in the gallery too."""
        query = select(PICTURES.c.shelf).where(PICTURES.c.sha256 == sha256)
        with self._engine.connect() as connection:
            shelves = set(connection.execute(query).scalars())
        return "bin" in shelves and "gallery" not in shelves

    def page(
        self,
        *,
        before: int | None = None,
        limit: int = PAGE,
        **filters: Unpack[Filters],
    ) -> list[Picture]:
        """Return up to `limit` pictures, newest first, older than the id `before`.

        The next page begins before the last id of this one, so a page costs the same however far
        back it lies.
        """
        wanted = PictureFilter(**filters)
        query = page_query(self._engine.dialect.name, wanted, before, min(max(limit, 1), MAX_PAGE))
        if query is None:
            return []
        with self._engine.connect() as connection:
            return [_picture(row) for row in connection.execute(query).mappings()]

    def count(self, **filters: Unpack[Filters]) -> int:
        """Return how many pictures all pages of these filters hold; counted once a change."""
        wanted = PictureFilter(**filters)
        query = count_query(self._engine.dialect.name, wanted)
        if query is None:
            return 0
        counts = self._counts  # taken first: a change from here on makes a fresh one
        with self._engine.connect() as connection:
            newest = connection.execute(
                select(PICTURES.c.id).order_by(PICTURES.c.id.desc()).limit(1)
            ).scalar()  # notices what another process saved
            key = (wanted, newest)
            known = counts.get(key)
            if known is None:
                known = counts[key] = connection.execute(query).scalar_one()
            if len(counts) > MAX_COUNTS:
                self.forget_counts()
            return known

    def forget_counts(self) -> None:
        """Count anew at the next question; every change calls this."""
        self._counts = {}  # a fresh one: a count that is under way must not land in it

    def set_pictures(self, set_id: str) -> list[Picture]:
        """Return a set's pictures in the order of its panels, without those in the bin."""
        query = (
            select(PICTURES)
            .where(PICTURES.c.set_id == set_id, PICTURES.c.shelf == "gallery")
            .order_by(PICTURES.c.panel, PICTURES.c.idx, PICTURES.c.id)
        )
        with self._engine.connect() as connection:
            return [_picture(row) for row in connection.execute(query).mappings()]

    def sets(self) -> list[PictureSet]:
        """Return the sets that have pictures outside the bin, the one drawn last first."""
        return named_sets(self._engine)

    def children(self, picture_id: int, limit: int = MAX_PAGE) -> list[Picture]:
        """Return the pictures that were made from one, oldest first, also those in the bin."""
        query = select(PICTURES).where(PICTURES.c.parent_id == picture_id)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(PICTURES.c.id).limit(limit)).mappings()
            return [_picture(row) for row in rows]

    def star(self, picture_id: int, starred: bool) -> Picture:
        """Set or take away the star. Raises `NotFoundError`."""
        return self._change(picture_id, starred=int(starred))

    def rate(self, picture_id: int, rating: int | None) -> Picture:
        """Rate 1 to 5, or take the rating back with None. Raises `NotFoundError`."""
        if rating is not None and rating not in range(1, 6):
            raise InvalidRequestError("rating", "A rating is 1 to 5 stars, or none.")
        return self._change(picture_id, rating=rating)

    def delete(self, picture_id: int) -> Picture:
        """Put a picture into the bin; its file stays. Raises `NotFoundError`."""
        return self._change(picture_id, shelf="bin", deleted_at=self._clock())

    def restore(self, picture_id: int) -> Picture:
        """Take a picture out of the bin, as it was. Raises `NotFoundError`."""
        return self._change(picture_id, shelf="gallery", deleted_at=None)

    def purge(self, older_than: float, votes: Engine | None = None) -> int:
        """Remove for good what has been in the bin for `older_than` seconds; returns how many.

        A picture that a vote, a campaign, a job or another picture names stays in the bin; `votes`
        is the database of votes if it is another one. Raises `StorageError` when it does not
        answer, or when a file cannot be removed.
        """
        old = (PICTURES.c.shelf == "bin", PICTURES.c.deleted_at <= self._clock() - older_than)
        with self._engine.connect() as connection:
            query = select(PICTURES).where(*old, ~is_named())
            doomed = [_picture(row) for row in connection.execute(query).mappings()]
        if votes is not None and votes is not self._engine:
            named = named_for_raters(votes, [picture.sha256 for picture in doomed])
            doomed = [picture for picture in doomed if picture.sha256 not in named]
        for picture in doomed:
            # File first: an orphaned file would come back at the next start.
            remove(self._inside(picture.path))
            remove(self._thumbnail_path(picture))
            with self._writer.begin() as connection:
                connection.execute(delete(PICTURES).where(PICTURES.c.id == picture.id))
                forget_prompt(connection, picture.id)
        self.forget_counts()
        return len(doomed)

    def file(self, picture: Picture) -> Path:
        """Return the PNG's absolute path. Raises `NotFoundError` if it is not on disk."""
        path = self._inside(picture.path)
        if path.is_symlink() or not path.is_file():
            raise NotFoundError(
                f"The file of picture {picture.id} ({picture.path}) is not on disk any more. "
                "Put it back, or draw it again with its settings."
            )
        return path

    def thumbnail(self, picture: Picture) -> Path:
        """Return the path of the 256-pixel WebP, made now if it is lost.

        Raises `NotFoundError` if the picture is not on disk, `StorageError` if it is damaged.
        """
        path = self._thumbnail_path(picture)
        if not path.is_file():
            make_thumbnail(self.file(picture), path)
        return path

    def reconcile(self) -> Reconciliation:
        """Bring files and rows together; call it at start-up, it may run beside drawing."""
        result = reconcile_folder(self, self._root, self._writer, self._filing, self._opened_at)
        self.forget_counts()
        return result

    def _change(self, picture_id: int, **values: object) -> Picture:
        with self._writer.begin() as connection:
            connection.execute(update(PICTURES).where(PICTURES.c.id == picture_id).values(**values))
            row = _row(connection, picture_id)
            mark_prompt(connection, row)
        self.forget_counts()
        return _picture(row)

    def _set_of(self, job_id: str) -> tuple[str, int]:
        with self._engine.connect() as connection:
            query = select(JOBS.c.set_id, JOBS.c.panel).where(JOBS.c.id == job_id)
            row = connection.execute(query).one_or_none()
        return ("", 0) if row is None else (row.set_id, row.panel)

    def _sha256_of(self, picture_id: int | None) -> str:
        if picture_id is None:
            return ""
        query = select(PICTURES.c.sha256).where(PICTURES.c.id == picture_id)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar() or ""

    def _free_path(self, record: PictureRecord) -> str:
        """Return `pictures/{date}/{job}_{idx}_{seed}.png`, numbered if that is taken."""
        day = time.strftime("%Y-%m-%d", time.localtime(record.created_at))
        seed = record.request.seeds_of(record.index)[0]
        stem = f"pictures/{day}/{record.job_id[:40]}_{record.index}_{seed}"
        path, number = f"{stem}.png", 1
        while (self._root / path).exists():
            number += 1
            path = f"{stem}-{number}.png"
        return path

    def _thumbnail_path(self, picture: Picture) -> Path:
        day, name = picture.path.split("/")[-2:]
        return self._inside(f"thumbnails/{day}/{name.removesuffix('.png')}.webp")

    def _inside(self, path: str) -> Path:
        """Return the absolute path; a row that points out of the data folder finds nothing."""
        absolute = self._root / path
        if not absolute.parent.resolve().is_relative_to(self._root):
            raise NotFoundError(f"'{path[:80]}' does not lie in the data folder; it is not opened.")
        return absolute


def _row(connection: Connection, picture_id: int) -> RowMapping:
    query = select(PICTURES).where(PICTURES.c.id == picture_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no picture {picture_id} (any more). Reload the gallery.")
    return row


def _picture(row: RowMapping) -> Picture:
    return Picture(
        id=row["id"],
        job_id=row["job_id"],
        path=row["path"],
        sha256=row["sha256"],
        request=GenerationRequest.from_json(row["request"]),
        index=row["idx"],
        width=row["width"],
        height=row["height"],
        seconds=row["seconds"],
        created_at=row["created_at"],
        starred=bool(row["starred"]),
        rating=row["rating"],
        deleted_at=row["deleted_at"],
        parent_id=row["parent_id"],
        panel=row["panel"],
    )

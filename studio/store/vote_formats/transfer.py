"""Votes out of and into Easel, whole or not at all.

An import is read to its end before anything is stored: its pictures wait in a folder of their own,
its votes in a file. Only then do the pictures move beside the others, and all votes are added in
one transaction. An export is written beside its folder and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from studio.core.errors import EaselError, ImportRefusedError, NotFoundError, VoteRefusedError
from studio.core.vote import Undo, Vote
from studio.core.words import counted
from studio.store.files import flush_folder, is_abandoned, storage_error
from studio.store.raters import RaterStore
from studio.store.vote_formats import dpo, hpdv2, imagereward, native, pickapic
from studio.store.vote_formats.incoming import ImportChoices, Incoming, unpack
from studio.store.vote_formats.outgoing import STRIPPED, ExportChoices, Outgoing
from studio.store.vote_formats.spool import Spool
from studio.store.vote_formats.zipped import zipped
from studio.store.vote_pictures import VotePictures
from studio.store.votes import VoteStore

SCRATCH = ".transfer.tmp"


class Format(NamedTuple):
    """How one format is read and written."""

    read: Callable[[Incoming], Iterator[Vote | Undo]]
    write: Callable[[Outgoing], int]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "jsonl": Format(native.read, native.write),
        "pickapic": Format(pickapic.read, pickapic.write),
        "hpdv2": Format(hpdv2.read, hpdv2.write),
        "dpo": Format(dpo.read, dpo.write),
        "imagereward": Format(imagereward.read, imagereward.write),
    }
)


@dataclass(frozen=True)
class ImportReport:
    """What an import brought."""

    votes: int  # new ones
    known: int  # that were here already
    pictures: int  # new ones

    def __str__(self) -> str:
        known = f" {self.known:,} were here already." if self.known else ""
        taken = f"{counted(self.votes, 'vote')} and {counted(self.pictures, 'picture')}"
        return f"Took in {taken}.{known}"


@dataclass(frozen=True)
class ExportReport:
    """What an export holds, and what did not fit."""

    votes: int
    folder: Path
    left_out: Mapping[str, int]  # reason -> votes

    def __str__(self) -> str:
        lines = [f"Wrote {counted(self.votes, 'vote')} to {self.folder}."]
        lines += [f"{n:,} were left out: {reason}." for reason, n in self.left_out.items()]
        return " ".join(lines)


class VoteTransfer:
    """Imports into and exports out of one data folder."""

    def __init__(
        self, votes: VoteStore, raters: RaterStore, pictures: VotePictures, data_dir: Path
    ) -> None:
        """Use open stores; imports wait under `data_dir` until they are known good."""
        self._votes = votes
        self._raters = raters
        self._pictures = pictures
        self._data_dir = data_dir
        self._opened_at = time.time()

    def import_votes(
        self, format_name: str, path: Path, choices: ImportChoices | None = None
    ) -> ImportReport:
        """Take in a file, folder or zip of votes with its pictures, whole or not at all.

        Importing the same again adds nothing. Raises `ImportRefusedError`, `DiskFullError` and
        `StorageError`; then nothing of it was taken in.
        """
        chosen = _format(format_name)
        if not path.exists():
            raise ImportRefusedError(f"There is no {path}. Name a file, a folder or a zip.")
        for left in self._data_dir.glob(f"{SCRATCH}-*"):  # by an import that was killed
            if is_abandoned(left, self._opened_at):
                shutil.rmtree(left, ignore_errors=True)
        with _scratch(self._data_dir) as scratch:
            staging = scratch / "pictures"
            staging.mkdir()
            folder = Incoming(_root(path, scratch), staging, _only(path), choices)
            with closing(Spool(scratch / "votes.sqlite3")) as spool:
                for event in chosen.read(folder):
                    spool.add(event)
                total = spool.count()
                if not total:
                    raise ImportRefusedError(f"{path.name} holds no votes.")
                moved = self._move(folder.staged())
                try:
                    added = self._votes.add_all(spool.votes(), spool.undos())
                except (VoteRefusedError, NotFoundError) as error:
                    _remove(moved)
                    raise ImportRefusedError(f"{error} Nothing was taken in.") from error
                except EaselError:
                    _remove(moved)
                    raise
        return ImportReport(added, total - added, len(moved))

    def export_votes(
        self, format_name: str, directory: Path, choices: ExportChoices | None = None
    ) -> ExportReport:
        """Write votes with their pictures into a new or empty folder, whole or not at all.

        Raises `ImportRefusedError` for a folder that holds something, `StorageError`,
        `DiskFullError`.
        """
        chosen = _format(format_name)
        directory = directory.resolve()
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ImportRefusedError(
                f"{directory} is there already and not empty. Name a new folder for the export."
            )
        with _scratch(directory.parent) as folder:
            out = self._outgoing(folder, choices)
            try:
                count = chosen.write(out)
                shutil.rmtree(folder / STRIPPED, ignore_errors=True)
                if directory.exists():
                    directory.rmdir()
                folder.rename(directory)
                flush_folder(directory.parent)
            except OSError as error:
                raise storage_error(error, "export to", directory) from error
        return ExportReport(count, directory, dict(out.left_out))

    def export_zip(
        self, campaign: str, *, pseudonyms: bool = False, without_recipes: bool = False
    ) -> Iterator[bytes]:
        """Yield a zip of a campaign's votes and pictures in Easel's own format, as it is made.

        Neither memory nor disk holds more than a part of it. A zip that is cut off, because its
        reader left or a picture was lost meanwhile, has no table of contents and imports nothing.
        """
        choices = ExportChoices(campaign, pseudonyms, without_recipes)
        with _scratch(self._data_dir) as folder:
            yield from zipped(self._outgoing(folder, choices))

    def _outgoing(self, folder: Path, choices: ExportChoices | None) -> Outgoing:
        return Outgoing(
            folder,
            self._votes,
            self._pictures,
            choices or ExportChoices(),
            lambda name: self._raters.ensure(name).pseudonym,
        )

    def _move(self, staged: list[Path]) -> list[Path]:
        """Put staged pictures that are new in their place; returns where."""
        moved: list[Path] = []
        try:
            for picture in staged:
                target = self._pictures.path(picture.name)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    picture.replace(target)
                    moved.append(target)
            for parent in {path.parent for path in moved}:
                flush_folder(parent)
            self._pictures.share(picture.name for picture in staged)
        except OSError as error:
            _remove(moved)
            raise storage_error(error, "keep the pictures of the import in", target) from error
        except EaselError:
            _remove(moved)
            raise
        return moved


def _format(name: str) -> Format:
    found = FORMATS.get(name)
    if found is None:
        raise ImportRefusedError(f"There is no format '{name[:40]}'; one of {', '.join(FORMATS)}.")
    return found


def _root(path: Path, scratch: Path) -> Path:
    """Return the folder to read, unpacked if `path` is a zip."""
    if path.is_dir():
        return path
    if path.suffix.lower() == ".zip":
        folder = scratch / "unpacked"
        folder.mkdir()
        unpack(path, folder)
        return folder
    return path.parent


def _only(path: Path) -> str | None:
    """Return the name of the one file to read, if that is what was named."""
    return path.name if path.is_file() and path.suffix.lower() != ".zip" else None


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """Give a folder that is gone afterwards, unless it was renamed."""
    folder = parent / f"{SCRATCH}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise storage_error(error, "make a folder in", parent) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()

"""What an import may read: files of one folder, checked, staged until everything is known good."""

from __future__ import annotations

import time
import uuid
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, BinaryIO

from studio.core.errors import EaselError, ImportRefusedError, NotFoundError, StorageError
from studio.core.vote import Vote, vote_from_dict
from studio.store.files import atomic_write, storage_error
from studio.store.vote_pictures import check_picture, read_picture

MAX_ZIP_BYTES = 2 * 2**30  # unpacked
MAX_ZIP_RATIO = 100  # unpacked to packed; pictures hardly shrink
MAX_ZIP_FILES = 2_000_000
EASEL_KEY = "easel"  # the field that holds the whole vote beside a format's own fields
REMEMBERED = 4096  # names of pictures whose hash is known
_NAMESPACE = uuid.UUID("6f1d3f3c-6f0e-4f7e-9d0a-ea5e1ea5e1ea")


@dataclass(frozen=True)
class ImportChoices:
    """What to write into votes whose file does not say it."""

    rater: str = ""  # empty: a name made from the format and what the row says
    campaign: str = ""  # id


class Incoming:
    """One import: the folder that it reads, and the folder where its pictures wait."""

    def __init__(
        self,
        root: Path,
        staging: Path,
        only: str | None = None,
        choices: ImportChoices | None = None,
    ) -> None:
        """Read under `root`, of its votes only the file `only` if that was named.

        `staging` is an empty folder that the caller removes.
        """
        self._root = root.resolve()
        self._only = only
        self._staging = staging
        self._choices = choices or ImportChoices()
        self._now = time.time()
        self._known = lru_cache(REMEMBERED)(self._stage_file)

    def find(self, *patterns: str, beside: bool = False) -> Path:
        """Return the first file that fits one of the patterns. Raises `ImportRefusedError`.

        A file that was named goes before the patterns, unless one `beside` it is looked for.
        """
        if self._only is not None and not beside and self._is_wanted(patterns):
            return inside(self._root, self._only)
        for pattern in patterns:
            for path in sorted(self._root.glob(pattern)):
                if path.is_file() and not path.is_symlink():
                    return path
        raise ImportRefusedError(
            f"There is no {' or '.join(patterns)} in {self._root.name}. Name the folder or file "
            "that holds the votes, or choose another format."
        )

    def _is_wanted(self, patterns: tuple[str, ...]) -> bool:
        """Whether the file that was named is of a kind that is looked for."""
        return any(fnmatch(self._only, f"*{Path(pattern).suffix}") for pattern in patterns)

    def picture(self, name: object, where: str) -> str:
        """Stage the picture file of that name and return its sha256. Raises ImportRefusedError."""
        if not isinstance(name, str) or not name:
            raise ImportRefusedError(f"{where} names no picture file.")
        return self._known(name, where if len(name) > 500 else name)

    def picture_bytes(self, content: object, where: str) -> str:
        """Stage an embedded picture and return its sha256. Raises ImportRefusedError."""
        if not isinstance(content, bytes) or not content:
            raise ImportRefusedError(
                f"{where} holds no picture, perhaps only its address. Easel fetches nothing from "
                "the net; take the version of the data set with pictures."
            )
        return self._stage(content, where)

    def foreign_vote(self, values: dict[str, Any], where: str) -> Vote:
        """Return the vote of a row that Easel did not write. Raises `ImportRefusedError`."""
        usual = {"created_at": self._now, "selection": "import", "campaign": self._choices.campaign}
        own = {"rater": self._choices.rater} if self._choices.rater else {}
        return checked_vote(usual | values | own, where)

    def is_staged(self, sha256: str) -> bool:
        """Whether a picture with this hash came with the import."""
        return (self._staging / sha256).is_file()

    def staged(self) -> list[Path]:
        """Return the files of the staged pictures; each is named by its sha256."""
        return sorted(self._staging.iterdir())

    def _stage_file(self, name: str, where: str) -> str:
        path = inside(self._root, name)
        if not path.is_file():  # a pipe would keep us waiting
            raise ImportRefusedError(
                f"The picture '{where[:120]}' is not there. Put it beside the votes and try again."
            )
        try:
            content = read_picture(path)
        except (NotFoundError, StorageError) as error:
            raise ImportRefusedError(f"'{where[:120]}': {error}") from error
        return self._stage(content, f"The picture '{where[:120]}'")

    def _stage(self, content: bytes, where: str) -> str:
        try:
            sha256 = check_picture(content)
        except StorageError as error:
            raise ImportRefusedError(f"{where} cannot be used: {error}") from error
        path = self._staging / sha256
        if not path.exists():
            atomic_write(path, content)
        return sha256


def inside(root: Path, name: str) -> Path:
    """Return the file `name` under `root`; refuses every way out of it.

    Raises `ImportRefusedError` for absolute names, '..', drives, and links.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if (
        parts.is_absolute()
        or ".." in parts.parts
        or PureWindowsPath(name).drive
        or any(ord(character) < 32 for character in name)
        or len(name) > 500
    ):
        raise ImportRefusedError(
            f"The file name '{name[:120]!s}' leads out of the folder; nothing was taken in."
        )
    path = root.joinpath(*parts.parts)
    if path.is_symlink() or not path.resolve().is_relative_to(root):
        raise ImportRefusedError(
            f"'{name[:120]}' is a link out of the folder; nothing was taken in."
        )
    return path


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip of votes into an empty folder. Raises `ImportRefusedError`, `DiskFullError`."""
    try:
        with zipfile.ZipFile(archive) as source:
            entries = [entry for entry in source.infolist() if not entry.is_dir()]
            total = sum(entry.file_size for entry in entries)
            packed = archive.stat().st_size
            if total > MAX_ZIP_BYTES or len(entries) > MAX_ZIP_FILES:
                raise ImportRefusedError(
                    f"{archive.name} unpacks to more than {MAX_ZIP_BYTES >> 30} GB. Unpack it "
                    "yourself, if you trust it, and import the folder."
                )
            if total > MAX_ZIP_RATIO * packed:
                raise ImportRefusedError(
                    f"{archive.name} unpacks to more than {MAX_ZIP_RATIO} times its size, which "
                    "pictures never do; it was not opened."
                )
            for entry in entries:
                if (entry.external_attr >> 16) & 0o170000 == 0o120000:
                    raise ImportRefusedError(f"{archive.name} holds links; it was not opened.")
                target = inside(folder, entry.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as packed_file, target.open("xb") as file:
                    _copy(packed_file, file, entry, archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ImportRefusedError(f"{archive.name} is no zip file, or a damaged one.") from error
    except FileExistsError as error:
        raise ImportRefusedError(
            f"{archive.name} holds a file twice; nothing was taken."
        ) from error
    except OSError as error:
        raise storage_error(error, "unpack", archive) from error


def _copy(source: IO[bytes], target: BinaryIO, entry: zipfile.ZipInfo, archive: Path) -> None:
    """Copy what the entry promised, no byte more: its size may be a lie."""
    left = entry.file_size
    while chunk := source.read(min(2**20, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise ImportRefusedError(f"{archive.name} holds more than it says; nothing was taken.")
        target.write(chunk)


def text_of(row: dict[str, Any], name: str, where: str, default: str | None = None) -> str:
    """Return a text field of a row. Raises `ImportRefusedError` when it lacks or is no text."""
    value = row.get(name, default)
    if not isinstance(value, str):
        raise ImportRefusedError(f"{where} lacks the text '{name}'; is it of another format?")
    return value


def whole_vote(values: object, left: str, right: str, where: str) -> Vote | None:
    """Return the vote that Easel wrote beside a format's own fields, or None where it did not.

    `left` and `right` are the hashes of the pictures that came with it. Raises ImportRefusedError.
    """
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ImportRefusedError(f"{where}: its field '{EASEL_KEY}' is not a vote.")
    vote = checked_vote(values, where)
    if {vote.left, vote.right} - {""} != {left, right} - {""}:
        raise ImportRefusedError(
            f"{where} comes with other pictures than those that were voted on."
        )
    return vote


def checked_vote(values: dict, where: str) -> Vote:
    """Return the vote of these fields. Raises `ImportRefusedError` naming the row."""
    try:
        return vote_from_dict(values)
    except (EaselError, TypeError) as error:
        raise ImportRefusedError(f"{where}: {error}") from error


def number_of(where: str) -> str:
    """Return the number of a row out of the words that name it: 'votes.json, row 7'."""
    return where.rpartition(" ")[2]


def derived_id(*words: object) -> str:
    """Return an id that the same row always gets, so that importing twice adds nothing."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(str(word) for word in words)))

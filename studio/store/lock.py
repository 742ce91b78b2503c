"""Locks that one process holds and any other can read: who owns a data folder, who computes.

The operating system keeps the lock (flock, or msvcrt on Windows), so it is gone the moment its
holder is, even after `kill -9`. The file's text only tells others whom to ask.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from studio.core.errors import StorageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Windows locks bytes, and a locked byte cannot be read: lock one far behind the text.
LOCKED_BYTE = 1 << 20
ASKING_SECONDS = 0.05  # far longer than `holder` holds the lock to try it


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, by its own account."""

    pid: int = 0  # 0 when the file does not tell
    url: str = ""  # of the page, once it is served
    task: str = ""  # 'ui', 'generate', 'train unet', ...


class FileLock:
    """An exclusive lock on one file, for one process at a time; not held until `acquire`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        """True while this object holds the lock."""
        return self._file is not None

    def acquire(self, task: str = "") -> bool:
        """Take the lock and sign it; False when another process (or object) has it.

        Raises StorageError when the folder cannot be written to.
        """
        if self.held:
            return True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
        except OSError as error:
            raise StorageError(
                f"The data folder {self.path.parent} cannot be written to ({error.strerror}); "
                "choose another with --data-dir."
            ) from error
        file = os.fdopen(descriptor, "r+", encoding="utf-8")
        if not _lock(file):
            time.sleep(ASKING_SECONDS)  # perhaps somebody only asked for the holder
            if not _lock(file):
                file.close()
                return False
        self._file = file
        self.sign(task=task)
        return True

    def sign(self, *, url: str = "", task: str = "") -> None:
        """Write who holds the lock, for those who ask."""
        assert self._file is not None, "only the holder signs"
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(asdict(Holder(os.getpid(), url, task))))
        self._file.flush()

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._file is None:
            return
        self._file.seek(0)
        self._file.truncate()
        self._file.flush()
        _unlock(self._file)
        self._file.close()
        self._file = None

    def holder(self) -> Holder | None:
        """Return who holds the lock now, or None when it is free."""
        if self.held:
            return read_holder(self.path)
        try:
            with self.path.open("r+", encoding="utf-8") as file:
                if _lock(file):
                    _unlock(file)
                    return None
        except OSError:
            return None
        return read_holder(self.path)


def read_holder(path: Path) -> Holder:
    """Read what the holder wrote; an unfinished or foreign text gives an unknown holder."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Holder(int(values["pid"]), str(values["url"]), str(values["task"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()


_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

if sys.platform == "win32":

    def _lock(file: IO[str]) -> bool:
        file.seek(LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[str]) -> None:
        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)

"""Who may do what in a data folder: one studio owns it, one process at a time computes in it.

The page owns the folder as long as it runs. The device is a lock of its own, so that a picture can
be drawn from the command line while a page stands open and idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from studio.core.errors import StudioRunningError
from studio.store.lock import FileLock, Holder

OWNER_LOCK = "studio.lock"  # file names in the data folder
DEVICE_LOCK = "device.lock"
TRAINING = "train"  # how the tasks of a training begin
POLL_SECONDS = 0.2


def owner_of(data_dir: Path) -> Holder | None:
    """Return the studio that owns the folder, or None."""
    return FileLock(data_dir / OWNER_LOCK).holder()


def device_lock(data_dir: Path) -> FileLock:
    """Return the lock that whoever computes holds: the worker for a job, a command to its end."""
    return FileLock(data_dir / DEVICE_LOCK)


@contextmanager
def own_studio(data_dir: Path) -> Iterator[Callable[[str], None]]:
    """Own the folder inside the block; the value given is called with the page's address.

    Raises StudioRunningError, which tells where the running studio is.
    """
    lock = FileLock(data_dir / OWNER_LOCK)
    if not lock.acquire("ui"):
        raise StudioRunningError(_already_running(data_dir, lock.holder() or Holder()))
    try:
        yield lambda url: lock.sign(url=url, task="ui")
    finally:
        lock.release()


@contextmanager
def hold_device(data_dir: Path, task: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the device inside the block; waits for it, and says once for whom."""
    lock = device_lock(data_dir)
    if not lock.acquire(task):
        holder = lock.holder() or Holder()
        who = f"'{holder.task}' (process {holder.pid})" if holder.pid else "Another process"
        say(f"{who} is computing in {data_dir}; waiting for it to finish. Ctrl-C gives up.")
        while not lock.acquire(task):
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def shared_device(data_dir: Path) -> Callable[[Callable[[], bool]], AbstractContextManager[None]]:
    """Return the device lock for the page's worker.

    A picture of the page waits for a picture that the command line is drawing, but not for a
    training that takes hours: beside that it only draws more slowly.
    """

    @contextmanager
    def hold(stopped: Callable[[], bool]) -> Iterator[None]:
        lock = device_lock(data_dir)
        while not lock.acquire("ui"):
            if stopped() or (lock.holder() or Holder()).task.startswith(TRAINING):
                break
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            lock.release()

    return hold


def _already_running(data_dir: Path, holder: Holder) -> str:
    where = f"at {holder.url}" if holder.url else "and is just starting"
    process = f" (process {holder.pid})" if holder.pid else ""
    return (
        f"Easel is already running for {data_dir} {where}{process}. Open that page, "
        "or start another studio with its own --data-dir."
    )

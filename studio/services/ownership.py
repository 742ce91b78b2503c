"""Who may do what in a data folder: one studio owns it, one process at a time computes in it.

The page owns the folder as long as it runs. The device is a lock of its own, so that a picture can
be drawn from the command line while a page stands open and idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.core.errors import StudioRunningError, TrainingError
from studio.store.lock import FileLock, Holder

OWNER_LOCK = "studio.lock"  # file names in the data folder
DEVICE_LOCK = "device.lock"
TRAINING_LOCK = "training.lock"
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
    with _hold(device_lock(data_dir), task, say):
        yield


@contextmanager
def hold_training(data_dir: Path, task: str, say: Callable[[str], None]) -> Iterator[None]:
    """Be the folder's only training inside the block; begins when the device is free.

    It does not keep the device: a training takes hours, and beside it a picture is only slower.
    """
    with _hold(FileLock(data_dir / TRAINING_LOCK), task, say):
        with hold_device(data_dir, task, say):
            pass
        yield


@contextmanager
def only_training(data_dir: Path, task: str) -> Iterator[None]:
    """Be the folder's only training inside the block; for the device thread, which cannot wait.

    Raises TrainingError while another one is at work, which may be a paused one of the same studio.
    """
    lock = FileLock(data_dir / TRAINING_LOCK)
    if not lock.acquire(task):
        holder = lock.holder() or Holder()
        who = f"'{holder.task}'" if holder.task else "Another training"
        raise TrainingError(
            f"{who} is being trained in this data folder. Wait for it to end, or stop it; then let "
            "this one go on."
        )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _hold(lock: FileLock, task: str, say: Callable[[str], None]) -> Iterator[None]:
    if not lock.acquire(task):
        holder = lock.holder() or Holder()
        who = f"'{holder.task}' (process {holder.pid})" if holder.pid else "Another process"
        say(f"{who} is at work in {lock.path.parent}; waiting for it to finish. Ctrl-C gives up.")
        while not lock.acquire(task):
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _already_running(data_dir: Path, holder: Holder) -> str:
    where = f"at {holder.url}" if holder.url else "and is just starting"
    process = f" (process {holder.pid})" if holder.pid else ""
    return (
        f"Easel is already running for {data_dir} {where}{process}. Open that page, "
        "or start another studio with its own --data-dir."
    )

"""The worker's share in a device that commands on the same data folder use as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.services.ownership import POLL_SECONDS, device_lock
from studio.store.lock import Holder


class SharedDevice:
    """Takes the data folder's device lock while the worker has work, and waits its turn for it."""

    def __init__(self, data_dir: Path) -> None:
        self._lock = device_lock(data_dir)
        self._waits_for = ""

    @property
    def waits_for(self) -> str:
        """Who has the device while the worker waits for it ('train unet'); '' otherwise."""
        return self._waits_for

    @contextmanager
    def hold(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Hold the device inside the block; enters without it once `stopped()` is true.

        Raises StorageError when the data folder cannot be written to.
        """
        try:
            while not self._lock.acquire("ui") and not stopped():
                holder = self._lock.holder() or Holder()
                self._waits_for = holder.task or "another process"
                time.sleep(POLL_SECONDS)
        finally:
            self._waits_for = ""
        try:
            yield
        finally:
            self._lock.release()

"""What the studio does for its data folder in the background: empty the bin, copy the database."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

from studio.core.errors import EaselError
from studio.store.backup import DAILY, back_up, copies, made_at
from studio.store.database import Databases
from studio.store.pictures import PictureStore

logger = logging.getLogger(__name__)

DAY = 86_400.0  # seconds
BIN_KEEPS = 30 * DAY  # seconds that a picture stays in the bin
LOOK_EVERY = 3600.0  # seconds; a computer that slept does its daily work soon after it woke


class Upkeep:
    """Daily work of the owner of a data folder, on a thread of its own."""

    def __init__(
        self,
        pictures: PictureStore,
        databases: Databases,
        backups: Path,
        clock: Callable[[], float] = time.time,
        chores: Sequence[Callable[[], object]] = (),
    ) -> None:
        """Copy the own database to the folder `backups`; `clock` gives seconds since 1970.

        `chores` are done besides, each time.
        """
        self._pictures = pictures
        self._databases = databases
        self._backups = backups
        self._clock = clock
        self._chores = chores
        self._ending = Event()
        self._thread = Thread(target=self._run, name="upkeep", daemon=True)
        self._problems: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What the last round could not do, in sentences."""
        return self._problems

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if not self._thread.is_alive() and not self._ending.is_set():
            self._thread.start()

    def stop(self) -> None:
        """End after the work at hand."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Do what is due now. Whatever fails is a sentence in `problems`, and tried again later."""
        problems = []
        for work in (self._copy_database, self._empty_bin, *self._chores):
            try:
                work()
            except EaselError as error:
                logger.warning("%s", error)
                problems.append(str(error))
        self._problems = tuple(problems)

    def _run(self) -> None:
        while not self._ending.is_set():
            self.look()
            self._ending.wait(LOOK_EVERY)

    def _copy_database(self) -> None:
        newest = max(map(made_at, copies(self._backups, DAILY)), default=0.0)
        if abs(self._clock() - newest) >= DAY:  # also when the clock was put back
            back_up(self._databases.own.engine, self._backups, DAILY, self._clock())

    def _empty_bin(self) -> None:
        removed = self._pictures.purge(BIN_KEEPS, self._databases.shared.engine)
        if removed:
            logger.info("%d pictures left the bin after 30 days.", removed)

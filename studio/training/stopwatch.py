"""Seconds of computing, without those in which the computer slept.

Some systems' clocks go on while the computer is asleep, and every clock does while a process is
halted. A budget in minutes becomes a number of epochs by the first epoch's seconds, so an hour's
sleep in it would end the run after that epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from statistics import median
from time import perf_counter, process_time
from typing import TypeVar

_Event = TypeVar("_Event")

REST = 2.0  # seconds in which nothing was computed, from which a lap may have been slept through
TIMES = 20.0  # the usual lap: waiting for an accelerator is not longer than that


class Stopwatch:
    """Adds up laps; of one that was slept through, only what was computed in it."""

    def __init__(
        self,
        clock: Callable[[], float] = perf_counter,
        busy: Callable[[], float] = process_time,
    ) -> None:
        """`clock` and `busy` tell seconds: those that passed, and those of processor time."""
        self._clock = clock
        self._busy = busy
        self._laps: list[tuple[float, float]] = []  # seconds passed, seconds without computing

    @property
    def seconds(self) -> float:
        """What was computed so far."""
        if not self._laps:
            return 0.0
        longest = max(REST, TIMES * median(passed for passed, _ in self._laps))
        return sum(passed - (rest if rest > longest else 0) for passed, rest in self._laps)

    def timed(self, events: Generator[_Event, None, None]) -> Iterator[_Event]:
        """Hand on `events`, each a lap; what others do between two of them does not count."""
        try:
            while True:
                begun, worked = self._clock(), self._busy()
                try:
                    event = next(events)
                except StopIteration:
                    return
                finally:
                    passed = self._clock() - begun
                    self._laps.append((passed, max(0.0, passed - (self._busy() - worked))))
                yield event
        finally:
            events.close()

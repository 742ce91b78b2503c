"""The one thread that owns the device.

A job is a generator of events. The worker pulls one event at a time from the job that may run now,
so a job gives way, is cancelled or is closed between two of its `yield`s and nowhere else. What the
events mean is its listeners' business: it knows nothing of drawing or training.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import IntEnum
from threading import Condition, Thread
from typing import Literal, TypeVar

from studio.core.errors import EaselError
from studio.core.events import Event

logger = logging.getLogger(__name__)

Outcome = Literal["done", "failed", "cancelled", "interrupted"]
NICE = 5  # steps behind the studio's other threads, of 19
UNFORESEEN = (
    "Something unforeseen went wrong inside Easel. Nothing that was finished is lost; "
    "please try once more, and send the details if it happens again."
)


def let_others_first() -> None:
    """Let this thread, and those that it starts from now on, compute after the studio's others.

    Whoever clicks is answered while pictures are drawn. Only Linux knows priorities of threads.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # not allowed in some containers: slower, not wrong
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Priority(IntEnum):
    """Who goes first: lower numbers, at every step."""

    INTERACTIVE = 0  # somebody is waiting for it
    BACKGROUND = 1  # suspended between two steps while interactive work waits
    TRAINING = 2  # hours long: gives way to everything else


@dataclass(frozen=True)
class JobStarted:
    """The worker is about to pull the job's first event."""


@dataclass(frozen=True)
class JobEnded:
    """The job will send nothing more."""

    outcome: Outcome
    error: str = ""  # a sentence when it failed
    details: str = ""  # the traceback of an unforeseen failure, for the report


JobEvent = Event | JobStarted | JobEnded
Listener = Callable[[str, JobEvent], None]
DeviceLock = Callable[[Callable[[], bool]], AbstractContextManager[object]]
Result = TypeVar("Result")


def unshared(_stopped: Callable[[], bool]) -> AbstractContextManager[object]:
    """Return a device lock for a process that has the device to itself."""
    return nullcontext()


@dataclass(eq=False)
class _Ticket:
    """One job on its way through the worker."""

    job_id: str
    make_events: Callable[[], Iterator[Event]]
    priority: Priority
    begun: bool = False
    events: Iterator[Event] = field(default_factory=lambda: iter(()))  # made when its turn comes
    cancelled: bool = False
    held: bool = False  # not pulled until it is let go, except to end it

    @property
    def waits(self) -> bool:
        """Whether there is something to do for it."""
        return self.cancelled or not self.held


@dataclass(frozen=True)
class _Failure:
    """What is kept of an exception: words only, because its frames hold tensors."""

    error: str
    details: str  # empty when the exception was a sentence for the artist


@dataclass
class _Board:
    """What the threads share; changed only under the worker's condition."""

    tickets: list[_Ticket] = field(default_factory=list)
    listeners: tuple[Listener, ...] = ()
    closing: bool = False


class GpuWorker:
    """One thread that pulls jobs; every public method may be called from any thread.

    `device(stopped)` is entered on the worker's thread before work begins and left when nothing is
    left to do: room for a lock that several processes share. It gives up when `stopped()` is true.
    """

    def __init__(self, device: DeviceLock = unshared) -> None:
        self._device = device
        self._board = _Board()
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def listen(self, listener: Listener) -> None:
        """Call `listener(job_id, event)` for every event of every job from now on.

        Listeners run on the worker's thread (and, for a job that is cancelled before it began, on
        the canceller's). A listener that raises fails the job whose event it was given.
        """
        with self._changed:
            self._board.listeners = (*self._board.listeners, listener)

    def submit(
        self,
        job_id: str,
        make_events: Callable[[], Iterator[Event]],
        *,
        priority: Priority = Priority.INTERACTIVE,
    ) -> None:
        """Queue a job. `make_events` is called on the worker's thread when its turn has come.

        A job that is already here is not queued twice. Raises EaselError once the worker closes.
        """
        with self._changed:
            if self._board.closing:
                raise EaselError("The studio is closing; start it again and send this once more.")
            if any(ticket.job_id == job_id for ticket in self._board.tickets):
                return
            self._board.tickets.append(_Ticket(job_id, make_events, priority))
            self._changed.notify_all()

    def cancel(self, job_id: str) -> bool:
        """End a job at its next yield, or at once if it has not begun. False: it is not here."""
        with self._changed:
            ticket = next((t for t in self._board.tickets if t.job_id == job_id), None)
            if ticket is None:
                return False
            ticket.cancelled = True
            if ticket.begun:
                self._changed.notify_all()
                return True
            self._board.tickets.remove(ticket)
        self._report_end(ticket, JobEnded("cancelled"))
        return True

    def hold(self, job_id: str, *, held: bool = True) -> bool:
        """Leave a job where it is after its current step, or let it go on. False: not here."""
        with self._changed:
            ticket = next((t for t in self._board.tickets if t.job_id == job_id), None)
            if ticket is not None:
                ticket.held = held
                self._changed.notify_all()
        return ticket is not None

    def reorder(self, job_ids: Sequence[str]) -> None:
        """Let the waiting jobs run in this order; jobs that are not named keep their order behind.

        Work that has begun stays in front of other work of its priority.
        """
        rank = {job_id: place for place, job_id in enumerate(job_ids)}
        with self._changed:
            self._board.tickets.sort(key=lambda ticket: rank.get(ticket.job_id, len(rank)))

    def job_ids(self) -> tuple[str, ...]:
        """Return the ids of the jobs that run or wait, in their order; held ones do neither."""
        with self._changed:
            return tuple(ticket.job_id for ticket in sorted(self._waiting(), key=_turn))

    def close(self, timeout: float = 60.0) -> bool:
        """Interrupt what runs after its current step, leave what waits, and end the thread.

        Returns False when the step did not end within `timeout` seconds; the thread is a daemon, so
        the process can end nevertheless.
        """
        with self._changed:
            self._board.closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _closing(self) -> bool:
        return self._board.closing

    def _run(self) -> None:
        let_others_first()
        while self._wait_for_work():
            failure = self._attempt(self._work)
            if failure is not None:  # the device itself was refused: nothing that waits can run
                for ticket in self._take(begun_only=False):
                    self._end(ticket, JobEnded("failed", failure.error, failure.details))
        for ticket in self._take(begun_only=True):
            self._end(ticket, JobEnded("interrupted"))

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._board.closing or bool(self._waiting()))
            return not self._board.closing

    def _waiting(self) -> list[_Ticket]:
        return [ticket for ticket in self._board.tickets if ticket.waits]

    def _take(self, *, begun_only: bool) -> list[_Ticket]:
        with self._changed:
            taken = [t for t in self._board.tickets if t.begun or not begun_only]
            self._board.tickets = [t for t in self._board.tickets if t not in taken]
            return taken

    def _work(self) -> None:
        """Hold the device until nothing is left to do."""
        with self._device(self._closing):
            while (ticket := self._next()) is not None:
                self._advance(ticket)

    def _next(self) -> _Ticket | None:
        """Return the job whose step comes next: interactive first, and begun before waiting."""
        with self._changed:
            if self._board.closing or not self._waiting():
                return None
            ticket = min(self._waiting(), key=_turn)
            ticket.begun = True  # from here on a cancellation is this thread's to carry out
            return ticket

    def _advance(self, ticket: _Ticket) -> None:
        """Pull one event; when there is none, end the job."""
        ended = self._attempt(lambda: self._step(ticket))
        if isinstance(ended, _Failure):
            ended = JobEnded("failed", ended.error, ended.details)
        if ended is not None:
            with self._changed:
                self._board.tickets.remove(ticket)
            self._end(ticket, ended)

    def _step(self, ticket: _Ticket) -> JobEnded | None:
        """Run the job to its next yield. Returns how it ended, None while it has not."""
        if ticket.cancelled:
            return JobEnded("cancelled")
        if not isinstance(ticket.events, Generator):
            self._tell(ticket.job_id, JobStarted())
            ticket.events = _as_generator(ticket.make_events())
        try:
            event = next(ticket.events)
        except StopIteration:
            return JobEnded("done")
        self._tell(ticket.job_id, event)
        return None

    def _end(self, ticket: _Ticket, ended: JobEnded) -> None:
        """Close the generator, so that its `finally` blocks have run before anybody is told."""
        if isinstance(ticket.events, Generator):
            self._attempt(ticket.events.close)
        self._report_end(ticket, ended)

    def _report_end(self, ticket: _Ticket, ended: JobEnded) -> None:
        if ended.details:
            logger.error("Job %s failed:\n%s", ticket.job_id, ended.details)
        failure = self._attempt(lambda: self._tell(ticket.job_id, ended))
        if failure is not None:
            logger.error("How job %s ended was not recorded: %s", ticket.job_id, failure)

    def _tell(self, job_id: str, event: JobEvent) -> None:
        for listener in self._board.listeners:
            listener(job_id, event)

    def _attempt(self, action: Callable[[], Result]) -> Result | _Failure:
        """Run anything without losing the thread: the one place that catches every exception."""
        try:
            return action()
        except EaselError as error:
            return _Failure(str(error), "")
        except Exception as error:  # noqa: BLE001  (a failing job must not end the thread)
            return _Failure(UNFORESEEN, "".join(traceback.format_exception(error)))


def _turn(ticket: _Ticket) -> tuple[int, bool]:
    """Order tickets by whose step comes next; equals keep their places in the queue."""
    return ticket.priority, not ticket.begun


def _as_generator(events: Iterator[Event]) -> Generator[Event, None, None]:
    """Give any iterator a `close`."""
    return (yield from events)

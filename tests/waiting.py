"""Waiting for what other threads and processes bring about; conditions are asked, not clocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

PATIENCE = 280.0  # seconds; a busy machine is slow, not wrong


def until(look: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until `look()` is true; fails when it is not for `patience` seconds."""
    end, rest = time.monotonic() + patience, Event()
    while not look():
        assert time.monotonic() < end, "it did not come about"
        rest.wait(0.02)

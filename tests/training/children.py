"""Children of a test program that are killed at a chosen moment."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

FILE_CALLS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"})


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(action: Callable[[], None]) -> bool:
    """Run in a forked child; True when it was killed, False when it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            action()
            status = 0
        finally:  # a child must not run on as a second program
            if status:
                traceback.print_exc()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"a child ended with {status}")
    return status != 0


def killed_at_file_call(folder: Path, number: int, action: Callable[[], None]) -> bool:
    """Run in a child that dies at the `number`-th call that touches a file below `folder`."""

    def run() -> None:
        calls = itertools.count(1)

        def hook(event: str, args: tuple) -> None:
            if event in FILE_CALLS and str(folder) in str(args[0]) and next(calls) == number:
                die()

        sys.addaudithook(hook)
        action()

    return in_child(run)

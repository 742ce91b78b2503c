"""Starts the page: owns the data folder, finds a port, moves into an empty folder, serves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from studio.core.errors import StorageError
from studio.core.settings import Settings
from studio.services.ownership import own_studio
from studio.ui.port import address, free_port

# Seconds after which a thread that computes lets another one go on. A click's thread asks for its
# turn some dozens of times until its vote is on disk, and beside drawing waits so long each time;
# Python's own 5 ms add up to what a rater feels.
TURN = 0.0005


def start(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve the page until a signal; returns the exit code.

    Raises StudioRunningError when another process owns the data folder, EaselError when the page
    cannot be served.
    """
    with own_studio(settings.data_dir) as announce:
        port = free_port(settings.host, settings.port)
        if settings.port not in (0, port):
            say(f"Port {settings.port} is taken; Easel uses {port}.")
        # Gradio may hand out files below its working and temporary folders: give it its own.
        os.environ["GRADIO_TEMP_DIR"] = str(_private_folder(settings.data_dir / "gradio"))
        os.chdir(_private_folder(settings.data_dir / "run"))
        sys.setswitchinterval(TURN)
        announce(address(settings.host, port))
        from studio.ui.app import run  # Gradio reads GRADIO_TEMP_DIR when it is imported

        return run(replace(settings, port=port))


def _private_folder(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be made ({error.strerror}); choose another folder with --data-dir."
        ) from error
    return path

"""The browser of the browser tests: the one that is here, or Debian's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the path of a Chromium on this machine."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def install_chromium(say: Callable[[str], None]) -> None:
    """Install Debian's Chromium when there is none and this is root; otherwise say what lacks."""
    if find_chromium():
        return
    if not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        say("There is no Chromium here, so the browser tests will fail; please install it.")
        return
    say("Installing Chromium for the browser tests ...")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run(
            ["apt-get", *command], capture_output=True, text=True, env=environment, check=False
        )
    if done.returncode != 0:
        say(f"Chromium could not be installed: {done.stderr.strip()[-500:]}")

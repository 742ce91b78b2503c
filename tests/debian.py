"""Programs that the tests need and pip does not have: those here, or Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
POSTGRES = Path("/usr/lib/postgresql")  # one folder a version; Debian keeps them off the PATH


def find_chromium() -> str | None:
    """Return the path of a Chromium on this machine."""
    return next((path for path in map(shutil.which, CHROMIUM) if path), None)


def find_postgres() -> Path | None:
    """Return the folder with PostgreSQL's `initdb` and `postgres`, the newest of several."""
    versions = [path for path in POSTGRES.glob("*") if path.name.isdigit()]
    newest = sorted(versions, key=lambda path: int(path.name), reverse=True)
    folders = [path / "bin" for path in newest]
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    return next((folder for folder in folders if (folder / "postgres").is_file()), None)


def install_missing(say: Callable[[str], None]) -> None:
    """Install what is not here when this is root on Debian; otherwise say which tests will fail."""
    found = {"chromium": find_chromium(), "postgresql": find_postgres()}
    missing = [package for package, place in found.items() if place is None]
    if not missing:
        return
    names = " and ".join(missing)
    if not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        say(f"There is no {names} here, so the tests with it will fail; please install it.")
        return
    say(f"Installing {names} for the tests ...")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", *command], capture_output=True, text=True, env=environment, check=False
        )
    if done.returncode != 0:
        say(f"{names} could not be installed: {done.stderr.strip()[-500:]}")

"""In how many processes `launch.py test` runs pytest."""

from __future__ import annotations

import os
from collections.abc import Sequence

MOST = 4  # each holds a model, a studio and a browser: about 1.5 GB
_OWN_CHOICE = ("-n", "--numprocesses", "-s", "--capture=no", "--pdb", "--trace")


def spread(arguments: Sequence[str], cores: int | None = None) -> list[str]:
    """Add pytest-xdist's flags to pytest's `arguments`: a process for each core.

    A file's tests stay in one process, since they share what is slow to start. Arguments that say
    how many processes there are, or that need the terminal, stay as they are.
    """
    cores = min(cores or os.cpu_count() or 1, MOST)
    if cores == 1 or any(given.startswith(_OWN_CHOICE) for given in arguments):
        return list(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return [f"--numprocesses={cores}", "--dist=loadfile", *arguments]

"""`doctor`: looks at everything the studio needs and says what is wrong and how to mend it.

It changes nothing. Each check returns findings; a check that meets trouble makes it a finding.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from studio.core.errors import EaselError
from studio.core.settings import PRESETS, REPOSITORY, Settings
from studio.services.models import ModelShelf, usable_cores
from studio.services.ownership import owner_of
from studio.services.presets import PresetShelf
from studio.store.backup import copies, made_at
from studio.store.check import find_database_fault
from studio.store.network_folder import find_network_kind

GIB = 2**30
LOW_DISK = 2 * GIB  # bytes; a busy day of pictures and a backup fit into it
LOW_MEMORY = 2 * GIB  # bytes; torch and the starter model need about one
NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")
INSTALL = "Run 'python launch.py --exit'; it installs what is missing."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str  # 'Device', 'Disk', ...
    sentence: str  # what is there, or what is wrong
    wrong: bool = False
    remedy: str = ""  # how to mend it; only when something is wrong


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Look at everything; takes some seconds because it imports torch."""
    found = [
        Finding("System", f"Python {platform.python_version()}, {platform.platform()}."),
        *_packages(REPOSITORY / "requirements.txt"),
        *_device(settings.device),
        *_memory(),
        *_models(settings),
        *_presets(settings),
        *_folder(settings.data_dir),
        *_database(settings),
        *_backups(settings),
    ]
    return tuple(found)


def as_text(findings: tuple[Finding, ...]) -> str:
    """Return the findings as lines for a terminal, the wrong ones marked, and a closing line."""
    lines = []
    for finding in findings:
        mark = "!!" if finding.wrong else "ok"
        lines.append(f"{mark}  {finding.subject}: {finding.sentence}")
        if finding.remedy:
            lines.append(f"    -> {finding.remedy}")
    wrong = sum(finding.wrong for finding in findings)
    lines.append(f"{wrong} thing{'s' * (wrong != 1)} to mend." if wrong else "All is well.")
    return "\n".join(lines)


def as_json(findings: tuple[Finding, ...]) -> str:
    """Return the findings as a JSON list, for a report of a fault."""
    return json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False)


def _packages(requirements: Path) -> Iterator[Finding]:
    lines = requirements.read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if re.match(r"[\w.-]+==", line)]
    present = []
    for name, wanted in pins:
        try:
            installed = version(name)
        except PackageNotFoundError:
            yield Finding("Packages", f"{name} {wanted} is not installed.", True, INSTALL)
            continue
        if installed.split("+")[0] != wanted.strip():
            sentence = f"{name} is {installed}, and Easel was tested with {wanted}."
            yield Finding("Packages", sentence, True, INSTALL)
        present.append(f"{name} {installed}")
    yield Finding("Packages", ", ".join(present) + ".")


def _device(wanted: str) -> Iterator[Finding]:
    try:
        from studio.diffusion.device import choose_device, choose_dtype, free_bytes

        device = choose_device(wanted)
        kind = str(choose_dtype(device)).removeprefix("torch.")
        words = f"{device.type}, {usable_cores()} cores, draws in {kind}, "
        yield Finding("Device", f"{words}{free_bytes(device) / GIB:.1f} GB free.")
    except (ImportError, OSError) as error:
        sentence = f"PyTorch cannot be loaded ({str(error).splitlines()[0][:200]})."
        remedy = "Delete the folder .venv and run 'python launch.py --exit'."
        yield Finding("Device", sentence, True, remedy)
        return
    except EaselError as error:
        yield Finding("Device", str(error), True, "Leave --device out, or use --device cpu.")
        return
    if device.type == "cpu" and wanted != "cpu":
        yield from _unused_gpu(NVIDIA_DRIVER)


def _unused_gpu(driver: Path) -> Iterator[Finding]:
    """Find a GPU that torch does not use. `driver` lists one folder for each NVIDIA card."""
    cards = sorted(driver.iterdir()) if driver.is_dir() else []
    if not cards and not shutil.which("nvidia-smi"):
        return
    yield Finding(
        "Device",
        f"There is an NVIDIA GPU, and the installed PyTorch {version('torch')} cannot use it.",
        True,
        "Run 'python launch.py --torch-index URL' with the index that pytorch.org names for your "
        "CUDA version; if it stays, update the graphics driver. Or say --device cpu.",
    )


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    sentence = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GB free."
    remedy = "Close other programs; the starter model needs about 2 GB."
    low = memory.available < LOW_MEMORY
    yield Finding("Memory", sentence, low, remedy if low else "")


def _models(settings: Settings) -> Iterator[Finding]:
    from studio.diffusion.model_files import open_model_folder

    for entry in ModelShelf(settings).entries():
        subject = f"Model {entry.name}"
        if entry.problem:
            yield Finding(subject, entry.problem, True, "Put it right as said, or take it away.")
            continue
        try:
            width, height = open_model_folder(entry.folder).native_size
            yield Finding(subject, f"{entry.title}, {entry.family}, {width} x {height}, readable.")
        except EaselError as error:
            yield Finding(subject, str(error), True, "Copy the model again, completely.")


def _presets(settings: Settings) -> Iterator[Finding]:
    shelf = PresetShelf(PRESETS, settings.presets_dir)
    problems = shelf.problems(mend=False)
    for problem in problems:
        yield Finding("Presets", problem, True, "Mend the file, or take it away.")
    if not problems:
        yield Finding("Presets", f"{len(list(PRESETS.glob('*.json')))} of Easel's own, all sound.")


def _folder(data_dir: Path) -> Iterator[Finding]:
    place = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK
    yield Finding(
        "Disk",
        f"{free / GIB:.1f} GB free for {data_dir}.",
        low,
        "Free some space, or choose a larger disk with --data-dir." if low else "",
    )
    if not _is_writable(place):
        remedy = "Make it yours, or choose another with --data-dir."
        yield Finding("Data folder", f"{place} cannot be written to.", True, remedy)
    kind = find_network_kind(data_dir)
    if kind:
        sentence = f"{data_dir} lies on a network drive ({kind}), where SQLite may lose votes."
        remedy = "Choose a local disk with --data-dir, or a PostgreSQL server with --database."
        yield Finding("Data folder", sentence, True, remedy)
    owner = owner_of(data_dir)
    if owner is not None:
        yield Finding("Data folder", f"A studio is running at {owner.url or '(starting)'}.")


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database_url:
        yield Finding("Votes", "In the database of --database; its own tools look after it.")
    fault = find_database_fault(settings.database_path)
    if fault:
        yield Finding("Database", fault, True, _way_back(settings))
    elif settings.database_path.is_file():
        size = settings.database_path.stat().st_size / 2**20
        yield Finding("Database", f"{settings.database_path.name}, {size:.1f} MB, sound.")
    else:
        yield Finding("Database", "None yet; the first start makes it.")


def _way_back(settings: Settings) -> str:
    """Say how a broken database is replaced by its newest backup."""
    path = settings.database_path
    newest = _newest_backup(settings)
    if newest is None:
        return (
            f"If it is newer, update Easel. If it is damaged: there is no backup, so stop Easel "
            f"and move {path.name}* out of {path.parent}; the next start makes a new database and "
            "finds the pictures on disk again, without their stars and votes."
        )
    return (
        f"If it is newer, update Easel. If it is damaged: stop Easel, move {path.name}* out of "
        f"{path.parent}, and copy {newest} to {path}; pictures that are newer than the copy are "
        "found again at the next start."
    )


def _newest_backup(settings: Settings) -> Path | None:
    sound = (
        copy for copy in reversed(copies(settings.backups_dir)) if not find_database_fault(copy)
    )
    return max(sound, key=made_at, default=None)


def _backups(settings: Settings) -> Iterator[Finding]:
    made = copies(settings.backups_dir)
    if not made:
        yield Finding("Backups", "None yet; the studio copies its database once a day.")
        return
    newest = max(made, key=made_at)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(made_at(newest)))
    fault = find_database_fault(newest)
    remedy = "Delete it; the studio makes another one within a day." if fault else ""
    sentence = fault or f"{len(made)} in {newest.parent}, the newest of {when}, sound."
    yield Finding("Backups", sentence, bool(fault), remedy)

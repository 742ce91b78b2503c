"""The model shelf: what there is to draw with, and the one model that is in memory.

The list is read without torch. Loading happens on the worker's thread only; it is the first thing
that imports torch, which is why those imports stand inside the functions.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal

from studio.core.errors import EaselError, ModelError
from studio.core.events import Event, ModelLoading
from studio.core.settings import STARTER_MODEL, Settings
from studio.services.model_folder import (
    STARTER,
    ModelEntry,
    fingerprint,
    missing_starter,
    read_entry,
    single_file,
)
from studio.store.files import atomic_write

if TYPE_CHECKING:
    from studio.diffusion.model import LatentDiffusionModel

HASHES = "model-hashes.json"  # in the data folder: fingerprint and hash by model folder
GIBIBYTE = 2**30


@dataclass(frozen=True)
class ShelfState:
    """How far the model is that the page waits for."""

    phase: Literal["idle", "loading", "ready", "failed"] = "idle"
    model: str = ""  # its name
    sentence: str = "No model is loaded yet; the first picture loads one."


@dataclass(frozen=True)
class DeviceFacts:
    """What the device thread found out about its device; memory in bytes, 0 when not asked."""

    kind: Literal["", "cpu", "cuda", "mps"] = ""  # '' until torch has been asked
    name: str = ""
    memory_used: int = 0
    memory_total: int = 0


class ModelShelf:
    """The models of the starter folder and of `--models-dir`, at most one of them in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._state = ShelfState()
        self._device = DeviceFacts()
        self._loaded: tuple[str, LatentDiffusionModel] | None = None  # fingerprint, model

    @property
    def state(self) -> ShelfState:
        """What is loaded or loading, with a sentence for the page."""
        return self._state

    @property
    def device(self) -> DeviceFacts:
        """What the device thread last measured."""
        return self._device

    def entries(self) -> list[ModelEntry]:
        """List all models, the starter first; broken ones carry a `problem`. Reads no weights."""
        starter = (STARTER_MODEL / "model_index.json").is_file()
        first = read_entry(STARTER_MODEL, STARTER) if starter else missing_starter(STARTER_MODEL)
        return [first, *self._own_entries()]

    def entry(self, name: str) -> ModelEntry:
        """Return the model of that name. Raises ModelError when there is none."""
        for entry in self.entries():
            if entry.name == name:
                return entry
        raise ModelError(
            f"There is no model '{name[:80]}'. Put its diffusers folder into "
            f"'{self._settings.models_dir.name}', or pick another model."
        )

    def known_hash(self, entry: ModelEntry) -> str:
        """Return the hash of a model that was loaded before and has not changed since, else ''."""
        remembered = self._read_hashes().get(str(entry.folder), {})
        if remembered.get("fingerprint") != fingerprint(entry.folder):
            return ""
        return str(remembered.get("sha256", ""))

    def is_loaded(self, name: str) -> bool:
        """Whether `load(name)` would return at once."""
        return self._loaded is not None and self._loaded[1].name == name

    def load(self, name: str) -> LatentDiffusionModel:
        """Return the model in memory, reading it when it is another one. Worker's thread only.

        The model that was there is let go first, so that two never share the memory. Raises
        ModelError when the folder is missing, broken or refused.
        """
        try:
            entry = self.entry(name)
            if entry.problem:
                raise ModelError(entry.problem)
            mark = fingerprint(entry.folder)
            if self._loaded is None or not self.is_loaded(name) or self._loaded[0] != mark:
                title = (
                    entry.title[:1].lower() + entry.title[1:] if name == STARTER else entry.title
                )
                self._state = ShelfState("loading", name, f"Loading the {title} ...")
                self._loaded = None
                self._loaded = mark, self._read(entry)
                self._remember_hash(entry, mark, self._loaded[1].sha256)
        except EaselError as error:
            self._state = ShelfState("failed", name, str(error))
            raise
        self._state = ShelfState("ready", name, f"{entry.title} is ready.")
        return self._loaded[1]

    def release(self) -> None:
        """Let go of the model in memory. Worker's thread only."""
        self._loaded = None
        _free_memory()
        self._state = ShelfState()

    def warm_up(self, name: str) -> Iterator[Event]:
        """Load a model as a background job, so that the first picture need not wait for it."""
        yield ModelLoading(name)
        self.load(name)
        self.measure_device()

    def measure_device(self) -> None:
        """Ask torch what the device is and how full it is. Worker's thread only."""
        if self._loaded is not None:
            self._device = _measure(self._loaded[1].device)

    def _read(self, entry: ModelEntry) -> LatentDiffusionModel:
        _prepare_torch()
        from studio.diffusion.model import load_model

        _free_memory()
        return load_model(entry.folder, entry.name, self._settings.device)

    def _own_entries(self) -> list[ModelEntry]:
        folder = self._settings.models_dir
        if not folder.is_dir():
            return []
        entries = []
        for path in sorted(folder.iterdir(), key=lambda p: p.name.lower()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                name = f"{STARTER} (own)" if path.name == STARTER else path.name
                entries.append(read_entry(path, name))
            elif path.suffix.lower() in (".safetensors", ".ckpt", ".pt"):
                entries.append(single_file(path))
        return entries

    def _read_hashes(self) -> dict[str, dict[str, str]]:
        path = self._settings.data_dir / HASHES
        with self._lock:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # a cache: when it is lost it is made again
                return {}
        return content if isinstance(content, dict) else {}

    def _remember_hash(self, entry: ModelEntry, mark: str, sha256: str) -> None:
        hashes = self._read_hashes() | {str(entry.folder): {"fingerprint": mark, "sha256": sha256}}
        with self._lock:
            atomic_write(
                self._settings.data_dir / HASHES, json.dumps(hashes, indent=1).encode("utf-8")
            )


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _prepare_torch() -> None:
    """Let torch use all cores. Its thread count belongs to the thread that asks: the worker's."""
    import torch

    wanted = usable_cores() if "OMP_NUM_THREADS" not in os.environ else torch.get_num_threads()
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _measure(device: object) -> DeviceFacts:
    import torch

    kind = torch.device(str(device)).type
    if kind == "cuda":
        free, total = torch.cuda.mem_get_info()
        return DeviceFacts("cuda", torch.cuda.get_device_name(), total - free, total)
    return DeviceFacts("mps", "Apple GPU") if kind == "mps" else DeviceFacts("cpu", "CPU")

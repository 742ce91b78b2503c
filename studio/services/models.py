"""The model shelf: what there is to draw with, and the one model that is in memory.

The list is read without torch. Loading happens on the worker's thread only; it is the first thing
that imports torch, which is why those imports stand inside the functions.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from studio.core.errors import EaselError, ModelError
from studio.core.events import Event, ModelLoading
from studio.core.settings import STARTER_MODEL, Settings
from studio.diffusion.model_files import hash_model
from studio.services.model_folder import (
    STARTER,
    ModelEntry,
    fingerprint,
    read_entry,
    single_file,
)
from studio.store.files import atomic_write

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from studio.diffusion.model import LatentDiffusionModel

HASHES = "model-hashes.json"  # in the data folder: fingerprint and hash by model folder
GIBIBYTE = 2**30
NO_STARTER = (
    "The starter model is not in assets/starter. Get the complete repository again, "
    "or train it with 'python launch.py train'."
)


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
        self._hashes = _read_hashes(settings.data_dir / HASHES)
        self._entries: dict[Path, tuple[str, ModelEntry]] = {}  # by folder: fingerprint, entry
        self._loaded: LatentDiffusionModel | None = None

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
        starter = self._look(STARTER_MODEL, STARTER)
        if not (STARTER_MODEL / "model_index.json").is_file():
            starter = replace(starter, problem=NO_STARTER)
        return [starter, *self._own_entries()]

    def entry(self, name: str) -> ModelEntry:
        """Return the model of that name. Raises ModelError when there is none."""
        for entry in self.entries():
            if entry.name == name:
                return entry
        raise ModelError(
            f"There is no model '{name[:80]}'. Put its diffusers folder into "
            f"'{self._settings.models_dir.name}', or pick another model."
        )

    def hash_of(self, entry: ModelEntry) -> str:
        """Return a model's hash: remembered while none of its files changed, else computed.

        Raises ModelError when a file cannot be read.
        """
        mark = fingerprint(entry.folder)
        with self._lock:
            remembered = self._hashes.get(str(entry.folder), {})
            if remembered.get("fingerprint") == mark:
                return str(remembered.get("sha256", ""))
            sha256 = hash_model(entry.folder)
            self._hashes[str(entry.folder)] = {"fingerprint": mark, "sha256": sha256}
            text = json.dumps(self._hashes, indent=1)
            atomic_write(self._settings.data_dir / HASHES, text.encode("utf-8"))
            return sha256

    def is_loaded(self, name: str) -> bool:
        """Whether a model of that name is in memory."""
        return self._loaded is not None and self._loaded.name == name

    def load(self, name: str) -> LatentDiffusionModel:
        """Return the model in memory, reading it when it is another one. Worker's thread only.

        The model that was there is let go first, so that two never share the memory. Raises
        ModelError when the folder is missing, broken or refused.
        """
        try:
            entry = self.entry(name)
            if entry.problem:
                raise ModelError(entry.problem)
            sha256 = self.hash_of(entry)
            if self._loaded is None or (self._loaded.name, self._loaded.sha256) != (name, sha256):
                self._state = ShelfState("loading", name, _loading(entry))
                self.release()
                self._loaded = _read(entry, sha256, self._settings.device)
            self._state = ShelfState("ready", name, f"{entry.title} is ready.")
            return self._loaded
        except EaselError as error:
            self._state = ShelfState("failed", name, str(error))
            raise
        finally:
            if self._state.phase == "loading":  # whatever it was, the page must not wait for ever
                self._state = ShelfState("failed", name, f"{name} could not be loaded.")

    def release(self) -> None:
        """Let go of the model in memory. Worker's thread only."""
        self._loaded = None
        _free_memory()

    def new_tokenizer(self, name: str) -> CLIPTokenizer:
        """Read another tokenizer of a model, for counting on other threads than the worker's."""
        from transformers import CLIPTokenizer

        folder = self.entry(name).folder / "tokenizer"
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    def warm_up(self, name: str) -> Iterator[Event]:
        """Load a model as a background job, so that the first picture need not wait for it."""
        if self._loaded is None:  # else somebody has drawn already, and with a model of their own
            yield ModelLoading(name)
            self.load(name)
            self.measure_device()

    def measure_device(self) -> None:
        """Ask torch what the device is and how full it is. Worker's thread only."""
        if self._loaded is not None:
            self._device = _measure(self._loaded.device)

    def _look(self, folder: Path, name: str) -> ModelEntry:
        """Read a folder's entry; again only after one of its files has changed."""
        mark = fingerprint(folder)
        known = self._entries.get(folder)
        if known is None or known[0] != mark:
            known = self._entries[folder] = (mark, read_entry(folder, name))
        return known[1]

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
                entries.append(self._look(path, name))
            elif path.suffix.lower() in (".safetensors", ".ckpt", ".pt"):
                entries.append(single_file(path))
        return entries


def _loading(entry: ModelEntry) -> str:
    return f"Loading the {'starter model' if entry.name == STARTER else entry.title} ..."


def _read(entry: ModelEntry, sha256: str, device: str) -> LatentDiffusionModel:
    """Import torch and read the networks; by far the slowest line of the studio's start."""
    _prepare_torch()
    from studio.diffusion.model import load_model

    return load_model(entry.folder, entry.name, device, sha256=sha256)


def _read_hashes(path: Path) -> dict[str, dict[str, str]]:
    """Read the remembered hashes; when they are lost or damaged they are computed again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    sound = isinstance(content, dict) and all(isinstance(v, dict) for v in content.values())
    return content if sound else {}


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

"""The adapter shelf: LoRA files that a picture can be drawn with, found by their content.

A recipe names an adapter by its sha256, so an adapter that a picture was drawn with stays in the
data folder. The list is read without torch; applying happens on the device thread.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from studio.core.errors import ModelError, NotFoundError, StorageError
from studio.core.request import AdapterUse, GenerationRequest
from studio.core.settings import Settings
from studio.diffusion.safetensors_header import check_safetensors
from studio.store.files import atomic_write, storage_error

if TYPE_CHECKING:
    from studio.diffusion.model import LatentDiffusionModel

TRIED = ("runs/*/adapter.safetensors", "runs/*/ladder/*/adapter.safetensors")  # not kept (yet)
FOLDER = "adapters"  # in the data folder: NAME.safetensors, or NAME/adapter.safetensors
_LINEAGE = "easel.lineage"  # written by diffusion/adapter_files.py
_MAX_FILE_BYTES = 4 * 2**30
_NAMED = 12  # adapters in a sentence
_MAX_LINEAGE = 1_000_000  # characters
_Event = TypeVar("_Event")


@dataclass(frozen=True)
class AdapterEntry:
    """One adapter on the shelf."""

    name: str
    path: Path
    sha256: str
    lineage: Mapping[str, Any] = field(default_factory=dict)  # empty: not made by Easel
    problem: str = ""  # a sentence when it cannot be used

    @property
    def base(self) -> str:
        """The name of the model that it was trained on; empty when it does not tell."""
        return str(self.lineage.get("base", ""))

    def use(self, strength: float = 1.0) -> AdapterUse:
        """Return this adapter as a request names it."""
        return AdapterUse(self.name, self.sha256, strength)


class AdapterShelf:
    """The adapters of the data folder; every method but `drawn` may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.data_dir / FOLDER
        self._lock = Lock()
        self._known: dict[Path, tuple[tuple[int, int], AdapterEntry]] = {}  # size, time; entry

    def entries(self) -> list[AdapterEntry]:
        """List all adapters by name; broken ones carry a `problem`. Reads no weights."""
        if not self._folder.is_dir():
            return []
        files = [*self._folder.glob("*.safetensors"), *self._folder.glob("*/adapter.safetensors")]
        return sorted((self.look(path) for path in files), key=lambda e: (e.name.lower(), e.path))

    def find(self, sha256: str) -> AdapterEntry:
        """Return the adapter with this content, kept or of a run. Raises NotFoundError."""
        for entry in self.entries():
            if entry.sha256 == sha256:
                return entry
        for pattern in TRIED:
            for path in self._folder.parent.glob(pattern):
                entry = self.look(path)
                if entry.sha256 == sha256:
                    return entry
        raise NotFoundError(
            f"The adapter {sha256[:12]} is not in the data folder's '{FOLDER}' any more. Put its "
            "file there again, or draw without it."
        )

    def named(self, name: str) -> AdapterEntry:
        """Return the adapter of this name that can be used. Raises NotFoundError."""
        usable = [entry for entry in self.entries() if not entry.problem]
        for entry in usable:
            if entry.name == name:
                return entry
        there = ", ".join(entry.name for entry in usable[:_NAMED]) or "none"
        raise NotFoundError(f"There is no adapter '{name[:80]}'; there is: {there}.")

    def add(self, path: Path, name: str = "") -> AdapterEntry:
        """Copy a LoRA file onto the shelf; one with the same content is there already.

        Raises ModelError when it is damaged, NotFoundError, StorageError.
        """
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise ModelError(f"{path.name} is larger than an adapter can be; choose another.")
            check_safetensors(path)
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"There is no adapter at {path}; choose another file.") from error
        except OSError as error:
            raise storage_error(error, "read", path) from error
        sha256 = hashlib.sha256(content).hexdigest()
        for entry in self.entries():
            if entry.sha256 == sha256 and not entry.problem:
                return entry
        title = path.parent.name if path.stem == "adapter" else path.stem
        target = self._free_path(file_name(name or title), sha256)
        atomic_write(target, content)
        return self.look(target)

    def add_trained(self, folder: Path, name: str) -> AdapterEntry:
        """Put a trained adapter on the shelf in both its namings, as NAME/adapter*.safetensors.

        One with the same content is there already; another one of that name is kept beside it.
        Raises as `add`.
        """
        files = sorted(folder.glob("adapter*.safetensors"))  # the one that is listed last
        try:
            contents = {path.name: path.read_bytes() for path in files}
        except OSError as error:
            raise storage_error(error, "read", folder) from error
        sha256 = hashlib.sha256(contents.get("adapter.safetensors", b"")).hexdigest()
        for entry in self.entries():
            if entry.sha256 == sha256 and not entry.problem:
                return entry
        target = self._folder / file_name(name)
        if target.exists():
            target = target.with_name(f"{target.name}-{sha256[:8]}")
        fresh = not target.exists()
        try:
            for name, content in contents.items():
                atomic_write(target / name, content)
        except StorageError:
            if fresh:  # half of it would take the name when it is tried again
                shutil.rmtree(target, ignore_errors=True)
            raise
        return self.look(target / "adapter.safetensors")

    def files(self, request: GenerationRequest) -> list[tuple[Path, float]]:
        """Return the file and strength of each adapter that a request is drawn with.

        Those of strength 0 do nothing and need not be there. Raises NotFoundError, ModelError.
        """
        found = []
        for use in request.adapters:
            if use.strength:
                entry = self.find(use.sha256)
                if entry.problem:
                    raise ModelError(entry.problem)
                found.append((entry.path, use.strength))
        return found

    def drawn(
        self,
        model: LatentDiffusionModel,
        request: GenerationRequest,
        draw: Callable[[LatentDiffusionModel, GenerationRequest], Generator[_Event, None, None]],
    ) -> Iterator[_Event]:
        """Draw a request with its adapters acting: `draw` gets it without them. Device thread only.

        Between two events the model is the bare one again. Raises NotFoundError when an adapter is
        gone, ModelError when it does not fit the model.
        """
        files = self.files(request)
        events = draw(model, request.with_changes(adapters=()))
        if not files:
            yield from events
            return
        from studio.diffusion.adapters import drawn_with  # brings torch and peft

        yield from drawn_with(model, files, events)

    def mismatch(self, request: GenerationRequest) -> str:
        """Say which adapter was trained on another model than the request's; empty when none."""
        for use in request.adapters:
            told = self.find(use.sha256).lineage.get("base_sha256", "") if use.strength else ""
            if told and told != request.model_hash:
                return (
                    f"The adapter '{use.name}' was trained on another state of the model than "
                    "the one that draws; the picture may differ from what it was trained for."
                )
        return ""

    def look(self, path: Path) -> AdapterEntry:
        """Read a file's entry; again only after it has changed."""
        try:
            status = path.stat()
        except OSError:
            return AdapterEntry(_name_of(path), path, "", problem="This adapter's file is gone.")
        mark = (status.st_size, status.st_mtime_ns)
        with self._lock:
            known = self._known.get(path)
        if known is None or known[0] != mark:
            known = (mark, _read_entry(path))
            with self._lock:
                self._known[path] = known
        return known[1]

    def _free_path(self, name: str, sha256: str) -> Path:
        path = self._folder / f"{name}.safetensors"
        return self._folder / f"{name}-{sha256[:8]}.safetensors" if path.exists() else path


def _read_entry(path: Path) -> AdapterEntry:
    name = _name_of(path)
    try:
        metadata = check_safetensors(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except (ModelError, OSError) as error:
        return AdapterEntry(name, path, "", problem=str(error))
    return AdapterEntry(name, path, sha256, _lineage(metadata.get(_LINEAGE, "")))


def _lineage(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text) if 0 < len(text) <= _MAX_LINEAGE else {}
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _name_of(path: Path) -> str:
    return path.parent.name if path.name == "adapter.safetensors" else path.stem


def file_name(title: str) -> str:
    """Return a title as a file name that is safe everywhere."""
    return re.sub(r"[^\w.-]+", "-", title).strip(".-")[:60] or "adapter"

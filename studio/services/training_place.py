"""What every kind of training needs of the studio: its base model, room on the disk, its turn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import DiskFullError, ModelError
from studio.core.settings import Settings
from studio.services.adapter_shelf import AdapterShelf
from studio.services.model_folder import ModelEntry
from studio.services.models import ModelShelf
from studio.services.ownership import only_training
from studio.services.worker import GpuWorker


def free_bytes(folder: Path) -> int:
    """Return how much the disk of a folder still takes."""
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class TrainingPlace:
    """Where training happens: the data folder, the device thread, the shelves of both kinds."""

    settings: Settings
    worker: GpuWorker
    models: ModelShelf
    adapters: AdapterShelf
    free: Callable[[Path], int] = free_bytes

    def base(self, name: str) -> ModelEntry:
        """Return the model to begin with. Raises ModelError when it is gone or damaged."""
        entry = self.models.entry(name)
        if entry.problem:
            raise ModelError(entry.problem)
        return entry

    def check_room(self, needed: int, what: str) -> None:
        """Raise DiskFullError when the disk has not so many bytes left for `what`."""
        if self.free(self.settings.data_dir) < needed:
            raise DiskFullError(
                f"{what} needs about {needed >> 20} MB on the disk of the data folder. Make room, "
                "or choose another --data-dir."
            )

    def alone(self, job: str) -> AbstractContextManager[None]:
        """Be the data folder's only training inside the block. Raises TrainingError."""
        return only_training(self.settings.data_dir, job)

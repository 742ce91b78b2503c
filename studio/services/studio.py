"""The composition root: everything that a page or a command may use, put together once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from studio.core.settings import PRESETS, Settings
from studio.services.gallery import Gallery
from studio.services.generation import Generation
from studio.services.model_folder import STARTER
from studio.services.models import ModelShelf
from studio.services.presets import PresetShelf
from studio.services.shared_device import SharedDevice
from studio.services.status import Status
from studio.services.worker import GpuWorker, Priority, unshared
from studio.store.database import Database, open_database
from studio.store.form import FormStore
from studio.store.jobs import JobStore
from studio.store.pictures import PictureStore
from studio.store.reconcile import Reconciliation

WARM_UP = "warm-up"  # id of the job that loads the first model


@dataclass(frozen=True)
class Studio:
    """One open data folder with its device thread."""

    settings: Settings
    models: ModelShelf
    generation: Generation
    gallery: Gallery
    presets: PresetShelf
    form: FormStore
    status: Status
    reconciliation: Reconciliation  # what the start found to mend
    worker: GpuWorker
    database: Database

    def warm_up(self) -> None:
        """Begin to work: load the model that was used last, and draw what still waits.

        Called when the page is up, because torch takes seconds to import.
        """
        latest = self.generation.latest()
        name = latest.job.request.model if latest is not None else STARTER
        if any(entry.name == name and not entry.problem for entry in self.models.entries()):
            first = name
        else:
            first = STARTER
        self.generation.resume_queue()
        self.worker.submit(
            WARM_UP, partial(self.models.warm_up, first), priority=Priority.BACKGROUND
        )

    def close(self) -> None:
        """Interrupt what runs after its current step, keep what waits, and close the database."""
        self.worker.close()
        self.database.close()


def open_studio(settings: Settings, *, owner: bool = True) -> Studio:
    """Open the data folder. Imports no torch and draws nothing until `warm_up` or a submission.

    The `owner` of a data folder mends it first: orphan files are adopted, jobs that an earlier
    process left running become interrupted; its worker takes the device for as long as it has work.
    A command is not the owner: a studio may run beside it, and it holds the device already.
    Raises StorageError, NewerDatabaseError.
    """
    database = open_database(settings)
    jobs = JobStore(database)
    pictures = PictureStore(database, settings.data_dir)
    reconciliation = pictures.reconcile() if owner else Reconciliation()
    shelf = ModelShelf(settings)
    device = SharedDevice(settings.data_dir)
    worker = GpuWorker(device.hold if owner else unshared)
    generation = Generation(worker, shelf, jobs, pictures, settings.data_dir)
    if owner:
        generation.recover()
    return Studio(
        settings=settings,
        models=shelf,
        generation=generation,
        gallery=Gallery(pictures),
        presets=PresetShelf(PRESETS, settings.presets_dir),
        form=FormStore(database),
        status=Status(settings, shelf, generation, device),
        reconciliation=reconciliation,
        worker=worker,
        database=database,
    )

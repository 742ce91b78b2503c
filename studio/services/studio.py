"""The composition root: everything that a page or a command may use, put together once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from studio.core.settings import PRESETS, Settings
from studio.services.adapter_shelf import AdapterShelf
from studio.services.comparison import Comparison
from studio.services.editing import sweep_unused
from studio.services.finetuning import Finetuning
from studio.services.gallery import Gallery
from studio.services.generation import Generation
from studio.services.lineage import Lineage
from studio.services.model_folder import STARTER
from studio.services.models import ModelShelf
from studio.services.preference import Preference, open_preference
from studio.services.presets import PresetShelf
from studio.services.sending import Sending
from studio.services.shared_device import SharedDevice
from studio.services.status import Status
from studio.services.teaching import Teaching
from studio.services.training_place import TrainingPlace
from studio.services.upkeep import Upkeep
from studio.services.verdict import Verdicts
from studio.services.worker import GpuWorker, Priority, unshared
from studio.store.database import Database, Databases, open_databases
from studio.store.drafts import DraftStore
from studio.store.form import FormStore
from studio.store.jobs import JobStore
from studio.store.lessons import LessonStore
from studio.store.pictures import PictureStore
from studio.store.reconcile import Reconciliation
from studio.store.runs import RunStore
from studio.store.sources import SourceStore

WARM_UP = "warm-up"  # id of the job that loads the first model


@dataclass(frozen=True)
class Studio:
    """One open data folder with its device thread."""

    settings: Settings
    models: ModelShelf
    adapters: AdapterShelf
    generation: Generation
    gallery: Gallery
    sources: SourceStore
    drafts: DraftStore
    lineage: Lineage
    comparison: Comparison
    sending: Sending
    presets: PresetShelf
    form: FormStore
    status: Status
    reconciliation: Reconciliation  # what the start found to mend
    worker: GpuWorker
    databases: Databases
    upkeep: Upkeep
    preference: Preference
    finetuning: Finetuning
    verdicts: Verdicts
    teaching: Teaching

    @property
    def database(self) -> Database:
        """The data folder's own: gallery, queue, form."""
        return self.databases.own

    @property
    def notes(self) -> tuple[str, ...]:
        """What the artist should know though nothing was asked for, in sentences."""
        return (*self.presets.known_problems, *self.upkeep.problems)

    def warm_up(self) -> None:
        """Begin to work: load the model that was used last, draw what still waits, tidy up.

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
        self.upkeep.start()
        self.preference.campaigns.resume_drawing()
        self.verdicts.judge_waiting()

    def close(self) -> None:
        """Interrupt what runs after its current step, keep what waits, and close the database."""
        self.upkeep.stop()
        self.worker.close()
        self.preference.queues.close()
        self.databases.close()


def open_studio(settings: Settings, *, owner: bool = True) -> Studio:
    """Open the data folder. Imports no torch and draws nothing until `warm_up` or a submission.

    The `owner` of a data folder mends it first: orphan files are adopted, jobs that an earlier
    process left running become interrupted; its worker takes the device for as long as it has work.
    A command is not the owner: a studio may run beside it, and it holds the device already.
    Raises StorageError, NewerDatabaseError.
    """
    databases = open_databases(settings)
    database = databases.own
    jobs = JobStore(database)
    pictures = PictureStore(database, settings.data_dir)
    reconciliation = pictures.reconcile() if owner else Reconciliation()
    shelf = ModelShelf(settings)
    device = SharedDevice(settings.data_dir)
    worker = GpuWorker(device.hold if owner else unshared)
    gallery, sources = Gallery(pictures), SourceStore(settings.data_dir)
    drafts, adapters = DraftStore(settings.data_dir), AdapterShelf(settings)
    generation = Generation(worker, shelf, jobs, pictures, sources, settings, adapters)
    preference = open_preference(settings, databases.shared, pictures, shelf, worker)
    runs = RunStore(database)
    place = TrainingPlace(settings, worker, shelf, adapters)
    finetuning = Finetuning(place, runs, preference)
    teaching = Teaching(place, LessonStore(settings.data_dir))
    if owner:
        generation.recover()
        teaching.recover()
        finetuning.recover()
    return Studio(
        settings=settings,
        models=shelf,
        adapters=adapters,
        generation=generation,
        gallery=gallery,
        sources=sources,
        drafts=drafts,
        lineage=Lineage(pictures),
        comparison=Comparison(),
        sending=Sending(gallery, sources, shelf),
        presets=PresetShelf(PRESETS, settings.presets_dir),
        form=FormStore(database),
        status=Status(settings, shelf, generation, device, preference.campaigns, worker),
        reconciliation=reconciliation,
        worker=worker,
        databases=databases,
        upkeep=Upkeep(
            pictures,
            databases,
            settings.backups_dir,
            chores=(partial(sweep_unused, sources, drafts, database),),
        ),
        preference=preference,
        finetuning=finetuning,
        verdicts=Verdicts(runs, finetuning, preference, shelf, adapters, worker),
        teaching=teaching,
    )

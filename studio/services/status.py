"""The chips in the page's header: what draws, what runs, what waits. Never imports torch."""

from __future__ import annotations

from studio.core.settings import Settings
from studio.services import finetuning, teaching
from studio.services.campaigns import Campaigns
from studio.services.generation import Generation
from studio.services.models import GIBIBYTE, ModelShelf, ShelfState, usable_cores
from studio.services.shared_device import SharedDevice
from studio.services.worker import GpuWorker

LEARNING = ((finetuning.JOB, "Fine-tuning"), (teaching.JOB, "Teaching"))


class Status:
    """One line each for the header; cheap enough to be asked several times a second."""

    def __init__(
        self,
        settings: Settings,
        shelf: ModelShelf,
        generation: Generation,
        shared: SharedDevice,
        campaigns: Campaigns,
        worker: GpuWorker,
    ) -> None:
        self._settings = settings
        self._shelf = shelf
        self._generation = generation
        self._shared = shared
        self._campaigns = campaigns
        self._worker = worker

    def device(self) -> str:
        """Return 'CPU, 2 cores' or 'RTX 4090, 9.1 of 24.0 GB'; a GPU is known once torch is."""
        facts = self._shelf.device
        if facts.kind == "cuda":
            used, total = facts.memory_used / GIBIBYTE, facts.memory_total / GIBIBYTE
            return f"{facts.name}, {used:.1f} of {total:.1f} GB"
        if facts.kind == "mps":
            return facts.name
        if not facts.kind and self._settings.device not in ("", "cpu"):
            return f"Waiting for {self._settings.device}"
        cores = usable_cores()
        return f"CPU, {cores} core{'s' if cores != 1 else ''}"

    def model(self) -> ShelfState:
        """Return whether the model is idle, loading, ready or failed, with a sentence."""
        return self._shelf.state

    def queue(self) -> str:
        """Return 'Idle', 'Drawing', 'Drawing, 2 waiting' or whom the device is waited for."""
        views = self._generation.queue()
        waiting = sum(view.state == "queued" for view in views)
        words = ["Drawing"] if any(view.state == "running" for view in views) else []
        if self._shared.waits_for:
            words.append(f"Waiting for {self._shared.waits_for}")
        if waiting:
            words.append(f"{waiting} waiting")
        return ", ".join(words) or self.background() or "Idle"

    def background(self) -> str:
        """Return what is done while nobody waits for a picture; '' while nothing is."""
        if self._campaigns.at_work():
            return "Drawing for a campaign"
        kinds = {job_id.partition("-")[0] for job_id in self._worker.job_ids()}
        return next((words for kind, words in LEARNING if kind in kinds), "")

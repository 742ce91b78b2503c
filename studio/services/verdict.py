"""The verdict: base against tuned, blind, by votes and by the reward; then it is kept or not.

A verdict is a campaign like any other: its pairs are asked on the voting page, its answers are
votes. Both sides of a pair have the same prompt and seed, and each picture is asked once.
"""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from studio.core.campaign import (
    DRAWN_FOR,
    Campaign,
    CampaignPicture,
    CampaignPlan,
    Contestant,
)
from studio.core.errors import NotFoundError, TrainingError
from studio.core.events import Event, StageProgress
from studio.core.request import AdapterUse, GenerationRequest
from studio.core.run import JUDGED, Kept, Run, RunPlan, Verdict
from studio.services.adapter_shelf import AdapterEntry, AdapterShelf
from studio.services.finetuning import Finetuning
from studio.services.models import ModelShelf
from studio.services.next_round import next_campaign, next_plan
from studio.services.preference import Preference
from studio.services.run_plan import KNOBS
from studio.services.run_reward import readiness, reward_of
from studio.services.worker import GpuWorker, JobEnded, JobEvent, Priority
from studio.store.runs import RunStore
from studio.training.preference.intervals import wilson_interval

JOB = "verdict"  # ids of jobs: verdict-{number}
FEWEST = 20  # pairs; fewer say nothing
MOST_EACH = 64  # pictures of one prompt
HANDFUL = 8  # pictures that the reward scores between two chances to give way
SEED = 5000  # of the first picture of each prompt: no seed of the film strip
STEPS = 20  # as artists draw
DISCARDED = "Discarded. Its votes and pictures stay."


@dataclass(frozen=True)
class Outcome:
    """How often the tuned model won; ties count half, pairs where both are bad do not."""

    tuned: int
    base: int
    ties: int = 0
    both_bad: int = 0

    @property
    def pairs(self) -> int:
        """How many pairs count."""
        return self.tuned + self.base + self.ties

    @property
    def share(self) -> float:
        """Share of the pairs that the tuned model won."""
        return (self.tuned + self.ties / 2) / self.pairs if self.pairs else 0.5

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval (Wilson)."""
        return wilson_interval(self.share, self.pairs)

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        low, high = self.interval
        won = f"The tuned model won {self.tuned} of {self.pairs} pairs"
        ties = f", {self.ties} were ties" if self.ties else ""
        share = f"{self.share:.0%}, {low:.0%} to {high:.0%}".replace("%", " %")
        meaning = (
            "That is better than the base." if low > 0.5
            else "That is worse than the base." if high < 0.5
            else "That may still be chance; more pairs would tell."
        )  # fmt: skip
        return f"{won}{ties} ({share}). {meaning}"


class Verdicts:
    """What is done with a finished run. Every public method may be called from any thread."""

    def __init__(
        self,
        store: RunStore,
        finetuning: Finetuning,
        preference: Preference,
        shelf: ModelShelf,
        adapters: AdapterShelf,
        worker: GpuWorker,
    ) -> None:
        self._store = store
        self._finetuning = finetuning
        self._preference = preference
        self._shelf = shelf
        self._adapters = adapters
        self._worker = worker
        worker.listen(self._on_event)

    def ladder(self, run_id: str) -> list[int]:
        """Return the epochs whose adapters can be judged and kept, the result's among them."""
        return sorted(self._rungs(run_id))

    def result(self, run_id: str) -> int:
        """Return the epoch that is the result; 0 when there is none (any more)."""
        path = self._finetuning.folder(run_id) / "adapter.safetensors"
        return self._epoch_of(path) if path.is_file() else 0

    def begin(self, run_id: str, epoch: int = 0, pairs: int = FEWEST) -> Verdict:
        """Begin a blind comparison of an epoch (0: the result) with the base; it draws itself.

        Raises TrainingError for a run without a result, NotFoundError for an epoch without an
        adapter, ModelError when the base is gone.
        """
        run = self._finished(run_id)
        epoch, adapter = self._adapter(run, epoch)
        plan = run.plan
        use = AdapterUse(plan.name, adapter.sha256)
        tuned = Contestant(plan.model, plan.model_hash, (use,))
        each = min(MOST_EACH, -(-max(FEWEST, pairs) // len(plan.held_out)))
        campaign = self._preference.campaigns.create(
            CampaignPlan(
                self._free_name(f"Verdict on {plan.name}"),
                plan.held_out,
                (Contestant(plan.model, plan.model_hash), tuned),
                pictures_per_prompt=each,
                template=self._template(run, SEED),
                target=each * len(plan.held_out),
                strategy="random",
                repeat_share=0.0,
                held_out_share=0.0,
                same_seed=True,
            )
        )
        verdict = Verdict(0, run_id, epoch, campaign.id, adapter.sha256, tuned.label)
        return self._store.add_verdict(verdict)

    def all(self, run_id: str) -> list[Verdict]:
        """Return a run's comparisons, newest first."""
        return self._store.verdicts(run_id)

    def campaign(self, verdict: Verdict) -> Campaign:
        """Return the campaign that asks a comparison's pairs. Raises NotFoundError."""
        return self._preference.campaigns.get(verdict.campaign)

    def by_votes(self, verdict: Verdict) -> Outcome:
        """Count the answers that stand."""
        pictures = self._pictures(verdict)
        found: Counter[str] = Counter()
        for vote in self._preference.votes.votes(verdict.campaign):
            winner = pictures.get(vote.winner or "")
            if winner is not None:
                found["tuned" if winner.contestant == verdict.label else "base"] += 1
            elif vote.choice in ("tie", "both_bad"):
                found[vote.choice] += 1
        return Outcome(found["tuned"], found["base"], found["tie"], found["both_bad"])

    def by_reward(self, verdict: Verdict) -> Outcome | None:
        """Return what the reward says of the same pairs; None until it has looked at them."""
        told = verdict.by_reward
        if not told:
            return None
        return Outcome(int(told["tuned"]), int(told["base"]), int(told["ties"]))

    def pairs(self, verdict: Verdict) -> list[tuple[CampaignPicture, CampaignPicture]]:
        """Return the (base, tuned) pictures that are drawn."""
        sides: dict[tuple[str, int], dict[bool, CampaignPicture]] = {}
        for picture in self._pictures(verdict).values():
            place = sides.setdefault((picture.prompt, picture.seed), {})
            place[picture.contestant == verdict.label] = picture
        return [(pair[False], pair[True]) for pair in sides.values() if len(pair) == 2]

    def picture(self, run_id: str, number: int, place: int, *, tuned: bool) -> bytes:
        """Return one side of a comparison's pair as PNG, without its recipe.

        Raises NotFoundError.
        """
        verdict = next((v for v in self.all(run_id) if v.number == number), None)
        pairs = self.pairs(verdict) if verdict else []
        if not 0 <= place < len(pairs):
            raise NotFoundError("This pair of the comparison is not there (any more).")
        stream = io.BytesIO()
        Image.fromarray(self._pixels(pairs[place][tuned].sha256)).save(stream, "PNG")
        return stream.getvalue()

    def keep(self, run_id: str, *, epoch: int = 0, strength: float = 1.0, name: str = "") -> Run:
        """Put an epoch's adapter (0: the result) on the shelf, to be used at this strength.

        Raises as `begin`, StorageError.
        """
        run = self._finished(run_id)
        if not 0 <= strength <= 2:
            raise TrainingError("An adapter is used at a strength from 0 to 2; 1 is as trained.")
        epoch, adapter = self._adapter(run, epoch)
        entry = self._adapters.add_trained(adapter.path.parent, name.strip() or run.name)
        return self._store.keep(run_id, Kept(entry.name, entry.sha256, strength, epoch))

    def adapter(self, run_id: str, epoch: int = 0) -> AdapterEntry:
        """Return the adapter of an epoch, 0 for the result. Raises as `begin`."""
        return self._adapter(self._finished(run_id), epoch)[1]

    def discard(self, run_id: str) -> Run:
        """Put a run away and free its disk; the result stays, so it can still be kept.

        Raises TrainingError while it is at work.
        """
        run = self._store.get(run_id)
        if run.state in ("running", "paused"):
            raise TrainingError(f"“{run.name}” is still being trained. Stop it first.")
        for part in ("ladder", "checkpoints"):
            shutil.rmtree(self._finetuning.folder(run_id) / part, ignore_errors=True)
        return self._store.mark(run_id, "discarded", DISCARDED)

    def rate_on(self, run_id: str) -> Campaign:
        """Begin a campaign about the tuned model's pictures, for the next round. Raises as `keep`.

        They are drawn with what was kept, or with the last epoch, where the run was leading.
        """
        run = self._finished(run_id)
        if run.kept:
            adapter = self._adapters.find(run.kept.sha256)
            use = AdapterUse(run.kept.name, adapter.sha256, run.kept.strength)
        else:
            adapter = self._adapter(run, max(self._rungs(run_id)))[1]
            use = AdapterUse(run.name, adapter.sha256)
        name = self._free_name(f"{run.name}, next round")
        template = self._template(run, SEED + 1000)
        trained = float(adapter.lineage.get("strength", 1.0))
        plan = next_campaign(run, use, template, name, trained)
        return self._preference.campaigns.create(plan)

    def next_plan(self, run_id: str) -> RunPlan:
        """Return what a run is asked for that goes on from this one. Raises NotFoundError."""
        voted = readiness(self._preference).possible
        return next_plan(self._store.get(run_id), voted=voted)

    def judge_waiting(self) -> None:
        """Hand in the comparisons that are drawn and that the reward has not seen; at start."""
        for run in self._store.all():
            for verdict in self._store.verdicts(run.id):
                self._judge_if_drawn(verdict)

    # ------------------------------------------------------------------ adapters

    def _finished(self, run_id: str) -> Run:
        run = self._store.get(run_id)
        if run.state not in JUDGED or not self._rungs(run_id):
            raise TrainingError(f"“{run.name}” has no result yet. Train it to an end, or stop it.")
        return run

    def _rungs(self, run_id: str) -> dict[int, Path]:
        """Return the adapters of a run by epoch, the result among them."""
        folder = self._finetuning.folder(run_id)
        found = {
            int(path.parent.name.rpartition("-")[2]): path
            for path in folder.glob("ladder/epoch-*/adapter.safetensors")
        }
        result = folder / "adapter.safetensors"
        if result.is_file():
            found[self._epoch_of(result)] = result
        return found

    def _adapter(self, run: Run, epoch: int) -> tuple[int, AdapterEntry]:
        rungs = self._rungs(run.id)
        result = self._finetuning.folder(run.id) / "adapter.safetensors"
        path = rungs.get(epoch) if epoch else result
        if path is None or not path.is_file():
            raise NotFoundError(f"“{run.name}” has no adapter of epoch {epoch} (any more).")
        return epoch or self._epoch_of(result), self._adapters.look(path)

    def _epoch_of(self, path: Path) -> int:
        return int(self._adapters.look(path).lineage.get("epoch", 0))

    def _template(self, run: Run, seed: int) -> GenerationRequest:
        entry = self._shelf.entry(run.plan.model)
        width, height = entry.native_size
        guidance = next(knob.default for knob in KNOBS if knob.name == "guidance_scale")
        return GenerationRequest(
            width=width,
            height=height,
            steps=STEPS,
            guidance_scale=float(run.plan.settings.get("guidance_scale", guidance)),
            seed=seed,
            model=entry.name,
        )

    def _free_name(self, wanted: str) -> str:
        taken = {campaign.name for campaign in self._preference.campaigns.all()}
        names = (wanted if n == 1 else f"{wanted} ({n})" for n in count(1))
        return next(name for name in names if name not in taken)

    # ------------------------------------------------------------------ by the reward

    def _pictures(self, verdict: Verdict) -> dict[str, CampaignPicture]:
        return self._preference.rating.pool(verdict.campaign).pictures

    def _on_event(self, job_id: str, event: JobEvent) -> None:
        ended = isinstance(event, JobEnded) and event.outcome == "done"
        if ended and job_id.startswith(DRAWN_FOR):
            campaign, _, _ = job_id.removeprefix(DRAWN_FOR).partition("-")
            verdict = self._store.verdict_of(campaign)
            if verdict is not None:
                self._judge_if_drawn(verdict)

    def _judge_if_drawn(self, verdict: Verdict) -> None:
        if verdict.by_reward:
            return
        campaign = self.campaign(verdict)
        if campaign.pictures >= campaign.plan.wanted_pictures:
            job = partial(self._judge, verdict)
            self._worker.submit(f"{JOB}-{verdict.number}", job, priority=Priority.BACKGROUND)

    def _judge(self, verdict: Verdict) -> Iterator[Event]:
        """Let the run's own reward look at the pairs, a handful of pictures at a time."""
        run, pairs = self._store.get(verdict.run), self.pairs(verdict)
        reward, _ = yield from reward_of(
            run.plan, self._finetuning.folder(run.id), self._preference
        )
        scores: list[list[float]] = [[], []]
        for side, found in enumerate(scores):
            for first in range(0, len(pairs), HANDFUL):
                some = [pair[side] for pair in pairs[first : first + HANDFUL]]
                images = np.stack([self._pixels(picture.sha256) for picture in some])
                found += reward(images, [picture.prompt for picture in some]).tolist()
                yield StageProgress("judge", len(found), len(pairs), None)
        better = sum(tuned > base for base, tuned in zip(*scores, strict=True))
        worse = sum(tuned < base for base, tuned in zip(*scores, strict=True))
        means = {"base_mean": float(np.mean(scores[0])), "tuned_mean": float(np.mean(scores[1]))}
        outcome = {"tuned": better, "base": worse, "ties": len(pairs) - better - worse}
        self._store.judged(verdict.number, {**outcome, **means})

    def _pixels(self, sha256: str) -> np.ndarray:
        with Image.open(io.BytesIO(self._preference.pictures.content(sha256))) as image:
            return np.asarray(image.convert("RGB"))

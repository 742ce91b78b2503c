"""The learned taste at work: scores, the gallery in its order, best of N, most loved sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from threading import Lock

from studio.core.errors import NotFoundError, TrainingError
from studio.core.events import Event
from studio.core.picture import Picture
from studio.core.request import MAX_COUNT
from studio.core.vote import Vote
from studio.services.taste import Snapshot, Taste
from studio.services.worker import GpuWorker, JobEnded, JobEvent
from studio.store.contact_sheet import Panel, contact_sheet_png
from studio.store.pictures import MAX_PAGE, PictureStore
from studio.store.votes import VoteStore

MAX_SORTED = 5000  # newest pictures that are put in the order of taste
ON_SHEET = 24
MOST_COUNTED = 200_000  # votes that sheets look through
JOB = "best-of"


@dataclass(frozen=True)
class Score:
    """What the taste says of one picture."""

    value: float | None  # logits; 0 is the mean of what was voted on; None until it was looked at
    sentence: str


class Favourites:
    """What the taste is used for. Every public method may be called from any thread."""

    def __init__(
        self, pictures: PictureStore, votes: VoteStore, taste: Taste, worker: GpuWorker
    ) -> None:
        self._pictures = pictures
        self._votes = votes
        self._taste = taste
        self._worker = worker
        self._lock = Lock()
        self._keep: dict[str, int] = {}  # job -> how many of its pictures stay
        self._extremes: tuple[Snapshot | None, dict[str, list[dict[str, object]]]] = (None, {})
        worker.listen(self._on_event)

    def score(self, picture: Picture) -> Score:
        """Return what the taste says of a picture, or that it is being worked out."""
        now = self._taste.now
        if now.reward is None:
            return Score(None, self._not_yet(now))
        value = now.scores([picture.sha256]).get(picture.sha256)
        if value is None:
            self._taste.want([picture.sha256])
            return Score(None, "The picture is being looked at; ask again in a moment.")
        others = sorted(now.scores(list(now.features)).values())
        below = sum(other < value for other in others) / max(len(others), 1)
        return Score(
            value,
            f"Your taste gives it {value:+.1f}: better than {below:.0%} of the pictures that it "
            "has looked at.".replace("%", " %"),
        )

    def by_taste(
        self, offset: int, limit: int, *, search: str = "", starred: bool = False
    ) -> tuple[list[Picture], int]:
        """Return a page of the newest pictures, best first, and how many there are in all.

        Those that were not looked at yet come last, and are looked at in the background. Raises
        TrainingError while there is no taste.
        """
        now = self._taste.now
        if now.reward is None:
            raise TrainingError(self._not_yet(now))
        found = list(islice(self._newest(search, starred), MAX_SORTED))
        scores = now.scores([picture.sha256 for picture in found])
        self._taste.want(p.sha256 for p in found if p.sha256 not in scores)
        found.sort(key=lambda picture: scores.get(picture.sha256, float("-inf")), reverse=True)
        return found[offset : offset + limit], len(found)

    def extremes(self, count: int) -> dict[str, list[dict[str, object]]]:
        """Return the pictures of the gallery that the taste loves and hates most, best first.

        Each as its id and prompt; both lists are empty while there is no taste.
        """
        now = self._taste.now
        if self._extremes[0] is now:
            return self._extremes[1]
        scores = now.scores(list(now.features))
        order = sorted(scores, key=lambda sha256: (-scores[sha256], sha256))
        loved = list(islice(self._there(order), count))
        hated = list(islice(self._there(reversed(order)), count))
        told = {"loved": loved, "hated": [p for p in hated if p not in loved]}
        listed = {
            name: [{"id": p.id, "prompt": p.request.prompt} for p in found]
            for name, found in told.items()
        }
        self._extremes = (now, listed)
        return listed

    def keep_best(self, job_id: str, keep: int, *, over: bool) -> str:
        """Keep the best of a job's pictures, now or when it is done; the others go to the bin.

        Returns a sentence. Raises TrainingError while there is no taste.
        """
        now = self._taste.now
        if now.reward is None:
            raise TrainingError(self._not_yet(now))
        with self._lock:
            self._keep[job_id] = keep
        if over:
            self._submit(job_id)
            return f"The best {keep} stay; the others go to the bin."
        return f"When it is drawn, the best {keep} stay and the others go to the bin."

    def sheet(self, kind: str) -> bytes:
        """Return a contact sheet (PNG) of the most loved or the most disputed pictures.

        Raises NotFoundError when no picture was judged so.
        """
        wins, losses = _record(islice(self._votes.votes(), MOST_COUNTED))
        judged = wins.keys() | losses.keys()
        if kind == "loved":
            scores = self._taste.now.scores(list(judged))
            order = sorted(judged, key=lambda s: (-scores.get(s, wins[s] - losses[s]), s))
        else:
            split = {s: min(wins[s], losses[s]) / (1 + abs(wins[s] - losses[s])) for s in judged}
            order = sorted((s for s in judged if split[s]), key=lambda s: (-split[s], s))
        panels = list(islice(self._panels(order, wins, losses), ON_SHEET))
        if not panels:
            raise NotFoundError("No pictures were judged so yet; rate some pairs first.")
        return contact_sheet_png(panels)

    def _panels(
        self, order: Sequence[str], wins: Counter[str], losses: Counter[str]
    ) -> Iterator[Panel]:
        for sha256 in order:
            picture = self._pictures.find(sha256)
            if picture is not None:
                score = f"won {wins[sha256]}, lost {losses[sha256]}"
                yield Panel(self._pictures.file(picture), f"{score}: {picture.request.prompt}")

    def _there(self, pictures: Iterable[str]) -> Iterator[Picture]:
        """Yield those of the pictures that are in the gallery."""
        found = (self._pictures.find(sha256) for sha256 in pictures)
        yield from (picture for picture in found if picture is not None)

    def _newest(self, search: str, starred: bool) -> Iterator[Picture]:
        before: int | None = None
        while True:
            page = self._pictures.page(
                before=before, limit=MAX_PAGE, search=search, starred=starred
            )
            yield from page
            if len(page) < MAX_PAGE:
                return
            before = page[-1].id

    def _on_event(self, job_id: str, event: JobEvent) -> None:
        if isinstance(event, JobEnded) and job_id in self._keep:
            if event.outcome == "done":
                self._submit(job_id)
            else:  # it was cancelled: whatever is there was chosen by hand
                with self._lock:
                    self._keep.pop(job_id, None)

    def _submit(self, job_id: str) -> None:
        self._worker.submit(f"{JOB}-{job_id}", partial(self._choose, job_id))

    def _choose(self, job_id: str) -> Iterator[Event]:
        """Look at a job's pictures on the device thread, and bin all but the best."""
        with self._lock:
            keep = self._keep.pop(job_id, MAX_COUNT)
        batch = self._pictures.page(job_id=job_id, limit=MAX_COUNT)
        yield from self._taste.embed([picture.sha256 for picture in batch])
        scores = self._taste.now.scores([picture.sha256 for picture in batch])
        if not scores:
            return
        batch.sort(key=lambda picture: scores.get(picture.sha256, float("inf")), reverse=True)
        for picture in batch[keep:]:
            self._pictures.delete(picture.id)

    def _not_yet(self, now: Snapshot) -> str:
        self._taste.keep_up()
        if now.votes:
            return "There are too few votes to learn a taste from; rate some more pairs."
        return "There is no taste yet. Rate some pairs on the Rate tab first."


def _record(votes: Iterator[Vote]) -> tuple[Counter[str], Counter[str]]:
    """Count how often each picture was preferred, and how often another one was."""
    wins: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    for vote in votes:
        if vote.winner is not None:
            wins[vote.winner] += 1
            losses[vote.right if vote.winner == vote.left else vote.left] += 1
    return wins, losses

"""Campaigns: made, paused, archived, and their pictures drawn in the background.

Each prompt and contestant is one short job of the worker's, behind everything that an artist waits
for; when it is done the next one is handed in. What was drawn is in the store, so a closed studio
goes on where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock

from studio.core.campaign import (
    DRAWN_FOR,
    Campaign,
    CampaignPicture,
    CampaignPlan,
    Contestant,
)
from studio.core.errors import InvalidRequestError, ModelError, NotFoundError, VoteRefusedError
from studio.core.events import Event, Notice, PictureDone, Progress
from studio.core.picture import Picture
from studio.core.request import GenerationRequest
from studio.core.settings import ASSETS
from studio.services.adapter_shelf import AdapterShelf
from studio.services.models import ModelShelf
from studio.services.worker import GpuWorker, JobEnded, JobEvent, Priority
from studio.store.campaigns import CampaignStore
from studio.store.pictures import PictureStore

PROMPT_LISTS = ASSETS / "prompts"  # *.txt: '# Title', then one prompt a line
BLOCK = 6  # prompts that one contestant draws before the next model is loaded
GALLERY_PAGE = 200
MAX_GALLERY = 5000  # newest pictures that a campaign looks through


@dataclass(frozen=True)
class PromptList:
    """Prompts that come with Easel."""

    name: str
    title: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """One short job: what a contestant still has to draw of one prompt."""

    campaign: str
    contestant: Contestant
    request: GenerationRequest


class Campaigns:
    """What the page may do with campaigns. Every method may be called from any thread."""

    def __init__(
        self,
        store: CampaignStore,
        pictures: PictureStore,
        shelf: ModelShelf,
        worker: GpuWorker,
        adapters: AdapterShelf,
    ) -> None:
        self._store = store
        self._pictures = pictures
        self._shelf = shelf
        self._worker = worker
        self._adapters = adapters
        self._handing_in = Lock()
        self._problems: dict[str, str] = {}  # campaign -> why its drawing stopped
        self._numbers = count(1)
        worker.listen(self._on_event)

    def create(self, plan: CampaignPlan) -> Campaign:
        """Store a campaign and begin to draw it.

        Raises VoteRefusedError for a plan that cannot be, ModelError for a model that is not there,
        InvalidRequestError for a size or number that cannot be drawn.
        """
        prompts = tuple(dict.fromkeys(line.strip() for line in plan.prompts if line.strip()))
        if not prompts:
            raise VoteRefusedError("A campaign needs prompts; write one a line, or pick a list.")
        if len(plan.contestants) * plan.pictures_per_prompt < 2:
            raise VoteRefusedError(
                "One picture of each prompt cannot be compared; draw two, or let two models draw."
            )
        for prompt in prompts:
            plan.template.with_changes(prompt=prompt)
        contestants = tuple(self._checked(contestant) for contestant in plan.contestants)
        if len({contestant.label for contestant in contestants}) < len(contestants):
            raise VoteRefusedError("A model stands twice in this campaign; leave one out.")
        campaign = self._store.create(replace(plan, prompts=prompts, contestants=contestants))
        self.draw(campaign.id)
        return campaign

    def create_from_gallery(self, plan: CampaignPlan, pictures: Iterable[Picture]) -> Campaign:
        """Store a campaign about pictures that exist already.

        Only pictures that can be compared take part: of one prompt and one size, two at least.
        Raises VoteRefusedError when there are none.
        """
        chosen = comparable(pictures)
        if not chosen:
            raise VoteRefusedError(
                "No prompt has two pictures of the same size among these. Draw variations of a "
                "picture first, or let a campaign draw its own."
            )
        campaign = self._store.create(replace(plan, prompts=(), contestants=()))
        self._store.add_pictures(campaign.id, (taking_part(picture) for picture in chosen))
        return self._store.get(campaign.id)

    def gallery_pictures(self, *, starred: bool) -> Iterator[Picture]:
        """Yield the newest pictures of the gallery, MAX_GALLERY at most."""
        before: int | None = None
        for _ in range(MAX_GALLERY // GALLERY_PAGE):
            page = self._pictures.page(before=before, limit=GALLERY_PAGE, starred=starred)
            yield from page
            if len(page) < GALLERY_PAGE:
                return
            before = page[-1].id

    def gallery_pairs(self, *, starred: bool) -> int:
        """Return how many pairs a campaign about those pictures could show."""
        prompts = Counter(
            (picture.request.prompt, picture.request.negative_prompt)
            for picture in comparable(self.gallery_pictures(starred=starred))
        )
        return sum(pictures * (pictures - 1) // 2 for pictures in prompts.values())

    def at_work(self) -> bool:
        """Tell whether pictures of a campaign are being drawn, or are next in turn."""
        return any(job_id.startswith(DRAWN_FOR) for job_id in self._worker.job_ids())

    def pause(self, campaign_id: str) -> Campaign:
        """Ask nobody and draw nothing until it is resumed. Raises NotFoundError."""
        return self._store.pause(campaign_id)

    def resume(self, campaign_id: str) -> Campaign:
        """Ask and draw again, also an archived campaign. Raises NotFoundError."""
        campaign = self._store.resume(campaign_id)
        self._problems.pop(campaign_id, None)
        self.draw(campaign_id)
        return campaign

    def archive(self, campaign_id: str) -> Campaign:
        """Put a campaign away; its votes stay and teach. Raises NotFoundError."""
        return self._store.archive(campaign_id)

    def choose_by(self, campaign_id: str, strategy: str) -> Campaign:
        """Change how the next pairs are chosen. Raises NotFoundError, VoteRefusedError."""
        return self._store.set_strategy(campaign_id, strategy)

    def all(self) -> list[Campaign]:
        """Return the campaigns, newest first."""
        return self._store.all()

    def rounds(self, campaign_id: str) -> list[str]:
        """Return a campaign and the rounds of votes that follow it, by id, oldest first."""
        later = (c.id for c in reversed(self._store.all()) if c.plan.follows == campaign_id)
        return [campaign_id, *later]

    def get(self, campaign_id: str) -> Campaign:
        """Return a campaign. Raises NotFoundError."""
        return self._store.get(campaign_id)

    def named(self, name: str) -> Campaign:
        """Return the campaign of that name. Raises NotFoundError, which tells the names."""
        found = self._store.find(name)
        if found is None:
            names = ", ".join(f"'{c.name}'" for c in self._store.all()[:8]) or "none yet"
            raise NotFoundError(f"There is no campaign '{name[:60]}'. There are: {names}.")
        return found

    def doing(self, campaign: Campaign) -> str:
        """Return a sentence about a campaign's pictures."""
        problem = self._problems.get(campaign.id)
        if problem:
            return problem
        wanted = campaign.plan.wanted_pictures
        if campaign.pictures >= wanted:
            return f"{campaign.pictures} pictures are ready."
        how = "are drawn" if campaign.state == "running" else "were drawn"
        return f"{campaign.pictures} of {wanted} pictures {how}; rating can begin meanwhile."

    def resume_drawing(self) -> None:
        """Hand in the next job of every running campaign; for the studio's start."""
        for campaign in self._store.all("running"):
            self.draw(campaign.id)

    def draw(self, campaign_id: str) -> bool:
        """Hand the next job of a campaign to the worker; False when nothing is left to draw."""
        with self._handing_in:
            prefix = f"{DRAWN_FOR}{campaign_id}-"  # a number follows
            if any(job_id.startswith(prefix) for job_id in self._worker.job_ids()):
                return True
            campaign = self._store.get(campaign_id)
            work = self._next_work(campaign) if campaign.state == "running" else None
            if work is None:
                return False
            job_id = f"{prefix}{next(self._numbers)}"
            self._worker.submit(job_id, partial(self._draw, work), priority=Priority.BACKGROUND)
            return True

    def _on_event(self, job_id: str, event: JobEvent) -> None:
        if not job_id.startswith(DRAWN_FOR) or not isinstance(event, JobEnded):
            return
        campaign_id = job_id.removeprefix(DRAWN_FOR).partition("-")[0]
        if event.outcome == "failed":
            self._problems[campaign_id] = f"Drawing stopped: {event.error}"
        elif event.outcome == "done":
            self.draw(campaign_id)

    def _next_work(self, campaign: Campaign) -> Work | None:
        """Return what to draw next, in blocks of prompts so that models change seldom."""
        plan = campaign.plan
        if not plan.prompts or campaign.pictures >= plan.wanted_pictures:
            return None
        drawn = Counter((p.prompt, p.contestant) for p in self._store.pictures(campaign.id))
        for start in range(0, len(plan.prompts), BLOCK):
            for contestant in plan.contestants:
                for prompt in plan.prompts[start : start + BLOCK]:
                    done = drawn[prompt, contestant.label]
                    if done < plan.pictures_of(contestant):
                        return Work(
                            campaign.id, contestant, _request(plan, contestant, prompt, done)
                        )
        return None

    def _draw(self, work: Work) -> Iterator[Event]:
        """Run one job on the device thread: draw, save, and let the pictures take part."""
        from studio.diffusion.sampler import Drawn, sample  # brings torch, so only here

        model = self._shelf.load(work.request.model)
        request = work.request.with_changes(model_hash=model.sha256)
        if work.contestant.model_hash != model.sha256:
            yield Notice(
                f"The files of '{request.model}' changed; they are drawn with as they are."
            )
        draw = partial(sample, preview_every=0)
        with closing(self._adapters.drawn(model, request, draw)) as events:
            for event in events:
                if isinstance(event, Drawn):
                    picture = self._pictures.save(
                        event.image,
                        request,
                        job_id=f"{DRAWN_FOR}{work.campaign}",
                        index=event.index,
                        seconds=event.seconds,
                    )
                    part = taking_part(picture, work.contestant.label)
                    self._store.add_pictures(work.campaign, [part])
                    yield PictureDone(picture)
                elif isinstance(event, Progress | Notice):
                    yield event

    def _checked(self, contestant: Contestant) -> Contestant:
        entry = self._shelf.entry(contestant.model)
        if entry.problem:
            raise ModelError(entry.problem)
        for use in contestant.adapters:
            adapter = self._adapters.find(use.sha256)
            if adapter.problem:
                raise ModelError(adapter.problem)
        return replace(contestant, model_hash=self._shelf.hash_of(entry))


def comparable(pictures: Iterable[Picture]) -> list[Picture]:
    """Return those pictures that share prompt and size with another one."""
    groups: dict[tuple[str, str, int, int], list[Picture]] = {}
    for picture in pictures:
        request = picture.request
        key = (request.prompt, request.negative_prompt, picture.width, picture.height)
        groups.setdefault(key, []).append(picture)
    largest: dict[tuple[str, str], list[Picture]] = {}
    for key, group in groups.items():  # of each prompt the size with most pictures
        if len(group) > max(1, len(largest.get(key[:2], ()))):
            largest[key[:2]] = group
    return [picture for group in largest.values() for picture in group]


def taking_part(picture: Picture, label: str = "") -> CampaignPicture:
    """Return a picture as a campaign's; its contestant is the model and adapters that drew it."""
    request = picture.request
    drawn_by = Contestant(request.model, request.model_hash, request.adapters)
    return CampaignPicture(
        sha256=picture.sha256,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        contestant=label or drawn_by.label,
        seed=picture.seed,
    )


def prompt_lists(folder: Path = PROMPT_LISTS) -> list[PromptList]:
    """Return the lists of prompts that come with Easel."""
    found = []
    for path in sorted(folder.glob("*.txt")):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        title = next((line[1:].strip() for line in lines if line.startswith("#")), path.stem)
        prompts = tuple(line for line in lines if line and not line.startswith("#"))
        found.append(PromptList(path.stem, title, prompts))
    return found


def _request(
    plan: CampaignPlan, contestant: Contestant, prompt: str, done: int
) -> GenerationRequest:
    """Return the request for what is left of a prompt; every contestant gets the same seeds."""
    try:
        return plan.template.with_changes(
            prompt=prompt,
            model=contestant.model,
            model_hash=contestant.model_hash,
            adapters=contestant.adapters,
            seed=plan.template.seed + done,
            count=plan.pictures_of(contestant) - done,
        )
    except InvalidRequestError as error:
        raise VoteRefusedError(f"The prompt “{prompt[:60]}” cannot be drawn: {error}") from error

"""The learned taste: features of pictures, a reward refitted as votes arrive, and its scores.

Everything slow is a background job of the worker's: it gives way to drawing between two handfuls of
pictures. Readers take the newest finished `Snapshot`, which never changes, so nothing waits.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from studio.core.campaign import Campaign, CampaignPicture
from studio.core.errors import TrainingError
from studio.core.events import Event, StageProgress
from studio.core.settings import Settings
from studio.core.vote import Vote
from studio.services.pairing import Choose
from studio.services.rating import Pictures
from studio.services.worker import GpuWorker, Priority
from studio.store.campaigns import CampaignStore
from studio.store.votes import VoteStore

if TYPE_CHECKING:
    from studio.training.preference.comparisons import Comparisons
    from studio.training.preference.feature_cache import FeatureCache
    from studio.training.preference.features import Encoder
    from studio.training.preference.reward import Reward
    from studio.training.preference.reward_check import Calibration
    from studio.training.preference.taste_words import Agreement

JOB = "taste"
OWN_ENCODER = "encoder"  # folder in the models' folder: the artist's own CLIP or PickScore
HANDFUL = 8  # pictures that are looked at between two chances to give way
NEWEST_VOTES = 20_000  # that the reward learns from; older ones change little and fit in no memory
REFIT_AFTER = 5  # votes or undos, and
REFIT_GROWTH = 0.02  # of those that it learned from: many raters at once are no reason to hurry
FEW_PICTURES = 4  # below it there is nothing to choose among
MOST_PICTURES = 500  # that decide how features are weighed before the first vote
PAGE = 1000  # votes that are read between two chances to give way

Campaigns = tuple[str, ...]  # ids


@dataclass(frozen=True)
class Snapshot:
    """What was known of the taste at one moment."""

    features: Mapping[str, np.ndarray] = field(default_factory=dict)  # sha256 -> (D,)
    reward: Reward | None = None  # None while there are too few votes
    agreement: Agreement | None = None  # by prompt-grouped cross-validation
    held_out: Agreement | None = None  # on the random pairs that nothing learned from
    calibration: Calibration | None = None
    gain_of_100: float | None = None  # agreement that a hundred more votes are likely to add
    worth: int | None = None  # votes after which a hundred more add less than one percent
    votes: int = 0  # that it learned from
    judged_at: int = 0  # votes when the last two of these figures were measured
    encoder: str = ""  # its name
    events: tuple[int, int] = (0, 0)  # newest vote and undo that it knows

    def scores(self, pictures: Sequence[str]) -> dict[str, float]:
        """Return the score in logits of those pictures whose features are known."""
        known = [sha256 for sha256 in pictures if sha256 in self.features]
        if self.reward is None or not known:
            return {}
        found = self.reward.score(np.stack([self.features[sha256] for sha256 in known]))
        return dict(zip(known, map(float, found), strict=True))


class Taste:
    """Keeps the snapshot fresh. Every public method may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        votes: VoteStore,
        campaigns: CampaignStore,
        pictures: Pictures,
        worker: GpuWorker,
    ) -> None:
        self._settings = settings
        self._votes = votes
        self._campaigns = campaigns
        self._pictures = pictures
        self._worker = worker
        self._lock = Lock()
        self._now = Snapshot()
        self._cache: FeatureCache | None = None  # worker's thread only
        self._wanted: dict[str, None] = {}  # pictures whose features somebody asked for, in order
        self._views: dict[str, _View] = {}  # by campaign
        self._among: dict[Campaigns, _Among] = {}  # agreement within campaigns
        self._asked: dict[Campaigns, None] = {}  # of which it is to be measured (anew)
        self._offered: frozenset[str] = frozenset()  # by campaigns; a lost picture is tried once

    @property
    def now(self) -> Snapshot:
        """The newest finished snapshot."""
        return self._now

    def keep_up(self) -> None:
        """Refit in the background when enough has happened since the last time; returns at once."""
        if self._is_behind():
            self.refresh()

    def refresh(self) -> None:
        """Look at new pictures and refit, in the background; twice at once is once."""
        self._worker.submit(JOB, self._learn, priority=Priority.BACKGROUND)

    def learned(self) -> Snapshot:
        """Learn now, on this thread, and return the snapshot; for commands that hold the device."""
        for _ in self._learn_once():
            pass
        return self._now

    def among(self, campaigns: Iterable[str]) -> Agreement | None:
        """Return how well the votes of these campaigns alone predict each other, as last measured.

        None until it was, and while they are too few. Measured anew in the background, when enough
        votes came since.
        """
        key = tuple(campaigns)
        last, now = self._among.get(key), self._counted(key)
        if last is None or _is_behind(last.counted, now, last.counted[0]):
            with self._lock:
                self._asked[key] = None
            self.refresh()
        return last.agreement if last else None

    def measured(self, campaigns: Iterable[str]) -> Agreement | None:
        """Return the same, measured now; for commands that hold the device."""
        key = tuple(campaigns)
        for _ in self._measure(key):
            pass
        return self._among[key].agreement

    def want(self, pictures: Iterable[str]) -> None:
        """Have features of these pictures made in the background, where they are missing."""
        with self._lock:
            missing = [sha256 for sha256 in pictures if sha256 not in self._now.features]
            self._wanted.update(dict.fromkeys(missing))
        if missing:
            self.refresh()

    def strategy(
        self, campaign: Campaign, pictures: Mapping[str, CampaignPicture]
    ) -> Choose | None:
        """Return a campaign's way to choose a pair; None chooses at random.

        Each pair is chosen as if those before it had been answered, or all would ask the same.
        Pictures that came since the last refit are looked at in the background.
        """
        from studio.training.preference.selection import as_if_answered, next_pair

        strategy = campaign.plan.strategy
        if strategy == "random":
            return None
        self._offer(pictures)
        view = self._views.get(campaign.id)
        if view is None:  # its first pairs are random ones, while its pictures are looked at
            self.refresh()
            return None
        reward, draw = view.reward, np.random.default_rng()

        def choose(pairs: Sequence[tuple[str, str]]) -> int:
            nonlocal reward
            places = [at for at, pair in enumerate(pairs) if view.rows.keys() >= set(pair)]
            if not places:
                return 0
            rows = np.array([[view.rows[name] for name in pairs[at]] for at in places])
            one, other = view.z[rows[:, 0]], view.z[rows[:, 1]]
            best = next_pair(strategy, reward, one, other, draw)
            reward = as_if_answered(reward, one[best] - other[best])
            return places[best]

        return choose

    def _offer(self, pictures: Iterable[str]) -> None:
        fresh = frozenset(pictures) - self._offered
        if fresh:
            self._offered |= fresh
            self.want(fresh)

    def embed(self, pictures: Sequence[str]) -> Iterator[Event]:
        """Make the missing features of pictures; on the worker's thread, a handful at a time."""
        missing = [sha256 for sha256 in pictures if sha256 not in self._now.features]
        for start in range(0, len(missing), HANDFUL):
            found = self._embed_some(missing[start : start + HANDFUL])
            with self._lock:
                self._now = replace(self._now, features={**self._now.features, **found})
            done = min(start + HANDFUL, len(missing))
            yield StageProgress("features", done, len(missing), None)

    def looked_at(self, pictures: Sequence[str]) -> tuple[dict[str, np.ndarray], Encoder]:
        """Return features of these pictures and what made them; for who holds the device.

        Pictures that are gone are left out.
        """
        found = self._embed_some(pictures)
        return found, self._feature_cache().encoder

    def _is_behind(self) -> bool:
        return _is_behind(self._now.events, self._votes.events(), self._now.votes)

    def _learn(self) -> Iterator[Event]:
        """Refit, and again for what came meanwhile: a job that runs is not queued twice."""
        yield from self._learn_once()
        while self._wanted or self._asked or self._is_behind():
            yield from self._learn_once()

    def _learn_once(self) -> Iterator[Event]:
        """Look at pictures that are new, refit if votes are new, and lay out the campaigns."""
        yield StageProgress("features", 0, 1, None)  # each import is a step of its own
        self._feature_cache()
        yield StageProgress("features", 0, 1, None)
        events = self._votes.events()
        with self._lock:
            wanted = list(self._wanted)
            self._wanted = {}
        yield from self.embed(wanted)
        campaigns = [c for c in self._campaigns.all("running") if c.plan.strategy != "random"]
        shown = {c.id: list(self._campaigns.pictures(c.id)) for c in campaigns}
        for pictures in shown.values():
            yield from self.embed([picture.sha256 for picture in pictures])
        if events != self._now.events or not self._now.encoder:
            yield from self._fit(events)
        for campaign, pictures in shown.items():
            self._lay_out(campaign, pictures)
            yield StageProgress("reward", 2, 2, None)
        with self._lock:
            asked = list(self._asked)
            self._asked = {}
        for key in asked:
            yield from self._measure(key)

    def _fit(self, events: tuple[int, int]) -> Iterator[Event]:
        """Fit the reward to the newest votes, and see how well it predicts."""
        from studio.training.preference.comparisons import comparisons_from_votes
        from studio.training.preference.reward import fit_reward
        from studio.training.preference.reward_check import agreement_on

        newest = max(0, self._votes.newest_number() - NEWEST_VOTES)
        votes = list(self._votes.votes(after=newest))
        yield from self.embed(list(dict.fromkeys(s for v in votes for s in (v.left, v.right) if s)))
        encoder = self._feature_cache().encoder
        now, named = self._now, (encoder.name, encoder.sha256)
        learned = comparisons_from_votes(votes, now.features, encoder=named)
        kept = comparisons_from_votes(votes, now.features, held_out=True, encoder=named)
        found = replace(_FORGOTTEN, events=events, votes=len(learned), encoder=encoder.name)
        try:
            reward = fit_reward(learned, start=now.reward)
            yield StageProgress("reward", 1, 2, None)
            found = replace(found, reward=reward, held_out=agreement_on(reward, kept))
            found = yield from _judged(found, learned, now)
        except TrainingError:  # too few votes: the page says how many are missing
            pass
        with self._lock:
            self._now = replace(found, features=self._now.features)

    def _counted(self, campaigns: Campaigns) -> tuple[int, int]:
        """Return how many votes some campaigns got, and how many of them were taken back."""
        tallies = [self._votes.tally(campaign) for campaign in campaigns]
        undone = sum(tally.undone for tally in tallies)
        return undone + sum(t.votes + t.skips + t.on_one_picture for t in tallies), undone

    def _measure(self, campaigns: Campaigns) -> Iterator[Event]:
        """Measure how well the newest votes of some campaigns predict each other."""
        from studio.training.preference.comparisons import comparisons_from_votes
        from studio.training.preference.reward_check import held_out_agreement

        counted = self._counted(campaigns)
        votes: list[Vote] = []
        older = self._votes.before_newest(NEWEST_VOTES, campaigns)
        newest = (v for one in campaigns for v in self._votes.votes(one, after=older))
        for number, vote in enumerate(newest):
            votes.append(vote)
            if number % PAGE == 0:
                yield StageProgress("agreement", 0, 2, None)
        yield from self.embed(list(dict.fromkeys(s for v in votes for s in (v.left, v.right) if s)))
        agreement = held_out_agreement(comparisons_from_votes(votes, self._now.features))
        self._among = {**self._among, campaigns: _Among(counted, agreement)}
        yield StageProgress("agreement", 2, 2, None)

    def _lay_out(self, campaign: str, pictures: Sequence[CampaignPicture]) -> None:
        """Project a campaign's pictures, so that choosing a pair is a matter of milliseconds."""
        now, kept = self._now, self._views.get(campaign)
        known = [picture for picture in pictures if picture.sha256 in now.features]
        rows = {picture.sha256: row for row, picture in enumerate(known)}
        if len(rows) < FEW_PICTURES:
            return
        if kept and kept.learned is now.reward and kept.rows.keys() == rows.keys():
            return
        phi = np.stack([now.features[picture.sha256] for picture in known])
        reward = now.reward or _prior(phi, [picture.prompt for picture in known])
        view = _View(now.reward, reward, rows, reward.projection(phi))
        self._views = {**self._views, campaign: view}

    def _embed_some(self, pictures: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the features of a handful; pictures that are gone are left out."""
        return self._feature_cache().features(pictures, self._read)

    def _feature_cache(self) -> FeatureCache:
        """Return the encoder with what it has looked at before; loads it when first needed."""
        from studio.diffusion.device import choose_device
        from studio.training.preference.feature_cache import FeatureCache
        from studio.training.preference.features import load_encoder

        if self._cache is None:
            own = self._settings.models_dir / OWN_ENCODER
            device = choose_device(self._settings.device)
            encoder = load_encoder(own if own.is_dir() else None, device=str(device))
            self._cache = FeatureCache(self._settings.data_dir / "features", encoder)
        return self._cache

    def _read(self, sha256: str) -> Image.Image:
        with Image.open(io.BytesIO(self._pictures.content(sha256))) as image:
            return image.convert("RGB")


@dataclass(frozen=True)
class _Among:
    """How well the votes of some campaigns predict each other."""

    counted: tuple[int, int]  # votes and undos then
    agreement: Agreement | None


def _is_behind(seen: tuple[int, int], now: tuple[int, int], votes: int) -> bool:
    """Whether so much happened, in (votes, undos), that what came of `votes` is to be made anew."""
    return sum(now) - sum(seen) >= max(REFIT_AFTER, REFIT_GROWTH * votes)


@dataclass(frozen=True)
class _View:
    """A campaign's pictures as one reward sees them."""

    learned: Reward | None  # the snapshot's; None before there are enough votes
    reward: Reward  # that one, or the prior alone
    rows: Mapping[str, int]  # sha256 -> row of z
    z: np.ndarray  # (P, d) projected features


_FORGOTTEN = Snapshot()


def _prior(phi: np.ndarray, prompts: Sequence[str]) -> Reward:
    """Return the reward before any vote, about how pictures (N, D) of one prompt differ."""
    from studio.training.preference.reward import untrained_reward

    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    meeting = [(a, b) for a, b in pairwise(order) if prompts[a] == prompts[b]][:MOST_PICTURES]
    one, other = np.array(meeting, dtype=np.int64).reshape(-1, 2).T
    differences = phi[one] - phi[other] if len(meeting) >= FEW_PICTURES else None
    return untrained_reward(phi[:MOST_PICTURES], differences=differences)


def _judged(
    found: Snapshot, learned: Comparisons, before: Snapshot
) -> Generator[Event, None, Snapshot]:
    """Add how well the votes predict each other, and what more of them would bring.

    The learning curve takes several fits, so it is measured anew only when votes grew by a tenth.
    """
    from studio.training.preference.reward_check import (
        agreement_of,
        calibration,
        held_out_predictions,
        learning_curve,
    )

    predictions = held_out_predictions(learned)
    if predictions is None:
        return found
    agreement = agreement_of(predictions)
    found = replace(found, agreement=agreement, calibration=calibration(predictions))
    yield StageProgress("agreement", 1, 2, None)
    if before.worth is not None and len(learned) < 1.1 * before.judged_at:
        return replace(
            found, gain_of_100=before.gain_of_100, worth=before.worth, judged_at=before.judged_at
        )
    curve = learning_curve(learned, now=agreement)
    return replace(found, gain_of_100=curve.gain_of_100, worth=curve.worth, judged_at=len(learned))

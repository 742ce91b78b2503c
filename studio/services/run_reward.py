"""What a run is trained towards: a known reward, or the taste in the votes, kept as it was then.

The taste is fitted when the run begins and lies in the run's folder, so votes that come later do
not change what a resumed run is trained towards.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.events import Event, StageProgress
from studio.core.run import RunPlan
from studio.core.vote import Tally, Vote
from studio.core.words import counted
from studio.services.preference import Preference
from studio.training.preference.comparisons import Judgement, judgements, teaching
from studio.training.preference.taste_words import WORTH_TRAINING, Agreement, telling

if TYPE_CHECKING:
    from studio.training.rewards import RewardFunction

REWARD_FILE = "reward.safetensors"  # in the run's folder
LEAST_VOTES = 10  # `training/preference/reward.py` asks for as many
TIE = 0.5  # as a judgement's choice
ONE_SIDED_FROM = 12  # decisive votes on one side alone that are no chance any more


@dataclass(frozen=True)
class Readiness:
    """Whether the votes suffice to train on."""

    votes: int  # on pairs, the number that every tab tells
    possible: bool  # otherwise nothing can be learned at all
    enough: bool  # otherwise the artist may begin nevertheless
    sentence: str


def readiness(preference: Preference, campaign: str = "", reward: str = "") -> Readiness:
    """Say whether there is enough to train towards; `campaign` '' asks about all votes.

    What counts is what the reward would learn from: `comparisons_from_votes` makes the same
    judgements of the same votes.
    """
    if reward:
        return Readiness(0, True, True, "A known reward needs no votes.")
    tally = _tally(preference, campaign)
    if tally.votes + tally.on_one_picture == 0:
        return Readiness(0, False, False, "There are no votes yet. Rate some pairs first.")
    taught = _taught(preference, campaign)
    told = _told(tally, taught)
    if len(taught) < LEAST_VOTES:
        more = counted(LEAST_VOTES - len(taught), "more pair")
        verb = "teaches" if 1 in (tally.votes, len(taught)) else "teach"
        return Readiness(tally.votes, False, False, f"{told} {verb} too little yet. Rate {more}.")
    if all(one.choice == TIE for one in taught):
        return Readiness(
            tally.votes, False, False, "No vote prefers one picture to another. Rate more pairs."
        )
    doubt = _doubt(preference, campaign, tally, taught, told)
    return Readiness(tally.votes, True, not doubt, doubt or f"{told} are enough to fine-tune.")


def _doubt(
    preference: Preference, campaign: str, tally: Tally, taught: Sequence[Judgement], told: str
) -> str:
    """Say why it may be too early to begin; empty when it is not."""
    decisive = tally.left + tally.right
    if decisive >= ONE_SIDED_FROM and 0 in (tally.left, tally.right):
        side = "left" if tally.left else "right"
        return (
            f"All {decisive} votes chose the {side} picture, whatever it showed. That says where "
            "you click, not what you like; rate some more pairs."
        )
    missing = math.ceil(WORTH_TRAINING - _weight(taught))
    if missing > 0:
        return (
            f"{told} are a beginning; fine-tuning is worth it from {WORTH_TRAINING}. Rate "
            f"{missing} more, or begin nevertheless."
        )
    agreement = agreement_so_far(preference, campaign)
    if agreement is not None and agreement.low <= 0.5:
        return (
            "Your votes do not predict each other better than a coin would, so there is no clear "
            "taste to follow. Rate more pairs, or begin nevertheless."
        )
    return ""


def _taught(preference: Preference, campaign: str) -> list[Judgement]:
    """Return the judgements of the oldest votes: all, or so many that they are enough.

    The votes are looked at in ever larger parts, so that a million cost no more than a few hundred.
    """
    votes, known = votes_behind(preference, campaign), set[str]()
    used: list[Vote] = []
    found: list[Judgement] = []
    size = WORTH_TRAINING
    while _weight(found) < WORTH_TRAINING and (part := list(islice(votes, size))):
        known |= preference.pictures.sizes({s for v in part for s in (v.left, v.right) if s}).keys()
        used += teaching(part, known)
        found = judgements(used)
        size *= 2
    return found


def _weight(taught: Iterable[Judgement]) -> float:
    return sum(one.weight for one in taught)


def _told(tally: Tally, taught: Sequence[Judgement]) -> str:
    """Name what there is, and how much of it teaches where that is less: '12 votes'."""
    voted = sum(not one.rated for one in taught)
    parts = [counted(tally.votes, "vote")] if tally.votes else []
    if voted < tally.votes and _weight(taught) < WORTH_TRAINING:
        parts = [f"{voted:,} of {counted(tally.votes, 'vote')}"]
    if len(taught) > voted:
        parts.append(f"{counted(len(taught) - voted, 'comparison')} of ratings")
    return " and ".join(parts) or "Stars, and ratings that are alike,"


def votes_behind(preference: Preference, campaign: str = "") -> Iterator[Vote]:
    """Yield what teaches a taste: the votes of a campaign and of the rounds after it, '' all."""
    if not campaign:
        yield from preference.votes.votes()
        return
    for one in preference.campaigns.rounds(campaign):
        yield from preference.votes.votes(one)


def _tally(preference: Preference, campaign: str) -> Tally:
    """Count the votes of `votes_behind` without reading them."""
    if not campaign:
        return preference.votes.tally()
    return sum(map(preference.votes.tally, preference.campaigns.rounds(campaign)), Tally())


def agreement_so_far(preference: Preference, campaign: str = "") -> Agreement | None:
    """Return how well these votes predict each other, None while they are too few to tell."""
    if not campaign:
        return telling(preference.taste.now.agreement)
    return telling(preference.taste.among(preference.campaigns.rounds(campaign)))


def reward_of(
    plan: RunPlan, folder: Path, preference: Preference
) -> Generator[Event, None, tuple[RewardFunction, dict[str, Any]]]:
    """Return a run's reward and what is to be told of its origin. Device thread only.

    Fits it when the run begins; yields between handfuls of pictures. Raises TrainingError when
    there are too few votes, ModelError when the kept one is damaged.
    """
    from studio.training.rewards import known_reward, learned_reward

    if plan.reward:
        reward = known_reward(plan.reward)
        return reward, {"reward": reward.name}
    path, about = folder / REWARD_FILE, {}
    if not path.is_file():
        about = yield from _fit(plan, path, preference)
    from studio.training.preference.reward import load_reward

    _, encoder = preference.taste.looked_at([])
    reward = learned_reward(load_reward(path), encoder)
    return reward, {"reward": reward.name, **dict(reward.lineage), **about}


def _fit(
    plan: RunPlan, path: Path, preference: Preference
) -> Generator[Event, None, dict[str, Any]]:
    from studio.training.preference.comparisons import comparisons_from_votes
    from studio.training.preference.reward import TRAINED_TOWARDS, fit_reward, save_reward
    from studio.training.preference.reward_check import held_out_agreement

    votes = list(votes_behind(preference, plan.campaign))
    pictures = list(dict.fromkeys(s for v in votes for s in (v.left, v.right) if s))
    yield StageProgress("taste", 0, 1, None)
    yield from preference.taste.embed(pictures)
    features, encoder = preference.taste.looked_at(pictures)
    yield StageProgress("taste", 0, 1, None)
    learned = comparisons_from_votes(votes, features, encoder=(encoder.name, encoder.sha256))
    save_reward(fit_reward(learned, TRAINED_TOWARDS), path)
    yield StageProgress("taste", 1, 1, None)
    agreement = held_out_agreement(learned, TRAINED_TOWARDS)
    return {} if agreement is None else {"agreement": asdict(agreement)}

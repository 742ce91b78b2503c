"""What a run is trained towards: a known reward, or the taste in the votes, kept as it was then.

The taste is fitted when the run begins and lies in the run's folder, so votes that come later do
not change what a resumed run is trained towards.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.events import Event, StageProgress
from studio.core.run import RunPlan
from studio.core.vote import Tally, Vote
from studio.core.words import counted
from studio.services.preference import Preference
from studio.training.preference.taste_words import WORTH_TRAINING, Agreement, telling

if TYPE_CHECKING:
    from studio.training.rewards import RewardFunction

REWARD_FILE = "reward.safetensors"  # in the run's folder
LEAST_VOTES = 10  # `training/preference/reward.py` asks for as many
ONE_SIDED_FROM = 12  # decisive votes on one side alone that are no chance any more


@dataclass(frozen=True)
class Readiness:
    """Whether the votes suffice to train on."""

    votes: int  # on pairs, the number that every tab tells
    possible: bool  # otherwise nothing can be learned at all
    enough: bool  # otherwise the artist may begin nevertheless
    sentence: str


def readiness(preference: Preference, campaign: str = "", reward: str = "") -> Readiness:
    """Say whether there is enough to train towards; `campaign` '' asks about all votes."""
    if reward:
        return Readiness(0, True, True, "A known reward needs no votes.")
    tally = _tally(preference, campaign)
    votes, decisive = tally.votes, tally.left + tally.right
    given = votes + tally.on_one_picture  # ratings teach as well
    told = counted(votes, "vote")
    if tally.on_one_picture:
        told += f" and {tally.on_one_picture:,} by star or rating"
    if given == 0:
        return Readiness(0, False, False, "There are no votes yet. Rate some pairs first.")
    teaching = given - tally.held_out - tally.both_bad
    if teaching < LEAST_VOTES:
        more = counted(LEAST_VOTES - teaching, "more pair")
        verb = "teaches" if given == 1 else "teach"
        return Readiness(votes, False, False, f"{told} {verb} nothing yet. Rate {more}.")
    if decisive == 0 and not tally.on_one_picture:
        return Readiness(
            votes, False, False, "No vote prefers one picture to another. Rate some more pairs."
        )
    if decisive >= ONE_SIDED_FROM and 0 in (tally.left, tally.right):
        side = "left" if tally.left else "right"
        return Readiness(
            votes,
            True,
            False,
            f"All {decisive} votes chose the {side} picture, whatever it showed. That says where "
            "you click, not what you like; rate some more pairs.",
        )
    if given < WORTH_TRAINING:
        return Readiness(
            votes,
            True,
            False,
            f"{told} show a direction; fine-tuning is worth it from {WORTH_TRAINING}. Rate "
            f"{WORTH_TRAINING - given} more, or begin nevertheless.",
        )
    agreement = agreement_so_far(preference)
    if agreement is not None and agreement.low <= 0.5:
        return Readiness(
            votes,
            True,
            False,
            "Your votes do not predict each other better than a coin would, so there is no clear "
            "taste to follow. Rate more pairs, or begin nevertheless.",
        )
    return Readiness(votes, True, True, f"{told} are enough to fine-tune.")


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


def agreement_so_far(preference: Preference) -> Agreement | None:
    """Return how well all votes predict each other, None while they are too few to tell."""
    return telling(preference.taste.now.agreement)


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

"""Campaigns, the pairs that they show, and the raters who answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from studio.core.request import AdapterUse, GenerationRequest
from studio.core.vote import Choice, Selection, Vote

CampaignState = Literal["running", "paused", "archived"]
CAMPAIGN_STATES: tuple[CampaignState, ...] = get_args(CampaignState)
Role = Literal["artist", "rater"]
ROLES: tuple[Role, ...] = get_args(Role)
DRAWN_FOR = "campaign-"  # how the job_id of a picture begins that a campaign drew
STRATEGIES = ("eig", "random", "tournament")  # which pair next


@dataclass(frozen=True)
class Contestant:
    """A model, with adapters or without, whose pictures a campaign compares."""

    model: str = "starter"
    model_hash: str = ""
    adapters: tuple[AdapterUse, ...] = ()

    @property
    def label(self) -> str:
        """The name in reports; raters never see it."""
        uses = (f"{use.name} at {use.strength:g}" for use in self.adapters)
        return " + ".join((self.model, *uses))


@dataclass(frozen=True)
class CampaignPlan:
    """What its maker decided: what is drawn, shown and asked."""

    name: str
    prompts: tuple[str, ...] = ()  # drawn for each contestant; empty: pictures that exist already
    contestants: tuple[Contestant, ...] = ()  # empty: whatever drew the pictures
    pictures_per_prompt: int = 2  # of each contestant
    template: GenerationRequest = field(
        default_factory=GenerationRequest
    )  # size, steps, ... of what is drawn
    target: int = 200  # votes wanted
    strategy: str = "eig"  # of STRATEGIES
    repeat_share: float = 0.08  # of pairs that are asked again, sides swapped
    held_out_share: float = 0.10  # of pairs that are drawn at random and kept for evaluation
    same_seed: bool = False  # contestants meet only on pictures of the same seed
    own_pairs: int = 0  # of each prompt: the last contestant's first pictures meet so many more
    follows: str = ""  # id of the campaign that this is a further round of: their votes add up

    def pictures_of(self, contestant: Contestant) -> int:
        """Return how many pictures of each prompt a contestant draws."""
        own = self.own_pairs if contestant.label == self.contestants[-1].label else 0
        return self.pictures_per_prompt + own

    @property
    def wanted_pictures(self) -> int:
        """How many pictures are drawn in all; 0 for a campaign about existing pictures."""
        return len(self.prompts) * sum(map(self.pictures_of, self.contestants))


@dataclass(frozen=True)
class Campaign:
    """One campaign as it stands in the store."""

    id: str
    plan: CampaignPlan
    state: CampaignState
    created_at: float  # seconds since 1970
    pictures: int = 0  # that can be shown

    @property
    def name(self) -> str:
        """Its name; two campaigns never share one."""
        return self.plan.name


@dataclass(frozen=True)
class CampaignPicture:
    """A picture that takes part in a campaign."""

    sha256: str  # of the file's bytes
    prompt: str
    negative_prompt: str = ""
    contestant: str = ""  # label of what drew it
    seed: int = 0
    number: int = 0  # grows with each picture of the database


@dataclass(frozen=True)
class PairDraft:
    """Two pictures chosen for one rater; the store shuffles their sides."""

    rater: str
    prompt: str
    one: str  # sha256
    other: str
    negative_prompt: str = ""
    selection: Selection = "random"
    held_out: bool = False
    repeat_of: str | None = None  # a vote; then `one` is shown on the left, `other` on the right


@dataclass(frozen=True)
class Pair:
    """A pair that waits for its rater, or was answered."""

    id: str
    number: int  # order of the queue
    campaign: str
    rater: str
    prompt: str
    negative_prompt: str
    left: str  # sha256; never sent to a rater
    right: str
    left_name: str  # random public name under which the picture is served for this pair alone
    right_name: str
    selection: Selection
    held_out: bool
    repeat_of: str | None
    state: str  # 'waiting', 'answered' or 'dropped' (a picture is gone)

    def vote(
        self,
        choice: Choice,
        *,
        id: str,
        created_at: float,
        session_id: str,
        response_ms: int,
        app_version: str,
    ) -> Vote:
        """Return this pair's answer as a vote, ready for `VoteStore.add`."""
        return Vote(
            id=id,
            created_at=created_at,
            rater=self.rater,
            left=self.left,
            right=self.right,
            choice=choice,
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            session_id=session_id,
            campaign=self.campaign,
            pair_id=self.id,
            response_ms=response_ms,
            selection=self.selection,
            repeat_of=self.repeat_of,
            held_out=self.held_out,
            app_version=app_version,
        )


@dataclass(frozen=True)
class Rater:
    """Whoever votes, under the name that they chose."""

    name: str
    role: Role
    pseudonym: str  # random; stands for the name in exports that ask for it
    created_at: float  # seconds since 1970

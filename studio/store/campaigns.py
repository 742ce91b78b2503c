"""Campaigns, the pictures that take part, and each rater's queue of pairs."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict

from sqlalchemy import ColumnElement, Select, exists, func, insert, select, update
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import IntegrityError

from studio.core.campaign import (
    CAMPAIGN_STATES,
    STRATEGIES,
    Campaign,
    CampaignPicture,
    CampaignPlan,
    CampaignState,
    Contestant,
    Pair,
    PairDraft,
)
from studio.core.errors import NotFoundError, VoteRefusedError
from studio.core.request import AdapterUse, GenerationRequest
from studio.core.vote import DECISIVE, is_sha256
from studio.store.database import Database
from studio.store.raters import check_name
from studio.store.tables import CAMPAIGN_PICTURES, CAMPAIGNS, PAIRS, VOTES
from studio.store.vote_rows import not_undone

PAGE = 1000
MAX_PROMPTS = 10_000
MAX_TARGET = 10_000_000


class CampaignStore:
    """Every campaign of one database; may be used from several threads and studios."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        share: Callable[[list[str]], None] = lambda pictures: None,
    ) -> None:
        """Use an open database; `clock` gives seconds since 1970.

        `share` hands pictures, by their sha256, to the other studios of the same database.
        """
        self._share = share
        self._engine = database.engine
        self._writer = database.writer
        self._clock = clock
        self._shuffle = random.SystemRandom()  # no rater can foretell a side

    def create(self, plan: CampaignPlan) -> Campaign:
        """Store a campaign, running. Raises `VoteRefusedError` for a plan that cannot be."""
        _check_plan(plan)
        campaign_id = secrets.token_hex(6)
        values = {
            "id": campaign_id,
            "name": plan.name.strip(),
            "state": "running",
            "plan": _plan_to_json(plan),
            "created_at": self._clock(),
        }
        try:
            with self._writer.begin() as connection:
                connection.execute(insert(CAMPAIGNS).values(values))
        except IntegrityError as error:
            raise VoteRefusedError(
                f"There is a campaign '{plan.name[:60]}' already; choose another name."
            ) from error
        return self.get(campaign_id)

    def get(self, campaign_id: str) -> Campaign:
        """Return a campaign. Raises `NotFoundError`."""
        found = self._list(_campaigns().where(CAMPAIGNS.c.id == campaign_id))
        if not found:
            raise NotFoundError(f"There is no campaign '{campaign_id[:40]}'. Reload the page.")
        return found[0]

    def find(self, name: str) -> Campaign | None:
        """Return the campaign of that name, or None."""
        return next(iter(self._list(_campaigns().where(CAMPAIGNS.c.name == name.strip()))), None)

    def all(self, state: CampaignState | None = None) -> list[Campaign]:
        """Return the campaigns, newest first; those of one state, or all."""
        query = _campaigns().order_by(CAMPAIGNS.c.number.desc())
        return self._list(query if state is None else query.where(CAMPAIGNS.c.state == state))

    def pause(self, campaign_id: str) -> Campaign:
        """Show no more pairs of a campaign until it is resumed. Raises `NotFoundError`."""
        return self._set_state(campaign_id, "paused")

    def resume(self, campaign_id: str) -> Campaign:
        """Show pairs again, also of an archived campaign. Raises `NotFoundError`."""
        return self._set_state(campaign_id, "running")

    def archive(self, campaign_id: str) -> Campaign:
        """Put a campaign away; its votes stay and count. Raises `NotFoundError`."""
        return self._set_state(campaign_id, "archived")

    def set_strategy(self, campaign_id: str, strategy: str) -> Campaign:
        """Change how the next pairs are chosen. Raises `NotFoundError`, `VoteRefusedError`."""
        return self.change(campaign_id, strategy=strategy)

    def change(self, campaign_id: str, **changes: object) -> Campaign:
        """Replace fields of a campaign's plan, by name. Raises `VoteRefusedError`."""
        plan = _plan_from_json(_plan_to_json(self.get(campaign_id).plan), changes)
        _check_plan(plan)
        values = {"plan": _plan_to_json(plan), "name": plan.name.strip()}
        try:
            with self._writer.begin() as connection:
                connection.execute(
                    update(CAMPAIGNS).where(CAMPAIGNS.c.id == campaign_id).values(values)
                )
        except IntegrityError as error:
            raise VoteRefusedError(
                f"There is a campaign '{plan.name[:60]}' already; choose another name."
            ) from error
        return self.get(campaign_id)

    def add_pictures(self, campaign_id: str, pictures: Iterable[CampaignPicture]) -> int:
        """Let pictures take part; returns how many are new. Raises `NotFoundError`.

        Where a campaign draws its own pictures, another one of the same prompt, contestant and
        seed is left out: two studios drew it at the same time.
        """
        wanted, added = list(pictures), 0
        for picture in wanted:
            if not is_sha256(picture.sha256):
                raise VoteRefusedError("A picture of a campaign is named by its sha256.")
        self._share([picture.sha256 for picture in wanted])  # first: whoever is told finds it
        with self._writer.begin() as connection:
            plan = _plan_from_json(_require(connection, campaign_id))
            for picture in wanted:
                if not _takes_part(connection, campaign_id, picture, plan):
                    values = asdict(picture) | {"campaign": campaign_id}
                    del values["number"]
                    connection.execute(insert(CAMPAIGN_PICTURES).values(values))
                    added += 1
        return added

    def pictures(self, campaign_id: str, after: int = 0) -> Iterator[CampaignPicture]:
        """Yield the pictures that take part, oldest first, those with a larger `number`."""
        while True:
            query = (
                select(CAMPAIGN_PICTURES)
                .where(
                    CAMPAIGN_PICTURES.c.campaign == campaign_id,
                    CAMPAIGN_PICTURES.c.number > after,
                )
                .order_by(CAMPAIGN_PICTURES.c.number)
                .limit(PAGE)
            )
            with self._engine.connect() as connection:
                rows = connection.execute(query).mappings().all()
            for row in rows:
                yield CampaignPicture(
                    row["sha256"],
                    row["prompt"],
                    row["negative_prompt"],
                    row["contestant"],
                    row["seed"],
                    row["number"],
                )
            if len(rows) < PAGE:
                return
            after = rows[-1]["number"]

    def draw_ahead(self, campaign_id: str, drafts: Iterable[PairDraft]) -> list[Pair]:
        """Put pairs at the end of their raters' queues; sides are shuffled here and stored.

        Each picture of each pair gets a random public name. A repeat is shown as drafted, since
        its sides must be those of the first vote swapped. Raises `NotFoundError`.
        """
        pairs = []
        with self._writer.begin() as connection:
            _require(connection, campaign_id)
            for draft in drafts:
                left, right = draft.one, draft.other
                if draft.repeat_of is None and self._shuffle.random() < 0.5:
                    left, right = right, left
                row = connection.execute(
                    insert(PAIRS)
                    .values(
                        id=secrets.token_hex(12),
                        campaign=campaign_id,
                        rater=draft.rater,
                        prompt=draft.prompt,
                        negative_prompt=draft.negative_prompt,
                        left=left,
                        right=right,
                        left_name=secrets.token_hex(12),
                        right_name=secrets.token_hex(12),
                        selection=draft.selection,
                        held_out=int(draft.held_out),
                        repeat_of=draft.repeat_of,
                        state="waiting",
                    )
                    .returning(PAIRS)
                )
                pairs.append(_pair(row.mappings().one()))
        return pairs

    def waiting(self, campaign_id: str, rater: str, limit: int = 1) -> list[Pair]:
        """Return the first pairs of a rater's queue; an undone one stands at its old place."""
        query = (
            select(PAIRS)
            .where(
                PAIRS.c.campaign == campaign_id, PAIRS.c.rater == rater, PAIRS.c.state == "waiting"
            )
            .order_by(PAIRS.c.number)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return [_pair(row) for row in connection.execute(query).mappings()]

    def waiting_count(self, campaign_id: str, rater: str) -> int:
        """Return how many pairs wait in a rater's queue."""
        query = select(func.count()).where(
            PAIRS.c.campaign == campaign_id, PAIRS.c.rater == rater, PAIRS.c.state == "waiting"
        )
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one()

    def pair(self, pair_id: str) -> Pair:
        """Return a pair. Raises `NotFoundError`."""
        with self._engine.connect() as connection:
            row = connection.execute(select(PAIRS).where(PAIRS.c.id == pair_id)).mappings()
            found = row.one_or_none()
        if found is None:
            raise NotFoundError("This pair is not there any more; go on with the next one.")
        return _pair(found)

    def drop_pair(self, pair_id: str) -> None:
        """Take a pair that waits out of its queue, for instance because a picture is gone."""
        self._drop(PAIRS.c.id == pair_id)

    def drop_waiting(self, campaign_id: str, rater: str | None = None) -> int:
        """Empty the queues of a campaign, of one rater or all, so that pairs are chosen anew."""
        condition = PAIRS.c.campaign == campaign_id
        return self._drop(condition if rater is None else condition & (PAIRS.c.rater == rater))

    def picture_named(self, name: str) -> str:
        """Return the sha256 of the picture that a pair shows under a public name.

        Raises `NotFoundError`.
        """
        left = select(PAIRS.c.left).where(PAIRS.c.left_name == name)
        query = left.union_all(select(PAIRS.c.right).where(PAIRS.c.right_name == name))
        with self._engine.connect() as connection:
            sha256 = connection.execute(query).scalars().first()
        if sha256 is not None:
            return sha256
        raise NotFoundError("There is no picture of that name; go on with the next pair.")

    def repeatable(self, campaign_id: str, rater: str, *, at_least_ago: int = 10) -> list[str]:
        """Return ids of a rater's decisive votes that were not asked again yet, newest first.

        The newest `at_least_ago` votes are left out, so that nobody answers from memory; the 200
        before them are looked at.
        """
        window = (
            select(VOTES)
            .where(VOTES.c.campaign == campaign_id, VOTES.c.rater == rater)
            .order_by(VOTES.c.number.desc())
            .offset(at_least_ago)
            .limit(200)
            .subquery()
        )
        asked = exists().where(PAIRS.c.repeat_of == window.c.id, PAIRS.c.state != "dropped")
        query = (
            select(window.c.id)
            .where(
                window.c.choice.in_(sorted(DECISIVE)),
                window.c.repeat_of.is_(None),
                window.c.pair_id != "",
                ~asked,
                not_undone(window),
            )
            .order_by(window.c.number.desc())
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def shown(self, campaign_id: str, rater: str, newest: int = 2000) -> list[tuple[str, str]]:
        """Return the pictures of a rater's newest pairs, whatever became of them."""
        found = []
        with self._engine.connect() as connection:
            for state in ("waiting", "answered", "dropped"):  # each walks the index backwards
                query = (
                    select(PAIRS.c.left, PAIRS.c.right)
                    .where(
                        PAIRS.c.campaign == campaign_id,
                        PAIRS.c.rater == rater,
                        PAIRS.c.state == state,
                    )
                    .order_by(PAIRS.c.number.desc())
                    .limit(newest)
                )
                found += [(row.left, row.right) for row in connection.execute(query)]
        return found

    def _drop(self, condition: ColumnElement[bool]) -> int:
        with self._writer.begin() as connection:
            return connection.execute(
                update(PAIRS).where(condition, PAIRS.c.state == "waiting").values(state="dropped")
            ).rowcount

    def _set_state(self, campaign_id: str, state: CampaignState) -> Campaign:
        assert state in CAMPAIGN_STATES
        with self._writer.begin() as connection:
            connection.execute(
                update(CAMPAIGNS).where(CAMPAIGNS.c.id == campaign_id).values(state=state)
            )
        return self.get(campaign_id)

    def _list(self, query: Select) -> list[Campaign]:
        with self._engine.connect() as connection:
            return [
                Campaign(
                    id=row["id"],
                    plan=_plan_from_json(row["plan"]),
                    state=row["state"],
                    created_at=row["created_at"],
                    pictures=row["pictures"],
                )
                for row in connection.execute(query).mappings()
            ]


def _campaigns() -> Select:
    pictures = select(func.count()).where(CAMPAIGN_PICTURES.c.campaign == CAMPAIGNS.c.id)
    return select(CAMPAIGNS, pictures.scalar_subquery().label("pictures"))


def _require(connection: Connection, campaign_id: str) -> str:
    """Return a campaign's plan as JSON; on a server, others wait until this transaction ends."""
    query = select(CAMPAIGNS.c.plan).where(CAMPAIGNS.c.id == campaign_id).with_for_update()
    plan = connection.execute(query).scalar_one_or_none()
    if plan is None:
        raise NotFoundError(f"There is no campaign '{campaign_id[:40]}'. Reload the page.")
    return plan


def _takes_part(
    connection: Connection, campaign_id: str, picture: CampaignPicture, plan: CampaignPlan
) -> bool:
    same = CAMPAIGN_PICTURES.c.sha256 == picture.sha256
    if plan.prompts and picture.contestant:
        same |= (
            (CAMPAIGN_PICTURES.c.seed == picture.seed)
            & (CAMPAIGN_PICTURES.c.prompt == picture.prompt)
            & (CAMPAIGN_PICTURES.c.contestant == picture.contestant)
        )
    query = select(CAMPAIGN_PICTURES.c.number).where(CAMPAIGN_PICTURES.c.campaign == campaign_id)
    return connection.execute(query.where(same).limit(1)).one_or_none() is not None


def _pair(row: RowMapping) -> Pair:
    values = {name: row[name] for name in Pair.__dataclass_fields__}
    return Pair(**values | {"held_out": bool(values["held_out"])})


def _check_plan(plan: CampaignPlan) -> None:
    check_name(plan.name, "campaign")
    if len(plan.prompts) > MAX_PROMPTS:
        raise VoteRefusedError(f"A campaign has at most {MAX_PROMPTS:,} prompts; make two of it.")
    if not 1 <= plan.target <= MAX_TARGET:
        raise VoteRefusedError(f"The target is a number of votes from 1 to {MAX_TARGET:,}.")
    if plan.pictures_per_prompt < 1 or plan.pictures_per_prompt + plan.own_pairs > 64:
        raise VoteRefusedError("A campaign draws 1 to 64 pictures for each prompt and model.")
    if not 0 <= plan.own_pairs <= (plan.pictures_per_prompt if len(plan.contestants) > 1 else 0):
        raise VoteRefusedError(
            "A model meets its own pictures beside another model's, and in no more pairs."
        )
    if plan.strategy not in STRATEGIES:
        raise VoteRefusedError(f"Pairs are chosen by one of {', '.join(STRATEGIES)}.")
    shares = (plan.repeat_share, plan.held_out_share)
    if not all(0 <= share <= 0.5 for share in shares):
        raise VoteRefusedError("Repeats and held-out pairs are each at most half of all pairs.")


def _plan_to_json(plan: CampaignPlan) -> str:
    return json.dumps(asdict(plan), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plan_from_json(text: str, changes: dict[str, object] | None = None) -> CampaignPlan:
    values = json.loads(text)
    values["prompts"] = tuple(values["prompts"])
    values["template"] = GenerationRequest.from_mapping(values["template"])
    values["contestants"] = tuple(
        Contestant(
            contestant["model"],
            contestant["model_hash"],
            tuple(AdapterUse(**use) for use in contestant["adapters"]),
        )
        for contestant in values["contestants"]
    )
    return CampaignPlan(**values | (changes or {}))

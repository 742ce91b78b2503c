"""The addresses of the Rate tab: pairs, votes, undo, and the owner's campaigns and reports.

Votes do not go through Gradio's queue: a click is one small POST, answered when its vote is on
disk. What a rater is sent names neither model nor seed nor score: pictures come under random names
that belong to one pair, without metadata, dates or tags.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field, StringConstraints

from studio.core.campaign import STRATEGIES, Campaign, CampaignPlan, Contestant
from studio.core.errors import NotFoundError, StorageError
from studio.core.request import AdapterUse, GenerationRequest
from studio.services.campaigns import prompt_lists
from studio.services.rating import Answer, BlindPair
from studio.services.studio import Studio
from studio.ui.logins import login_of
from studio.ui.rate import rater_page
from studio.ui.taste_routes import taste_routes

FRESH = {"Cache-Control": "no-store"}.items()
SEEN_ONCE = (("Cache-Control", "private, max-age=600"),)  # fetched ahead, shown, forgotten
STRATEGY_TITLES = (
    ("eig", "The most informative one"),
    ("random", "Random"),
    ("tournament", "Tournament: the best against the best"),
)
MAX_PROMPTS = 10_000

Name = Annotated[str, StringConstraints(max_length=200)]
Identity = Annotated[str, StringConstraints(min_length=8, max_length=64, pattern=r"^[\w-]+$")]


class VoteBody(BaseModel):
    """One click."""

    event: Identity
    pair: Identity
    rater: Name
    session: Identity
    choice: Literal["left", "right", "tie", "both_bad", "skip"]
    response_ms: Annotated[int, Field(ge=0, le=10**12)]


class UndoBody(BaseModel):
    """The vote that is taken back, and the event that does so."""

    event: Identity
    vote: Identity
    rater: Name


class ContestantBody(BaseModel):
    """A model with its adapters."""

    model: Name
    adapters: tuple[tuple[Name, Name, float], ...] = ()  # name, sha256, strength


class CampaignBody(BaseModel):
    """A new campaign, as the form sends it."""

    name: Name
    prompts: Annotated[list[str], Field(max_length=MAX_PROMPTS)]
    contestants: Annotated[list[ContestantBody], Field(max_length=16)]
    pictures_per_prompt: Annotated[int, Field(ge=1, le=64)] = 2
    steps: Annotated[int, Field(ge=1, le=500)] = 20
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1
    target: int = 200
    strategy: str = "eig"
    gallery: Literal["", "starred", "all"] = ""


def add_rate_routes(app: FastAPI, studio: Studio) -> None:
    """Add the Rate tab's addresses to the app."""
    app.include_router(rating_routes(studio), prefix="/easel/rate")
    app.include_router(owner_routes(studio), prefix="/easel/rate/owner")
    app.include_router(taste_routes(studio), prefix="/easel/rate/owner")


def rating_routes(studio: Studio) -> APIRouter:
    """Return the routes that raters use; a rater's login always acts under its own name."""
    router, rating = APIRouter(), studio.preference.rating

    @router.get("/page")
    def page() -> HTMLResponse:
        return HTMLResponse(rater_page(), headers=dict(FRESH))

    @router.get("/campaigns")
    def campaigns(request: Request, rater: str = "") -> Response:
        name, owner = _acting(request, rater), _is_owner(request)
        listed = [
            campaign_json(studio, campaign, name, owner)
            for campaign in studio.preference.campaigns.all()
            if owner or campaign.state == "running"
        ]
        login = login_of(request.scope)
        answer = {
            "role": "owner" if owner else "rater",
            "rater": login.name if login and login.role == "rater" else "",
            "campaigns": listed,
        }
        return JSONResponse(answer, headers=dict(FRESH))

    @router.get("/pairs")
    def pairs(request: Request, campaign: str, rater: str, count: int = 3) -> Response:
        found = rating.next_pairs(campaign, _acting(request, rater), max(1, min(count, 8)))
        studio.preference.taste.keep_up()  # here, so that no vote waits for it
        answer = {
            "pairs": [pair_json(pair) for pair in found.pairs],
            "sentence": found.sentence,
            "over": found.over,
        }
        return JSONResponse(answer, headers=dict(FRESH))

    @router.get("/picture/{name}")
    def picture(name: str) -> Response:
        return Response(rating.picture(name[:64]), 200, dict(SEEN_ONCE), "image/png")

    @router.post("/votes")
    def vote(request: Request, body: VoteBody) -> Response:
        rater = _acting(request, body.rater)
        answer = Answer(body.event, body.pair, rater, body.session, body.choice, body.response_ms)
        try:
            return JSONResponse({"vote": rating.vote(answer).id})
        except StorageError as error:  # a full disk: the page keeps the vote and tries again
            return JSONResponse({"sentence": str(error)}, 507)

    @router.post("/undo")
    def undo(request: Request, body: UndoBody) -> dict[str, Any]:
        pair = rating.undo(body.vote, body.event, _acting(request, body.rater))
        return {"pair": pair_json(pair)}

    @router.get("/standing")
    def standing(request: Request, campaign: str, rater: str) -> Response:
        sentence = studio.preference.standing.sentence(campaign, _acting(request, rater))
        return JSONResponse({"sentence": sentence}, headers=dict(FRESH))

    return router


def owner_routes(studio: Studio) -> APIRouter:
    """Return the routes of whoever runs the studio: campaigns, scores, reports, sheets."""
    router, campaigns = APIRouter(), studio.preference.campaigns

    @router.get("/choices")
    def choices() -> dict[str, Any]:
        return {
            "contestants": _contestants(studio),
            "prompt_lists": [
                {"name": entry.name, "title": entry.title, "prompts": entry.prompts}
                for entry in prompt_lists()
            ],
            "strategies": [
                {"name": name, "title": title}
                for name, title in STRATEGY_TITLES
                if name in STRATEGIES
            ],
        }

    @router.post("/campaigns")
    def create(body: CampaignBody) -> dict[str, Any]:
        plan = _plan(studio, body)
        if body.gallery:
            chosen = campaigns.gallery_pictures(starred=body.gallery == "starred")
            made = campaigns.create_from_gallery(plan, chosen)
        else:
            made = campaigns.create(plan)
        return campaign_json(studio, made, "", True)

    def changing(change: Callable[[str], Campaign]) -> Callable[[str], dict[str, Any]]:
        def changed(campaign_id: str) -> dict[str, Any]:
            return campaign_json(studio, change(campaign_id), "", True)

        return changed

    for verb in ("pause", "resume", "archive"):
        path = "/campaigns/{campaign_id}/" + verb
        router.add_api_route(path, changing(getattr(campaigns, verb)), methods=["POST"])

    @router.get("/report/{campaign_id}.{kind}")
    def report(campaign_id: str, kind: str) -> Response:
        if kind == "html":
            return HTMLResponse(
                studio.preference.standing.report_page(campaign_id), headers=dict(FRESH)
            )
        if kind == "csv":
            headers = {"Content-Disposition": 'attachment; filename="study.csv"'} | dict(FRESH)
            return Response(
                studio.preference.standing.report_table(campaign_id), 200, headers, "text/csv"
            )
        raise NotFoundError("A study report is HTML or CSV.")

    return router


def campaign_json(studio: Studio, campaign: Campaign, rater: str, owner: bool) -> dict[str, Any]:
    """Return a campaign for the page; what it compares goes to the owner alone."""
    standing = studio.preference.standing
    told = {
        "id": campaign.id,
        "name": campaign.name,
        "state": campaign.state,
        "target": campaign.plan.target,
        "votes": standing.votes(campaign.id),
        "mine": standing.votes(campaign.id, rater) if rater else 0,
        "doing": studio.preference.campaigns.doing(campaign) if owner else "",
        "about": "",
        "standing": "",
    }
    if owner:
        told["about"] = _about(campaign)
        told["standing"] = standing.campaign_sentence(campaign.id)
    return told


def pair_json(pair: BlindPair) -> dict[str, Any]:
    """Return a pair for the page: its number, its prompt, two random names, one size."""
    return {
        "pair": pair.pair,
        "prompt": pair.prompt,
        "left": f"/easel/rate/picture/{pair.left}",
        "right": f"/easel/rate/picture/{pair.right}",
        "width": pair.width,
        "height": pair.height,
    }


def _acting(request: Request, rater: str) -> str:
    """Return under which name a request acts: a rater's login cannot choose another."""
    login = login_of(request.scope)
    return login.name if login is not None and login.role == "rater" else rater


def _is_owner(request: Request) -> bool:
    login = login_of(request.scope)
    return login is None or login.role == "owner"


def _about(campaign: Campaign) -> str:
    plan = campaign.plan
    if not plan.prompts:
        return "Pictures of the gallery."
    who = " against ".join(contestant.label for contestant in plan.contestants)
    each = f"{plan.pictures_per_prompt} pictures each"
    return f"{who}; {len(plan.prompts)} prompts, {each}. Next pair: {plan.strategy}."


def _contestants(studio: Studio) -> list[dict[str, Any]]:
    """Return what can be compared: every model alone."""
    return [
        {"title": entry.title, "value": {"model": entry.name, "adapters": []}}
        for entry in studio.models.entries()
        if not entry.problem
    ]


def _plan(studio: Studio, body: CampaignBody) -> CampaignPlan:
    contestants = tuple(
        Contestant(c.model, "", tuple(AdapterUse(*use) for use in c.adapters))
        for c in body.contestants
    )
    template = GenerationRequest(steps=body.steps, seed=body.seed)
    if contestants:
        entry = studio.models.entry(contestants[0].model)
        width, height = (*entry.trained_sizes, entry.native_size)[0]
        template = template.with_changes(width=width, height=height, model=entry.name)
    return CampaignPlan(
        name=body.name,
        prompts=tuple(body.prompts),
        contestants=contestants,
        pictures_per_prompt=body.pictures_per_prompt,
        template=template,
        target=body.target,
        strategy=body.strategy,
    )

"""The addresses of whoever runs the studio: campaigns made, changed, put away; their reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from studio.core.campaign import STRATEGIES, Campaign, CampaignPlan, Contestant
from studio.core.errors import NotFoundError
from studio.core.request import AdapterUse, GenerationRequest
from studio.core.words import counted
from studio.services.campaigns import Campaigns, prompt_lists
from studio.services.studio import Studio

FRESH = {"Cache-Control": "no-store"}.items()
STRATEGY_TITLES = (
    ("eig", "The most informative one"),
    ("random", "Random"),
    ("tournament", "Tournament: the best against the best"),
)
MAX_PROMPTS = 10_000

Name = Annotated[str, StringConstraints(max_length=200)]


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


class StrategyBody(BaseModel):
    """How a campaign's next pairs are chosen."""

    strategy: Name


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
            "strategies": strategies(),
        }

    router.add_api_route("/gallery-pairs", partial(_gallery_pairs, campaigns))

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

    @router.post("/campaigns/{campaign_id}/strategy")
    def strategy(campaign_id: str, body: StrategyBody) -> dict[str, Any]:
        changed = campaigns.choose_by(campaign_id, body.strategy)
        return campaign_json(studio, changed, "", True)

    @router.get("/report/{campaign_id}.{kind}")
    def report(campaign_id: str, kind: str) -> Response:
        return _report(studio, campaign_id, kind)

    @router.get("/export/{campaign_id}.zip")
    def export(
        campaign_id: str, pseudonyms: bool = False, without_recipes: bool = False
    ) -> StreamingResponse:
        campaign = campaigns.get(campaign_id)
        parts = studio.preference.transfer.export_zip(
            campaign.id, pseudonyms=pseudonyms, without_recipes=without_recipes
        )
        name = f"attachment; filename*=UTF-8''{quote(campaign.name, safe='')}.zip"
        headers = {"Content-Disposition": name} | dict(FRESH)
        return StreamingResponse(parts, 200, headers, "application/zip")

    return router


def _gallery_pairs(campaigns: Campaigns) -> dict[str, int]:
    """Return how many pairs a campaign about pictures of the gallery could show."""
    return {
        "starred": campaigns.gallery_pairs(starred=True),
        "all": campaigns.gallery_pairs(starred=False),
    }


def _report(studio: Studio, campaign_id: str, kind: str) -> Response:
    """Return a campaign's study as a page or a table."""
    standing = studio.preference.standing
    if kind == "html":
        return HTMLResponse(standing.report_page(campaign_id), headers=dict(FRESH))
    if kind == "csv":
        headers = {"Content-Disposition": 'attachment; filename="study.csv"'} | dict(FRESH)
        return Response(standing.report_table(campaign_id), 200, headers, "text/csv")
    raise NotFoundError("A study report is HTML or CSV.")


def campaign_json(studio: Studio, campaign: Campaign, rater: str, owner: bool) -> dict[str, Any]:
    """Return a campaign for the page; what it compares goes to the owner alone."""
    standing = studio.preference.standing
    told = {
        "id": campaign.id,
        "name": campaign.name,
        "state": campaign.state,
        "target": campaign.plan.target,
        "pairs": studio.preference.rating.pair_count(campaign),
        "votes": standing.votes(campaign.id),
        "mine": standing.votes(campaign.id, rater) if rater else 0,
        "doing": studio.preference.campaigns.doing(campaign) if owner else "",
        "about": "",
        "standing": "",
    }
    if owner:
        told["about"] = _about(campaign)
        told["standing"] = standing.campaign_sentence(campaign.id)
        told["strategy"] = campaign.plan.strategy
    return told


def _about(campaign: Campaign) -> str:
    plan = campaign.plan
    if not plan.prompts:
        return "Pictures of the gallery."
    who = " against ".join(contestant.label for contestant in plan.contestants)
    itself = ", and the latter against itself" if plan.own_pairs else ""
    each = f"{counted(plan.pictures_per_prompt, 'picture')} each"
    return f"{who}{itself}; {counted(len(plan.prompts), 'prompt')}, {each}."


def strategies() -> list[dict[str, str]]:
    """Return the ways to choose the next pair, by name and title."""
    return [{"name": n, "title": title} for n, title in STRATEGY_TITLES if n in STRATEGIES]


def _contestants(studio: Studio) -> list[dict[str, Any]]:
    """Return what can be compared: every model alone, and with each adapter that may fit it.

    An adapter that does not tell what it was trained on is offered with every model.
    """
    adapters = [entry for entry in studio.adapters.entries() if not entry.problem]
    found = []
    for entry in studio.models.entries():
        if entry.problem:
            continue
        found.append({"title": entry.title, "value": {"model": entry.name, "adapters": []}})
        for adapter in adapters:
            if adapter.base in ("", entry.name):
                use = [adapter.name, adapter.sha256, 1.0]
                value = {"model": entry.name, "adapters": [use]}
                found.append({"title": f"{entry.title} + {adapter.name}", "value": value})
    return found


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

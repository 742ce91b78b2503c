"""The addresses of the Rate tab: pairs, votes, undo.

Votes do not go through Gradio's queue: a click is one small POST, answered when its vote is on
disk. What a rater is sent names neither model nor seed nor score: pictures come under random names
that belong to one pair, without metadata, dates or tags.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field, StringConstraints

from studio.core.errors import StorageError
from studio.services.rating import Answer, BlindPair
from studio.services.studio import Studio
from studio.ui.campaign_routes import campaign_json, owner_routes, strategies
from studio.ui.logins import login_of
from studio.ui.rate import rater_page
from studio.ui.taste_routes import taste_routes

FRESH = {"Cache-Control": "no-store"}.items()
SEEN_ONCE = (("Cache-Control", "private, max-age=600"),)  # fetched ahead, shown, forgotten

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
            "strategies": strategies() if owner else [],
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

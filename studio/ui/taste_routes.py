"""Where the learned taste is used: scores, the gallery in its order, best of N, sheets.

All of it is the owner's: a score beside a picture would tell a rater what to answer.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from studio.core.request import MAX_COUNT
from studio.services.studio import Studio
from studio.ui.observe import picture_json

FRESH = {"Cache-Control": "no-store"}.items()


class KeepBody(BaseModel):
    """How many pictures of a batch stay."""

    keep: Annotated[int, Field(ge=1, le=MAX_COUNT)]


def taste_routes(studio: Studio) -> APIRouter:
    """Return the routes where the learned taste is used; never asked for while voting."""
    router, favourites = APIRouter(), studio.preference.favourites

    @router.get("/taste")
    def taste() -> Response:
        studio.preference.taste.keep_up()
        return JSONResponse(asdict(studio.preference.standing.taste()), headers=dict(FRESH))

    @router.get("/pictures/{picture_id}/score")
    def score(picture_id: int) -> Response:
        found = favourites.score(studio.gallery.get(picture_id))
        return JSONResponse({"score": found.value, "sentence": found.sentence}, headers=dict(FRESH))

    @router.post("/pictures/{picture_id}/best")
    def best(picture_id: int) -> dict[str, Any]:
        picked = studio.gallery.get(picture_id)
        batch = studio.gallery.page(job_id=picked.job_id, limit=MAX_COUNT)
        beaten = studio.preference.opinions.best_of_batch(picked, batch)
        studio.preference.taste.keep_up()
        return {"sentence": f"Noted: better than the {beaten} others of its batch."}

    @router.get("/by-taste")
    def by_taste(offset: int = 0, limit: int = 60, search: str = "", starred: str = "") -> Response:
        page, total = favourites.by_taste(
            max(0, offset), max(1, min(limit, 200)), search=search[:1000], starred=bool(starred)
        )
        answer = {
            "pictures": [picture_json(picture) for picture in page],
            "more": offset + len(page) < total,
            "total": total,
        }
        return JSONResponse(answer, headers=dict(FRESH))

    @router.post("/jobs/{job_id}/keep-best")
    def keep_best(job_id: str, body: KeepBody) -> dict[str, Any]:
        over = studio.generation.view(job_id).over
        return {"sentence": favourites.keep_best(job_id, body.keep, over=over)}

    @router.get("/sheet/{kind}.png")
    def sheet(kind: Literal["loved", "disputed"]) -> Response:
        return Response(favourites.sheet(kind), 200, dict(FRESH), "image/png")

    return router

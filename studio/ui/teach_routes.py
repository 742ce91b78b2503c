"""The addresses of the Teach tab: its state, the pictures of a draft, and what is done with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from studio.core.lesson import MAX_MINUTES, Lesson
from studio.services.studio import Studio
from studio.ui.edit_routes import read_body
from studio.ui.routes import FOREVER, FRESH
from studio.ui.teach import lesson_json, teach_state

Short = Annotated[str, StringConstraints(max_length=200)]
Identity = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]


class DescribeBody(BaseModel):
    """What the form says of a draft, kept while it is typed."""

    name: Short
    trigger: Short
    model: Short
    minutes: Annotated[float, Field(ge=0, le=MAX_MINUTES)]


class CaptionBody(BaseModel):
    """One picture's caption."""

    picture: Identity
    caption: Annotated[str, StringConstraints(max_length=1_000_000)]


class PictureBody(BaseModel):
    """One picture of a draft."""

    picture: Identity


def add_teach_routes(app: FastAPI, studio: Studio) -> None:
    """Add the Teach tab's addresses to the app."""
    app.include_router(draft_routes(studio), prefix="/easel/teach")
    app.include_router(lesson_routes(studio), prefix="/easel/teach")


def draft_routes(studio: Studio) -> APIRouter:
    """Return the routes that put a draft together."""
    router, teaching = APIRouter(), studio.teaching

    @router.get("/state")
    def state(known: str = "", lesson: str = "") -> Response:
        now = teach_state(studio, lesson)
        if now["version"] == known:
            return Response(status_code=204, headers=FRESH)
        return JSONResponse(now, headers=FRESH)

    @router.post("/{lesson}/picture")
    async def add(lesson: str, request: Request, title: Short = "") -> dict[str, Any]:
        content = await read_body(request)
        named = title.strip() or "This picture"
        kept = await run_in_threadpool(teaching.add_picture, lesson, content, named)
        return {"picture": kept.pictures[-1].id, "pictures": len(kept.pictures)}

    @router.post("/{lesson}/caption")
    def caption(lesson: str, body: CaptionBody) -> dict[str, Any]:
        teaching.set_caption(lesson, body.picture, body.caption)
        return {}

    @router.post("/{lesson}/remove")
    def remove(lesson: str, body: PictureBody) -> dict[str, Any]:
        return {"pictures": len(teaching.remove_picture(lesson, body.picture).pictures)}

    @router.post("/{lesson}/describe")
    def describe(lesson: str, body: DescribeBody) -> dict[str, Any]:
        teaching.describe(lesson, **body.model_dump())
        return {}

    @router.get("/{lesson}/picture/{picture}.webp")
    def thumbnail(lesson: str, picture: str) -> FileResponse:
        return FileResponse(teaching.thumbnail(lesson, picture), 200, FOREVER, "image/webp")

    return router


def lesson_routes(studio: Studio) -> APIRouter:
    """Return the routes of a lesson that begins, runs, or is over."""
    router, teaching = APIRouter(), studio.teaching

    def doing(act: Callable[[str], Lesson]) -> Callable[[str], dict[str, Any]]:
        def done(lesson: str) -> dict[str, Any]:
            return lesson_json(studio, act(lesson))

        return done

    for verb in ("start", "pause", "stop"):
        router.add_api_route("/{lesson}/" + verb, doing(getattr(teaching, verb)), methods=["POST"])

    @router.post("/{lesson}/discard")
    def discard(lesson: str) -> dict[str, Any]:
        teaching.discard(lesson)
        return {}

    @router.get("/{lesson}/sample/{step}.png")
    def sample(lesson: str, step: int) -> FileResponse:
        return FileResponse(teaching.sample(lesson, step), 200, FOREVER, "image/png")

    return router

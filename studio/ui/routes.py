"""The studio's own addresses beside Gradio's: pictures by id, jobs, and what the page observes.

Pictures go out as the files that were saved (Gradio would encode them anew and lose the recipe).
Only ids come in, never paths. Nothing changes on GET.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.staticfiles import StaticFiles

from studio.core.errors import EaselError, NotFoundError
from studio.core.settings import ASSETS
from studio.services.export import contact_sheet, without_recipe
from studio.services.model_folder import ModelEntry
from studio.services.studio import Studio
from studio.ui.compare import comparing_routes
from studio.ui.observe import picture_json, studio_state

PAGE_FILES = ASSETS / "page"
SAMPLES = ASSETS / "samples"  # samples.json and the pictures that it names
MODEL_PICTURES = ("thumbnail.png", "thumbnail.webp", "thumbnail.jpg")  # in a model's folder
MAX_SHEET = 500  # pictures on a contact sheet
FOREVER = MappingProxyType({"Cache-Control": "private, max-age=31536000, immutable"})
FRESH = MappingProxyType({"Cache-Control": "no-store"})


class Star(BaseModel):
    """Whether a picture has its star."""

    starred: bool


class Rating(BaseModel):
    """1 to 5, or None to take the rating back."""

    rating: int | None


class Move(BaseModel):
    """How far a waiting job moves; negative is earlier."""

    places: Annotated[int, Field(ge=-10_000, le=10_000)]


def add_routes(app: FastAPI, studio: Studio) -> None:
    """Add every route of ours to the app, and the sentences for what they refuse."""
    app.include_router(picture_routes(studio), prefix="/easel")
    app.include_router(judging_routes(studio), prefix="/easel")
    app.include_router(job_routes(studio), prefix="/easel")
    app.include_router(page_routes(studio), prefix="/easel")
    app.include_router(comparing_routes(studio), prefix="/easel")
    app.mount("/easel/page", StaticFiles(directory=PAGE_FILES))
    if SAMPLES.is_dir():
        app.mount("/easel/samples", StaticFiles(directory=SAMPLES))
    app.add_exception_handler(EaselError, _say)
    app.add_exception_handler(RequestValidationError, _say_malformed)


def picture_routes(studio: Studio) -> APIRouter:
    """Return the routes of finished pictures."""
    router, gallery = APIRouter(), studio.gallery

    @router.get("/pictures")
    def pictures(
        before: int | None = None,
        limit: int = 60,
        search: str = "",
        starred: bool | str = False,
        deleted: bool | str = False,
        set_id: str = "",
        drawn_for: Literal["", "artist", "campaigns"] = "",
    ) -> dict[str, Any]:
        narrowed = {"search": search[:1000], "starred": bool(starred), "deleted": bool(deleted)}
        narrowed |= {"set_id": set_id or None, "drawn_for": drawn_for}
        limit = max(1, min(limit, 200))
        page = gallery.page(before=before, limit=limit, **narrowed)
        if set_id and before is None and len(page) < limit:  # a whole set reads as its panels do
            page.sort(key=lambda picture: (picture.panel, picture.index, picture.id))
        return {
            "pictures": [picture_json(picture) for picture in page],
            "more": len(page) == limit,
            "total": gallery.count(**narrowed),
        }

    @router.get("/sets")
    def sets() -> list[dict[str, Any]]:
        return [asdict(found) for found in gallery.sets()]

    @router.get("/picture/{picture_id}")
    def picture(picture_id: int, download: bool = False, recipe: bool = True) -> Response:
        found = gallery.get(picture_id)
        name = f"easel-{found.id:06d}-{found.seed}.png" if download else None
        if recipe:
            return FileResponse(gallery.file(found), 200, FOREVER, "image/png", filename=name)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name else {}
        return Response(without_recipe(gallery, found), 200, headers | dict(FOREVER), "image/png")

    @router.get("/thumbnail/{picture_id}")
    def thumbnail(picture_id: int) -> FileResponse:
        path = gallery.thumbnail(gallery.get(picture_id))
        return FileResponse(path, 200, FOREVER, "image/webp")

    @router.get("/contact-sheet.{kind}")
    def sheet(kind: str, ids: str) -> Response:
        if kind not in ("png", "pdf"):
            raise NotFoundError("A contact sheet is a PNG or a PDF.")
        made = contact_sheet(gallery, _ids(ids), kind)
        headers = {"Content-Disposition": f'attachment; filename="contact-sheet.{kind}"'}
        media = "application/pdf" if kind == "pdf" else "image/png"
        return Response(made, 200, headers | dict(FRESH), media)

    return router


def judging_routes(studio: Studio) -> APIRouter:
    """Return the routes that star, rate, bin and restore a picture."""
    router, gallery, opinions = APIRouter(), studio.gallery, studio.preference.opinions

    @router.post("/pictures/{picture_id}/star")
    def star(picture_id: int, body: Star) -> dict[str, Any]:
        picture = gallery.star(picture_id, body.starred)
        opinions.starred(picture)
        return picture_json(picture)

    @router.post("/pictures/{picture_id}/rate")
    def rate(picture_id: int, body: Rating) -> dict[str, Any]:
        picture = gallery.rate(picture_id, body.rating)
        opinions.rated(picture)
        return picture_json(picture)

    @router.post("/pictures/{picture_id}/delete")
    def delete(picture_id: int) -> dict[str, Any]:
        return picture_json(gallery.delete(picture_id))

    @router.post("/pictures/{picture_id}/restore")
    def restore(picture_id: int) -> dict[str, Any]:
        return picture_json(gallery.restore(picture_id))

    return router


def job_routes(studio: Studio) -> APIRouter:
    """Return the routes of jobs: observe, preview, cancel, move, draw again."""
    router, generation = APIRouter(), studio.generation

    @router.get("/state")
    def state(known: str = "") -> Response:
        now = studio_state(studio)
        if now["version"] == known:
            return Response(status_code=204, headers=FRESH)
        return JSONResponse(now, headers=FRESH)

    @router.get("/preview/{job_id}")
    def preview(job_id: str) -> Response:
        jpeg = generation.view(job_id).preview
        if jpeg is None:  # the drawing was over before its preview was asked for
            return Response(None, 204, FRESH)
        return Response(jpeg, 200, FRESH, "image/jpeg")

    @router.post("/jobs/{job_id}/cancel")
    def cancel(job_id: str) -> dict[str, Any]:
        generation.cancel(job_id)
        return {"job": job_id}

    @router.post("/jobs/{job_id}/move")
    def move(job_id: str, body: Move) -> dict[str, Any]:
        generation.move(job_id, body.places)
        return {"job": job_id}

    @router.post("/jobs/{job_id}/resubmit")
    def resubmit(job_id: str) -> dict[str, Any]:
        return {"job": generation.resubmit(job_id).id}

    return router


def page_routes(studio: Studio) -> APIRouter:
    """Return the routes that fill the page: samples, subjects, health."""
    router = APIRouter()

    @router.get("/health")
    def health() -> dict[str, Any]:
        return {"studio": "easel", "model": studio.status.model().phase}

    @router.get("/samples")
    def samples() -> dict[str, Any]:
        return {"samples": sample_prompts()}

    @router.get("/model-picture")
    def model_picture(name: str) -> FileResponse:
        path = picture_of(studio.models.entry(name))
        if path is None:
            raise NotFoundError("This model has no picture of its own.")
        return FileResponse(path, 200, FRESH)

    @router.get("/subjects")
    def subjects(model: str = "") -> dict[str, Any]:
        entry = studio.models.entry(model) if model else studio.models.entries()[0]
        count = len(entry.subjects)
        sentence = (
            f"{entry.title} learned these {count} subjects. A click puts one into the prompt."
            if count
            else f"{entry.title} does not say what it can draw; try anything."
        )
        if entry.styles:
            sentence += f" Its styles: {', '.join(entry.styles)}."
        if entry.words:
            sentence += f" It knows these words, too: {', '.join(entry.words)}."
        return {"subjects": list(entry.subjects), "sentence": sentence}

    return router


def picture_of(entry: ModelEntry) -> Path | None:
    """Return the picture that a model brings along, None without one; never through a link."""
    paths = (entry.folder / name for name in MODEL_PICTURES)
    return next((path for path in paths if path.is_file() and not path.is_symlink()), None)


def sample_prompts() -> list[dict[str, str]]:
    """Return the first visit's prompts, each with the address of its picture ('' without one).

    `samples.json` lists objects with `prompt` and `file`; without it the prompts stand alone.
    """
    listed = SAMPLES / "samples.json"
    if not listed.is_file():
        return [{"prompt": prompt, "image": ""} for prompt in PROMPTS_WITHOUT_PICTURES]
    entries = json.loads(listed.read_text(encoding="utf-8"))
    return [
        {"prompt": entry["prompt"], "image": f"/easel/samples/{entry['file']}"}
        for entry in entries[:6]
    ]


PROMPTS_WITHOUT_PICTURES = (
    "red apple, flat illustration",
    "castle, pencil sketch",
    "cat, flat illustration",
    "sailboat, pencil sketch",
    "evergreen tree, 3d render",
    "bicycle, flat illustration",
)


def _ids(text: str) -> list[int]:
    """Read '3,5,8' as picture ids. Raises EaselError with a sentence."""
    parts = text.split(",")
    if len(parts) > MAX_SHEET or not all(part.isdecimal() and len(part) < 16 for part in parts):
        raise EaselError(f"A contact sheet needs 1 to {MAX_SHEET} picture numbers, as in 3,5,8.")
    return list(dict.fromkeys(int(part) for part in parts))


async def _say(_request: Request, error: Exception) -> JSONResponse:
    status = 404 if isinstance(error, NotFoundError) else 400
    field = getattr(error, "field", "")
    return JSONResponse({"sentence": str(error), "field": field}, status)


async def _say_malformed(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"sentence": "This request is malformed; nothing was changed."}, 422)

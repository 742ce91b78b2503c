"""The addresses of what edits begin from: sources, masks, and drafts of what is being painted.

Bytes come in as they are, not as a Gradio event, so a mask of any size is let through; every
picture is opened by the guarded loader, and nothing changes on GET.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from studio.core.errors import EaselError
from studio.services.studio import Studio
from studio.ui.routes import FOREVER, FRESH

MAX_BYTES = 64 * 2**20  # of an uploaded picture


def add_edit_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes to the app, below /easel."""
    app.include_router(source_routes(studio), prefix="/easel")
    app.include_router(draft_routes(studio), prefix="/easel")


def source_routes(studio: Studio) -> APIRouter:
    """Return the routes that keep an uploaded picture, tell its settings, and show a source."""
    router, sources = APIRouter(), studio.sources

    @router.post("/source")
    async def source(request: Request, kind: str = "source") -> dict[str, Any]:
        content = await read_body(request)
        add = sources.add_mask_file if kind == "mask" else sources.add_file
        sha256 = await run_in_threadpool(add, content)
        width, height = sources.size(sha256)
        return {"sha256": sha256, "width": width, "height": height}

    @router.post("/send")
    async def send(request: Request, tab: str) -> dict[str, Any]:
        content = await read_body(request)
        sent = await run_in_threadpool(studio.sending.file, content, tab)
        told = {"values": sent.values, "size": sent.source_size, "parent": sent.parent_id}
        return told | {"notices": list(sent.notices)}

    @router.get("/source/{sha256}.png")
    def picture(sha256: str) -> FileResponse:
        return FileResponse(sources.path(sha256), 200, FOREVER, "image/png")

    return router


def draft_routes(studio: Studio) -> APIRouter:
    """Return the routes that keep what is being painted, and give it back."""
    router, drafts = APIRouter(), studio.drafts

    @router.post("/draft/{name}")
    async def save(name: str, request: Request) -> dict[str, Any]:
        await run_in_threadpool(drafts.save, name, await read_body(request))
        return {}

    @router.get("/draft/{name}")
    def load(name: str) -> Response:
        return Response(drafts.load(name), 200, FRESH, "image/png")

    return router


async def read_body(request: Request) -> bytes:
    """Return the request's bytes. Raises EaselError as soon as they are too many."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BYTES:
            raise EaselError("This file is larger than 64 MB; save the picture smaller.")
    return bytes(content)

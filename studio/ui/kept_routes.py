"""The addresses by which the page keeps what its script knows, so that a reload finds it again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, Field, StringConstraints

from studio.core.request import MAX_PROMPT_CHARACTERS
from studio.services.studio import Studio
from studio.ui.kept import FORM

Text = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARACTERS)]
Name = Annotated[str, StringConstraints(max_length=64)]
Typed = Annotated[str, StringConstraints(max_length=500_000)]  # a list of prompts, for instance


class Texts(BaseModel):
    """What was typed last before the page was left."""

    prompt: Text
    negative_prompt: Text | None = None
    extend_prompt: Text | None = None


class Part(StrEnum):
    """What is kept beside the drawing form."""

    GALLERY = "gallery"  # its search and filters
    CAMPAIGN = "campaign"  # a new campaign, before it begins


class PartBody(BaseModel):
    """The part's values as they stand."""

    values: Annotated[dict[Name, Typed | bool | list[Name]], Field(max_length=50)]


def add_kept_routes(app: FastAPI, studio: Studio) -> None:
    """Add the routes to the app, below /easel."""
    router = APIRouter()

    @router.post("/form")
    def form(body: Texts) -> dict[str, Any]:
        typed = {name: text for name, text in body.model_dump().items() if text is not None}
        studio.form.change(FORM, lambda kept: kept | typed)
        return {}

    @router.get("/kept/{part}")
    def load(part: Part) -> dict[str, Any]:
        return studio.form.load(f"page {part}")

    @router.post("/kept/{part}")
    def save(part: Part, body: PartBody) -> dict[str, Any]:
        studio.form.save(f"page {part}", body.values)
        return {}

    app.include_router(router, prefix="/easel")

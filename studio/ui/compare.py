"""Pictures beside one another: what differs between two, and where a picture comes from."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from studio.services.studio import Studio
from studio.ui.observe import picture_json

MOST_RELATIVES = 24  # pictures that are shown as made from one


def comparing_routes(studio: Studio) -> APIRouter:
    """Return the routes that compare two pictures and tell a picture's ancestors and children."""
    router = APIRouter()

    @router.get("/compare")
    def compare(a: int, b: int) -> dict[str, Any]:
        one, other = studio.gallery.get(a), studio.gallery.get(b)
        differing = studio.comparison.differences(one, other)
        return {
            "pictures": [picture_json(one), picture_json(other)],
            "differences": [
                {"label": label, "values": [value_a, value_b]}
                for label, value_a, value_b in differing
            ],
        }

    @router.get("/lineage/{picture_id}")
    def lineage(picture_id: int) -> dict[str, Any]:
        children = studio.lineage.children(picture_id)
        return {
            "parents": [picture_json(picture) for picture in studio.lineage.parents(picture_id)],
            "children": [picture_json(picture) for picture in children[:MOST_RELATIVES]],
            "more": max(len(children) - MOST_RELATIVES, 0),
        }

    return router

"""Pictures to take along: numbered contact sheets, and files without their recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from studio.core.picture import Picture
from studio.services.gallery import Gallery
from studio.store.contact_sheet import Panel, contact_sheet_pdf, contact_sheet_png
from studio.store.metadata import strip_metadata


def contact_sheet(gallery: Gallery, ids: Sequence[int], kind: Literal["png", "pdf"]) -> bytes:
    """Return one sheet of the pictures in that order, numbered from 1, with their prompts.

    Raises NotFoundError for an id that is not there.
    """
    chosen = [gallery.get(picture_id) for picture_id in ids]
    panels = [Panel(gallery.file(picture), picture.request.prompt) for picture in chosen]
    return contact_sheet_pdf(panels) if kind == "pdf" else contact_sheet_png(panels)


def without_recipe(gallery: Gallery, picture: Picture) -> bytes:
    """Return the PNG with the same pixels and no text in it: neither prompt nor seed goes out."""
    return strip_metadata(gallery.file(picture).read_bytes())

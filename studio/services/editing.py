"""What an edit starts from: the pictures that a request names by hash, found before it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import InvalidRequestError, NotFoundError, StorageError
from studio.core.request import GenerationRequest
from studio.store.database import Database
from studio.store.drafts import DraftStore
from studio.store.sources import SourceStore
from studio.store.used_sources import used_sources

if TYPE_CHECKING:
    from studio.diffusion.edit import EditInputs

USUAL_STRENGTH = 0.75  # of an edit, where nobody says; A1111's default


def source_size(sources: SourceStore, request: GenerationRequest) -> tuple[int, int] | None:
    """Return (width, height) of a request's source, None when it draws from text alone.

    Raises InvalidRequestError when source or mask are gone, or are not of one size.
    """
    if not request.source:
        return None
    size = _size_of(sources, "source", request.source)
    if request.mask and (painted := _size_of(sources, "mask", request.mask)) != size:
        raise InvalidRequestError(
            "mask",
            f"The mask has {painted[0]} x {painted[1]} pixels and the picture "
            f"{size[0]} x {size[1]}; use a mask of the picture's size.",
        )
    return size


def with_size(
    values: dict[str, Any], sources: SourceStore, native: tuple[int, int]
) -> dict[str, Any]:
    """Return a request's values with the width and height that nobody gave.

    A result is as large as its source; a picture from text, and the crop that is drawn for 'only
    masked', as large as the model draws. Raises InvalidRequestError when the source is gone.
    """
    source = values.get("source")
    if isinstance(source, str) and source:
        extend = values.get("extend")
        grows = isinstance(extend, list | tuple) and any(extend)
        if not ((values.get("mask") or grows) and values.get("inpaint_area") == "only masked"):
            native = _size_of(sources, "source", source)
    return {"width": native[0], "height": native[1]} | values


def sweep_unused(sources: SourceStore, drafts: DraftStore, database: Database) -> int:
    """Remove the uploads that no job, picture, form or draft ever named; returns how many."""
    return sources.sweep(used_sources(database.engine) | drafts.named_sources())


def edit_inputs(
    sources: SourceStore, request: GenerationRequest, upscalers_dir: Path
) -> EditInputs:
    """Decode what a request names by hash, for the sampler; without a source there is nothing.

    Brings torch, so it is for the device thread. Raises NotFoundError or StorageError when one was
    deleted or damaged since the request was submitted.
    """
    from studio.diffusion.edit import EditInputs

    source = sources.image(request.source) if request.source else None
    mask = sources.image(request.mask).convert("L") if request.mask else None
    return EditInputs(source, mask, upscalers_dir)


def _size_of(sources: SourceStore, field: str, sha256: str) -> tuple[int, int]:
    try:
        return sources.size(sha256)
    except (NotFoundError, StorageError) as error:
        raise InvalidRequestError(field, str(error)) from error

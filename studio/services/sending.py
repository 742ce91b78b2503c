"""Send to: the settings of any picture, or of a dropped file, as a tab's form values."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from studio.core.errors import InvalidRequestError
from studio.core.request import (
    MAX_PIXELS,
    MAX_SEED,
    MAX_SIDE,
    MIN_SIDE,
    MIN_SIDE_OF_EDIT,
    GenerationRequest,
)
from studio.services.editing import USUAL_STRENGTH
from studio.services.gallery import Gallery
from studio.services.models import ModelShelf
from studio.store.files import open_picture
from studio.store.metadata import Recipe, read_metadata
from studio.store.sources import SourceStore

Tab = Literal["txt2img", "img2img", "inpaint"]
TABS: tuple[Tab, ...] = ("txt2img", "img2img", "inpaint")
_OF_EDITS = (
    *("source", "mask", "strength", "resize_mode", "extend", "mask_invert", "mask_blur"),
    *("masked_content", "inpaint_area", "mask_padding", "soft_inpainting", "loopback"),
    "resampling",
)
_OF_ONE_PICTURE = ("mask", "extend", "mask_invert")  # painted for another picture than this one


@dataclass(frozen=True)
class Sent:
    """What a tab's form is filled with."""

    values: dict[str, Any]  # fields of `GenerationRequest`
    parent_id: int | None = None  # to be handed back with the edit: this came from that
    source_size: tuple[int, int] | None = None  # (width, height) of `values["source"]`, pixels
    notices: tuple[str, ...] = ()  # sentences on what could not be taken over as it was


class Sending:
    """Makes form values of pictures. Every method may be called from any thread."""

    def __init__(self, gallery: Gallery, sources: SourceStore, models: ModelShelf) -> None:
        self._gallery = gallery
        self._sources = sources
        self._models = models

    def picture(self, picture_id: int, tab: Tab) -> Sent:
        """Return a picture's settings for a tab; the two that edit get the picture as source.

        Raises NotFoundError when it is gone, InvalidRequestError for a tab that there is not.
        """
        _check_tab(tab)
        picture = self._gallery.get(picture_id)
        request = _alone(picture.request, picture.index)
        notices = self._note_model(request)
        if tab == "txt2img":
            return Sent(_text_values(request), notices=notices)
        sha256 = self._sources.add_file(self._gallery.file(picture))
        return self._edited(request, sha256, notices, parent_id=picture.id)

    def file(self, content: bytes | Path, tab: Tab) -> Sent:
        """Return a dropped file's settings for a tab, as far as it tells any.

        A file without a recipe still is a source; for text to image it gives nothing but a
        sentence. A file out of the gallery is known again and becomes the edit's parent.
        Raises StorageError for what is no picture, InvalidRequestError for its size.
        """
        _check_tab(tab)
        recipe = read_metadata(content)
        request, notices = self._recognised(recipe)
        if tab == "txt2img":
            open_picture(content)
            return Sent({} if recipe.request is None else _text_values(request), notices=notices)
        parent = self._gallery.find(content)
        sha256 = self._sources.add_file(content)
        sent = self._edited(request, sha256, notices, parent_id=parent.id if parent else None)
        if recipe.request is None:
            told = ("source", "width", "height")
            values = {name: sent.values[name] for name in told}
            return replace(sent, values=values)
        return sent

    def _recognised(self, recipe: Recipe) -> tuple[GenerationRequest, tuple[str, ...]]:
        """Return the recipe's request on a model that is here, by hash, then by name."""
        if recipe.request is None:
            return GenerationRequest(), ("This file says nothing about how it was drawn.",)
        request = recipe.request
        if recipe.record is not None:
            request = _alone(request, recipe.record.index)
        usable = [entry for entry in self._models.entries() if not entry.problem]
        wanted = recipe.model_hash.lower()
        for entry in usable if len(wanted) >= 8 else ():
            if self._models.hash_of(entry).startswith(wanted):
                return request.with_changes(model=entry.name, model_hash=""), recipe.notices
        if any(entry.name == recipe.model_name for entry in usable):
            note = (f"The model '{recipe.model_name}' here is not the one of that picture.",)
            notices = recipe.notices + (note if wanted else ())
            return request.with_changes(model=recipe.model_name, model_hash=""), notices
        first = usable[0].name if usable else request.model
        note = f"The model '{recipe.model_name[:80]}' is not here; '{first}' draws instead."
        return request.with_changes(model=first, model_hash=""), (*recipe.notices, note)

    def _note_model(self, request: GenerationRequest) -> tuple[str, ...]:
        if any(e.name == request.model and not e.problem for e in self._models.entries()):
            return ()
        return (f"The model '{request.model[:80]}' is not here any more; pick another one.",)

    def _edited(
        self,
        request: GenerationRequest,
        sha256: str,
        notices: tuple[str, ...],
        parent_id: int | None = None,
    ) -> Sent:
        """Return the form values of an edit that begins from a source, at that source's size."""
        size = self._sources.size(sha256)
        values = _values(request)
        for name in _OF_ONE_PICTURE:
            values[name] = getattr(GenerationRequest(), name)
        if not request.source:
            values["strength"] = USUAL_STRENGTH
        width, height = _reachable(size)
        if (width, height) != size:
            said = f"{size[0]} x {size[1]} pixels are drawn at {width} x {height}."
            notices = (*notices, said)
        values |= {"source": sha256, "width": width, "height": height, "hires_scale": 1.0}
        return Sent(values, parent_id, size, notices)


def _check_tab(tab: str) -> None:
    if tab not in TABS:
        raise InvalidRequestError("tab", f"A picture is sent to {', '.join(TABS)}.")


def _alone(request: GenerationRequest, index: int) -> GenerationRequest:
    """Return the request that draws picture `index` alone."""
    seed, variation_seed = (min(seed, MAX_SEED) for seed in request.seeds_of(index))
    return request.with_changes(seed=seed, variation_seed=variation_seed, count=1)


def _text_values(request: GenerationRequest) -> dict[str, Any]:
    """Return the values without what belongs to edits; sides are multiples of 8 there."""
    values = _values(request)
    for name in _OF_EDITS:
        del values[name]
    for name in ("width", "height"):
        values[name] = min(max(round(values[name] / 8) * 8, MIN_SIDE), MAX_SIDE)
    return values


def _values(request: GenerationRequest) -> dict[str, Any]:
    values = {field.name: getattr(request, field.name) for field in fields(request)}
    del values["model_hash"]  # filled anew at submission
    return values


def _reachable(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size scaled, in proportion, to sides that are drawn."""
    scale = min(1.0, MAX_SIDE / max(size), math.sqrt(MAX_PIXELS / (size[0] * size[1])))
    width, height = (max(int(side * scale), MIN_SIDE_OF_EDIT) for side in size)
    return width, height

"""The one adapter around what is painted over a source: from the page's drafts to a request.

`assets/page/canvas.js` paints and `assets/page/editor.js` saves each stroke as a draft within
seconds: PNG bytes of exactly the source's size, by our own route, so neither the size of a Gradio
event nor a lost page is in the way. (`gr.ImageEditor` was tried for this at 1536 x 1536 on two
quiet cores without a graphics card and given up: a stroke of twenty movements took 31 s and was
sent 13 s after it ended; without WebGL nothing appears at all. The same stroke takes 0.5 s here.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from studio.core.errors import InvalidRequestError, NotFoundError
from studio.services.studio import Studio
from studio.ui.places import place
from studio.ui.tasks import EDITS, INPAINT, TASKS


@dataclass(frozen=True)
class Edit:
    """What an edit begins from."""

    source: str  # sha256 of its pixels; colours painted over it are in them
    size: tuple[int, int]  # of the source, pixels
    mask: str = ""  # sha256; empty when nothing was painted
    parent_id: int | None = None  # the picture that the source is


def editor_places() -> None:
    """Leave the places for the choice between source and result, and for the source."""
    place("easel-panes")
    place("easel-editor")


def draft_name(task: str, source: str) -> str:
    """Return the draft under which what was painted over a source is kept."""
    return f"{TASKS[task].ink}-{source}"


def read_edit(studio: Studio, values: Mapping[str, Any]) -> Edit | None:
    """Return what the form's edit begins from, None on the tab that draws from text alone.

    Raises InvalidRequestError when there is no source, when nothing would change, or when what was
    painted has another size than the source; NotFoundError when the source is gone.
    """
    task, source = values["task"], values["source"] or ""
    if task not in EDITS:
        return None
    if not source:
        raise InvalidRequestError(
            "source", "There is no source yet: drop a picture, paste one, or send one here."
        )
    size = studio.sources.size(source)
    parent = int(values["parent"]) if str(values["parent"] or "").isdecimal() else None
    painted = _painted(studio, task, source)
    if task == INPAINT:
        extends = any(values[f"extend_{side}"] for side in _SIDES)
        waits = extends and not values["extend_mask"]
        mask = _mask(studio, painted, size) if painted and not waits else ""
        if not mask and not extends:
            raise InvalidRequestError(
                "source", "Nothing is to change yet: paint over a part, or extend a side."
            )
        return Edit(source, size, mask, parent)
    return Edit(_sketched(studio, painted, source) if painted else source, size, "", parent)


def source_json(studio: Studio, sha256: str, parent: str = "", mask: str = "") -> dict[str, Any]:
    """Return what the page is told of a source; empty when there is none, or it is gone.

    `inks` names what was painted over it before; a `mask` is put in the place of that.
    """
    try:
        width, height = studio.sources.size(sha256) if sha256 else (0, 0)
    except NotFoundError:
        sha256, width, height = "", 0, 0
    inks = [TASKS[task].ink for task in EDITS if sha256 and _painted(studio, task, sha256)]
    told = {"sha256": sha256, "width": width, "height": height, "parent": parent, "mask": mask}
    return told | {"inks": inks}


def painted_mask(studio: Studio, source: str) -> str:
    """Keep the mask that is painted over a source; return its hash, '' when nothing is painted."""
    painted = _painted(studio, INPAINT, source) if source else b""
    return _kept_mask(studio, painted) if painted else ""


_SIDES = ("left", "top", "right", "bottom")


def _painted(studio: Studio, task: str, source: str) -> bytes:
    """Return the PNG that was painted over a source, empty when there is none."""
    try:
        return studio.drafts.load(draft_name(task, source))
    except NotFoundError:
        return b""


def _mask(studio: Studio, painted: bytes, size: tuple[int, int]) -> str:
    mask = _kept_mask(studio, painted)
    if mask:
        _check_size(studio.sources.size(mask), size)
    return mask


def _kept_mask(studio: Studio, painted: bytes) -> str:
    """Keep a painted mask and return its hash, empty when all of it is black."""
    mask = studio.sources.add_mask_file(painted)
    return mask if studio.sources.image(mask).getbbox() else ""


def _sketched(studio: Studio, painted: bytes, source: str) -> str:
    """Return the hash of the source with the painted colours on it; unpainted pixels stay."""
    colours = studio.sources.image(studio.sources.add_file(painted)).convert("RGBA")
    if not colours.getchannel("A").getbbox():
        return source
    below = studio.sources.image(source)
    _check_size(colours.size, below.size)
    return studio.sources.add(
        Image.alpha_composite(below.convert("RGBA"), colours).convert(below.mode)
    )


def _check_size(painted: tuple[int, int], source: tuple[int, int]) -> None:
    if painted != source:
        raise InvalidRequestError(
            "source",
            f"What was painted is {painted[0]} x {painted[1]} pixels and the source "
            f"{source[0]} x {source[1]}; clear the drawing, or open the source once more.",
        )

"""The public API: `txt2img`, `img2img` and `inpaint`, typed, waiting until all is drawn.

A picture comes in as an uploaded file (`handle_file` of gradio_client) or as the sha256 of a source
that the studio holds. A path in it counts only where uploads are kept: it may be anybody's word.
`adapters` are those of the header's chip: `{"name": "warm", "strength": 0.8}`; without a strength
it is 1, and a `sha256` makes sure that the file is still the one that was meant.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from studio.core.errors import EaselError, InvalidRequestError
from studio.core.request import AdapterUse, GenerationRequest
from studio.services.editing import with_size
from studio.services.studio import Studio
from studio.ui.adapters import uses_of
from studio.ui.controls import new_seed
from studio.ui.observe import picture_json

LOOK_EVERY = 1.0  # seconds between two looks at a job that says nothing
Upload = dict | str  # an uploaded file, or the sha256 of a source


def txt2img_endpoint(studio: Studio) -> Callable[..., list[dict]]:
    """Return the endpoint's function, bound to a studio."""

    def txt2img(
        prompt: str,
        negative_prompt: str = "",
        width: int = 0,
        height: int = 0,
        steps: int = 20,
        guidance_scale: float = 3.0,
        sampler: str = "DDIM",
        eta: float = 0.0,
        seed: int = -1,
        count: int = 1,
        model: str = "starter",
        adapters: list[dict] = (),
    ) -> list[dict]:
        """Draw pictures from a prompt and return one object a picture, with its `url`.

        A width or height of 0 takes the model's own; a seed of -1 draws one by chance.
        """
        return _answer(studio, dict(locals()))

    return txt2img


def img2img_endpoint(studio: Studio) -> Callable[..., list[dict]]:
    """Return the endpoint's function, bound to a studio."""

    def img2img(
        source: Upload,
        prompt: str = "",
        negative_prompt: str = "",
        strength: float = 0.75,
        width: int = 0,
        height: int = 0,
        resize_mode: str = "just resize",
        loopback: int = 1,
        steps: int = 20,
        guidance_scale: float = 3.0,
        sampler: str = "DDIM",
        eta: float = 0.0,
        seed: int = -1,
        count: int = 1,
        model: str = "starter",
        parent_id: int = 0,
        adapters: list[dict] = (),
    ) -> list[dict]:
        """Draw a picture anew, as far as `strength` goes, and return one object a picture.

        `source` is an uploaded file or the sha256 of a source. A width or height of 0 takes the
        source's; a seed of -1 draws one by chance; `parent_id` is the picture it came from, if any.
        """
        return _answer(studio, dict(locals()))

    return img2img


def inpaint_endpoint(studio: Studio) -> Callable[..., list[dict]]:
    """Return the endpoint's function, bound to a studio."""

    def inpaint(
        source: Upload,
        mask: Upload = "",
        prompt: str = "",
        negative_prompt: str = "",
        strength: float = 0.75,
        width: int = 0,
        height: int = 0,
        mask_blur: float = 4.0,
        mask_invert: bool = False,
        masked_content: str = "original",
        inpaint_area: str = "whole picture",
        mask_padding: int = 32,
        soft_inpainting: bool = False,
        extend: list[int] = (0, 0, 0, 0),
        resampling: int = 1,
        steps: int = 20,
        guidance_scale: float = 3.0,
        sampler: str = "DDIM",
        eta: float = 0.0,
        seed: int = -1,
        count: int = 1,
        model: str = "starter",
        parent_id: int = 0,
        adapters: list[dict] = (),
    ) -> list[dict]:
        """Repaint a picture where its mask is white and return one object a picture.

        `source` and `mask` are uploaded files or hashes; what the mask leaves out stays as it is,
        byte for byte. `extend` grows the picture by pixels to the left, top, right and bottom; as
        in the studio that is best with an empty prompt, `strength` 1, `eta` 1, `masked_content`
        "fill" and a `resampling` of 10, which draws most steps ten times.
        """
        return _answer(studio, dict(locals()))

    return inpaint


def _answer(studio: Studio, given: dict[str, Any]) -> list[dict]:
    values = {name: value for name, value in given.items() if name != "studio"}
    try:
        return _draw(studio, values)
    except EaselError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _draw(studio: Studio, values: dict[str, Any]) -> list[dict]:
    parent_id = values.pop("parent_id", 0) or None
    if "source" in values:
        values["source"] = _kept("source", values["source"], studio.sources.add_file)
    if values.get("mask"):
        values["mask"] = _kept("mask", values["mask"], studio.sources.add_mask_file)
    values["adapters"] = _adapters(studio, values["adapters"])
    for name in ("width", "height"):
        if not values[name]:
            del values[name]
    native = studio.models.entry(values["model"]).native_size
    values = with_size(values, studio.sources, native)
    if values["seed"] == -1:
        values["seed"] = new_seed()
    request = GenerationRequest.from_mapping(values)
    job = studio.generation.submit(request, key=uuid.uuid4().hex, parent_id=parent_id)
    version = 0
    while not (view := studio.generation.wait(job.id, version, LOOK_EVERY)).over:
        version = view.version
    if view.error:
        raise EaselError(view.error)
    return [picture_json(p) | {"url": f"/easel/picture/{p.id}"} for p in view.pictures]


def _adapters(studio: Studio, given: object) -> tuple[AdapterUse, ...]:
    """Return the adapters of a call; one that is named alone gets its hash. Raises EaselError."""
    entries = list(given) if isinstance(given, list | tuple) else given
    if isinstance(entries, list):
        for number, entry in enumerate(entries):
            if isinstance(entry, dict) and "sha256" not in entry:
                kept = studio.adapters.named(str(entry.get("name", "")))
                entries[number] = entry | {"sha256": kept.sha256}
    return uses_of(entries)


def _kept(field: str, given: object, keep: Callable[[Path], str]) -> str:
    """Return the hash of a picture that came with a call. Raises EaselError."""
    if isinstance(given, str) and given:
        return given
    path = given.get("path") if isinstance(given, dict) else None
    if not isinstance(path, str) or not path:
        raise InvalidRequestError(
            field, f"The {field} is missing; upload a file, or give the sha256 of a source."
        )
    file = Path(path)
    if not file.resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise InvalidRequestError(field, f"The {field} is not an uploaded file; upload it first.")
    return keep(file)

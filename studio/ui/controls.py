"""The controls of a drawing: field name -> component -> field of `GenerationRequest`, once.

Handlers receive every control under its field's name (`inputs_kwargs`), never by position, so a
control that is added or moved cannot silently become another.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.core.errors import InvalidRequestError
from studio.core.request import (
    INPAINT_AREAS,
    LANCZOS,
    LATENT_UPSCALERS,
    MASKED_CONTENTS,
    MAX_COUNT,
    MAX_SEED,
    RESIZE_MODES,
    SAMPLERS,
    GenerationRequest,
)
from studio.services.generation import UPSCALERS
from studio.services.models import ModelEntry
from studio.services.studio import Studio
from studio.ui.adapters import adapters_text, read_adapters
from studio.ui.editor import Edit
from studio.ui.inpaint import SIDES
from studio.ui.labels import FRAMES, SEED_POLICIES, SIZES_FROM, label
from studio.ui.shapes import shape_of
from studio.ui.tasks import IMG2IMG, INPAINT, OTHER_TABS, TASKS, TXT2IMG

DRAWING_FIELDS = (
    "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "eta",
    "seed", "count", "model", "variation_seed", "variation_strength",
    "hires_scale", "hires_upscaler", "hires_steps", "hires_strength",
)  # fmt: skip
MASK_FIELDS = (
    "masked_content", "inpaint_area", "mask_padding", "mask_blur", "mask_invert",
    "soft_inpainting",
)  # fmt: skip
EDIT_FIELDS = ("strength", "resize_mode", "loopback", *MASK_FIELDS)
REQUEST_FIELDS = (*DRAWING_FIELDS, *EDIT_FIELDS)
EXTENDED = tuple(f"extend_{side}" for side in SIDES)
PAGE_FIELDS = (
    "shape", "preset", "keep_seed", "panels", "set_name", "seed_policy",
    "task", "tab", "turn", "source", "parent", "adapters", "size_from", "frame", "extend_prompt",
    "extend_mask", *EXTENDED,
)  # fmt: skip
WHOLE_FIELDS = (
    "width", "height", "steps", "seed", "count", "variation_seed", "hires_steps", "loopback",
    "mask_padding", *EXTENDED,
)  # fmt: skip
NUMBER_FIELDS = (
    "guidance_scale", "eta", "strength", "mask_blur", "variation_strength", "hires_scale",
    "hires_strength",
)  # fmt: skip
_CHOICES = MappingProxyType(
    {
        "sampler": SAMPLERS,
        "resize_mode": RESIZE_MODES,
        "masked_content": MASKED_CONTENTS,
        "inpaint_area": INPAINT_AREAS,
        "task": tuple(TASKS),
        "tab": ("", *TASKS, *OTHER_TABS),
        "size_from": tuple(value for _, value in SIZES_FROM),
        "frame": (None, *(value for _, value in FRAMES)),
        "seed_policy": tuple(value for _, value in SEED_POLICIES),
    }
)
# An extension has nothing to begin from, and its subject stands in the source already: noise
# alone, RePaint's resampling, and a prompt of its own that is empty at first.
EXTENSION = MappingProxyType(
    {"strength": 1.0, "masked_content": "fill", "sampler": "DDIM", "eta": 1.0, "resampling": 10}
)
FIRST_STRENGTH = 0.75  # what artists know as the beginning of an edit
FIRST_PROMPT = "red apple, flat illustration"


@dataclass(frozen=True)
class Controls:
    """Every control of a drawing by its field's name, and the panels that fold."""

    components: Mapping[str, Component]
    negative: gr.Accordion
    panel_options: gr.Group
    extension: gr.Accordion
    style_editor: Mapping[str, Component]

    def named(self) -> dict[str, Component]:
        """Return the controls for `inputs_kwargs`."""
        return dict(self.components)


def first_usable(entries: list[ModelEntry]) -> ModelEntry:
    """Return the first model that can be loaded, or the first one when none can."""
    return next((entry for entry in entries if not entry.problem), entries[0])


def default_form(entry: ModelEntry) -> dict[str, Any]:
    """Return what a first visit finds in the form; always a size the model was trained for."""
    request = GenerationRequest()
    width, height = entry.native_size
    if entry.trained_sizes and (width, height) not in entry.trained_sizes:
        width, height = entry.trained_sizes[0]
    values = {name: getattr(request, name) for name in REQUEST_FIELDS}
    values |= {"prompt": FIRST_PROMPT, "width": width, "height": height, "model": entry.name}
    values |= {"strength": FIRST_STRENGTH} | dict.fromkeys(EXTENDED, 0)
    page = {
        "preset": "",
        "keep_seed": False,
        "panels": False,
        "set_name": "",
        "seed_policy": "same",
        "task": TXT2IMG,
        "tab": "",
        "turn": "0",
        "source": "",
        "parent": "",
        "adapters": "",
        "size_from": "source",
        "frame": "",
        "extend_prompt": "",
        "extend_mask": False,
    }
    return values | page | {"shape": shape_of(width, height)}


def sound_form(saved: Mapping[str, Any], entry: ModelEntry, files: Sequence[str]) -> dict[str, Any]:
    """Return a kept form for a model; what does not fit this version gets its default.

    `files` are the upscalers that there are.
    """
    first = default_form(entry)
    values = first | {name: saved[name] for name in first if name in saved}
    values["model"] = entry.name
    choices = {**_CHOICES, "hires_upscaler": (LANCZOS, *LATENT_UPSCALERS, *files)}
    for name, allowed in choices.items():
        if values[name] not in allowed:
            values[name] = first[name]
    for name, value in first.items():
        if isinstance(value, bool | str) and not isinstance(values[name], type(value)):
            values[name] = value
    try:
        read_adapters(values["adapters"])
    except InvalidRequestError:
        values["adapters"] = ""
    values["shape"] = shape_of(values["width"], values["height"])
    return values


def read_request(values: Mapping[str, Any], edit: Edit | None = None) -> GenerationRequest:
    """Turn the controls' values into a request; InvalidRequestError names the field.

    With an `edit` it begins from a picture, whose size it takes unless the form says otherwise.
    """
    read = {name: _read(name, values[name]) for name in (*REQUEST_FIELDS, *EXTENDED)}
    read["adapters"] = read_adapters(values["adapters"] or "")
    if edit is None:
        return GenerationRequest(**{name: read[name] for name in (*DRAWING_FIELDS, "adapters")})
    wanted = {name: read[name] for name in (*DRAWING_FIELDS, "adapters", "strength")}
    wanted |= {"source": edit.source, "mask": edit.mask}
    if values["task"] == IMG2IMG:
        wanted |= {"loopback": read["loopback"], "resize_mode": read["resize_mode"]}
        as_source = values["size_from"] != "own"
    else:
        wanted |= {name: read[name] for name in MASK_FIELDS}
        wanted["extend"] = tuple(read[name] for name in EXTENDED)
        as_source = read["inpaint_area"] != "only masked"
        if any(wanted["extend"]):
            around = (values.get("extend_prompt") or "").strip()
            wanted |= EXTENSION | {"prompt": around}
            if not around and not wanted["negative_prompt"].strip():
                wanted["guidance_scale"] = 1.0  # both sides would say the same
    if as_source:
        wanted |= {"width": edit.size[0], "height": edit.size[1]}
    return GenerationRequest(**wanted)


def form_of(request: GenerationRequest) -> dict[str, Any]:
    """Return the controls' values under which a request like this one is drawn.

    The source is among them, the mask is not: it is painted again, or put back as a draft.
    """
    values = {name: getattr(request, name) for name in DRAWING_FIELDS} | {"preset": ""}
    values["adapters"] = adapters_text(request.adapters)
    if not request.source:
        return values | {"task": TXT2IMG}
    if any(request.extend):
        return _form_of_extension(request, values)
    values |= {"source": request.source, "strength": request.strength, "frame": ""}
    values |= dict.fromkeys(EXTENDED, 0)
    if request.mask:
        return values | {name: getattr(request, name) for name in MASK_FIELDS} | {"task": INPAINT}
    edit = {name: getattr(request, name) for name in ("loopback", "resize_mode")}
    return values | edit | {"task": IMG2IMG, "size_from": "own"}


def _form_of_extension(request: GenerationRequest, values: dict[str, Any]) -> dict[str, Any]:
    """Return the form of an extension; what it draws with by itself leaves the form's own."""
    own = (*EXTENSION, "prompt", "guidance_scale")
    values = {name: value for name, value in values.items() if name not in own}
    values |= {name: getattr(request, name) for name in MASK_FIELDS if name not in own}
    values |= dict(zip(EXTENDED, request.extend, strict=True))
    values |= {"extend_prompt": request.prompt, "extend_mask": bool(request.mask), "frame": None}
    return values | {"task": INPAINT, "source": request.source}


def _read(name: str, value: Any) -> Any:
    """Return a control's value as its request's field has it. Raises InvalidRequestError."""
    if name in WHOLE_FIELDS:
        return _whole(name, value)
    if name in NUMBER_FIELDS and value is None:
        raise InvalidRequestError(name, f"{label(name)} is empty; please give a number.")
    if name in ("prompt", "negative_prompt"):
        return value or ""
    return value


def upscalers(studio: Studio) -> tuple[str, ...]:
    """Return the names of the model files that the second pass may enlarge with."""
    folder = studio.settings.models_dir / UPSCALERS
    return tuple(sorted(path.name for path in folder.glob("*.safetensors") if path.is_file()))


def new_seed(room: int = MAX_COUNT) -> int:
    """Return a seed drawn by chance that leaves `room` seeds after it."""
    return random.SystemRandom().randrange(MAX_SEED - room)


def _whole(name: str, value: Any) -> int:
    """Gradio's numbers arrive as int, float or None: return an int or name the field."""
    if value is None or isinstance(value, bool):
        raise InvalidRequestError(name, f"{label(name)} is empty; please give a whole number.")
    if not isinstance(value, int | float) or value != int(value):
        raise InvalidRequestError(name, f"{label(name)} must be a whole number.")
    return int(value)

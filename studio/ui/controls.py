"""The controls of a drawing: field name -> component -> field of `GenerationRequest`, once.

Handlers receive every control under its field's name (`inputs_kwargs`), never by position, so a
control that is added or moved cannot silently become another.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.core.errors import InvalidRequestError
from studio.core.request import (
    MAX_COUNT,
    MAX_SEED,
    MAX_STEPS,
    SAMPLERS,
    GenerationRequest,
)
from studio.services.models import ModelEntry
from studio.ui.labels import NO_PRESET, SEED_POLICIES, hint, label
from studio.ui.places import markup, place
from studio.ui.shapes import shape_choices, shape_of

REQUEST_FIELDS = (
    "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "eta",
    "seed", "count", "model",
)  # fmt: skip
PAGE_FIELDS = ("shape", "preset", "keep_seed", "panels", "set_name", "seed_policy")
WHOLE_FIELDS = ("width", "height", "steps", "seed", "count")
NUMBER_FIELDS = ("guidance_scale", "eta")
FIRST_PROMPT = "red apple, flat illustration"


@dataclass(frozen=True)
class Controls:
    """Every control of a drawing by its field's name, and the panels that fold."""

    components: Mapping[str, Component]
    negative: gr.Accordion
    panel_options: gr.Group
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
    page = {
        "preset": "",
        "keep_seed": False,
        "panels": False,
        "set_name": "",
        "seed_policy": "same",
    }
    return values | page | {"shape": shape_of(width, height)}


def read_request(values: Mapping[str, Any]) -> GenerationRequest:
    """Turn the controls' values into a request; InvalidRequestError names the field."""
    wanted = {name: values[name] for name in REQUEST_FIELDS}
    for name in WHOLE_FIELDS:
        wanted[name] = _whole(name, wanted[name])
    for name in NUMBER_FIELDS:
        if wanted[name] is None:
            raise InvalidRequestError(name, f"{label(name)} is empty; please give a number.")
    for name in ("prompt", "negative_prompt"):
        wanted[name] = wanted[name] or ""
    return GenerationRequest(**wanted)


def new_seed(room: int = MAX_COUNT) -> int:
    """Return a seed drawn by chance that leaves `room` seeds after it."""
    return random.SystemRandom().randrange(MAX_SEED - room)


def prompt_controls() -> tuple[dict[str, Component], gr.Accordion]:
    """Build the prompt and, folded while it is empty, the negative prompt."""
    prompt = gr.Textbox(
        label=label("prompt"),
        lines=4,
        max_lines=14,
        placeholder="A subject and a style, for instance: old lighthouse, pencil sketch",
        elem_id="easel-prompt",
        elem_classes=["easel-field-prompt"],
        html_attributes=gr.InputHTMLAttributes(spellcheck=True, autocomplete="off"),
    )
    place("easel-under-prompt")
    with gr.Accordion(label("negative_prompt"), open=False, elem_id="easel-negative") as folded:
        negative = gr.Textbox(
            show_label=False,
            label=label("negative_prompt"),
            lines=2,
            max_lines=8,
            placeholder=hint("negative_prompt"),
            elem_classes=["easel-field-negative_prompt"],
        )
    return {"prompt": prompt, "negative_prompt": negative}, folded


def size_controls(entry: ModelEntry) -> dict[str, Component]:
    """Build the shape chips, the swap button and the numbers beside them."""
    shape = gr.Radio(
        choices=shape_choices(entry),
        label=label("shape"),
        elem_id="easel-shape",
        elem_classes=["easel-chips"],
    )
    with gr.Row(elem_classes=["easel-row"]):
        width = _pixels("width")
        markup(
            '<button type="button" class="easel-icon" data-act="swap" '
            'aria-label="Swap width and height" title="Swap width and height">&#8644;</button>',
            classes=("easel-between",),
        )
        height = _pixels("height")
    markup('<p class="easel-note" id="easel-size-note" hidden></p>')
    return {"shape": shape, "width": width, "height": height}


def _pixels(name: str) -> gr.Number:
    return gr.Number(
        label=label(name),
        info=hint(name),
        precision=0,
        step=8,
        min_width=80,
        elem_classes=[f"easel-field-{name}"],
    )


def seed_controls() -> dict[str, Component]:
    """Build the count, and the seed with its dice and its lock."""
    with gr.Row(elem_classes=["easel-row"]):
        count = gr.Number(
            label=label("count"), info=hint("count"), precision=0, min_width=70,
            elem_classes=["easel-field-count", "easel-narrow"],
        )  # fmt: skip
        seed = gr.Number(
            label=label("seed"), info=hint("seed"), precision=0, min_width=120,
            elem_id="easel-seed", elem_classes=["easel-field-seed"],
        )  # fmt: skip
        markup(
            '<span class="easel-seed-tools">'
            '<button type="button" class="easel-icon" data-act="dice" aria-label="Roll a new seed" '
            'title="Roll a new seed">&#9861;</button>'
            '<button type="button" class="easel-icon" data-act="recycle" '
            'aria-label="Take the seed of the picture on view" '
            'title="Take the seed of the picture on view">&#9851;</button></span>',
            classes=("easel-between",),
        )
        keep = gr.Checkbox(
            label=label("keep_seed"), info=hint("keep_seed"), min_width=70,
            elem_id="easel-keep-seed", elem_classes=["easel-lock"],
        )  # fmt: skip
    return {"count": count, "seed": seed, "keep_seed": keep}


def more_controls() -> dict[str, Component]:
    """Build what is folded under *More*: steps, guidance, sampler and eta."""
    with gr.Accordion("More", open=False, elem_id="easel-more"):
        steps = gr.Slider(
            1, min(MAX_STEPS, 100), step=1, label=label("steps"), info=hint("steps"),
            elem_classes=["easel-field-steps"],
        )  # fmt: skip
        guidance = gr.Slider(
            0, 20, step=0.5, label=label("guidance_scale"), info=hint("guidance_scale"),
            elem_classes=["easel-field-guidance_scale"],
        )  # fmt: skip
        sampler = gr.Dropdown(
            choices=list(SAMPLERS), label=label("sampler"), info=hint("sampler"),
            elem_classes=["easel-field-sampler"],
        )  # fmt: skip
        eta = gr.Slider(
            0, 1, step=0.05, label=label("eta"), info=hint("eta"),
            elem_classes=["easel-field-eta"],
        )  # fmt: skip
    return {"steps": steps, "guidance_scale": guidance, "sampler": sampler, "eta": eta}


def panel_controls() -> tuple[dict[str, Component], gr.Group]:
    """Build "one panel a line": the switch, and what it unfolds."""
    panels = gr.Checkbox(label=label("panels"), info=hint("panels"), elem_id="easel-panels")
    with gr.Group(visible=False, elem_id="easel-panel-options") as options:
        set_name = gr.Textbox(
            label=label("set_name"), placeholder="Scene 4, rooftop", max_lines=1,
            elem_classes=["easel-field-set_name"],
        )  # fmt: skip
        policy = gr.Radio(
            choices=list(SEED_POLICIES), label=label("seed_policy"), info=hint("seed_policy"),
            elem_classes=["easel-chips"],
        )  # fmt: skip
    return {"panels": panels, "set_name": set_name, "seed_policy": policy}, options


def style_controls() -> tuple[dict[str, Component], dict[str, Component]]:
    """Build the preset chips and, folded, the editor that saves them."""
    preset = gr.Radio(
        choices=[NO_PRESET],
        label=label("preset"),
        elem_id="easel-preset",
        elem_classes=["easel-chips", "easel-field-preset"],
    )
    with gr.Accordion("Save or edit a style", open=False, elem_id="easel-style-editor"):
        title = gr.Textbox(label="Name of the style", max_lines=1)
        words = gr.Textbox(
            label="Words around the prompt",
            placeholder="{prompt}, pencil sketch on paper",
            info="{prompt} is where the prompt goes; size, steps and guidance are saved too.",
            lines=2,
            elem_classes=["easel-plain-info"],
        )
        with gr.Row(elem_classes=["easel-row"]):
            save = gr.Button("Save style", size="sm", elem_id="easel-save-style")
            delete = gr.Button("Delete style", size="sm", elem_id="easel-delete-style")
    return {"preset": preset}, {"title": title, "words": words, "save": save, "delete": delete}


def _whole(name: str, value: Any) -> int:
    """Gradio's numbers arrive as int, float or None: return an int or name the field."""
    if value is None or isinstance(value, bool):
        raise InvalidRequestError(name, f"{label(name)} is empty; please give a whole number.")
    if not isinstance(value, int | float) or value != int(value):
        raise InvalidRequestError(name, f"{label(name)} must be a whole number.")
    return int(value)

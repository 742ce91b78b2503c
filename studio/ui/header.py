"""The line at the top: name, model picker, adapters, device, queue, theme, help."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from studio.services.model_folder import ModelEntry
from studio.ui.labels import label
from studio.ui.places import markup, place


def model_choices(entries: list[ModelEntry]) -> list[tuple[str, str]]:
    """Return (title and family, name) of every model, broken ones marked."""
    return [
        (f"{e.title} · {'cannot be loaded' if e.problem else e.family}", e.name) for e in entries
    ]


def offer_new_models(model: gr.Dropdown, look: Callable[[], list[ModelEntry]]) -> None:
    """Read the list of models anew whenever the picker is opened."""

    def choices() -> gr.Dropdown:
        return gr.Dropdown(choices=model_choices(look()))

    model.focus(choices, None, model, queue=False, show_progress="hidden", api_visibility="private")


def build_header(entries: list[ModelEntry]) -> gr.Dropdown:
    """Build the header and return the model picker, which is a control of the drawing."""
    with gr.Row(elem_id="easel-header", equal_height=True):
        markup(
            '<h1><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 2v3M5.5 5h13v10h-13z'
            'M4 15h16M8 15 5.5 22M16 15l2.5 7M12 15v5"/></svg>Easel</h1>',
            elem_id="easel-name",
        )
        place("easel-model-picture")
        model = gr.Dropdown(
            choices=model_choices(entries),
            label=label("model"),
            show_label=False,
            container=False,
            filterable=len(entries) > 8,
            elem_id="easel-model",
            elem_classes=["easel-field-model"],
            min_width=180,
        )
        place("easel-adapters")
        place("easel-header-right")
    return model

"""The layout of the three drawing tabs: one form on the left, the page's script on the right.

The tabs share every component; which of them a tab shows is the style sheet's matter, so a change
of tabs costs nothing and no setting exists twice. Handlers submit and answer at once; drawing goes
on in the worker whether or not a page is open. What the form did wrong comes back as a sentence
for its field, see `outcome`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from studio.services.model_folder import ModelEntry
from studio.ui.controls import Controls
from studio.ui.editor import editor_places
from studio.ui.img2img import result_size_controls, strength_controls
from studio.ui.inpaint import mask_controls, outpainting_controls
from studio.ui.places import place
from studio.ui.sections import (
    more_controls,
    panel_controls,
    prompt_controls,
    seed_controls,
    size_controls,
    style_controls,
)

BRIDGE_SCRIPT = """
const send = (name, detail) => trigger(name, detail);  // 'command' or 'remember'
if (window.easelBridge) window.easelBridge.connect(send);
else (window.easelBridgeWaiting = window.easelBridgeWaiting || []).push(send);
watch('value', () => {
  window.easelBridgeSaid = props.value;
  if (window.easelBridge) window.easelBridge.outcome(props.value);
});
"""


@dataclass(frozen=True)
class Form:
    """What handlers of the drawing tabs read and write."""

    controls: Controls
    generate: gr.Button
    bridge: gr.HTML  # the page's script speaks through its events and reads its value


def build_form(model: gr.Dropdown, entry: ModelEntry, upscalers: Sequence[str] = ()) -> Form:
    """Build the form and the places beside it; `model` is the picker in the header."""
    with gr.Row(elem_id="easel-drawing"):
        with gr.Column(elem_id="easel-controls", scale=0, min_width=380):
            texts, negative = prompt_controls()
            strength, masks = strength_controls(), mask_controls()
            outpainting, extension = outpainting_controls()
            result_size = result_size_controls()
            style, editor = style_controls()
            sizes = size_controls(entry)
            seeds = seed_controls()
            panels, panel_options = panel_controls()
            more = more_controls(upscalers)
            with gr.Row(elem_id="easel-go"):
                generate = gr.Button("Generate", variant="primary", elem_id="easel-generate")
                place("easel-cancel")
        with gr.Column(elem_id="easel-result"):
            editor_places()
            place("easel-stage")
    bridge = gr.HTML("", html_template="<i></i>", js_on_load=BRIDGE_SCRIPT, elem_id="easel-bridge")
    edits = {**strength, **masks, **outpainting, **result_size, **hidden_controls()}
    components = {**texts, **style, **edits, **sizes, **seeds, **panels, **more, "model": model}
    controls = Controls(components, negative, panel_options, extension, editor)
    return Form(controls, generate, bridge)


def hidden_controls() -> dict[str, Component]:
    """Build what the form keeps without showing it: tab, turn, source, adapters."""
    return {
        name: gr.Textbox(label=name, visible="hidden", elem_id=f"easel-kept-{name}")
        for name in ("task", "tab", "turn", "source", "parent", "adapters")
    }


def outcome(**said: object) -> str:
    """Return what a handler tells the page's script: error, tokens, size_note, source, said, ..."""
    return json.dumps({**said, "at": time.monotonic_ns()})  # never equal: the page sees each one

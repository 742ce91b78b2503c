"""The text-to-image tab: controls on the left; the page's script fills the right.

Handlers submit and answer at once; drawing goes on in the worker whether or not a page is open.
What the form did wrong comes back as a sentence for its field, see `outcome`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import gradio as gr

from studio.services.model_folder import ModelEntry
from studio.ui.controls import (
    Controls,
    more_controls,
    panel_controls,
    prompt_controls,
    seed_controls,
    size_controls,
    style_controls,
)
from studio.ui.places import place

BRIDGE_SCRIPT = """
const send = (name, detail) => trigger(name, detail);  // 'command' or 'remember'
if (window.easelBridge) window.easelBridge.connect(send);
else (window.easelBridgeWaiting = window.easelBridgeWaiting || []).push(send);
watch('value', () => window.easelBridge && window.easelBridge.outcome(props.value));
"""


@dataclass(frozen=True)
class DrawingTab:
    """The tab's components that handlers read and write."""

    controls: Controls
    generate: gr.Button
    bridge: gr.HTML  # the page's script speaks through its events and reads its value


def build_txt2img(model: gr.Dropdown, entry: ModelEntry) -> DrawingTab:
    """Build the tab; `model` is the picker in the header."""
    with gr.Row(elem_id="easel-drawing"):
        with gr.Column(elem_id="easel-controls", scale=0, min_width=380):
            texts, negative = prompt_controls()
            style, editor = style_controls()
            sizes = size_controls(entry)
            seeds = seed_controls()
            panels, panel_options = panel_controls()
            more = more_controls()
            with gr.Row(elem_id="easel-go"):
                generate = gr.Button("Generate", variant="primary", elem_id="easel-generate")
                place("easel-cancel")
        with gr.Column(elem_id="easel-result"):
            place("easel-stage")
    bridge = gr.HTML("", html_template="<i></i>", js_on_load=BRIDGE_SCRIPT, elem_id="easel-bridge")
    components = {**texts, **style, **sizes, **seeds, **panels, **more, "model": model}
    return DrawingTab(Controls(components, negative, panel_options, editor), generate, bridge)


def outcome(**said: object) -> str:
    """Return what a handler tells the page's script: error, tokens, size_note, submitted, said."""
    return json.dumps({**said, "at": time.monotonic_ns()})  # never equal: the page sees each one

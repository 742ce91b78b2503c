"""What image to image adds to the form: how far it goes, how large it gets, how many rounds."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from studio.core.request import MAX_LOOPBACK, RESIZE_MODES
from studio.ui.labels import SIZES_FROM, hint, label


def strength_controls() -> dict[str, Component]:
    """Build the strength, which every edit has."""
    strength = gr.Slider(
        0, 1, step=0.01, label=label("strength"), info=hint("strength"),
        elem_id="easel-strength", elem_classes=["easel-field-strength", "easel-of-edits"],
    )  # fmt: skip
    return {"strength": strength}


def result_size_controls() -> dict[str, Component]:
    """Build whose size the result gets, and how the source comes to another size."""
    size_from = gr.Radio(
        choices=list(SIZES_FROM), label=label("size_from"), info=hint("size_from"),
        elem_id="easel-size-from", elem_classes=["easel-chips", "easel-of-img2img"],
    )  # fmt: skip
    resize_mode = gr.Dropdown(
        choices=[(mode.capitalize(), mode) for mode in RESIZE_MODES],
        label=label("resize_mode"), info=hint("resize_mode"),
        elem_classes=["easel-field-resize_mode", "easel-of-img2img", "easel-of-own-size"],
    )  # fmt: skip
    return {"size_from": size_from, "resize_mode": resize_mode}


def loopback_control() -> dict[str, Component]:
    """Build how many rounds are drawn, each from the last one's result."""
    loopback = gr.Slider(
        1, MAX_LOOPBACK, step=1, label=label("loopback"), info=hint("loopback"),
        elem_classes=["easel-field-loopback", "easel-of-img2img"],
    )  # fmt: skip
    return {"loopback": loopback}

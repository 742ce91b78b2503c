"""What inpainting adds to the form: the mask's edge, what stands under it, and outpainting."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from studio.core.request import INPAINT_AREAS, MASKED_CONTENTS, MAX_SIDE
from studio.ui.labels import FRAMES, hint, label

SIDES = ("left", "top", "right", "bottom")


def mask_controls() -> dict[str, Component]:
    """Build what is done with the painted mask."""
    with gr.Column(elem_classes=["easel-of-inpaint", "easel-plain"], min_width=0):
        content = gr.Radio(
            choices=_capitalised(MASKED_CONTENTS), label=label("masked_content"),
            info=hint("masked_content"),
            elem_classes=["easel-chips", "easel-field-masked_content", "easel-of-mask"],
        )  # fmt: skip
        area = gr.Radio(
            choices=_capitalised(INPAINT_AREAS), label=label("inpaint_area"),
            info=hint("inpaint_area"), elem_id="easel-area",
            elem_classes=["easel-chips", "easel-field-inpaint_area"],
        )  # fmt: skip
        padding = gr.Slider(
            0, 256, step=4, label=label("mask_padding"), info=hint("mask_padding"),
            elem_classes=["easel-field-mask_padding", "easel-of-only-masked"],
        )  # fmt: skip
        blur = gr.Slider(
            0, 64, step=1, label=label("mask_blur"), info=hint("mask_blur"),
            elem_classes=["easel-field-mask_blur", "easel-of-mask"],
        )  # fmt: skip
        with gr.Row(elem_classes=["easel-row", "easel-of-mask"]):
            invert = gr.Checkbox(
                label=label("mask_invert"), info=hint("mask_invert"), min_width=90,
                elem_id="easel-mask-invert",
            )  # fmt: skip
            soft = gr.Checkbox(
                label=label("soft_inpainting"), info=hint("soft_inpainting"), min_width=140,
            )  # fmt: skip
    return {
        "masked_content": content,
        "inpaint_area": area,
        "mask_padding": padding,
        "mask_blur": blur,
        "mask_invert": invert,
        "soft_inpainting": soft,
    }


def outpainting_controls() -> tuple[dict[str, Component], gr.Accordion]:
    """Build, folded, by how much the picture grows, to which proportions, and into what."""
    with gr.Accordion(
        "Extend the picture (outpainting)", open=False, elem_id="easel-extend",
        elem_classes=["easel-of-inpaint"],
    ) as folded:  # fmt: skip
        frame = gr.Radio(
            choices=list(FRAMES), label=label("frame"), info=hint("frame"),
            elem_classes=["easel-chips"],
        )  # fmt: skip
        with gr.Row(elem_classes=["easel-row", "easel-field-extend"]):
            sides = {
                f"extend_{side}": gr.Number(
                    label=label(f"extend_{side}"), info=hint(f"extend_{side}"), precision=0,
                    minimum=0, maximum=MAX_SIDE, step=8, min_width=60,
                    elem_id=f"easel-extend-{side}",
                )
                for side in SIDES
            }  # fmt: skip
        around = gr.Textbox(
            label=label("extend_prompt"), info=hint("extend_prompt"), lines=2, max_lines=6,
            placeholder="Empty: what is at the edges goes on",
            elem_id="easel-extend-prompt",
            elem_classes=["easel-field-extend_prompt", "easel-of-extension"],
        )  # fmt: skip
        painted = gr.Checkbox(
            label=label("extend_mask"), info=hint("extend_mask"), elem_id="easel-extend-mask",
            elem_classes=["easel-of-extension"],
        )  # fmt: skip
    return {"frame": frame, **sides, "extend_prompt": around, "extend_mask": painted}, folded


def _capitalised(choices: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(choice.capitalize(), choice) for choice in choices]

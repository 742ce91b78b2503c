"""The sections of the form that the drawing tabs share: prompt, style, size, seed, and *More*."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from gradio.components import Component

from studio.core.request import LANCZOS, LATENT_UPSCALERS, MAX_STEPS, SAMPLERS
from studio.services.models import ModelEntry
from studio.ui.img2img import loopback_control
from studio.ui.labels import NO_PRESET, SEED_POLICIES, hint, label
from studio.ui.places import markup, place
from studio.ui.shapes import shape_choices


def prompt_controls() -> tuple[dict[str, Component], gr.Accordion]:
    """Build the prompt and, folded while it is empty, the negative prompt."""
    prompt = gr.Textbox(
        label=label("prompt"),
        lines=3,
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
    with gr.Column(elem_id="easel-size", elem_classes=["easel-plain"], min_width=0):
        shape = gr.Radio(
            choices=shape_choices(entry),
            label=label("shape"),
            elem_id="easel-shape",
            elem_classes=["easel-chips"],
        )
        with gr.Row(elem_classes=["easel-row"]):
            width = _pixels("width")
            markup(
                '<button type="button" class="easel-icon" data-act="swap" aria-label="Swap width '
                'and height" title="Swap width and height">&#8644;</button>',
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


def more_controls(upscalers: Sequence[str]) -> dict[str, Component]:
    """Build what is folded under *More*: how it is drawn, varied, and refined once more."""
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
        rounds = loopback_control()
        variation, hires = variation_controls(), hires_controls(upscalers)
    drawing = {"steps": steps, "guidance_scale": guidance, "sampler": sampler, "eta": eta}
    return {**drawing, **rounds, **variation, **hires}


def variation_controls() -> dict[str, Component]:
    """Build how far, and towards which seed's noise, a picture is varied."""
    strength = gr.Slider(
        0, 1, step=0.01, label=label("variation_strength"), info=hint("variation_strength"),
        elem_id="easel-variation", elem_classes=["easel-field-variation_strength"],
    )  # fmt: skip
    seed = gr.Number(
        label=label("variation_seed"), info=hint("variation_seed"), precision=0,
        elem_classes=["easel-field-variation_seed", "easel-of-variation"],
    )  # fmt: skip
    return {"variation_strength": strength, "variation_seed": seed}


def hires_controls(upscalers: Sequence[str]) -> dict[str, Component]:
    """Build the second pass; at a scale of 1 there is none."""
    scale = gr.Slider(
        1, 4, step=0.25, label=label("hires_scale"), info=hint("hires_scale"),
        elem_id="easel-hires-scale", elem_classes=["easel-field-hires_scale"],
    )  # fmt: skip
    with gr.Column(elem_classes=["easel-of-hires", "easel-plain"], min_width=0):
        upscaler = gr.Dropdown(
            choices=[(name.capitalize(), name) for name in (LANCZOS, *LATENT_UPSCALERS)]
            + [(name, name) for name in upscalers],
            label=label("hires_upscaler"), info=hint("hires_upscaler"),
            elem_classes=["easel-field-hires_upscaler"],
        )  # fmt: skip
        strength = gr.Slider(
            0, 1, step=0.01, label=label("hires_strength"), info=hint("hires_strength"),
            elem_classes=["easel-field-hires_strength"],
        )  # fmt: skip
        steps = gr.Slider(
            0, 100, step=1, label=label("hires_steps"), info=hint("hires_steps"),
            elem_classes=["easel-field-hires_steps"],
        )  # fmt: skip
    return {
        "hires_scale": scale,
        "hires_upscaler": upscaler,
        "hires_strength": strength,
        "hires_steps": steps,
    }


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

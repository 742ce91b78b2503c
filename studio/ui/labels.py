"""Every word beside a control, in one place: both of its names and what turning it up does."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Label:
    """A control's name as artists say it, and one sentence on what turning it up does."""

    name: str
    hint: str = ""


LABELS = MappingProxyType(
    {
        "model": Label("Model", "The network that draws; each has learned its own subjects."),
        "adapters": Label("Adapter", "What a model was fine-tuned to; several add up."),
        "prompt": Label("Prompt", "What to draw. Ctrl+Enter draws it."),
        "negative_prompt": Label(
            "Negative prompt", "What to steer away from; the stronger the guidance, the further."
        ),
        "width": Label("Width", "Wider takes longer; a multiple of 8, in pixels."),
        "height": Label("Height", "Higher takes longer; a multiple of 8, in pixels."),
        "steps": Label(
            "Steps (num_inference_steps)",
            "More steps give finer detail and take proportionally longer; 20 is usual.",
        ),
        "guidance_scale": Label(
            "Guidance scale (CFG)",
            "Higher follows the prompt more strictly, and too high burns the colours.",
        ),
        "sampler": Label(
            "Sampler (scheduler)", "How each step removes noise; DDIM is what the model learned."
        ),
        "eta": Label(
            "Eta (DDIM noise)", "Higher adds fresh noise at every step: more variety, less order."
        ),
        "seed": Label("Seed", "The same seed and settings draw the same picture again."),
        "keep_seed": Label(
            "Keep", "Kept, every click draws the same picture; otherwise each click a new one."
        ),
        "count": Label("Pictures", "More pictures at once, each from the next seed."),
        "shape": Label("Shape"),
        "preset": Label("Style"),
        "panels": Label(
            "One panel a line", "Each line of the prompt becomes one panel of a named set."
        ),
        "set_name": Label("Name of the set", "What the panels are filed under."),
        "seed_policy": Label(
            "Seeds of the panels", "The same seed keeps the panels alike; new ones vary them."
        ),
        "strength": Label(
            "Strength (denoising)",
            "Higher leaves the source further behind; 0 changes nothing, 1 keeps nothing of it.",
        ),
        "size_from": Label("Size of the result", "As large as the source, or a size of your own."),
        "resize_mode": Label(
            "Resize mode", "How the source comes to the new size before it is redrawn."
        ),
        "loopback": Label(
            "Rounds (loopback)", "Each further round redraws the last result and moves on from it."
        ),
        "masked_content": Label(
            "Under the mask at the start",
            "Original keeps forms, fill spreads the surroundings, latent noise invents freely.",
        ),
        "inpaint_area": Label(
            "Area", "Only masked draws a crop in the size below and puts it back: fine detail."
        ),
        "mask_padding": Label(
            "Padding around the mask", "More lets the model see more of what surrounds it; pixels."
        ),
        "mask_blur": Label(
            "Mask blur", "Higher blends the edge of the mask more softly; pixels of the source."
        ),
        "mask_invert": Label("Invert", "Repaint everything except what is painted."),
        "soft_inpainting": Label(
            "Soft inpainting", "Grey parts of the mask change only in proportion to their light."
        ),
        "extend_prompt": Label(
            "What is around it",
            "Of the new parts alone: their surroundings, no second subject. Empty goes on with "
            "what is at the edges.",
        ),
        "extend_mask": Label(
            "Repaint what is painted, too", "Otherwise the painted mask waits until later."
        ),
        "frame": Label("Frame", "Proportions that the picture grows to; nothing of it is cut off."),
        "extend_left": Label("Left", "Pixels that the picture grows on this side."),
        "extend_top": Label("Top", "Pixels that the picture grows on this side."),
        "extend_right": Label("Right", "Pixels that the picture grows on this side."),
        "extend_bottom": Label("Bottom", "Pixels that the picture grows on this side."),
        "variation_strength": Label(
            "Variation (subseed strength)",
            "Higher moves further from the seed's picture towards the variation seed's.",
        ),
        "variation_seed": Label("Variation seed", "Which way the variation goes."),
        "hires_scale": Label(
            "Enlarge and refine (hires)", "Draws small first, then this many times as large."
        ),
        "hires_upscaler": Label(
            "Enlarged by (upscaler)", "Lanczos keeps edges; latent invents more; model files too."
        ),
        "hires_strength": Label(
            "Strength of the refining", "Higher invents more detail and may change forms."
        ),
        "hires_steps": Label(
            "Steps of the refining", "More steps refine more finely; 0 takes as many as above."
        ),
    }
)

SIZES_FROM = (("As the source", "source"), ("My own", "own"))
FRAMES = (
    ("As it is", ""),
    ("1:1", "1:1"),
    ("16:9", "16:9"),
    ("9:16", "9:16"),
    ("2.39:1", "239:100"),
)

SEED_POLICIES = (
    ("The same for all panels", "same"),
    ("Counting up", "increment"),
)
UNTRAINED_MARK = " *"
UNTRAINED_NOTE = "* not a shape that this model was trained for; it may draw it badly."
NO_PRESET = ("No style", "")


def label(name: str) -> str:
    """Return the label of the control `name`."""
    return LABELS[name].name


def hint(name: str) -> str | None:
    """Return the one-sentence hint of the control `name`, None when it has none."""
    return LABELS[name].hint or None

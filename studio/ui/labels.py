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
    }
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

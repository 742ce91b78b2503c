"""The tabs: three ways to draw, which share one form and one stage, and those beside them."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

TXT2IMG = "txt2img"
IMG2IMG = "img2img"
INPAINT = "inpaint"


@dataclass(frozen=True)
class Task:
    """One of the drawing tabs."""

    title: str  # on the tab
    ink: str = ""  # what is painted over its source: 'sketch' (colours), 'mask', or nothing


TASKS = MappingProxyType(
    {
        TXT2IMG: Task("Text to image"),
        IMG2IMG: Task("Image to image", ink="sketch"),
        INPAINT: Task("Inpaint", ink="mask"),
    }
)
OTHER_TABS = MappingProxyType(
    {"rate": "Rate", "finetune": "Fine-tune", "teach": "Teach", "gallery": "Gallery"}
)
EDITS = tuple(name for name, task in TASKS.items() if task.ink)

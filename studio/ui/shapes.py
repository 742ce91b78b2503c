"""Picture shapes by name, and the size in pixels that each has on the loaded model."""

from __future__ import annotations

import math

from studio.core.request import MAX_SIDE, MIN_SIDE
from studio.services.models import ModelEntry
from studio.ui.labels import UNTRAINED_MARK

SHAPES = (("1:1", 1.0), ("16:9", 16 / 9), ("9:16", 9 / 16), ("2.39:1", 2.39))  # width / height
CLOSE_ENOUGH = 1.08  # two ratios this near count as one shape: sides are multiples of 8


def shape_size(shape: str, entry: ModelEntry) -> tuple[int, int]:
    """Return (width, height) in pixels for a shape: a trained size, or one of the native area."""
    ratio = dict(SHAPES)[shape]
    trained = [size for size in entry.trained_sizes if _alike(size[0] / size[1], ratio)]
    if trained:
        return min(trained, key=lambda size: abs(math.log(size[0] / size[1] / ratio)))
    area = entry.native_size[0] * entry.native_size[1]
    width = math.sqrt(area * ratio)
    return _side(width), _side(width / ratio)


def shape_of(width: int | None, height: int | None) -> str | None:
    """Return the name of the shape that a size in pixels has, None when it has none."""
    if not width or not height:
        return None
    ratio = width / height
    near = min(SHAPES, key=lambda shape: abs(math.log(shape[1] / ratio)) if ratio > 0 else 0)
    return near[0] if ratio > 0 and _alike(near[1], ratio) else None


def shape_choices(entry: ModelEntry) -> list[tuple[str, str]]:
    """Return (label, shape) for the chips; untrained shapes carry a mark."""
    return [
        (name if entry.knows_size(*shape_size(name, entry)) else name + UNTRAINED_MARK, name)
        for name, _ in SHAPES
    ]


def _alike(one: float, other: float) -> bool:
    return max(one / other, other / one) <= CLOSE_ENOUGH


def _side(length: float) -> int:
    return min(max(round(length / 8) * 8, MIN_SIDE), MAX_SIDE)

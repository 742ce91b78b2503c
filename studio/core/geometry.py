"""The geometry of edits: how large the result is, which crop is drawn, what padding is needed.

All sizes are (width, height) and all boxes (left, top, right, bottom), in whole pixels.
"""

from __future__ import annotations

import math

from studio.core.errors import InvalidRequestError
from studio.core.request import MAX_PIXELS, MAX_SIDE, MIN_SIDE, GenerationRequest

Size = tuple[int, int]
Box = tuple[int, int, int, int]


def is_masked(request: GenerationRequest) -> bool:
    """Whether a part of the source is to stay as it is: there is a mask, or room to fill."""
    return bool(request.mask) or any(request.extend)


def draws_crop(request: GenerationRequest) -> bool:
    """Whether only a crop around what is repainted passes the model, at width x height."""
    return is_masked(request) and request.inpaint_area == "only masked"


def canvas_size(request: GenerationRequest, source_size: Size) -> Size:
    """Return the size of the picture that an edit works on, extensions included.

    For 'only masked' that is the source as it is; else the source is first brought to
    width x height. Extensions come on top. Raises InvalidRequestError when it grows too large.
    """
    width, height = source_size if draws_crop(request) else (request.width, request.height)
    left, top, right, bottom = request.extend
    size = width + left + right, height + top + bottom
    # A source may be larger than what is drawn, for instance a scan; it may not grow further.
    if any(request.extend) and (max(size) > 2 * MAX_SIDE or size[0] * size[1] > 4 * MAX_PIXELS):
        raise InvalidRequestError(
            "extend",
            f"The picture would grow to {size[0]} x {size[1]}, which is out of reach; "
            "extend it by less, or draw it smaller.",
        )
    return size


def result_size(request: GenerationRequest, source_size: Size | None = None) -> Size:
    """Return the size of the finished pictures; `source_size` where there is a source."""
    size = (request.width, request.height)
    if request.source and source_size is not None:
        size = canvas_size(request, source_size)
    return scaled_size(size, request.hires_scale)


def drawn_size(request: GenerationRequest) -> Size:
    """Return the size at which the first pass is drawn, before padding for the model."""
    if draws_crop(request) or not request.source:
        return request.width, request.height
    return canvas_size(request, (request.width, request.height))


def scaled_size(size: Size, scale: float) -> Size:
    """Return `size` times `scale`, rounded, at least one pixel a side."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def padded_size(size: Size, factor: int) -> Size:
    """Return the smallest size that a model takes: multiples of `factor`, at least MIN_SIDE."""
    width, height = (math.ceil(max(side, MIN_SIDE) / factor) * factor for side in size)
    return width, height


def contained_size(size: Size, frame: Size) -> Size:
    """Return `size` scaled, sides in proportion, so that it just fits into `frame`."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    width, height = (
        min(limit, max(1, round(side * scale))) for side, limit in zip(size, frame, strict=True)
    )
    return width, height


def covering_box(size: Size, frame: Size) -> tuple[float, float, float, float]:
    """Return the middle part of a picture of `size` that has the proportions of `frame`."""
    scale = min(size[0] / frame[0], size[1] / frame[1])
    width, height = frame[0] * scale, frame[1] * scale
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, min(left + width, size[0]), min(top + height, size[1])


def crop_box(painted: Box, padding: int, bounds: Size, frame: Size) -> Box:
    """Return the crop around `painted` that is drawn: padded, in the proportions of `frame`.

    It stays inside `bounds`, moved if need be; where `bounds` is too narrow for the proportions
    the crop is narrower too.
    """
    left, top = max(0, painted[0] - padding), max(0, painted[1] - padding)
    right, bottom = min(bounds[0], painted[2] + padding), min(bounds[1], painted[3] + padding)
    width, height = right - left, bottom - top
    if width * frame[1] < height * frame[0]:
        width = min(bounds[0], round(height * frame[0] / frame[1]))
    else:
        height = min(bounds[1], round(width * frame[1] / frame[0]))
    left = _shifted(left, right, width, bounds[0])
    top = _shifted(top, bottom, height, bounds[1])
    return left, top, left + width, top + height


def _shifted(low: int, high: int, side: int, limit: int) -> int:
    """Return where a span of `side` begins that has [low, high) in its middle, inside the limit."""
    return min(max(0, (low + high - side) // 2), limit - side)


def extension_to_aspect(size: Size, aspect: Size) -> Box:
    """Return the extension (left, top, right, bottom) that gives a picture new proportions.

    The picture stays in the middle, to 8 pixels, and nothing is cut off: a square becomes a 16:9
    frame by growing to both sides.
    """
    width, height = size
    across, down = aspect
    if across < 1 or down < 1:
        raise InvalidRequestError("extend", "Proportions are two whole numbers, such as 16:9.")
    wanted_width = max(width, round(height * across / down))
    wanted_height = max(height, round(width * down / across))
    more_across, more_down = wanted_width - width, wanted_height - height
    # Where the seam lies between two latents, the model sees the source's edge as it is.
    left, top = more_across // 16 * 8, more_down // 16 * 8
    return left, top, more_across - left, more_down - top

"""The keys of A1111's text that speak of edits, variations and the second pass, both ways.

A1111 keeps the resize mode, the rounds of a loopback and an outpainting out of its text. They stand
here under keys of our own, which others pass over, so that the text alone tells what was done.

A1111 has one 'Denoising strength': that of the edit, or of the second pass where nothing is edited.
A picture of ours that is both says the second one under a key of its own, which others pass over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from studio.core.geometry import is_masked
from studio.core.request import (
    INPAINT_AREAS,
    LANCZOS,
    LATENT_UPSCALERS,
    MASKED_CONTENTS,
    MAX_LOOPBACK,
    MAX_PIXELS,
    MAX_RESAMPLING,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    RESIZE_MODES,
    GenerationRequest,
)

Pair = tuple[str, object]
SECOND_STRENGTH = "Hires denoising strength"
INVERTED = "Inpaint not masked"
RESIZE_MODE, ROUNDS, OUTPAINT = "Resize mode", "Loopback", "Outpaint"  # keys of our own
RESAMPLING = "RePaint resampling"  # so is this
# A1111's upscalers in lower case -> ours; those that only smooth differently count as the same.
UPSCALERS = MappingProxyType(
    {
        **{name: name for name in (LANCZOS, *LATENT_UPSCALERS)},
        "latent (antialiased)": "latent",
        "latent (bicubic antialiased)": "latent (bicubic)",
        "latent (nearest-exact)": "latent (nearest)",
    }
)


def variation_pairs(request: GenerationRequest, index: int) -> list[Pair]:
    """Return the pairs that stand after the model: variation and denoising strength."""
    pairs: list[Pair] = []
    if request.variation_strength:
        pairs.append(("Variation seed", request.seeds_of(index)[1]))
        pairs.append(("Variation seed strength", plain(request.variation_strength)))
    if request.source:
        pairs.append(("Denoising strength", plain(request.strength)))
    elif request.hires_scale > 1:
        pairs.append(("Denoising strength", plain(request.hires_strength)))
    return pairs


def edit_pairs(request: GenerationRequest) -> list[Pair]:
    """Return the pairs of mask, soft inpainting and second pass."""
    pairs = _layout_pairs(request) if request.source else []
    if is_masked(request):
        pairs.append(("Mask blur", plain(request.mask_blur)))
        if request.mask_invert:
            pairs.append(("Mask mode", INVERTED))
        if request.inpaint_area == "only masked":
            pairs.append(("Inpaint area", "Only masked"))
            pairs.append(("Masked area padding", request.mask_padding))
        if request.masked_content != "original":
            pairs.append(("Masked content", request.masked_content))
        if request.soft_inpainting:
            pairs.append(("Soft inpainting enabled", True))
        if request.resampling > 1:
            pairs.append((RESAMPLING, request.resampling))
    if request.hires_scale > 1:
        pairs.append(("Hires upscale", plain(request.hires_scale)))
        if request.hires_steps:
            pairs.append(("Hires steps", request.hires_steps))
        known = request.hires_upscaler in UPSCALERS
        upscaler = request.hires_upscaler.capitalize() if known else request.hires_upscaler
        pairs.append(("Hires upscaler", upscaler))
        if request.source:
            pairs.append((SECOND_STRENGTH, plain(request.hires_strength)))
    return pairs


def read_edit(
    parameters: Mapping[str, str], size: tuple[int, int]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the request's fields that the parameters speak of, and sentences for what changed.

    `size` is the first pass's (width, height). Absent and unreadable values keep our defaults.
    """
    default = GenerationRequest()
    values: dict[str, Any] = {}
    if "Variation seed strength" in parameters:
        values["variation_seed"] = int(clamp(parameters, "Variation seed", (0, MAX_SEED), 0))
        values["variation_strength"] = clamp(parameters, "Variation seed strength", (0, 1), 0)
    if "Mask blur" in parameters:
        values["mask_blur"] = clamp(parameters, "Mask blur", (0, 64), default.mask_blur)
    values["mask_invert"] = parameters.get("Mask mode") == INVERTED
    values["soft_inpainting"] = parameters.get("Soft inpainting enabled") == "True"
    padding = clamp(parameters, "Masked area padding", (0, 1024), default.mask_padding)
    values["mask_padding"] = int(padding)
    for key, field, choices in (
        ("Inpaint area", "inpaint_area", INPAINT_AREAS),
        ("Masked content", "masked_content", MASKED_CONTENTS),
    ):
        if parameters.get(key, "").lower() in choices:
            values[field] = parameters[key].lower()
    values |= _read_layout(parameters)
    second, notice = _second_pass(parameters, size)
    strength = clamp(parameters, "Denoising strength", (0, 1), default.strength)
    if "Denoising strength" in parameters and ("hires_scale" not in second or _is_edit(parameters)):
        values["strength"] = strength
    elif "Denoising strength" in parameters:
        second["hires_strength"] = strength
    return values | second, (notice,) if notice else ()


def plain(number: float) -> str:
    """Write 7.0 as '7' and everything else so that it reads back equal."""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def _layout_pairs(request: GenerationRequest) -> list[Pair]:
    pairs: list[Pair] = []
    if request.resize_mode != RESIZE_MODES[0]:
        pairs.append((RESIZE_MODE, request.resize_mode.capitalize()))
    if request.loopback > 1:
        pairs.append((ROUNDS, request.loopback))
    if any(request.extend):
        pairs.append((OUTPAINT, " ".join(map(str, request.extend))))  # left, top, right, bottom
    return pairs


def _read_layout(parameters: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if parameters.get(RESIZE_MODE, "").lower() in RESIZE_MODES:
        values["resize_mode"] = parameters[RESIZE_MODE].lower()
    if RESAMPLING in parameters:
        values["resampling"] = int(clamp(parameters, RESAMPLING, (1, MAX_RESAMPLING), 1))
    if ROUNDS in parameters:
        values["loopback"] = int(clamp(parameters, ROUNDS, (1, MAX_LOOPBACK), 1))
    return values


def _is_edit(parameters: Mapping[str, str]) -> bool:
    return SECOND_STRENGTH in parameters or "Mask blur" in parameters


def _second_pass(
    parameters: Mapping[str, str], size: tuple[int, int]
) -> tuple[dict[str, Any], str]:
    default = GenerationRequest()
    scale = clamp(parameters, "Hires upscale", (0, math.inf), 0)
    for number, side in enumerate(size, start=1):  # 'Hires resize' names the result's size
        scale = scale or clamp(parameters, f"Hires resize-{number}", (0, math.inf), 0) / side
    allowed = _largest_scale(size)
    if not scale > 1 or not allowed > 1:
        return {}, ""
    name = parameters.get("Hires upscaler", "")[:200]
    upscaler = UPSCALERS.get(name.lower(), LANCZOS)
    notices = []
    if name and name.lower() not in UPSCALERS:
        notices.append(f"The upscaler '{name[:40]}' may not be here; {LANCZOS} enlarges instead.")
    if scale > allowed:
        notices.append(f"A second pass of {scale:g} times became {allowed:g} times.")
    second = {
        "hires_scale": min(scale, allowed),
        "hires_steps": int(clamp(parameters, "Hires steps", (0, MAX_STEPS), 0)),
        "hires_upscaler": upscaler,
        "hires_strength": clamp(parameters, SECOND_STRENGTH, (0, 1), default.hires_strength),
    }
    return second, " ".join(notices)


def _largest_scale(size: tuple[int, int]) -> float:
    """Return the largest quarter that a picture of this size may be enlarged by; 1 for none."""
    for quarters in range(32, 4, -1):
        width, height = (round(side * quarters / 4) for side in size)
        if max(width, height) <= 2 * MAX_SIDE and width * height <= 4 * MAX_PIXELS:
            return quarters / 4
    return 1.0


def clamp(
    parameters: Mapping[str, str], key: str, limits: tuple[float, float], default: float
) -> float:
    """Return the number inside the limits; the default for what is none."""
    try:
        value = float(parameters.get(key, "")[:40])
    except ValueError:
        return default
    return default if math.isnan(value) else min(max(value, limits[0]), limits[1])

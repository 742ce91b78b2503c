"""What two pictures have not in common: their differing settings, in the page's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from studio.core.picture import Picture
from studio.core.request import GenerationRequest

Difference = tuple[str, str, str]  # the setting's name, its value in one picture and in the other
NOTHING = "none"

# Field -> its name on the page, in the order in which the page shows them.
WORDS = MappingProxyType(
    {
        "prompt": "Prompt",
        "negative_prompt": "Negative prompt",
        "model": "Model",
        "model_hash": "Model's files",
        "adapters": "Adapter",
        "width": "Width",
        "height": "Height",
        "steps": "Steps (num_inference_steps)",
        "guidance_scale": "Guidance scale (CFG)",
        "sampler": "Sampler (scheduler)",
        "eta": "Eta (DDIM noise)",
        "seed": "Seed",
        "variation_seed": "Variation seed",
        "variation_strength": "Variation (subseed strength)",
        "source": "Source picture",
        "strength": "Strength (denoising)",
        "resize_mode": "Resize mode",
        "loopback": "Rounds (loopback)",
        "mask": "Mask",
        "mask_invert": "Invert",
        "mask_blur": "Mask blur",
        "masked_content": "Under the mask at the start",
        "inpaint_area": "Area",
        "mask_padding": "Padding around the mask",
        "soft_inpainting": "Soft inpainting",
        "resampling": "Resampling (RePaint)",
        "extend": "Grown by",
        "hires_scale": "Enlarge and refine (hires)",
        "hires_upscaler": "Enlarged by (upscaler)",
        "hires_steps": "Steps of the refining",
        "hires_strength": "Strength of the refining",
    }
)
_EDIT = ("strength", "resize_mode", "loopback", "mask", "extend")
_MASK = (
    *("mask_invert", "mask_blur", "masked_content", "inpaint_area", "mask_padding"),
    "resampling",
)
_SECOND = ("hires_upscaler", "hires_steps", "hires_strength")


class Comparison:
    """Compares the settings of any two pictures."""

    def differences(self, one: Picture, other: Picture) -> list[Difference]:
        """Return (name, value, value) of each setting that differs, in the page's order.

        A setting that takes no part in a picture, such as the mask's blur without a mask, counts
        as none there; where it has its usual value in the other one it is left out. How many
        pictures were drawn at once makes none of them different.
        """
        return [(WORDS[field], *values) for field, *values in self.differing(one, other)]

    def differing(self, one: Picture, other: Picture) -> list[Difference]:
        """Return the same with the field of the request in the place of its name."""
        values, others = settings_of(one), settings_of(other)
        pairs = ((name, values.get(name), others.get(name)) for name in WORDS)
        return [
            (name, value or NOTHING, another or NOTHING)
            for name, value, another in pairs
            if value != another and not _is_usual(name, value, another)
        ]


def settings_of(picture: Picture) -> dict[str, str]:
    """Return the settings that decided a picture's pixels, by field, as the page writes them."""
    request = picture.request
    seeds = {"seed": picture.seed, "variation_seed": picture.variation_seed}
    return {
        field.name: _in_words(field.name, seeds.get(field.name, getattr(request, field.name)))
        for field in fields(GenerationRequest)
        if field.name != "count" and _takes_part(field.name, request)
    }


def _is_usual(name: str, value: str | None, another: str | None) -> bool:
    """Whether a setting takes part in one picture only, and has its usual value there."""
    usual = _in_words(name, getattr(GenerationRequest(), name))
    return None in (value, another) and usual in (value, another)


def _takes_part(name: str, request: GenerationRequest) -> bool:
    repaints_part = bool(request.mask) or any(request.extend)
    if name in _EDIT:
        return bool(request.source)
    if name in (*_MASK, "soft_inpainting"):
        return repaints_part
    if name in _SECOND:
        return request.hires_scale > 1
    return name != "variation_seed" or request.variation_strength > 0


def _in_words(name: str, value: Any) -> str:
    known: Callable[[Any], str] | None = _WRITTEN.get(name)
    if known is not None:
        return known(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or NOTHING


def _hash(sha256: str) -> str:
    return sha256[:10] or NOTHING


def _sides(extend: tuple[int, int, int, int]) -> str:
    sides = zip(("left", "top", "right", "bottom"), extend, strict=True)
    return ", ".join(f"{side} {pixels} px" for side, pixels in sides if pixels) or NOTHING


_WRITTEN = MappingProxyType(
    {
        **dict.fromkeys(("source", "mask", "model_hash"), _hash),
        **dict.fromkeys(("width", "height", "mask_padding", "mask_blur"), lambda n: f"{n:g} px"),
        "extend": _sides,
        "hires_scale": lambda scale: f"{scale:g} times" if scale > 1 else NOTHING,
        "hires_steps": lambda steps: str(steps) if steps else "as the first pass",
        "adapters": lambda uses: ", ".join(f"{u.name} {u.strength:g}" for u in uses) or NOTHING,
    }
)

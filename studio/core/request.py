"""`GenerationRequest`: everything that decides the pixels of a picture.

Equal requests give equal pictures: models, adapters, sources and masks are named by hash. Text to
image, image to image and inpainting are one type: no source, a source, or a source and a mask.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from studio.core.errors import InvalidRequestError

SAMPLERS: tuple[str, ...] = ("DDIM", "Euler", "Euler a", "DPM++ 2M", "UniPC")
RESIZE_MODES: tuple[str, ...] = (
    "just resize",
    "crop and resize",
    "resize and fill",
    "latent upscale",
)
MASKED_CONTENTS: tuple[str, ...] = ("fill", "original", "latent noise", "latent nothing")
INPAINT_AREAS: tuple[str, ...] = ("whole picture", "only masked")
LATENT_UPSCALERS: tuple[str, ...] = ("latent", "latent (nearest)", "latent (bicubic)")
LANCZOS = "lanczos"  # enlarges pixels; any other name is that of an upscaler's model file
MIN_SIDE = 64  # pixels
MIN_SIDE_OF_EDIT = 8  # pixels; smaller than the model's needs is padded and cropped back
MAX_SIDE = 4096  # pixels
MAX_PIXELS = 4096 * 2304
MAX_STEPS = 500
MAX_LOOPBACK = 16  # rounds
MAX_RESAMPLING = 20  # times
MAX_COUNT = 64
MAX_SEED = 2**32 - 1  # A1111's range; seed + index stays inside 64 bits
MAX_PROMPT_CHARACTERS = 20_000


@dataclass(frozen=True)
class AdapterUse:
    """A LoRA by its content hash, and how strongly it is applied (1 = as trained)."""

    name: str
    sha256: str
    strength: float = 1.0


@dataclass(frozen=True)
class GenerationRequest:
    """A picture that is wanted, completely described."""

    prompt: str = ""  # what to draw; empty draws unconditionally
    negative_prompt: str = ""  # what to steer away from
    width: int = 128  # pixels, a multiple of 8
    height: int = 128  # pixels, a multiple of 8
    steps: int = 20  # denoising steps (num_inference_steps)
    guidance_scale: float = 3.0  # w in eps_null + w (eps_c - eps_null); 1 or less: no null pass
    sampler: str = "DDIM"  # one of SAMPLERS
    eta: float = 0.0  # DDIM's stochasticity: 0 deterministic, 1 as DDPM
    seed: int = 0  # of the first picture; picture i uses seed + i
    count: int = 1  # pictures
    model: str = "starter"  # name on the model shelf
    model_hash: str = ""  # sha256 of the model's weights; filled at submission
    adapters: tuple[AdapterUse, ...] = field(default=())
    source: str = ""  # sha256 of the source picture's pixels; empty for text to image
    mask: str = ""  # sha256 of the mask; empty when the whole source may change
    strength: float = 1.0  # image to image: share of the schedule that is run, 0 to 1
    resize_mode: str = "just resize"  # of RESIZE_MODES: how the source comes to width x height
    extend: tuple[int, int, int, int] = (0, 0, 0, 0)  # outpainting: left, top, right, bottom, px
    mask_invert: bool = False  # repaint what the mask leaves out
    mask_blur: float = 4.0  # sigma of the Gaussian, pixels of the source
    masked_content: str = "original"  # of MASKED_CONTENTS: what stands under the mask at the start
    inpaint_area: str = "whole picture"  # of INPAINT_AREAS; 'only masked' draws a crop of width x
    # height and pastes it back: the result has the source's size
    mask_padding: int = 32  # pixels of the source around the mask, for 'only masked'
    resampling: int = 1  # times that each noisier step is drawn where a part is kept, so that the
    # new grows together with it (RePaint, with DDIM); 10 for outpainting
    soft_inpainting: bool = False  # a grey mask repaints in proportion (differential diffusion)
    loopback: int = 1  # rounds of image to image; each takes the last one's result as its source
    variation_seed: int = 0  # blended into the noise by variation_strength (slerp)
    variation_strength: float = 0.0  # 0 to 1
    hires_scale: float = 1.0  # second pass at this multiple of width x height; 1: none
    hires_upscaler: str = LANCZOS  # LANCZOS, of LATENT_UPSCALERS, or a model file's name
    hires_steps: int = 0  # U-Net steps of the second pass; 0: as `steps`
    hires_strength: float = 0.5  # of the second pass

    def __post_init__(self) -> None:
        for check in _CHECKS:
            check(self)

    def with_changes(self, **changes: Any) -> GenerationRequest:
        """Return a copy with some fields replaced, validated anew."""
        return replace(self, **changes)

    def seeds_of(self, index: int) -> tuple[int, int]:
        """Return the seed and the variation seed of picture `index`, whatever the batch around it.

        Pictures differ in their seed; variations of one picture in their variation seed.
        """
        if self.variation_strength > 0:
            return self.seed, self.variation_seed + index
        return self.seed + index, self.variation_seed

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no spaces; `from_json` gives an equal request."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> GenerationRequest:
        """Read `to_json`'s text. Unknown keys are refused, absent ones get their defaults."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError("request", "This is not a request in JSON.") from error
        if not isinstance(values, dict):
            raise InvalidRequestError("request", "A request is a JSON object with named fields.")
        return cls.from_mapping(values)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GenerationRequest:
        """Build a request from named values, for instance parsed JSON or command-line flags."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidRequestError(
                unknown[0][:40],
                f"A request has no field '{unknown[0][:40]}'. "
                f"Its fields are {', '.join(sorted(known))}.",
            )
        values = dict(values)
        if isinstance(values.get("extend"), list):
            values["extend"] = tuple(values["extend"])
        adapters = values.pop("adapters", ())
        if not isinstance(adapters, list | tuple):
            raise InvalidRequestError("adapters", "Adapters are a list of objects.")
        try:
            uses = tuple(a if isinstance(a, AdapterUse) else AdapterUse(**a) for a in adapters)
        except TypeError as error:
            raise InvalidRequestError(
                "adapters", "An adapter has a name, a sha256 and a strength, nothing else."
            ) from error
        return cls(**values, adapters=uses)


_TEXTS = (
    *("prompt", "negative_prompt", "sampler", "model", "model_hash", "source", "mask"),
    *("resize_mode", "masked_content", "inpaint_area", "hires_upscaler"),
)


def _check_text(request: GenerationRequest) -> None:
    for name in _TEXTS:
        value = getattr(request, name)
        if not isinstance(value, str):
            raise InvalidRequestError(name, f"The {_words(name)} must be text.")
        if len(value) > MAX_PROMPT_CHARACTERS:
            raise InvalidRequestError(
                name,
                f"The {_words(name)} has {len(value):,} characters; "
                f"please keep it under {MAX_PROMPT_CHARACTERS:,}.",
            )
        if any(_is_control(c) for c in value):
            raise InvalidRequestError(
                name, f"The {_words(name)} contains control characters; please remove them."
            )


def _is_control(character: str) -> bool:
    """Control characters and lone surrogates; tab and newline are ordinary text."""
    code = ord(character)
    return (code < 32 and character not in "\t\n\r") or code == 127 or 0xD800 <= code <= 0xDFFF


def _check_size(request: GenerationRequest) -> None:
    smallest = MIN_SIDE_OF_EDIT if request.source else MIN_SIDE
    for name in ("width", "height"):
        side = _whole(request, name)
        if not smallest <= side <= MAX_SIDE:
            raise InvalidRequestError(
                name, f"A {name} of {side} is out of reach; choose {smallest} to {MAX_SIDE} pixels."
            )
        if side % 8 and not request.source:  # edits are padded for the model and cropped back
            low, high = max(side // 8 * 8, MIN_SIDE), min(side // 8 * 8 + 8, MAX_SIDE)
            raise InvalidRequestError(
                name, f"A {name} of {side} is not a multiple of 8; try {low} or {high}."
            )
    if request.width * request.height > MAX_PIXELS:
        raise InvalidRequestError(
            "width",
            f"{request.width} x {request.height} is more than {MAX_PIXELS:,} pixels; "
            "draw smaller and enlarge the result.",
        )


def _check_sampling(request: GenerationRequest) -> None:
    steps = _whole(request, "steps")
    if not 1 <= steps <= MAX_STEPS:
        raise InvalidRequestError(
            "steps", f"{steps:,} steps cannot be drawn; choose 1 to {MAX_STEPS} (20 is usual)."
        )
    guidance = _number(request, "guidance_scale")
    if not 0 <= guidance <= 50:
        raise InvalidRequestError(
            "guidance_scale", f"A guidance scale of {guidance:g} is out of range; choose 0 to 50."
        )
    if request.sampler not in SAMPLERS:
        raise InvalidRequestError(
            "sampler",
            f"There is no sampler '{request.sampler[:40]}'. Choose one of {', '.join(SAMPLERS)}.",
        )
    if not 0 <= _number(request, "eta") <= 1:
        raise InvalidRequestError("eta", f"Eta is {request.eta:g}; choose 0 to 1.")
    if not 0 <= _number(request, "strength") <= 1:
        raise InvalidRequestError("strength", f"Strength is {request.strength:g}; choose 0 to 1.")


def _check_count_and_seed(request: GenerationRequest) -> None:
    count = _whole(request, "count")
    if not 1 <= count <= MAX_COUNT:
        raise InvalidRequestError(
            "count", f"{count:,} pictures at once cannot be drawn; choose 1 to {MAX_COUNT}."
        )
    seed = _whole(request, "seed")
    if not 0 <= seed <= MAX_SEED:
        raise InvalidRequestError("seed", f"A seed is a whole number from 0 to {MAX_SEED}.")


def _check_edit(request: GenerationRequest) -> None:
    for name in ("mask_invert", "soft_inpainting"):
        if not isinstance(getattr(request, name), bool):
            raise InvalidRequestError(name, f"{_words(name).capitalize()} is either on or off.")
    for name, choices in _CHOICES:
        value = getattr(request, name)
        if value not in choices:
            raise InvalidRequestError(
                name, f"There is no {_words(name)} '{value[:40]}'. Choose {', '.join(choices)}."
            )
    _check_range(request, "mask_blur", 0, 64)
    _check_range(request, "mask_padding", 0, 1024, whole=True)
    _check_range(request, "loopback", 1, MAX_LOOPBACK, whole=True)
    _check_range(request, "resampling", 1, MAX_RESAMPLING, whole=True)
    if request.mask and not request.source:
        raise InvalidRequestError("mask", "A mask needs a source picture to repaint.")
    extend = request.extend
    if not isinstance(extend, tuple) or len(extend) != 4 or not all(map(_is_extension, extend)):
        raise InvalidRequestError(
            "extend", f"Extend by 0 to {MAX_SIDE} whole pixels to the left, top, right and bottom."
        )
    if any(extend) and not request.source:
        raise InvalidRequestError("extend", "Outpainting needs a source picture to extend.")


def _check_variation_and_hires(request: GenerationRequest) -> None:
    _check_range(request, "variation_seed", 0, MAX_SEED, whole=True)
    _check_range(request, "variation_strength", 0, 1)
    _check_range(request, "hires_scale", 1, 8)
    _check_range(request, "hires_steps", 0, MAX_STEPS, whole=True)
    _check_range(request, "hires_strength", 0, 1)
    sides = [round(side * request.hires_scale) for side in (request.width, request.height)]
    if max(sides) > 2 * MAX_SIDE or sides[0] * sides[1] > 4 * MAX_PIXELS:
        raise InvalidRequestError(
            "hires_scale",
            f"{request.hires_scale:g} times {request.width} x {request.height} is larger than "
            f"{2 * MAX_SIDE} pixels a side; choose a smaller scale.",
        )


def _check_range(
    request: GenerationRequest, name: str, low: float, high: float, *, whole: bool = False
) -> None:
    value = _whole(request, name) if whole else _number(request, name)
    if not low <= value <= high:
        raise InvalidRequestError(
            name, f"The {_words(name)} is {value:g}; choose {low:g} to {high:g}."
        )


def _is_extension(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIDE


_CHOICES = (
    ("resize_mode", RESIZE_MODES),
    ("masked_content", MASKED_CONTENTS),
    ("inpaint_area", INPAINT_AREAS),
)
_CHECKS = (
    *(_check_text, _check_size, _check_sampling, _check_count_and_seed),
    *(_check_edit, _check_variation_and_hires),
)


def _whole(request: GenerationRequest, name: str) -> int:
    value = getattr(request, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(name, f"The {_words(name)} must be a whole number.")
    return value


def _number(request: GenerationRequest, name: str) -> float:
    value = getattr(request, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequestError(name, f"The {_words(name)} must be a number.")
    return float(value)


def _words(name: str) -> str:
    return name.replace("_", " ")

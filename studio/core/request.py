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
MIN_SIDE = 64  # pixels
MAX_SIDE = 4096  # pixels
MAX_PIXELS = 4096 * 2304
MAX_STEPS = 500
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

    def __post_init__(self) -> None:
        for check in _CHECKS:
            check(self)

    def with_changes(self, **changes: Any) -> GenerationRequest:
        """Return a copy with some fields replaced, validated anew."""
        return replace(self, **changes)

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


def _check_text(request: GenerationRequest) -> None:
    for name in ("prompt", "negative_prompt", "sampler", "model", "model_hash", "source", "mask"):
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
    for name in ("width", "height"):
        side = _whole(request, name)
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise InvalidRequestError(
                name, f"A {name} of {side} is out of reach; choose {MIN_SIDE} to {MAX_SIDE} pixels."
            )
        if side % 8:
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
    if request.mask and not request.source:
        raise InvalidRequestError("mask", "A mask needs a source picture to repaint.")


_CHECKS = (_check_text, _check_size, _check_sampling, _check_count_and_seed, _check_edit)


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

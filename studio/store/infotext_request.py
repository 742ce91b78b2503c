"""From A1111's parameters to a request of ours: samplers by name, numbers into range."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from studio.core.request import (
    MAX_PIXELS,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    SAMPLERS,
    GenerationRequest,
)
from studio.store.infotext import Infotext
from studio.store.infotext_edit import clamp, read_edit

# Schedules that files before 1.9 fused into the sampler's name, longest ending first.
SCHEDULES = (
    "SGM Uniform",
    "Polyexponential",
    "Exponential",
    "DDIM Uniform",
    "KL Optimal",
    "Align Your Steps",
    "Karras",
    "Uniform",
    "Simple",
    "Normal",
    "Beta",
)
# A1111's samplers and their aliases, in lower case -> the nearest of ours.
NEAREST_SAMPLER = MappingProxyType(
    {
        "k_euler": "Euler",
        "k_euler_a": "Euler a",
        "k_euler_ancestral": "Euler a",
        "euler ancestral": "Euler a",
        "k_dpmpp_2m": "DPM++ 2M",
        "k_dpmpp_2m_ka": "DPM++ 2M",
        "dpm++ 2m sde": "DPM++ 2M",
        "dpm++ 2m sde heun": "DPM++ 2M",
        "dpm++ 3m sde": "DPM++ 2M",
        "dpm++ sde": "DPM++ 2M",
        "dpm++ 2s a": "DPM++ 2M",
        "dpm2": "DPM++ 2M",
        "dpm2 a": "Euler a",
        "dpm fast": "DPM++ 2M",
        "dpm adaptive": "DPM++ 2M",
        "restart": "DPM++ 2M",
        "heun": "Euler",
        "lms": "Euler",
        "lcm": "Euler a",
        "plms": "DDIM",
        "ddim cfg++": "DDIM",
        "uni_pc": "UniPC",
        "unipc bh2": "UniPC",
    }
)


def request_from_infotext(infotext: Infotext) -> tuple[GenerationRequest, tuple[str, ...]]:
    """Return the nearest drawable request, and a sentence for each thing that was changed.

    The model stays the default: the caller looks the hash up among the installed ones.
    """
    parameters, notices = infotext.parameters, []
    width, height, note = _size(parameters)
    notices.append(note)
    sampler, note = nearest_sampler(parameters.get("Sampler", ""))
    notices.append(note)
    prompt, note = _text(infotext.prompt, "prompt")
    notices.append(note)
    negative, note = _text(infotext.negative_prompt, "negative prompt")
    notices.append(note)
    seed, note = _seed(parameters)
    notices.append(note)
    edit, notes = read_edit(parameters, (width, height))
    notices.extend(notes)
    default = GenerationRequest()
    request = GenerationRequest(
        prompt=prompt,
        negative_prompt=negative,
        width=width,
        height=height,
        steps=int(clamp(parameters, "Steps", (1, MAX_STEPS), default.steps)),
        guidance_scale=clamp(parameters, "CFG scale", (0, 50), default.guidance_scale),
        sampler=sampler,
        eta=clamp(parameters, "Eta", (0, 1), default.eta),
        seed=seed,
        **edit,
    )
    return request, tuple(note for note in notices if note)


def nearest_sampler(name: str) -> tuple[str, str]:
    """Return our sampler for an A1111 name, and a sentence if it is another one."""
    bare, _schedule = split_schedule(name.strip())
    for ours in SAMPLERS:
        if bare.lower() == ours.lower():
            return ours, ""
    nearest = NEAREST_SAMPLER.get(bare.lower())
    if nearest is not None:
        return nearest, f"Easel has no sampler '{name[:40]}'; {nearest} is the nearest."
    if bare:
        return SAMPLERS[0], f"Easel does not know the sampler '{name[:40]}'; it uses {SAMPLERS[0]}."
    return SAMPLERS[0], ""


def split_schedule(name: str) -> tuple[str, str]:
    """Split 'DPM++ 2M Karras' into 'DPM++ 2M' and 'Karras'; without one the second is empty."""
    for schedule in SCHEDULES:
        if name.lower().endswith(f" {schedule.lower()}"):
            return name[: -len(schedule) - 1], schedule
    return name, ""


def _size(parameters: Mapping[str, str]) -> tuple[int, int, str]:
    default = GenerationRequest()
    width = _side(parameters, "Size-1", default.width)
    height = _side(parameters, "Size-2", default.height)
    while width * height > MAX_PIXELS:
        width, height = max(MIN_SIDE, width // 16 * 8), max(MIN_SIDE, height // 16 * 8)
    wanted = f"{parameters.get('Size-1', width)}x{parameters.get('Size-2', height)}"
    if wanted == f"{width}x{height}":
        return width, height, ""
    return width, height, f"The size {wanted} became {width}x{height}, the nearest that is drawn."


def _side(parameters: Mapping[str, str], key: str, default: int) -> int:
    side = int(clamp(parameters, key, (MIN_SIDE, MAX_SIDE), default))
    return side // 8 * 8


def _seed(parameters: Mapping[str, str]) -> tuple[int, str]:
    text = parameters.get("Seed", "0")[:20]
    seed = min(int(text), MAX_SEED) if text.isascii() and text.isdigit() else 0
    if str(seed) == text:
        return seed, ""
    return seed, f"The seed {text or 'of that picture'} became {seed}; Easel draws 0 to {MAX_SEED}."


def _text(text: str, name: str) -> tuple[str, str]:
    """Take out what a prompt of ours cannot hold; newline and tab stay."""
    clean = "".join(c for c in text if c in "\n\t" or _is_text(ord(c)))[:MAX_PROMPT_CHARACTERS]
    if clean == text:
        return text, ""
    return clean, f"Characters that cannot stand in a {name} were taken out."


def _is_text(code: int) -> bool:
    return code >= 32 and code != 127 and not 0xD800 <= code <= 0xDFFF

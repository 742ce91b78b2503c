"""A1111's `parameters` text: the recipe that the whole field reads.

    <prompt, may span lines>
    Negative prompt: <negative>
    Key: value, Key: "quoted, value", ...

The text cannot be escaped, so a prompt with a line 'Negative prompt:' is read back differently;
our own chunk (`metadata.py`) is the record. The reader runs in linear time: the equivalent regular
expression needs seconds for 20 kB of letters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import studio
from studio.core.request import GenerationRequest
from studio.store.infotext_edit import edit_pairs, plain, variation_pairs

NEGATIVE = "Negative prompt:"
MIN_PAIRS = 3  # fewer on the last line: it is part of the prompt

DEFAULTS = MappingProxyType(
    {
        "Clip skip": "1",
        "Hires resize-1": "0",
        "Hires resize-2": "0",
        "Hires sampler": "Use same sampler",
        "Hires schedule type": "Use same scheduler",
        "Hires checkpoint": "Use same checkpoint",
        "Hires prompt": "",
        "Hires negative prompt": "",
        "Schedule max sigma": "0",
        "Schedule min sigma": "0",
        "Schedule rho": "0",
        "FP8 weight": "Disable",
        "Refiner switch by sampling steps": "False",
        "Mask mode": "Inpaint masked",
        "Masked content": "original",
        "Inpaint area": "Whole picture",
        "Masked area padding": "32",
        "RNG": "GPU",
        "Schedule type": "Automatic",
        "VAE Encoder": "Full",
        "VAE Decoder": "Full",
    }
)

_SIZE = re.compile(r"(\d{1,9})x(\d{1,9})")


@dataclass(frozen=True)
class Infotext:
    """A parsed `parameters` text; values are text, as written, with A1111's defaults added."""

    prompt: str
    negative_prompt: str
    parameters: Mapping[str, str]
    written: tuple[tuple[str, str], ...] = ()  # the pairs as they stood, in order, unquoted


def write_infotext(request: GenerationRequest, index: int = 0) -> str:
    """Return the text for picture `index` of the request, in A1111's key order."""
    whole: list[tuple[str, object]] = [
        ("Steps", request.steps),
        ("Sampler", request.sampler),
        ("CFG scale", plain(request.guidance_scale)),
        ("Seed", request.seeds_of(index)[0]),
        ("Size", f"{request.width}x{request.height}"),
        ("Model hash", request.model_hash[:10] or None),
        ("Model", request.model or None),
        *variation_pairs(request, index),
        *edit_pairs(request),
        ("Eta", plain(request.eta) if request.eta else None),
        ("Version", f"Easel {studio.__version__}"),
    ]
    line = ", ".join(f"{key}: {quote(value)}" for key, value in whole if value is not None)
    negative = f"\n{NEGATIVE} {request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{negative}\n{line}".strip()


def quote(value: object) -> str:
    """Quote a value as JSON if it contains what separates pairs."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",\n:") else text


def unquote(value: str) -> str:
    """Undo `quote`; text that only looks quoted stays as it is."""
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    try:
        text = str(json.loads(value))
        text.encode()  # half a surrogate pair is no text, and no file or page could hold it
    except (ValueError, RecursionError):
        return value
    return text


def parse_infotext(text: str) -> Infotext:
    """Read A1111's text, and what dynamic prompts append to it; never fails."""
    lines, pairs = _split_parameter_line(text.strip().split("\n"))
    parameters = {}
    for key, raw in pairs:
        value = unquote(raw)
        size = _SIZE.fullmatch(value)
        if size:
            parameters[f"{key}-1"], parameters[f"{key}-2"] = size.groups()
        else:
            parameters[key] = value
    prompt, negative = _split_prompts(lines)
    prompt = _with_hypernet(prompt, parameters)
    _add_defaults(parameters, prompt + negative)
    written = tuple((key, unquote(raw)) for key, raw in pairs)
    return Infotext(prompt, negative, MappingProxyType(parameters), written)


def _split_parameter_line(lines: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the prompt lines and the pairs.

    The last line that begins with 'Steps:' and a number, if there is one: dynamic prompts append
    'Template:' lines after it. Otherwise A1111's rule: the last line, if it has three pairs.
    """
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number].strip()
        if line.startswith("Steps:") and line[6:].lstrip()[:1].isdigit():
            return lines[:number], list(scan_pairs(line))
    end = len(lines)
    for number in range(len(lines) - 1, 0, -1):
        if lines[number].lstrip().startswith(("Template:", "Negative Template:")):
            end = number
    pairs = list(scan_pairs(lines[end - 1].strip()))
    if len(pairs) < MIN_PAIRS:
        return lines, []
    return lines[: end - 1], pairs


def _split_prompts(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for line in (line.strip() for line in lines):
        if line.startswith(NEGATIVE):
            target = negative
            line = line[len(NEGATIVE) :].strip()
        target.append(line)
    return "\n".join(prompt), "\n".join(negative)


def scan_pairs(line: str) -> Iterator[tuple[str, str]]:
    """Yield the (key, raw value) pairs of a line, left to right, in linear time.

    key = two or more of letters, digits, '_', ' ', '-', '/', beginning with a word character;
    then ':' and blanks; value = a JSON string followed by ',' or the end, else all up to ','.
    """
    start = 0
    while True:
        colon = line.find(":", start)
        if colon < 0:
            return
        key = _key_before(line, start, colon)
        if not key:
            start = colon + 1
            continue
        begin = colon + 1
        while begin < len(line) and line[begin].isspace():
            begin += 1
        end = _end_of_string(line, begin)
        if end < 0:
            comma = line.find(",", begin)
            end = comma if comma >= 0 else len(line)
        yield key, line[begin:end]
        start = end + 1


def _key_before(line: str, start: int, colon: int) -> str:
    """Return the longest key that ends at `colon` and begins at or after `start`, or ''."""
    begin = colon
    while begin > start and (_is_word(line[begin - 1]) or line[begin - 1] in " /-"):
        begin -= 1
    while begin < colon and not _is_word(line[begin]):
        begin += 1
    return line[begin:colon] if colon - begin >= 2 else ""


def _end_of_string(line: str, begin: int) -> int:
    """Return the end of a quoted value at `begin` that a comma or the end follows, or -1."""
    if not line.startswith('"', begin):
        return -1
    position = begin + 1
    while position < len(line) and line[position] != '"':
        if line[position] == "\\":
            if line[position + 1 : position + 2] in ("", "\n"):
                return -1
            position += 1
        position += 1
    closed = position < len(line) and position > begin + 1
    followed = line[position + 1 : position + 2] in ("", ",")
    return position + 1 if closed and followed else -1


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _with_hypernet(prompt: str, parameters: dict[str, str]) -> str:
    """Move the old `Hypernet` keys into the prompt, where they stand today."""
    name = parameters.pop("Hypernet", "")
    strength = parameters.pop("Hypernet strength", "1.0")
    return f"{prompt}<hypernet:{name}:{strength}>" if name else prompt


def _add_defaults(parameters: dict[str, str], prompts: str) -> None:
    first_pass = [parameters.pop(f"First pass size-{side}", None) for side in (1, 2)]
    if all(first_pass) and "Size-1" in parameters:  # hires fix before 1.0: Size was the result's
        for side in (1, 2):
            parameters[f"Hires resize-{side}"] = parameters[f"Size-{side}"]
            parameters[f"Size-{side}"] = first_pass[side - 1]
    for key, value in DEFAULTS.items():
        parameters.setdefault(key, value)
    if set(prompts) & set("()[]"):
        parameters.setdefault("Emphasis", "Original")
    if parameters["FP8 weight"] != "Disable":
        parameters.setdefault("Cache FP16 weight for LoRA", "False")

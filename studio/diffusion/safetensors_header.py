"""The header of a safetensors file, checked before the file is opened; standard library only.

The format allows headers of 100 MB, any number of tensors and repeated names. Readers without
bounds of their own have been brought down by it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

from studio.core.errors import ModelError

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 20_000
_ITEM_BITS = MappingProxyType(
    {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16}
    | {"BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64}
)


def check_safetensors(path: Path) -> dict[str, str]:
    """Refuse a file whose header is too large, malformed or inconsistent with its size.

    The format: 8 bytes of header length, a JSON header, then the tensors without gaps. Returns the
    texts that the header holds beside the tensors (`__metadata__`).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise damaged(path, "its header is cut short or too large")
            header = json.loads(stream.read(length), object_pairs_hook=_unique)
    except OSError as error:
        raise ModelError(
            f"The file {short_name(path)} cannot be read ({error.strerror}); check its permissions."
        ) from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, "its header is not valid") from error
    if not isinstance(header, dict):
        raise damaged(path, "its header is not valid")
    metadata = header.pop("__metadata__", None) or {}
    if len(header) > MAX_TENSORS:
        raise damaged(path, f"it holds more than {MAX_TENSORS:,} tensors")
    _check_extents(path, header, size - 8 - length)
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not texts:
        raise damaged(path, "its header is not valid")
    return metadata


def _check_extents(path: Path, header: dict[str, Any], available: int) -> None:
    """The tensors must fill the file exactly, each as long as its shape and type say."""
    end = 0
    try:
        entries = sorted(header.values(), key=lambda entry: entry["data_offsets"])
        for entry in entries:
            first, last = entry["data_offsets"]
            bits = math.prod(entry["shape"]) * _ITEM_BITS[entry["dtype"]]
            natural = all(type(n) is int and n >= 0 for n in (first, last, *entry["shape"]))
            if not natural or first != end or (last - first) * 8 != bits:
                raise damaged(path, "its tensors do not fit its header")
            end = last
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "its header is not valid") from error
    if end != available:
        raise damaged(path, "it is cut short or has bytes too many")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("duplicate keys")
    return values


def damaged(path: Path, why: str) -> ModelError:
    """Return the refusal of a file of a model folder."""
    return ModelError(
        f"The file {short_name(path)} is damaged: {why}. Copy it again from its source."
    )


def short_name(path: Path) -> str:
    """Return a file's name with its folder: enough to find it, no path of this machine."""
    return f"{path.parent.name}/{path.name}"

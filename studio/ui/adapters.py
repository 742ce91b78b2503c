"""Which adapters the form draws with: a hidden text that the header's chip shows and changes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from studio.core.errors import InvalidRequestError
from studio.core.request import AdapterUse, GenerationRequest

MOST = 8  # adapters at once


def read_adapters(text: str) -> tuple[AdapterUse, ...]:
    """Return what the form's text names. Raises InvalidRequestError when it names none."""
    if not text:
        return ()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("adapters", "Choose the adapters anew, please.") from error
    return uses_of(found)


def adapters_text(uses: Iterable[AdapterUse | Mapping[str, Any]]) -> str:
    """Return adapters as the form keeps them; '' for none. Raises InvalidRequestError."""
    listed = [asdict(use) for use in uses_of(list(uses))]
    return json.dumps(listed, separators=(",", ":"), ensure_ascii=False) if listed else ""


def uses_of(found: object) -> tuple[AdapterUse, ...]:
    """Return a list of objects as adapters, checked. Raises InvalidRequestError."""
    if not isinstance(found, list) or len(found) > MOST:
        raise InvalidRequestError("adapters", f"At most {MOST} adapters act at once.")
    entries = [asdict(use) if isinstance(use, AdapterUse) else use for use in found]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise InvalidRequestError("adapters", "Choose the adapters anew, please.")
    return GenerationRequest.from_mapping({"adapters": entries}).adapters

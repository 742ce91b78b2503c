"""One panel a line: a list of prompts becomes a list of requests under one style."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from studio.core.errors import InvalidRequestError
from studio.core.request import GenerationRequest
from studio.store.jobs import Job

MAX_PANELS = 200
SeedPolicy = Literal["same", "increment"]


@dataclass(frozen=True)
class PanelSet:
    """The jobs of one list of panels, in its order."""

    id: str  # `Job.set_id` of each
    name: str
    jobs: tuple[Job, ...]


def panel_requests(
    lines: Sequence[str], request: GenerationRequest, seed_policy: SeedPolicy
) -> list[GenerationRequest]:
    """Return one request for each line that is not blank.

    The request's own prompt is the style: the line takes the place of `{prompt}` in it, or stands
    before it. With the policy 'same' every panel begins at the request's seed, which keeps a look;
    with 'increment' no two pictures of the set share a seed. Raises InvalidRequestError.
    """
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InvalidRequestError("prompt", "There is no panel yet; write one panel a line.")
    if len(prompts) > MAX_PANELS:
        raise InvalidRequestError(
            "prompt", f"{len(prompts)} panels are too many at once; send up to {MAX_PANELS}."
        )
    if seed_policy not in ("same", "increment"):
        raise InvalidRequestError("seed", "The seeds of panels are either 'same' or 'increment'.")
    stride = request.count if seed_policy == "increment" else 0
    return [
        request.with_changes(
            prompt=_in_style(prompt, request.prompt), seed=request.seed + place * stride
        )
        for place, prompt in enumerate(prompts)
    ]


def panel_set_id(key: str) -> str:
    """Return the id of the set that was submitted under a key: the same key, the same set."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _in_style(prompt: str, style: str) -> str:
    if "{prompt}" in style:
        return style.replace("{prompt}", prompt)
    return f"{prompt}, {style}" if style.strip() else prompt

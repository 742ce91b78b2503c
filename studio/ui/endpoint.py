"""The one public API endpoint, `txt2img`: typed, documented, and waiting until all is drawn."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import gradio as gr

from studio.core.errors import EaselError
from studio.core.request import GenerationRequest
from studio.services.studio import Studio
from studio.ui.controls import new_seed
from studio.ui.observe import picture_json

LOOK_EVERY = 1.0  # seconds between two looks at a job that says nothing


def txt2img_endpoint(studio: Studio) -> Callable[..., list[dict]]:
    """Return the endpoint's function, bound to a studio."""

    def txt2img(
        prompt: str,
        negative_prompt: str = "",
        width: int = 0,
        height: int = 0,
        steps: int = 20,
        guidance_scale: float = 3.0,
        sampler: str = "DDIM",
        eta: float = 0.0,
        seed: int = -1,
        count: int = 1,
        model: str = "starter",
    ) -> list[dict]:
        """Draw pictures from a prompt and return one object a picture, with its `url`.

        A width or height of 0 takes the model's own; a seed of -1 draws one by chance.
        """
        values = dict(locals())
        try:
            return _draw(studio, {name: v for name, v in values.items() if name != "studio"})
        except EaselError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return txt2img


def _draw(studio: Studio, values: dict[str, Any]) -> list[dict]:
    native = studio.models.entry(values["model"]).native_size
    values["width"] = values["width"] or native[0]
    values["height"] = values["height"] or native[1]
    if values["seed"] == -1:
        values["seed"] = new_seed()
    job = studio.generation.submit(GenerationRequest.from_mapping(values), key=uuid.uuid4().hex)
    version = 0
    while not (view := studio.generation.wait(job.id, version, LOOK_EVERY)).over:
        version = view.version
    if view.error:
        raise EaselError(view.error)
    return [picture_json(p) | {"url": f"/easel/picture/{p.id}"} for p in view.pictures]

"""From a request to pictures: the generator of events behind every tab.

Nothing is yielded inside a `with torch.no_grad()` block: the mode would leak into whichever job
runs between two yields. The generator is decorated instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from studio.core.errors import InvalidRequestError
from studio.core.events import Notice, Preview, Progress
from studio.core.geometry import draws_crop, is_masked
from studio.core.request import GenerationRequest
from studio.diffusion.drawing import REFINED_IN_TILES, Drawing, Drawn, Options
from studio.diffusion.edit import Edit, EditInputs, lay_out_edit
from studio.diffusion.guidance import needs_null_pass
from studio.diffusion.hires import check_upscaler
from studio.diffusion.memory import MemoryPlan, plan_memory
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.passes import steps_to_run
from studio.diffusion.text import cut_off_sentence

__all__ = ["Drawn", "EditInputs", "sample"]


def never() -> bool:
    """Say that nobody cancels."""
    return False


@torch.inference_mode()
def sample(
    model: LatentDiffusionModel,
    request: GenerationRequest,
    *,
    inputs: EditInputs | None = None,
    batch_size: int = 4,
    preview_every: float = 0.4,
    cancelled: Callable[[], bool] = never,
    memory_limit: int | None = None,
) -> Iterator[Progress | Preview | Notice | Drawn]:
    """Draw all pictures of a request, yielding Progress after every denoising step.

    Equal requests give equal pictures, and a picture's noise depends on its seed alone. `inputs`
    are what the request names by hash or by name. To cancel, stop pulling, or let `cancelled`
    return True: at most one more step is computed. Previews come after two steps of each batch and
    then at most every `preview_every` seconds (math.inf: none). `memory_limit` in bytes replaces
    what is free on the device. When memory runs out the batch is halved, then decoding is tiled;
    the size is never changed.

    Raises InvalidRequestError, NotEnoughMemoryError, or ModelError when the networks diverge.
    """
    folder = inputs.upscalers_dir if inputs else None
    _refuse_unsupported(model, request)
    check_upscaler(request, folder)
    edit = _laid_out(model, request, inputs)
    plan = plan_memory(model, request, batch_size, memory_limit)
    options = Options(plan, preview_every, cancelled, folder)
    yield from _notices(model, request, plan)
    if edit is not None:
        yield from _notices_of_edit(request, edit)
    yield from Drawing(model, request, edit, options).run()


def _laid_out(
    model: LatentDiffusionModel, request: GenerationRequest, inputs: EditInputs | None
) -> Edit | None:
    if not request.source:
        return None
    if inputs is None or inputs.source is None:
        raise InvalidRequestError(
            "source", "The source picture is not there any more; choose it again."
        )
    return lay_out_edit(request, inputs.source, inputs.mask, model.vae_scale_factor)


def _refuse_unsupported(model: LatentDiffusionModel, request: GenerationRequest) -> None:
    if request.adapters:  # they act around the sampler; see drawn_with in adapters.py
        raise InvalidRequestError(
            "adapters", "The adapters of this request are not in place; draw it in the studio."
        )
    if request.hires_scale > 1 and is_masked(request):
        raise InvalidRequestError(
            "hires_scale",
            "A second pass would change what the mask protects; set its scale to 1, and enlarge "
            "the finished picture instead.",
        )
    if request.source:
        return  # an edit is padded for the model
    factor = model.vae_scale_factor
    for name in ("width", "height"):
        side = getattr(request, name)
        if side % factor:
            raise InvalidRequestError(
                name,
                f"This model draws sizes that are multiples of {factor}; a {name} of {side} is "
                f"not. Try {max(1, round(side / factor)) * factor}.",
            )


def _notices(
    model: LatentDiffusionModel, request: GenerationRequest, plan: MemoryPlan
) -> Iterator[Notice]:
    if rest := cut_off_sentence(model, request.prompt):
        yield Notice(rest)
    if needs_null_pass(request.guidance_scale) and (
        rest := cut_off_sentence(model, request.negative_prompt, "negative prompt")
    ):
        yield Notice(rest)
    if request.eta > 0 and request.sampler != "DDIM":
        yield Notice(f"Eta acts with DDIM only; {request.sampler} draws as if it were 0.")
    if plan.tiled:
        yield Notice(
            "Memory is short for this size, so the picture is decoded in tiles: slower, and its "
            "texture may differ slightly."
        )
    if plan.unet_tiled:
        yield REFINED_IN_TILES


def _notices_of_edit(request: GenerationRequest, edit: Edit) -> Iterator[Notice]:
    if edit.is_empty:
        yield Notice(
            "The mask is empty, so nothing was repainted and the picture is as it was. Paint over "
            "what should change, or use Image to image to change all of it."
        )
    elif steps_to_run(request.steps, request.strength) == 0 and request.strength > 0:
        yield Notice(
            f"A strength of {request.strength:g} leaves none of {request.steps} steps to run, so "
            "the picture is as it was. Raise the strength or the steps."
        )
    if request.resampling > 1 and request.sampler != "DDIM":
        yield Notice(f"Resampling acts with DDIM only; {request.sampler} draws each step once.")
    if request.soft_inpainting and not request.mask:
        yield Notice("Soft inpainting needs a mask; without one it does nothing.")
    if draws_crop(request) and request.resize_mode != "just resize":
        yield Notice("Only a crop is drawn, so the picture keeps its size and is not resized.")

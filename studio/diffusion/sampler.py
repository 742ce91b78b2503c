"""From a request to pictures: the generator of events behind every tab.

Nothing is yielded inside a `with torch.no_grad()` block: the mode would leak into whichever job
runs between two yields. The generator is decorated instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from studio.core.errors import InvalidRequestError, ModelError, NotEnoughMemoryError
from studio.core.events import Notice, Preview, Progress
from studio.core.request import GenerationRequest
from studio.diffusion.denoise import DenoisingStep, SchedulerTransition, denoise
from studio.diffusion.device import free_bytes, is_out_of_memory, release_memory
from studio.diffusion.guidance import needs_null_pass
from studio.diffusion.latents import (
    decode,
    initial_latents,
    latent_to_rgb,
    picture_generators,
    preview_jpeg,
    to_uint8,
)
from studio.diffusion.memory import estimated_bytes, plan_memory, too_large_sentence
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.samplers import make_scheduler
from studio.diffusion.schedule import NoiseSchedule, noise_schedule, predicted_original_and_noise
from studio.diffusion.text import cut_off_sentence, encode_prompts

_Result = TypeVar("_Result")

FIRST_PREVIEW_STEP = 2
_PREVIEW_SHARE = 0.02  # of the time at most, however slow the previews are


@dataclass(frozen=True)
class Drawn:
    """A finished picture, not yet stored."""

    index: int  # within the request
    seed: int  # request.seed + index
    image: Image.Image  # RGB
    seconds: float  # its share of its batch's time


def never() -> bool:
    """Say that nobody cancels."""
    return False


@torch.inference_mode()
def sample(
    model: LatentDiffusionModel,
    request: GenerationRequest,
    *,
    batch_size: int = 4,
    preview_every: float = 0.4,
    cancelled: Callable[[], bool] = never,
    memory_limit: int | None = None,
) -> Iterator[Progress | Preview | Notice | Drawn]:
    """Draw all pictures of a request, yielding Progress after every denoising step.

    Equal requests give equal pictures, and a picture's noise depends on its seed alone. To cancel,
    stop pulling, or let `cancelled` return True: at most one more step is computed. Previews come
    after two steps of each batch and then at most every `preview_every` seconds (math.inf: none).
    `memory_limit` in bytes replaces what is free on the device. When memory runs out the batch is
    halved, then decoding is tiled; the size is never changed.

    Raises InvalidRequestError, NotEnoughMemoryError, or ModelError when the networks diverge.
    """
    _refuse_unsupported(model, request)
    plan = plan_memory(model, request, batch_size, memory_limit)
    job = _Job(model, request, preview_every, cancelled, plan.batch_size, plan.tiled)
    yield from _notices(job)
    yield from job.run()


def _refuse_unsupported(model: LatentDiffusionModel, request: GenerationRequest) -> None:
    if request.source:
        raise InvalidRequestError(
            "source", "Drawing from a source picture is not available yet; remove the source."
        )
    if request.adapters:
        raise InvalidRequestError(
            "adapters", "Adapters cannot be applied yet; remove them from the request."
        )
    factor = model.vae_scale_factor
    for name in ("width", "height"):
        side = getattr(request, name)
        if side % factor:
            raise InvalidRequestError(
                name,
                f"This model draws sizes that are multiples of {factor}; a {name} of {side} is "
                f"not. Try {max(1, round(side / factor)) * factor}.",
            )


def _notices(job: _Job) -> Iterator[Notice]:
    request = job.request
    if rest := cut_off_sentence(job.model, request.prompt):
        yield Notice(rest)
    if needs_null_pass(request.guidance_scale) and (
        rest := cut_off_sentence(job.model, request.negative_prompt, "negative prompt")
    ):
        yield Notice(rest)
    if request.eta > 0 and request.sampler != "DDIM":
        yield Notice(f"Eta acts with DDIM only; {request.sampler} draws as if it were 0.")
    if job.tiled:
        yield Notice(
            "Memory is short for this size, so the picture is decoded in tiles: slower, and its "
            "texture may differ slightly."
        )


class _Job:
    """One request being drawn: what is done, and how its work is cut to fit into memory."""

    def __init__(
        self,
        model: LatentDiffusionModel,
        request: GenerationRequest,
        preview_every: float,
        cancelled: Callable[[], bool],
        batch_size: int,
        tiled: bool,
    ) -> None:
        self.model = model
        self.request = request
        self.tiled = tiled
        self._cancelled = cancelled
        self._batch_size = batch_size
        self._previews = _PreviewClock(preview_every)
        self._schedule = noise_schedule(model.scheduler_config)
        self._pictures_done = 0
        self._steps_done = 0  # retried steps count again, so that progress never falls
        self._started = perf_counter()

    def run(self) -> Iterator[Progress | Preview | Notice | Drawn]:
        """Draw batch after batch until all pictures are done or somebody cancels."""
        guided = needs_null_pass(self.request.guidance_scale)
        prompts = [self.request.negative_prompt] if guided else []
        features = encode_prompts(self.model, [*prompts, self.request.prompt])
        while self._pictures_done < self.request.count and not self._cancelled():
            begun = perf_counter()
            last = min(self._pictures_done + self._batch_size, self.request.count)
            indices = range(self._pictures_done, last)
            latents = yield from self._denoised(indices, features)
            if self._cancelled():
                return
            if latents is None:
                yield self._halve_batch(len(indices))
                continue
            images = yield from self._decoded(latents)
            seconds = (perf_counter() - begun) / len(indices)
            self._pictures_done = last
            for index, image in zip(indices, images, strict=True):
                yield Drawn(index, self.request.seed + index, image, seconds)

    def _denoised(
        self, indices: range, features: Tensor
    ) -> Generator[Progress | Preview, None, Tensor | None]:
        """Return the clean latents (B, C, h, w) of a batch; None when memory ran out."""
        model, request = self.model, self.request
        generators = picture_generators([request.seed + index for index in indices])
        scheduler = make_scheduler(request.sampler, model.scheduler_config, request.steps)
        transition = SchedulerTransition(scheduler, generators, request.eta)
        noise = initial_latents(generators, model.latent_shape(request.width, request.height))
        latents = transition.begin(noise.to(model.device))
        prompt_embeds = features.repeat_interleave(len(indices), dim=0)
        steps = denoise(model.unet, latents, prompt_embeds, transition, request.guidance_scale)
        self._previews.restart()
        for _ in range(request.steps):
            step = _attempt(lambda: next(steps))
            if step is None:
                return None
            latents = step.latents
            self._check_numbers(latents, f"at step {step.number} of {request.steps}")
            self._steps_done += 1
            yield self._progress(request.steps - step.number, indices.stop)
            if self._cancelled():
                return None
            if step.number < request.steps and self._previews.due(step.number):
                yield from self._previewed(step, indices)
        return latents

    def _progress(self, steps_left: int, pictures_begun: int) -> Progress:
        batches_left = math.ceil((self.request.count - pictures_begun) / self._batch_size)
        left = steps_left + batches_left * self.request.steps
        seconds_a_step = (perf_counter() - self._started) / self._steps_done
        return Progress(self._steps_done, self._steps_done + left, left * seconds_a_step)

    def _previewed(self, step: DenoisingStep, indices: range) -> Iterator[Preview]:
        begun = perf_counter()
        rgb = latent_to_rgb(predicted_picture(step, self._schedule), self.model.latent_rgb)
        size = (self.request.width, self.request.height)
        jpegs = [preview_jpeg(picture, size) for picture in rgb]
        self._previews.shown(perf_counter() - begun)
        for index, jpeg in zip(indices, jpegs, strict=True):
            yield Preview(index, jpeg)

    def _halve_batch(self, size: int) -> Notice:
        release_memory(self.model.device)
        if size == 1:
            raise NotEnoughMemoryError(self._too_large())
        self._batch_size = (size + 1) // 2
        return Notice(
            f"Memory ran out with {size} pictures at once, so {self._batch_size} are drawn at a "
            "time: the same pictures, a little later."
        )

    def _decoded(self, latents: Tensor) -> Generator[Notice, None, list[Image.Image]]:
        """Return the pictures, decoded together if memory allows, else in parts, else in tiles."""
        waiting, images = [latents], []
        while waiting:
            part = waiting.pop(0)
            pixels = _attempt(lambda part=part: _decode_part(self.model, part, self.tiled))
            if pixels is not None:
                self._check_numbers(pixels, "while decoding")
                images += [Image.fromarray(array) for array in to_uint8(pixels)]
                continue
            release_memory(self.model.device)
            if len(part) > 1:
                waiting[:0] = part.split((len(part) + 1) // 2)
                yield Notice("Memory ran out while decoding, so the pictures are decoded in parts.")
            elif not self.tiled:
                self.tiled = True
                waiting.insert(0, part)
                yield Notice(
                    "Memory ran out while decoding, so the picture is decoded in tiles: slower, "
                    "and its texture may differ slightly."
                )
            else:
                raise NotEnoughMemoryError(self._too_large())
        return images

    def _too_large(self) -> str:
        free = free_bytes(self.model.device)
        if estimated_bytes(self.model, self.request, 1, tiled=True) > free:
            return too_large_sentence(self.model, self.request, free)
        return (
            f"Memory ran out while drawing {self.request.width} x {self.request.height}, even one "
            "picture at a time. Choose a smaller size, or close other programs."
        )

    def _check_numbers(self, tensor: Tensor, when: str) -> None:
        """Refuse NaN: it would become a black picture. Also waits for the device's step."""
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                f"The picture turned into values that are not numbers {when}. Lower the guidance "
                f"scale (it is {self.request.guidance_scale:g}), or choose another sampler."
            )


class _PreviewClock:
    """When the next preview is due: after two steps, then by time, and never costly."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = math.inf
        self._first = True

    def restart(self) -> None:
        """Begin another batch: other pictures, shown after two steps."""
        self._first = True

    def due(self, step: int) -> bool:
        """Whether to show a preview after this step."""
        if math.isinf(self._every) or step < FIRST_PREVIEW_STEP:
            return False
        return self._first or perf_counter() >= self._next

    def shown(self, cost: float) -> None:
        """Note that previews were made in `cost` seconds."""
        self._first = False
        self._next = perf_counter() + max(self._every, cost / _PREVIEW_SHARE)


def predicted_picture(step: DenoisingStep, schedule: NoiseSchedule) -> Tensor:
    """Return the x_0 (B, C, h, w) that the U-Net expects at this step."""
    abar_t = schedule.alpha_cumprod(int(step.timestep))
    return predicted_original_and_noise(
        step.noise_pred, step.model_input, abar_t, schedule.prediction_type
    )[0]


def _decode_part(model: LatentDiffusionModel, latents: Tensor, tiled: bool) -> Tensor:
    """Decode, leaving the autoencoder as it was found."""
    if not tiled:
        return decode(model.vae, latents)
    model.vae.enable_tiling()
    try:
        return decode(model.vae, latents)
    finally:
        model.vae.disable_tiling()


def _attempt(call: Callable[[], _Result]) -> _Result | None:
    """Return the call's result, or None when memory ran out.

    The traceback's frames hold tensors, so callers free memory only after this has returned.
    """
    try:
        return call()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    return None

"""One request being drawn: batch after batch, pass after pass, cut to fit into memory.

text:  noise -> loop -> pixels
edit:  canvas -> latents -> loop -> pixels -> canvas, as many rounds as wanted
both:  then, if wanted, enlarged -> latents -> loop -> pixels
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.core.errors import NotEnoughMemoryError
from studio.core.events import Notice, Preview, Progress
from studio.core.geometry import Size, drawn_size, padded_size, scaled_size
from studio.core.request import LANCZOS, LATENT_UPSCALERS, GenerationRequest
from studio.diffusion.codec import Codec, check_numbers, no_memory_sentence
from studio.diffusion.denoise import DenoisingStep, denoise
from studio.diffusion.device import attempt, release_memory
from studio.diffusion.edit import Edit
from studio.diffusion.guidance import needs_null_pass
from studio.diffusion.hires import (
    enlarged,
    enlarged_latents,
    enlarges_latents,
    has_second_pass,
    second_pass_steps,
)
from studio.diffusion.latents import (
    from_uint8,
    initial_latents,
    latent_to_rgb,
    picture_generators,
    preview_jpeg,
    varied_noise,
)
from studio.diffusion.masks import latent_mask
from studio.diffusion.memory import MemoryPlan
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.passes import Pass, make_transition, make_unet, steps_to_run, times_to_run
from studio.diffusion.previews import PreviewClock, predicted_picture
from studio.diffusion.resize import padded
from studio.diffusion.schedule import noise_schedule
from studio.diffusion.text import encode_prompts

_Events = Progress | Preview | Notice
_LANCZOS = Image.Resampling.LANCZOS
REFINED_IN_TILES = Notice(
    "Memory is short for the second pass, so it is refined in overlapping tiles: slower, and "
    "details may differ slightly."
)


@dataclass(frozen=True)
class Drawn:
    """A finished picture, not yet stored."""

    index: int  # within the request
    seed: int  # of its noise
    image: Image.Image  # RGB, or RGBA where the source has transparency
    seconds: float  # its share of its batch's time


@dataclass(frozen=True)
class Options:
    """How a request is drawn, none of which decides a pixel."""

    plan: MemoryPlan
    preview_every: float  # seconds
    cancelled: Callable[[], bool]
    upscalers_dir: Path | None = None


@dataclass
class _Batch:
    """Pictures that are drawn together."""

    indices: range  # within the request
    features: Tensor  # of the prompts, (1 or 2, L, D)
    generators: list[torch.Generator]  # one a picture
    steps_done: int = 0
    refining: bool = False  # in its second pass


class Drawing:
    """One request being drawn: what is done, and how its work is cut to fit into memory."""

    def __init__(
        self,
        model: LatentDiffusionModel,
        request: GenerationRequest,
        edit: Edit | None,
        options: Options,
    ) -> None:
        self._model = model
        self._request = request
        self._edit = edit
        self._options = options
        self._batch_size = options.plan.batch_size
        self._unet_tiled = options.plan.unet_tiled
        self._codec = Codec(model, request, options.plan.tiled)
        self._previews = PreviewClock(options.preview_every)
        self._schedule = noise_schedule(model.scheduler_config)
        trained = len(self._schedule.alphas_cumprod)
        self._second_steps, self._second_run = second_pass_steps(request, trained)
        first = sum(self._times()) or self._first_run()
        self._steps_a_batch = first * (request.loopback if edit else 1)
        self._steps_a_batch += self._second_run
        self._pictures_done = 0
        self._steps_done = 0  # retried steps count again, so that progress never falls
        self._started = perf_counter()

    def run(self) -> Iterator[Progress | Preview | Notice | Drawn]:
        """Draw batch after batch until all pictures are done or somebody cancels."""
        request = self._request
        guided = needs_null_pass(request.guidance_scale)
        prompts = [request.negative_prompt] if guided else []
        features = encode_prompts(self._model, [*prompts, request.prompt])
        while self._pictures_done < request.count and not self._options.cancelled():
            begun = perf_counter()
            last = min(self._pictures_done + self._batch_size, request.count)
            indices = range(self._pictures_done, last)
            seeds = [request.seeds_of(index)[0] for index in indices]
            batch = _Batch(indices, features, picture_generators(seeds))
            images = yield from self._drawn(batch)
            if self._options.cancelled():
                return
            if images is None:
                yield self._smaller(batch)
                continue
            seconds = (perf_counter() - begun) / len(indices)
            self._pictures_done = last
            for index, seed, image in zip(indices, seeds, images, strict=True):
                yield Drawn(index, seed, image, seconds)

    def _first_run(self) -> int:
        """Return the U-Net steps of one first pass."""
        if self._edit is None:
            return self._request.steps
        if self._edit.is_empty:
            return 0
        return steps_to_run(self._request.steps, self._request.strength)

    def _times(self) -> tuple[int, ...]:
        """Return how often each step of one first pass is drawn; () where it is once."""
        return times_to_run(self._model, self._request, self._first_run())

    def _drawn(self, batch: _Batch) -> Generator[_Events, None, list[Image.Image] | None]:
        """Return the finished pictures of a batch; None when memory ran out."""
        latents, pictures = yield from self._composed(batch)
        if latents is None and not pictures:
            return None
        if not has_second_pass(self._request):
            return pictures
        batch.refining = True
        return (yield from self._refined(batch, latents, pictures))

    def _composed(
        self, batch: _Batch
    ) -> Generator[_Events, None, tuple[Tensor | None, list[Image.Image]]]:
        """Return the latents and the pictures of the first pass; neither when memory ran out.

        The latents are absent where nothing was drawn, the pictures where nobody needs them.
        """
        edit, request = self._edit, self._request
        if edit is None:
            wanted = yield from self._text_pass()
            latents = yield from self._denoised(wanted, batch, self._first_noise(batch))
            if latents is None or (has_second_pass(request) and enlarges_latents(request)):
                return latents, []
            pixels = yield from self._codec.decoded(latents)
            return latents, [Image.fromarray(array) for array in pixels]
        latents, pictures = None, [edit.canvas]
        if not self._first_run():
            return None, pictures * len(batch.indices)
        for number in range(request.loopback):
            wanted = yield from self._edit_pass(edit, pictures, first=number == 0)
            noise = self._noise(batch, wanted.size) if number else self._first_noise(batch)
            latents = yield from self._denoised(wanted, batch, noise)
            if latents is None:
                return None, []
            pixels = yield from self._codec.decoded(latents)
            pictures = [edit.finished(array) for array in pixels]
        return latents, pictures

    def _refined(
        self, batch: _Batch, latents: Tensor | None, pictures: Sequence[Image.Image]
    ) -> Generator[_Events, None, list[Image.Image] | None]:
        """Return the pictures of the second pass; None when memory ran out."""
        request, factor = self._request, self._model.vae_scale_factor
        small = self._edit.canvas.size if self._edit else drawn_size(request)
        target = scaled_size(small, request.hires_scale)
        frame, valid = padded_size(target, factor), target
        if latents is not None and enlarges_latents(request):
            before = self._edit.padded if self._edit else small
            valid = tuple(round(s * f / b) for s, f, b in zip(small, frame, before, strict=True))
            shape = frame[0] // factor, frame[1] // factor
            clean = enlarged_latents(latents, shape, request.hires_upscaler)
        else:
            larger = [self._enlarged(picture, target) for picture in pictures]
            if not self._second_run:
                return [self._with_alpha(picture) for picture in larger]
            seen = [from_uint8(padded(np.asarray(p), frame)[None]) for p in larger]
            clean = yield from self._codec.encoded(seen)
        if self._second_run:
            wanted = yield from self._second_pass(frame, clean)
            clean = yield from self._denoised(wanted, batch, self._noise(batch, frame))
            if clean is None:
                return None
        pixels = yield from self._codec.decoded(clean)
        cut = (Image.fromarray(array[: valid[1], : valid[0]]) for array in pixels)
        return [self._with_alpha(picture.resize(target, _LANCZOS)) for picture in cut]

    def _second_pass(self, frame: Size, clean: Tensor) -> Generator[Notice, None, Pass]:
        conditioning = None
        if self._model.sees_mask:
            conditioning = yield from self._codec.conditioning([_nothing(frame)])
        start = None if self._request.hires_strength == 1 else clean
        return Pass(
            frame, self._second_steps, self._second_run, clean=start, conditioning=conditioning
        )

    def _enlarged(self, picture: Image.Image, size: Size) -> Image.Image:
        folder, name = self._options.upscalers_dir, self._request.hires_upscaler
        name = LANCZOS if name in LATENT_UPSCALERS else name  # no latents: nothing was drawn
        return enlarged(picture.convert("RGB"), size, name, folder, self._model.device)

    def _with_alpha(self, picture: Image.Image) -> Image.Image:
        if self._edit is not None and self._edit.canvas.mode == "RGBA":
            alpha = self._edit.canvas.getchannel("A")
            picture.putalpha(alpha.resize(picture.size, _LANCZOS))
        return picture

    def _text_pass(self) -> Generator[Notice, None, Pass]:
        size, steps = drawn_size(self._request), self._request.steps
        conditioning = None
        if self._model.sees_mask:
            conditioning = yield from self._codec.conditioning([_nothing(size)])
        return Pass(size, steps, steps, conditioning=conditioning)

    def _edit_pass(
        self, edit: Edit, pictures: Sequence[Image.Image], first: bool
    ) -> Generator[Notice, None, Pass]:
        """Return the pass over what the pictures, one or one each, have in the edit's box."""
        request, model = self._request, self._model
        seen = [edit.model_picture(picture, fill=first) for picture in pictures]
        if first and edit.enlarged_from is not None:
            source = from_uint8(np.asarray(edit.enlarged_from)[None])
            latents = yield from self._codec.encoded([source])
            _, h, w = model.latent_shape(*edit.padded)
            latents = enlarged_latents(latents, (w, h), LATENT_UPSCALERS[0])
        else:
            latents = yield from self._codec.encoded([from_uint8(p[None]) for p in seen])
        change = conditioning = None
        if edit.repaint is not None:
            h, w = latents.shape[-2:]
            change = latent_mask(edit.repaint, (w, h), request.soft_inpainting)
            change = change.to(latents.device)
        if model.sees_mask:
            conditioning = yield from self._codec.conditioning(seen, edit.repaint)
        return Pass(
            size=edit.padded,
            steps=request.steps,
            run=self._first_run(),
            clean=None if request.strength == 1 else latents,
            known=latents,
            change=change,
            soft=request.soft_inpainting,
            times=self._times(),
            masked_content=request.masked_content if first else "original",
            conditioning=conditioning,
        )

    def _first_noise(self, batch: _Batch) -> Tensor:
        """Return the noise of a first pass, turned towards the variation's if one is wanted."""
        request = self._request
        size = self._edit.padded if self._edit else drawn_size(request)
        noise = self._noise(batch, size)
        if not request.variation_strength:
            return noise
        seeds = [request.seeds_of(index)[1] for index in batch.indices]
        other = initial_latents(picture_generators(seeds), self._model.latent_shape(*size))
        return varied_noise(noise, other.to(noise.device), request.variation_strength)

    def _noise(self, batch: _Batch, size: Size) -> Tensor:
        noise = initial_latents(batch.generators, self._model.latent_shape(*size))
        return noise.to(self._model.device)

    def _denoised(
        self, wanted: Pass, batch: _Batch, noise: Tensor
    ) -> Generator[Progress | Preview, None, Tensor | None]:
        """Return the clean latents (B, C, h, w) of a batch; None when memory ran out."""
        model, request = self._model, self._request
        transition = make_transition(model, request, wanted, noise, batch.generators)
        latents = transition.begin(noise)
        prompt_embeds = batch.features.repeat_interleave(len(batch.indices), dim=0)
        unet = make_unet(model, wanted, tiled=batch.refining and self._unet_tiled)
        steps = denoise(unet, latents, prompt_embeds, transition, request.guidance_scale)
        self._previews.restart()
        count = len(transition.timesteps)
        for _ in range(count):
            step = attempt(lambda: next(steps))
            if step is None:
                return None
            latents = step.latents
            check_numbers(latents, f"at step {step.number} of {count}", request)
            self._steps_done += 1
            batch.steps_done += 1
            yield self._progress(batch)
            if self._options.cancelled():
                return None
            if step.number < count and self._previews.due(step.number):
                yield from self._previewed(step, batch)
        return latents

    def _progress(self, batch: _Batch) -> Progress:
        batches_left = math.ceil((self._request.count - batch.indices.stop) / self._batch_size)
        left = self._steps_a_batch * (1 + batches_left) - batch.steps_done
        seconds_a_step = (perf_counter() - self._started) / self._steps_done
        return Progress(self._steps_done, self._steps_done + left, left * seconds_a_step)

    def _previewed(self, step: DenoisingStep, batch: _Batch) -> Iterator[Preview]:
        begun = perf_counter()
        rgb = latent_to_rgb(predicted_picture(step, self._schedule), self._model.latent_rgb)
        size = (self._request.width, self._request.height)
        if self._edit is not None and not batch.refining:
            size = self._edit.canvas.size
            rgb = [self._edit.sketched(picture) for picture in rgb]
        jpegs = [preview_jpeg(picture, size) for picture in rgb]
        self._previews.shown(perf_counter() - begun)
        for index, jpeg in zip(batch.indices, jpegs, strict=True):
            yield Preview(index, jpeg)

    def _smaller(self, batch: _Batch) -> Notice:
        """Cut the work after memory ran out: a smaller batch, then a second pass in tiles."""
        size = len(batch.indices)
        release_memory(self._model.device)
        if size > 1:
            self._batch_size = (size + 1) // 2
            return Notice(
                f"Memory ran out with {size} pictures at once, so {self._batch_size} are drawn at "
                "a time: the same pictures, a little later."
            )
        if batch.refining and not self._unet_tiled:
            self._unet_tiled = True
            return REFINED_IN_TILES
        raise NotEnoughMemoryError(no_memory_sentence(self._model, self._request))


def _nothing(size: Size) -> np.ndarray:
    """Return a picture (H, W, 3) of which everything is hidden."""
    return np.zeros((size[1], size[0], 3), np.uint8)

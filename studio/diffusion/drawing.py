"""One request being drawn: batch after batch, pass after pass, cut to fit into memory.

text:  noise -> loop -> pixels
edit:  canvas -> latents -> loop -> pixels -> canvas, as many rounds as wanted
both:  and a second pass at a larger size, if wanted
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.core.errors import ModelError, NotEnoughMemoryError
from studio.core.events import Notice, Preview, Progress
from studio.core.geometry import Size, drawn_size
from studio.core.request import GenerationRequest
from studio.diffusion.denoise import DenoisingStep, denoise
from studio.diffusion.device import free_bytes, is_out_of_memory, release_memory
from studio.diffusion.edit import Edit
from studio.diffusion.guidance import needs_null_pass
from studio.diffusion.latents import (
    decode,
    encode,
    from_uint8,
    initial_latents,
    latent_to_rgb,
    picture_generators,
    preview_jpeg,
    to_uint8,
    varied_noise,
)
from studio.diffusion.masks import latent_mask
from studio.diffusion.memory import MemoryPlan, estimated_bytes, too_large_sentence
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.passes import Pass, make_transition, make_unet, steps_to_run
from studio.diffusion.previews import PreviewClock, predicted_picture
from studio.diffusion.schedule import noise_schedule
from studio.diffusion.text import encode_prompts

_Result = TypeVar("_Result")
_Events = Progress | Preview | Notice


@dataclass(frozen=True)
class Drawn:
    """A finished picture, not yet stored."""

    index: int  # within the request
    seed: int  # of its noise
    image: Image.Image  # RGB, or RGBA where the source has transparency
    seconds: float  # its share of its batch's time


class Drawing:
    """One request being drawn: what is done, and how its work is cut to fit into memory."""

    def __init__(
        self,
        model: LatentDiffusionModel,
        request: GenerationRequest,
        edit: Edit | None,
        plan: MemoryPlan,
        preview_every: float,
        cancelled: Callable[[], bool],
    ) -> None:
        self.model = model
        self.request = request
        self.edit = edit
        self.tiled = plan.tiled
        self._cancelled = cancelled
        self._batch_size = plan.batch_size
        self._previews = PreviewClock(preview_every)
        self._schedule = noise_schedule(model.scheduler_config)
        self._steps_a_batch = self._first_steps() * (request.loopback if edit else 1)
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
            images = yield from self._drawn(indices, features)
            if self._cancelled():
                return
            if images is None:
                yield self._halve_batch(len(indices))
                continue
            seconds = (perf_counter() - begun) / len(indices)
            self._pictures_done = last
            for index, image in zip(indices, images, strict=True):
                yield Drawn(index, self.request.seeds_of(index)[0], image, seconds)

    def _first_steps(self) -> int:
        if self.edit is None:
            return self.request.steps
        return 0 if self.edit.is_empty else steps_to_run(self.request.steps, self.request.strength)

    def _drawn(
        self, indices: range, features: Tensor
    ) -> Generator[_Events, None, list[Image.Image] | None]:
        """Return the finished pictures of a batch; None when memory ran out."""
        seeds = [self.request.seeds_of(index)[0] for index in indices]
        batch = _Batch(indices, features, picture_generators(seeds))
        if self.edit is None:
            wanted = yield from self._text_pass()
            latents = yield from self._denoised(wanted, batch, self._first_noise(batch))
            if latents is None:
                return None
            pixels = yield from self._decoded(latents)
            return [Image.fromarray(array) for array in pixels]
        pictures = [self.edit.canvas]
        if not self._first_steps():
            return pictures * len(indices)
        for number in range(self.request.loopback):
            wanted = yield from self._edit_pass(self.edit, pictures, first=number == 0)
            noise = self._first_noise(batch) if number == 0 else self._noise(batch, wanted.size)
            latents = yield from self._denoised(wanted, batch, noise)
            if latents is None:
                return None
            pixels = yield from self._decoded(latents)
            pictures = [self.edit.finished(array) for array in pixels]
        return pictures

    def _text_pass(self) -> Generator[Notice, None, Pass]:
        size, steps = drawn_size(self.request), self.request.steps
        conditioning = None
        if self.model.sees_mask:
            conditioning = yield from self._conditioning(
                [np.zeros((*size[::-1], 3), np.uint8)], None
            )
        return Pass(size, steps, steps, conditioning=conditioning)

    def _edit_pass(
        self, edit: Edit, pictures: Sequence[Image.Image], first: bool
    ) -> Generator[Notice, None, Pass]:
        """Return the pass over what the pictures, one or one each, have in the edit's box."""
        request, steps = self.request, self.request.steps
        seen = [edit.model_picture(picture, fill=first) for picture in pictures]
        latents = yield from self._encoded([from_uint8(pixels[None]) for pixels in seen])
        change = conditioning = None
        if edit.repaint is not None:
            h, w = latents.shape[-2:]
            change = latent_mask(edit.repaint, (w, h), request.soft_inpainting)
            change = change.to(self.model.device)
        if self.model.sees_mask:
            conditioning = yield from self._conditioning(seen, edit.repaint)
        return Pass(
            size=edit.padded,
            steps=steps,
            run=self._first_steps(),
            clean=None if request.strength == 1 else latents,
            known=latents,
            change=change,
            soft=request.soft_inpainting,
            masked_content=request.masked_content if first else "original",
            conditioning=conditioning,
        )

    def _conditioning(
        self, seen: Sequence[np.ndarray], repaint: np.ndarray | None
    ) -> Generator[Notice, None, Tensor]:
        """Return the further channels of an inpainting checkpoint, (1 or B, 1 + C, h, w).

        What is repainted is hidden: grey in the picture of which the latents are. Without a mask
        all is.
        """
        if repaint is None:
            repaint = np.full(seen[0].shape[:2], 255, np.uint8)
        kept = torch.from_numpy(repaint == 0).float()
        hidden = yield from self._encoded([from_uint8(pixels[None]) * kept for pixels in seen])
        h, w = hidden.shape[-2:]
        mask = latent_mask(repaint, (w, h), soft=False).to(hidden.device)
        return torch.cat([mask.expand(len(hidden), -1, -1, -1), hidden], dim=1)

    def _first_noise(self, batch: _Batch) -> Tensor:
        """Return the noise of a first pass, turned towards the variation's if one is wanted."""
        size = self.edit.padded if self.edit else drawn_size(self.request)
        noise = self._noise(batch, size)
        share = self.request.variation_strength
        if not share:
            return noise
        seeds = [self.request.seeds_of(index)[1] for index in batch.indices]
        other = initial_latents(picture_generators(seeds), self.model.latent_shape(*size))
        return varied_noise(noise, other.to(noise.device), share)

    def _noise(self, batch: _Batch, size: Size) -> Tensor:
        noise = initial_latents(batch.generators, self.model.latent_shape(*size))
        return noise.to(self.model.device)

    def _denoised(
        self, wanted: Pass, batch: _Batch, noise: Tensor
    ) -> Generator[Progress | Preview, None, Tensor | None]:
        """Return the clean latents (B, C, h, w) of a batch; None when memory ran out."""
        model, request, indices = self.model, self.request, batch.indices
        transition = make_transition(model, request, wanted, noise, batch.generators)
        latents = transition.begin(noise)
        prompt_embeds = batch.features.repeat_interleave(len(indices), dim=0)
        unet = make_unet(model, wanted)
        steps = denoise(unet, latents, prompt_embeds, transition, request.guidance_scale)
        self._previews.restart()
        for _ in range(wanted.run):
            step = _attempt(lambda: next(steps))
            if step is None:
                return None
            latents = step.latents
            self._check_numbers(latents, f"at step {step.number} of {wanted.run}")
            self._steps_done += 1
            batch.steps_done += 1
            yield self._progress(batch)
            if self._cancelled():
                return None
            if step.number < wanted.run and self._previews.due(step.number):
                yield from self._previewed(step, indices)
        return latents

    def _progress(self, batch: _Batch) -> Progress:
        batches_left = math.ceil((self.request.count - batch.indices.stop) / self._batch_size)
        left = self._steps_a_batch * (1 + batches_left) - batch.steps_done
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

    def _encoded(self, images: Sequence[Tensor]) -> Generator[Notice, None, Tensor]:
        """Return the latents (B, C, h, w) of images (1, 3, H, W), one after the other."""
        latents = []
        for image in images:
            found = _attempt(lambda image=image: self._encode(image))
            if found is None and not self.tiled:
                release_memory(self.model.device)
                self.tiled = True
                yield _TILES
                found = _attempt(lambda image=image: self._encode(image))
            if found is None:
                raise NotEnoughMemoryError(self._too_large())
            self._check_numbers(found, "while encoding the source")
            latents.append(found)
        return torch.cat(latents)

    def _encode(self, image: Tensor) -> Tensor:
        return _with_tiles(self.model, self.tiled, encode, image.to(self.model.device))

    def _decoded(self, latents: Tensor) -> Generator[Notice, None, list[np.ndarray]]:
        """Return pixels (H, W, 3), decoded together if memory allows, else in parts or tiles."""
        waiting, found = [latents], []
        while waiting:
            part = waiting.pop(0)
            pixels = _attempt(lambda part=part: _with_tiles(self.model, self.tiled, decode, part))
            if pixels is not None:
                self._check_numbers(pixels, "while decoding")
                found += list(to_uint8(pixels))
                continue
            release_memory(self.model.device)
            if len(part) > 1:
                waiting[:0] = part.split((len(part) + 1) // 2)
                yield Notice("Memory ran out while decoding, so the pictures are decoded in parts.")
            elif not self.tiled:
                self.tiled = True
                waiting.insert(0, part)
                yield _TILES
            else:
                raise NotEnoughMemoryError(self._too_large())
        return found

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


@dataclass
class _Batch:
    """Pictures that are drawn together."""

    indices: range  # within the request
    features: Tensor  # of the prompts, (1 or 2, L, D)
    generators: list[torch.Generator]  # one a picture
    steps_done: int = 0


_TILES = Notice(
    "Memory ran out at this size, so the picture is decoded in tiles: slower, and its texture may "
    "differ slightly."
)


def _with_tiles(
    model: LatentDiffusionModel, tiled: bool, action: Callable[..., Tensor], tensor: Tensor
) -> Tensor:
    """Encode or decode, leaving the autoencoder as it was found."""
    if not tiled:
        return action(model.vae, tensor)
    model.vae.enable_tiling()
    try:
        return action(model.vae, tensor)
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

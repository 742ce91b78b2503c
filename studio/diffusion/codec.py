"""Pixels to latents and back, in parts or in tiles when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
from torch import Tensor

from studio.core.errors import ModelError, NotEnoughMemoryError
from studio.core.events import Notice
from studio.core.request import GenerationRequest
from studio.diffusion.device import attempt, free_bytes, release_memory
from studio.diffusion.latents import decode, encode, from_uint8, to_uint8
from studio.diffusion.masks import latent_mask
from studio.diffusion.memory import estimated_bytes, too_large_sentence
from studio.diffusion.model import LatentDiffusionModel

_TILES = Notice(
    "Memory ran out at this size, so the picture is decoded in tiles: slower, and its texture may "
    "differ slightly."
)


class Codec:
    """A model's autoencoder at work for one request: whether it has come to tiles by now."""

    def __init__(
        self, model: LatentDiffusionModel, request: GenerationRequest, tiled: bool
    ) -> None:
        self._model = model
        self._request = request
        self._tiled = tiled

    def encoded(self, images: Sequence[Tensor]) -> Generator[Notice, None, Tensor]:
        """Return the latents (B, C, h, w) of images (1, 3, H, W), one after the other."""
        latents, waiting = [], list(images)
        while waiting:
            found = attempt(lambda: self._with_tiles(encode, waiting[0].to(self._model.device)))
            if found is None:
                yield self._now_in_tiles()
                continue
            check_numbers(found, "while encoding the source", self._request)
            latents.append(found)
            waiting.pop(0)
        return torch.cat(latents)

    def decoded(self, latents: Tensor) -> Generator[Notice, None, list[np.ndarray]]:
        """Return pixels (H, W, 3), decoded together if memory allows, else in parts or tiles."""
        waiting, found = [latents], []
        while waiting:
            part = waiting.pop(0)
            pixels = attempt(lambda part=part: self._with_tiles(decode, part))
            if pixels is not None:
                check_numbers(pixels, "while decoding", self._request)
                found += list(to_uint8(pixels))
            elif len(part) > 1:
                release_memory(self._model.device)
                waiting[:0] = part.split((len(part) + 1) // 2)
                yield Notice("Memory ran out while decoding, so the pictures are decoded in parts.")
            else:
                waiting.insert(0, part)
                yield self._now_in_tiles()
        return found

    def conditioning(
        self, seen: Sequence[np.ndarray], repaint: np.ndarray | None = None
    ) -> Generator[Notice, None, Tensor]:
        """Return the further channels of an inpainting checkpoint, (1 or B, 1 + C, h, w).

        seen: pixels (H, W, 3); what is repainted (H, W) is hidden: grey in the picture that the
        latents are of. Without a mask all is.
        """
        if repaint is None:
            repaint = np.full(seen[0].shape[:2], 255, np.uint8)
        kept = torch.from_numpy(repaint == 0).float()
        hidden = yield from self.encoded([from_uint8(pixels[None]) * kept for pixels in seen])
        h, w = hidden.shape[-2:]
        mask = latent_mask(repaint, (w, h), soft=False).to(hidden.device)
        return torch.cat([mask.expand(len(hidden), -1, -1, -1), hidden], dim=1)

    def _with_tiles(self, action: Callable[..., Tensor], tensor: Tensor) -> Tensor:
        """Encode or decode, leaving the autoencoder as it was found."""
        vae = self._model.vae
        if not self._tiled:
            return action(vae, tensor)
        vae.enable_tiling()
        try:
            return action(vae, tensor)
        finally:
            vae.disable_tiling()

    def _now_in_tiles(self) -> Notice:
        release_memory(self._model.device)
        if self._tiled:
            raise NotEnoughMemoryError(no_memory_sentence(self._model, self._request))
        self._tiled = True
        return _TILES


def check_numbers(tensor: Tensor, when: str, request: GenerationRequest) -> None:
    """Refuse NaN: it would become a black picture. Also waits for the device's step."""
    if not bool(tensor.isfinite().all()):
        raise ModelError(
            f"The picture turned into values that are not numbers {when}. Lower the guidance "
            f"scale (it is {request.guidance_scale:g}), or choose another sampler."
        )


def no_memory_sentence(model: LatentDiffusionModel, request: GenerationRequest) -> str:
    """Say that even one picture, in tiles, does not fit."""
    free = free_bytes(model.device)
    if estimated_bytes(model, request, 1, tiled=True, unet_tiled=True) > free:
        return too_large_sentence(model, request, free)
    return (
        f"Memory ran out while drawing {request.width} x {request.height}, even one "
        "picture at a time. Choose a smaller size, or close other programs."
    )

"""An edit, laid out: which pixels the model gets to see, and how its picture comes back.

    source -> canvas (resized, extended) -> crop -> what the model draws -> crop -> canvas

The canvas is what stays: wherever the opacity of the repainted is 0 the result has its bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from studio.core.errors import InvalidRequestError
from studio.core.geometry import (
    Box,
    Size,
    canvas_size,
    contained_size,
    crop_box,
    drawn_size,
    draws_crop,
    is_masked,
    padded_size,
    scaled_size,
)
from studio.core.request import MIN_SIDE, GenerationRequest
from studio.diffusion.latents import MAX_PREVIEW_SIDE
from studio.diffusion.masks import blend, blurred, opacity_of, painted_box, painted_mask
from studio.diffusion.resize import extended, filled, padded, resized
from studio.diffusion.seam import matched_at_seam

_MODES = ("RGB", "RGBA")
_OPAQUE = 255
_LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class EditInputs:
    """What a request names by hash or by name; pictures as the guarded loader gives them."""

    source: Image.Image | None = None  # RGB or RGBA
    mask: Image.Image | None = None  # L, of the source's size; white is repainted
    upscalers_dir: Path | None = None  # folder of model files for `hires_upscaler`


@dataclass(frozen=True)
class Edit:
    """A request with a source, laid out in pixels; nothing of it depends on the seed."""

    canvas: Image.Image  # RGB or RGBA, of the result's size before a second pass
    box: Box  # part of the canvas that is drawn
    drawn: Size  # what that part measures when it is drawn
    padded: Size  # `drawn` and what the model needs around it
    opacity: np.ndarray | None  # (H, W) of the box: how much of the drawn shows; None: all
    repaint: np.ndarray | None  # (H, W) of `padded`: what the model changes; None: all
    hole: np.ndarray | None  # (H, W) of `padded`, of bool: what is filled from around it
    kept: Box | None  # when outpainting: where the source lies in the box
    enlarged_from: Image.Image | None = None  # RGB: its latents are enlarged, not its pixels

    def model_picture(self, picture: Image.Image, fill: bool = True) -> np.ndarray:
        """Return the part of `picture` (of the canvas' size) that is drawn, (H, W, 3) of bytes.

        Transparent parts are seen on white. `fill` False leaves holes as they are.
        """
        part = _on_white(picture.crop(self.box))
        if part.size != self.drawn:
            part = part.resize(self.drawn, _LANCZOS)
        pixels = padded(np.asarray(part), self.padded)
        if fill and self.hole is not None:
            return np.rint(filled(pixels, self.hole)).astype(np.uint8)
        return pixels

    def finished(self, pixels: np.ndarray) -> Image.Image:
        """Return the canvas with what the model drew, (H, W, 3) of bytes of size `padded`."""
        width, height = self.drawn
        part = Image.fromarray(np.ascontiguousarray(pixels[:height, :width]))
        size = self.box[2] - self.box[0], self.box[3] - self.box[1]
        drawn = np.asarray(part if part.size == size else part.resize(size, _LANCZOS))
        around = np.asarray(self.canvas.crop(self.box))
        if self.opacity is not None:
            if self.kept is not None:
                drawn = matched_at_seam(drawn, around[..., :3], self.kept, self.opacity)
            drawn = blend(around[..., :3], drawn, self.opacity)
        if self.canvas.mode == "RGBA":
            drawn = np.concatenate([drawn, around[..., 3:]], axis=2)
        result = self.canvas.copy()
        result.paste(Image.fromarray(drawn), self.box[:2])
        return result

    def sketched(self, rgb: np.ndarray) -> np.ndarray:
        """Return the canvas, small, with a rough picture (h, w, 3) of `padded` laid into it."""
        scale = min(1.0, MAX_PREVIEW_SIDE / max(self.canvas.size))
        left, top, right, bottom = (round(side * scale) for side in self.box)
        size = max(1, right - left), max(1, bottom - top)
        covered = (p / f for p, f in zip(self.drawn, self.padded, strict=True))
        part = [share * side for share, side in zip(covered, rgb.shape[1::-1], strict=True)]
        rough = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC, box=(0, 0, *part))
        small = _on_white(self.canvas.resize(scaled_size(self.canvas.size, scale)))
        shown = None if self.opacity is None else Image.fromarray(self.opacity).resize(size)
        small.paste(rough, (left, top), shown)
        return np.asarray(small)

    @cached_property
    def is_empty(self) -> bool:
        """Whether there is nothing to repaint: no mask, or one that its blur has dissolved."""
        return self.opacity is not None and not self.opacity.any()


def lay_out_edit(
    request: GenerationRequest, source: Image.Image, mask: Image.Image | None, factor: int
) -> Edit:
    """Lay out a request with a source for a model that needs sides in multiples of `factor`.

    Raises InvalidRequestError when source and mask do not fit together or the result is too large.
    """
    source = source if source.mode in _MODES else source.convert("RGBA")
    canvas_size(request, source.size)  # refuses what grows too large
    base = source
    if not draws_crop(request):
        base = resized(source, (request.width, request.height), request.resize_mode)
    canvas = _grown(base, request.extend)
    if is_masked(request):
        painted, opacity = _masks(request, source, mask, base.size)
        edit = _masked_edit(request, canvas, painted, opacity, factor)
    else:
        drawn, box = drawn_size(request), (0, 0, *canvas.size)
        edit = Edit(canvas, box, drawn, padded_size(drawn, factor), None, None, None, None)
    if request.resize_mode == "latent upscale" and base is not source and not any(request.extend):
        # All that is drawn comes from the source's latents, so padding would only shift them.
        whole = _on_white(source).resize(_nearest_size(source.size, factor), _LANCZOS)
        return replace(edit, drawn=edit.padded, enlarged_from=whole)
    return edit


def _masked_edit(
    request: GenerationRequest,
    canvas: Image.Image,
    painted: np.ndarray,
    opacity: np.ndarray,
    factor: int,
) -> Edit:
    """Lay out an edit whose mask and opacity (H, W) are those of the canvas."""
    box, drawn = (0, 0, *canvas.size), drawn_size(request)
    frame = padded_size(drawn, factor)
    if draws_crop(request) and (found := painted_box(opacity)):
        box = crop_box(found, request.mask_padding, canvas.size, drawn)
        drawn = contained_size((box[2] - box[0], box[3] - box[1]), drawn)
    left, top, right, bottom = box
    inside = slice(top, bottom), slice(left, right)
    repaint = _as_drawn(painted[inside], drawn, frame)
    outside = _outside(request.extend, canvas.size)[inside]
    hole = _as_drawn(outside, drawn, frame) > 0
    if request.masked_content != "original":
        hole |= repaint > 0
    kept = None
    if outside.any() and not outside.all():
        # The source is a rectangle, so the box around what is not outside is all of it.
        kept = painted_box(_OPAQUE - outside)
    return Edit(canvas, box, drawn, frame, opacity[inside], repaint, hole, kept)


def _masks(
    request: GenerationRequest, source: Image.Image, mask: Image.Image | None, size: Size
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is repainted and how much of it shows, (H, W) of the canvas each."""
    soft = request.soft_inpainting
    painted = np.zeros((source.height, source.width), np.uint8)
    if request.mask:
        painted = painted_mask(_checked_mask(mask, source.size), request.mask_invert, soft)
    softened = blurred(painted, request.mask_blur)
    arrays = [softened if soft else painted, softened]
    if source.size != size:
        pictures = (Image.fromarray(array) for array in arrays)
        mode = request.resize_mode
        arrays = [np.asarray(resized(p, size, mode, mask=True)) for p in pictures]
    new = _outside(request.extend, _grown_size(size, request.extend))
    repaint, shown = (np.maximum(_zeros_around(a, request.extend), new) for a in arrays)
    if not soft:
        repaint = np.where(repaint > 0, _OPAQUE, 0).astype(np.uint8)
    return repaint, opacity_of(shown, soft)


def _checked_mask(mask: Image.Image | None, size: Size) -> Image.Image:
    if mask is None:
        raise InvalidRequestError("mask", "The mask is not there any more; paint it again.")
    if mask.size != size:
        raise InvalidRequestError(
            "mask",
            f"The mask has {mask.width} x {mask.height} pixels and the picture "
            f"{size[0]} x {size[1]}; use a mask of the picture's size.",
        )
    return mask


def _as_drawn(mask: np.ndarray, drawn: Size, frame: Size) -> np.ndarray:
    """Bring a mask (H, W) of the box to the size that is drawn, and pad it."""
    if mask.shape != (drawn[1], drawn[0]):
        mask = np.asarray(Image.fromarray(mask).resize(drawn, Image.Resampling.BILINEAR))
    return padded(mask, frame)


def _grown(base: Image.Image, extend: Box) -> Image.Image:
    """Return a picture with its edges continued into the extension, which is opaque."""
    if not any(extend):
        return base
    pixels = extended(np.asarray(base), extend)
    if base.mode == "RGBA":
        new = _outside(extend, (pixels.shape[1], pixels.shape[0]))
        pixels[..., 3] = np.maximum(pixels[..., 3], new)
    return Image.fromarray(pixels)


def _grown_size(size: Size, extend: Box) -> Size:
    return size[0] + extend[0] + extend[2], size[1] + extend[1] + extend[3]


def _nearest_size(size: Size, factor: int) -> Size:
    """Return the multiples of `factor` nearest to a size, none of them tiny."""
    width, height = (max(MIN_SIDE, round(side / factor) * factor) for side in size)
    return width, height


def _outside(extend: Box, size: Size) -> np.ndarray:
    """Return a mask (H, W) of bytes of the extension in a canvas of `size`."""
    left, top, right, bottom = extend
    mask = np.full((size[1], size[0]), _OPAQUE, np.uint8)
    mask[top : size[1] - bottom, left : size[0] - right] = 0
    return mask


def _zeros_around(mask: np.ndarray, extend: Box) -> np.ndarray:
    left, top, right, bottom = extend
    return np.pad(mask, ((top, bottom), (left, right)))


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")

"""From an original to pixels: on white with its alpha, and the styles that are derived from it.

Pure Pillow and numpy, so that worker processes start fast; resvg holds Python's lock while it
draws, so threads would not help.
"""

from __future__ import annotations

import base64
import io
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from studio.training.dataset.sources import DERIVED_FROM, INK, SKETCH, Original

MARGIN = 4  # pixels of white around a picture at 128
MAX_PIXELS = 16_000_000  # of an original; the sets' largest have a hundredth of that
POOL_FROM = 1000  # originals; below that, starting processes costs more than it saves
_HELD = re.compile(rb"data:image/(?!svg)[\w.+-]+;base64,([A-Za-z0-9+/=\s]+)")  # in an SVG
Drawn = tuple[str, np.ndarray, np.ndarray]  # style, RGB (S, S, 3) on white, alpha (S, S), uint8


def draw_all(
    originals: Sequence[Original], size: int, oversample: int
) -> Iterator[tuple[Original, list[Drawn]]]:
    """Yield each original, in order, with its pictures; with none when it cannot be read."""
    draw = partial(draw_original, size=size, oversample=oversample)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if len(originals) < POOL_FROM or not workers or workers < 2:
        yield from ((original, draw(original)) for original in originals)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from zip(originals, pool.map(draw, originals, chunksize=16), strict=True)


def draw_original(original: Original, size: int, oversample: int) -> list[Drawn]:
    """Draw an original in its own style and in those derived from it; empty when it is unreadable.

    size: pixels a side; oversample: vectors are rasterised this much larger, then reduced.
    """
    try:
        cut_out = read_cut_out(original, size * oversample)
    except (OSError, ValueError, Image.DecompressionBombError):
        return []
    if original.style == "clip art":  # drawn anywhere on its page, unlike the other sets
        cut_out = cut_out.crop(cut_out.getbbox())
    levels = on_white(cut_out, size)
    picture, alpha = levels[..., :3], levels[..., 3]
    if alpha.max() < 128 or picture.min() > 240:
        return []  # nothing to be seen
    drawn = [(original.style, picture, alpha)]
    if original.style in DERIVED_FROM:
        large = Image.fromarray(on_white(cut_out, 2 * size)[..., :3])
        drawn.append((SKETCH, np.asarray(pencil_sketch(large, size)), alpha))
        drawn.append((INK, np.asarray(ink_drawing(large, size)), alpha))
    return drawn


def read_cut_out(original: Original, size: int) -> Image.Image:
    """Read an original as RGBA; a vector at `size` pixels along its longer side.

    Raises ValueError, before it is decoded, for a picture of more than MAX_PIXELS, and for a vector
    that holds one.
    """
    if original.is_vector:
        for held in _HELD.finditer(original.content):
            _check_size(base64.b64decode(held[1]))
        return rasterise(original.content.decode("utf-8", "replace"), size)
    _check_size(original.content)
    with Image.open(io.BytesIO(original.content)) as opened:
        return opened.convert("RGBA")


def _check_size(content: bytes) -> None:
    """Raise ValueError for a picture of more than MAX_PIXELS; OSError for what is none."""
    with Image.open(io.BytesIO(content)) as opened:  # reads no further than the header
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError("larger than an original is")


def rasterise(svg: str, size: int) -> Image.Image:
    """Draw an SVG as RGBA, `size` pixels along each side of a square one."""
    import resvg_py  # only this stage needs it; the studio runs without

    shape = {"width": size, "height": size, "dpi": 96}  # without dpi no millimetres are read
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, **shape))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def on_white(cut_out: Image.Image, size: int) -> np.ndarray:
    """Fit a cut-out into a square with a margin: RGB on white, and alpha, (S, S, 4) uint8."""
    inner = size - 2 * MARGIN * size // 128
    scale = inner / max(cut_out.size)
    width, height = (max(round(side * scale), 1) for side in cut_out.size)
    scaled = cut_out.resize((width, height), Image.Resampling.LANCZOS)
    place = ((size - width) // 2, (size - height) // 2)
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(scaled, place)
    alpha = Image.new("L", (size, size), 0)
    alpha.paste(scaled.getchannel("A"), place)
    canvas.putalpha(alpha)
    return np.asarray(canvas)


def pencil_sketch(picture: Image.Image, size: int | None = None) -> Image.Image:
    """Turn a picture into a pencil drawing by colour dodge: grey / (1 - blurred negative).

    Flat areas divide to white; edges, where a pixel is darker than its surroundings, stay dark.
    Reduced to `size` x `size` pixels where that is given.
    """
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    radius = min(picture.size) / 64
    negative = Image.fromarray((255 - grey).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(radius)
    )
    surroundings = 255 - np.asarray(negative, dtype=np.float32)
    dodged = np.clip(255 * grey / np.maximum(surroundings, 1), 0, 255)
    strokes = 255 - np.clip((255 - dodged) * 1.6, 0, 235)
    return _reduced(strokes, size)


def ink_drawing(picture: Image.Image, size: int | None = None) -> Image.Image:
    """Turn a picture into a brush-and-ink drawing: lines where it changes, black where it is dark.

    Winnemoeller et al. 2012, extended difference of Gaussians: D = G_s - tau G_ks, everything above
    a threshold white, below it falling off softly to black.
    """
    grey = picture.convert("L")
    sigma = min(picture.size) / 160
    fine, coarse = (
        np.asarray(grey.filter(ImageFilter.GaussianBlur(s)), dtype=np.float32) / 255
        for s in (sigma, 1.6 * sigma)
    )
    response = fine - 0.95 * coarse
    ink = np.where(response >= 0.02, 1.0, 1 + np.tanh(60 * (response - 0.02)))
    return _reduced(255 * ink, size)


def _reduced(levels: np.ndarray, size: int | None) -> Image.Image:
    """Make a grey picture of levels (H, W) in 0..255, as RGB."""
    drawn = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if size is not None:
        drawn = drawn.resize((size, size), Image.Resampling.LANCZOS)
    return drawn.convert("RGB")

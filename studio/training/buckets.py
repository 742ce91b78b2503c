"""Pictures of any shape for a model of one: the shapes it is trained in, and which one fits best.

A bucket is a width and height of about the model's native area (the idea is NovelAI's, 2022). A
picture is scaled to cover the bucket whose ratio is nearest, and what stands out is cropped evenly,
so nothing is stretched and a batch is of one shape.
"""

from __future__ import annotations

import math

from PIL import Image, ImageOps

WIDEST = 2.0  # width to height; beyond it Stable Diffusion repeats its subject


def bucket_sizes(native: tuple[int, int], multiple: int) -> tuple[tuple[int, int], ...]:
    """Return the (width, height) in pixels of all buckets: of at most the native area.

    native: what the model was trained at; multiple: what both sides must be a multiple of.
    """
    area = native[0] * native[1]
    found = {native}
    width = multiple
    while width * width <= area * WIDEST:
        height = math.floor(area / width / multiple) * multiple
        if height and 1 / WIDEST <= width / height <= WIDEST:
            found.add((width, height))
        width += multiple
    return tuple(sorted(found))


def nearest_bucket(size: tuple[int, int], buckets: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Return the bucket whose ratio is nearest to that of `size`, the larger of two alike."""
    ratio = math.log(size[0] / size[1])

    def distance(bucket: tuple[int, int]) -> tuple[float, int]:
        return abs(math.log(bucket[0] / bucket[1]) - ratio), -bucket[0] * bucket[1]

    return min(buckets, key=distance)


def fit(picture: Image.Image, bucket: tuple[int, int]) -> Image.Image:
    """Return the picture, scaled to cover the bucket and cropped in its middle."""
    return ImageOps.fit(picture, bucket, method=Image.Resampling.LANCZOS)

"""What scenes stand before: plain colours, skies, landscapes and a room, by time of day."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from studio.training.dataset.captions import COLOURS

Colour = tuple[int, int, int]
HORIZON = 0.6  # of the height, from above
# Sky above, sky at the horizon, and the light on everything else.
TIMES: Mapping[str, tuple[Colour, Colour, tuple[float, float, float]]] = MappingProxyType(
    {
        "by day": ((92, 164, 232), (206, 232, 250), (1.0, 1.0, 1.0)),
        "at dawn": ((120, 140, 200), (252, 206, 190), (0.9, 0.85, 0.92)),
        "at sunset": ((96, 78, 150), (250, 140, 70), (0.95, 0.76, 0.66)),
        "at night": ((12, 18, 52), (40, 56, 104), (0.46, 0.52, 0.74)),
    }
)
LANDSCAPES: Mapping[str, Colour] = MappingProxyType(  # and the colour of their ground
    {
        "in a field": (106, 172, 80),
        "in the desert": (226, 190, 124),
        "by the sea": (58, 122, 180),
        "in the snow": (240, 244, 250),
        "in the mountains": (122, 150, 96),
        "in the city": (128, 130, 136),
    }
)
ROOM, SKY = "in a room", "in the sky"
PLAIN: Mapping[str, Colour] = MappingProxyType(
    {f"on a{'n' if name == 'orange' else ''} {name} background": c for name, c in COLOURS.items()}
)
OUTDOORS: tuple[str, ...] = (*LANDSCAPES, SKY)
BACKDROPS: tuple[str, ...] = (*PLAIN, *OUTDOORS, ROOM)


def paint_backdrop(
    words: str, time: str, size: tuple[int, int], choose: np.random.Generator
) -> Image.Image:
    """Paint a backdrop of `size` (width, height); white when `words` are empty.

    time: one of TIMES, '' for day; of use out of doors only.
    """
    if not words:
        return Image.new("RGB", size, "white")
    if words in PLAIN:
        return Image.new("RGB", size, PLAIN[words])
    if words == ROOM:
        return _room(size, choose)
    above, below, light = TIMES[time or "by day"]
    share = np.linspace(0, 1, size[1])[:, None, None] ** 0.8
    sky = (1 - share) * np.array(above) + share * np.array(below)
    picture = Image.fromarray(np.broadcast_to(sky, (size[1], size[0], 3)).astype(np.uint8).copy())
    draw = ImageDraw.Draw(picture)
    _lights(draw, time, size, choose)
    if words in LANDSCAPES:
        _land(draw, words, size, light, choose)
    return picture


def light_at(time: str) -> tuple[float, float, float]:
    """Return what red, green and blue of everything in the scene are multiplied by."""
    return TIMES[time or "by day"][2]


def _lights(
    draw: ImageDraw.ImageDraw, time: str, size: tuple[int, int], choose: np.random.Generator
) -> None:
    """Draw sun, or moon and stars, somewhere above the horizon."""
    width, height = size
    x, y = choose.uniform(0.1, 0.9) * width, choose.uniform(0.08, 0.3) * height
    radius = 0.06 * min(size)
    if time == "at night":
        for star_x, star_y in choose.random((14, 2)):
            draw.point((star_x * width, star_y * HORIZON * height), fill=(240, 240, 220))
    elif time in ("at sunset", "at dawn"):
        y = HORIZON * height
    colour = {"at night": (236, 236, 214), "at sunset": (255, 214, 120)}.get(time, (255, 244, 190))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _land(
    draw: ImageDraw.ImageDraw,
    words: str,
    size: tuple[int, int],
    light: tuple[float, float, float],
    choose: np.random.Generator,
) -> None:
    """Draw what is far off, then the ground below the horizon, in the light of the time."""

    def lit(colour: Colour, factor: float = 1.0) -> Colour:
        return tuple(
            min(int(c * part * factor), 255) for c, part in zip(colour, light, strict=True)
        )

    width, height = size
    horizon = HORIZON * height
    if words == "in the mountains":
        for x in np.arange(-0.1, 1.1, 0.28) + choose.uniform(0, 0.1):
            top = horizon - choose.uniform(0.2, 0.42) * height
            foot = (((x - 0.22) * width, horizon), (x * width, top), ((x + 0.22) * width, horizon))
            draw.polygon(foot, fill=lit((134, 142, 158)))
    if words == "in the city":
        for x in np.arange(0, 1, 0.13):
            top = horizon - choose.uniform(0.12, 0.4) * height
            shade = lit((150, 150, 164), choose.uniform(0.75, 1.1))
            draw.rectangle((x * width, top, (x + 0.11) * width, horizon), fill=shade)
    draw.rectangle((0, horizon, width, height), fill=lit(LANDSCAPES[words]))
    lines = choose.uniform((0, horizon + 2), (width, height), (10, 2))
    for x, y in lines if words != "in the city" else ():
        long = (y - horizon + 4) / height * width * 0.3
        draw.line((x, y, x + long, y), fill=lit(LANDSCAPES[words], 0.88), width=1)


def _room(size: tuple[int, int], choose: np.random.Generator) -> Image.Image:
    """Draw a wall, a floor and a window."""
    width, height = size
    walls: tuple[Colour, ...] = ((236, 222, 200), (206, 220, 226), (222, 206, 214))
    picture = Image.new("RGB", size, walls[choose.integers(3)])
    draw = ImageDraw.Draw(picture)
    floor = 0.72 * height
    draw.rectangle((0, floor, width, height), fill=(168, 124, 84))
    draw.line((0, floor, width, floor), fill=(244, 240, 232), width=max(height // 48, 1))
    x, side = choose.uniform(0.05, 0.7) * width, 0.22 * min(size)
    draw.rectangle((x, 0.14 * height, x + side, 0.14 * height + side), fill=(176, 214, 240))
    draw.rectangle((x, 0.14 * height, x + side, 0.14 * height + side), outline=(250, 250, 246))
    return picture

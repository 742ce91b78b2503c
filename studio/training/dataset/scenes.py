"""Composed scenes: cut-outs of the corpus put where the caption says, at the size that it says.

The program places the parts, so the captions are exact. Everything is drawn from a seeded
generator, so the same scenes come again on any machine. Scenes come in pairs that differ in one
thing only, left or right, near or far, two or three: in a batch of the CLIP stage those words alone
tell them apart. Only parts that may be trained on are used (`split.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from PIL import Image

from studio.core.errors import TrainingError
from studio.training.dataset.backdrops import (
    BACKDROPS,
    HORIZON,
    LANDSCAPES,
    OUTDOORS,
    PLAIN,
    TIMES,
    light_at,
    paint_backdrop,
)
from studio.training.dataset.captions import (
    COLOURS,
    NUMBERS,
    PLACES,
    SHOTS,
    is_countable,
    noun,
    plural,
)
from studio.training.dataset.corpus import Corpus
from studio.training.dataset.rasterise import ink_drawing, pencil_sketch
from studio.training.dataset.sources import INK, PICTOGRAM, SKETCH

SIDED = 0.7  # a subject wider than this share of the frame stands on no side of it
Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Scene:
    """What a scene shows; '' and 1 where nothing is said."""

    rows: tuple[int, ...]  # of the corpus: the subject, and what stands beside or behind it
    style: str
    shot: str = ""
    place: str = ""
    count: int = 1
    colour: str = ""
    backdrop: str = ""
    time: str = ""
    behind: bool = False  # the second subject is in the background, not beside the first


ASPECTS: Mapping[str, tuple[object, ...]] = MappingProxyType(  # what a caption can say of a scene
    {
        "place": tuple(PLACES),
        "shot": tuple(SHOTS),
        "count": tuple(NUMBERS),
        "colour": tuple(COLOURS),
        "backdrop": BACKDROPS,
        "time": tuple(TIMES),
    }
)


def said_of(scene: Scene) -> tuple[int, ...]:
    """Return for each of ASPECTS which of its values the caption names, -1 where it names none."""
    named = ((values, getattr(scene, aspect)) for aspect, values in ASPECTS.items())
    return tuple(values.index(value) if value in values else -1 for values, value in named)


def describe(scene: Scene, corpus: Corpus) -> str:
    """Word a scene as a storyboard artist would."""
    first, *others = (corpus.entries[row].subject for row in scene.rows)
    what = noun(first, scene.colour)
    if scene.count > 1:
        what = f"{NUMBERS[scene.count]} {scene.colour} {plural(first)}".replace("  ", " ")
    if others and scene.behind:
        what = f"{what} in the foreground, {noun(others[0])} in the background"
    elif others:
        other = next(p for p in ("on the right", "on the left") if p != scene.place)
        what = f"{what} {scene.place} and {noun(others[0])} {other}"
    elif scene.place:
        what = f"{what} {scene.place}"
    shot = f"{scene.shot} of {what}" if scene.shot else what
    return ", ".join(filter(None, (shot, scene.backdrop, scene.time, scene.style)))


def draw_scene(
    corpus: Corpus, rows: dict[str, np.ndarray], size: Size, choose: np.random.Generator
) -> Scene:
    """Draw a scene at random. rows: what may be used, by style."""
    style = str(choose.choice(sorted(rows)))
    row = int(choose.choice(rows[style]))
    scene = Scene((row,), style)
    kind = choose.random()
    if kind < 0.2 and is_countable(corpus.entries[row].subject):
        scene = replace(scene, count=int(choose.choice(list(NUMBERS))))
    elif kind < 0.4 and len(rows[style]) > 1:
        other = int(choose.choice(rows[style][rows[style] != row]))
        behind = bool(choose.random() < 0.5)
        place = "" if behind else str(choose.choice(("on the left", "on the right")))
        scene = replace(scene, rows=(row, other), behind=behind, place=place)
    else:
        shot = str(choose.choice(list(SHOTS))) if choose.random() < 0.75 else ""
        scene = replace(scene, shot=shot)
        if choose.random() < 0.65 and _can_stand_aside(scene, size):
            scene = replace(scene, place=str(choose.choice(list(PLACES))))
    if choose.random() < (0.6 if style == PICTOGRAM else 0.1) and style not in (SKETCH, INK):
        scene = replace(scene, colour=str(choose.choice(list(COLOURS))))
    if choose.random() < 0.65:
        scene = replace(scene, backdrop=str(choose.choice(_backdrops(scene))))
    if scene.backdrop in OUTDOORS and style not in (SKETCH, INK) and choose.random() < 0.6:
        scene = replace(scene, time=str(choose.choice(list(TIMES))))
    return scene


def sibling(scene: Scene, size: Size, choose: np.random.Generator) -> Scene:
    """Return the same scene but for one thing that its caption says."""
    if len(scene.rows) == 2:
        return replace(scene, rows=scene.rows[::-1])
    options: dict[str, list[object]] = {
        "place": [p for p in PLACES if p != scene.place] if scene.place else [],
        "count": [n for n in NUMBERS if n != scene.count] if scene.count > 1 else [],
        "colour": [c for c in COLOURS if c != scene.colour] if scene.colour else [],
        "time": [t for t in TIMES if t != scene.time] if scene.time else [],
        "shot": [s for s in SHOTS if s != scene.shot] if scene.shot else [],
    }
    if scene.place:  # some shots are too near for a side
        fits = [s for s in options["shot"] if _can_stand_aside(replace(scene, shot=s), size)]
        options["shot"] = fits
    if scene.backdrop:
        others = [b for b in _backdrops(scene) if b != scene.backdrop]
        options["backdrop"] = [b for b in others if not scene.time or b in OUTDOORS]
    named = [name for name, values in options.items() if values]
    if not named:
        return replace(scene, shot=str(choose.choice(list(SHOTS))))
    name = str(choose.choice(named))
    value = options[name][int(choose.integers(len(options[name])))]
    return replace(scene, **{name: value})


def _can_stand_aside(scene: Scene, size: Size) -> bool:
    return SHOTS.get(scene.shot, 0.8) * min(size) <= SIDED * size[0]


def _backdrops(scene: Scene) -> list[str]:
    """Return what may be behind: lines have no colours, and no thing is lost in its own."""
    if scene.style in (SKETCH, INK):
        return list(LANDSCAPES)
    ground = COLOURS.get(scene.colour or "black" * (scene.style == PICTOGRAM))
    return [b for b in BACKDROPS if PLAIN.get(b) != ground or ground is None]


def paint(scene: Scene, corpus: Corpus, size: Size, choose: np.random.Generator) -> np.ndarray:
    """Paint a scene: (height, width, 3) uint8."""
    if corpus.alpha is None:
        raise TrainingError("This corpus has no cut-outs. Run `python launch.py train corpus`.")
    backdrop = paint_backdrop(scene.backdrop, scene.time, size, choose)
    if scene.backdrop and scene.style in (SKETCH, INK):
        backdrop = (pencil_sketch if scene.style == SKETCH else ink_drawing)(backdrop)
    canvas = np.asarray(backdrop).astype(np.float32)
    light = np.array(light_at(scene.time) if scene.backdrop in OUTDOORS else (1, 1, 1))
    for row, centre, side in _layout(scene, size, choose):
        colour = scene.colour if row == scene.rows[0] else ""
        _paste(canvas, corpus, row, (*centre, side), light, colour)
    return canvas.clip(0, 255).astype(np.uint8)


def _layout(
    scene: Scene, size: Size, choose: np.random.Generator
) -> list[tuple[int, tuple[float, float], float]]:
    """Return (row, centre in pixels, longer side in pixels) of every part, the farthest first."""
    width, height = size
    short, first = min(size), scene.rows[0]
    if scene.count > 1:
        columns = scene.count if width > 1.3 * height else -(-scene.count // 2)
        lines = -(-scene.count // columns)
        cell = min(width / columns, height / lines)
        return [
            (
                first,
                (
                    width / 2 + (i % columns - (min(columns, scene.count) - 1) / 2) * cell,
                    height / 2 + (i // columns - (lines - 1) / 2) * cell,
                ),
                cell * choose.uniform(0.74, 0.84),
            )
            for i in range(scene.count)
        ]
    if scene.behind:
        side = choose.choice((0.28, 0.72))
        back = (scene.rows[1], ((1 - side) * width, (HORIZON - 0.1) * height), 0.34 * short)
        return [back, (first, (side * width, 0.62 * height), 0.72 * short)]
    if len(scene.rows) == 2:
        side = min(0.6 * short, 0.44 * width)
        places = [scene.place, next(p for p in PLACES if p not in (scene.place, "in the centre"))]
        spots = zip(scene.rows, places, strict=True)
        return [(row, (PLACES[place] * width, height / 2), side) for row, place in spots]
    side = SHOTS.get(scene.shot, 0.8) * choose.uniform(0.95, 1.05) * short
    half = side / 2
    x = PLACES.get(scene.place, 0.5) * width
    if scene.place != "in the centre" and scene.place and half < width / 2:
        x = float(np.clip(x, half, width - half))
    y = height / 2
    if scene.backdrop in LANDSCAPES and side < 0.6 * short:
        y = max(y, (HORIZON + 0.08) * height - half / 2)
    return [(first, (x, y), side)]


def _paste(
    canvas: np.ndarray,
    corpus: Corpus,
    row: int,
    where: tuple[float, float, float],
    light: np.ndarray,
    colour: str,
) -> None:
    """Put one cut-out on the canvas (H, W, 3) float: colour, light, then alpha.

    where: the centre and the longer side, in pixels.

    The corpus holds a F + (1 - a) 255, so a F is what is left without the white.
    """
    alpha, picture = corpus.alpha[row], corpus.pictures[row]
    lines, columns = (np.flatnonzero(alpha.max(axis=axis) > 16) for axis in (1, 0))
    box = (columns[0], lines[0], columns[-1] + 1, lines[-1] + 1)
    scale = where[2] / max(box[2] - box[0], box[3] - box[1])
    shape = [max(round((box[i + 2] - box[i]) * scale), 1) for i in (0, 1)]
    a, solid = (
        np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.LANCZOS, box), np.float32)
        for pixels in (alpha, picture)
    )
    a = a[..., None] / 255
    solid = (solid - (1 - a) * 255).clip(0, 255)
    if colour:
        flat = corpus.entries[row].style == PICTOGRAM
        tone = a if flat else solid.mean(axis=2, keepdims=True) / 200
        solid = np.minimum(tone * np.array(COLOURS[colour]), a * 255)
    left, top = (round(c - n / 2) for c, n in zip(where[:2], shape, strict=True))
    x, y = max(left, 0), max(top, 0)
    right, bottom = min(left + shape[0], canvas.shape[1]), min(top + shape[1], canvas.shape[0])
    if right <= x or bottom <= y:
        return
    part = np.s_[y - top : bottom - top, x - left : right - left]
    ground = canvas[y:bottom, x:right]
    canvas[y:bottom, x:right] = solid[part] * light + (1 - a[part]) * ground


@dataclass(frozen=True)
class SceneBank:
    """Painted scenes with their captions; 2 i and 2 i + 1 differ in one thing."""

    pictures: np.ndarray  # (N, H, W, 3) uint8
    captions: tuple[str, ...]
    scenes: tuple[Scene, ...]


def paint_bank(corpus: Corpus, rows: np.ndarray, size: Size, count: int, seed: int) -> SceneBank:
    """Paint `count` scenes (an even number) from the given corpus rows, the same for one seed."""
    by_style: dict[str, list[int]] = {}
    for row in rows:
        by_style.setdefault(corpus.entries[row].style, []).append(int(row))
    pools = {style: np.array(found) for style, found in by_style.items()}
    scenes: list[Scene] = []
    for pair in range(count // 2):
        choose = np.random.default_rng((seed, *size, pair))
        scene = draw_scene(corpus, pools, size, choose)
        scenes += [scene, sibling(scene, size, choose)]

    def painted(number: int) -> np.ndarray:
        # Both of a pair from one generator: what the caption does not say stays the same.
        choose = np.random.default_rng((seed, *size, number // 2, 1))
        return paint(scenes[number], corpus, size, choose)

    pictures = np.empty((len(scenes), size[1], size[0], 3), np.uint8)
    with ThreadPoolExecutor() as pool:
        for number, picture in enumerate(pool.map(painted, range(len(scenes)))):
            pictures[number] = picture
    return SceneBank(pictures, tuple(describe(s, corpus) for s in scenes), tuple(scenes))

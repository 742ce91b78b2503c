"""What the packages hold: originals, each a picture with its subject, its style and its tags.

Layout of `originals.zip`, all that the corpus is drawn from, small enough to carry to a machine
without a network:

    index.jsonl     one line an original: subject, style, tags, licence, source, file
    pictures/       SVG and WebP as they came

Emoji of all four sets are named by the labels of `emojibase-data`, so one subject is found in four
styles. Pictograms and clip art name themselves; where a label is the same, the subject is.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from studio.core.errors import TrainingError
from studio.training.dataset import clip_art
from studio.training.dataset.packages import (
    CLIP_ART,
    FLAT,
    GAME_ICONS,
    LABELS,
    NOTO,
    RENDERS,
    TWEMOJI,
    licence_of,
    package_folder,
)


@dataclass(frozen=True)
class Style:
    """A look: the words that call for it, and the package that its pictures come from."""

    words: str  # as they stand in captions
    package: str  # name in PACKAGES
    drawn: bool  # the small starter model is trained to draw in it


STYLES: tuple[Style, ...] = (
    Style("3d render", RENDERS, drawn=True),
    Style("flat illustration", FLAT, drawn=True),
    Style("shaded cartoon", NOTO, drawn=True),
    Style("simple icon", TWEMOJI, drawn=False),
    Style("pictogram", GAME_ICONS, drawn=False),
    Style("clip art", CLIP_ART, drawn=False),
)
EMOJI_STYLES: tuple[str, ...] = tuple(s.words for s in STYLES[:4])
PICTOGRAM = "pictogram"
SKETCH, INK = "pencil sketch", "ink drawing"  # derived from 3-D renders and from clip art
DERIVED_FROM = frozenset({"3d render", "clip art"})
DRAWN_STYLES: tuple[str, ...] = (*(s.words for s in STYLES if s.drawn), SKETCH, INK)
ALL_STYLES: tuple[str, ...] = (*(s.words for s in STYLES), SKETCH, INK)

# emojibase groups: smileys, people, animals, food, travel, activities, objects. Left out:
# 2 components (skin tones), 8 symbols, 9 flags.
GROUPS = frozenset({0, 1, 3, 4, 5, 6, 7})


@dataclass(frozen=True)
class Subject:
    """One thing that can be drawn: its label, its tags, its code point."""

    label: str  # lower case
    tags: tuple[str, ...]
    hexcode: str

    @property
    def slug(self) -> str:
        """The label as the icon packages spell it."""
        plain = unicodedata.normalize("NFKD", self.label.replace("’", "").replace("'", ""))
        plain = "".join(c for c in plain if not unicodedata.combining(c)).lower()
        return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


@dataclass(frozen=True)
class Original:
    """A picture as it came: what it shows, in which style, and the file's content."""

    subject: str
    style: str
    tags: tuple[str, ...]
    licence: str
    source: str  # name of the package
    content: bytes  # SVG text or a WebP file

    @property
    def is_vector(self) -> bool:
        """Whether the content is SVG."""
        return not self.content.startswith(b"RIFF")


def read_originals(folder: Path) -> Iterator[Original]:
    """Yield every original of the unpacked packages in `folder`, in a fixed order."""
    subjects = read_subjects(folder)
    for style in STYLES[:4]:
        icons = {} if style.package == RENDERS else read_icons(folder, style.package)
        for subject in subjects:
            content = _emoji(folder, style, subject, icons)
            if content is not None:
                yield _original(style, subject.label, subject.tags, content)
    for slug, svg in read_icons(folder, GAME_ICONS).items():
        label = re.sub(r"-?\d+$", "", slug).replace("-", " ")
        if label and not label.startswith("abstract"):
            yield _original(STYLES[4], label, (), svg.encode())
    words = {w for s in subjects for text in (s.label, *s.tags) for w in text.split()}
    words |= {w for slug in read_icons(folder, GAME_ICONS) for w in slug.split("-")}
    for label, tags, content in clip_art.read(package_folder(folder, CLIP_ART), words):
        yield _original(STYLES[5], label, tags, content)


def _original(style: Style, label: str, tags: tuple[str, ...], content: bytes) -> Original:
    return Original(label, style.words, tags, licence_of(style.package), style.package, content)


def _emoji(folder: Path, style: Style, subject: Subject, icons: dict[str, str]) -> bytes | None:
    """Return a subject's picture in one of the emoji sets, None when the set lacks it."""
    if style.package != RENDERS:
        svg = icons.get(subject.slug)
        return None if svg is None else svg.encode()
    path = render_file(folder, subject)
    return None if path is None else path.read_bytes()


def write_originals(path: Path, originals: Iterator[Original], recipe: str) -> int:
    """Write `originals.zip` in one piece, marked with the recipe; return how many there are."""
    partial = path.with_name(path.name + ".tmp")
    lines: list[str] = []
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for original in originals:
            name = f"pictures/{len(lines):06d}.{'svg' if original.is_vector else 'webp'}"
            row = {k: v for k, v in asdict(original).items() if k != "content"}
            lines.append(json.dumps(row | {"file": name}, ensure_ascii=False))
            archive.writestr(zipfile.ZipInfo(name), original.content, zipfile.ZIP_DEFLATED, 9)
        archive.writestr(zipfile.ZipInfo("index.jsonl"), "\n".join(lines), zipfile.ZIP_DEFLATED, 9)
        archive.comment = recipe.encode()
    partial.replace(path)
    return len(lines)


def recipe_of(path: Path) -> str:
    """Return the recipe that an `originals.zip` was made by; '' when there is none to read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment.decode("ascii", "replace")
    except (OSError, zipfile.BadZipFile):
        return ""


def load_originals(path: Path) -> list[Original]:
    """Read `originals.zip`. Raises `TrainingError` when it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            rows = map(json.loads, archive.read("index.jsonl").decode("utf-8").splitlines())
            return [
                Original(
                    row["subject"],
                    row["style"],
                    tuple(row["tags"]),
                    row["licence"],
                    row["source"],
                    archive.read(row["file"]),
                )
                for row in rows
            ]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TrainingError(
            f"{path} is damaged. Delete it and run `python launch.py train corpus` again; it is "
            "made anew from the packages."
        ) from error


def read_subjects(folder: Path) -> list[Subject]:
    """Read every subject of the kept groups from the unpacked `emojibase-data`."""
    path = package_folder(folder, LABELS) / "package" / "en" / "data.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [
        Subject(e["label"].lower(), tuple(e.get("tags", ())), e["hexcode"].lower())
        for e in entries
        if e.get("group") in GROUPS
    ]


def read_icons(folder: Path, package: str) -> dict[str, str]:
    """Read an icon package as slug -> SVG text, aliases resolved."""
    path = package_folder(folder, package) / "package" / "icons.json"
    icons = json.loads(path.read_text(encoding="utf-8"))
    width, height = icons.get("width", 16), icons.get("height", 16)
    svgs = {}
    for slug, icon in icons["icons"].items():
        w, h = icon.get("width", width), icon.get("height", height)
        svgs[slug] = _svg(icon["body"], w, h)
    for slug, alias in icons.get("aliases", {}).items():
        parent = icons["icons"].get(alias["parent"])
        if parent is None:
            continue
        body = parent["body"]
        if alias.get("hFlip"):
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        svgs[slug] = _svg(body, width, height)
    return svgs


def _svg(body: str, width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
    )


def render_file(folder: Path, subject: Subject) -> Path | None:
    """Return the 3-D render of `subject`, or None when there is none."""
    assets = package_folder(folder, RENDERS) / "package" / "assets"
    code = subject.hexcode
    for name in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        path = assets / f"{name}.webp"
        if path.exists():
            return path
    return None

"""Text in any script on a picture: each character in the first font that has it.

Easel's own fonts are in `assets/fonts`: DejaVu Sans (Latin, Greek, Cyrillic, Arabic, Hebrew, ...)
and Droid Sans Fallback (Chinese, Japanese, Korean). For the rest fontconfig is asked which font of
this machine has the character; what none has is drawn as an empty box, and counted as missing.
"""

from __future__ import annotations

import bisect
import shutil
import struct
import subprocess
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageDraw, ImageFont

from studio.core.settings import ASSETS

FONTS = tuple(ASSETS / "fonts" / name for name in ("DejaVuSans.ttf", "DroidSansFallback.ttf"))
MOST_QUESTIONS = 8  # to fontconfig, for one sheet
PATIENCE = 5.0  # seconds for each
Ranges = tuple[tuple[int, int], ...]  # first and last character, ascending, without overlap


@dataclass(frozen=True)
class Face:
    """A font file and the characters that it has."""

    path: Path
    index: int  # within a collection, else 0
    ranges: Ranges

    def has(self, character: str) -> bool:
        """Whether the font can draw this character."""
        place = bisect.bisect_right(self.ranges, (ord(character), 0x110000)) - 1
        return place >= 0 and ord(character) <= self.ranges[place][1]


class Lettering:
    """Measures and draws text at one size; `getlength` as Pillow's fonts have it."""

    def __init__(self, faces: tuple[Face, ...], size: float) -> None:
        """Use the faces in their order; `size` is in pixels."""
        self._fonts = [(face, ImageFont.truetype(face.path, size, face.index)) for face in faces]
        self._ascent = self._fonts[0][1].getmetrics()[0]

    def getlength(self, text: str) -> float:
        """Return the width of one line of text in pixels."""
        return sum(font.getlength(run) for run, font in self._runs(text))

    def draw(
        self, draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, ink: object
    ) -> None:
        """Draw one line with its left upper corner there, all fonts on one base line."""
        across, base = corner[0], corner[1] + self._ascent
        for run, font in self._runs(text):
            draw.text((across, base), run, ink, font, anchor="ls")
            across += font.getlength(run)

    def _runs(self, text: str) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
        """Yield stretches of text with their font; marks stay with the letter before them."""
        run, running = "", self._fonts[0][1]
        for character in text:
            font = running if run and _joins(character) else self._font(character)
            if run and font is not running:
                yield run, running
                run = ""
            run, running = run + character, font
        if run:
            yield run, running

    def _font(self, character: str) -> ImageFont.FreeTypeFont:
        found = (font for face, font in self._fonts if face.has(character))
        return next(found, self._fonts[0][1])


def faces_for(text: str) -> tuple[tuple[Face, ...], str]:
    """Return the fonts that draw this text, and those of its characters that none of them has."""
    faces = [face for path in FONTS if (face := read_face(path)) is not None]
    wanted = sorted({c for c in text if not (_joins(c) or c.isspace())})
    missing = [c for c in wanted if not any(face.has(c) for face in faces)]
    for _ in range(MOST_QUESTIONS):
        if not missing:
            break
        face = _font_of_this_machine(missing[0])
        if face is None:  # try the next character first; this one has no font
            missing = [*missing[1:], missing[0]]
            continue
        faces.append(face)
        missing = [c for c in missing if not face.has(c)]
    return tuple(faces), "".join(missing)


def _joins(character: str) -> bool:
    """Whether a character only changes the one before: accents, joiners, variants."""
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


def _font_of_this_machine(character: str) -> Face | None:
    program = shutil.which("fc-list")
    if program is None:
        return None
    command = [program, f":charset={ord(character):x}:scalable=true", "file", "index"]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    for line in sorted(said.stdout.splitlines()):
        name, _, index = line.partition(": :index=")
        # The upper half of the index names an instance of a variable font.
        face = read_face(Path(name), int(index) & 0xFFFF if index.isdecimal() else 0)
        if face is not None and face.has(character):
            return face
    return None


def read_face(path: Path, index: int = 0) -> Face | None:
    """Read which characters a TrueType or OpenType font has; None if it cannot be read.

    Tables as in the OpenType specification, 'cmap', formats 4 and 12.
    """
    try:
        content = path.read_bytes()
        table = _cmap(content, index)
        ImageFont.truetype(path, 16, index)
    except (OSError, struct.error, StopIteration, IndexError):
        return None
    return Face(path, index, table) if table else None


def _cmap(content: bytes, index: int) -> Ranges:
    font = struct.unpack_from(">L", content, 12 + 4 * index)[0] if content[:4] == b"ttcf" else 0
    (count,) = struct.unpack_from(">H", content, font + 4)
    entries = (struct.unpack_from(">4sLLL", content, font + 12 + 16 * n) for n in range(count))
    start = next(offset for tag, _, offset, _ in entries if tag == b"cmap")
    (count,) = struct.unpack_from(">H", content, start + 2)
    records = [struct.unpack_from(">HHL", content, start + 4 + 8 * n) for n in range(count)]
    tables = {}
    for platform, _, offset in records:
        if platform in (0, 3):  # Unicode, Windows
            (form,) = struct.unpack_from(">H", content, start + offset)
            tables[form] = start + offset
    if 12 in tables:
        (groups,) = struct.unpack_from(">L", content, tables[12] + 12)
        found = (
            struct.unpack_from(">LLL", content, tables[12] + 16 + 12 * n) for n in range(groups)
        )
        return tuple(sorted((first, last) for first, last, _ in found))
    return _segments(content, tables[4]) if 4 in tables else ()


def _segments(content: bytes, start: int) -> Ranges:
    """Read a table of format 4: parallel arrays of last characters, first ones and so on."""
    segments = struct.unpack_from(">H", content, start + 6)[0] // 2
    last = struct.unpack_from(f">{segments}H", content, start + 14)
    first = struct.unpack_from(f">{segments}H", content, start + 16 + 2 * segments)
    return tuple(sorted((a, b) for a, b in zip(first, last, strict=True) if a != 0xFFFF))

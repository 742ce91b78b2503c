"""A numbered contact sheet of any pictures: one PNG, or a PDF of A4 pages.

Captions may be in any script. A character that no font here has is an empty box, and a line at the
foot of the sheet says so.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw

from studio.core.errors import EaselError, NotFoundError
from studio.store.files import open_picture
from studio.store.lettering import Face, Lettering, faces_for

PAPER = (255, 255, 255)
INK = (32, 32, 32)
QUIET = (112, 112, 112)
NOTHING = (228, 228, 228)  # where a picture cannot be shown
A4_LANDSCAPE = (1754, 1240)  # pixels at 150 dots an inch
DOTS_PER_INCH = 150
ROWS_PER_PAGE = 3
PNG_CELL = 320  # pixels; smaller when the sheet would not fit into the limit below
MAX_SHEET_PIXELS = 40_000_000
CAPTION_LINES = 2
MAX_ENLARGEMENT = 4  # as on the page
NO_FONT = "No font on this machine has {}; an empty box stands there."
FEW = 12  # characters without a font that are named


class Measured(Protocol):
    """What `shorten` needs of a font."""

    def getlength(self, text: str) -> float:
        """Return the width of one line of text in pixels."""


@dataclass(frozen=True)
class Panel:
    """One picture on the sheet; its number is its place in the list, from 1."""

    picture: Path
    caption: str  # usually the prompt; shortened to two lines


@dataclass(frozen=True)
class _Layout:
    """Where things stand on one page, in pixels."""

    columns: int
    cell: tuple[int, int]  # width, height of the place for a picture
    text: int  # height of a line of the caption
    margin: int
    heading: int  # height of the title, 0 without one
    faces: tuple[Face, ...]  # fonts of all the text on the sheet
    remark: str  # at the foot of the sheet

    @property
    def row(self) -> int:
        """Height of a row: picture, caption and the gap below."""
        return self.cell[1] + self.text * (CAPTION_LINES + 1)

    def corner(self, place: int) -> tuple[int, int]:
        """Left upper corner of a place, counted along the rows from 0."""
        row, column = divmod(place, self.columns)
        left = self.margin + column * (self.cell[0] + self.margin)
        return left, self.margin + self.heading + row * self.row


def contact_sheet_png(panels: Sequence[Panel], title: str = "", columns: int = 4) -> bytes:
    """Return one PNG with every panel, in rows of `columns`. Raises `NotFoundError` for none."""
    _demand_panels(panels)
    columns = min(max(columns, 1), len(panels), 12)
    rows = math.ceil(len(panels) / columns)
    cell = min(PNG_CELL, int(math.sqrt(MAX_SHEET_PIXELS / (rows * columns * 1.5))))
    text, margin = max(cell // 20, 6), max(cell // 16, 4)
    layout = _Layout(
        columns,
        (cell, _cell_height(panels, cell)),
        text,
        margin,
        _heading(title, text),
        *_fonts(panels, title),
    )
    width = layout.margin + columns * (cell + layout.margin)
    height = layout.margin + layout.heading + rows * layout.row
    height += 2 * text if layout.remark else 0
    page = _draw_page(panels, (width, height), layout, title, first=1)
    return _encode([page], "PNG")


def contact_sheet_pdf(panels: Sequence[Panel], title: str = "", columns: int = 4) -> bytes:
    """Return a PDF of A4 pages, landscape. Raises `NotFoundError` for no panels."""
    _demand_panels(panels)
    columns = min(max(columns, 1), 8)
    width, height = A4_LANDSCAPE
    text, margin = 22, 36
    heading = _heading(title, text)
    cell_width = (width - margin) // columns - margin
    row = (height - margin - heading - text) // ROWS_PER_PAGE
    cell = (cell_width, row - text * (CAPTION_LINES + 1))
    layout = _Layout(columns, cell, text, margin, heading, *_fonts(panels, title))
    each = columns * ROWS_PER_PAGE
    pages = [
        _draw_page(panels[first : first + each], A4_LANDSCAPE, layout, title, first=first + 1)
        for first in range(0, len(panels), each)
    ]
    return _encode(pages, "PDF")


def shorten(text: str, width: int, lines: int, font: Measured) -> list[str]:
    """Break text into at most `lines` lines of `width` pixels; an ellipsis stands for the rest."""
    words = text.split()
    broken: list[str] = []
    while words and len(broken) < lines:
        line, used = "", 0
        while used < len(words) and font.getlength(f"{line} {words[used]}".strip()) <= width:
            line = f"{line} {words[used]}".strip()
            used += 1
        if not used:  # one word wider than the line: Japanese, or a file name
            line = _fitting(words[0], width, font)
            words[0] = words[0][len(line) :]
        else:
            words = words[used:]
        broken.append(line)
    if words and broken:
        broken[-1] = _fitting(broken[-1], width - int(font.getlength(" …")), font) + " …"
    return broken


def _fitting(word: str, width: int, font: Measured) -> str:
    """Return the longest beginning that fits, at least one character."""
    low, high = 1, max(len(word), 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(word[:middle]) <= width else (low, middle - 1)
    return word[:low]


def _demand_panels(panels: Sequence[Panel]) -> None:
    if not panels:
        raise NotFoundError("No pictures are selected; select at least one for a contact sheet.")


def _fonts(panels: Sequence[Panel], title: str) -> tuple[tuple[Face, ...], str]:
    """Return the fonts for every word on the sheet, and what is to be said of missing ones."""
    faces, missing = faces_for(f"{title} {' '.join(panel.caption for panel in panels)} …")
    named = " ".join(f"U+{ord(c):04X}" for c in missing[:FEW]) + (" …" if missing[FEW:] else "")
    return faces, NO_FONT.format(named) if missing else ""


def _heading(title: str, text: int) -> int:
    return text * 3 if title else 0


def _cell_height(panels: Sequence[Panel], cell: int) -> int:
    """Return a height that suits the first picture's shape, between 16:9 and square."""
    try:
        with Image.open(panels[0].picture) as picture:
            ratio = picture.height / picture.width
    except OSError:
        ratio = 1.0
    return round(cell * min(max(ratio, 9 / 16), 1.0))


def _draw_page(
    panels: Sequence[Panel], size: tuple[int, int], layout: _Layout, title: str, first: int
) -> Image.Image:
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    font = Lettering(layout.faces, layout.text * 0.75)
    within = size[0] - 2 * layout.margin
    if layout.heading:
        large = Lettering(layout.faces, layout.text * 1.3)
        large.draw(
            draw, (layout.margin, layout.margin // 2), shorten(title, within, 1, large)[0], INK
        )
    if layout.remark:
        foot = (layout.margin, size[1] - round(1.2 * layout.text))
        font.draw(draw, foot, shorten(layout.remark, within, 1, font)[0], QUIET)
    for place, panel in enumerate(panels):
        left, top = layout.corner(place)
        _paste(page, panel.picture, (left, top), layout.cell)
        below = top + layout.cell[1] + layout.text // 4
        number = f"{first + place}"
        font.draw(draw, (left, below), number, QUIET)
        indent = round(font.getlength(f"{number}  "))
        lines = shorten(panel.caption, layout.cell[0] - indent, CAPTION_LINES, font)
        for line, words in enumerate(lines):
            font.draw(draw, (left + indent, below + line * layout.text), words, INK)
    return page


def _paste(page: Image.Image, path: Path, corner: tuple[int, int], cell: tuple[int, int]) -> None:
    """Fit the picture into its cell, centred; a grey field where it cannot be shown."""
    try:
        picture = open_picture(path)
    except EaselError:
        picture = Image.new("RGB", cell, NOTHING)
    scale = min(cell[0] / picture.width, cell[1] / picture.height, MAX_ENLARGEMENT)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    fitted = picture.resize(size, Image.Resampling.LANCZOS)
    page.paste(fitted, (corner[0] + (cell[0] - size[0]) // 2, corner[1] + (cell[1] - size[1]) // 2))


def _encode(pages: list[Image.Image], form: str) -> bytes:
    stream = io.BytesIO()
    if form == "PDF":
        pages[0].save(
            stream,
            format="PDF",
            save_all=True,
            append_images=pages[1:],
            resolution=DOTS_PER_INCH,
            quality=92,
            producer="Easel",
            creationDate=time.gmtime(),
        )
    else:
        pages[0].save(stream, format=form)
    return stream.getvalue()

"""Numbered contact sheets, as PNG and PDF."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageFont

from studio.core.errors import NotFoundError
from studio.store.contact_sheet import (
    MAX_SHEET_PIXELS,
    Panel,
    contact_sheet_pdf,
    contact_sheet_png,
    shorten,
)
from studio.store.lettering import FONTS, Lettering, faces_for, read_face

FONT = ImageFont.load_default(16)


@pytest.fixture
def panels(tmp_path: Path) -> list[Panel]:
    made = []
    for number, colour in enumerate(("red", "lime", "blue", "yellow", "magenta")):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (128, 72), colour).save(path)
        made.append(Panel(path, f"panel {number}: " + "a long prompt with many words, " * 9))
    return made


def decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def test_every_picture_stands_on_the_sheet_in_order(panels: list[Panel]):
    sheet = decoded(contact_sheet_png(panels, "Night at the harbour", columns=3)).convert("RGB")
    places = []
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)):
        found = [
            (y, x)
            for y in range(0, sheet.height, 8)
            for x in range(0, sheet.width, 8)
            if sheet.getpixel((x, y)) == colour
        ]
        assert len(found) > 200
        places.append((found[0][0], found[0][1]))
    assert places == sorted(places)
    assert len({y for y, _ in places}) == 2


def test_a_small_picture_is_enlarged_at_most_four_times(tmp_path: Path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    sheet = decoded(contact_sheet_png([Panel(tmp_path / "a.png", "")])).convert("RGB")
    red = sum(count for count, pixel in sheet.getcolors(10**7) if pixel == (255, 0, 0))
    assert red == (4 * 16) ** 2


def test_captions_and_numbers_are_drawn(panels: list[Panel]):
    with_words = contact_sheet_png(panels[:1])
    without = contact_sheet_png([Panel(panels[0].picture, "")])
    other_number = contact_sheet_pdf([panels[0]] * 13), contact_sheet_pdf([panels[0]] * 12)
    assert decoded(with_words).tobytes() != decoded(without).tobytes()
    assert len(other_number[0]) > len(other_number[1])


def test_a_pdf_has_a_page_for_each_dozen(panels: list[Panel]):
    for number, pages in ((1, 1), (12, 1), (13, 2), (25, 3)):
        content = contact_sheet_pdf((panels * 5)[:number], "Harbour")
        assert content.startswith(b"%PDF-")
        assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") == pages


def test_a_sheet_of_three_hundred_pictures_stays_printable(panels: list[Panel]):
    size = decoded(contact_sheet_png(panels[:1] * 300, columns=4)).size
    assert size[0] * size[1] <= MAX_SHEET_PIXELS


def test_a_lost_or_broken_picture_leaves_its_place_grey(panels: list[Panel], tmp_path: Path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    lost = [Panel(tmp_path / "gone.png", "gone"), Panel(tmp_path / "torn.png", "torn")]
    sheet = decoded(contact_sheet_png([*lost, panels[0]])).convert("RGB")
    colours = {pixel for _, pixel in sheet.getcolors(10**7)}
    assert {(228, 228, 228), (255, 0, 0)} <= colours


def test_an_empty_selection_is_a_sentence():
    for export in (contact_sheet_png, contact_sheet_pdf):
        with pytest.raises(NotFoundError, match="select at least one"):
            export([])


SCRIPTS = (
    "кот на крыше",
    "γάτα",
    "חתול",
    "قطة على السطح",
    "屋根の上の猫",
    "지붕 위의 고양이",
    "屋頂上的貓",
)


@pytest.mark.parametrize("words", SCRIPTS)
def test_a_caption_in_any_of_these_scripts_has_its_letters(panels: list[Panel], words: str):
    faces, missing = faces_for(words)
    assert missing == ""
    assert all(any(face.has(c) for face in faces) for c in words if not c.isspace())
    boxes = "".join(c if c.isspace() else "\u0378" for c in words)  # no letter, never was
    drawn, unknown = (
        decoded(contact_sheet_png([Panel(panels[0].picture, caption)])).convert("RGB")
        for caption in (words, boxes)
    )
    assert drawn.size[1] < unknown.size[1]  # whose foot says that a font is missing
    assert drawn.tobytes() != unknown.crop((0, 0, *drawn.size)).tobytes()


def test_a_character_without_a_font_is_named_at_the_foot_of_the_sheet(panels: list[Panel]):
    known, unknown = (
        decoded(contact_sheet_png([Panel(panels[0].picture, caption)])).convert("L")
        for caption in ("a cat", "a cat \u0378")
    )
    foot = unknown.crop((0, known.height, unknown.width, unknown.height))
    assert min(foot.getdata()) < 160  # letters stand there
    assert faces_for("a cat \u0378")[1] == "\u0378"


def test_the_readers_of_fonts_agree_with_freetype_on_every_character():
    for path in FONTS:
        face = read_face(path)
        font = ImageFont.truetype(path, 12)
        box = bytes(font.getmask("\u0378"))
        known = [chr(c) for first, last in face.ranges for c in (first, last)]
        blank = [c for c in known if bytes(font.getmask(c)) == box]
        assert len(blank) <= 0.02 * len(known)  # spaces, and boxes on purpose
        assert not face.has("\u0378") and face.has(known[0]) and face.has(known[-1])


def test_a_file_that_is_no_font_is_passed_over(tmp_path: Path):
    (tmp_path / "a.ttf").write_bytes(FONTS[0].read_bytes()[:200])
    (tmp_path / "b.ttf").write_bytes(b"")
    assert [read_face(tmp_path / name) for name in ("a.ttf", "b.ttf", "c.ttf")] == [None] * 3


def test_marks_stay_with_their_letter(panels: list[Panel]):
    faces, _ = faces_for("e\u0301猫")
    lettering = Lettering(faces, 16)
    accented = lettering.getlength("e\u0301")
    assert accented == lettering.getlength("e")
    assert lettering.getlength("e\u0301猫") == accented + lettering.getlength("猫")


@pytest.mark.parametrize("text", ["", "word", "many words " * 40, "青い飛行機" * 40, "x" * 5000])
def test_captions_fit_their_lines(text: str):
    lines = shorten(text, 200, 2, FONT)
    assert len(lines) <= 2
    assert all(FONT.getlength(line) <= 200 for line in lines)
    assert (len(text) > 60) == (bool(lines) and lines[-1].endswith("…"))

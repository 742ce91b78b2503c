"""Durable writes, and pictures that nobody vouches for."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from studio.core.errors import NotFoundError, StorageError
from studio.store.files import MAX_PIXELS, atomic_write, count_jpeg_scans, open_picture


def encoded(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=form, **options)
    return stream.getvalue()


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "a" / "b.json"
    atomic_write(path, b"first and longer")
    atomic_write(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_below_a_file_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(StorageError, match=r"Could not write .*Check the folder"):
        atomic_write(tmp_path / "file" / "x.json", b"{}")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_write_to_the_place_of_a_folder_leaves_no_temporary_file(tmp_path: Path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(StorageError):
        atomic_write(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_pixels_come_through_unchanged(form: str):
    image = Image.linear_gradient("L").convert("RGB")
    content = encoded(image, form, lossless=True)
    assert open_picture(content).tobytes() == image.tobytes()


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(form: str):
    with pytest.raises(StorageError, match="not a PNG, JPEG or WebP"):
        open_picture(encoded(Image.new("RGB", (16, 16)), form))


def test_svg_and_other_text_are_refused():
    with pytest.raises(StorageError, match="not a PNG, JPEG or WebP"):
        open_picture(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")


def test_a_missing_file_is_a_sentence(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"gone\.png is not there"):
        open_picture(tmp_path / "gone.png")


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + (width + 7) // 8) * min(height, 64))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*c) for c in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")  # as outside of pytest
@pytest.mark.parametrize("side", [8001, 13_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int):
    started = time.process_time()
    with pytest.raises(StorageError, match=f"{MAX_PIXELS:,} pixels"):
        open_picture(png_claiming(side, side))
    assert time.process_time() - started < 0.5


def test_pillow_itself_has_the_limit_for_whoever_opens_before_us():
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def progressive_bomb(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    plain = encoded(Image.effect_noise((64, 64), 50), "JPEG", progressive=True)
    last, end = plain.rindex(b"\xff\xda"), plain.rindex(b"\xff\xd9")
    return plain[:end] + plain[last:end] * scans + plain[end:]


def test_a_jpeg_of_three_thousand_scans_is_refused_at_once():
    with pytest.raises(StorageError, match="scans"):
        open_picture(progressive_bomb(3000))


def test_an_ordinary_progressive_jpeg_is_opened():
    content = encoded(Image.effect_noise((64, 64), 50), "JPEG", progressive=True)
    assert 1 < count_jpeg_scans(content, 99) < 20
    assert open_picture(content).size == (64, 64)
    assert count_jpeg_scans(encoded(Image.new("L", (8, 8)), "PNG"), 99) == 0


def test_a_picture_is_turned_upright_by_its_exif():
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    upright = open_picture(encoded(image, "PNG", exif=exif))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 2)) == (255, 255, 255)


def test_colours_are_converted_by_their_profile_to_srgb():
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    profile = ImageCms.ImageCmsProfile(srgb).tobytes()
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    opened = open_picture(encoded(image, "PNG", icc_profile=profile))
    assert opened.getpixel((0, 0)) == (200, 100, 50)
    unfitting = ImageCms.ImageCmsProfile(lab).tobytes()
    opened = open_picture(encoded(image, "PNG", icc_profile=unfitting))
    assert opened.getpixel((0, 0)) == (200, 100, 50)
    assert "icc_profile" not in opened.info


def test_a_broken_profile_is_dropped():
    content = encoded(Image.new("RGB", (4, 4), "red"), "PNG", icc_profile=b"\0" * 200)
    assert open_picture(content).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("wanted", ["RGB", "RGBA", "L"])
def test_every_png_mode_becomes_the_mode_that_was_asked_for(mode: str, wanted: str):
    image = Image.new("L", (8, 8), 255).convert("I;16" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.frombytes("I;16", (8, 8), b"\xff\xff" * 64)
    opened = open_picture(encoded(image, "PNG"), wanted)
    assert opened.mode == wanted
    assert opened.convert("L").getpixel((3, 3)) == 255


def test_alpha_is_kept_only_when_it_is_asked_for():
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 77))
    assert open_picture(encoded(image, "PNG"), "RGBA").getpixel((0, 0)) == (10, 20, 30, 77)
    assert open_picture(encoded(image, "PNG")).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_torn_picture_is_a_sentence_at_every_length(form: str):
    content = encoded(Image.effect_noise((48, 48), 60).convert("RGB"), form)
    for length in range(0, len(content) - 40, max(len(content) // 40, 1)):
        with pytest.raises(StorageError):
            open_picture(content[:length])


def test_a_png_whose_text_expands_without_end_is_a_sentence():
    info = PngInfo()
    for number in range(70):
        info.add_text(f"k{number}", "x" * 1_000_000, zip=True)
    with pytest.raises(StorageError, match="damaged"):
        open_picture(encoded(Image.new("L", (4, 4)), "PNG", pnginfo=info))

"""Sources by the hash of their pixels: opened guarded, kept once, mended, swept when unused."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image, ImageCms

from studio.core.errors import EaselError, InvalidRequestError, NotFoundError, StorageError
from studio.core.settings import Settings
from studio.store.files import AS_IT_IS, open_picture
from studio.store.sources import MAX_SOURCE_SIDE, UNUSED_FOR, SourceStore, hashes_in, mask_of
from tests.store.test_files import encoded, png_claiming, progressive_bomb

SKETCH = Image.linear_gradient("L").resize((40, 24)).convert("RGB")


@pytest.fixture
def sources(settings: Settings) -> SourceStore:
    return SourceStore(settings.data_dir)


PICTURES = st.builds(
    lambda mode, size, content: Image.frombytes(
        mode, size, (content * 9000)[: size[0] * size[1] * len(mode)]
    ),
    st.sampled_from(["L", "RGB", "RGBA"]),
    st.tuples(st.integers(8, 40), st.integers(8, 40)),
    st.binary(min_size=1, max_size=200),
)


@examples(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=PICTURES)
def test_pixels_and_alpha_come_back_unchanged_under_their_hash(
    image: Image.Image, sources: SourceStore
):
    sha256 = sources.add(image)
    head = f"{image.mode} {image.width} {image.height}\n".encode()
    assert sha256 == hashlib.sha256(head + image.tobytes()).hexdigest()
    kept = sources.image(sha256)
    assert (kept.mode, kept.size, kept.tobytes()) == (image.mode, image.size, image.tobytes())
    assert sources.size(sha256) == image.size
    assert sources.path(sha256).name == f"{sha256}.png"
    assert sources.path(sha256).parent.name == sha256[:2]


def test_the_same_pixels_from_two_files_are_one_source(sources: SourceStore, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(SKETCH, "PNG"))
    (tmp_path / "b.webp").write_bytes(encoded(SKETCH, "WEBP", lossless=True))
    hashes = {sources.add(SKETCH), *(sources.add_file(path) for path in tmp_path.glob("?.*"))}
    assert len(hashes) == 1
    assert len(list(sources.path(hashes.pop()).parent.iterdir())) == 1


def test_a_source_is_turned_upright_and_keeps_its_alpha(sources: SourceStore):
    image = Image.new("RGBA", (40, 20), (9, 9, 9, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    kept = sources.image(sources.add_file(encoded(image, "PNG", exif=exif)))
    assert (kept.mode, kept.size, kept.getpixel((3, 3))) == ("RGBA", (20, 40), (9, 9, 9, 60))


def test_a_source_is_converted_to_srgb(sources: SourceStore):
    image = Image.new("RGB", (16, 16), (120, 60, 30))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = sources.image(sources.add_file(encoded(image, "PNG", icc_profile=lab)))
    assert kept.getpixel((0, 0)) == (120, 60, 30)
    assert "icc_profile" not in kept.info


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (SKETCH.convert("L"), "RGB"),
        (SKETCH.convert("1"), "RGB"),
        (SKETCH.quantize(8), "RGB"),
        (SKETCH.convert("LA"), "RGBA"),
        (SKETCH.convert("CMYK"), "RGB"),
        (Image.frombytes("I;16", (8, 8), b"\x01\x80" * 64), "RGB"),
    ],
    ids=["grey", "bits", "palette", "grey with alpha", "cmyk", "16 bits"],
)
def test_every_kind_of_picture_becomes_rgb_or_rgba(
    image: Image.Image, mode: str, sources: SourceStore
):
    form = "JPEG" if image.mode == "CMYK" else "PNG"
    assert sources.image(sources.add_file(encoded(image, form))).mode == mode


def test_a_palette_with_a_transparent_colour_keeps_its_hole(sources: SourceStore):
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((2, 2), 0)
    kept = sources.image(sources.add_file(encoded(image, "PNG", transparency=0)))
    assert kept.getpixel((2, 2))[3] == 0
    assert kept.getpixel((0, 0)) == (200, 100, 50, 255)


def animated(form: str) -> bytes:
    frames = [Image.new("RGB", (32, 32), (level, 0, 0)) for level in (0, 90, 180)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=90)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a poem about a lighthouse", "not a PNG, JPEG or WebP"),
        (b"", "not a PNG, JPEG or WebP"),
        (encoded(SKETCH, "GIF"), "not a PNG, JPEG or WebP"),
        (animated("PNG"), "an animation of 3 pictures"),
        (animated("WEBP"), "an animation of 3 pictures"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "is 1 x 1 pixels"),
        (encoded(Image.new("1", (20_000, 64)), "PNG"), "is 20000 x 64 pixels"),
        (png_claiming(20_000, 20_000), "more than 64,000,000 pixels"),
        (progressive_bomb(3000), "scans"),
        (encoded(Image.effect_noise((64, 64), 60), "PNG")[:2000], "damaged"),
    ],
    ids=["text", "empty", "gif", "apng", "webp", "1px", "wide", "bomb", "scans", "torn"],
)
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_edited_is_a_sentence_and_leaves_no_file(
    content: bytes, sentence: str, sources: SourceStore, settings: Settings, tmp_path: Path
):
    path = tmp_path / "renamed.png"
    path.write_bytes(content)
    with pytest.raises(EaselError, match=sentence) as refusal:
        sources.add_file(path)
    assert str(refusal.value).endswith(".")
    assert not list(settings.data_dir.rglob("*.png*"))


def test_a_photograph_with_a_second_picture_in_its_file_is_no_animation():
    depth = Image.new("RGB", (32, 32))
    content = encoded(SKETCH.resize((64, 64)), "MPO", save_all=True, append_images=[depth])
    assert open_picture(content, AS_IT_IS).size == (64, 64)


def test_the_largest_source_is_the_largest_result(sources: SourceStore):
    assert sources.size(sources.add(Image.new("RGB", (MAX_SOURCE_SIDE, 8)))) == (8192, 8)
    with pytest.raises(InvalidRequestError) as refusal:
        sources.add(Image.new("RGB", (MAX_SOURCE_SIDE + 1, 8)))
    assert refusal.value.field == "source"


def test_a_mask_is_read_by_its_alpha_or_by_its_light(sources: SourceStore):
    painted = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    painted.putpixel((3, 3), (0, 0, 0, 200))
    mask = sources.image(sources.add_mask_file(encoded(painted, "PNG")))
    assert (mask.mode, mask.getpixel((3, 3)), mask.getpixel((0, 0))) == ("L", 200, 0)
    opaque = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    opaque.putpixel((3, 3), (255, 255, 255, 255))
    mask = mask_of(opaque)
    assert (mask.getpixel((3, 3)), mask.getpixel((0, 0))) == (255, 0)
    bits = Image.new("1", (16, 16), 1)
    assert sources.image(sources.add_mask_file(encoded(bits, "PNG"))).getextrema() == (255, 255)


@pytest.mark.parametrize("sha256", ["", "ab", "../../easel.sqlite3", "A" * 64, "0" * 64, "0" * 65])
def test_a_hash_that_nothing_is_kept_under_is_a_sentence(sha256: str, sources: SourceStore):
    for ask in (sources.path, sources.image, sources.size):
        with pytest.raises(NotFoundError, match="Choose the picture once more"):
            ask(sha256)


def test_a_link_in_the_place_of_a_source_is_not_followed(sources: SourceStore, tmp_path: Path):
    path = sources.path(sources.add(SKETCH))
    path.rename(tmp_path / "elsewhere.png")
    path.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(NotFoundError):
        sources.image(path.stem)


def test_a_file_that_was_changed_on_disk_is_refused_until_it_is_chosen_again(sources: SourceStore):
    sha256 = sources.add(SKETCH)
    sources.path(sha256).write_bytes(encoded(Image.new("RGB", (40, 24), "red"), "PNG"))
    with pytest.raises(StorageError, match="was changed on disk"):
        sources.image(sha256)
    sources.path(sha256).write_bytes(b"torn")
    with pytest.raises(StorageError, match="is damaged on disk"):
        sources.size(sha256)
    assert sources.add(SKETCH) == sha256
    assert sources.image(sha256).tobytes() == SKETCH.tobytes()


def test_a_sweep_takes_only_what_is_old_and_named_by_nothing(sources: SourceStore):
    old, named, again, fresh = (
        sources.add(Image.new("RGB", (8, 8), (level, 0, 0))) for level in range(4)
    )
    for sha256 in (old, named, again):
        os.utime(sources.path(sha256), (1.0, 1.0))
    assert sources.add(Image.new("RGB", (8, 8), (2, 0, 0))) == again
    assert sources.sweep({named}) == 1
    with pytest.raises(NotFoundError):
        sources.path(old)
    assert [sources.image(kept).getpixel((0, 0))[0] for kept in (named, again, fresh)] == [1, 2, 3]
    assert UNUSED_FOR >= 86400


def test_the_hashes_in_a_text_are_found_whole():
    one, other = "0a" * 32, "ff" * 32
    assert hashes_in(f'{{"source": "{one}", "mask": "{other}", "seed": 12}}') == {one, other}
    assert hashes_in("no hash, " + "0a" * 31) == set()


def test_a_source_file_is_an_ordinary_png_for_other_programs(sources: SourceStore):
    content = sources.path(sources.add(SKETCH)).read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (40, 24))

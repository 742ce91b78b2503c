"""The recipe inside the file: ours comes back equal, others' as near as can be, hostile never."""

from __future__ import annotations

import io
import json
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from studio.core.errors import NotFoundError, StorageError
from studio.core.request import RESIZE_MODES, SAMPLERS, AdapterUse, GenerationRequest
from studio.store.infotext import write_infotext
from studio.store.metadata import (
    MAX_CHUNK_CHARACTERS,
    PictureRecord,
    decode_user_comment,
    encode_png,
    is_deeper_than,
    parse_chunk,
    read_metadata,
    recipe_from_text,
    strip_metadata,
)

PICTURE = Image.linear_gradient("L").convert("RGB").resize((64, 64))
TEXT = st.text(
    alphabet=st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t,:\"'猫\\"),
    max_size=80,
)
REQUESTS = st.builds(
    GenerationRequest,
    prompt=TEXT | st.just("x\nNegative prompt: y\nSteps: 3, Seed: 4, Size: 64x64"),
    negative_prompt=TEXT,
    width=st.integers(8, 100).map(lambda n: 8 * n),
    height=st.integers(8, 100).map(lambda n: 8 * n),
    steps=st.integers(1, 500),
    guidance_scale=st.floats(0, 50),
    sampler=st.sampled_from(SAMPLERS),
    eta=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 64),
    model=TEXT,
    model_hash=st.text("0123456789abcdef", min_size=64, max_size=64),
    adapters=st.lists(
        st.builds(AdapterUse, TEXT, st.just("cd" * 32), st.floats(0, 2)), max_size=2
    ).map(tuple),
    source=st.just("ef" * 32),
    mask=st.sampled_from(["", "01" * 32]),
    strength=st.floats(0, 1),
    resize_mode=st.sampled_from(RESIZE_MODES),
    extend=st.tuples(*[st.integers(0, 4096)] * 4),
    mask_invert=st.booleans(),
    mask_blur=st.floats(0, 64),
    loopback=st.integers(1, 16),
    variation_strength=st.floats(0, 1),
    hires_scale=st.floats(1, 4),
    hires_upscaler=TEXT,
)
RECORDS = st.builds(
    PictureRecord,
    request=REQUESTS,
    index=st.integers(0, 63),
    job_id=st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    seconds=st.floats(0, 1e6),
    created_at=st.floats(0, 4e9),
    parent_id=st.none() | st.integers(1, 2**40),
    set_id=st.from_regex(r"[a-z0-9-]{0,20}", fullmatch=True),
    panel=st.integers(0, 500),
    parent=st.sampled_from(["", "5e" * 32]),
)
RECORD = PictureRecord(
    GenerationRequest(prompt='猫, "red": apple', seed=9, model_hash="ab" * 32), 1, "j0b", 2.5, 1.7e9
)


def png_with(**texts: str) -> bytes:
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    stream = io.BytesIO()
    PICTURE.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


@given(record=RECORDS)
def test_a_picture_of_ours_gives_back_an_equal_request(record: PictureRecord):
    recipe = read_metadata(encode_png(PICTURE, record))
    assert recipe.record == record
    assert (recipe.origin, recipe.request, recipe.notices) == ("easel", record.request, ())


def test_the_pixels_are_those_that_were_drawn():
    with Image.open(io.BytesIO(encode_png(PICTURE, RECORD))) as image:
        assert image.tobytes() == PICTURE.tobytes()


def test_both_chunks_stand_in_the_file_for_other_programs():
    with Image.open(io.BytesIO(encode_png(PICTURE, RECORD))) as image:
        assert image.info["parameters"] == write_infotext(RECORD.request, 1)
        chunk = json.loads(image.info["easel"])
    assert chunk["version"] == 1 and chunk["app"].startswith("easel ")
    assert chunk["model"] == {"name": "starter", "sha256": "ab" * 32}
    assert (chunk["seed"], chunk["index"], chunk["parent_id"]) == (10, 1, None)


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize("prompt", ["a cat", '青い飛行機, "猫": one'])
def test_exif_of_jpeg_and_webp_is_read(form: str, prompt: str):
    request = GenerationRequest(prompt=prompt, seed=77)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + write_infotext(request).encode("utf-16-be")
    stream = io.BytesIO()
    PICTURE.save(stream, form, exif=exif)
    recipe = read_metadata(stream.getvalue())
    assert (recipe.origin, recipe.request, recipe.model_name) == ("a1111", request, "starter")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"UNICODE\0" + "a cat, 猫".encode("utf-16-be"), "a cat, 猫"),
        (b"UNICODE\0" + "a cat, 猫".encode("utf-16-le"), "a cat, 猫"),
        (b"ASCII\0\0\0a cat", "a cat"),
        ("plain 猫".encode(), "plain 猫"),
        (b"\xff\xfeplain", "plain"),
        (b"", ""),
    ],
)
def test_user_comments_are_decoded_by_their_prefix(raw: bytes, text: str):
    assert decode_user_comment(raw) == text


def test_a_picture_of_a1111_gives_the_nearest_request_and_its_model_as_a_hint():
    text = (
        "cat\nSteps: 30, Sampler: Heun, CFG scale: 7, Seed: 5, Size: 520x512, "
        "Model hash: abc, Model: sd15"
    )
    recipe = read_metadata(png_with(parameters=text))
    assert recipe.request == GenerationRequest(
        prompt="cat", steps=30, sampler="Euler", guidance_scale=7, seed=5, width=520, height=512
    )
    assert (recipe.model_name, recipe.model_hash) == ("sd15", "abc")
    assert len(recipe.notices) == 1 and "Heun" in recipe.notices[0]


@pytest.mark.parametrize(
    "content", ["", "{}", '{"sui_image_params": {"prompt": "x"}}', "x" * 70_000]
)
def test_parameters_that_are_not_a1111s_are_left_for_others(content: str):
    assert read_metadata(png_with(parameters=content)).origin == ""


def test_a_picture_without_a_recipe_has_none():
    assert read_metadata(png_with()).request is None


def test_files_that_are_no_pictures_are_sentences(tmp_path: Path):
    with pytest.raises(StorageError, match="not a PNG"):
        read_metadata(b"letters")
    with pytest.raises(NotFoundError):
        read_metadata(tmp_path / "gone.png")


def chunk(**changes) -> str:
    with Image.open(io.BytesIO(encode_png(PICTURE, RECORD))) as image:
        return json.dumps(json.loads(image.info["easel"]) | changes)


def test_a_chunk_of_a_later_version_gives_what_we_know():
    later = json.loads(chunk(version=9, mood="calm"))
    later["request"]["perspective"] = "isometric"
    assert parse_chunk(json.dumps(later)) == RECORD


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"version": 1}',
        chunk(version="1"),
        chunk(request=None),
        chunk(request={"steps": 10**9}),
        chunk(request={"prompt": 5}),
        chunk(request={"adapters": [{"name": "x"}]}),
        chunk(request={"guidance_scale": 10**400}),
        '{"version": 1, "request": ' + "[" * 100_000,
        '{"version": 1, "request": {"seed": ' + "9" * 6000 + "}}",
        chunk(pad="x" * MAX_CHUNK_CHARACTERS),
    ],
    ids=range(14),
)
def test_a_hostile_chunk_of_ours_is_nothing(text: str):
    started = time.process_time()
    assert parse_chunk(text) is None
    assert time.process_time() - started < 1.0


def test_hostile_values_beside_the_request_are_dropped():
    record = parse_chunk(
        chunk(job_id="../../x y", index=-1, seconds="fast", parent_id=True, panel=1e9, set_id=[1])
    )
    assert record == PictureRecord(RECORD.request, 0, "xy", 0.0, 1.7e9, None, "", 0)


def test_depth_is_measured_outside_of_strings():
    assert is_deeper_than("[[[[]]]]", 3)
    assert not is_deeper_than("[[[]]]", 3)
    assert not is_deeper_than(json.dumps({"a": '[[[[[["\\\\[[' * 50}), 2)


def test_pasted_text_is_read_in_both_forms():
    assert recipe_from_text(chunk()).record == RECORD
    request = GenerationRequest(prompt="a cat", seed=3)
    assert recipe_from_text(write_infotext(request)).request == request
    assert recipe_from_text("{broken").origin == ""


def test_a_stripped_picture_has_the_same_pixels_and_no_recipe():
    exif = Image.Exif()
    exif[0x010E] = "secret words"
    info = PngInfo()
    info.add_text("parameters", "secret words")
    info.add_text("easel", "secret 猫 words")
    info.add_text("more", "secret words " * 50, zip=True)
    stream = io.BytesIO()
    PICTURE.save(stream, "PNG", pnginfo=info, exif=exif, icc_profile=b"profile", dpi=(72, 72))
    stripped = strip_metadata(stream.getvalue())
    assert b"secret" not in stripped
    with Image.open(io.BytesIO(stripped)) as image:
        assert image.tobytes() == PICTURE.tobytes()
        assert set(image.info) == {"icc_profile", "dpi"}
    assert strip_metadata(stripped) == stripped
    assert read_metadata(stripped).origin == ""


def test_only_a_png_is_stripped():
    with pytest.raises(StorageError, match="Only a PNG"):
        strip_metadata(b"\xff\xd8\xff")


@given(st.binary(max_size=60), st.integers(0, 3000))
def test_stripping_and_reading_torn_files_never_fails_otherwise(junk: bytes, cut: int):
    content = encode_png(PICTURE, RECORD)[:cut] + junk
    for read in (strip_metadata, read_metadata):
        try:
            read(content)
        except StorageError as error:
            assert str(error).endswith(".")


def test_a_chunk_length_beyond_the_file_ends_the_walk():
    content = encode_png(PICTURE, RECORD)[:33] + struct.pack(">I", 2**32 - 1) + b"IDAT"
    assert strip_metadata(content + b"\0\0\0\0")

"""What is to be taught: pictures and captions from anywhere, each refusal a sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from studio.core.errors import NotFoundError, StorageError, TrainingError
from studio.core.lesson import Lesson, LessonPicture, check_lesson
from studio.store.lessons import LARGEST_SIDE, LessonStore, read_caption, read_folder


def content(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def red(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", size, (200, 30, 40)).convert(mode)


def noise(size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def store(tmp_path: Path) -> LessonStore:
    return LessonStore(tmp_path / "data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    return made


def test_every_ordinary_kind_of_picture_is_read_as_rgb(folder):
    deep = Image.fromarray(np.full((48, 64), 40_000, np.uint16))
    half = red(mode="RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    kinds = {
        "cmyk.jpg": content(red(mode="CMYK"), "JPEG"),
        "palette.png": content(red(mode="P")),
        "grey.png": content(red(mode="L")),
        "sixteen.png": content(deep),
        "see-through.png": content(half),
        "plain.webp": content(red(), "WEBP", lossless=True),
        "saved.jfif": content(red(), "JPEG"),
    }
    for name, written in kinds.items():
        (folder / name).write_bytes(written)
    found = read_folder(folder, 16)
    assert found.refused == ()
    assert [name for name, _, _ in found.pictures] == sorted(kinds)
    assert all(p.mode == "RGB" and p.size == (64, 48) for _, p, _ in found.pictures)
    pixels = {name: np.asarray(p) for name, p, _ in found.pictures}
    assert (pixels["plain.webp"] == (200, 30, 40)).all()
    assert abs(int(pixels["sixteen.png"].mean()) - 40_000 // 256) <= 1
    assert (pixels["see-through.png"][0] > 250).all()  # transparent above: the white behind it


def test_a_file_that_cannot_be_read_is_told_by_name_and_the_others_are_taken(folder):
    whole = content(noise((300, 300)))
    bad = {
        "cut.png": (whole[: len(whole) // 2], "cut.png is damaged"),
        "text.jpg": (b"no picture at all", "text.jpg is not a PNG, JPEG or WebP picture"),
        "empty.png": (b"", "empty.png is not a PNG"),
        "tiny.png": (content(red((8, 200))), "tiny.png: It has 8 x 200 pixels, too few"),
        "drawing.svg": (b"<svg/>", "drawing.svg is not a PNG, JPEG or WebP"),
        "layers.PSD": (b"8BPS", "layers.PSD is not a PNG, JPEG or WebP"),
        "bitmap.bmp": (content(red(), "BMP"), "bitmap.bmp is not a PNG, JPEG or WebP"),
        "moving.webp": (
            content(red(), "WEBP", save_all=True, append_images=[noise((64, 48))]),
            "moving.webp is an animation of 2 pictures",
        ),
        "bomb.png": (content(Image.new("1", (20_000, 20_000))), "bomb.png has more than"),
        "odd.png": (content(red()), "odd.png: its caption odd.txt is not text in UTF-8"),
        "long.png": (content(red()), "long.png: A caption has at most"),
    }
    for name, (written, _) in bad.items():
        (folder / name).write_bytes(written)
    (folder / "odd.txt").write_bytes(b"\xff\xfe\x00caf\xe9")
    (folder / "long.txt").write_text("cat " * 10_000)
    (folder / "good.png").write_bytes(content(red()))
    (folder / "notes.md").write_text("not a picture, and nobody is told")
    found = read_folder(folder, 16)
    assert [name for name, _, _ in found.pictures] == ["good.png"]
    assert len(found.refused) == len(bad)
    for sentence, (_, beginning) in zip(found.refused, (bad[n] for n in sorted(bad)), strict=True):
        assert sentence.startswith(beginning), sentence


def test_a_huge_picture_is_kept_at_a_bounded_size(store):
    lesson = store.create()
    kept = store.add_picture(lesson.id, content(Image.new("RGB", (5000, 3000))), "big.png", 16)
    [picture] = kept.pictures
    assert (picture.width, picture.height) == (5000, 3000)
    assert max(store.image(lesson.id, picture.id).size) == LARGEST_SIDE


def test_captions_stand_beside_their_pictures_in_any_script(folder):
    captions = {"a": "ein Kätzchen\n", "b": "\ufeff猫、線画", "c": "قطة", "d": ""}
    for name, caption in captions.items():
        (folder / f"{name}.png").write_bytes(content(red()))
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    (folder / "e.png").write_bytes(content(red()))
    found = [caption for _, _, caption in read_folder(folder, 16).pictures]
    assert found == ["ein Kätzchen", "猫、線画", "قطة", "", ""]


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_caption_is_one_line_of_the_same_words(tmp_path_factory, caption):
    path = tmp_path_factory.mktemp("caption") / "a.txt"
    path.write_text(caption, encoding="utf-8", newline="")
    found = read_caption(path)
    assert found.isprintable()
    wanted = "".join(c for c in caption.removeprefix("\ufeff") if c.isprintable() and c != " ")
    assert found.replace(" ", "") == wanted


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(NotFoundError, match=r"There is no folder .*nowhere; give the one"):
        read_folder(tmp_path / "nowhere", 16)


def test_what_a_lesson_holds_is_there_after_a_restart(store, tmp_path):
    lesson = store.create()
    for number in range(3):
        lesson = store.add_picture(lesson.id, content(red()), f"{number}.png", 16)
    again = LessonStore(tmp_path / "data")
    assert again.get(lesson.id) == lesson
    assert again.all() == [lesson]
    assert again.image(lesson.id, lesson.pictures[1].id).size == (64, 48)


def test_a_picture_that_is_taken_out_is_gone(store):
    lesson = store.create()
    lesson = store.add_picture(lesson.id, content(red()), "a.png", 16)
    [picture] = lesson.pictures
    assert store.remove_picture(lesson.id, picture.id).pictures == ()
    with pytest.raises(NotFoundError, match="not in the lesson any more"):
        store.image(lesson.id, picture.id)
    assert store.remove_picture(lesson.id, picture.id).pictures == ()


def test_a_refused_picture_changes_nothing(store):
    lesson = store.create()
    for bad, error in ((b"nothing", StorageError), (content(red((8, 8))), TrainingError)):
        with pytest.raises(error):
            store.add_picture(lesson.id, bad, "a.png", 16)
    assert store.get(lesson.id) == lesson
    assert [p.name for p in store.folder(lesson.id).iterdir()] == ["lesson.json"]


@pytest.mark.parametrize("name", ["", "..", "../../x", "0123456789ab/..", "g" * 12, "A" * 12])
def test_a_name_that_is_no_lesson_leads_nowhere(store, name):
    with pytest.raises(NotFoundError):
        store.get(name)
    lesson = store.create()
    with pytest.raises(NotFoundError):
        store.thumbnail(lesson.id, name)


def test_a_damaged_lesson_does_not_hide_the_others(store):
    lost, kept = store.create(), store.create()
    (store.folder(lost.id) / "lesson.json").write_text('{"id": 3')
    assert store.all() == [kept]
    (store.folder(lost.id) / "lesson.json").write_text(json.dumps([1]))
    assert store.all() == [kept]


def test_a_deleted_lesson_leaves_nothing(store):
    lesson = store.create()
    store.add_picture(lesson.id, content(red()), "a.png", 16)
    store.delete(lesson.id)
    assert store.all() == []
    assert not store.folder(lesson.id).exists()


def pictures(count: int, caption: str = "") -> tuple[LessonPicture, ...]:
    return tuple(LessonPicture(str(n), f"{n}.png", caption) for n in range(count))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pictures": ()}, "There are 0 pictures to learn from; a style needs at least 3"),
        ({"pictures": pictures(1)}, "There is 1 picture to learn from"),
        ({"name": ""}, "Give the style a name"),
        ({"name": "a\nb"}, "The name has at most 60 characters, in one line"),
        ({"trigger": "x" * 61}, "The trigger word has at most 60 characters"),
        ({"trigger": ""}, "Give a trigger word, or write captions"),
        ({"minutes": 0.0}, "Say for how many minutes"),
        ({"minutes": 1e9}, "Say for how many minutes"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_loaded(changes, sentence):
    values = {"name": "red", "trigger": "zyx", "minutes": 5.0, "pictures": pictures(3)}
    check_lesson(Lesson("a", **values))
    check_lesson(Lesson("a", **values | {"trigger": "", "pictures": pictures(3, "a cat")}))
    with pytest.raises(TrainingError, match=sentence):
        check_lesson(Lesson("a", **values | changes))

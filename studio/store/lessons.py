"""LessonStore: what is to be taught, as files: `teaching/{id}/lesson.json` and its pictures.

Pictures come from anywhere and pass the guarded loader once, when they are brought; what is kept is
a plain RGB PNG of bounded size. The same loader reads a folder for the command line.
"""

from __future__ import annotations

import io
import json
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from studio.core.errors import EaselError, NotFoundError, StorageError, TrainingError
from studio.core.lesson import MOST_PICTURES, Lesson, LessonPicture, check_caption
from studio.store.files import atomic_write, open_picture, read_bytes

FOLDER = "teaching"  # in the data folder
PICTURE_ENDINGS = frozenset(  # of what is meant to be learned from, whether it can be read or not
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".jxl",
        ".jp2",
        ".ico",
        ".tga",
        ".svg",
        ".svgz",
        ".psd",
        ".psb",
        ".xcf",
        ".kra",
        ".clip",
        ".ai",
        ".eps",
        ".exr",
        ".hdr",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".orf",
        ".raf",
        ".rw2",
    ]
)
LARGEST_SIDE = 2048  # pixels; no model of today is taught larger ones
THUMBNAIL_SIDE = 256  # pixels
MAX_CAPTION_BYTES = 1_000_000
GONE = "This picture is not in the lesson any more."
_ID = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class FolderReading:
    """What a folder holds to learn from."""

    pictures: tuple[tuple[str, Image.Image, str], ...]  # file name, RGB, caption
    refused: tuple[str, ...]  # a sentence for each file that could not be read


class LessonStore:
    """The lessons of one data folder."""

    def __init__(self, data_dir: Path, clock: Callable[[], float] = time.time) -> None:
        """Use a data folder; `clock` gives seconds since 1970."""
        self._root = data_dir / FOLDER
        self._clock = clock

    def create(self) -> Lesson:
        """Begin an empty lesson."""
        return self.save(Lesson(secrets.token_hex(6), created_at=self._clock()))

    def all(self) -> list[Lesson]:
        """Return the lessons, newest first; what is damaged is passed over."""
        found = (_read(path) for path in self._root.glob("*/lesson.json"))
        return sorted((one for one in found if one), key=lambda lesson: -lesson.created_at)

    def get(self, lesson_id: str) -> Lesson:
        """Return a lesson. Raises NotFoundError."""
        lesson = _read(self.folder(lesson_id) / "lesson.json")
        if lesson is None:
            raise _no_lesson(lesson_id)
        return lesson

    def save(self, lesson: Lesson) -> Lesson:
        """Keep a lesson as it is now. Raises StorageError, DiskFullError."""
        text = json.dumps(asdict(lesson), indent=1, ensure_ascii=False)
        atomic_write(self.folder(lesson.id) / "lesson.json", text.encode("utf-8"))
        return lesson

    def delete(self, lesson_id: str) -> None:
        """Remove a lesson with all its files; the adapter that came of it stays on its shelf."""
        shutil.rmtree(self.folder(lesson_id), ignore_errors=True)

    def folder(self, lesson_id: str) -> Path:
        """Return the folder of a lesson's files. Raises NotFoundError for an id that is none."""
        if not _ID.fullmatch(lesson_id):
            raise _no_lesson(lesson_id)
        return self._root / lesson_id

    def add_picture(self, lesson_id: str, content: bytes, title: str, smallest: int) -> Lesson:
        """Open a picture and add it to a lesson.

        Raises StorageError for what is no picture, TrainingError when there are too many or its
        shorter side has fewer than `smallest` pixels.
        """
        lesson = self.get(lesson_id)
        if len(lesson.pictures) >= MOST_PICTURES:
            raise TrainingError(
                f"A lesson takes at most {MOST_PICTURES} pictures; take another one out first."
            )
        picture, size = teachable_picture(content, smallest)
        entry = LessonPicture(secrets.token_hex(6), title[:200], "", *size)
        small = picture.copy()
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        atomic_write(self._thumbnail(lesson_id, entry.id), _encoded(small, "WEBP", quality=85))
        kept = _encoded(picture, "PNG", compress_level=1)
        atomic_write(self._picture(lesson_id, entry.id), kept)
        return self.save(replace(lesson, pictures=(*lesson.pictures, entry)))

    def remove_picture(self, lesson_id: str, picture_id: str) -> Lesson:
        """Take a picture out of a lesson; one that is not there is out already."""
        lesson = self.get(lesson_id)
        kept = tuple(picture for picture in lesson.pictures if picture.id != picture_id)
        self.save(replace(lesson, pictures=kept))
        self._picture(lesson_id, picture_id).unlink(missing_ok=True)
        self._thumbnail(lesson_id, picture_id).unlink(missing_ok=True)
        return self.get(lesson_id)

    def thumbnail(self, lesson_id: str, picture_id: str) -> Path:
        """Return where a picture's small copy is, a WebP. Raises NotFoundError."""
        return _there(self._thumbnail(lesson_id, picture_id))

    def image(self, lesson_id: str, picture_id: str) -> Image.Image:
        """Return a lesson's picture as RGB. Raises NotFoundError, StorageError."""
        return open_picture(_there(self._picture(lesson_id, picture_id)))

    def _thumbnail(self, lesson_id: str, picture_id: str) -> Path:
        return self._picture(lesson_id, picture_id).with_suffix(".webp")

    def _picture(self, lesson_id: str, picture_id: str) -> Path:
        if not _ID.fullmatch(picture_id):
            raise NotFoundError(GONE)
        return self.folder(lesson_id) / "pictures" / f"{picture_id}.png"


def teachable_picture(source: Path | bytes, smallest: int) -> tuple[Image.Image, tuple[int, int]]:
    """Return a picture as RGB of bounded size, see-through parts on white, and its first size.

    Raises StorageError when it cannot be opened, TrainingError when its shorter side has fewer than
    `smallest` pixels.
    """
    picture = open_picture(source, "RGBA")
    size = picture.size
    if min(size) < smallest:
        raise TrainingError(
            f"It has {size[0]} x {size[1]} pixels, too few to learn from; this model needs at "
            f"least {smallest} a side."
        )
    canvas = Image.new("RGBA", size, "white")
    canvas.alpha_composite(picture)
    canvas.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return canvas.convert("RGB"), size


def read_folder(folder: Path, smallest: int) -> FolderReading:
    """Read the pictures of a folder by name, each with the caption in the `.txt` beside it.

    Raises NotFoundError when there is no such folder; a file that cannot be read is told of.
    """
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}; give the one with your pictures.")
    pictures, refused = [], []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURE_ENDINGS or path.name.startswith("."):
            continue
        try:
            caption = read_caption(path.with_suffix(".txt"))
            picture, _ = teachable_picture(path, smallest)
            pictures.append((path.name, picture, caption))
        except EaselError as error:
            refused.append(_told(path.name, str(error)))
    return FolderReading(tuple(pictures), tuple(refused))


def read_caption(path: Path) -> str:
    """Return the text of a caption's file, '' when there is none.

    Raises StorageError when it is no text in UTF-8, TrainingError when it is too long.
    """
    if not path.is_file():
        return ""
    if path.stat().st_size > MAX_CAPTION_BYTES:
        raise StorageError(f"its caption {path.name} is larger than a megabyte; shorten it.")
    try:
        caption = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(
            f"its caption {path.name} is not text in UTF-8; save it as that."
        ) from error
    caption = " ".join("".join(c if c.isprintable() else " " for c in caption).split())
    check_caption(caption)
    return caption


def _there(path: Path) -> Path:
    if not path.is_file():
        raise NotFoundError(GONE)
    return path


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _told(name: str, sentence: str) -> str:
    return sentence if sentence.startswith(name) else f"{name}: {sentence}"


def _read(path: Path) -> Lesson | None:
    """Read a lesson's file; None when it is not there or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        pictures = tuple(LessonPicture(**picture) for picture in values.pop("pictures"))
        return Lesson(**values, pictures=pictures)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _no_lesson(lesson_id: str) -> NotFoundError:
    return NotFoundError(f"There is no lesson '{lesson_id[:40]}' (any more); begin a new one.")

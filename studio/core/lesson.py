"""A lesson: pictures and captions that a model is to be taught as one style."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studio.core.errors import TrainingError
from studio.core.request import MAX_PROMPT_CHARACTERS

LessonState = Literal["draft", "waiting", "running", "paused", "done", "failed"]
FEWEST_PICTURES, MOST_PICTURES = 3, 50
MAX_MINUTES = 60 * 24 * 7
MAX_NAME = 60  # characters; of the trigger word too


@dataclass(frozen=True)
class LessonPicture:
    """One picture of a lesson."""

    id: str  # of its file
    title: str  # the name of the file that it came in
    caption: str = ""
    width: int = 0  # pixels, as it was brought
    height: int = 0


@dataclass(frozen=True)
class Lesson:
    """What is to be taught, and how far that is."""

    id: str
    name: str = ""  # of the adapter that comes of it
    trigger: str = ""  # the word that calls the style
    model: str = ""
    minutes: float = 0.0  # of computing
    pictures: tuple[LessonPicture, ...] = ()
    state: LessonState = "draft"
    sentence: str = ""  # why it failed or was cut short
    adapter: str = ""  # sha256 of the result; empty until it is done
    created_at: float = 0.0  # seconds since 1970


def check_lesson(lesson: Lesson) -> None:
    """Raise TrainingError with what is missing before a lesson can begin."""
    count = len(lesson.pictures)
    if count < FEWEST_PICTURES:
        there = "is 1 picture" if count == 1 else f"are {count} pictures"
        raise TrainingError(
            f"There {there} to learn from; a style needs at least {FEWEST_PICTURES}. Add more."
        )
    for words, text in (("name", lesson.name), ("trigger word", lesson.trigger)):
        if len(text) > MAX_NAME or any(ord(c) < 32 for c in text):
            raise TrainingError(f"The {words} has at most {MAX_NAME} characters, in one line.")
    if not lesson.name:
        raise TrainingError("Give the style a name; its adapter is called so.")
    if not lesson.trigger and not any(picture.caption.strip() for picture in lesson.pictures):
        raise TrainingError(
            "The pictures have no captions and there is no trigger word, so nothing would call "
            "the style. Give a trigger word, or write captions."
        )
    if not 0 < lesson.minutes <= MAX_MINUTES:
        raise TrainingError(f"Say for how many minutes it may compute, 1 to {MAX_MINUTES:,}.")


def check_caption(caption: str) -> None:
    """Raise TrainingError for a caption that is too long."""
    if len(caption) > MAX_PROMPT_CHARACTERS:
        raise TrainingError(
            f"A caption has at most {MAX_PROMPT_CHARACTERS:,} characters; the model reads about "
            "the first 300 of them."
        )

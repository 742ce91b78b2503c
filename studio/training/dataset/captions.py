"""Captions: what a picture of the corpus is called, and how a storyboard artist words a scene.

A picture's caption is made anew each time: its label, its tags, their order, with the style's
words before or behind. A scene's caption says shot size, number, colour, place, backdrop and time:

    wide shot of a red car on the left, in the desert, at sunset, flat illustration
    three owls, on a blue background, 3d render
    a cat in the foreground, a house in the background, at night, shaded cartoon

`read_caption` reads such words back, so that a drawn picture can be measured against them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

# The subject's longer side, in shares of the frame's shorter one.
SHOTS: Mapping[str, float] = MappingProxyType(
    {
        "extreme close-up": 1.6,
        "close-up": 1.0,
        "medium shot": 0.66,
        "wide shot": 0.4,
        "extreme wide shot": 0.24,
    }
)
PLACES: Mapping[str, float] = MappingProxyType(  # the subject's centre, in shares of the width
    {"on the left": 0.25, "in the centre": 0.5, "on the right": 0.75}
)
NUMBERS: Mapping[int, str] = MappingProxyType({2: "two", 3: "three", 4: "four", 5: "five"})
COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (214, 48, 40),
        "orange": (240, 134, 30),
        "yellow": (246, 207, 52),
        "green": (62, 158, 76),
        "blue": (46, 104, 204),
        "purple": (130, 74, 178),
        "pink": (240, 140, 176),
        "brown": (128, 82, 52),
        "grey": (140, 144, 150),
        "black": (30, 30, 34),
    }
)
_SHOT = re.compile(rf"\b({'|'.join(sorted(SHOTS, key=len, reverse=True))}) of\b")
_PLACE = re.compile(rf"\b({'|'.join(PLACES)})\b")
_NUMBER = re.compile(rf"(?:^|, |\bof )({'|'.join(NUMBERS.values())}) ")


@dataclass(frozen=True)
class Asked:
    """What a caption asks of the composition; None where it leaves it open."""

    shot: str | None
    place: str | None
    count: int | None


def read_caption(text: str) -> Asked:
    """Read the words of composition out of any caption; case and order do not matter."""
    text = text.lower()
    shot, place, number = (pattern.search(text) for pattern in (_SHOT, _PLACE, _NUMBER))
    count = next((n for n, w in NUMBERS.items() if number and number[1] == w), None)
    return Asked(shot and shot[1], place and place[1], count)


def caption(subject: str, tags: tuple[str, ...], style: str, choose: np.random.Generator) -> str:
    """Make a caption of a single subject; 'subject, style' in two of five."""
    useful = [tag for tag in tags if tag not in subject]
    kind = choose.random()
    if kind < 0.4 or (kind < 0.7 and not useful):
        return f"{subject}, {style}"
    if kind < 0.7:
        picked = choose.permutation(useful)[:3].tolist()
        first = picked if kind > 0.65 else [subject, *picked]  # by its synonyms alone, at times
        return ", ".join((*first, style))
    return (
        f"{style} of {noun(subject)}"
        if kind < 0.8
        else f"{noun(subject)}, {style}"
        if kind < 0.9
        else f"{style}, {subject}"
    )


def noun(subject: str, colour: str = "") -> str:
    """Put the article before a label: 'a cat', 'an owl', 'glasses'."""
    words = f"{colour} {subject}".strip()
    if _is_plural(subject):
        return words
    vowel = words[0] in "aeiou" and not words.startswith(("one", "uni", "eu", "use"))
    return f"{'an' if vowel else 'a'} {words}"


def plural(subject: str) -> str:
    """Return the label of several: 'cats', 'foxes', 'berries'."""
    if re.search(r"(s|x|z|ch|sh)$", subject):
        return f"{subject}es"
    if re.search(r"[^aeiou]y$", subject):
        return f"{subject[:-1]}ies"
    return f"{subject}s"


def is_countable(subject: str) -> bool:
    """Whether several of it can be named by the plural of the label's last word."""
    irregular = ("man", "woman", "person", "child", "mouse", "goose", "tooth", "foot", "sheep")
    return (
        re.fullmatch(r"[a-z -]+", subject) is not None
        and not _is_plural(subject)
        and not re.search(r"\b(of|in|with|and|on|at|for|no|not)\b|ing\b", subject)
        and not subject.endswith((*irregular, "fish", "deer", "moose", "men", "people"))
    )


def _is_plural(subject: str) -> bool:
    return subject.endswith("s") and not subject.endswith(("ss", "us", "is", "as"))

"""What is held out: subjects, and combinations of a subject and a style, never trained on.

A subject and its near twins ('dog', 'dog face'; 'detective', 'woman detective') form a family, and
a family is held out or trained on as a whole. Which ones is decided by a hash of the words alone,
so it stays the same when pictures are added, on every machine, in every profile. Of the names that
were tried for the split this is the first that keeps what everybody asks for first (a cat, a dog,
a house, a person, a car, a tree, ...) in the training.

It is about pictures and their captions: tags that name a held-out family are left out of all
others. The sentence encoder's words (`words.py`) hold the labels
of held-out subjects, too: that is how a subject without a picture gets a meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

TRAIN, NEW_SUBJECT, NEW_PAIR = "train", "new subject", "new pair"
SUBJECT_SHARE = 0.04  # of the families
PAIR_SHARE = 0.08  # of what is left, per style
SPLIT = "easel held-out 39"  # another name draws another split; models say which they had
_TWINS = frozenset(
    ("man", "woman", "person", "men", "women", "people", "boy", "girl", "face", "head")
)


def family(label: str) -> str:
    """Return what near twins share: the label without words for who or which part it is."""
    words = label.replace(":", " ").replace(",", " ").split()
    return " ".join([w for w in words if w not in _TWINS] or words)


def split(pictures: Sequence[tuple[str, str]]) -> list[str]:
    """Return TRAIN, NEW_SUBJECT or NEW_PAIR for each (label, style).

    A pair is held out only where both the subject and the style stay in the training: at least two
    styles show the family, and one of them is trained on.
    """
    styles: dict[str, set[str]] = {}
    for label, style in pictures:
        styles.setdefault(family(label), set()).add(style)
    held: dict[str, set[str]] = {}
    for name, found in styles.items():
        out = {s for s in sorted(found) if _share(f"{name}\n{s}") < PAIR_SHARE}
        held[name] = out if len(out) < len(found) else set()
    return [
        NEW_SUBJECT
        if _share(family(label)) < SUBJECT_SHARE
        else NEW_PAIR
        if style in held[family(label)]
        else TRAIN
        for label, style in pictures
    ]


def without_held_out(
    tags: Sequence[Sequence[str]], labels: Sequence[str], parts: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return each picture's tags, but for those that name a held-out subject's family.

    So no caption that is trained on has a held-out subject's word beside other pictures.
    """
    held = {family(label) for label, part in zip(labels, parts, strict=True) if part == NEW_SUBJECT}
    return [
        tuple(own) if part == NEW_SUBJECT else tuple(t for t in own if family(t) not in held)
        for own, part in zip(tags, parts, strict=True)
    ]


def _share(text: str) -> float:
    """Return a number in [0, 1) that only depends on the text, uniform over texts."""
    return int.from_bytes(hashlib.sha256(f"{SPLIT}\n{text}".encode()).digest()[:6]) / 2**48

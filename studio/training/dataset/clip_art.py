"""Open Clip Art: which of its files show a thing that can be named, and what it is called.

Each file carries a title and keywords. Titles are often an author's series name in some other
language, keywords mix authors, categories and things. So a label is accepted only when it is made
of words that the emoji and pictogram sets use: the title first, then the keyword that the fewest
other files have. What cannot be named is left out; it could not be asked for either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Set
from html import unescape
from pathlib import Path

# Folders of things; left out: computer, shapes, signs_and_symbols, buttons, geography, logos, ...
FOLDERS = (
    "animals",
    "buildings",
    "containers",
    "decorations",
    "education",
    "electronics",
    "food",
    "office",
    "people",
    "plants",
    "recreation",
    "science",
    "tools",
    "transportation",
)
# Keywords that say what kind of file it is, not what is on it.
GENERAL = frozenset(
    re.split(
        r"\s+",
        """clip art clipart icon icons symbol sign shape simple theme cartoon colour color
        black white outline outlined line drawing flag flags state states office education
        recreation special unsorted animal animals people person food plant plants tool
        tools building buildings transport transportation vehicle work number numbers letter
        letters map card playing button new old big small one two three the and with for
        mammal insect beverage bordered electronic fancy dessert festive fruit bird fish
        silhouette""",
    )
)
LARGEST = 200_000  # bytes; larger files are traced photographs and take seconds to draw
_TITLE = re.compile(r"<dc:title>\s*([^<]{1,80}?)\s*</dc:title>")
_KEYWORD = re.compile(r"<rdf:li>\s*([^<]{1,40}?)\s*</rdf:li>")


def read(package: Path, words: Set[str]) -> Iterator[tuple[str, tuple[str, ...], bytes]]:
    """Yield (label, tags, SVG) of every file that can be named with `words`, in path order."""
    base = package / "usr" / "share" / "openclipart" / "svg"
    files = [
        path
        for folder in FOLDERS
        for path in sorted((base / folder).rglob("*.svg"))
        if not path.is_symlink() and path.stat().st_size <= LARGEST
    ]
    texts = [path.read_bytes().decode("utf-8", "replace") for path in files]
    said = [_phrases(_KEYWORD.findall(text), words) for text in texts]
    common = Counter(keyword for keywords in said for keyword in set(keywords))
    for text, keywords in zip(texts, said, strict=True):
        titles = _phrases(_TITLE.findall(text)[:1], words)
        ranked = sorted(set(keywords), key=lambda keyword: (common[keyword], keyword))
        names = titles + [k for k in ranked if k not in titles]
        if names:
            yield names[0], tuple(names[1:7]), text.encode()


def _phrases(found: list[str], words: Set[str]) -> list[str]:
    """Return what was found in lower case, kept where it is a thing's name of known words."""
    plain = [re.sub(r"[\W\d_]+", " ", unescape(text)).strip().lower() for text in found]
    return [
        text
        for text in plain
        if text
        and len(text.split()) <= 3
        and all(len(word) > 2 and word in words for word in text.split())
        and not set(text.split()) <= GENERAL
    ]

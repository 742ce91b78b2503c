"""Small stand-ins: packages in the layout of the pinned ones, and a corpus of coloured shapes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from studio.training.corpus import Corpus, CorpusConfig, Entry
from studio.training.sources import PACKAGES, SKETCH, STYLES, Package

SUBJECTS = ("cat", "dog", "house", "red apple")  # all of them in the starter model's list
COLOURS = ("#d03020", "#2050d0", "#20a040", "#e0b020")
ALL_STYLES = (*(s.words for s in STYLES), SKETCH)
TINY = CorpusConfig(size=32)


def make_packages(folder: Path) -> tuple[Package, ...]:
    """Write an archive for each pinned package into `folder`; return them with their own sums."""
    folder.mkdir(parents=True)
    slugs = (subject.replace(" ", "-") for subject in SUBJECTS)
    icons = {s: {"body": circle(c)} for s, c in zip(slugs, COLOURS, strict=True)}
    contents = {"emojibase-data": {"en/data.json": _json(emoji_entries())}}
    contents["@lobehub/fluent-emoji-3d"] = {
        f"assets/1f60{i}.webp": _webp(colour) for i, colour in enumerate(COLOURS)
    }
    for package in PACKAGES[2:]:
        table = {"width": 16, "height": 16, "icons": icons}
        contents[package.name] = {"icons.json": _json(table)}
    return tuple(_archive(p, contents[p.name], folder) for p in PACKAGES)


def emoji_entries() -> list[dict]:
    kept = [
        {"label": s.capitalize(), "hexcode": f"1F60{i}", "group": 3, "tags": ["thing", s]}
        for i, s in enumerate(SUBJECTS)
    ]
    flag = {"label": "flag: France", "hexcode": "1F1EB", "group": 9, "tags": []}
    return [*kept, flag, {"label": "no group", "hexcode": "1F1EC"}]


def circle(colour: str) -> str:
    return f'<circle cx="8" cy="8" r="7" fill="{colour}"/>'


def make_corpus(folder: Path, size: int = 128) -> Corpus:
    """Write a finished corpus: every subject in every style, a shape in a colour of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, entries = [], []
    for number, subject in enumerate(SUBJECTS):
        for style_number, style in enumerate(ALL_STYLES):
            pictures.append(shape(number, style_number, size))
            entries.append(Entry(subject, style, ("thing", f"kind {number}", "toy"), "MIT"))
    array = np.stack(pictures)
    np.save(folder / "pictures.npy", array)
    lines = [json.dumps(vars(e)) for e in entries]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = ("pictures.npy", "index.jsonl")
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    (folder / "MANIFEST.json").write_text(json.dumps({"recipe": "synthetic", "files": sums}))
    return Corpus(array, tuple(entries))


def shape(number: int, style: int, size: int) -> np.ndarray:
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    box = (size // 8 + style, size // 8, size * 7 // 8, size * 7 // 8 - 2 * style)
    (draw.rectangle, draw.ellipse)[number % 2](box, fill=COLOURS[number])
    draw.line((0, number * size // 4, size, size), fill="black", width=style + 1)
    return np.asarray(picture)


def _archive(package: Package, files: Mapping[str, bytes], folder: Path) -> Package:
    path = folder / package.archive
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return replace(package, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _webp(colour: str) -> bytes:
    picture = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(picture).ellipse((4, 4, 60, 60), fill=colour)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", lossless=True)
    return stream.getvalue()

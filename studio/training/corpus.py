"""Stage 1, the corpus: captioned pictures in several styles, as arrays that training reads.

Layout of `<data>/training/corpus/`:

    packages/             the pinned archives and what is in them
    pictures.npy          (N, 128, 128, 3) uint8, composed on white
    index.jsonl           one line a picture: subject, style, tags, licence
    MANIFEST.json         SHA-256 of both, and of the recipe that made them
    samples.png           a sheet to look at

One subject in many styles is what teaches the style words; the pencil sketch is derived from the
3-D render of the same subject, so it costs no data.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from studio.core.errors import TrainingError
from studio.core.events import Event, StageArtifact, StageProgress
from studio.core.settings import STARTER_MODEL
from studio.training import sources
from studio.training.sources import PACKAGES, SKETCH, STYLES, Package, Subject

MARGIN = 4  # pixels of white around a picture at 128


@dataclass(frozen=True)
class CorpusConfig:
    """How the corpus is drawn."""

    size: int = 128  # pixels a side: the starter model's native size
    oversample: int = 2  # vectors are rasterised this much larger, then reduced (Lanczos)


@dataclass(frozen=True)
class Entry:
    """One picture of the corpus."""

    subject: str
    style: str
    tags: tuple[str, ...]
    licence: str


@dataclass(frozen=True)
class Corpus:
    """The corpus as arrays; row i of `pictures` is described by `entries[i]`."""

    pictures: np.ndarray  # (N, S, S, 3) uint8, memory-mapped
    entries: tuple[Entry, ...]

    def rows(self, subjects: frozenset[str], styles: tuple[str, ...]) -> np.ndarray:
        """Row numbers of the given subjects in the given styles, in corpus order."""
        return np.array(
            [i for i, e in enumerate(self.entries) if e.style in styles and e.subject in subjects],
            dtype=np.int64,
        )


def starter_subjects() -> tuple[str, ...]:
    """The subjects that the starter model is trained to draw, fixed before training."""
    lines = (STARTER_MODEL / "subjects.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def build(
    folder: Path, config: CorpusConfig, pinned: tuple[Package, ...] = PACKAGES
) -> Iterator[Event]:
    """Build the corpus in `folder`, or find it finished and whole.

    Yields `StageProgress` as pictures are rasterised and a `StageArtifact` for the sample sheet.
    Raises `TrainingError` when a package cannot be had. `pinned` are other editions of the same
    packages.
    """
    recipe = _recipe_hash(config, pinned)
    if _manifest(folder).get("recipe") == recipe and _is_whole(folder):
        yield StageProgress("corpus", 1, 1, 0.0, {"pictures": float(len(_read_index(folder)))})
        return
    packages = folder / "packages"
    for _ in sources.fetch_packages(packages, pinned):
        yield StageProgress("corpus", 0, 1, None)
    subjects = sources.read_subjects(packages)
    icons = {s.words: sources.read_icons(packages, s.package) for s in STYLES[1:]}
    pictures: list[np.ndarray] = []
    entries: list[Entry] = []
    start = time.monotonic()
    for number, subject in enumerate(subjects, 1):
        for style, picture, licence in _draw_styles(packages, icons, subject, config):
            pictures.append(np.asarray(picture, dtype=np.uint8))
            entries.append(Entry(subject.label, style, subject.tags, licence))
        left = (time.monotonic() - start) / number * (len(subjects) - number)
        if number % 20 == 0 or number == len(subjects):
            metrics = {"pictures": float(len(pictures))}
            yield StageProgress("corpus", number, len(subjects), left, metrics)
    _commit(folder, np.stack(pictures), entries, recipe)
    yield StageArtifact("corpus", str(sample_sheet(folder)))


def load(folder: Path) -> Corpus:
    """Open a finished corpus. Raises `TrainingError` when it is missing or damaged."""
    if not (folder / "MANIFEST.json").exists():
        raise TrainingError("There is no corpus yet. Run `python launch.py train corpus` first.")
    if not _is_whole(folder):
        raise TrainingError(
            f"The corpus in {folder} is damaged. Run `python launch.py train corpus` again; it "
            "makes it anew from the packages that are already there."
        )
    return Corpus(np.load(folder / "pictures.npy", mmap_mode="r"), tuple(_read_index(folder)))


def _draw_styles(
    packages: Path, icons: dict[str, dict[str, str]], subject: Subject, config: CorpusConfig
) -> Iterator[tuple[str, Image.Image, str]]:
    """Yield (style words, RGB picture, licence) for every style that has the subject."""
    licence = {p.name: p.licence for p in PACKAGES}
    render = sources.render_file(packages, subject)
    if render is not None:
        with Image.open(render) as opened:
            cut_out = opened.convert("RGBA")
        picture = on_white(cut_out, config.size)
        yield STYLES[0].words, picture, licence[STYLES[0].package]
        yield (
            SKETCH,
            pencil_sketch(on_white(cut_out, 2 * config.size), config.size),
            licence[STYLES[0].package],
        )
    for style in STYLES[1:]:
        svg = icons[style.words].get(subject.slug)
        if svg is not None:
            cut_out = rasterise(svg, config.size * config.oversample)
            yield style.words, on_white(cut_out, config.size), licence[style.package]


def rasterise(svg: str, size: int) -> Image.Image:
    """Draw an SVG as RGBA of `size` x `size` pixels."""
    import resvg_py  # only this stage needs it; the studio runs without

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def on_white(cut_out: Image.Image, size: int) -> Image.Image:
    """Compose an RGBA cut-out on white, with a margin, as RGB of `size` x `size` pixels."""
    inner = size - 2 * MARGIN * size // 128
    scaled = cut_out.resize((inner, inner), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(scaled, ((size - inner) // 2, (size - inner) // 2))
    return canvas.convert("RGB")


def pencil_sketch(picture: Image.Image, size: int) -> Image.Image:
    """Turn a picture into a pencil drawing by colour dodge: grey / (1 - blurred negative).

    Flat areas divide to white; edges, where a pixel is darker than its surroundings, stay dark.
    """
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    radius = picture.width / 64
    negative = Image.fromarray((255 - grey).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(radius)
    )
    surroundings = 255 - np.asarray(negative, dtype=np.float32)
    dodged = np.clip(255 * grey / np.maximum(surroundings, 1), 0, 255)
    strokes = 255 - np.clip((255 - dodged) * 1.6, 0, 235)
    drawn = Image.fromarray(strokes.astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)
    return drawn.convert("RGB")


def _recipe_hash(config: CorpusConfig, pinned: tuple[Package, ...]) -> str:
    recipe = {"config": asdict(config), "packages": [asdict(p) for p in pinned]}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest; empty when there is none or it is damaged."""
    try:
        found = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_whole(folder: Path) -> bool:
    """Compare both files with the sums in the manifest; 0.3 s for 340 MB."""
    sums = _manifest(folder).get("files", {})
    return bool(sums) and all(_sha256(folder / name) == found for name, found in sums.items())


def _sha256(path: Path) -> str:
    """Return the sum of a file, '' when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _commit(folder: Path, pictures: np.ndarray, entries: list[Entry], recipe: str) -> None:
    np.save(folder / "pictures.npy", pictures)
    lines = [json.dumps(asdict(e), ensure_ascii=False) for e in entries]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sums = {name: _sha256(folder / name) for name in ("pictures.npy", "index.jsonl")}
    manifest = {"recipe": recipe, "files": sums, "pictures": len(entries)}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _read_index(folder: Path) -> list[Entry]:
    lines = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Entry(r["subject"], r["style"], tuple(r["tags"]), r["licence"]) for r in rows]


def report(corpus: Corpus) -> str:
    """Return what the corpus holds as lines of text: pictures by style, and by licence."""
    styles = Counter(entry.style for entry in corpus.entries)
    licences = Counter(entry.licence for entry in corpus.entries)
    subjects = {entry.subject for entry in corpus.entries}
    wanted = set(starter_subjects())
    height, width = corpus.pictures.shape[1:3]
    return "\n".join(
        (
            f"{len(corpus.entries):,} pictures of {width} x {height} pixels, "
            f"{len(subjects):,} subjects; {len(subjects & wanted)} of the {len(wanted)} that the "
            "starter model is trained to draw.",
            *(f"  {count:6,}  {style}" for style, count in styles.most_common()),
            "Licences:",
            *(f"  {count:6,}  {licence}" for licence, count in licences.most_common()),
        )
    )


def sample_sheet(folder: Path) -> Path:
    """Draw the sheet of a corpus, subjects across and styles down; return its path."""
    corpus = load(folder)
    by_subject: dict[str, dict[str, int]] = {}
    for row, entry in enumerate(corpus.entries):
        by_subject.setdefault(entry.subject, {})[entry.style] = row
    styles = [s.words for s in STYLES] + [SKETCH]
    shown = [rows for s in starter_subjects() if len(rows := by_subject.get(s, {})) == len(styles)]
    size = corpus.pictures.shape[1]
    picked = shown[:: max(len(shown) // 12, 1)][:12]
    sheet = Image.new("RGB", (size * len(picked), size * len(styles)), "white")
    for column, rows in enumerate(picked):
        for line, style in enumerate(styles):
            picture = Image.fromarray(corpus.pictures[rows[style]])
            sheet.paste(picture, (column * size, line * size))
    path = folder / "samples.png"
    sheet.save(path)
    return path

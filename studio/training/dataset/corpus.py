"""Stage 1, the corpus: captioned pictures in eight styles, as arrays that training reads.

Layout of `<data>/training/corpus/`:

    packages/             the pinned archives and what is in them
    originals.zip         every picture that is used, as it came; enough to make the rest offline
    words.npz             ordinary words with a sentence encoder's vectors (`words.py`)
    pictures.npy          (N, S, S, 3) uint8, composed on white
    alpha.npy             (N, S, S) uint8, what covers the ground; scenes are composed with it
    index.jsonl           one line a picture: subject, style, tags, licence, source, split
    MANIFEST.json         SHA-256 of all of them, and of the recipe that made them
    samples.png           a sheet to look at

One subject in many styles is what teaches the style words. Pictures that are there already are
left out, and what their captions said goes to the one that stays. What is held out is marked
(`split.py`) and no stage trains on it.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from studio.core.errors import TrainingError
from studio.core.events import Event, Notice, StageArtifact, StageProgress
from studio.core.words import counted
from studio.training.dataset import packages, sources
from studio.training.dataset.duplicates import Seen
from studio.training.dataset.packages import CLIP_ART, PACKAGES, SENTENCES, Package
from studio.training.dataset.rasterise import MAX_PIXELS, draw_all
from studio.training.dataset.sources import ALL_STYLES, DRAWN_STYLES, Original
from studio.training.dataset.split import TRAIN, split, without_held_out
from studio.training.dataset.words import WORDS, write_words

VERSION = 2  # of the layout and of what is drawn; 1 had neither alpha nor split
WORDING = "tags name nothing that is held out"  # of the captions; what came before did not say
SUBJECTS = Path(__file__).with_name("subjects.txt")
ARRAYS = ("pictures.npy", "alpha.npy")
INDEX, MANIFEST = "index.jsonl", "MANIFEST.json"
DRAWN_FILES = (*ARRAYS, INDEX)
FILES = (*DRAWN_FILES, WORDS)
NAMED = 8  # originals in a sentence
HEADER = 128  # bytes of a `.npy` file before its first pixel


@dataclass(frozen=True)
class CorpusConfig:
    """How the corpus is drawn."""

    size: int = 128  # pixels a side: the starter model's native size
    oversample: int = 2  # vectors are rasterised this much larger, then reduced (Lanczos)
    limit: int = 0  # originals at most, evenly spread; 0: all. For a rehearsal


@dataclass(frozen=True)
class Entry:
    """One picture of the corpus."""

    subject: str
    style: str
    tags: tuple[str, ...]
    licence: str
    source: str = ""  # the package
    split: str = TRAIN


@dataclass(frozen=True)
class Corpus:
    """The corpus as arrays; row i of `pictures` is described by `entries[i]`."""

    pictures: np.ndarray  # (N, S, S, 3) uint8, memory-mapped
    entries: tuple[Entry, ...]
    alpha: np.ndarray | None = None  # (N, S, S) uint8; None in corpora of version 1

    @property
    def has_split(self) -> bool:
        """Whether anything is held out."""
        return any(entry.split != TRAIN for entry in self.entries)

    @cached_property
    def training_rows(self) -> np.ndarray:
        """Row numbers of all that may be trained on."""
        return np.array([i for i, e in enumerate(self.entries) if e.split == TRAIN], dtype=np.int64)

    def rows(
        self,
        subjects: frozenset[str] | None,
        styles: tuple[str, ...],
        parts: tuple[str, ...] = (TRAIN,),
    ) -> np.ndarray:
        """Row numbers of the given subjects (None: all), styles and parts of the split."""
        return np.array(
            [
                i
                for i, e in enumerate(self.entries)
                if e.style in styles
                and e.split in parts
                and (subjects is None or e.subject in subjects)
            ],
            dtype=np.int64,
        )


def starter_subjects() -> tuple[str, ...]:
    """The subjects that the small starter model is trained to draw, fixed before training."""
    return tuple(SUBJECTS.read_text(encoding="utf-8").splitlines())


def drawn_rows(corpus: Corpus, everything: bool) -> np.ndarray:
    """Rows that the model learns to draw: all, or the small model's subjects in its styles.

    Clip art is too various for the small model. Raises `TrainingError` when there are none.
    """
    rows = corpus.training_rows
    if not everything:
        rows = corpus.rows(frozenset(starter_subjects()), DRAWN_STYLES)
        rows = np.array([r for r in rows if corpus.entries[r].source != CLIP_ART], dtype=np.int64)
    if not len(rows):
        raise TrainingError(
            "The corpus has none of the pictures that the model is to draw. Run `python launch.py "
            "train corpus` again."
        )
    return rows


def build(
    folder: Path, config: CorpusConfig, pinned: tuple[Package, ...] = PACKAGES
) -> Iterator[Event]:
    """Build the corpus in `folder`, or find it finished and whole.

    Yields `StageProgress` as pictures are rasterised and a `StageArtifact` for the sample sheet.
    A corpus that is there stays until the new one is whole. What an interrupted build left is taken
    up where a whole file was finished. Raises `TrainingError` when a package cannot be had, OSError
    when the disk is full. `pinned` are other editions of the same packages.
    """
    made = {"version": VERSION, "config": asdict(config), "from": _origin(pinned)}
    recipe = _hash(made | {"wording": WORDING})
    if _manifest(folder).get("recipe") == recipe and _is_whole(folder):
        yield StageProgress("corpus", 1, 1, 0.0, {"pictures": float(len(_read_index(folder)))})
        return
    yield from gather(folder, pinned)
    originals = sources.load_originals(folder / "originals.zip")
    if config.limit:
        originals = originals[:: max(len(originals) // config.limit, 1)]
    with closing(_Drawing(folder)) as drawing:
        start, unreadable = time.monotonic(), []
        drawn = draw_all(originals, config.size, config.oversample)
        for number, (original, pictures) in enumerate(drawn, 1):
            drawing.add(original, pictures)
            if not pictures:
                unreadable.append(f"{original.subject} ({original.style})")
            if number % 100 == 0 or number == len(originals):
                left = (time.monotonic() - start) / number * (len(originals) - number)
                counts = {"pictures": len(drawing.entries), "unreadable": len(unreadable)}
                counts["duplicates"] = drawing.duplicates
                metrics = {name: float(count) for name, count in counts.items()}
                yield StageProgress("corpus", number, len(originals), left, metrics)
        drawing.commit(recipe)
    if unreadable:
        yield Notice(_left_out(unreadable))
    yield StageArtifact("corpus", str(sample_sheet(folder)))


def _left_out(names: Sequence[str]) -> str:
    """Say which originals are not in the corpus."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return (
        f"{counted(len(names), 'original')} left out, which cannot be read, show nothing or are "
        f"larger than {MAX_PIXELS:,} pixels: {', '.join(names[:NAMED])}{more}."
    )


def gather(folder: Path, pinned: tuple[Package, ...] = PACKAGES) -> Iterator[Event]:
    """Make `originals.zip` and `words.npz`, all that is needed from outside.

    A machine without a network is given these two files of another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, origin = folder / "originals.zip", _origin(pinned)
    if sources.recipe_of(path) == origin and (folder / WORDS).exists():
        return
    try:
        for _ in packages.fetch_packages(folder / "packages", pinned):
            yield StageProgress("corpus", 0, 1, None)
        found = sources.write_originals(path, sources.read_originals(folder / "packages"), origin)
        yield StageProgress("corpus", 0, found, None, {"originals": float(found)})
        phrases = sorted({p for o in sources.load_originals(path) for p in (o.subject, *o.tags)})
        encoder = packages.package_folder(folder / "packages", SENTENCES)
        write_words(folder / WORDS, encoder, phrases)
    finally:
        for name in (path.name, WORDS):  # half of one is there when the disk was full
            (folder / f"{name}.tmp").unlink(missing_ok=True)
    yield StageArtifact("corpus", str(folder / WORDS))


def load(folder: Path) -> Corpus:
    """Open a finished corpus. Raises `TrainingError` when it is missing or damaged."""
    if not (folder / MANIFEST).exists():
        raise TrainingError("There is no corpus yet. Run `python launch.py train corpus` first.")
    if not _is_whole(folder):
        raise TrainingError(
            f"The corpus in {folder} is damaged. Run `python launch.py train corpus` again; it "
            "makes it anew from the packages that are already there."
        )
    alpha = folder / ARRAYS[1]
    return Corpus(
        np.load(folder / ARRAYS[0], mmap_mode="r"),
        tuple(_read_index(folder)),
        np.load(alpha, mmap_mode="r") if alpha.exists() else None,
    )


def load_for_training(folder: Path) -> Corpus:
    """Open a finished corpus that has a held-out split. Raises `TrainingError` for an older one."""
    found = load(folder)
    if found.alpha is None:
        raise TrainingError(
            f"The corpus in {folder} was made by an older recipe: nothing is held out of it and "
            "no scenes can be composed from it. Run `python launch.py train corpus`; it makes it "
            "anew. Models that were trained on the old one stay as they are."
        )
    return found


class _Drawing:
    """The corpus while it is being written, beside the one that is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.duplicates = 0
        self._seen = Seen()
        self._side = 0
        self._new = {name: folder / f"{name}.tmp" for name in (*DRAWN_FILES, MANIFEST)}

    def add(self, original: Original, drawn: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
        """Add an original's pictures, or its words to the picture that is there already."""
        for style, picture, alpha in drawn:
            number = self._seen.find_or_add(style, picture, len(self.entries))
            if number < len(self.entries):
                self.duplicates += 1
                self.entries[number] = _also_called(self.entries[number], original)
                continue
            self._side = len(picture)
            for name, pixels in zip(ARRAYS, (picture, alpha), strict=True):
                with self._new[name].open("ab" if self.entries else "wb") as file:
                    file.write(b"" if self.entries else bytes(HEADER))
                    file.write(pixels.tobytes())
            entry = Entry(original.subject, style, original.tags, original.licence, original.source)
            self.entries.append(entry)

    def commit(self, recipe: str) -> None:
        """Write headers, index and manifest, and let all of it take the old files' places."""
        shape = (len(self.entries), self._side, self._side)
        for name, whole in zip(ARRAYS, ((*shape, 3), shape), strict=True):
            with self._new[name].open("r+b") as file:
                file.write(_header(whole))
        labels = [e.subject for e in self.entries]
        parts = split([(e.subject, e.style) for e in self.entries])
        tags = without_held_out([e.tags for e in self.entries], labels, parts)
        entries = [
            replace(e, split=p, tags=t) for e, p, t in zip(self.entries, parts, tags, strict=True)
        ]
        lines = [json.dumps(asdict(e), ensure_ascii=False) for e in entries]
        self._new[INDEX].write_text("\n".join(lines) + "\n", encoding="utf-8")
        sums = {name: _sha256(self._new.get(name, self.folder / name)) for name in FILES}
        manifest = {"recipe": recipe, "version": VERSION, "files": sums, "pictures": len(entries)}
        self._new[MANIFEST].write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        (self.folder / MANIFEST).unlink(missing_ok=True)  # from here on nothing can fill the disk
        for name, path in self._new.items():
            path.replace(self.folder / name)

    def close(self) -> None:
        """Give back the room of what was not finished."""
        for path in self._new.values():
            path.unlink(missing_ok=True)


def _header(shape: tuple[int, ...]) -> bytes:
    """Return the first HEADER bytes of a `.npy` file of bytes."""
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    assert len(stream.getvalue()) == HEADER  # it is padded, with room for any shape
    return stream.getvalue()


def _also_called(entry: Entry, original: Original) -> Entry:
    """Return the entry with the words of another original that looks the same."""
    words = dict.fromkeys((*entry.tags, original.subject, *original.tags))
    return replace(entry, tags=tuple(w for w in words if w != entry.subject))


def _origin(pinned: tuple[Package, ...]) -> str:
    """Return the hash of what the originals are read from."""
    return _hash({"version": VERSION, "packages": [asdict(p) for p in pinned]})


def _hash(recipe: object) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest; empty when there is none or it is damaged."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_whole(folder: Path) -> bool:
    """Compare all files with the sums in the manifest; 0.3 s for 340 MB."""
    sums = _manifest(folder).get("files", {})
    return bool(sums) and all(_sha256(folder / name) == found for name, found in sums.items())


def _sha256(path: Path) -> str:
    """Return the sum of a file, '' when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _read_index(folder: Path) -> list[Entry]:
    lines = (folder / INDEX).read_text(encoding="utf-8").splitlines()
    return [Entry(**(row | {"tags": tuple(row["tags"])})) for row in map(json.loads, lines)]


def report(corpus: Corpus) -> str:
    """Return what the corpus holds as lines of text: by style, source and split, and licences."""
    parts = sorted({e.split for e in corpus.entries}, key=lambda part: (part != TRAIN, part))
    height, width = corpus.pictures.shape[1:3]
    subjects = {e.subject for e in corpus.entries}
    wanted = set(starter_subjects())
    by_style = Counter((e.style, e.source) for e in corpus.entries)
    held = Counter((e.style, e.source, e.split) for e in corpus.entries)
    licences = Counter(entry.licence for entry in corpus.entries)
    return "\n".join(
        (
            f"{len(corpus.entries):,} pictures of {width} x {height} pixels, "
            f"{len(subjects):,} subjects; {len(subjects & wanted)} of the {len(wanted)} that the "
            "small starter model is trained to draw.",
            f"{'pictures':>10}" + "".join(f"{part:>13}" for part in parts),
            *(
                f"{count:10,}"
                + "".join(f"{held[style, source, part]:13,}" for part in parts)
                + f"  {style}{f' ({source})' if source else ''}"
                for (style, source), count in by_style.most_common()
            ),
            "Licences:",
            *(f"{count:10,}  {licence}" for licence, count in licences.most_common()),
            ""
            if corpus.has_split
            else "Nothing is held out: this corpus was made by an older recipe.",
        )
    ).rstrip()


def sample_sheet(folder: Path) -> Path:
    """Draw the sheet of a corpus, subjects across and styles down; return its path."""
    corpus = load(folder)
    by_subject: dict[str, dict[str, int]] = {}
    for row, entry in enumerate(corpus.entries):
        by_subject.setdefault(entry.subject, {})[entry.style] = row
    wanted = [rows for s in starter_subjects() if (rows := by_subject.get(s))]
    most = max(map(len, wanted or by_subject.values()), default=0)
    shown = [rows for rows in wanted or by_subject.values() if len(rows) == most]
    picked = shown[:: max(len(shown) // 12, 1)][:12]
    styles = [s for s in ALL_STYLES if any(s in rows for rows in picked)]
    size = corpus.pictures.shape[1]
    sheet = Image.new("RGB", (size * len(picked), size * len(styles)), "white")
    for column, rows in enumerate(picked):
        for line, style in enumerate(styles):
            if style in rows:
                picture = Image.fromarray(corpus.pictures[rows[style]])
                sheet.paste(picture, (column * size, line * size))
    path = folder / "samples.png"
    sheet.save(path)
    return path

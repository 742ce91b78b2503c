"""How good a starter model is: recognised, varied, placed, how fast; on what it saw and did not.

Every figure is of uncurated pictures from one seed. Beside each rate stands what the real pictures
of the same subjects reach, which is what a perfect model would. A model says by which split it was
trained (`easel.json`); for one that says none, or a corpus without one, every picture counts as
seen, and the figures say so. What is held out of this training but was shown in an earlier one
(`shown_before` in `easel.json`) is called seen before.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from studio.core.events import Event, Notice, StageArtifact, StageProgress
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.training.dataset.captions import PLACES, SHOTS, noun, read_caption
from studio.training.dataset.corpus import Corpus
from studio.training.dataset.packages import CLIP_ART
from studio.training.dataset.sources import EMOJI_STYLES, INK, SKETCH
from studio.training.dataset.split import NEW_PAIR, NEW_SUBJECT, SPLIT, TRAIN
from studio.training.stages.autoencoder import decode, encode
from studio.training.stages.evaluate import (
    at_size,
    frechet_distance,
    in_place,
    placement,
    precision_and_recall,
    psnr,
    ssim,
)
from studio.training.stages.export import write_text
from studio.training.stages.judge import (
    Bank,
    JudgeConfig,
    bank_parts,
    bank_rows,
    draw,
    features,
    hit_rates,
    load_network,
    rank,
    write_sheet,
)

FIGURES = "figures.json"
SEEN, SEEN_BEFORE, PAIRS, NEW = "seen", "seen before", "held-out pairs", "held-out subjects"
ALL_HELD_OUT, SIDES = "all held-out pictures", "scenes, on the side that was asked for"
JUDGED = (
    *EMOJI_STYLES,
    SKETCH,
    INK,
)  # of pictograms and clip art too few are of the bank's subjects
SIDED = 0.7  # as in scenes: a wider subject stands on no side


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is drawn."""

    pictures: int = 250  # of a style and part of the split, at most
    subjects: int = 8  # drawn in every composition
    reconstructions: int = 300
    judge: JudgeConfig = field(default_factory=JudgeConfig)


@dataclass(frozen=True)
class Examined:
    """A model's folder, and what it says about its training."""

    folder: Path
    styles: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    subjects: frozenset[str]
    split: str  # '' when it was trained without one
    shown_before: frozenset[str] = frozenset()  # styles of which every pair was trained on earlier
    words: tuple[str, ...] = ()  # of composition, that its scenes taught it

    @classmethod
    def read(cls, folder: Path) -> Examined:
        """Read `easel.json` and `subjects.txt`."""
        about = json.loads((folder / "easel.json").read_text(encoding="utf-8"))
        subjects = (folder / "subjects.txt").read_text(encoding="utf-8").splitlines()
        return cls(
            folder,
            tuple(about["styles"]),
            tuple((w, h) for w, h in about["trained_sizes"]),
            frozenset(filter(None, map(str.strip, subjects))),
            about.get("split", ""),
            frozenset(about.get("shown_before", ())),
            tuple(about.get("words", ())),
        )

    def parts(self, corpus: Corpus, style: str) -> dict[str, tuple[str, ...]]:
        """Return the parts of the split that are told apart, by what they are called."""
        if not (corpus.has_split and self.split == SPLIT):
            return {SEEN: (TRAIN, NEW_PAIR, NEW_SUBJECT)}
        if style in self.shown_before:
            return {SEEN: (TRAIN,), SEEN_BEFORE: (NEW_PAIR,)}
        return {SEEN: (TRAIN,), PAIRS: (NEW_PAIR,), NEW: (NEW_SUBJECT,)}

    def notes(self, corpus: Corpus) -> list[str]:
        """Say in which sense figures are not of pictures that the model never saw."""
        if not (corpus.has_split and self.split == SPLIT):
            why = (
                "the corpus has none" if not corpus.has_split else "the model was trained before it"
            )
            return [f"no held-out split ({why}): all figures are on pictures that were trained on"]
        if self.shown_before:
            styles = ", ".join(sorted(self.shown_before))
            return [f"{SEEN_BEFORE}: an earlier training was shown every pair in {styles}"]
        return []


@dataclass(frozen=True)
class Group:
    """Pictures of one style and part of the split, to be drawn and judged together."""

    style: str
    part: str  # what it is called
    rows: np.ndarray

    @property
    def title(self) -> str:
        """What its figures begin with."""
        return f"{self.style}, {self.part}"


class Artist:
    """Draws for the judge and tells how far all of it is."""

    def __init__(self, model: LatentDiffusionModel, config: JudgeConfig, count: int) -> None:
        self._model, self._config, self._count = model, config, count
        self._done, self._seconds = 0, 0.0

    def draw(
        self, prompts: Sequence[str], size: tuple[int, int] | None = None
    ) -> Generator[StageProgress, None, list[np.ndarray]]:
        """Draw each prompt once, at one size; yield after each batch, return the pictures."""
        config, pictures = replace(self._config, size=size), []
        for i in range(0, len(prompts), config.batch):
            begun = time.perf_counter()
            pictures += draw(self._model, prompts[i : i + config.batch], config)
            self._seconds += time.perf_counter() - begun
            self._done += len(prompts[i : i + config.batch])
            left = self._seconds / self._done * (self._count - self._done)
            yield StageProgress("pictures", self._done, self._count, left)
        return pictures


def evaluate(
    corpus: Corpus, model: Path, config: EvaluationConfig, folder: Path
) -> Iterator[Event]:
    """Draw, measure, and write `figures.json` and sheets to `folder`.

    Yields a `Notice` for what is to be known of all figures, `StageProgress` of "features" and
    "pictures" while they are made, and of "card" with the figures of each group of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examined, network = Examined.read(model), load_network()
    notes = examined.notes(corpus)
    yield from map(Notice, notes)
    records = [record(note, 0, "held-out pictures", None) for note in notes]
    groups, scenes = groups_of(corpus, examined, config), compositions(examined, config)
    bank = yield from _bank(network, corpus, {group.style for group in groups})
    count = sum(len(group.rows) for group in groups) + sum(map(len, scenes.values()))
    artist = Artist(load_model(model, "judged"), config.judge, count)
    held: list[tuple[Tensor, Tensor]] = []  # features of what is held out, drawn and real
    for group in groups:
        subjects = [corpus.entries[row].subject for row in group.rows]
        begun = time.perf_counter()
        pictures = yield from artist.draw([f"{s}, {group.style}" for s in subjects])
        seconds = (time.perf_counter() - begun) / len(pictures)
        real = features(network, corpus.pictures[group.rows])
        others, title = bank.without_style(group.style), group.title
        drawn = features(network, pictures)
        held += [(drawn, real)] if group.part in (PAIRS, NEW) else []
        found = recognised(drawn, real, subjects, others, title)
        found.append(record(f"{title}, seconds a picture", seconds, "s", len(pictures)))
        records += found
        sheet = folder / f"{title.replace(', ', '-').replace(' ', '-')}.png"
        yield StageArtifact("card", str(write_sheet(pictures, sheet)))
        yield _told(found, len(records))
    placed = []
    for size, prompts in scenes.items():
        pictures = yield from artist.draw(prompts, size)
        placed += zip(prompts, pictures, strict=True)
    for found in (
        all_held_out(held),
        placements(placed),
        reconstructions(corpus, examined, network, config),
        memory(),
    ):
        records += found
        yield from [_told(found, len(records))] if found else []
    write_text(folder / FIGURES, json.dumps(records, indent=1))
    yield StageArtifact("card", str(folder / FIGURES))


def _told(found: Sequence[dict], count: int) -> StageProgress:
    metrics = {r["metric"]: float(r["value"]) for r in found}
    return StageProgress("card", count, count, None, metrics)


def _bank(
    network: nn.Module, corpus: Corpus, judged: set[str]
) -> Generator[StageProgress, None, Bank]:
    """Make the judge's bank, telling how far it is."""
    rows = bank_rows(corpus, (*EMOJI_STYLES, *(judged & {SKETCH, INK})))
    parts: list[Bank] = []
    done, begun = 0, time.perf_counter()
    yield StageProgress("features", 0, len(rows), None)
    for part in bank_parts(network, corpus, rows):
        parts.append(part)
        done += len(part.subjects)
        left = (time.perf_counter() - begun) / done * (len(rows) - done)
        yield StageProgress("features", done, len(rows), left)
    return Bank.joined(parts)


def groups_of(corpus: Corpus, model: Examined, config: EvaluationConfig) -> list[Group]:
    """Return what is drawn: the judged styles of a model, each part of the split by itself."""
    found = [
        Group(style, name, _chosen(corpus, model, style, part, config.pictures))
        for style in model.styles
        if style in JUDGED
        for name, part in model.parts(corpus, style).items()
    ]
    return [group for group in found if len(group.rows) > 1]


def _chosen(
    corpus: Corpus, model: Examined, style: str, part: tuple[str, ...], count: int
) -> np.ndarray:
    """Return up to `count` rows of a style, evenly spread, that a model can be asked for.

    A new subject is new to every model; of the others only those that this one was shown.
    """
    wanted = None if part == (NEW_SUBJECT,) else model.subjects
    rows = corpus.rows(wanted, (style,), part)
    rows = np.array([r for r in rows if corpus.entries[r].source != CLIP_ART], dtype=int)
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(int)]


def recognised(
    found: Tensor, real: Tensor, subjects: Sequence[str], others: Bank, title: str
) -> list[dict]:
    """Figures of drawn features (N, F) beside the real pictures' (N, F) of the same subjects."""
    drawn_rates, real_rates = (
        hit_rates([rank(f, s, others) for f, s in zip(of, subjects, strict=True)])
        for of in (found, real)
    )
    count = len(subjects)
    precision, recall = precision_and_recall(found, real)
    nearest = 1 - (found @ real.T).max(dim=1).values.mean()
    return [
        *(
            record(f"{title}, {k.replace('_', ' ')}", drawn_rates[k], "share", count)
            | {"ratio_to": f"real pictures, {real_rates[k]:.2f}"}
            | {"ratio": drawn_rates[k] / max(real_rates[k], 1e-9)}
            for k in ("first_1", "first_5")
        ),
        record(f"{title}, Frechet distance", frechet_distance(found, real), "", count),
        record(f"{title}, precision", precision, "share", count),
        record(f"{title}, recall", recall, "share", count),
        record(f"{title}, distance to the nearest real picture", float(nearest), "", count),
    ]


def all_held_out(held: Sequence[tuple[Tensor, Tensor]]) -> list[dict]:
    """Compare all that was drawn of what is held out with all real pictures of it, as two sets."""
    if not held:
        return []
    drawn, real = (torch.cat(sides) for sides in zip(*held, strict=True))
    precision, recall = precision_and_recall(drawn, real)
    distance = frechet_distance(drawn, real)
    return [
        record(f"{ALL_HELD_OUT}, Frechet distance", distance, "", len(drawn)),
        record(f"{ALL_HELD_OUT}, precision", precision, "share", len(drawn)),
        record(f"{ALL_HELD_OUT}, recall", recall, "share", len(drawn)),
    ]


def compositions(model: Examined, config: EvaluationConfig) -> dict[tuple[int, int], list[str]]:
    """Return what is asked for in each frame: subjects on a side and of a size."""
    known = sorted(model.subjects)
    subjects = known[:: max(len(known) // config.subjects, 1)][: config.subjects]
    return {
        size: [
            f"{shot} of {noun(subject)} {place}, {model.styles[0]}"
            for shot, share in SHOTS.items()
            for place in PLACES
            if share * min(size) <= SIDED * size[0]
            for subject in subjects
        ]
        for size in model.sizes
    }


def placements(drawn: Sequence[tuple[str, np.ndarray]]) -> list[dict]:
    """Is the subject on the side and of the size that the caption asks for?"""
    placed: dict[str, list[bool]] = {}
    sized: dict[str, list[bool]] = {}
    for prompt, picture in drawn:
        asked, found = read_caption(prompt), placement(picture)
        place, shot, size = asked.place or "", asked.shot or "", picture.shape[1::-1]
        placed.setdefault(place, []).append(in_place(found, place))
        sized.setdefault(shot, []).append(at_size(found, shot, size))
    sides = [right for place in ("on the left", "on the right") for right in placed[place]]
    return [
        record(SIDES, float(np.mean(sides)), "share", len(sides)),
        *(
            record(f"scenes, {name}", float(np.mean(hits)), "share", len(hits))
            for name, hits in {**placed, **sized}.items()
        ),
        record(
            "scenes, of the size that was asked for",
            float(np.mean([hit for hits in sized.values() for hit in hits])),
            "share",
            sum(map(len, sized.values())),
        ),
    ]


def reconstructions(
    corpus: Corpus, model: Examined, network: nn.Module, config: EvaluationConfig
) -> list[dict]:
    """PSNR, SSIM and the distance of features of pictures that went through the autoencoder.

    Of held-out pictures; an autoencoder of an earlier training was shown the whole corpus.
    """
    held = corpus.has_split and model.split == SPLIT
    before = f"pictures {SEEN_BEFORE}" if model.shown_before else "held-out pictures"
    where = before if held else "seen pictures"
    parts = (NEW_PAIR, NEW_SUBJECT) if held else (TRAIN, NEW_PAIR, NEW_SUBJECT)
    rows = corpus.rows(None, model.styles, parts)
    if len(rows) < 2:
        return []
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), config.reconstructions)).astype(int)]
    vae = AutoencoderKL.from_pretrained(
        model.folder / "vae", local_files_only=True, torch_dtype=torch.float32
    ).eval()
    pictures = np.asarray(corpus.pictures[rows])
    rebuilt = np.concatenate(
        [decode(vae, encode(vae, pictures[i : i + 32])) for i in range(0, len(pictures), 32)]
    )
    greys = [
        torch.from_numpy(p.astype(np.float64) @ (0.299, 0.587, 0.114)) for p in (pictures, rebuilt)
    ]
    distance = frechet_distance(features(network, rebuilt), features(network, pictures))
    name, count = f"autoencoder, {where}", len(rows)
    return [
        record(f"{name}, PSNR", psnr(pictures, rebuilt), "dB", count),
        record(f"{name}, SSIM", ssim(*greys), "", count),
        record(f"{name}, Frechet distance of features", distance, "", count),
    ]


def memory() -> list[dict]:
    """Peak memory of this process, and of the GPU where there is one."""
    found = [
        record("peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MB", None)
    ]
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
        found.append(record("peak memory of the GPU", peak, "MB", None))
    return found


def record(metric: str, value: float, unit: str, n: int | None) -> dict:
    """Return one figure in the form of the benchmarks."""
    return {"metric": metric, "value": value, "unit": unit, "n": n}

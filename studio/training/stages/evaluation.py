"""How good a starter model is: recognised, varied, placed, how fast; on what it saw and did not.

Every figure is of uncurated pictures from one seed. Beside each rate stands what the real pictures
of the same subjects reach, which is what a perfect model would. A model says by which split it was
trained (`easel.json`); for one that says none, or a corpus without one, every picture counts as
seen, and the figures say so.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from studio.core.events import Event, StageArtifact, StageProgress
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
from studio.training.stages.judge import (
    Bank,
    JudgeConfig,
    build_bank,
    draw,
    features,
    hit_rates,
    load_network,
    rank,
    write_sheet,
)

FIGURES = "figures.json"
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
        )

    def parts(self, corpus: Corpus) -> dict[str, tuple[str, ...]]:
        """Return the parts of the split that are told apart, by what they are called."""
        if corpus.has_split and self.split == SPLIT:
            return {
                "seen": (TRAIN,),
                "held-out pairs": (NEW_PAIR,),
                "held-out subjects": (NEW_SUBJECT,),
            }
        return {"seen": (TRAIN, NEW_PAIR, NEW_SUBJECT)}


def evaluate(
    corpus: Corpus, model: Path, config: EvaluationConfig, folder: Path
) -> Iterator[Event]:
    """Draw, measure, and write `figures.json` and sheets to `folder`.

    Yields `StageProgress` after each group of pictures, with its figures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examined = Examined.read(model)
    parts, network = examined.parts(corpus), load_network()
    loaded = load_model(model, "judged")
    records: list[dict] = []
    if "held-out pairs" not in parts:
        why = "the corpus has none" if not corpus.has_split else "the model was trained before it"
        note = f"no held-out split ({why}): all figures are on pictures that were trained on"
        records.append(record(note, 0, "held-out pictures", None))
    judged = [s for s in examined.styles if s in (*EMOJI_STYLES, SKETCH, INK)]
    bank = build_bank(network, corpus, (*EMOJI_STYLES, *(s for s in judged if s in (SKETCH, INK))))
    for style in judged:
        for name, part in parts.items():
            rows = _chosen(corpus, examined, style, part, config.pictures)
            if len(rows) < 2:
                continue
            subjects = [corpus.entries[row].subject for row in rows]
            begun = time.perf_counter()
            pictures = draw(loaded, [f"{s}, {style}" for s in subjects], config.judge)
            seconds = (time.perf_counter() - begun) / len(pictures)
            real = features(network, corpus.pictures[rows])
            others, title = bank.without_style(style), f"{style}, {name}"
            found = recognised(features(network, pictures), real, subjects, others, title)
            found.append(record(f"{title}, seconds a picture", seconds, "s", len(pictures)))
            records += found
            sheet = folder / f"{title.replace(', ', '-').replace(' ', '-')}.png"
            yield StageArtifact("card", str(write_sheet(pictures, sheet)))
            metrics = {r["metric"]: float(r["value"]) for r in found}
            yield StageProgress("card", len(records), len(records), None, metrics)
    for found in (
        compositions(examined, loaded, config),
        reconstructions(corpus, examined, network, parts, config),
        memory(),
    ):
        records += found
        metrics = {r["metric"]: float(r["value"]) for r in found}
        yield StageProgress("card", len(records), len(records), None, metrics)
    (folder / FIGURES).write_text(json.dumps(records, indent=1), encoding="utf-8")
    yield StageArtifact("card", str(folder / FIGURES))


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


def compositions(
    model: Examined, loaded: LatentDiffusionModel, config: EvaluationConfig
) -> list[dict]:
    """Is the subject on the side and of the size that the caption asks for, in every frame?"""
    known = sorted(model.subjects)
    subjects = known[:: max(len(known) // config.subjects, 1)][: config.subjects]
    placed: dict[str, list[bool]] = {}
    sized: dict[str, list[bool]] = {}
    for size in model.sizes:
        prompts = [
            f"{shot} of {noun(subject)} {place}, {model.styles[0]}"
            for shot, share in SHOTS.items()
            for place in PLACES
            if share * min(size) <= SIDED * size[0]
            for subject in subjects
        ]
        pictures = draw(loaded, prompts, replace(config.judge, size=size))
        for prompt, picture in zip(prompts, pictures, strict=True):
            asked, found = read_caption(prompt), placement(picture)
            placed.setdefault(asked.place or "", []).append(in_place(found, asked.place or ""))
            sized.setdefault(asked.shot or "", []).append(at_size(found, asked.shot or "", size))
    sides = [right for place in ("on the left", "on the right") for right in placed[place]]
    return [
        record(
            "scenes, on the side that was asked for", float(np.mean(sides)), "share", len(sides)
        ),
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
    corpus: Corpus,
    model: Examined,
    network: nn.Module,
    parts: dict[str, tuple[str, ...]],
    config: EvaluationConfig,
) -> list[dict]:
    """PSNR, SSIM and the distance of features of pictures that went through the autoencoder."""
    held = tuple(part for name, names in parts.items() if name != "seen" for part in names)
    where = "held-out" if held else "seen"
    rows = corpus.rows(None, model.styles, held or parts["seen"])
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
    name, count = f"autoencoder, {where} pictures", len(rows)
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

"""The model card: what a trained starter model is, how good, what it learned from, as Markdown.

Everything on it is read from the model's folder, the corpus, the stages' folders and the figures
of the evaluation and of the CLIP stage. Nothing is chosen by hand; the sheet shows one picture a
subject from one seed. Who adds to a card says so on it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from studio.training.dataset.corpus import Corpus, drawn_rows
from studio.training.dataset.packages import PACKAGES
from studio.training.dataset.split import TRAIN
from studio.training.stages.clip import FIGURES as CLIP_FIGURES
from studio.training.stages.evaluation import (
    ALL_HELD_OUT,
    FIGURES,
    JUDGED,
    PAIRS,
    SEEN,
    SIDES,
    Examined,
    record,
)
from studio.training.stages.export import write_picture, write_text
from studio.training.stages.profiles import Profile
from studio.training.stages.warm_start import began_from

WEIGHTS: Mapping[str, str] = MappingProxyType(  # file of a part, and what it is
    {
        "vae/diffusion_pytorch_model.safetensors": "`vae` (`AutoencoderKL`, f = 8, 4 channels)",
        "text_encoder/model.safetensors": "`text_encoder` (`CLIPTextModel`)",
        "image_encoder/model.safetensors": "`image_encoder` (`CLIPVisionModelWithProjection`)",
        "unet/diffusion_pytorch_model.safetensors": "`unet` (`UNet2DConditionModel`)",
    }
)


GOALS: Mapping[str, tuple[str, float]] = MappingProxyType(  # of a model trained on a GPU
    {
        "seen pairs, in the first five, all judged styles": (f", {SEEN}, first 5", 0.8),
        "held-out pairs, in the first five, all judged styles": (f", {PAIRS}, first 5", 0.6),
        SIDES: (SIDES, 0.7),
    }
)


def write_card(corpus: Corpus, model: Path, profile: Profile, folders: Path) -> Path:
    """Write `MODEL_CARD.md` and `samples.png` into the model's folder; return the card's path.

    folders: those of all stages; the evaluation has written to `folders/card`.
    """
    records = json.loads((folders / "card" / FIGURES).read_text(encoding="utf-8"))
    examined = Examined.read(model)
    _samples(folders / "card", model / "samples.png")
    lines = [
        *_what_it_is(examined),
        "## How it was made",
        "",
        "By the stages of `python launch.py train`; no weights of anybody else's are in it. The "
        "text tower was taught by a sentence encoder's vectors.",
        "",
        "| Part | Megabytes in fp16 |",
        "|---|---|",
        *(f"| {what} | {(model / f).stat().st_size / 1e6:.1f} |" for f, what in WEIGHTS.items()),
        "",
        *_training(profile, folders),
        "",
        "## Figures",
        "",
        *_judged(profile, examined),
        "",
        *_goals(records),
        "",
        *_table([*records, *_of_clip(folders / "clip" / CLIP_FIGURES)]),
        "",
        "## Data, licences, attribution",
        "",
        *_licences(corpus, profile),
        "",
        "The weights are released under Easel's licence (Apache-2.0). They learned from the "
        "pictures above; when you publish pictures that look like one of them, credit its makers.",
        "",
        "## Limits",
        "",
        "Outside its subjects it guesses. It knows nothing of text, of real people or of real "
        "places, and must not be used for anything that has to be true, safe or fair.",
        "",
    ]
    path = model / "MODEL_CARD.md"
    write_text(path, "\n".join(lines))
    return path


def _what_it_is(model: Examined) -> list[str]:
    """Return the head of the card: subjects, sizes, styles and how to ask."""
    width, height = model.sizes[0]
    others = ", ".join(f"{w} x {h}" for w, h in model.sizes[1:])
    frames = f" and in frames of {others}" if others else ""
    return [
        "# Easel starter model",
        "",
        f"A small latent diffusion model: {len(model.subjects):,} subjects at {width} x {height} "
        f"pixels{frames}, in these styles: {', '.join(model.styles)}. A plain "
        "diffusers folder: `StableDiffusionPipeline.from_pretrained` draws with it as it stands.",
        "",
        "![One picture a subject from one seed, nothing chosen](samples.png)",
        "",
        f"Prompts look like its captions: `red apple, flat illustration`{_composed(model)}. Its "
        "subjects are in [subjects.txt](subjects.txt).",
        "",
    ]


def _composed(model: Examined) -> str:
    if not model.words:
        return " (it was shown scenes as well, too seldom to compose any)"
    return (
        ", `wide shot of a red apple on the left, in the desert, at sunset, flat illustration`, "
        "`three owls, 3d render`"
    )


def _training(profile: Profile, folders: Path) -> list[str]:
    """Return the table of the stages: steps and batch."""
    unet = profile.unet
    start = f", from the weights of '{title}'" if (title := began_from(folders / "unet")) else ""
    batches = {
        "autoencoder": ("autoencoder", profile.autoencoder.batch_size),
        "decoder": ("its decoder, further", profile.autoencoder.batch_size),
        "clip": ("clip", profile.clip.batch_size),
        "unet": (f"unet{start}", unet.batch_size),
    }
    rows = [
        f"| {name} | {steps:,} | {batch} |"
        for stage, (name, batch) in batches.items()
        if (steps := _steps(folders / stage)) or stage != "decoder"
    ]
    return [
        "| Stage | Steps | Batch |",
        "|---|---|---|",
        *rows,
        "",
        f"Cosine schedule, {unet.prediction_type.replace('_', '-')}, caption dropout "
        f"{unet.caption_dropout:.0%}, exponential moving average.",
    ]


def _steps(folder: Path) -> int:
    """Return how many steps a stage has taken; 0 where no checkpoint is left."""
    found = sorted(folder.glob("checkpoint-????????"))
    return int(found[-1].name[-8:]) if found else 0


def _judged(profile: Profile, model: Examined) -> list[str]:
    """Say who judges, and what is compared with what."""
    judge = (
        "Judged by EfficientNet-Lite0 features: one picture a subject, nearest among the real "
        "pictures of all emoji subjects in the other styles."
    )
    if profile.autoencoder.perceptual_weight:
        judge += " Early maps of the same network were part of the autoencoder's loss."
    if others := [style for style in model.styles if style not in JUDGED]:
        judge += (
            f" There are no figures of {' and '.join(others)}: too few of their subjects are among "
            "those that the judge knows."
        )
    return [
        judge,
        "",
        "Frechet distance, precision and recall of a row compare what was drawn with the real "
        f"pictures of the same subjects in the same style; those of '{ALL_HELD_OUT}', all that was "
        "drawn of held-out pairs and subjects with all real pictures of them.",
    ]


def _goals(records: Sequence[dict]) -> list[str]:
    """Return the goals beside what was reached, pictures of all styles counted alike."""
    lines = ["| Goal, of a model trained on a GPU | goal | this model | n |", "|---|---|---|---|"]
    for name, (ending, goal) in GOALS.items():
        found = [(r["value"], r["n"]) for r in records if r["metric"].endswith(ending)]
        count = sum(n for _, n in found)
        reached = f"{sum(v * n for v, n in found) / count:.0%}" if count else "not measured"
        lines.append(f"| {name} | {goal:.0%} | {reached} | {f'{count:,}' if count else ''} |")
    return lines


def _of_clip(path: Path) -> list[dict]:
    """Return what the CLIP stage measured at its end, as records; [] where it kept nothing."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    return [
        record(f"CLIP pair, {name.replace('_', ' ')}", value, "share", None)
        for name, value in found.items()
    ]


def _table(records: Sequence[dict]) -> list[str]:
    """Return all figures as a table; beside each rate what real pictures reach."""
    return [
        "| | | n | |",
        "|---|---|---|---|",
        *(
            f"| {r['metric']} | {r['value']:.3g} {r['unit']} | {r['n'] or ''} "
            f"| {r.get('ratio_to', '')} |"
            for r in records
        ),
    ]


def _licences(corpus: Corpus, profile: Profile) -> list[str]:
    """Return the table of the pictures' sources, and how many of each were learned from.

    Autoencoder and CLIP pair learn from the whole training split, the U-Net from what it draws.
    """
    used = Counter(e.source for e in corpus.entries if e.split == TRAIN)
    rows = drawn_rows(corpus, profile.unet.everything)
    drawn = Counter(corpus.entries[row].source for row in rows)
    return [
        "| Pictures | Autoencoder, CLIP pair | U-Net | Licence |",
        "|---|---|---|---|",
        *(
            f"| {p.credit} | {used[p.name]:,} | {drawn[p.name]:,} | {p.licence} |"
            for p in PACKAGES
            if used[p.name]
        ),
    ]


def _samples(figures: Path, path: Path) -> None:
    """Put the top of every sheet of seen subjects below each other."""
    sheets = [Image.open(p).convert("RGB") for p in sorted(figures.glob("*-seen.png"))]
    if not sheets:
        return
    width = min(sheet.width for sheet in sheets)
    tops = [np.asarray(sheet.crop((0, 0, width, min(sheet.height, 256)))) for sheet in sheets]
    write_picture(Image.fromarray(np.concatenate(tops)), path)

"""The model card: what a trained starter model is, how good, what it learned from, as Markdown.

Everything on it is read from the model's folder, from the corpus and from the evaluation's figures.
Nothing is chosen by hand; the sheet shows one picture a subject from one seed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from studio.training.dataset.corpus import Corpus
from studio.training.dataset.packages import PACKAGES
from studio.training.dataset.split import TRAIN
from studio.training.stages.evaluation import FIGURES, Examined
from studio.training.stages.profiles import Profile

WEIGHTS: Mapping[str, str] = MappingProxyType(  # file of a part, and what it is
    {
        "vae/diffusion_pytorch_model.safetensors": "`vae` (`AutoencoderKL`, f = 8, 4 channels)",
        "text_encoder/model.safetensors": "`text_encoder` (`CLIPTextModel`)",
        "image_encoder/model.safetensors": "`image_encoder` (`CLIPVisionModelWithProjection`)",
        "unet/diffusion_pytorch_model.safetensors": "`unet` (`UNet2DConditionModel`)",
    }
)


def write_card(
    corpus: Corpus, model: Path, profile: Profile, steps: dict[str, int], figures: Path
) -> Path:
    """Write `MODEL_CARD.md` and `samples.png` into the model's folder; return the card's path.

    steps: of each trained stage; figures: the folder that the evaluation wrote to.
    """
    records = json.loads((figures / FIGURES).read_text(encoding="utf-8"))
    _samples(figures, model / "samples.png")
    judge = (
        "Judged by EfficientNet-Lite0 features: one picture a subject, nearest among the real "
        "pictures of all emoji subjects in the other styles."
    )
    if profile.autoencoder.perceptual_weight:
        judge += " Early maps of the same network were part of the autoencoder's loss."
    lines = [
        *_what_it_is(Examined.read(model)),
        "## How it was made",
        "",
        "`python launch.py train all`; no weights of anybody else's are in it. The text tower was "
        "taught by a sentence encoder's vectors.",
        "",
        "| Part | Megabytes in fp16 |",
        "|---|---|",
        *(f"| {what} | {(model / f).stat().st_size / 1e6:.1f} |" for f, what in WEIGHTS.items()),
        "",
        *_training(profile, steps),
        "",
        "## Figures",
        "",
        judge,
        "",
        *_table(records),
        "",
        "## Data, licences, attribution",
        "",
        *_licences(corpus),
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
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _what_it_is(model: Examined) -> list[str]:
    """Return the head of the card: subjects, sizes, styles and how to ask."""
    width, height = model.sizes[0]
    sizes = ", ".join(f"{w} x {h}" for w, h in model.sizes[1:])
    return [
        "# Easel starter model",
        "",
        f"A small latent diffusion model: {len(model.subjects):,} subjects at {width} x {height} "
        f"pixels and in frames of {sizes}, in these styles: {', '.join(model.styles)}. A plain "
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


def _training(profile: Profile, steps: dict[str, int]) -> list[str]:
    """Return the table of the stages: steps and batch."""
    batches = {
        "autoencoder": profile.autoencoder.batch_size,
        "clip": profile.clip.batch_size,
        "unet": profile.unet.batch_size,
    }
    rows = [f"| {s} | {steps.get(s, 0):,} | {batch} |" for s, batch in batches.items()]
    unet = profile.unet
    return [
        "| Stage | Steps | Batch |",
        "|---|---|---|",
        *rows,
        "",
        f"Cosine schedule, {unet.prediction_type.replace('_', '-')}, caption dropout "
        f"{unet.caption_dropout:.0%}, exponential moving average.",
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


def _licences(corpus: Corpus) -> list[str]:
    """Return the table of the pictures' sources."""
    used = Counter(e.source for e in corpus.entries if e.split == TRAIN)
    return [
        "| Pictures | Trained on | Licence |",
        "|---|---|---|",
        *(f"| {p.credit} | {used[p.name]:,} | {p.licence} |" for p in PACKAGES if used[p.name]),
    ]


def _samples(figures: Path, path: Path) -> None:
    """Put the top of every sheet of seen subjects below each other."""
    sheets = [Image.open(p).convert("RGB") for p in sorted(figures.glob("*-seen.png"))]
    if not sheets:
        return
    width = min(sheet.width for sheet in sheets)
    tops = [np.asarray(sheet.crop((0, 0, width, min(sheet.height, 256)))) for sheet in sheets]
    Image.fromarray(np.concatenate(tops)).save(path)

"""The judge: is a picture the thing that was asked for?

Frozen EfficientNet-Lite0 features (ImageNet) of a picture at 160 pixels
are compared by cosine with those of the real pictures of all corpus subjects in the *other* styles,
so that a memorised picture cannot find itself. A subject counts as found in the first k when it is
among the k nearest different subjects. Beside it stands the distance to the nearest training
picture: a value near 0 would mean a copy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from studio.core.events import Event, StageArtifact, StageProgress
from studio.diffusion.denoise import SchedulerTransition, denoise
from studio.diffusion.latents import decode, initial_latents, picture_generators, to_uint8
from studio.diffusion.model import LatentDiffusionModel, load_model
from studio.diffusion.samplers import make_scheduler
from studio.diffusion.text import encode_prompts
from studio.training.dataset.corpus import Corpus, starter_subjects
from studio.training.dataset.sources import EMOJI_STYLES, INK, SKETCH, STYLES
from studio.training.preference.efficientnet import load_shipped_network
from studio.training.stages.export import write_picture, write_text

SIZE = 160  # pixels the judge sees
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class JudgeConfig:
    """What is drawn for the judge: one picture a subject and style."""

    styles: tuple[str, ...] = (STYLES[0].words, STYLES[1].words)
    steps: int = 20
    guidance_scale: float = 3.0
    sampler: str = "DDIM"
    seed: int = 1000  # of every picture
    batch: int = 16
    size: tuple[int, int] | None = None  # width, height in pixels; None: the model's own


@dataclass(frozen=True)
class Bank:
    """Features of real pictures, unit length, with the subject and style of each."""

    features: Tensor  # (N, F)
    subjects: tuple[str, ...]
    styles: tuple[str, ...]

    @classmethod
    def joined(cls, parts: Sequence[Bank]) -> Bank:
        """Make one bank of several."""
        return cls(
            torch.cat([part.features for part in parts]),
            tuple(subject for part in parts for subject in part.subjects),
            tuple(style for part in parts for style in part.styles),
        )

    def without_style(self, style: str) -> Bank:
        """The bank of the other styles, without what was derived from this one.

        Sketches and ink drawings are made from the 3-D renders: they serve no style as witnesses,
        and the renders do not serve them.
        """
        derived = {SKETCH, INK}
        out = {style} | derived | ({STYLES[0].words} if style in derived else set())
        keep = [i for i, s in enumerate(self.styles) if s not in out]
        return Bank(
            self.features[keep],
            tuple(self.subjects[i] for i in keep),
            tuple(self.styles[i] for i in keep),
        )


def load_network() -> nn.Module:
    """Load EfficientNet-Lite0 as Easel ships it, on a GPU where there is one."""
    return load_shipped_network("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def features(network: nn.Module, pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 -> pooled features of unit length (N, 1280)."""
    parts = []
    device = next(network.parameters()).device
    mean = torch.tensor(_IMAGENET_MEAN)[:, None, None]
    std = torch.tensor(_IMAGENET_STD)[:, None, None]
    for i in range(0, len(pictures), 64):
        batch = [_resize(p) for p in pictures[i : i + 64]]
        tensor = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255
        maps = network(((tensor - mean) / std).to(device))
        parts.append(nn.functional.normalize(maps.mean(dim=(2, 3)), dim=1).cpu())
    return torch.cat(parts)


def _resize(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def build_bank(
    network: nn.Module, corpus: Corpus, styles: Sequence[str] = (*EMOJI_STYLES, SKETCH)
) -> Bank:
    """Features of the real pictures in `styles`: the sets that name their subjects alike."""
    return Bank.joined(list(bank_parts(network, corpus, bank_rows(corpus, styles))))


def bank_rows(corpus: Corpus, styles: Sequence[str]) -> list[int]:
    """Return the rows of the real pictures that a bank of `styles` is made of."""
    return [i for i, e in enumerate(corpus.entries) if e.style in styles]


def bank_parts(
    network: nn.Module, corpus: Corpus, rows: Sequence[int], size: int = 512
) -> Iterator[Bank]:
    """Yield the bank of some rows in parts of `size` pictures, each some seconds of a CPU."""
    for i in range(0, len(rows), size):
        part = rows[i : i + size]
        entries = [corpus.entries[row] for row in part]
        found = features(network, _Rows(corpus.pictures, part))
        yield Bank(found, tuple(e.subject for e in entries), tuple(e.style for e in entries))


class _Rows(Sequence):
    """Some rows of an array that stays on the disk."""

    def __init__(self, pictures: np.ndarray, rows: Sequence[int]) -> None:
        self._pictures, self._rows = pictures, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._pictures[self._rows[part]]


def rank(feature: Tensor, subject: str, bank: Bank) -> int:
    """Place of `subject` among the different subjects nearest to `feature` (F,): 1 is first."""
    order = (bank.features @ feature).argsort(descending=True).tolist()
    seen: dict[str, None] = {}
    for i in order:
        seen.setdefault(bank.subjects[i])
        if bank.subjects[i] == subject:
            return len(seen)
    return len(seen) + 1


def hit_rates(ranks: Sequence[int]) -> dict[str, float]:
    """Share of subjects found first, in the first five and in the first ten."""
    found = np.asarray(ranks)
    return {f"first_{k}": float((found <= k).mean()) for k in (1, 5, 10)}


def judge(corpus: Corpus, model_folder: Path, config: JudgeConfig, folder: Path) -> Iterator[Event]:
    """Draw every subject in every style, judge it, and write `judge.json` and sheets."""
    folder.mkdir(parents=True, exist_ok=True)
    network = load_network()
    bank = build_bank(network, corpus)
    subjects = [s for s in starter_subjects() if s in set(bank.subjects)]
    figures: dict[str, dict[str, float]] = {}
    for number, style in enumerate(config.styles, 1):
        pictures = draw(model_folder, [f"{s}, {style}" for s in subjects], config)
        found = features(network, pictures)
        others = bank.without_style(style)
        ranks = [rank(f, s, others) for f, s in zip(found, subjects, strict=True)]
        nearest = found @ bank.features[[s == style for s in bank.styles]].T
        figures[style] = {
            **hit_rates(ranks),
            "distance_to_nearest_training_picture": float(1 - nearest.max(dim=1).values.mean()),
            **_real_rates(bank, style, subjects),
        }
        sheet = write_sheet(pictures, folder / f"{style.replace(' ', '-')}.png")
        missed = [s for s, r in zip(subjects, ranks, strict=True) if r > 5]
        write_text(folder / f"{style.replace(' ', '-')}-missed.txt", "\n".join(missed))
        yield StageArtifact("judge", str(sheet))
        yield StageProgress("judge", number, len(config.styles), None, figures[style])
    write_text(folder / "judge.json", json.dumps(figures, indent=2))
    yield StageArtifact("judge", str(folder / "judge.json"))


def _real_rates(bank: Bank, style: str, subjects: Sequence[str]) -> dict[str, float]:
    """The same figures for the real pictures of the subjects: what a perfect model would reach."""
    others = bank.without_style(style)
    wanted = set(subjects)
    ranks = [
        rank(bank.features[i], s, others)
        for i, (s, st) in enumerate(zip(bank.subjects, bank.styles, strict=True))
        if st == style and s in wanted
    ]
    return {f"real_{k}": v for k, v in hit_rates(ranks).items()}


def draw(
    model: Path | LatentDiffusionModel, prompts: Sequence[str], config: JudgeConfig
) -> list[np.ndarray]:
    """Draw each prompt once, at one size and from one seed.

    The studio's own loop, with several prompts in a batch: (H, W, 3) uint8 each.
    """
    if isinstance(model, Path):
        model = load_model(model, "judged")
    shape = model.latent_shape(*(config.size or model.native_size))
    null = encode_prompts(model, [""])
    drawn: list[np.ndarray] = []
    for i in range(0, len(prompts), config.batch):
        batch = prompts[i : i + config.batch]
        generators = picture_generators([config.seed] * len(batch))
        scheduler = make_scheduler(config.sampler, model.scheduler_config, config.steps)
        transition = SchedulerTransition(scheduler, generators)
        embeds = torch.cat([null.expand(len(batch), -1, -1), encode_prompts(model, batch)])
        noise = initial_latents(generators, shape).to(model.device)
        latents = transition.begin(noise)
        for step in denoise(model.unet, latents, embeds, transition, config.guidance_scale):
            latents = step.latents
        drawn.extend(to_uint8(decode(model.vae, latents)))
    return drawn


def write_sheet(pictures: Sequence[np.ndarray], path: Path, columns: int = 21) -> Path:
    """Write pictures of one shape as a sheet, row by row; return its path."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    write_picture(sheet, path)
    return path

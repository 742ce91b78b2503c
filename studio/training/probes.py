"""Probes: what is measured about the pictures of a run and never optimised.

A policy that learns to please a reward too well changes what nobody asked it to: everything turns
alike, or away from its prompt. These figures come from pictures of held-out prompts at fixed seeds
and do not pass through the reward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.diffusion.denoise import SchedulerTransition, denoise
from studio.diffusion.latents import decode, initial_latents, picture_generators, to_uint8
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.safetensors_header import check_safetensors
from studio.diffusion.samplers import DDIM, make_scheduler
from studio.diffusion.text import tokenize
from studio.training.preference.features import load_clip, load_encoder
from studio.training.rewards import Images, luma, saturation
from studio.training.rollout import TextFeatures
from studio.training.stages.judge import features, load_network

FIDELITY = "prompt_fidelity"
DIVERSITY = "diversity"
Embed = Callable[[Images], NDArray[np.float32]]  # (B, H, W, 3) -> (B, D)


@dataclass(frozen=True)
class ProbeTools:
    """What the probes look through."""

    embed: Embed
    text: Callable[[str], Tensor] | None  # prompt -> (D,) in the pictures' space; None: no probe


@dataclass(frozen=True)
class LookPlan:
    """Which pictures are drawn after each epoch: the same prompts and seeds every time."""

    prompts: tuple[str, ...]  # one a picture
    seeds: tuple[int, ...]  # one a picture
    size: tuple[int, int]  # width, height in pixels
    steps: int
    guidance_scale: float
    batch: int


def load_tools(model: LatentDiffusionModel, folder: Path) -> ProbeTools:
    """Use the model folder's own picture encoder where it ships one, else Easel's.

    Without one, whose space it shares with the prompts, there is no probe of prompt fidelity.
    """
    tower, projection = (
        folder / "image_encoder",
        folder / "text_encoder/text_projection.safetensors",
    )
    if not (tower / "config.json").is_file() or not projection.is_file():
        return ProbeTools(load_encoder(device=str(model.device)).embed, None)
    check_safetensors(projection)
    matrix = load_file(projection)["text_projection.weight"].float().to(model.device)

    @torch.no_grad()
    def text(prompt: str) -> Tensor:
        tokens = tokenize(model, prompt)
        found = model.text_encoder(tokens.input_ids.to(model.device)).pooler_output.float()
        return nn.functional.normalize(found @ matrix.T, dim=1)[0].cpu()

    return ProbeTools(load_clip(tower, model.device).embed, text)


@torch.no_grad()
def draw_look(
    model: LatentDiffusionModel, texts: TextFeatures, plan: LookPlan
) -> Iterator[int | Images]:
    """Draw the pictures as an artist would, without chance in the steps; the last thing is them.

    Yields after every U-Net call how many pictures it drew a step of.
    """
    parts = []
    for first in range(0, len(plan.prompts), plan.batch):
        rows = slice(first, first + plan.batch)
        generators = picture_generators(plan.seeds[rows])
        scheduler = make_scheduler(DDIM, model.scheduler_config, plan.steps)
        transition = SchedulerTransition(scheduler, generators)
        latents = initial_latents(generators, model.latent_shape(*plan.size)).to(model.device)
        embeds = texts.batch(plan.prompts[rows], plan.guidance_scale)
        for step in denoise(model.unet, latents, embeds, transition, plan.guidance_scale):
            latents = step.latents
            yield len(latents)
        parts.append(to_uint8(decode(model.vae, latents)))
    yield np.concatenate(parts)


def probe(images: Images, prompts: Sequence[str], tools: ProbeTools) -> dict[str, float]:
    """Return each probe's figure for pictures (B, H, W, 3) of these prompts."""
    light = luma(images)
    embedded = torch.from_numpy(tools.embed(images)).float()
    figures = {
        "brightness": float(light.mean()),
        "saturation": float(saturation(images, prompts).mean()),
        "sharpness": float(np.mean([sharpness(picture) for picture in light])),
        DIVERSITY: diversity(embedded),
    }
    if tools.text is not None:
        texts = torch.stack([tools.text(prompt) for prompt in prompts])
        cosines = (nn.functional.normalize(embedded, dim=1) * texts).sum(1)
        figures[FIDELITY] = float(cosines.mean())
    return figures


def sharpness(light: NDArray[np.float64]) -> float:
    """Return the mean size of the Laplacian of a picture's brightness (H, W)."""
    inner = light[1:-1, 1:-1]
    around = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:]
    return float(np.abs(4 * inner - around).mean())


def likeness(images: Images, others: Images) -> float:
    """Return the mean cosine of pictures (B, H, W, 3) with those of the same prompts and seeds.

    On features of a frozen classifier (`judge.features`), which tells things, not looks: where it
    falls by some hundredths, subjects begin to fade, whatever the prompt fidelity says.
    """
    network = load_network()
    return float((features(network, list(images)) * features(network, list(others))).sum(1).mean())


def diversity(embedded: Tensor) -> float:
    """Return the mean cosine distance between two pictures' embeddings (B, D); 0 when alike."""
    count = len(embedded)
    if count < 2:
        return 0.0
    unit = nn.functional.normalize(embedded.double(), dim=1)
    cosines = unit @ unit.T
    return float(1 - (cosines.sum() - cosines.trace()) / (count * (count - 1)))

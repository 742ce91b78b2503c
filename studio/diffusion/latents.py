"""Latents: where they come from (noise), and where they go (pixels, previews)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

MAX_PREVIEW_SIDE = 512  # pixels
_PREVIEW_QUALITY = 80  # JPEG
_MAX_EASEL_JSON = 1_000_000  # bytes


@dataclass(frozen=True)
class LatentRgb:
    """A linear guess at a picture: rgb = latents @ matrix + bias, rgb in [-1, 1]."""

    matrix: tuple[tuple[float, float, float], ...]  # one row a latent channel
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)


# Fitted by the community on Stable Diffusion 1.x' autoencoder; scaled latents in, [-1, 1] out.
STABLE_DIFFUSION_LATENT_RGB = LatentRgb(
    (
        (0.298, 0.207, 0.208),
        (0.187, 0.286, 0.173),
        (-0.158, 0.189, 0.264),
        (-0.184, -0.271, -0.473),
    )
)


def picture_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one CPU generator a picture, so that neither batch nor device changes its noise."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def initial_latents(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """Draw standard normal noise (B, C, h, w) in fp32 on the CPU, one generator a picture."""
    return torch.cat([torch.randn((1, *shape), generator=g) for g in generators])


def varied_noise(noise: Tensor, other: Tensor, share: float) -> Tensor:
    """Turn noise (B, C, h, w) towards other noise by a share from 0 to 1 of the angle between.

    Spherical interpolation (Shoemake 1985) keeps the norm that the U-Net expects of noise.
    """
    a, b = noise.flatten(1), other.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(a, b)[:, None].clamp(-1, 1)
    angle = cosine.acos()
    straight = torch.lerp(a, b, share)
    turned = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return torch.where(angle.sin() > 1e-3, turned, straight).reshape(noise.shape)


def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w) in fp32: the likeliest ones."""
    latents = vae.encode(images.to(vae.dtype), return_dict=False)[0].mode().float()
    return (latents - (getattr(vae.config, "shift_factor", None) or 0)) * vae.config.scaling_factor


def from_uint8(pixels: np.ndarray) -> Tensor:
    """Return (B, H, W, 3) bytes as images (B, 3, H, W) in [-1, 1] on the CPU."""
    unit = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous() / 255
    return 2 * unit - 1


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Scaled latents (B, C, h, w) -> images (B, 3, H, W), nominally in [-1, 1], in fp32."""
    latents = latents.to(vae.dtype) / vae.config.scaling_factor
    if getattr(vae.config, "shift_factor", None):
        latents = latents + vae.config.shift_factor
    return vae.decode(latents, return_dict=False)[0].float()


def to_uint8(images: Tensor) -> np.ndarray:
    """Images (B, 3, H, W) in [-1, 1] -> (B, H, W, 3) bytes on the CPU."""
    unit = (images * 0.5 + 0.5).clamp(0, 1)
    return (unit.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)


def latent_to_rgb(latents: Tensor, factors: LatentRgb) -> np.ndarray:
    """Scaled latents (B, C, h, w) -> a rough picture (B, h, w, 3) of bytes, an eighth in size."""
    matrix = torch.tensor(factors.matrix, device=latents.device)
    bias = torch.tensor(factors.bias, device=latents.device)
    rgb = torch.einsum("bchw,cd->bhwd", latents.float(), matrix) + bias
    return (rgb * 127.5 + 127.5).nan_to_num().clamp(0, 255).byte().cpu().numpy()


def preview_jpeg(rgb: np.ndarray, size: tuple[int, int]) -> bytes:
    """One rough picture (h, w, 3) -> JPEG, smoothly enlarged to `size` (at most 512 a side)."""
    scale = min(1.0, MAX_PREVIEW_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    image = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_PREVIEW_QUALITY)
    return buffer.getvalue()


def fit_latent_rgb(latents: Tensor, images: Tensor) -> LatentRgb:
    """Fit the preview map by least squares.

    latents: scaled (B, C, h, w); images: (B, 3, H, W) in [-1, 1], averaged over each latent cell.
    """
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), latents.shape[-2:])
    inputs = latents.float().permute(0, 2, 3, 1).flatten(0, 2)
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
    targets = small.permute(0, 2, 3, 1).flatten(0, 2)
    solution = torch.linalg.lstsq(inputs.double(), targets.double()).solution.tolist()
    *matrix, bias = [tuple(round(x, 5) for x in row) for row in solution]
    return LatentRgb(tuple(matrix), bias)


def write_latent_rgb(folder: Path, factors: LatentRgb) -> None:
    """Store the map in the model folder's `easel.json`, keeping what else is there."""
    path = folder / "easel.json"
    values = json.loads(path.read_text("utf-8")) if path.exists() else {}
    values["latent_rgb"] = {"matrix": factors.matrix, "bias": factors.bias}
    path.write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def read_latent_rgb(folder: Path, channels: int) -> LatentRgb:
    """Read the map from `easel.json`; Stable Diffusion's when it is absent or malformed.

    A preview is a courtesy: a broken map must not keep a model from drawing.
    """
    path = folder / "easel.json"
    try:
        if path.stat().st_size > _MAX_EASEL_JSON:
            return _default_latent_rgb(channels)
        stored = json.loads(path.read_text("utf-8"))["latent_rgb"]
        matrix = tuple(_three_numbers(row) for row in stored["matrix"])
        bias = _three_numbers(stored.get("bias", (0, 0, 0)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _default_latent_rgb(channels)
    return LatentRgb(matrix, bias) if len(matrix) == channels else _default_latent_rgb(channels)


def _three_numbers(row: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(x) for x in row)
    return red, green, blue


def _default_latent_rgb(channels: int) -> LatentRgb:
    rows = STABLE_DIFFUSION_LATENT_RGB.matrix
    silent = (0.0, 0.0, 0.0)
    return LatentRgb(tuple(rows[i] if i < len(rows) else silent for i in range(channels)))

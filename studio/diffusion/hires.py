"""The second pass: draw small, enlarge, refine by image to image.

A U-Net that was trained at one size composes badly at twice that size; enlarging what it composed
well and refining the details does not have that problem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.core.errors import InvalidRequestError, ModelError
from studio.core.geometry import Size
from studio.core.request import LANCZOS, LATENT_UPSCALERS, GenerationRequest
from studio.diffusion.latents import from_uint8, to_uint8
from studio.diffusion.safetensors_header import check_safetensors
from studio.diffusion.tiles import tile_spans

_MODES: Mapping[str, str] = MappingProxyType(
    dict(zip(LATENT_UPSCALERS, ("bilinear", "nearest-exact", "bicubic"), strict=True))
)
_TILE = 256  # pixels a side that an upscaler's network sees at once


def has_second_pass(request: GenerationRequest) -> bool:
    """Whether the finished picture is larger than what is composed."""
    return request.hires_scale > 1


def enlarges_latents(request: GenerationRequest) -> bool:
    """Whether the second pass starts from enlarged latents rather than from enlarged pixels."""
    return request.hires_upscaler in LATENT_UPSCALERS


def second_pass_steps(request: GenerationRequest, trained: int) -> tuple[int, int]:
    """Return (steps of the schedule, how many of them are run) of the second pass.

    As in A1111 the wished number is run, so the schedule is longer by 1 / strength; `trained`
    timesteps bound it.
    """
    run, strength = request.hires_steps or request.steps, request.hires_strength
    if not has_second_pass(request) or strength == 0:
        return 0, 0
    steps = math.ceil(run / strength - 1e-9)
    if steps >= trained:
        steps = trained - 1
        run = int(steps * strength)
    return steps, run


def enlarged_latents(latents: Tensor, size: Size, upscaler: str) -> Tensor:
    """Return latents (B, C, h, w) at the size (w, h) by one of request.LATENT_UPSCALERS."""
    mode = _MODES[upscaler]
    return torch.nn.functional.interpolate(latents, (size[1], size[0]), mode=mode)


def check_upscaler(request: GenerationRequest, folder: Path | None) -> None:
    """Refuse an upscaler that is not there before anything is drawn. Raises InvalidRequestError."""
    if has_second_pass(request) and request.hires_upscaler not in (LANCZOS, *LATENT_UPSCALERS):
        _upscaler_file(request.hires_upscaler, folder)


def enlarged(
    picture: Image.Image, size: Size, upscaler: str, folder: Path | None, device: torch.device
) -> Image.Image:
    """Return a picture (RGB) at `size`: by Lanczos, or by a model file in the folder and then so.

    Raises InvalidRequestError when the file is missing, ModelError when it is no upscaler.
    """
    if upscaler != LANCZOS:
        network = _load_upscaler(_upscaler_file(upscaler, folder), device)
        while picture.width < size[0] or picture.height < size[1]:
            larger = _through(network, picture, device)
            if larger.width <= picture.width:
                break
            picture = larger
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _upscaler_file(name: str, folder: Path | None) -> Path:
    names = sorted(file.name for file in folder.glob("*.safetensors")) if folder else []
    known = ", ".join((LANCZOS, *LATENT_UPSCALERS, *names))
    if folder is None or name not in names:
        raise InvalidRequestError(
            "hires_upscaler", f"There is no upscaler '{name[:60]}'. Choose one of {known}."
        )
    return folder / name


def _load_upscaler(file: Path, device: torch.device) -> torch.nn.Module:
    """Load a single-picture upscaler from a safetensors file; the package for it is optional."""
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except ImportError as error:
        raise ModelError(
            "Upscaler models need the package spandrel, which is not installed. Run `pip install "
            "spandrel` in Easel's environment, or choose lanczos."
        ) from error
    check_safetensors(file)
    try:
        model = ModelLoader(device=device).load_from_file(file)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        model = None
        reason = error
    else:
        reason = None
    if not isinstance(model, ImageModelDescriptor) or model.input_channels != 3:
        raise ModelError(
            f"{file.name} is not an upscaler that Easel can use; choose another one, or lanczos."
        ) from reason
    return model.eval()


def _through(network: torch.nn.Module, picture: Image.Image, device: torch.device) -> Image.Image:
    """Enlarge a picture once, tile by tile."""
    pixels = (from_uint8(np.asarray(picture.convert("RGB"))[None]) + 1) / 2
    scale = int(network.scale)
    height, width = pixels.shape[-2:]
    total = torch.zeros((1, 3, height * scale, width * scale))
    weights = torch.zeros((1, 1, height * scale, width * scale))
    for rows in tile_spans(height, _TILE):
        for columns in tile_spans(width, _TILE):
            part = network(pixels[..., rows, columns].to(device)).float().cpu()
            place = (..., _scaled(rows, scale), _scaled(columns, scale))
            total[place] += part
            weights[place] += 1
    return Image.fromarray(to_uint8((total / weights).clamp(0, 1) * 2 - 1)[0])


def _scaled(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)

"""The networks of one checkpoint, loaded from a plain diffusers folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from studio.core.errors import ModelError
from studio.diffusion.device import choose_device, choose_dtype, is_out_of_memory
from studio.diffusion.latents import LatentRgb, read_latent_rgb
from studio.diffusion.model_files import Component, hash_model, open_model_folder
from studio.diffusion.schedule import ddim_scheduler

__all__ = ["LatentDiffusionModel", "choose_device", "choose_dtype", "hash_model", "load_model"]


@dataclass
class LatentDiffusionModel:
    """Networks, tokenizer and noise schedule of one checkpoint, ready to draw.

    The U-Net and the text features are in `dtype`; latents and the autoencoder stay in fp32, since
    half precision bands smooth skies.
    """

    name: str
    sha256: str  # of everything that decides pixels; see hash_model
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler_config: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    native_size: tuple[int, int]  # (width, height) in pixels that it was trained at
    latent_rgb: LatentRgb  # preview map

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along one side; 8 for Stable Diffusion."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents of a picture of width x height pixels."""
        factor = self.vae_scale_factor
        return self.vae.config.latent_channels, height // factor, width // factor

    @property
    def sees_mask(self) -> bool:
        """Whether it is an inpainting checkpoint, told the mask and the picture around it."""
        return self.unet.config.in_channels == 2 * self.vae.config.latent_channels + 1


def load_model(
    folder: Path,
    name: str,
    device: str = "",
    dtype: torch.dtype | None = None,
    sha256: str = "",
) -> LatentDiffusionModel:
    """Load a Stable Diffusion 1.x or 2.x diffusers folder after checking it.

    device '' chooses the best one; dtype None the fastest that draws well there. `sha256` spares
    the hashing of a folder that was hashed before. Raises ModelError with what to do.
    """
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    checked = open_model_folder(Path(folder))
    ddim_scheduler(checked.scheduler_config)
    where = choose_device(device)
    compute = dtype or choose_dtype(where)
    unet = _load_network(UNet2DConditionModel, checked.unet, compute)
    vae = _load_network(AutoencoderKL, checked.vae, torch.float32)
    # On a CPU one prompt costs little, and fp32 features are the same as everybody's.
    text_dtype = compute if where.type == "cuda" else torch.float32
    text_encoder = _load_network(CLIPTextModel, checked.text_encoder, text_dtype)
    return LatentDiffusionModel(
        name=name,
        sha256=sha256 or hash_model(checked.folder),
        tokenizer=_load_tokenizer(checked.tokenizer, text_encoder),
        text_encoder=text_encoder.to(where),
        unet=unet.to(where),
        vae=vae.to(where),
        scheduler_config=checked.scheduler_config,
        device=where,
        dtype=compute,
        native_size=checked.native_size,
        latent_rgb=read_latent_rgb(checked.folder, vae.config.latent_channels),
    )


def _load_network(network: Any, component: Component, dtype: torch.dtype) -> Any:
    """Load one network in `dtype`, every weight accounted for and finite, in evaluation mode."""
    part = component.folder.name
    loaded, report = _guarded(
        part,
        lambda: network.from_pretrained(
            component.folder,
            torch_dtype=dtype,
            variant=component.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        ),
    )
    absent = [*report.get("missing_keys", ()), *report.get("mismatched_keys", ())]
    if absent:
        raise ModelError(
            f"The weights of the {part} do not fit its configuration: {len(absent)} are missing or "
            f"of another shape, for instance {str(absent[0])[:80]}. Copy the folder again from its "
            "source."
        )
    # transformers keeps the file's own dtype for some parts whatever was asked for.
    if any(weight.dtype != dtype for weight in loaded.parameters()):
        loaded = loaded.to(dtype)
    loaded = loaded.eval().requires_grad_(False)
    for key, weight in loaded.named_parameters():
        if not bool(weight.sum(dtype=torch.float32).isfinite()):
            raise ModelError(
                f"The weights of the {part} contain values that are not numbers ({key[:80]}); the "
                "file is broken or its training diverged. Use another copy of the model."
            )
        # Out of the mapped file: there it is unaligned, which changes the last bit of a sum, and
        # a file that is replaced while it is mapped ends the process.
        weight.data = weight.data.clone()
    return loaded


def _load_tokenizer(folder: Path, text_encoder: CLIPTextModel) -> CLIPTokenizer:
    tokenizer = _guarded(
        "tokenizer", lambda: CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    )
    positions = text_encoder.config.max_position_embeddings
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise ModelError(
            f"The tokenizer has {len(tokenizer):,} words and the text encoder knows "
            f"{text_encoder.config.vocab_size:,}; they do not belong together. Copy the folder "
            "again from its source."
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def _guarded(part: str, load: Callable[[], Any]) -> Any:
    """Turn whatever a library raises on broken files into a sentence."""
    try:
        return load()
    except ModelError:
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        RuntimeError,
        ImportError,
        ArithmeticError,
        AssertionError,
        MemoryError,
        NotImplementedError,
    ) as error:
        if is_out_of_memory(error):
            raise ModelError(
                f"There is not enough memory to load the {part}; close other programs or choose a "
                "smaller model."
            ) from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"The {part} of this model cannot be loaded ({reason}). Copy the folder again from its "
            "source."
        ) from error

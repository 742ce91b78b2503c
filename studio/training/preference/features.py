"""Frozen features of pictures: what the reward sees. No vote changes them.

Three encoders, each named by the sha256 of everything that decides its numbers:

* the vision tower of a CLIP pair that the artist has (CLIP, PickScore, ...): a folder that
  transformers reads, its projected embedding at unit length;
* the starter model's own CLIP tower, small and trained on little, so its inner layers are read too;
* EfficientNet-Lite0 from `assets/features`, always there.

Inner layers enter as each channel's mean and spread over the picture: the last layer knows what is
shown, the inner ones know colour, texture and contrast, and a taste is about both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from studio.core.errors import ModelError
from studio.core.settings import STARTER_MODEL
from studio.diffusion.safetensors_header import check_safetensors
from studio.training.preference.efficientnet import FOLDER as EFFICIENTNET
from studio.training.preference.efficientnet import EfficientNetLite0

Picture = Image.Image | NDArray[np.uint8]  # RGB; arrays are (H, W, 3)

BATCH = 32  # pictures in one call of a network
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of its channels
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_RECIPE = "1"  # part of every hash: change it when the same files give other numbers


@dataclass(frozen=True)
class Encoder:
    """Turns pictures into features. `sha256` names the files and the recipe behind them."""

    name: str
    sha256: str
    width: int  # numbers a picture
    side: int  # pixels; pictures are resized to a square of it, whole, not cropped
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: torch.device
    forward: Callable[[Tensor], Tensor]  # (B, 3, side, side) normalised -> (B, width)

    def embed(self, pictures: Sequence[Picture] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB pictures of any sizes, or one array (N, H, W, 3) uint8 -> features (N, width)."""
        found = np.zeros((len(pictures), self.width), dtype=np.float32)
        for begin in range(0, len(pictures), BATCH):
            batch = pictures[begin : begin + BATCH]
            pixels = torch.from_numpy(np.stack([self._squared(p) for p in batch]))
            found[begin : begin + len(batch)] = self._embed(pixels).cpu().numpy()
        return found

    def _squared(self, picture: Picture) -> NDArray[np.uint8]:
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        square = (self.side, self.side)
        return np.asarray(picture.convert("RGB").resize(square, Image.Resampling.BICUBIC))

    @torch.inference_mode()
    def _embed(self, pixels: Tensor) -> Tensor:
        scaled = pixels.to(self.device).permute(0, 3, 1, 2).float() / 255
        mean, std = (
            torch.tensor(v, device=self.device)[:, None, None] for v in (self.mean, self.std)
        )
        return self.forward((scaled - mean) / std).float()


def load_encoder(folder: Path | None = None, *, device: str = "cpu") -> Encoder:
    """Load an encoder: the artist's own folder, or the one that ships.

    Raises `ModelError` when the folder is missing, damaged, pickled or no CLIP vision tower.
    """
    target = torch.device(device)
    if folder is not None:
        return load_clip(folder, target)
    return load_shipped(target)


def load_shipped(device: torch.device) -> Encoder:
    """EfficientNet-Lite0 from `assets/features`, after the measurements in the training log."""
    return load_efficientnet(EFFICIENTNET, device)


def load_starter(device: torch.device) -> Encoder:
    """The starter model's own CLIP vision tower. Raises `ModelError` when it ships none."""
    return load_clip(STARTER_MODEL / "image_encoder", device, levels=True)


def load_efficientnet(folder: Path, device: torch.device) -> Encoder:
    """Every stage of EfficientNet-Lite0 as mean and spread of its channels: 1,632 numbers."""
    config, weights = _read_config(folder), folder / "model.safetensors"
    check_safetensors(weights)
    network = EfficientNetLite0()
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
        side = int(config["picture_size"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"{folder.name} is damaged. Get the complete repository again.") from error
    network.to(device).eval().requires_grad_(False)

    def forward(pixels: Tensor) -> Tensor:
        return torch.cat([_mean_and_spread(m.flatten(2)) for m in network.stages(pixels)], dim=1)

    return _encoder("EfficientNet-Lite0", [folder], side, _IMAGENET, device, forward)


def load_clip(folder: Path, device: torch.device, *, levels: bool = False) -> Encoder:
    """A CLIP vision tower from a local folder, by transformers: CLIP, PickScore and their kind.

    `folder` holds config.json and model.safetensors, or is a diffusers folder's `image_encoder`.
    The features are the projected embedding at unit length, as PickScore compares them; with
    `levels`, the mean and spread of every layer's tokens as well.
    """
    config = _read_config(folder)
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ModelError(
            f"{folder.name} holds no .safetensors file. Easel loads no pickled weights; save the "
            "encoder with save_pretrained(..., safe_serialization=True) on a machine you trust."
        )
    for path in found:
        check_safetensors(path)
    tower = _load_tower(folder, config).to(device).eval().requires_grad_(False)
    preprocessing = _preprocessing(folder)

    def forward(pixels: Tensor) -> Tensor:
        found = tower(pixels, output_hidden_states=levels)
        whole = nn.functional.normalize(found.image_embeds, dim=1)
        if not levels:
            return whole
        layers = [_mean_and_spread(h[:, 1:].transpose(1, 2)) for h in found.hidden_states]
        return torch.cat([whole, *layers], dim=1)

    side = int(tower.config.image_size)
    name = (
        f"CLIP vision tower {folder.parent.name if folder.name == 'image_encoder' else folder.name}"
    )
    return _encoder(name, [folder], side, preprocessing, device, forward)


def _mean_and_spread(maps: Tensor) -> Tensor:
    """Channels over places (B, C, P) -> mean and standard deviation of each (B, 2 C)."""
    return torch.cat([maps.mean(dim=2), maps.std(dim=2, correction=0)], dim=1)


def _load_tower(folder: Path, config: dict[str, Any]) -> nn.Module:
    from transformers import CLIPVisionModelWithProjection  # slow to import; few need it

    if config.get("model_type") not in ("clip", "clip_vision_model"):
        raise ModelError(
            f"{folder.name} is a {str(config.get('model_type'))[:40]}, not a CLIP model. Choose a "
            "folder of CLIP or PickScore that transformers can load."
        )
    try:
        return CLIPVisionModelWithProjection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"The encoder in {folder.name} could not be loaded. Copy its folder again from its "
            "source, or leave the choice of encoder to Easel."
        ) from error


def _preprocessing(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the channels, from the folder, its neighbour, or CLIP's own."""
    for place in (folder, folder.parent / "feature_extractor"):
        path = place / "preprocessor_config.json"
        if path.is_file():
            values = _read_config(place, path.name)
            try:
                mean, std = (tuple(map(float, values[k])) for k in ("image_mean", "image_std"))
            except (KeyError, TypeError, ValueError):
                continue
            if len(mean) == len(std) == 3 and all(s > 0 for s in std):
                return mean, std
    return _CLIP


def _encoder(
    name: str,
    folders: Sequence[Path],
    side: int,
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]],
    device: torch.device,
    forward: Callable[[Tensor], Tensor],
) -> Encoder:
    """Put an encoder together; a grey picture tells its width."""
    total = hashlib.sha256(f"{_RECIPE} {name} {side} {preprocessing}".encode())
    for folder in folders:
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    with torch.inference_mode():
        width = forward(torch.zeros(1, 3, side, side, device=device)).shape[1]
    return Encoder(name, total.hexdigest(), width, side, *preprocessing, device, forward)


def _read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    try:
        values = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The encoder folder {folder.name} has no readable {name}; choose a folder that holds "
            "a CLIP model for transformers."
        ) from error
    if not isinstance(values, dict):
        raise ModelError(f"The {name} of {folder.name} is damaged. Copy it again from its source.")
    return values

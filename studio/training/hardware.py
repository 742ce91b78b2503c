"""What a stage is trained on: a device, its number format, and who trains along."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from studio.diffusion.device import choose_device
from studio.training.team import ALONE, Team, join_team


@dataclass(frozen=True)
class Hardware:
    """One process's device, and its team."""

    device: torch.device
    team: Team = ALONE
    compile: bool = False  # the U-Net; on CUDA, where it pays after minutes of compiling
    bf16: bool = False  # the U-Net on a CPU too: 1.5 times as fast where `multiplies_bf16`

    def autocast(self) -> AbstractContextManager[object]:
        """Compute inside the block in bf16 on CUDA, in fp32 on a CPU unless `bf16` is asked for."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" or self.bf16)

    def quickest(self, wanted: bool = True) -> AbstractContextManager[object]:
        """Compute inside the block in bf16 where this device has units for it, else in fp32."""
        quick = wanted and multiplies_bf16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=quick)

    def prepare(self, unet: UNet2DConditionModel) -> None:
        """Make a U-Net quick to train here: on a CPU attention is fp32 also inside `autocast`.

        torch 2.13's bf16 attention takes four times as long backward there as fp32's.
        """
        if self.bf16 and self.device.type == "cpu":
            unet.set_attn_processor(PreciseAttention())


class PreciseAttention:
    """Diffusers' attention (`AttnProcessor2_0`) for a plain U-Net, computed in fp32."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """hidden_states (B, N, C) attend to encoder_hidden_states (B, M, D), or to themselves.

        attention_mask: of diffusers' interface; training has none.
        """
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            found.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for found in (attn.to_q(hidden_states), attn.to_k(told), attn.to_v(told))
        )
        with torch.autocast(hidden_states.device.type, enabled=False):
            mixed = nn.functional.scaled_dot_product_attention(
                query.float(), key.float(), value.float(), attention_mask
            )
        out, dropout = attn.to_out
        return dropout(out(mixed.to(query.dtype).transpose(1, 2).flatten(2)))


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether a device has units for bf16: CUDA, and CPUs with avx512_bf16 or AMX.

    On other CPUs it is emulated, and far slower than fp32.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)  # by torch's version


PLAIN = Hardware(torch.device("cpu"))


def find_hardware(device: str = "", compiled: bool = False, bf16: bool = False) -> Hardware:
    """Return this process's place: alone, or as `accelerate launch` or torchrun set it.

    device '' chooses the best one present. `compiled` and `bf16` count where they make training
    quicker: on CUDA, and on a device that multiplies bf16. Raises ModelError when the wanted device
    is not there.
    """
    team, own = join_team(device)
    found = choose_device(own)
    return Hardware(found, team, compiled and found.type == "cuda", bf16 and multiplies_bf16(found))

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
    compile: bool = False  # the U-Net; faster on CUDA after minutes of compiling, slower on a CPU
    bf16: bool = False  # on a CPU too; 1.5 times as fast where it has avx512_bf16, else far slower

    def autocast(self) -> AbstractContextManager[object]:
        """Compute inside the block in bf16 on CUDA, in fp32 on a CPU unless `bf16` is asked for."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda" or self.bf16)

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


PLAIN = Hardware(torch.device("cpu"))


def find_hardware(device: str = "", compiled: bool = False, bf16: bool = False) -> Hardware:
    """Return this process's place: alone, or as `accelerate launch` or torchrun set it.

    device '' chooses the best one present. Raises ModelError when the wanted one is not there.
    """
    team, own = join_team(device)
    return Hardware(choose_device(own), team, compiled, bf16)

"""What a stage is trained on: a device, its number format, and who trains along."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from studio.diffusion.device import choose_device
from studio.training.team import ALONE, Team, join_team


@dataclass(frozen=True)
class Hardware:
    """One process's device, and its team."""

    device: torch.device
    team: Team = ALONE
    compile: bool = False  # the U-Net; faster on CUDA after minutes of compiling, slower on a CPU

    def autocast(self) -> AbstractContextManager[object]:
        """Compute inside the block in bf16 on CUDA, in fp32 on a CPU (bf16 gains nothing there)."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


PLAIN = Hardware(torch.device("cpu"))


def find_hardware(device: str = "", compiled: bool = False) -> Hardware:
    """Return this process's place: alone, or as `accelerate launch` or torchrun set it.

    device '' chooses the best one present. Raises ModelError when the wanted one is not there.
    """
    team, own = join_team(device)
    return Hardware(choose_device(own), team, compiled)

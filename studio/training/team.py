"""Several processes that train one adapter: each draws and learns from a part, all step as one.

`accelerate` starts them and carries what they tell each other (`accelerate launch launch.py
finetune ...`, or torchrun); this is all that a run asks of it. Every process holds the whole run's
state and comes to the same weights, so nothing but pictures and gradients is exchanged; process 0
writes the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

_Thing = TypeVar("_Thing")
_Parts = TypeVar("_Parts", Tensor, Sequence)


@dataclass(frozen=True)
class Team:
    """This process's place among those that train together."""

    number: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells."""
        return self.number == 0

    def part(self, things: _Parts) -> _Parts:
        """Return this process's consecutive part of what all have; the parts differ by one."""
        begin, end = (len(things) * n // self.count for n in (self.number, self.number + 1))
        return things[begin:end]

    def gathered(self, thing: _Thing) -> list[_Thing]:
        """Return what each process brought, in their order, to all of them."""
        if self.count == 1:
            return [thing]
        from accelerate.utils import gather_object

        return gather_object([thing])

    def add_gradients(self, parameters: Iterable[Tensor], *, spoiled: bool = False) -> None:
        """Give every process the sum of all gradients; NaN to all when one's are `spoiled`."""
        if self.count == 1 and not spoiled:
            return
        parameters = list(parameters)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if spoiled:
                parameter.grad.fill_(float("nan"))
        if self.count == 1:
            return
        flat = self.total(torch.cat([p.grad.flatten() for p in parameters]))
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, summed in zip(parameters, flat.split(sizes), strict=True):
            parameter.grad.copy_(summed.view_as(parameter))

    def total(self, part: Tensor) -> Tensor:
        """Return to every process the sum of what each brought, tensors of one shape."""
        if self.count == 1:
            return part
        from accelerate.utils import reduce

        return reduce(part, "sum")

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


ALONE = Team()
PATIENCE = timedelta(days=1)  # one process may work alone meanwhile


def join_team(device: str = "") -> tuple[Team, str]:
    """Return the team that `accelerate launch` or torchrun made, and this process's device.

    Without one of them, this process is alone on the device that was asked for.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE, device
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    return Team(state.process_index, state.num_processes), str(state.device)

"""An adapter in training, summed with its layer's weight: one product a call instead of three.

    y = x W'^T + b,   W' = W + s up down
    d down = s (g up)^T x,   d up = s g^T (x down^T)

peft multiplies by W, by `down` and by `up`, scales and adds; on small layers that costs more than
the layer itself. The sum is as cheap as a batch of one, and the gradient, which takes the way
through the rank, never forms that of W'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

APART = "gradients_apart"  # of a layer: where its gradients go, row by row
DISTINCT = "distinct_rows"  # of a tensor: the rows that it repeats, and which stands where


class _SummedLinear(torch.autograd.Function):
    """x (..., I), weight (O, I), bias (O,) or None, down (r, I), up (O, r), the layer -> (..., O).

    Inside `gradients_apart`, where x is (B, N, I), the layer gets the gradient of `down` and `up`
    for each row, (B, r, I) and (B, O, r), and the weights get none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        layer: LoraLayer,
    ) -> Tensor:
        scale = layer.scaling[layer.active_adapters[0]]
        summed = torch.addmm(weight, up, down, alpha=scale)
        distinct, rows = getattr(x, DISTINCT, (x, None))
        ctx.save_for_backward(x, summed, down, up)
        ctx.scale, ctx.layer = scale, layer
        out = nn.functional.linear(distinct, summed, bias)
        return out if rows is None else out[rows]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, summed, down, up = ctx.saved_tensors
        gradient = gradients[0]
        to_x = gradient @ summed if ctx.needs_input_grad[0] else None
        apart = getattr(ctx.layer, APART, None)
        if apart is not None:
            to_down = (gradient @ up).mT @ x * ctx.scale
            to_up = gradient.mT @ (x @ down.T) * ctx.scale
            apart.append((to_down, to_up))
            return to_x, None, None, None, None, None
        rows, flat = x.flatten(0, -2), gradient.flatten(0, -2)
        to_down = ((flat @ up).T @ rows) * ctx.scale
        to_up = (flat.T @ (rows @ down.T)) * ctx.scale
        return to_x, None, None, to_down, to_up, None


def repeated(distinct: Tensor, rows: Sequence[int]) -> Tensor:
    """Return the named rows of `distinct` (K, ...); layers compute each of the K only once."""
    found = distinct[list(rows)]
    setattr(found, DISTINCT, (distinct, list(rows)))
    return found


def sum_when_alone(layer: LoraLayer, name: str) -> None:
    """Let a wrapped linear layer compute the sum whenever the adapter `name` alone is active."""
    if isinstance(layer.get_base_layer(), nn.Linear):
        layer.forward = partial(_forward, layer, name, layer.forward)


def _forward(layer: Any, name: str, usual: Any, x: Tensor, *args: Any, **keywords: Any) -> Tensor:
    alone = not layer.disable_adapters and not layer.merged and layer.active_adapters == [name]
    if not alone or torch.is_autocast_enabled(x.device.type):
        return usual(x, *args, **keywords)
    base, down, up = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
    return _SummedLinear.apply(x, base.weight, base.bias, down, up, layer)


@contextmanager
def gradients_apart(layers: Sequence[LoraLayer]) -> Iterator[list[Tensor]]:
    """Let a backward pass inside the block leave the gradient of each row of the batch, apart.

    Yields a list that is filled when the block ends: (B, ...) for `down` and for `up` of each
    layer; the weights' own gradients are not touched.
    """
    found: list[Tensor] = []
    try:
        for layer in layers:
            setattr(layer, APART, [])
        yield found
        for layer in layers:
            [rows] = getattr(layer, APART)
            found += rows
    finally:
        for layer in layers:
            delattr(layer, APART)

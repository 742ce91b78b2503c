"""LoRA on the networks of a model: on for a picture, off again, and one that is being trained.

peft wraps a layer; when the last adapter of a layer is taken off, the layer itself is put back, so
that a model that lent itself to an adapter is byte for byte the one that it was.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from studio.core.errors import ModelError
from studio.diffusion.adapter_files import Layers, LowRank, read_adapter, write_adapter
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.summed_adapter import gradients_apart, sum_when_alone

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # the layers that a trained adapter changes
TRANSFORMER = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
EVERYTHING = (*TRANSFORMER, "conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv")
TRAINED = "tuned"  # name of the adapter that is being trained
_Event = TypeVar("_Event")


class AppliedAdapters:
    """Adapters that sit in a model's networks, silent except inside `on()`."""

    def __init__(self, model: LatentDiffusionModel, adapters: Sequence[tuple[Path, float]]) -> None:
        """Put each (file, strength) into the model's networks; at strength 0 nothing is touched.

        Raises ModelError for a file that does not fit; then none of them is in the networks.
        """
        self._model = model
        self._names: list[str] = []
        self._wrapped: list[LoraLayer] = []
        complete = False
        try:
            for path, strength in adapters:
                if strength:
                    self._insert(path, strength)
            complete = True
        finally:
            if not complete:
                self.remove()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Let the adapters act inside the block."""
        for layer in self._wrapped:
            layer.set_adapter(self._names, inference_mode=True)
            layer.enable_adapters(True)
            layer.requires_grad_(False)
        try:
            yield
        finally:
            for layer in self._wrapped:
                layer.enable_adapters(False)

    def remove(self) -> None:
        """Take the adapters out; what others put into the same networks stays."""
        for network in _networks(self._model).values():
            _take_out(network, self._names)
        self._wrapped = []
        self._names = []

    def _insert(self, path: Path, strength: float) -> None:
        networks = _networks(self._model)
        names = {part: _layer_names(network) for part, network in networks.items()}
        layers = read_adapter(path, names)
        name = f"adapter_{id(self)}_{len(self._names)}"
        self._names.append(name)
        for part, changes in layers.items():
            for layer in _inject(networks[part], changes, name, path):
                layer.set_scale(name, strength)
                layer.enable_adapters(False)
                if all(layer is not other for other in self._wrapped):
                    self._wrapped.append(layer)


def drawn_with(
    model: LatentDiffusionModel,
    adapters: Sequence[tuple[Path, float]],
    events: Generator[_Event, None, None],
) -> Iterator[_Event]:
    """Pull `events`, which draw with `model`, with the adapters (file, strength) acting.

    Between two events the model is the bare one again, so whoever draws meanwhile draws without
    them; afterwards they are gone. Raises ModelError for a file that does not fit.
    """
    applied = AppliedAdapters(model, adapters)
    try:
        while True:
            with applied.on():
                try:
                    event = next(events)
                except StopIteration:
                    return
            yield event
    finally:
        events.close()
        applied.remove()


def add_trainable_adapter(
    unet: nn.Module, rank: int, seed: int, layers: Sequence[str] = ATTENTION
) -> list[nn.Parameter]:
    """Put a new adapter on the U-Net's layers of these names; return what is to be trained.

    `up` is zero, so the U-Net still draws exactly as before. alpha = rank: its scale is 1.
    """
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=list(layers), init_lora_weights="gaussian"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _wrap(unet, config, TRAINED)
    for layer in _trained_layers(unet).values():
        sum_when_alone(layer, TRAINED)
    return adapter_parameters(unet)


def adapter_parameters(unet: nn.Module) -> list[nn.Parameter]:
    """Return the weights of the adapter that is being trained, in a fixed order."""
    named = (p for name, p in unet.named_parameters() if f".{TRAINED}." in name)
    return list(named)


def adapter_state(unet: nn.Module) -> dict[str, Tensor]:
    """Return the trained adapter's weights by name, as copies."""
    return {
        name: parameter.detach().clone()
        for name, parameter in unet.named_parameters()
        if f".{TRAINED}." in name
    }


@torch.no_grad()
def restore_adapter(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put `adapter_state` back. Raises ModelError when it belongs to another adapter."""
    own = {n: p for n, p in unet.named_parameters() if f".{TRAINED}." in n}
    if {n: p.shape for n, p in own.items()} != {n: t.shape for n, t in state.items()}:
        raise ModelError(
            "The saved adapter has other layers than the one in training; go on with the same "
            "rank and model, or start in another folder."
        )
    for name, parameter in own.items():
        parameter.copy_(state[name])


def weakened(state: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    """Return an `adapter_state` whose change of every layer is `strength` times as large."""
    return {n: w * strength if ".lora_B." in n else w for n, w in state.items()}


@torch.no_grad()
def continue_from(unet: nn.Module, path: Path, strength: float = 1.0) -> None:
    """Begin the trained adapter as another one of the same layers and rank acts at a strength.

    Raises ModelError when that one has others.
    """
    layers = read_adapter(path, {"unet": _layer_names(unet)}).get("unet", {})
    own = _trained_layers(unet)
    if {n: layer.r[TRAINED] for n, layer in own.items()} != {n: c.rank for n, c in layers.items()}:
        raise ModelError(
            f"The adapter {path.name} cannot be trained further: it changes other layers, or has "
            "another rank. Choose one that Easel trained, and its rank."
        )
    for name, layer in own.items():
        layer.lora_A[TRAINED].weight.copy_(layers[name].down)
        layer.lora_B[TRAINED].weight.copy_(
            layers[name].up * (strength * layers[name].alpha / layer.r[TRAINED])
        )


@contextmanager
def adapter_off(unet: nn.Module) -> Iterator[None]:
    """Make the U-Net the base's inside the block. Not between a forward and its backward pass."""
    layers = list(_trained_layers(unet).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@contextmanager
def row_gradients(unet: nn.Module) -> Iterator[list[Tensor]]:
    """Keep the trained adapter's gradient apart for each row of a batch of B.

    The list, filled when the block ends, has a (B, *shape) for each of `adapter_parameters`.
    """
    with gradients_apart(list(_trained_layers(unet).values())) as found:
        yield found


def save_adapter(unet: nn.Module, folder: Path, lineage: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write the trained adapter in both namings; see `write_adapter`. Returns the two paths."""
    return write_adapter(trained_layers(unet), folder, lineage)


def trained_layers(unet: nn.Module) -> Layers:
    """Return the trained adapter as low-rank changes by layer."""
    changes = {
        name: LowRank(
            layer.lora_A[TRAINED].weight.detach().clone(),
            layer.lora_B[TRAINED].weight.detach().clone(),
            float(layer.lora_alpha[TRAINED]),
        )
        for name, layer in _trained_layers(unet).items()
    }
    return {"unet": changes}


def remove_trained_adapter(unet: nn.Module) -> None:
    """Take the trained adapter off; the U-Net is then the one from before."""
    _take_out(unet, [TRAINED])


def _networks(model: LatentDiffusionModel) -> dict[str, nn.Module]:
    return {"unet": model.unet, "text_encoder": model.text_encoder}


def _layer_names(network: nn.Module) -> list[str]:
    """Return the paths of the layers that an adapter may change, as if none were wrapped."""
    kinds = (nn.Linear, nn.Conv2d)
    names = []
    for name, module in network.named_modules():
        base = module.get_base_layer() if isinstance(module, LoraLayer) else module
        inside = ".base_layer" in name or ".lora_" in name
        if isinstance(base, kinds) and not inside:
            names.append(name)
    return names


def _trained_layers(unet: nn.Module) -> dict[str, LoraLayer]:
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, LoraLayer) and TRAINED in module.lora_A
    }


def _inject(
    network: nn.Module, changes: Mapping[str, LowRank], name: str, path: Path
) -> Iterable[LoraLayer]:
    """Wrap the layers that `changes` names, with its weights; return the wrappers."""
    for layer, change in changes.items():
        _check_shape(network.get_submodule(layer), layer, change, path)
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules="|".join(re.escape(layer) for layer in changes),
        rank_pattern={f"^{re.escape(n)}$": change.rank for n, change in changes.items()},
        alpha_pattern={f"^{re.escape(n)}$": change.alpha for n, change in changes.items()},
    )
    _wrap(network, config, name, empty=True)
    wrapped = []
    for layer, change in changes.items():
        wrapper = network.get_submodule(layer)
        weight = wrapper.get_base_layer().weight
        for matrix, values in (
            (wrapper.lora_A[name], change.down),
            (wrapper.lora_B[name], change.up),
        ):
            matrix.weight = nn.Parameter(values.to(weight), requires_grad=False)
        wrapped.append(wrapper)
    return wrapped


def _wrap(network: nn.Module, config: LoraConfig, name: str, *, empty: bool = False) -> None:
    """Let peft wrap layers, without its note on the network that would outlive the adapter."""
    inject_adapter_in_model(config, network, name, low_cpu_mem_usage=empty)
    network.__dict__.pop("peft_config", None)


def _check_shape(layer: nn.Module, name: str, change: LowRank, path: Path) -> None:
    """An adapter for another width of the same architecture has the same names."""
    base = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    out, into, *kernel = base.weight.shape
    wanted = ((change.rank, into, *kernel), (out, change.rank, *(1 for _ in kernel)))
    if (tuple(change.down.shape), tuple(change.up.shape)) != wanted:
        raise ModelError(
            f"The adapter {path.name} does not fit this model: its {name[:60]} has another size. "
            "Choose the model that it was made for, or another adapter."
        )


def _take_out(network: nn.Module, names: Sequence[str]) -> None:
    """Delete adapters, and put back each layer that has none left."""
    wrappers = [(n, m) for n, m in network.named_modules() if isinstance(m, LoraLayer)]
    for path, wrapper in wrappers:
        wrapper.set_adapter([])
        for name in names:
            if name in wrapper.lora_A:
                wrapper.delete_adapter(name)
        if not wrapper.lora_A:
            parent, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(parent), leaf, wrapper.get_base_layer())

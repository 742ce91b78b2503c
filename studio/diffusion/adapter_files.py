"""LoRA files: small matrices that change a network's layers, in the two namings of the field.

    W' = W + strength (alpha / rank) up @ down            Hu et al. 2021 (LoRA), section 4.1

diffusers names a layer by its path ('unet.mid_block....to_q.lora_A.weight'), kohya's trainers, and
with them AUTOMATIC1111 and ComfyUI, by the path with underscores ('lora_unet_mid_block_..._to_q').
Both are read; ours are written in both. The files come from anywhere and are checked first.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from studio.core.errors import DiskFullError, ModelError
from studio.diffusion.safetensors_header import check_safetensors, damaged, short_name

ADAPTER_FILE = "adapter.safetensors"  # diffusers' names
KOHYA_FILE = "adapter.kohya.safetensors"
LINEAGE = "easel.lineage"  # key in the header: where an adapter comes from, as JSON
MAX_RANK = 1024
_MAX_CONFIG_CHARACTERS = 1_000_000
_DOWN = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight", "_lora.down.weight")
_UP = (".lora_B.weight", ".lora.up.weight", ".lora_up.weight", "_lora.up.weight")
_ALPHA = ".alpha"
# kohya's name, diffusers' name, and ours for the network that a layer belongs to.
_NETWORKS = MappingProxyType(
    {"lora_unet_": "unet", "unet.": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder"}
    | {"text_encoder.": "text_encoder"}
)
LayerNames = Mapping[str, Iterable[str]]  # 'unet' or 'text_encoder' -> paths of its layers


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one layer."""

    down: Tensor  # (rank, in) or (rank, in, k, k)
    up: Tensor  # (out, rank) or (out, rank, 1, 1)
    alpha: float  # the product is scaled by alpha / rank

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.down.shape[0]


Layers = Mapping[str, Mapping[str, LowRank]]  # network -> path of a layer -> its change


def read_adapter(path: Path, layer_names: LayerNames) -> Layers:
    """Read a LoRA for a model with these layers, whichever naming it has.

    Raises ModelError when the file is damaged, is no LoRA, or belongs to another kind of model.
    """
    metadata = check_safetensors(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise damaged(path, "it cannot be read") from error
    known = _by_any_name(layer_names)
    config = _stated_config(metadata)
    layers: dict[str, dict[str, LowRank]] = {}
    strange = []
    for base, parts in sorted(_grouped(path, tensors).items()):
        if base not in known:
            strange.append(base)
            continue
        network, name = known[base]
        layers.setdefault(network, {})[name] = _low_rank(path, parts, config, network, name)
    if strange or not layers:
        example = f" (for instance {strange[0][:60]})" if strange else ""
        raise ModelError(
            f"The adapter {short_name(path)} does not fit this model: {len(strange)} of its layers "
            f"are not there{example}. Choose the model that it was made for, or another adapter."
        )
    return layers


def write_adapter(layers: Layers, folder: Path, lineage: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write `adapter.safetensors` and `adapter.kohya.safetensors`, with where they come from.

    Both are there or neither; what was there before stays until both are written. Raises
    DiskFullError.
    """
    diffusers: dict[str, Tensor] = {}
    kohya: dict[str, Tensor] = {}
    for network, changes in layers.items():
        short = "lora_unet" if network == "unet" else "lora_te"
        for name, change in changes.items():
            down, up = (t.detach().cpu().contiguous() for t in (change.down, change.up))
            # diffusers takes alpha = rank unless told otherwise, so the scale goes into `up`.
            scaled = up * (change.alpha / change.rank)
            diffusers[f"{network}.{name}.lora_A.weight"] = down
            diffusers[f"{network}.{name}.lora_B.weight"] = scaled
            flat = f"{short}_{name.replace('.', '_')}"
            kohya[f"{flat}.lora_down.weight"] = down.clone()
            kohya[f"{flat}.lora_up.weight"] = up.clone()
            kohya[f"{flat}.alpha"] = torch.tensor(float(change.alpha))
    header = {"format": "pt", LINEAGE: json.dumps(lineage, sort_keys=True)}
    ranks = {change.rank for changes in layers.values() for change in changes.values()}
    alphas = {change.alpha for changes in layers.values() for change in changes.values()}
    said = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(max(ranks)),
        "ss_network_alpha": f"{max(alphas):g}",
        "ss_base_model_version": "sd_v1",
    }
    files = {  # the one that stands for the adapter is renamed last
        folder / KOHYA_FILE: _with_ordered_header(save(kohya, metadata=header | said)),
        folder / ADAPTER_FILE: _with_ordered_header(save(diffusers, metadata=header)),
    }
    _write_together(files)
    return folder / ADAPTER_FILE, folder / KOHYA_FILE


def read_lineage(path: Path) -> dict[str, Any]:
    """Return where an adapter comes from by its own account; empty when it does not tell."""
    text = check_safetensors(path).get(LINEAGE, "")
    try:
        told = json.loads(text) if 0 < len(text) < _MAX_CONFIG_CHARACTERS else {}
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _write_together(files: Mapping[Path, bytes]) -> None:
    """Write files of one folder under other names, then give all their own. Raises DiskFullError.

    The disk is full before the first of them has its name, if at all.
    """
    partials = {path: path.with_suffix(".tmp") for path in files}
    try:
        for path, partial in partials.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(files[path])
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        for partial in partials.values():
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        raise DiskFullError(
            f"The adapter could not be written to {short_name(path)} ({error.strerror or error}). "
            "Free some disk space and try again; what was learned so far is kept."
        ) from error


def _with_ordered_header(content: bytes) -> bytes:
    """Return a safetensors file whose texts are in a fixed order: equal adapters, equal bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _by_any_name(layer_names: LayerNames) -> dict[str, tuple[str, str]]:
    """Return network and path by each name that a file may use for a layer."""
    known = {}
    for prefix, network in _NETWORKS.items():
        for name in layer_names.get(network, ()):
            named = name.replace(".", "_") if prefix.endswith("_") else name
            known[prefix + named] = (network, name)
            if network == "text_encoder":  # transformers once had one more level here
                known[f"{prefix}text_model{prefix[-1]}{named}"] = (network, name)
            if prefix == "unet.":
                # Old diffusers: '...attn1.processor.to_q_lora', which never had `to_out.0`'s 0.
                block, _, leaf = name.removesuffix(".0").rpartition(".")
                known[f"unet.{block}.processor.{leaf}"] = (network, name)
                for without in (name, f"base_model.model.{name}"):  # as peft itself saves
                    known.setdefault(without, (network, name))
    return known


def _grouped(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return {layer's name in the file: {'down', 'up', maybe 'alpha'}}."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, ending = _part_of(key)
        if not part:
            raise ModelError(
                f"The adapter {short_name(path)} is not a plain LoRA (it holds {key[-60:]}), the "
                "only kind that Easel draws with; choose or convert to one."
            )
        groups.setdefault(key.removesuffix(ending), {})[part] = tensor
    if any({"down", "up"} - set(parts) for parts in groups.values()):
        raise damaged(path, "a layer has only one half of its change")
    return groups


def _part_of(key: str) -> tuple[str, str]:
    for part, endings in (("down", _DOWN), ("up", _UP), ("alpha", (_ALPHA,))):
        for ending in endings:
            if key.endswith(ending):
                return part, ending
    return "", ""


def _stated_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return peft's configuration as diffusers' own files state it in their header."""
    text = metadata.get("lora_adapter_metadata", "")
    try:
        stated = json.loads(text) if 0 < len(text) < _MAX_CONFIG_CHARACTERS else {}
    except (ValueError, RecursionError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _low_rank(
    path: Path, parts: dict[str, Tensor], config: dict[str, Any], network: str, name: str
) -> LowRank:
    down, up = parts["down"].float(), parts["up"].float()
    rank = down.shape[0] if down.dim() else 0
    fits = down.dim() == up.dim() and down.dim() in (2, 4) and up.shape[1:2] == (rank,)
    if not fits or not 1 <= rank <= MAX_RANK:
        raise damaged(path, f"the shapes of {name[:60]} do not belong together")
    if "alpha" in parts and parts["alpha"].numel() == 1:
        alpha = float(parts["alpha"])
    else:
        alpha = _stated_alpha(config, network, name, rank)
    if not bool(down.isfinite().all() and up.isfinite().all()) or not abs(alpha) < 1e6:
        raise damaged(path, "it contains values that are not numbers")
    return LowRank(down, up, alpha)


def _stated_alpha(config: dict[str, Any], network: str, name: str, rank: int) -> float:
    patterns = config.get(f"{network}.alpha_pattern")
    if isinstance(patterns, dict):
        for pattern, alpha in patterns.items():
            if name.endswith(str(pattern)) and isinstance(alpha, int | float):
                return float(alpha)
    alpha = config.get(f"{network}.lora_alpha", rank)
    return float(alpha) if isinstance(alpha, int | float) else float(rank)

"""What is checked about a model folder before anything in it is loaded; standard library only.

A checkpoint from the internet is hostile until shown otherwise: only safetensors (never pickle),
no Python files, only known classes of diffusers and transformers, bounded headers and sizes.
Every refusal is a ModelError with a next step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from studio.core.errors import ModelError
from studio.diffusion.safetensors_header import check_safetensors, damaged, short_name

_MAX_JSON_BYTES = 64 * 2**20  # a tokenizer's vocabulary is the largest
_MAX_CONFIG_NUMBER = 2**20
_MAX_CONFIG_LIST = 64
_MAX_LAYERS = 128
_LAYER_KEYS = ("layers_per_block", "num_hidden_layers", "transformer_layers_per_block")
_DIFFUSERS_CHANNELS = 4  # of an AutoencoderKL whose configuration does not say
FAMILIES = MappingProxyType(
    {
        "StableDiffusionPipeline": "Stable Diffusion 1.x / 2.x",
        "StableDiffusionInpaintPipeline": "Stable Diffusion 1.x / 2.x inpainting",
    }
)
_CLASSES: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {
        "unet": ("diffusers", frozenset({"UNet2DConditionModel"})),
        "vae": ("diffusers", frozenset({"AutoencoderKL"})),
        "text_encoder": ("transformers", frozenset({"CLIPTextModel"})),
        "tokenizer": ("transformers", frozenset({"CLIPTokenizer", "CLIPTokenizerFast"})),
    }
)
_WEIGHT_NAMES = MappingProxyType(
    {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_CONVERT = (
    "Easel loads safetensors only, since pickled weights can run any program. Convert the model on "
    "a machine you trust: load it with diffusers and call save_pretrained(..., "
    "safe_serialization=True)."
)


@dataclass(frozen=True)
class Component:
    """One network of a model folder, checked but not loaded."""

    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]  # safetensors files, several when sharded
    variant: str | None  # 'fp16' when only half-precision files are there


@dataclass(frozen=True)
class ModelFolder:
    """A diffusers folder whose files passed all checks."""

    folder: Path
    unet: Component
    vae: Component
    text_encoder: Component
    tokenizer: Path
    scheduler_config: dict[str, Any]

    @property
    def native_size(self) -> tuple[int, int]:
        """Width and height in pixels that the U-Net was trained at."""
        size = self.unet.config.get("sample_size")
        height, width = size if isinstance(size, list) else (size, size)
        return width * self.vae_scale_factor, height * self.vae_scale_factor

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent along one side; 8 for Stable Diffusion."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)


def open_model_folder(folder: Path) -> ModelFolder:
    """Check a diffusers folder without loading it. Raises ModelError with what to do."""
    _check_index(folder)
    if any(folder.rglob("*.py")):
        raise ModelError(
            f"The model folder {folder.name} contains Python files and was refused. Weights need "
            "none; remove them, or fetch the model from its original source."
        )
    checked = ModelFolder(
        folder=folder,
        unet=_component(folder, "unet"),
        vae=_component(folder, "vae"),
        text_encoder=_component(folder, "text_encoder"),
        tokenizer=_tokenizer(folder),
        scheduler_config=_read_json(folder / "scheduler" / "scheduler_config.json"),
    )
    _check_consistency(checked)
    return checked


def hash_model(folder: Path) -> str:
    """Return the sha256 of everything in a model folder that decides pixels.

    That is the configurations, vocabularies and safetensors files, each by its name and sha256.
    """
    total = hashlib.sha256()
    files = [folder / "model_index.json"]
    for part in (*_CLASSES, "scheduler"):
        found = (folder / part).glob("*")
        files += (f for f in found if f.suffix in (".json", ".txt", ".safetensors"))
    try:
        for file in sorted(files, key=lambda f: f.relative_to(folder).as_posix()):
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{file.relative_to(folder).as_posix()} {digest}\n".encode())
    except OSError as error:
        raise ModelError(
            f"The model folder {folder.name} cannot be read ({error.strerror}); check its files."
        ) from error
    return total.hexdigest()


def _check_index(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder at {folder}; put a diffusers folder there or choose "
            "another model."
        )
    if not (folder / "model_index.json").is_file():
        names = sorted(f.name for f in folder.iterdir() if f.is_file())
        pickled = next((n for n in names if n.lower().endswith(_PICKLES)), "")
        if pickled:
            raise ModelError(f"{folder.name} holds {pickled[:80]}. {_CONVERT}")
        raise ModelError(
            f"{folder.name} is not a diffusers folder: it has no model_index.json. Single-file "
            "checkpoints have to be converted to a diffusers folder first."
        )
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") not in FAMILIES:
        raise ModelError(
            f"{folder.name} is a {str(index.get('_class_name'))[:60]}; Easel draws with "
            f"{' and '.join(FAMILIES.values())} models. Choose one of these."
        )
    _check_classes(folder, index)


def _check_classes(folder: Path, index: dict[str, Any]) -> None:
    for part, (library, classes) in _CLASSES.items():
        entry = index.get(part)
        if not (isinstance(entry, list) and len(entry) == 2 and entry[0] == library):
            raise _foreign(folder, part, entry)
        if entry[1] not in classes:
            raise _foreign(folder, part, entry)
    for part, entry in index.items():
        if part in _CLASSES or part.startswith("_") or not isinstance(entry, list):
            continue
        unused_checker = part == "safety_checker" and entry[:1] == ["stable_diffusion"]
        if entry[:1] not in ([None], ["diffusers"], ["transformers"]) and not unused_checker:
            raise _foreign(folder, part, entry)


def _component(folder: Path, part: str) -> Component:
    place = folder / part
    config = _read_json(place / "config.json")
    _check_config(place / "config.json", config)
    base = _WEIGHT_NAMES[part]
    for variant in (None, "fp16"):
        stem = base if variant is None else f"{base}.{variant}"
        if (place / f"{stem}.safetensors").is_file():
            weights: tuple[Path, ...] = (place / f"{stem}.safetensors",)
        elif (index := place / f"{base}.safetensors.index{_dotted(variant)}.json").is_file():
            weights = _shards(index)
        else:
            continue
        for file in weights:
            check_safetensors(file)
        return Component(place, config, weights, variant)
    if place.is_dir() and any(f.suffix.lower() in _PICKLES for f in place.iterdir()):
        raise ModelError(f"The {part} of {folder.name} exists only as pickled weights. {_CONVERT}")
    raise ModelError(
        f"The model folder {folder.name} lacks {part}/{base}.safetensors; copy the folder again "
        "from its source."
    )


def _dotted(variant: str | None) -> str:
    return f".{variant}" if variant else ""


def _shards(index: Path) -> tuple[Path, ...]:
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise damaged(index, "it names no files")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise damaged(index, "it names files outside its folder")
        if not (index.parent / name).is_file():
            raise damaged(index, f"{name[:80]} is missing")
    return tuple(index.parent / name for name in files)


def _tokenizer(folder: Path) -> Path:
    place = folder / "tokenizer"
    if not (place / "tokenizer.json").is_file() and not (
        (place / "vocab.json").is_file() and (place / "merges.txt").is_file()
    ):
        raise ModelError(
            f"The model folder {folder.name} lacks tokenizer/vocab.json and merges.txt; copy the "
            "folder again from its source."
        )
    for file in place.glob("*.json"):
        _read_json(file)
    return place


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise damaged(path, "it is far too large")
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"The model folder lacks {short_name(path)}; copy the folder again from its source."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, "it is not readable JSON") from error
    if not isinstance(values, dict):
        raise damaged(path, "it is not a JSON object")
    return values


def _check_config(path: Path, config: dict[str, Any]) -> None:
    for key, value in config.items():
        values = value if isinstance(value, list) else [value]
        numbers = [v for v in values if isinstance(v, int | float)]
        if len(values) > _MAX_CONFIG_LIST or any(abs(v) > _MAX_CONFIG_NUMBER for v in numbers):
            raise damaged(path, f"{key[:40]} is out of range")
        if key in _LAYER_KEYS and any(v > _MAX_LAYERS for v in numbers):
            raise damaged(path, f"{key[:40]} is out of range")


def _check_consistency(model: ModelFolder) -> None:
    unet, vae, text = model.unet.config, model.vae.config, model.text_encoder.config
    size = unet.get("sample_size")
    sizes = size if isinstance(size, list) else [size]
    if len(sizes) not in (1, 2) or not all(type(n) is int and 0 < n <= 512 for n in sizes):
        raise damaged(model.unet.folder / "config.json", "sample_size is out of range")
    blocks = vae.get("block_out_channels")
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= 8:
        raise damaged(model.vae.folder / "config.json", "block_out_channels is out of range")
    latent_channels = vae.get("latent_channels", _DIFFUSERS_CHANNELS)
    # An inpainting checkpoint also takes the mask and the latents of the picture around it.
    if unet.get("in_channels") not in (latent_channels, 2 * latent_channels + 1):
        raise ModelError(
            f"{model.folder.name} takes {unet.get('in_channels')} channels where its autoencoder "
            f"has {latent_channels}: a model for another task. Choose a text-to-image or an "
            "inpainting model."
        )
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        raise ModelError(
            f"The U-Net and the text encoder of {model.folder.name} do not belong together "
            f"({unet.get('cross_attention_dim')} and {text.get('hidden_size')} features); copy the "
            "folder again from its source."
        )


def _foreign(folder: Path, part: str, entry: Any) -> ModelError:
    return ModelError(
        f"The model_index.json of {folder.name} names {str(entry)[:80]} as its {part[:40]}, which "
        "Easel does not load; choose a Stable Diffusion 1.x or 2.x model."
    )

"""Stage 5, the starter model: put the trained parts together as a plain diffusers folder in fp16.

    model_index.json    StableDiffusionPipeline
    unet/ vae/ text_encoder/ tokenizer/ scheduler/ image_encoder/ feature_extractor/
    easel.json          what the studio shows: sizes, styles, the latent-to-RGB preview map
    subjects.txt        what it was shown; nothing that is held out

`StableDiffusionPipeline.from_pretrained` draws with it as it stands. Traps that are met here:
`config.json` of the text encoder says `"dtype": "float32"`, or transformers 5 leaves it in half
precision beside an fp32 U-Net; the scheduler says `steps_offset` 1 and `timestep_spacing` leading.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from studio.core.errors import TrainingError
from studio.core.events import Event, StageArtifact, StageProgress
from studio.diffusion.latents import fit_latent_rgb, write_latent_rgb
from studio.training.dataset.backdrops import TIMES
from studio.training.dataset.captions import PLACES, SHOTS
from studio.training.dataset.corpus import Corpus, drawn_rows
from studio.training.dataset.sources import ALL_STYLES
from studio.training.dataset.split import SPLIT
from studio.training.stages.autoencoder import encode, to_tensor
from studio.training.stages.export import in_place_of
from studio.training.stages.pretrain import UnetConfig, scheduler_settings
from studio.training.stages.warm_start import shown_before

PARTS = ("unet", "vae", "text_encoder", "image_encoder")


def assemble(corpus: Corpus, config: UnetConfig, folders: Path, target: Path) -> Iterator[Event]:
    """Write the starter model to `target` from the stages under `folders`, whole or not at all.

    It is put together beside `target` and then takes its place; until then a model that is there
    stays as it was. Files of that one which no stage makes, such as its card, are taken over.
    Raises `TrainingError` when a stage is not finished or what it left is damaged, `DiskFullError`.
    """
    decoder = folders / "decoder" / "vae"  # the autoencoder, its decoder trained further
    sources = {
        "unet": folders / "unet" / "unet",
        "vae": decoder if decoder.exists() else folders / "autoencoder" / "vae",
        "text_encoder": folders / "clip" / "text_with_projection",
        "image_encoder": folders / "clip" / "image_encoder",
        "tokenizer": folders / "clip" / "tokenizer",
        "feature_extractor": folders / "clip" / "feature_extractor",
    }
    for name, source in sources.items():
        if not source.exists():
            raise TrainingError(f"The {name} is not trained yet; run its stage first.")
    vae = _read_autoencoder(sources["vae"])
    weights = {name: _read_weights(sources[name]) for name in PARTS}
    with in_place_of(target) as new:
        for name, source in sources.items():
            shutil.copytree(source, new / name)
        for name in PARTS:
            _store_half(weights.pop(name), new / name)
        _describe(corpus, config, (vae, shown_before(sources["unet"].parent)), new)
        _take_over(target, new)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    yield StageProgress("starter", 1, 1, 0.0, {"megabytes": size / 1e6})
    yield StageArtifact("starter", str(target))


def _read_autoencoder(source: Path) -> AutoencoderKL:
    try:
        return AutoencoderKL.from_pretrained(source, local_files_only=True).eval()
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(source) from error


def _read_weights(source: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a component's files, by the file's name."""
    try:
        return {path.name: load_file(path) for path in sorted(source.glob("*.safetensors"))}
    except (OSError, SafetensorError) as error:
        raise _damaged(source) from error


def _damaged(source: Path) -> TrainingError:
    return TrainingError(
        f"{source} is damaged. Delete that folder and run its stage again; it is written anew from "
        "the last checkpoint."
    )


def _describe(
    corpus: Corpus,
    config: UnetConfig,
    made_of: tuple[AutoencoderKL, list[str]],  # and the styles that were shown before
    target: Path,
) -> None:
    """Write beside the parts in `target` all that tells what they are together."""
    vae, shown = made_of
    _split_text_projection(target / "text_encoder")
    (target / "scheduler").mkdir(exist_ok=True)
    scheduler = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.42.1",
        **scheduler_settings(config),
    }
    _write_json(target / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(target / "model_index.json", model_index())
    rows = drawn_rows(corpus, config.everything)
    frames = config.frames if config.everything else config.frames[:1]  # what the small model
    # was shown in other frames is too little: subjects fall apart there, so it does not claim them
    styles = {corpus.entries[row].style for row in rows}
    about = {
        "title": "Easel starter",
        "trained_sizes": [[f.width, f.height] for f in frames],
        "styles": [style for style in ALL_STYLES if style in styles],
        "words": [*SHOTS, *PLACES, *TIMES] if config.everything else [],  # the small model was
        # shown too few scenes to compose any: presets that need those words stay marked
        "split": SPLIT,
    }
    if shown:
        about["shown_before"] = shown
    _write_json(target / "easel.json", about)
    subjects = dict.fromkeys(corpus.entries[row].subject for row in rows)
    (target / "subjects.txt").write_text("\n".join(subjects) + "\n", encoding="utf-8")
    pictures = np.asarray(corpus.pictures[rows[:: max(len(rows) // 200, 1)]])
    write_latent_rgb(target, fit_latent_rgb(encode(vae, pictures), to_tensor(pictures)))


def _take_over(old: Path, new: Path) -> None:
    """Copy what lies at the top of the model that is there and is not made by the recipe."""
    for path in sorted(old.iterdir()) if old.is_dir() else []:
        if path.is_file() and not (new / path.name).exists():
            shutil.copy2(path, new / path.name)


def _store_half(weights: dict[str, dict[str, Tensor]], folder: Path) -> None:
    """Store a component's weights in fp16; its networks are still loaded in fp32."""
    for name, tensors in weights.items():
        halves = {
            k: v.half().contiguous() if v.is_floating_point() else v for k, v in tensors.items()
        }
        save_file(halves, folder / name, metadata={"format": "pt"})
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    if "model_type" in config:  # transformers; see the module's text
        config["dtype"] = "float32"
        _write_json(config_path, config)


def _split_text_projection(folder: Path) -> None:
    """Make the text tower a `CLIPTextModel`; its projection goes to a file of its own beside it.

    Stock pipelines know the class without projection; the projection is kept for rewards.
    """
    path = folder / "model.safetensors"
    tensors = load_file(path)
    projection = {k: tensors.pop(k) for k in list(tensors) if k.startswith("text_projection")}
    save_file(tensors, path, metadata={"format": "pt"})
    save_file(projection, folder / "text_projection.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["CLIPTextModel"]
    _write_json(folder / "config.json", config)


def model_index() -> dict[str, object]:
    """Return what `model_index.json` tells diffusers of a folder's parts."""
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

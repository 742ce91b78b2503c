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
from safetensors.torch import load_file, save_file

from studio.core.errors import TrainingError
from studio.core.events import Event, StageArtifact, StageProgress
from studio.diffusion.latents import fit_latent_rgb, write_latent_rgb
from studio.training.dataset.backdrops import TIMES
from studio.training.dataset.captions import PLACES, SHOTS
from studio.training.dataset.corpus import Corpus, drawn_rows
from studio.training.dataset.sources import ALL_STYLES
from studio.training.dataset.split import SPLIT
from studio.training.stages.autoencoder import encode, to_tensor
from studio.training.stages.pretrain import UnetConfig, scheduler_settings
from studio.training.stages.warm_start import shown_before

PARTS = ("unet", "vae", "text_encoder", "image_encoder")


def assemble(corpus: Corpus, config: UnetConfig, folders: Path, target: Path) -> Iterator[Event]:
    """Write the starter model to `target` from the stages under `folders`, whole or not at all.

    It is put together beside `target` and then takes its place; until then a model that is there
    stays as it was. Files of that one which no stage makes, such as its card, are taken over.
    Raises `TrainingError` when a stage is not finished.
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
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        _write(corpus, config, sources, new)
        _take_over(target, new)
        _swap(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    yield StageProgress("starter", 1, 1, 0.0, {"megabytes": size / 1e6})
    yield StageArtifact("starter", str(target))


def _write(corpus: Corpus, config: UnetConfig, sources: dict[str, Path], target: Path) -> None:
    """Write all that the recipe makes into the folder `target`, which is not there yet."""
    for name, source in sources.items():
        shutil.copytree(source, target / name)
    for name in PARTS:
        _to_half(target / name)
    _split_text_projection(target / "text_encoder")
    (target / "scheduler").mkdir(exist_ok=True)
    scheduler = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.42.1",
        **scheduler_settings(config),
    }
    _write_json(target / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(target / "model_index.json", model_index())
    vae = AutoencoderKL.from_pretrained(sources["vae"], local_files_only=True).eval()
    rows = drawn_rows(corpus, config.everything)
    styles = {corpus.entries[row].style for row in rows}
    about = {
        "title": "Easel starter",
        "trained_sizes": [[f.width, f.height] for f in config.frames],
        "styles": [style for style in ALL_STYLES if style in styles],
        "words": [*SHOTS, *PLACES, *TIMES] if config.everything else [],  # the small model was
        # shown too few scenes to compose any: presets that need those words stay marked
        "split": SPLIT,
    }
    if shown := shown_before(sources["unet"].parent):
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


def _swap(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; one of the two is there again if the move fails."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    try:
        new.replace(target)
    except OSError:
        if old.exists():
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _to_half(folder: Path) -> None:
    """Store a component's weights in fp16; its networks are still loaded in fp32."""
    for path in folder.glob("*.safetensors"):
        tensors = {
            k: v.half().contiguous() if v.is_floating_point() else v
            for k, v in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
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

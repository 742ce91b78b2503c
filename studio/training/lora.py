"""An artist's own style: a LoRA learned from a handful of pictures with captions.

The loss is the one that the U-Net was trained with (`pretrain.py`), of whatever the model predicts;
the base stays as it is and only the adapter learns (Hu et al. 2021, section 4.1). Latents and text
features are computed once. A run lives in one folder:

    run.json            what is taught: base, pictures, captions, settings
    plan.json           how many steps the minutes were turned into
    checkpoints, log.jsonl   as every stage (loop.py)
    samples/            the same captions drawn by now, one sheet a look
    adapter.safetensors, adapter.kohya.safetensors    the result, in the two namings of the field
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from studio.core.errors import DiskFullError, TrainingError
from studio.core.events import Event, Notice, StageArtifact, StageProgress
from studio.diffusion.adapters import (
    ATTENTION,
    EVERYTHING,
    TRANSFORMER,
    add_trainable_adapter,
    remove_trained_adapter,
    save_adapter,
)
from studio.diffusion.latents import encode, from_uint8
from studio.diffusion.model import LatentDiffusionModel
from studio.diffusion.schedule import add_noise, noise_schedule
from studio.diffusion.text import cut_off_sentence
from studio.training import checkpoint
from studio.training.buckets import bucket_sizes, fit, nearest_bucket
from studio.training.hardware import Hardware
from studio.training.loop import (
    LoopConfig,
    Metrics,
    optimize,
    step_generator,
    torch_generator,
)
from studio.training.probes import LookPlan, draw_look
from studio.training.rollout import TextFeatures
from studio.training.run_folder import write_text
from studio.training.stages.pretrain import (
    noise_prediction_loss,
    prediction_target,
    prediction_weight,
    stratified_timesteps,
)

STAGE, LOOK, PREPARE = "lora", "look", "prepare"
FEWEST = 3  # pictures
LOOK_SEED = 1000
LARGE = 100_000_000  # weights of a U-Net
LOOK_SHARE = 0.1  # of the computing may go into looking
LAYERS = {"attention": ATTENTION, "transformer": TRANSFORMER, "everything": EVERYTHING}.items()


@dataclass(frozen=True)
class Example:
    """One picture to learn from."""

    title: str  # for sentences
    picture: Image.Image  # RGB
    caption: str  # may be empty


@dataclass(frozen=True)
class LoraConfig:
    """How an adapter is taught."""

    name: str  # of the result
    trigger: str = ""  # put behind each caption that does not have it
    rank: int = 16
    layers: str = "everything"  # a key of LAYERS
    batch_size: int = 4  # pictures of one shape
    caption_dropout: float = 0.1  # as in pretrain: guidance needs its null
    snr_cap: float = 5.0  # as in pretrain
    look_pictures: int = 4  # of the first captions
    look_steps: int = 20
    guidance_scale: float = 3.0  # of the looks
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=400, learning_rate=1e-3, warmup=20, checkpoint_every=50, report_every=1
        )
    )


def usual_config(model: LatentDiffusionModel, name: str, trigger: str) -> LoraConfig:
    """Return the settings that suit a model's size.

    Those of `LoraConfig` are for U-Nets like the starter model's. A large one has usually been
    taught with a tenth of the rate, in its transformers alone, and is drawn with more guidance.
    """
    config = LoraConfig(name, trigger)
    if sum(weight.numel() for weight in model.unet.parameters()) < LARGE:
        return config
    loop = replace(config.loop, learning_rate=1e-4)
    return replace(config, layers="transformer", guidance_scale=7.0, loop=loop)


@dataclass(frozen=True)
class Encoded:
    """What the loop reads, computed once."""

    latents: tuple[Tensor, ...]  # per bucket: (pictures, C, h, w)
    captions: tuple[Tensor, ...]  # per bucket: (pictures,) numbers of text features
    features: Tensor  # (captions, 77, D); row 0 is the empty caption


def full_caption(caption: str, trigger: str) -> str:
    """Return the caption with the trigger word in it: at its end, where style words stand."""
    caption, trigger = " ".join(caption.split()), " ".join(trigger.split())
    if not trigger or trigger.casefold() in caption.casefold():
        return caption
    return f"{caption}, {trigger}" if caption else trigger


def check_examples(
    model: LatentDiffusionModel, examples: Sequence[Example], config: LoraConfig
) -> None:
    """Raise TrainingError when this model cannot be taught these pictures."""
    if model.sees_mask:
        raise TrainingError(
            f"'{model.name}' is an inpainting checkpoint, which cannot be taught from whole "
            "pictures; choose the ordinary model that it was made from."
        )
    if len(examples) < FEWEST:
        raise TrainingError(
            f"There {'is 1 picture' if len(examples) == 1 else f'are {len(examples)} pictures'} to "
            f"learn from; a style needs at least {FEWEST}. Add more."
        )
    if not any(full_caption(e.caption, config.trigger) for e in examples):
        raise TrainingError(
            "The pictures have no captions and there is no trigger word, so nothing would call "
            "the style. Give a trigger word, or write captions."
        )


def smallest_side(model: LatentDiffusionModel) -> int:
    """Return how many pixels a picture's shorter side must have to teach this model anything."""
    return min(model.native_size) // 4


def train(
    model: LatentDiffusionModel, examples: Sequence[Example], config: LoraConfig, folder: Path
) -> Iterator[Event]:
    """Teach `model` an adapter from examples, or go on with the run in `folder`.

    `model` is this run's own, in fp32; it is given back without the adapter. Yields after every
    step, and a StageArtifact for each sheet of samples; the last one is the adapter. Who closes the
    generator pauses the run: it goes on from the same step.

    Raises TrainingError for too few pictures, for a folder that holds another run, and when the
    loss is not finite; DiskFullError.
    """
    check_examples(model, examples, config)
    _claim(folder, _identity(model, examples, config))
    for example in examples:
        if rest := cut_off_sentence(model, full_caption(example.caption, config.trigger)):
            yield Notice(f"{example.title}: {rest}")
    encoded = yield from prepare(model, examples, config)
    adapter = _trainable(model, config)
    try:
        yield from _teach(model, examples, config, folder, (encoded, adapter))
        lineage = _lineage(model, examples, config)
        path, _ = save_adapter(model.unet, folder, lineage)
    finally:
        remove_trained_adapter(model.unet)
    yield StageArtifact(STAGE, str(path))


def conclude(
    model: LatentDiffusionModel, examples: Sequence[Example], config: LoraConfig, folder: Path
) -> StageArtifact:
    """Write the adapter as far as the run in `folder` came, without training on.

    Raises TrainingError when it has not committed anything yet.
    """
    _claim(folder, _identity(model, examples, config))
    found = checkpoint.latest(folder)
    if found is None:
        raise TrainingError("Nothing was learned yet, so there is nothing to keep.")
    adapter = _trainable(model, config)
    try:
        adapter.load_state_dict(found.tensors["weights"])
        lineage = _lineage(model, examples, config) | {"stopped_at": found.step}
        path, _ = save_adapter(model.unet, folder, lineage)
    finally:
        remove_trained_adapter(model.unet)
    return StageArtifact(STAGE, str(path))


def _trainable(model: LatentDiffusionModel, config: LoraConfig) -> nn.ParameterList:
    """Put a new adapter on the U-Net; return its weights as a module of their own."""
    layers = dict(LAYERS)[config.layers]
    return nn.ParameterList(
        add_trainable_adapter(model.unet, config.rank, config.loop.seed, layers)
    )


def _teach(
    model: LatentDiffusionModel,
    examples: Sequence[Example],
    config: LoraConfig,
    folder: Path,
    taught: tuple[Encoded, nn.ParameterList],
) -> Iterator[Event]:
    """Take the steps; look at the samples before the first, after the last, and now and then."""
    encoded, adapter = taught
    hardware = Hardware(model.device)
    alphas = noise_schedule(model.scheduler_config).alphas_cumprod.to(model.device)

    def loss_at(step: int) -> tuple[Tensor, Metrics]:
        return step_loss(model, encoded, (config, alphas), step, hardware)

    gallery = _Samples(model, examples, config, folder)
    yield from gallery.look(0)
    stepping = optimize(STAGE, adapter, loss_at, config.loop, folder)
    begun = perf_counter()
    for event in stepping:
        gallery.worked += perf_counter() - begun
        yield event
        if isinstance(event, StageProgress):
            gallery.step, gallery.steps = event.step, event.steps
        if isinstance(event, StageArtifact) and gallery.is_due():
            yield from gallery.look(gallery.step)
        begun = perf_counter()


def prepare(
    model: LatentDiffusionModel, examples: Sequence[Example], config: LoraConfig
) -> Generator[Event, None, Encoded]:
    """Encode every picture in its bucket and every distinct caption, once; yields in between."""
    levels = len(model.unet.config.block_out_channels) - 1
    buckets = bucket_sizes(model.native_size, model.vae_scale_factor * 2**levels)
    numbers: dict[str, int] = {"": 0}
    found: dict[tuple[int, int], list[tuple[Tensor, int]]] = {}
    for done, example in enumerate(examples, 1):
        bucket = nearest_bucket(example.picture.size, buckets)
        pixels = np.asarray(fit(example.picture.convert("RGB"), bucket))
        with torch.no_grad():
            latents = encode(model.vae, from_uint8(pixels[None]).to(model.device))
        caption = full_caption(example.caption, config.trigger)
        number = numbers.setdefault(caption, len(numbers))
        found.setdefault(bucket, []).append((latents, number))
        yield StageProgress(PREPARE, done, len(examples), None)
    texts = TextFeatures(model)
    features = torch.cat([texts.batch([caption], 1.0) for caption in numbers])
    parts = [found[bucket] for bucket in sorted(found)]
    return Encoded(
        tuple(torch.cat([latents for latents, _ in part]) for part in parts),
        tuple(torch.tensor([number for _, number in part]) for part in parts),
        features,
    )


def draw_batch(encoded: Encoded, config: LoraConfig, step: int) -> tuple[Tensor, Tensor]:
    """Draw latents (B, C, h, w) of one bucket, and their text features (B, 77, D).

    A bucket comes as often as it has pictures; no picture comes twice before the bucket is empty.
    """
    choose = step_generator(config.loop.seed, step)
    sizes = np.array([len(part) for part in encoded.latents])
    number = choose.choice(len(sizes), p=sizes / sizes.sum())
    rounds = -(-config.batch_size // sizes[number])
    rows = np.concatenate([choose.permutation(sizes[number]) for _ in range(rounds)])
    rows = torch.from_numpy(rows[: config.batch_size])
    dropped = torch.from_numpy(choose.random(len(rows)) < config.caption_dropout)
    captions = encoded.captions[number][rows].masked_fill(dropped, 0)
    return encoded.latents[number][rows], encoded.features[captions]


def step_loss(
    model: LatentDiffusionModel,
    encoded: Encoded,
    settings: tuple[LoraConfig, Tensor],
    step: int,
    hardware: Hardware,
) -> tuple[Tensor, Metrics]:
    """Loss () of one step; `settings` are the configuration and abar per timestep (T,)."""
    config, alphas = settings
    latents, features = draw_batch(encoded, config, step)
    t = stratified_timesteps(len(latents), step_generator(config.loop.seed, step, stream=1))
    t = (t * len(alphas) // 1000).to(model.device)
    noise = torch.randn(latents.shape, generator=torch_generator(config.loop.seed, step))
    noise = noise.to(model.device)
    alpha = alphas[t].reshape(-1, 1, 1, 1)
    with hardware.autocast():
        output = model.unet(add_noise(latents, noise, alpha), t, features).sample.float()
    kind = str(model.scheduler_config.get("prediction_type", "epsilon"))
    target = prediction_target(latents, noise, alpha, kind)
    return noise_prediction_loss(output, target, prediction_weight(alpha, kind, config.snr_cap)), {}


class _Samples:
    """The same captions drawn now and then, so that one sees the style come."""

    def __init__(
        self,
        model: LatentDiffusionModel,
        examples: Sequence[Example],
        config: LoraConfig,
        folder: Path,
    ) -> None:
        captions = [full_caption(e.caption, config.trigger) for e in examples]
        distinct = list(dict.fromkeys(c for c in captions if c)) or [""]
        prompts = (distinct * config.look_pictures)[: config.look_pictures]
        seeds = tuple(LOOK_SEED + i for i in range(len(prompts)))
        self._model = model
        self._texts = TextFeatures(model)
        self._folder = folder / "samples"
        self._plan = LookPlan(
            tuple(prompts),
            seeds,
            model.native_size,
            config.look_steps,
            config.guidance_scale,
            config.batch_size,
        )
        self._looked = 0.0  # seconds
        self.worked = 0.0  # seconds, in training
        self.step, self.steps = 0, 0

    def is_due(self) -> bool:
        """Whether one may look again; after the last step always."""
        return self.step == self.steps or self._looked <= LOOK_SHARE * self.worked

    def look(self, step: int) -> Iterator[Event]:
        """Draw the sheet of this step, unless it is there."""
        path = self._folder / f"step-{step:06d}.png"
        if path.exists():
            return
        begun = perf_counter()
        calls = self._plan.steps * -(-len(self._plan.prompts) // self._plan.batch)
        for number, part in enumerate(draw_look(self._model, self._texts, self._plan), 1):
            self._looked += perf_counter() - begun
            if isinstance(part, np.ndarray):
                _save_sheet(part, path)
                yield StageArtifact(LOOK, str(path))
                return
            yield StageProgress(LOOK, number, calls, None)
            begun = perf_counter()


def _save_sheet(pictures: np.ndarray, path: Path) -> None:
    """Write pictures (B, H, W, 3) side by side, in one piece or not at all."""
    partial = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(list(pictures), axis=1)).save(partial, "PNG")
        partial.replace(path)
    except OSError as error:
        raise DiskFullError(
            f"The run's folder cannot be written to ({error.strerror}). Free some disk space and "
            "start again; it goes on from the last checkpoint."
        ) from error


def _claim(folder: Path, identity: dict[str, object]) -> None:
    """Make the folder this run's, or check that it is."""
    path = folder / "run.json"
    text = json.dumps(identity, indent=1, sort_keys=True, ensure_ascii=False)
    if not path.exists():
        write_text(path, text)
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    wanted = json.loads(text)
    if known == wanted:
        return
    changed = next((name for name in wanted if known.get(name) != wanted[name]), "settings")
    reasons = {
        "base": "its base model was another one, or has changed since",
        "examples": "its pictures or captions were others",
    }
    raise TrainingError(
        f"The folder {folder.name} holds another run: "
        f"{reasons.get(changed, 'its settings were others')}. Choose another name, or give back "
        "what it was started with to go on."
    )


def _identity(
    model: LatentDiffusionModel, examples: Sequence[Example], config: LoraConfig
) -> dict[str, object]:
    """Return what must be the same for a run to go on."""
    return {
        "base": model.sha256,
        "examples": [[_pixel_hash(e.picture), e.caption] for e in examples],
        "settings": asdict(config),
    }


def _lineage(
    model: LatentDiffusionModel, examples: Sequence[Example], config: LoraConfig
) -> dict[str, object]:
    """Return what the adapter's header tells: where it comes from, and how to call it."""
    captions = "\n".join(full_caption(e.caption, config.trigger) for e in examples)
    return {
        "made_by": "easel lora",
        "base": model.name,
        "base_sha256": model.sha256,
        "name": config.name,
        "trigger": config.trigger,
        "pictures": [_pixel_hash(e.picture) for e in examples],
        "captions_sha256": hashlib.sha256(captions.encode()).hexdigest(),
        "config": asdict(config),
    }


def _pixel_hash(picture: Image.Image) -> str:
    head = f"{picture.mode} {picture.width} {picture.height}\n".encode()
    return hashlib.sha256(head + picture.tobytes()).hexdigest()

"""Stage 4, the U-Net: learn to tell noise from picture (Ho et al. 2020, Rombach et al. 2022).

For a picture's latents x_0, noise eps and a random timestep t:

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps          cosine schedule, Nichol & Dhariwal 2021
    L   = E || eps - eps_theta(x_t, t, c) ||^2              `noise_prediction_loss`

The switches of `UnetConfig`, all of them off in the papers' baseline:

* `prediction_type` 'epsilon': the U-Net's output is eps_theta and L is Ho et al.'s simple loss.
  'v_prediction': it is v_theta, whose target is v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans &
  Ho 2022). Its squared error is that of the noise divided by abar_t, so very noisy timesteps, where
  a picture's layout is decided, count as well.
* `snr_cap` truncates the weight SNR + 1 that v-prediction gives to the error of x_0, so that nearly
  clean timesteps, where only invisible detail is left to learn, do not dominate.
* `min_snr_gamma` is Hang et al. 2023: the error of x_0 is weighted min(SNR, gamma), whatever is
  predicted; it takes the place of `snr_cap`.
* `zero_terminal_snr` is Lin et al. 2024: the schedule is stretched until no signal is left at the
  last timestep, which only v-prediction can learn from.

Latents and text features are computed once and kept; the text encoder is called once a distinct
caption. One caption in ten is left empty, so that classifier-free guidance has its null.

The square frame shows single subjects and composed scenes, wide and tall frames show scenes, whose
captions say where things stand and how large (`scenes.py`). Nothing that is held out is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from studio.core.errors import TrainingError
from studio.core.events import Event, StageArtifact, StageProgress
from studio.diffusion.schedule import (
    add_noise,
    cosine_alphas_cumprod,
    predicted_original_and_noise,
    velocity,
    zero_terminal_snr,
)
from studio.training import checkpoint
from studio.training.dataset.captions import caption
from studio.training.dataset.corpus import Corpus, drawn_rows
from studio.training.dataset.scenes import paint_bank
from studio.training.dataset.sources import INK, PICTOGRAM, SKETCH
from studio.training.hardware import PLAIN, Hardware
from studio.training.loop import LoopConfig, Metrics, optimize, step_generator, torch_generator
from studio.training.made_with import (
    START,
    MadeWith,
    sum_of_corpus,
    sum_of_files,
    sum_of_tensors,
)
from studio.training.stages.autoencoder import decode, encode, encoder_weights
from studio.training.stages.export import in_place_of, write_picture
from studio.training.stages.towers import TOKENIZER_FILES, tokenize
from studio.training.stages.warm_start import warm_start, write_start

TIMESTEPS = 1000


@dataclass(frozen=True)
class Frame:
    """A picture shape that the model is trained on; the first one shows single subjects too."""

    width: int  # pixels
    height: int
    share: float  # of the batches
    scenes: int = 0  # painted once


FRAMES: tuple[Frame, ...] = (
    Frame(128, 128, 0.86, 1600),
    Frame(176, 96, 0.08, 1200),
    Frame(96, 176, 0.06, 800),
)
MONOCHROME = (SKETCH, INK, PICTOGRAM)


@dataclass(frozen=True)
class UnetConfig:
    """Size of the U-Net and of its training."""

    channels: tuple[int, ...] = (64, 128, 192)
    layers_per_block: int = 1
    heads: int = 4  # of the attention
    text_width: int = 256  # of the text encoder's hidden states
    frames: tuple[Frame, ...] = FRAMES  # the first one is the native size
    batch_size: int = 16
    prediction_type: str = "v_prediction"  # or 'epsilon'
    snr_cap: float = 5.0  # of the weight SNR + 1 of the x_0 error; infinity: plain MSE of v
    min_snr_gamma: float = 0.0  # 5 in the paper; 0: off
    zero_terminal_snr: bool = False
    caption_dropout: float = 0.1  # share of captions left empty
    captions_per_picture: int = 2  # one plain, the others with tags
    everything: bool = False  # learn all of the corpus, not the small model's subjects only
    monochrome_share: float = 0.25  # of single subjects: sketches, ink drawings and pictograms
    scene_share: float = 0.15  # of the square frame; a small model learns few of them
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=4000, learning_rate=6e-4, ema_decay=0.999, checkpoint_every=500
        )
    )

    def __post_init__(self) -> None:
        if self.zero_terminal_snr and self.prediction_type != "v_prediction":
            raise TrainingError(
                "Without any signal at the last timestep the noise is all there is to predict; "
                "use zero-terminal SNR with v-prediction."
            )


@dataclass(frozen=True)
class Cache:
    """Everything the loop reads, computed once by the encoders."""

    latents: tuple[Tensor, ...]  # per frame: (items, 4, h, w)
    captions: tuple[Tensor, ...]  # per frame: (items, K) numbers of text features
    weights: tuple[np.ndarray, ...]  # per frame: (items,) probability of an item
    features: Tensor  # (captions, 77, C) bf16; row 0 is the empty caption

    def to(self, device: torch.device) -> Cache:
        """Return the same with its latents and features on `device`."""
        latents = tuple(frame.to(device) for frame in self.latents)
        return replace(self, latents=latents, features=self.features.to(device))


def build_unet(config: UnetConfig) -> UNet2DConditionModel:
    """Make an untrained U-Net: cross-attention at 16 x 16 and 8 x 8 latents and in the middle."""
    return UNet2DConditionModel(
        sample_size=config.frames[0].width // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=config.text_width,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
        norm_num_groups=32,
    )


def noise_prediction_loss(
    noise_pred: Tensor, noise: Tensor, weight: Tensor | float = 1.0
) -> Tensor:
    """L = E w ||eps - eps_theta||^2 over (B, C, h, w); w (B, 1, 1, 1), 1 in Ho et al. 2020.

    Of v, where the U-Net predicts v.
    """
    return (weight * (noise - noise_pred).square()).mean()


def prediction_target(
    x0: Tensor, noise: Tensor, alphas_cumprod_t: Tensor, prediction_type: str
) -> Tensor:
    """Return what the U-Net is to predict at x_t, the noise or v; shaped as `x0`."""
    return noise if prediction_type == "epsilon" else velocity(x0, noise, alphas_cumprod_t)


def prediction_weight(
    alphas_cumprod_t: Tensor, prediction_type: str, snr_cap: float, min_snr_gamma: float = 0.0
) -> Tensor:
    """Weight of the squared error of the U-Net's prediction; shape as `alphas_cumprod_t`.

    With SNR = abar_t / (1 - abar_t), the squared error of x_0 is that of the noise divided by SNR,
    and that of v divided by SNR + 1. So min(SNR, gamma) on x_0 is min(SNR, gamma) / SNR for
    'epsilon' and min(SNR, gamma) / (SNR + 1) for 'v_prediction' (Hang et al. 2023, section 3.4).
    Without it: 1 for 'epsilon', min(SNR + 1, snr_cap) / (SNR + 1) for 'v_prediction'.
    """
    snr = alphas_cumprod_t / (1 - alphas_cumprod_t)
    if min_snr_gamma:
        divisor = snr if prediction_type == "epsilon" else snr + 1
        return snr.clamp(max=min_snr_gamma) / divisor
    if prediction_type == "epsilon":
        return torch.ones_like(alphas_cumprod_t)
    return (snr + 1).clamp(max=snr_cap) / (snr + 1)


def training_schedule(config: UnetConfig) -> Tensor:
    """Return abar per timestep (1000,) that the U-Net is trained with."""
    alphas = cosine_alphas_cumprod(TIMESTEPS)
    return zero_terminal_snr(alphas) if config.zero_terminal_snr else alphas


def stratified_timesteps(count: int, choose: np.random.Generator) -> Tensor:
    """Draw `count` timesteps, one from each of `count` equal slices of 0..999, shuffled.

    Uniform like independent draws, with less variance of the loss.
    """
    slices = (choose.permutation(count) + choose.random(count)) / count
    return torch.from_numpy((slices * TIMESTEPS).astype(np.int64))


def train(
    corpus: Corpus,
    config: UnetConfig,
    folders: Path,
    hardware: Hardware = PLAIN,
    start: Path | None = None,
) -> Iterator[Event]:
    """Train the U-Net on `folders/autoencoder` and `folders/clip`; save `folders/unet/unet`.

    start: a starter model to go on from instead of from noise (`warm_start.py`).
    """
    folder = folders / "unet"
    vae, tokenizer, text = load_encoders(folders)
    vae, text = vae.to(hardware.device), text.to(hardware.device)
    cache = build_cache(corpus, config, vae, tokenizer, text).to(hardware.device)
    torch.manual_seed(config.loop.seed)
    unet = build_unet(config)
    if start is not None and checkpoint.latest(folder) is None:
        rows = drawn_rows(corpus, config.everything)
        entries = [corpus.entries[row] for row in rows[:: max(len(rows) // 600, 1)]]
        captions = [f"{entry.subject}, {entry.style}" for entry in entries]
        features = encode_captions(tokenizer, text, captions).float()
        found = warm_start(unet, start, captions, features)
        write_start(folder, start)
        yield StageProgress("unet", 0, config.loop.steps, None, found)
    unet = unet.to(hardware.device)
    hardware.prepare(unet)
    alphas = training_schedule(config)
    if hardware.compile:
        unet.compile()

    def loss_at(step: int) -> tuple[Tensor, Metrics]:
        return step_loss(unet, cache, config, alphas, step, hardware)

    kind = ", ".join((config.prediction_type, *["zero-terminal SNR"] * config.zero_terminal_snr))
    made_with = MadeWith.of(kind, config, _files(corpus, folders, (vae, text), start))
    for event in optimize("unet", unet, loss_at, config.loop, folder, hardware.team, made_with):
        yield event
        if isinstance(event, StageArtifact):
            yield StageArtifact("unet", str(_sample_sheet(unet, folder, config, cache, vae)))
    if hardware.team.leads:
        with in_place_of(folder / "unet") as new:
            unet.save_pretrained(new)
    hardware.team.wait()


def _files(
    corpus: Corpus,
    folders: Path,
    encoders: tuple[AutoencoderKL, CLIPTextModelWithProjection],
    start: Path | None,
) -> dict[str, str]:
    """Return the sums of what the U-Net learns from; of the autoencoder what makes latents."""
    vae, text = encoders
    tokenizer = (folders / "clip" / "tokenizer" / name for name in TOKENIZER_FILES)
    found = {
        "corpus": sum_of_corpus(corpus),
        "autoencoder": sum_of_tensors(encoder_weights(vae)),
        "text encoder": sum_of_tensors(text.text_model.state_dict()),
        "tokenizer": sum_of_files(*tokenizer),
    }
    if start is not None:
        found[START] = sum_of_files(start / "unet" / "diffusion_pytorch_model.safetensors")
    return found


def step_loss(
    unet: nn.Module,
    cache: Cache,
    config: UnetConfig,
    alphas_cumprod: Tensor,
    step: int,
    hardware: Hardware = PLAIN,
) -> tuple[Tensor, Metrics]:
    """Loss () and metrics of one step; `noise_mse` is the loss in the unweighted form.

    In a team both are of this process's part of the batch, and the parts add up to the whole.
    """
    latents, features = draw_batch(cache, config, step)
    choose = step_generator(config.loop.seed, step, stream=1)
    t = stratified_timesteps(len(latents), choose)
    generator = torch_generator(config.loop.seed, step, latents.device)
    noise = torch.randn(latents.shape, generator=generator, device=latents.device)
    share = len(hardware.team.part(t)) / len(t)
    latents, features, t, noise = (
        hardware.team.part(whole).to(hardware.device) for whole in (latents, features, t, noise)
    )
    alpha = alphas_cumprod.to(t.device)[t].reshape(-1, 1, 1, 1)
    noisy = add_noise(latents, noise, alpha)
    with hardware.autocast():
        output = unet(noisy, t, features).sample.float()
    kind = config.prediction_type
    weight = prediction_weight(alpha, kind, config.snr_cap, config.min_snr_gamma)
    target = prediction_target(latents, noise, alpha, kind)
    _, noise_pred = predicted_original_and_noise(output.detach(), noisy, alpha, kind)
    plain = noise_prediction_loss(noise_pred, noise)
    return noise_prediction_loss(output, target, weight) * share, {"noise_mse": plain * share}


def load_encoders(
    folders: Path,
) -> tuple[AutoencoderKL, CLIPTokenizer, CLIPTextModelWithProjection]:
    """Load what the earlier stages made. Raises `TrainingError` when one is missing."""
    vae, clip = folders / "autoencoder" / "vae", folders / "clip"
    for path, stage in ((vae, "autoencoder"), (clip / "text_with_projection", "clip")):
        if not path.exists():
            raise TrainingError(
                f"The U-Net needs the {stage} stage first. Run `python launch.py train {stage}`."
            )
    return (
        AutoencoderKL.from_pretrained(vae, local_files_only=True).eval(),
        CLIPTokenizer.from_pretrained(clip / "tokenizer", local_files_only=True),
        CLIPTextModelWithProjection.from_pretrained(
            clip / "text_with_projection", local_files_only=True
        ).eval(),
    )


def build_cache(
    corpus: Corpus,
    config: UnetConfig,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text: CLIPTextModelWithProjection,
) -> Cache:
    """Encode every picture and scene of every frame and every distinct caption, once.

    Raises `TrainingError` when the corpus was drawn at another size.
    """
    native = config.frames[0].width
    if corpus.pictures.shape[1] != native:
        raise TrainingError(
            f"The corpus holds pictures of {corpus.pictures.shape[1]} pixels and the model draws "
            f"{native}. Run `python launch.py train corpus` with the same --profile."
        )
    rows = drawn_rows(corpus, config.everything)
    choose = np.random.default_rng(config.loop.seed)
    numbers: dict[str, int] = {"": 0}
    latents, captions, weights = [], [], []
    for number, frame in enumerate(config.frames):
        size = (frame.width, frame.height)
        bank = paint_bank(corpus, rows, size, frame.scenes, config.loop.seed)
        worded = [[said, *_reworded(said, config)] for said in bank.captions]
        encoded = [encode(vae, bank.pictures)] if worded else []
        share = np.full(len(worded), 1 / max(len(worded), 1))
        if number == 0:
            single = [corpus.entries[row] for row in rows]
            own = [
                [f"{e.subject}, {e.style}"]
                + [
                    caption(e.subject, e.tags, e.style, choose)
                    for _ in range(config.captions_per_picture - 1)
                ]
                for e in single
            ]
            worded = own + worded
            encoded.insert(0, encode(vae, corpus.pictures[rows]))
            scenes = config.scene_share if len(share) else 0.0
            weight = _weights([e.style for e in single], config.monochrome_share)
            share = np.concatenate([(1 - scenes) * weight, scenes * share])
        latents.append(torch.cat(encoded))
        coded = [[numbers.setdefault(w, len(numbers)) for w in words] for words in worded]
        captions.append(torch.tensor(coded))
        weights.append(share)
    features = encode_captions(tokenizer, text, list(numbers))
    return Cache(tuple(latents), tuple(captions), tuple(weights), features)


def _reworded(said: str, config: UnetConfig) -> list[str]:
    """Say a scene's caption in another order, once for each caption beside a picture's first."""
    scene, style = said.rsplit(", ", 1)
    return [f"{style}, {scene}"] * (config.captions_per_picture - 1)


def _weights(styles: list[str], monochrome_share: float) -> np.ndarray:
    """Probability of each single picture: monochrome ones together have their share."""
    quiet = np.array([style in MONOCHROME for style in styles])
    if quiet.all() or not quiet.any():
        return np.full(len(styles), 1 / len(styles))
    return np.where(quiet, monochrome_share / quiet.sum(), (1 - monochrome_share) / (~quiet).sum())


@torch.inference_mode()
def encode_captions(
    tokenizer: CLIPTokenizer, text: CLIPTextModelWithProjection, captions: list[str]
) -> Tensor:
    """Captions to the text tower's last hidden states (N, 77, C), kept in bf16."""
    parts = []
    for i in range(0, len(captions), 64):
        ids = tokenize(tokenizer, captions[i : i + 64]).to(text.device)
        parts.append(text.text_model(ids).last_hidden_state.to(torch.bfloat16).cpu())
    return torch.cat(parts).clone()


def draw_batch(cache: Cache, config: UnetConfig, step: int) -> tuple[Tensor, Tensor]:
    """Draw latents (B, 4, h, w) of one frame and their text features (B, 77, C) in fp32."""
    choose = step_generator(config.loop.seed, step)
    number = choose.choice(len(config.frames), p=[f.share for f in config.frames])
    weights = cache.weights[number]
    items = torch.from_numpy(choose.choice(len(weights), config.batch_size, p=weights))
    variant = torch.from_numpy(choose.integers(config.captions_per_picture, size=len(items)))
    captions = cache.captions[number][items, variant]
    dropped = torch.from_numpy(choose.random(len(items)) < config.caption_dropout)
    captions = captions.masked_fill(dropped, 0)
    return cache.latents[number][items], cache.features[captions].float()


@torch.no_grad()
def _sample_sheet(
    unet: nn.Module, folder: Path, config: UnetConfig, cache: Cache, vae: AutoencoderKL
) -> Path:
    """Draw 16 training captions from fixed noise with the moving average and 20 DDIM steps."""
    from diffusers import DDIMScheduler
    from safetensors.torch import load_file

    newest = sorted(folder.glob("checkpoint-????????"))[-1]
    current = {k: v.clone() for k, v in unet.state_dict().items()}
    unet.load_state_dict(load_file(newest / "ema.safetensors"))
    unet.eval()
    scheduler = DDIMScheduler(**scheduler_settings(config))
    scheduler.set_timesteps(20)
    picked = torch.linspace(0, len(cache.weights[0]) - 1, 16).long()
    text = cache.features[cache.captions[0][picked, 0]].float()
    null = cache.features[:1].float().expand_as(text)
    latents = torch.randn((16, *cache.latents[0].shape[1:]), generator=torch_generator(0, 1))
    latents = latents.to(text.device)
    for t in scheduler.timesteps:
        output = unet(torch.cat([latents] * 2), t, torch.cat([null, text])).sample
        uncond, cond = output.chunk(2)
        latents = scheduler.step(uncond + 3 * (cond - uncond), t, latents).prev_sample
    pictures = decode(vae, latents)
    sheet = np.concatenate([np.concatenate(list(pictures[i : i + 8]), 1) for i in (0, 8)])
    path = folder / f"samples-{newest.name[-8:]}.png"
    write_picture(Image.fromarray(sheet), path)
    unet.load_state_dict(current)
    unet.train()
    return path


def scheduler_settings(config: UnetConfig) -> dict[str, object]:
    """Settings of the DDIM scheduler that the model is trained for, in diffusers' names.

    A schedule without signal at its end is drawn from that end on: 'trailing' (Lin et al. 2024).
    """
    settings = {
        "num_train_timesteps": TIMESTEPS,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": config.prediction_type,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    if config.zero_terminal_snr:
        settings |= {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    return settings

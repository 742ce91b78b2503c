"""Stage 4, the U-Net: learn to tell noise from picture (Ho et al. 2020, Rombach et al. 2022).

For a picture's latents x_0, noise eps and a random timestep t:

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps          cosine schedule, Nichol & Dhariwal 2021
    L   = E || eps - eps_theta(x_t, t, c) ||^2              `noise_prediction_loss`

Two parametrisations of eps_theta, `prediction_type`:

* `epsilon`: the U-Net's output is eps_theta, and L is Ho et al.'s simple loss.
* `v_prediction`: eps_theta = sqrt(1 - abar_t) x_t + sqrt(abar_t) v_theta (Salimans & Ho 2022). The
  mean squared error of v is the mean squared error of the noise divided by abar_t, so very noisy
  timesteps, where a picture's layout is decided, count as well. `snr_cap` limits the weight of
  nearly clean timesteps, where only invisible detail is left to learn (after Hang et al. 2023).

Latents and text features are computed once and kept; the text encoder is called once a distinct
caption. One caption in ten is left empty, so that classifier-free guidance has its null.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from studio.core.errors import TrainingError
from studio.core.events import Event, StageArtifact
from studio.diffusion.schedule import add_noise, cosine_alphas_cumprod
from studio.training.autoencoder import decode, encode
from studio.training.clip import caption, tokenize
from studio.training.corpus import Corpus, starter_subjects
from studio.training.loop import LoopConfig, optimize, step_generator, torch_generator
from studio.training.sources import DRAWN_STYLES, SKETCH

TIMESTEPS = 1000


@dataclass(frozen=True)
class Frame:
    """A picture shape that the model is trained on, and where a subject may stand in it."""

    width: int  # pixels
    height: int
    share: float  # of the batches
    places: tuple[tuple[str, float], ...] = (("", 0.5),)  # (words, position along the long side)


FRAMES: tuple[Frame, ...] = (
    Frame(128, 128, 0.88),
    Frame(176, 96, 0.08, (("on the left", 0.08), ("", 0.5), ("on the right", 0.92))),
    Frame(96, 176, 0.04, (("", 0.5),)),
)


@dataclass(frozen=True)
class UnetConfig:
    """Size of the U-Net and of its training."""

    channels: tuple[int, ...] = (64, 128, 192)
    layers_per_block: int = 1
    heads: int = 4  # of the attention
    text_width: int = 256  # of the text encoder's hidden states
    batch_size: int = 16
    prediction_type: str = "v_prediction"  # or 'epsilon'
    snr_cap: float = 5.0  # truncates the weight SNR + 1 of the x_0 error; infinity: plain MSE of v
    caption_dropout: float = 0.1  # share of captions left empty
    captions_per_picture: int = 2  # one plain, the others with tags
    sketch_share: float = 0.12  # of the pictures drawn from the pencil sketches
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=4000, learning_rate=6e-4, ema_decay=0.999, checkpoint_every=500
        )
    )


@dataclass(frozen=True)
class Cache:
    """Everything the loop reads, computed once by the encoders."""

    latents: tuple[Tensor, ...]  # per frame: (rows * places, 4, h, w)
    captions: tuple[Tensor, ...]  # per frame: (rows * places, K) numbers of text features
    features: Tensor  # (captions, 77, C) bf16; row 0 is the empty caption
    weights: np.ndarray  # (rows,) probability of a corpus row


def build_unet(config: UnetConfig) -> UNet2DConditionModel:
    """Make an untrained U-Net: cross-attention at 16 x 16 and 8 x 8 latents and in the middle."""
    return UNet2DConditionModel(
        sample_size=16,
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
    """L = E w ||eps - eps_theta||^2 over (B, C, h, w); w (B, 1, 1, 1), 1 in Ho et al. 2020."""
    return (weight * (noise - noise_pred).square()).mean()


def noise_loss_weight(alphas_cumprod_t: Tensor, prediction_type: str, snr_cap: float) -> Tensor:
    """Weight of the squared noise error at each timestep; shape as `alphas_cumprod_t`.

    For 'epsilon' 1. For 'v_prediction' 1 / abar_t, which makes the loss the mean squared error of
    v, times min(SNR + 1, snr_cap) / (SNR + 1) with SNR = abar_t / (1 - abar_t).
    """
    if prediction_type == "epsilon":
        return torch.ones_like(alphas_cumprod_t)
    snr_plus_one = 1 / (1 - alphas_cumprod_t)
    return snr_plus_one.clamp(max=snr_cap) / snr_plus_one / alphas_cumprod_t


def stratified_timesteps(count: int, choose: np.random.Generator) -> Tensor:
    """Draw `count` timesteps, one from each of `count` equal slices of 0..999, shuffled.

    Uniform like independent draws, with less variance of the loss.
    """
    slices = (choose.permutation(count) + choose.random(count)) / count
    return torch.from_numpy((slices * TIMESTEPS).astype(np.int64))


def frame_picture(picture: np.ndarray, frame: Frame, place: float) -> np.ndarray:
    """Put a square picture (S, S, 3) uint8 into a frame on white: (height, width, 3) uint8."""
    if frame.width == frame.height == len(picture):
        return picture
    side = min(frame.width, frame.height)
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (frame.width, frame.height), "white")
    x = round((frame.width - side) * place)
    y = round((frame.height - side) * place)
    canvas.paste(small, (x, y))
    return np.asarray(canvas)


def train(corpus: Corpus, config: UnetConfig, folders: Path) -> Iterator[Event]:
    """Train the U-Net on `folders/autoencoder` and `folders/clip`; save `folders/unet/unet`."""
    folder = folders / "unet"
    vae, tokenizer, text = load_encoders(folders)
    cache = build_cache(corpus, config, vae, tokenizer, text)
    torch.manual_seed(config.loop.seed)
    unet = build_unet(config)
    alphas = cosine_alphas_cumprod(TIMESTEPS)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        return step_loss(unet, cache, config, alphas, step)

    for event in optimize("unet", unet, loss_at, config.loop, folder):
        yield event
        if isinstance(event, StageArtifact):
            yield StageArtifact("unet", str(_sample_sheet(unet, folder, config, cache, vae)))
    unet.save_pretrained(folder / "unet")


def step_loss(
    unet: nn.Module, cache: Cache, config: UnetConfig, alphas_cumprod: Tensor, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Loss () and metrics of one step; `noise_mse` is the loss in the unweighted form."""
    latents, features = draw_batch(cache, config, step)
    choose = step_generator(config.loop.seed, step, stream=1)
    t = stratified_timesteps(len(latents), choose)
    noise = torch.randn(latents.shape, generator=torch_generator(config.loop.seed, step))
    alpha = alphas_cumprod[t].reshape(-1, 1, 1, 1)
    noisy = add_noise(latents, noise, alpha)
    output = unet(noisy, t, features).sample
    if config.prediction_type == "v_prediction":
        # eps = sqrt(1 - abar) x_t + sqrt(abar) v
        output = (1 - alpha).sqrt() * noisy + alpha.sqrt() * output
    weight = noise_loss_weight(alpha, config.prediction_type, config.snr_cap)
    plain = noise_prediction_loss(output.detach(), noise).item()
    return noise_prediction_loss(output, noise, weight), {"noise_mse": plain}


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
    """Encode every picture in every frame and every distinct caption, once."""
    rows = corpus.rows(frozenset(starter_subjects()), DRAWN_STYLES)
    choose = np.random.default_rng(config.loop.seed)
    numbers: dict[str, int] = {"": 0}
    latents, captions = [], []
    for frame in FRAMES:
        framed, wanted = [], []
        for row in rows:
            entry, picture = corpus.entries[row], np.asarray(corpus.pictures[row])
            words = [f"{entry.subject}, {entry.style}"]
            words += [caption(entry, choose) for _ in range(config.captions_per_picture - 1)]
            for place_words, place in frame.places:
                placed = [place_words.join((", ", "")) if place_words else "" for _ in words]
                texts = [w + p for w, p in zip(words, placed, strict=True)]
                wanted.append([numbers.setdefault(text, len(numbers)) for text in texts])
                framed.append(frame_picture(picture, frame, place))
        latents.append(encode(vae, np.stack(framed)))
        captions.append(torch.tensor(wanted))
    sketches = np.array([corpus.entries[r].style == SKETCH for r in rows])
    weights = np.where(
        sketches,
        config.sketch_share / sketches.sum(),
        (1 - config.sketch_share) / (~sketches).sum(),
    )
    features = encode_captions(tokenizer, text, list(numbers))
    return Cache(tuple(latents), tuple(captions), features, weights)


@torch.inference_mode()
def encode_captions(
    tokenizer: CLIPTokenizer, text: CLIPTextModelWithProjection, captions: list[str]
) -> Tensor:
    """Captions to the text tower's last hidden states (N, 77, C), kept in bf16."""
    parts = []
    for i in range(0, len(captions), 64):
        ids = tokenize(tokenizer, captions[i : i + 64])
        parts.append(text.text_model(ids).last_hidden_state.to(torch.bfloat16))
    return torch.cat(parts).clone()


def draw_batch(cache: Cache, config: UnetConfig, step: int) -> tuple[Tensor, Tensor]:
    """Draw latents (B, 4, h, w) of one frame and their text features (B, 77, C) in fp32."""
    choose = step_generator(config.loop.seed, step)
    number = choose.choice(len(FRAMES), p=[f.share for f in FRAMES])
    places = len(FRAMES[number].places)
    rows = choose.choice(len(cache.weights), config.batch_size, p=cache.weights)
    items = torch.from_numpy(rows * places + choose.integers(places, size=len(rows)))
    variant = torch.from_numpy(choose.integers(config.captions_per_picture, size=len(rows)))
    captions = cache.captions[number][items, variant]
    dropped = torch.from_numpy(choose.random(len(rows)) < config.caption_dropout)
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
    scheduler = DDIMScheduler(**scheduler_settings(config.prediction_type))
    scheduler.set_timesteps(20)
    picked = torch.linspace(0, len(cache.weights) - 1, 16).long()
    text = cache.features[cache.captions[0][picked, 0]].float()
    null = cache.features[:1].float().expand_as(text)
    latents = torch.randn((16, 4, 16, 16), generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps:
        output = unet(torch.cat([latents] * 2), t, torch.cat([null, text])).sample
        uncond, cond = output.chunk(2)
        latents = scheduler.step(uncond + 3 * (cond - uncond), t, latents).prev_sample
    pictures = decode(vae, latents)
    sheet = np.concatenate([np.concatenate(list(pictures[i : i + 8]), 1) for i in (0, 8)])
    path = folder / f"samples-{newest.name[-8:]}.png"
    Image.fromarray(sheet).save(path)
    unet.load_state_dict(current)
    unet.train()
    return path


def scheduler_settings(prediction_type: str) -> dict[str, object]:
    """Settings of the DDIM scheduler that the model is trained for, in diffusers' names."""
    return {
        "num_train_timesteps": TIMESTEPS,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": prediction_type,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }

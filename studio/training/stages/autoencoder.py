"""Stage 2, the autoencoder: 128 x 128 x 3 pictures to 16 x 16 x 4 latents and back.

Factor f = 8 and 4 channels as in Stable Diffusion (Rombach et al. 2022, section 3.1): 48 numbers
of a picture become one. Loss: L1 + squared error + L1 of the finite differences (edges) + L1 of
8 x 8 means (colours), plus the Kullback-Leibler divergence of the latents to N(0, 1) with a small
weight. Optionally a perceptual term: the distance of early feature maps of EfficientNet-Lite0
(Zhang et al. 2018, without learned weights). The judge looks with the last maps of the same
network, so a model that was trained with this term is not judged by a stranger; its card says so.
Optionally an adversarial term (`critic.py`), off by default.

A trained autoencoder can be gone on from (`start`), with its decoder alone where `decoder_only`
says so: the encoder stays as it is to the last bit, and so do the latents and every U-Net that was
trained on them.

After training the latents are brought to zero mean and unit variance per channel by folding the
affine map into the 1 x 1 convolutions on both sides, so `scaling_factor` is 1 and stock pipelines
need to know nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from studio.core.errors import TrainingError
from studio.core.events import Event, StageArtifact, StageProgress
from studio.training import checkpoint
from studio.training.dataset.corpus import Corpus, drawn_rows
from studio.training.dataset.scenes import paint_bank
from studio.training.hardware import PLAIN, Hardware
from studio.training.loop import LoopConfig, Metrics, optimize, step_generator, torch_generator
from studio.training.made_with import START, MadeWith, sum_of_corpus, sum_of_files, sum_of_tensors
from studio.training.preference.efficientnet import EfficientNetLite0, load_shipped_network
from studio.training.stages.critic import PatchCritic, adaptive_weight, adversarial_losses
from studio.training.stages.export import in_place_of, write_picture, write_text
from studio.training.team import Team


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of the network and of its training."""

    channels: tuple[int, ...] = (16, 32, 64, 128)  # per resolution; three halvings make f = 8
    layers_per_block: int = 1
    norm_num_groups: int = 8
    picture_size: int = 128  # pixels a side
    batch_size: int = 8  # pictures
    kl_weight: float = 5e-5  # on the divergence of a picture, summed over its 1,024 latents, nats
    edge_weight: float = 1.0  # of the finite-difference term
    colour_weight: float = 2.0  # of the term on 8 x 8 means
    perceptual_weight: float = 0.0  # of the term on feature maps; costs about as much as encoding
    adversarial_weight: float = 0.0  # beside the adaptive one, which makes 1 "as much as the rest"
    adversarial_from: int = 500  # step; before it only the critic learns
    decoder_only: bool = False  # the encoder stays as it is; needs a trained one to start from
    latent_noise: float = 1.0  # share of the posterior's deviation that is added when training
    everything: bool = False  # the model draws all of the corpus, not the small model's subjects
    drawn_share: float = 0.5  # of a batch from what the model draws
    scenes: int = 600  # painted once: skies, grounds and small things
    scene_share: float = 0.25  # of a batch
    bf16: bool = True  # autocast where the device has it: twice as fast on CPUs with avx512_bf16
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=4900, learning_rate=1e-3, checkpoint_every=200)
    )


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """Make an untrained autoencoder of the configured size."""
    levels = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.layers_per_block,
        latent_channels=4,
        norm_num_groups=config.norm_num_groups,
        sample_size=config.picture_size,
        scaling_factor=1.0,
    )


def compression(picture: tuple[int, ...], latents: tuple[int, ...]) -> float:
    """How many numbers of a picture one number of its latents stands for; 48 as in SD."""
    return float(np.prod(picture) / np.prod(latents))


def to_tensor(pictures: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Pictures (B, H, W, 3) uint8 -> (B, 3, H, W) float in [-1, 1]; widened on the device."""
    levels = torch.from_numpy(np.ascontiguousarray(pictures)).to(device)
    return levels.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def perceptual_distance(network: EfficientNetLite0, decoded: Tensor, pictures: Tensor) -> Tensor:
    """Mean squared difference of four early maps, each of unit length along its channels.

    decoded, pictures: (B, 3, H, W) in [-1, 1], which is about what the network was trained on.
    """
    maps = zip(network.stages(decoded), network.stages(pictures), range(4), strict=False)
    normalise = nn.functional.normalize
    return sum((normalise(a) - normalise(b)).square().sum(dim=1).mean() for a, b, _ in maps) / 4


def reconstruction_loss(
    decoded: Tensor, pictures: Tensor, edge_weight: float, colour_weight: float
) -> Tensor:
    """L1 + squared error + L1 of finite differences + L1 of 8 x 8 means; (B, 3, H, W) in [-1, 1].

    The means carry colour: without them the third colour axis was still missing after 1,600 steps.
    """
    difference = decoded - pictures
    horizontal = (difference[..., :, 1:] - difference[..., :, :-1]).abs().mean()
    vertical = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    edges = horizontal + vertical
    colours = nn.functional.avg_pool2d(difference, 8).abs().mean()
    pixels = difference.abs().mean() + difference.square().mean()
    return pixels + edge_weight * edges + colour_weight * colours


def train(
    corpus: Corpus,
    config: AutoencoderConfig,
    folder: Path,
    hardware: Hardware = PLAIN,
    start: Path | None = None,
) -> Iterator[Event]:
    """Train the autoencoder and save it, normalised, as a diffusers folder `folder/vae`.

    start: the folder of a trained one, or of a model that has one, to go on from. Raises
    `TrainingError` when there is none, or when only the decoder of nothing is to be trained.
    """
    torch.manual_seed(config.loop.seed)
    vae = _begin(config, start).to(hardware.device)
    made_with = _made_with(corpus, config, vae, start)
    drawn = drawn_rows(corpus, config.everything)
    material = gather_material(corpus, config, hardware)
    critic = material.critic
    trained = vae if critic is None else nn.ModuleDict({"vae": vae, "critic": critic})

    def loss_at(step: int) -> tuple[Tensor, Metrics]:
        return step_loss(vae, material, config, step, hardware)

    team = hardware.team
    for event in optimize("autoencoder", trained, loss_at, config.loop, folder, team, made_with):
        yield event
        if isinstance(event, StageArtifact):
            sheet = reconstruction_sheet(vae, corpus, drawn, folder)
            yield StageArtifact("autoencoder", str(sheet))
    _export(vae, corpus.pictures, drawn, config, folder, team)
    latents = encode(vae, corpus.pictures[drawn[:1]])
    ratio = compression(corpus.pictures.shape[1:], tuple(latents.shape[1:]))
    figures = {"compression": ratio, "psnr": psnr(vae, corpus, drawn[:: max(len(drawn) // 96, 1)])}
    yield StageProgress("autoencoder", config.loop.steps, config.loop.steps, 0.0, figures)


def _begin(config: AutoencoderConfig, start: Path | None) -> AutoencoderKL:
    """Make a new autoencoder or load a trained one; freeze what is not to be trained."""
    if start is None:
        if config.decoder_only:
            raise TrainingError(
                "A decoder alone is trained for an encoder that is there already. Say with `--from "
                "DIR` in which model's folder."
            )
        return build_autoencoder(config)
    inner = start / "vae" if (start / "vae").is_dir() else start
    try:
        old = AutoencoderKL.from_pretrained(inner, local_files_only=True, torch_dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"There is no autoencoder to go on from in {start}. Name the folder of a model, or of "
            "an autoencoder, in diffusers' format."
        ) from error
    about = {k: v for k, v in old.config.items() if k != "_name_or_path"}  # not where it was read
    if not config.decoder_only:
        about["scaling_factor"] = 1.0  # what it scales is folded into its weights in the end
    vae = AutoencoderKL.from_config(about)
    vae.load_state_dict(old.state_dict())
    if config.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    return vae


def encoder_weights(vae: AutoencoderKL) -> dict[str, Tensor]:
    """Return the weights that make latents of pictures."""
    names = ("encoder.", "quant_conv.")
    return {name: v for name, v in vae.state_dict().items() if name.startswith(names)}


def _made_with(
    corpus: Corpus, config: AutoencoderConfig, vae: AutoencoderKL, start: Path | None
) -> MadeWith:
    """Return what a run is made with; `vae` is as it begins.

    Of the model that a decoder is trained for only the encoder counts: the decoder that it has now
    may be the very one that was trained.
    """
    files = {"corpus": sum_of_corpus(corpus)}
    if start is not None:
        weights = encoder_weights(vae) if config.decoder_only else vae.state_dict()
        files[START] = sum_of_tensors(weights)
    return MadeWith.of("decoder" if config.decoder_only else "", config, files)


def _export(
    vae: AutoencoderKL,
    pictures: np.ndarray,
    drawn: np.ndarray,
    config: AutoencoderConfig,
    folder: Path,
    team: Team,
) -> None:
    """Normalise the trained autoencoder and save it as `folder/vae`.

    What was saved from the same checkpoint stays as it is, to the last bit: a U-Net may have been
    trained on its latents, and folding again can round otherwise.
    """
    mark, note = checkpoint.newest_sum(folder), folder / "exported.sum"
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    there = note.is_file() and note.read_text() == f"{mark} {sum_of_files(weights)}"
    team.wait()  # nobody writes while another still looks
    if there:
        vae.load_state_dict(
            AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True).state_dict()
        )
        return
    if not config.decoder_only:
        fold_normalisation(vae, encode(vae, pictures[drawn[:: max(len(drawn) // 4000, 1)]]))
    if team.leads:
        with in_place_of(folder / "vae") as new:
            vae.save_pretrained(new)
        write_text(note, f"{mark} {sum_of_files(weights)}")
    team.wait()


@dataclass(frozen=True)
class Material:
    """What the batches are drawn from."""

    pictures: np.ndarray  # (N, S, S, 3) uint8, the whole corpus
    drawn: np.ndarray  # rows of what the model draws
    others: np.ndarray  # rows of all that may be trained on
    scenes: np.ndarray  # (M, S, S, 3) uint8
    network: EfficientNetLite0 | None  # for the perceptual term
    critic: PatchCritic | None  # for the adversarial one; trained along


def gather_material(
    corpus: Corpus, config: AutoencoderConfig, hardware: Hardware = PLAIN
) -> Material:
    """Paint the scenes; load or make the networks that the optional terms need."""
    side, count = corpus.pictures.shape[1], config.scenes if config.scene_share else 0
    bank = paint_bank(corpus, corpus.training_rows, (side, side), count, config.loop.seed)
    network = load_shipped_network(hardware.device) if config.perceptual_weight else None
    critic = PatchCritic().to(hardware.device) if config.adversarial_weight else None
    drawn = drawn_rows(corpus, config.everything)
    return Material(corpus.pictures, drawn, corpus.training_rows, bank.pictures, network, critic)


def draw_batch(material: Material, config: AutoencoderConfig, step: int) -> np.ndarray:
    """Draw the pictures (B, S, S, 3) uint8 of one step."""
    choose = step_generator(config.loop.seed, step)
    painted = round(config.scene_share * config.batch_size)
    own = min(round(config.drawn_share * config.batch_size), config.batch_size - painted)
    rows = np.concatenate(
        (
            choose.choice(material.drawn, own),
            choose.choice(material.others, config.batch_size - own - painted),
        )
    )
    scenes = material.scenes[choose.integers(len(material.scenes), size=painted)]
    return np.concatenate([material.pictures[np.sort(rows)], scenes])


def step_loss(
    vae: nn.Module,
    material: Material,
    config: AutoencoderConfig,
    step: int,
    hardware: Hardware = PLAIN,
) -> tuple[Tensor, Metrics]:
    """Loss () and metrics of one step.

    In a team both are of this process's part of the batch, and the parts add up to the whole.
    """
    team, device = hardware.team, hardware.device
    batch = draw_batch(material, config, step)
    factor = 2 ** (len(config.channels) - 1)
    shape = (len(batch), 4, *(side // factor for side in batch.shape[1:3]))
    noise = torch.randn(
        shape, generator=torch_generator(config.loop.seed, step, device), device=device
    )
    pictures = to_tensor(team.part(batch), device)
    share = len(pictures) / len(batch)
    with hardware.quickest(config.bf16):
        with torch.set_grad_enabled(not config.decoder_only):
            posterior = vae.encode(pictures).latent_dist
            latents = posterior.mean + config.latent_noise * posterior.std * team.part(noise)
        decoded = vae.decode(latents).sample.float()
    kl = posterior.kl().mean()
    rebuilt = reconstruction_loss(decoded, pictures, config.edge_weight, config.colour_weight)
    metrics = {"reconstruction": rebuilt.detach() * share, "kl": kl.detach() * share}
    if material.network is not None:
        with hardware.quickest(config.bf16):
            far = perceptual_distance(material.network, decoded, pictures)
        metrics["perceptual"] = far.detach() * share
        rebuilt = rebuilt + config.perceptual_weight * far.float()
    loss = (rebuilt + config.kl_weight * kl) * share
    if material.critic is not None:
        with hardware.quickest(config.bf16):
            fooling, learning = adversarial_losses(material.critic, decoded, pictures)
        metrics |= {"fooling": fooling.detach() * share, "critic": learning.detach() * share}
        loss = loss + learning * share
        if step >= config.adversarial_from:
            last = vae.decoder.conv_out.weight
            weight = adaptive_weight(rebuilt * share, fooling * share, last, team)
            loss = loss + config.adversarial_weight * weight * fooling * share
    return loss, metrics


@torch.inference_mode()
def encode(vae: AutoencoderKL, pictures: np.ndarray, batch_size: int = 32) -> Tensor:
    """Encode pictures (N, H, W, 3) uint8 to the means of their latents (N, 4, H/8, W/8).

    Scaled, as U-Nets know them and `decode` takes them.
    """
    parts = [
        vae.encode(to_tensor(pictures[i : i + batch_size], vae.device)).latent_dist.mean.cpu()
        for i in range(0, len(pictures), batch_size)
    ]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.inference_mode()
def decode(vae: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """Decode latents (B, 4, h, w) to pictures (B, 8h, 8w, 3) uint8."""
    decoded = vae.decode(latents.to(vae.device) / vae.config.scaling_factor).sample.cpu()
    levels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round()
    return levels.permute(0, 2, 3, 1).to(torch.uint8).numpy()


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, latents: Tensor) -> None:
    """Change the 1 x 1 convolutions so that `latents` would have mean 0 and variance 1.

    `latents` (N, 4, h, w) are what the encoder gives now. The pictures that the pair of encoder and
    decoder makes stay the same.
    """
    assert vae.config.scaling_factor == 1
    latents = latents.to(vae.device)
    mean = latents.mean(dim=(0, 2, 3))
    std = latents.std(dim=(0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.bias[:channels] -= mean
    quant.bias[:channels] /= std
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[channels:] -= 2 * std.log()  # the log-variance shrinks with the scale


def psnr(vae: AutoencoderKL, corpus: Corpus, rows: np.ndarray) -> float:
    """Peak signal-to-noise ratio of the reconstructions of corpus rows, decibels."""
    pictures = np.asarray(corpus.pictures[rows])
    rebuilt = decode(vae, encode(vae, pictures))
    error = np.mean((pictures.astype(np.float64) - rebuilt) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def reconstruction_sheet(
    vae: AutoencoderKL, corpus: Corpus, rows: np.ndarray, folder: Path
) -> Path:
    """Write a sheet of pictures above their reconstructions and return its path."""
    was_training = vae.training
    vae.eval()
    picked = rows[:: max(len(rows) // 12, 1)][:12]
    pictures = np.asarray(corpus.pictures[picked])
    rebuilt = decode(vae, encode(vae, pictures))
    sheet = np.concatenate([np.concatenate(list(pictures), 1), np.concatenate(list(rebuilt), 1)])
    path = folder / "samples.png"
    write_picture(Image.fromarray(sheet), path)
    vae.train(was_training)
    return path

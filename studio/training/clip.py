"""Stage 3, the CLIP pair: a text tower and a vision tower that agree on what a caption shows.

Radford et al. 2021, section 2: both towers are projected to one space; in a batch of N pairs the
N matching cosine similarities are raised and the N^2 - N others lowered by a symmetric cross
entropy, with a learned temperature. The text tower's last hidden states condition the U-Net by
cross-attention, as in Stable Diffusion; the vision tower ships too, for rewards learned later.

The tokenizer is our own byte-pair encoding in CLIP's file format, so `CLIPTokenizer` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from studio.core.events import Event, StageProgress
from studio.training.corpus import Corpus, Entry
from studio.training.hardware import PLAIN, Hardware
from studio.training.loop import LoopConfig, Metrics, optimize, step_generator

IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.5, 0.5, 0.5)
# How CLIP's tokenizer cuts text into words before it merges bytes.
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MAX_TOKENS = 77  # start, 75 of the prompt, end


@dataclass(frozen=True)
class ClipConfig:
    """Size of the two towers and of their training."""

    width: int = 256  # of the hidden states, also what the U-Net's cross-attention reads
    layers: int = 4
    heads: int = 4
    projection: int = 128  # of the shared space
    vocabulary: int = 4096  # tokens at most
    patch: int = 16  # pixels
    picture_size: int = 128  # pixels the vision tower sees
    batch_size: int = 96  # pairs; each is every other's negative
    temperature: float = 14.0  # initial logit scale, 1 / 0.07
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=360, learning_rate=8e-4, weight_decay=0.05, checkpoint_every=180
        )
    )


class ClipPair(nn.Module):
    """Both towers with their projections and the logit scale."""

    def __init__(self, config: ClipConfig, vocabulary: int, end_token: int) -> None:
        super().__init__()
        self.text = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=MAX_TOKENS,
                projection_dim=config.projection,
                hidden_act="quick_gelu",
                bos_token_id=end_token - 1,
                eos_token_id=end_token,
                pad_token_id=end_token,
            )
        )
        self.vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=config.picture_size,
                patch_size=config.patch,
                projection_dim=config.projection,
                hidden_act="quick_gelu",
            )
        )
        self.logit_scale = nn.Parameter(torch.tensor(config.temperature).log())

    def forward(self, token_ids: Tensor, pictures: Tensor) -> Tensor:
        """Token ids (B, L) and pictures (B, 3, S, S) -> cosine similarities x scale (B, B)."""
        text = nn.functional.normalize(self.text(token_ids).text_embeds, dim=-1)
        vision = nn.functional.normalize(self.vision(pictures).image_embeds, dim=-1)
        return self.logit_scale.exp().clamp(max=100) * text @ vision.T


def contrastive_loss(logits: Tensor, same: Tensor | None = None) -> Tensor:
    """Symmetric cross entropy over logits (B, B); the diagonal holds the matching pairs.

    `same` (B, B) marks other pairs that match as well (one subject and style twice in a batch);
    they are left out of the negatives.
    """
    if same is not None:
        others = same & ~torch.eye(len(same), dtype=torch.bool)
        logits = logits.masked_fill(others, float("-inf"))
    target = torch.arange(len(logits))
    rows = nn.functional.cross_entropy(logits, target)
    columns = nn.functional.cross_entropy(logits.T, target)
    return (rows + columns) / 2


def caption(entry: Entry, choose: np.random.Generator) -> str:
    """Make a caption: 'label, style', or with up to three tags between, in random order."""
    tags = [t for t in entry.tags if t not in entry.subject]
    if not tags or choose.random() < 0.5:
        return f"{entry.subject}, {entry.style}"
    picked = choose.permutation(tags)[:3]
    return f"{entry.subject}, {', '.join(picked)}, {entry.style}"


def train_tokenizer(corpus: Corpus, config: ClipConfig, folder: Path) -> CLIPTokenizer:
    """Learn byte-pair merges from the corpus' words and save them in CLIP's format.

    Sennrich et al. 2016: start from bytes (the last of a word marked `</w>`), merge the most
    frequent neighbours again and again. Every byte stays in the vocabulary, so any text in any
    script can be encoded.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(a + "</w>" for a in alphabet)]
    texts = (f"{e.subject}, {', '.join(e.tags)}, {e.style}" for e in corpus.entries)
    merges = _merges(texts, config.vocabulary - len(tokens) - 2)
    tokens = list(dict.fromkeys([*tokens, *(left + right for left, right in merges)]))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    target = folder / "tokenizer"
    target.mkdir(parents=True, exist_ok=True)
    (target / "vocab.json").write_text(
        json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False), encoding="utf-8"
    )
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (target / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(
        str(target / "vocab.json"), str(target / "merges.txt"), model_max_length=MAX_TOKENS
    )
    tokenizer.save_pretrained(target)
    return tokenizer


def train(
    corpus: Corpus, config: ClipConfig, folder: Path, hardware: Hardware = PLAIN
) -> Iterator[Event]:
    """Train both towers on the whole corpus; save `text_with_projection`, `image_encoder`.

    Every picture is compared with every caption of the batch, so a team does not part it: each
    process computes all of it.
    """
    torch.manual_seed(config.loop.seed)
    team = hardware.team
    if team.leads:
        train_tokenizer(corpus, config, folder)
    team.wait()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    pair = ClipPair(config, len(tokenizer), tokenizer.eos_token_id).to(hardware.device)
    subjects = {s: i for i, s in enumerate(sorted({e.subject for e in corpus.entries}))}
    subject_of = torch.tensor([subjects[e.subject] for e in corpus.entries])

    def loss_at(step: int) -> tuple[Tensor, Metrics]:
        choose = step_generator(config.loop.seed, step)
        rows = np.sort(choose.choice(len(corpus.entries), config.batch_size, replace=False))
        captions = [caption(corpus.entries[r], choose) for r in rows]
        ids = tokenize(tokenizer, captions, trim=True).to(hardware.device)
        pictures = _augment(corpus.pictures[rows], choose).to(hardware.device)
        styles = [corpus.entries[r].style for r in rows]
        same = subject_of[rows][:, None] == subject_of[rows][None, :]
        same &= torch.tensor([[a == b for b in styles] for a in styles])
        with torch.autocast(hardware.device.type, torch.bfloat16):
            logits = pair(ids, pictures)
        loss = contrastive_loss(logits.float(), same.to(hardware.device))
        right = (logits.argmax(dim=1).cpu() == torch.arange(len(rows))).float().mean()
        metrics = {"caption_finds_picture": right, "scale": pair.logit_scale.detach().exp()}
        return loss / team.count, {name: value / team.count for name, value in metrics.items()}

    yield from optimize("clip", pair, loss_at, config.loop, folder, team)
    figures = retrieval(pair, tokenizer, corpus)
    if team.leads:
        _save(pair, config, folder)
    team.wait()
    yield StageProgress("clip", config.loop.steps, config.loop.steps, 0.0, figures)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str], *, trim: bool = False) -> Tensor:
    """Captions to token ids (B, 77), cut and padded; `trim` drops the columns no caption uses."""
    ids = tokenizer(
        captions,
        padding="longest" if trim else "max_length",
        max_length=MAX_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


@torch.inference_mode()
def retrieval(pair: ClipPair, tokenizer: CLIPTokenizer, corpus: Corpus) -> dict[str, float]:
    """Share of 1,000 corpus pictures that their caption finds first and in the first five."""
    count = len(corpus.entries)
    rows = np.linspace(0, count - 1, min(count, 1000)).astype(int)
    captions = [f"{corpus.entries[r].subject}, {corpus.entries[r].style}" for r in rows]
    device = pair.logit_scale.device
    ids = tokenize(tokenizer, captions, trim=True).to(device)
    logits = pair(ids, normalise(np.asarray(corpus.pictures[rows])).to(device)).cpu()
    order = logits.argsort(dim=1, descending=True)[:, :5]
    target = torch.arange(len(rows))[:, None]
    hits = order == target
    return {
        "first_1": hits[:, :1].any(dim=1).float().mean().item(),
        "first_5": hits.any(dim=1).float().mean().item(),
    }


def normalise(pictures: np.ndarray) -> Tensor:
    """Pictures (B, S, S, 3) uint8 -> what the vision tower reads, (B, 3, S, S)."""
    floats = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    return (floats - mean[:, None, None]) / std[:, None, None]


def _augment(pictures: np.ndarray, choose: np.random.Generator) -> Tensor:
    """Shift and scale a little, on white, so that the vision tower sees things, not pixels."""
    tensor = normalise(pictures)
    count = len(tensor)
    scale = choose.uniform(0.85, 1.15, count)
    shift = choose.uniform(-0.12, 0.12, (count, 2))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.tensor(scale, dtype=torch.float32)
    theta[:, :, 2] = torch.tensor(shift, dtype=torch.float32)
    grid = nn.functional.affine_grid(theta, list(tensor.shape), align_corners=False)
    # grid_sample pads with 0; white is 1, so sample the distance to white.
    return 1 - nn.functional.grid_sample(1 - tensor, grid, align_corners=False)


def _save(pair: ClipPair, config: ClipConfig, folder: Path) -> None:
    pair.text.save_pretrained(folder / "text_with_projection")
    pair.vision.save_pretrained(folder / "image_encoder")
    side = config.picture_size
    CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
        resample=Image.Resampling.BICUBIC,
    ).save_pretrained(folder / "feature_extractor")


def _merges(captions: Iterator[str], count: int) -> list[tuple[str, str]]:
    """Learn up to `count` byte-pair merges, most frequent first, with CLIP's way of splitting."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + count,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    return [(left, right) for left, right in learned][:count]

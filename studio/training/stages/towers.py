"""The CLIP pair's networks, losses and tokenizer (`clip.py` trains them).

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

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from studio.training.dataset.scenes import ASPECTS
from studio.training.loop import LoopConfig
from studio.training.stages.export import in_place_of

IMAGE_MEAN = (0.5, 0.5, 0.5)
IMAGE_STD = (0.5, 0.5, 0.5)
# How CLIP's tokenizer cuts text into words before it merges bytes.
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MAX_TOKENS = 77  # start, 75 of the prompt, end
TOKENIZER_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class ClipConfig:
    """Size of the two towers and of their training."""

    width: int = 256  # of the hidden states, also what the U-Net's cross-attention reads
    layers: int = 4
    heads: int = 4
    projection: int = 128  # of the shared space
    vocabulary: int = 6144  # tokens at most
    patch: int = 16  # pixels
    picture_size: int = 128  # pixels the vision tower sees
    batch_size: int = 96  # pairs; each is every other's negative
    scenes: int = 2000  # painted once
    scene_share: float = 0.4  # of a batch
    words: int = 128  # of the sentence encoder's, a step
    distillation: float = 1.0  # weight of what they teach
    composition: float = 0.5  # weight of naming place, shot, number, ... of a scene
    checked: int = 600  # new scenes that are told apart at the end
    temperature: float = 14.0  # initial logit scale, 1 / 0.07
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=360, learning_rate=8e-4, weight_decay=0.05, checkpoint_every=180
        )
    )


class ClipPair(nn.Module):
    """Both towers, their projections, the logit scale, and the maps to the teacher's vectors."""

    def __init__(
        self, config: ClipConfig, vocabulary: int, end_token: int, taught: int = 384
    ) -> None:
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
        # From the end token's hidden state, and from the mean of the words': both are read by the
        # U-Net. Not part of what ships.
        self.lessons = nn.ModuleList(nn.Linear(config.width, taught) for _ in range(2))
        self.composition = nn.Linear(config.projection, sum(map(len, ASPECTS.values())))

    def embed(self, token_ids: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) and pictures (B, 3, S, S) -> both towers' projections (B, D)."""
        return self.text(token_ids).text_embeds, self.vision(pictures).image_embeds

    def similarities(self, text: Tensor, vision: Tensor) -> Tensor:
        """Projections (B, D) -> cosine similarities x scale (B, B)."""
        text, vision = (nn.functional.normalize(e, dim=-1) for e in (text, vision))
        return self.logit_scale.exp().clamp(max=100) * text @ vision.T

    def forward(self, token_ids: Tensor, pictures: Tensor) -> Tensor:
        """Token ids (B, L) and pictures (B, 3, S, S) -> cosine similarities x scale (B, B)."""
        return self.similarities(*self.embed(token_ids, pictures))


def contrastive_loss(logits: Tensor, same: Tensor | None = None) -> Tensor:
    """Symmetric cross entropy over logits (B, B); the diagonal holds the matching pairs.

    `same` (B, B) marks other pairs that match as well (one subject and style twice in a batch);
    they are left out of the negatives.
    """
    if same is not None:
        others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        logits = logits.masked_fill(others, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    rows = nn.functional.cross_entropy(logits, target)
    columns = nn.functional.cross_entropy(logits.T, target)
    return (rows + columns) / 2


def composition_loss(pair: ClipPair, embeds: Tensor, said: Tensor) -> Tensor:
    """Cross entropy of naming what was said of each scene, mean over all that was said.

    embeds (N, D) of captions or of pictures, said (N, A) the numbers of `said_of`. One linear map
    names both, so both towers have to keep it, and in the same directions.
    """
    named = pair.composition(embeds).float().split([len(v) for v in ASPECTS.values()], dim=1)
    losses = [
        nn.functional.cross_entropy(logits, said[:, i], ignore_index=-1, reduction="sum")
        for i, logits in enumerate(named)
    ]
    return sum(losses) / (said >= 0).sum().clamp(min=1)


def distillation_loss(pair: ClipPair, token_ids: Tensor, vectors: Tensor) -> Tensor:
    """1 - cosine of the teacher's vectors (B, D) with both maps of what the tower makes of them.

    token_ids (B, L) begin with the start token, which is no word.
    """
    output = pair.text(token_ids)
    hidden = output.last_hidden_state
    end = pair.text.config.eos_token_id
    last = (token_ids == end).int().argmax(dim=1)
    places = torch.arange(token_ids.shape[1], device=token_ids.device)
    inside = ((places > 0) & (places < last[:, None])).to(hidden.dtype)[..., None]
    of_words = (hidden * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)
    of_end = hidden[torch.arange(len(last), device=last.device), last]
    told = (lesson(state) for lesson, state in zip(pair.lessons, (of_end, of_words), strict=True))
    cosines = [nn.functional.cosine_similarity(t.float(), vectors, dim=1).mean() for t in told]
    return 1 - sum(cosines) / len(cosines)


def train_tokenizer(texts: Iterator[str], config: ClipConfig, folder: Path) -> CLIPTokenizer:
    """Learn byte-pair merges from texts and save them in CLIP's format.

    Sennrich et al. 2016: start from bytes (the last of a word marked `</w>`), merge the most
    frequent neighbours again and again. Every byte stays in the vocabulary, so any text in any
    script can be encoded.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(a + "</w>" for a in alphabet)]
    merges = _merges(texts, config.vocabulary - len(tokens) - 2)
    tokens = list(dict.fromkeys([*tokens, *(left + right for left, right in merges)]))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(tokens)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    contents = (json.dumps(numbers, ensure_ascii=False), "\n".join(lines) + "\n")
    with in_place_of(folder / "tokenizer") as new:
        for name, text in zip(TOKENIZER_FILES, contents, strict=True):
            (new / name).write_text(text, encoding="utf-8")
        paths = (str(new / name) for name in TOKENIZER_FILES)
        tokenizer = CLIPTokenizer(*paths, model_max_length=MAX_TOKENS)
        tokenizer.save_pretrained(new)
    return tokenizer


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


def normalise(pictures: Tensor) -> Tensor:
    """Pictures (B, S, S, 3) uint8 -> what the vision tower reads, (B, 3, S, S), where they are."""
    floats = pictures.permute(0, 3, 1, 2).float().contiguous() / 255
    mean, std = (torch.tensor(v, device=floats.device) for v in (IMAGE_MEAN, IMAGE_STD))
    return (floats - mean[:, None, None]) / std[:, None, None]


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

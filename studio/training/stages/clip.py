"""Stage 3, the CLIP pair: a text tower and a vision tower that agree on what a caption shows.

Beside the corpus' pictures a batch holds composed scenes (`scenes.py`), each with a sibling that
differs in one thing, so that places, sizes, numbers and colours are what tells the two apart; and
one linear map must name these from either tower's projection. The text tower is also distilled from
a sentence encoder (Hinton et al. 2015, here by cosine): linear maps of its hidden states must give
the encoder's vector of a word or label, so that words which no caption holds come to lie near those
that mean the same. The U-Net reads these hidden states.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTokenizer

from studio.core.events import Event, StageProgress
from studio.training.dataset.captions import caption
from studio.training.dataset.corpus import Corpus
from studio.training.dataset.scenes import SceneBank, paint_bank, said_of
from studio.training.dataset.words import WordBank
from studio.training.hardware import PLAIN, Hardware
from studio.training.loop import Metrics, optimize, step_generator
from studio.training.made_with import MadeWith, sum_of_corpus, sum_of_files, sum_of_words
from studio.training.stages.clip_check import check
from studio.training.stages.export import in_place_of, write_text
from studio.training.stages.towers import (
    IMAGE_MEAN,
    IMAGE_STD,
    TOKENIZER_FILES,
    ClipConfig,
    ClipPair,
    composition_loss,
    contrastive_loss,
    distillation_loss,
    normalise,
    tokenize,
    train_tokenizer,
)

FIGURES = "figures.json"  # in the stage's folder: what the pair tells at the end


def train(
    corpus: Corpus,
    words: WordBank,
    config: ClipConfig,
    folder: Path,
    hardware: Hardware = PLAIN,
) -> Iterator[Event]:
    """Train both towers on all that is not held out; save `text_with_projection`, `image_encoder`.

    Every picture is compared with every caption of the batch, so a team does not part it: each
    process computes all of it.
    """
    torch.manual_seed(config.loop.seed)
    team, device = hardware.team, hardware.device
    side = corpus.pictures.shape[1]
    bank = paint_bank(corpus, corpus.training_rows, (side, side), config.scenes, config.loop.seed)
    if team.leads and not (folder / "tokenizer" / "merges.txt").exists():
        # A resumed run keeps its own: of merges that are equally frequent, either may come first.
        train_tokenizer(_texts(corpus, bank, words), config, folder)
    team.wait()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    pair = ClipPair(config, len(tokenizer), tokenizer.eos_token_id, words.vectors.shape[1])
    pair = pair.to(device)
    taught = np.flatnonzero(~words.held_out)
    said = torch.tensor([said_of(scene) for scene in bank.scenes], device=device)

    def loss_at(step: int) -> tuple[Tensor, Metrics]:
        choose = step_generator(config.loop.seed, step)
        pictures, captions, scenes = draw_batch(corpus, bank, config, choose)
        ids = tokenize(tokenizer, captions, trim=True).to(device)
        lesson = choose.choice(taught, min(config.words, len(taught)), replace=False)
        word_ids = tokenize(tokenizer, [words.words[i] for i in lesson], trim=True).to(device)
        same, single = _alike(captions).to(device), len(captions) - len(scenes)
        seen = _augment(torch.from_numpy(pictures).to(device), choose)
        with hardware.quickest():
            embeds = pair.embed(ids, seen)
            logits = pair.similarities(*embeds)
            named = sum(composition_loss(pair, e[single:], said[scenes]) for e in embeds)
            distilled = distillation_loss(pair, word_ids, words.vectors[lesson].to(device))
        contrast = contrastive_loss(logits.float(), same)
        target = torch.arange(len(captions), device=device)
        metrics = {
            "contrast": contrast.detach(),
            "distillation": distilled.detach(),
            "composition": named.detach(),
            "caption_finds_picture": (logits.argmax(dim=1) == target).float().mean(),
            "scale": pair.logit_scale.detach().exp(),
        }
        loss = contrast + config.distillation * distilled + config.composition * named
        return loss / team.count, {name: value / team.count for name, value in metrics.items()}

    made_with = _made_with(corpus, words, config, folder)
    yield from optimize("clip", pair, loss_at, config.loop, folder, team, made_with)
    if team.leads:
        _save(pair, config, folder)
    team.wait()
    figures = check(pair, tokenizer, corpus, words, config.checked)
    if team.leads:
        write_text(folder / FIGURES, json.dumps(figures, indent=1))
    yield StageProgress("clip", config.loop.steps, config.loop.steps, 0.0, figures)


def _made_with(corpus: Corpus, words: WordBank, config: ClipConfig, folder: Path) -> MadeWith:
    tokenizer = (folder / "tokenizer" / name for name in TOKENIZER_FILES)
    files = {"corpus": sum_of_corpus(corpus), "words": sum_of_words(words)}
    return MadeWith.of("", config, files | {"tokenizer": sum_of_files(*tokenizer)})


def draw_batch(
    corpus: Corpus, bank: SceneBank, config: ClipConfig, choose: np.random.Generator
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Draw pictures (B, S, S, 3) uint8 and their captions: of the corpus, and pairs of scenes.

    The scenes come last; which of the bank they are is the third.
    """
    pairs = min(round(config.scene_share * config.batch_size / 2), len(bank.captions) // 2)
    rows = corpus.training_rows
    single = config.batch_size - 2 * pairs
    picked = np.sort(choose.choice(rows, single, replace=len(rows) < single))
    entries = [corpus.entries[row] for row in picked]
    captions = [caption(e.subject, e.tags, e.style, choose) for e in entries]
    numbers = choose.choice(len(bank.captions) // 2, pairs, replace=False)
    scenes = np.stack([2 * numbers, 2 * numbers + 1], axis=1).ravel()
    captions += [bank.captions[number] for number in scenes]
    return np.concatenate([corpus.pictures[picked], bank.pictures[scenes]]), captions, scenes


def _alike(captions: list[str]) -> Tensor:
    """Which captions are the same, (B, B) bool: such a pair is no negative."""
    numbers = torch.from_numpy(np.unique(captions, return_inverse=True)[1])
    return numbers[:, None] == numbers


def _texts(corpus: Corpus, bank: SceneBank, words: WordBank) -> Iterator[str]:
    """Yield what the tokenizer is made for: captions, scenes, and the words to be learned."""
    for row in corpus.training_rows:
        entry = corpus.entries[row]
        yield f"{entry.subject}, {', '.join(entry.tags)}, {entry.style}"
    yield from bank.captions
    yield from (w for w, held in zip(words.words, words.held_out, strict=True) if not held)


def _augment(pictures: Tensor, choose: np.random.Generator) -> Tensor:
    """Scale and shift a little, so that the vision tower sees things and not pixels.

    So little that left stays left. What comes in at the edge repeats the edge.
    """
    tensor = normalise(pictures)
    count = len(tensor)
    theta = torch.zeros(count, 2, 3)
    scale = torch.tensor(choose.uniform(0.9, 1.1, count), dtype=torch.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = torch.tensor(choose.uniform(-0.08, 0.08, (count, 2)), dtype=torch.float32)
    grid = nn.functional.affine_grid(theta, list(tensor.shape), align_corners=False)
    return nn.functional.grid_sample(
        tensor, grid.to(tensor.device), padding_mode="border", align_corners=False
    )


def _save(pair: ClipPair, config: ClipConfig, folder: Path) -> None:
    side = config.picture_size
    looks = {  # as transformers' CLIPImageProcessor writes and reads it
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": int(Image.Resampling.BICUBIC),
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "do_convert_rgb": True,
    }
    with ExitStack() as until_all_are_written:  # or an old tower would stand beside a new one
        text, vision, extractor = (
            until_all_are_written.enter_context(in_place_of(folder / name))
            for name in ("text_with_projection", "image_encoder", "feature_extractor")
        )
        pair.text.save_pretrained(text)
        pair.vision.save_pretrained(vision)
        write_text(extractor / "preprocessor_config.json", json.dumps(looks, indent=2))

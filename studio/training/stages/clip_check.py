"""What the CLIP pair has learned: retrieval, telling scenes apart, and words it never saw."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from studio.training.dataset.corpus import Corpus
from studio.training.dataset.scenes import paint_bank
from studio.training.dataset.split import NEW_PAIR, NEW_SUBJECT
from studio.training.dataset.words import WordBank
from studio.training.stages.towers import ClipPair, normalise, tokenize

NEW_SCENES = 1_000_003  # a seed that no training has


def check(
    pair: ClipPair, tokenizer: CLIPTokenizer, corpus: Corpus, words: WordBank, scenes: int
) -> dict[str, float]:
    """Return all figures of a trained pair."""
    return {
        **retrieval(pair, tokenizer, corpus),
        **told_apart(pair, tokenizer, corpus, scenes),
        **unseen_words(pair, tokenizer, words),
    }


@torch.inference_mode()
def retrieval(pair: ClipPair, tokenizer: CLIPTokenizer, corpus: Corpus) -> dict[str, float]:
    """Share of pictures that their caption finds first and in the first five of up to 1,000.

    Once among pictures that were trained on, once among those held out (zero-shot).
    """
    held = [i for i, e in enumerate(corpus.entries) if e.split in (NEW_PAIR, NEW_SUBJECT)]
    found: dict[str, float] = {}
    for name, rows in (("seen", corpus.training_rows), ("held_out", np.array(held))):
        if not len(rows):
            continue
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), 1000)).astype(int)]
        captions = [f"{corpus.entries[r].subject}, {corpus.entries[r].style}" for r in rows]
        order = _similarities(pair, tokenizer, captions, corpus.pictures[rows]).topk(
            min(5, len(rows)), dim=1
        )
        hits = order.indices == torch.arange(len(rows))[:, None]
        found[f"{name}_first_1"] = hits[:, 0].float().mean().item()
        found[f"{name}_first_5"] = hits.any(dim=1).float().mean().item()
    return found


@torch.inference_mode()
def told_apart(
    pair: ClipPair, tokenizer: CLIPTokenizer, corpus: Corpus, count: int
) -> dict[str, float]:
    """Return of how many pairs of new scenes the captions are told apart, by what differs.

    A pair counts when captions and pictures are more alike as they belong together than the other
    way round, so chance is one half. What differs: place, shot, count, colour, backdrop, time,
    or which part is which.
    """
    side = corpus.pictures.shape[1]
    bank = paint_bank(corpus, corpus.training_rows, (side, side), count, NEW_SCENES)
    similar = _similarities(pair, tokenizer, list(bank.captions), bank.pictures)
    right: dict[str, list[bool]] = {}
    for i in range(0, len(bank.scenes), 2):
        one, other = vars(bank.scenes[i]), vars(bank.scenes[i + 1])
        thing = next((name for name in one if one[name] != other[name]), "nothing")
        block = similar[i : i + 2, i : i + 2]
        found = block.trace() > block.sum() - block.trace()
        right.setdefault(thing, []).append(bool(found))
    return {f"tells_{name}": float(np.mean(hits)) for name, hits in sorted(right.items())}


@torch.inference_mode()
def unseen_words(pair: ClipPair, tokenizer: CLIPTokenizer, words: WordBank) -> dict[str, float]:
    """Share of the words never trained on that land near what they mean.

    Near: the label or tag nearest in the tower's hidden states is among the teacher's nearest five.
    """
    held, known = np.flatnonzero(words.held_out)[:1000], np.flatnonzero(words.of_corpus)
    if not len(held):
        return {}
    states = [
        nn.functional.normalize(_end_states(pair, tokenizer, [words.words[i] for i in rows]), dim=1)
        for rows in (held, known)
    ]
    nearest = (states[0] @ states[1].T).argmax(dim=1)
    teacher = (words.vectors[held] @ words.vectors[known].T).topk(min(5, len(known)), dim=1)
    hits = (teacher.indices == nearest[:, None]).any(dim=1)
    return {"unseen_words_land_near": hits.float().mean().item()}


def _end_states(pair: ClipPair, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Texts -> the teacher's space (N, D), by the map of the end token's hidden state."""
    found = []
    for i in range(0, len(texts), 256):
        ids = tokenize(tokenizer, texts[i : i + 256], trim=True).to(pair.logit_scale.device)
        hidden = pair.text(ids).last_hidden_state
        last = (ids == pair.text.config.eos_token_id).int().argmax(dim=1)
        found.append(
            pair.lessons[0](hidden[torch.arange(len(ids), device=last.device), last]).cpu()
        )
    return torch.cat(found)


def _similarities(
    pair: ClipPair, tokenizer: CLIPTokenizer, captions: list[str], pictures: np.ndarray
) -> Tensor:
    """Return how alike each caption is to each picture (N, N), computed in parts."""
    device = pair.logit_scale.device
    text, vision = [], []
    for i in range(0, len(captions), 128):
        ids = tokenize(tokenizer, captions[i : i + 128], trim=True).to(device)
        seen = normalise(torch.from_numpy(np.asarray(pictures[i : i + 128])).to(device))
        text.append(nn.functional.normalize(pair.text(ids).text_embeds, dim=-1).cpu())
        vision.append(nn.functional.normalize(pair.vision(seen).image_embeds, dim=-1).cpu())
    return torch.cat(text) @ torch.cat(vision).T

"""Words with a sentence encoder's vectors, to teach the text tower: 'puppy' near 'dog face'.

The encoder (all-MiniLM-L6-v2) reads every label and tag of the corpus, and the ordinary words of
its own vocabulary that come near one of them. Its vectors are kept in half precision in
`words.npz`, some megabytes, so training needs neither the encoder nor a network. One ordinary word
in ten is left out of the training, to see whether unseen words land where they should.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel

from studio.core.errors import TrainingError
from studio.training.hardware import PLAIN

WORDS = "words.npz"
NEAR = 0.7  # cosine to the nearest label from which on an ordinary word is kept
HELD_OUT = 10  # one ordinary word in so many


@dataclass(frozen=True)
class WordBank:
    """Words and their teacher's vectors, unit length."""

    words: tuple[str, ...]
    vectors: Tensor  # (N, D) float32
    of_corpus: np.ndarray  # (N,) bool: a label or tag; otherwise an ordinary word

    @property
    def held_out(self) -> np.ndarray:
        """Which words are never trained on, (N,) bool: a tenth of the ordinary ones."""
        chosen = [hashlib.sha256(w.encode()).digest()[0] % HELD_OUT == 0 for w in self.words]
        return np.array(chosen, dtype=bool) & ~self.of_corpus


def write_words(path: Path, encoder: Path, phrases: Sequence[str]) -> None:
    """Encode the corpus' phrases and ordinary words; `encoder` is its unpacked package."""
    [model] = encoder.glob("*/model")
    ordinary = [
        word
        for word in (model / "vocab.txt").read_text(encoding="utf-8").splitlines()
        if word.isascii() and word.isalpha() and len(word) > 2
    ]
    known = set(phrases)
    words = [*phrases, *(w for w in ordinary if w not in known)]
    vectors = encode(model, words)
    near = vectors[len(phrases) :] @ vectors[: len(phrases)].T
    keep = np.ones(len(words), dtype=bool)
    keep[len(phrases) :] = (near.max(dim=1).values >= NEAR).numpy()
    partial = path.with_name(path.name + ".tmp")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            words=np.array(words)[keep],
            vectors=vectors.half().numpy()[keep],
            of_corpus=np.arange(len(words))[keep] < len(phrases),
        )
    partial.replace(path)


def load_words(path: Path) -> WordBank:
    """Read `words.npz`. Raises `TrainingError` when it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as found:
            vectors = torch.from_numpy(found["vectors"].astype(np.float32))
            words = tuple(map(str, found["words"]))
            return WordBank(words, nn.functional.normalize(vectors, dim=1), found["of_corpus"])
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"There are no words to learn from in {path}. Run `python launch.py train corpus`."
        ) from error


@torch.inference_mode()
def encode(model: Path, texts: Sequence[str]) -> Tensor:
    """Texts -> sentence vectors (N, D) of unit length: the mean over the tokens' hidden states."""
    network = BertModel.from_pretrained(model, local_files_only=True).eval()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding
    found = torch.empty(len(texts), network.config.hidden_size)
    for i in range(0, len(order), 256):
        rows = order[i : i + 256]
        coded = tokenizer.encode_batch([texts[row] for row in rows])
        ids = torch.tensor([c.ids for c in coded])
        mask = torch.tensor([c.attention_mask for c in coded])
        with PLAIN.quickest():  # in bf16 half the time; cosines within 0.01
            hidden = network(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask[..., None].float()
        found[rows] = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    return nn.functional.normalize(found, dim=1)

"""How many tokens a prompt has, for the line under the prompt box.

The counter has tokenizers of its own: the one of the loaded model belongs to the device thread,
and fast tokenizers refuse two threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from studio.services.models import ModelShelf

MOST_COUNTED = 40  # prompts at once


@dataclass(frozen=True)
class TokenCount:
    """The length of a prompt as the model sees it."""

    used: int
    limit: int
    cut: str  # the end of the prompt that the model does not read


class TokenCounter:
    """Counts for the loaded model only, so that asking never imports or loads anything early."""

    def __init__(self, shelf: ModelShelf) -> None:
        self._shelf = shelf
        self._lock = Lock()
        self._tokenizer: tuple[str, Any] | None = None  # model's name, tokenizer

    def count(self, model: str, prompt: str) -> TokenCount | None:
        """Return the prompt's length, None while the model is not loaded."""
        if not self._shelf.is_loaded(model):
            return None
        with self._lock:
            tokenizer = self._tokenizer_of(model)
            tokens = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
            limit = tokenizer.model_max_length - 2  # start and end take two places
            cut = tokenizer.decode(tokens[limit:]).strip() if len(tokens) > limit else ""
        return TokenCount(len(tokens), limit, cut)

    def longest(self, model: str, prompts: Sequence[str]) -> TokenCount | None:
        """Return the length of the longest of some prompts, None while the model is not loaded.

        Of very many those with the most characters are counted.
        """
        found = [self.count(model, prompt) for prompt in sorted(prompts, key=len)[-MOST_COUNTED:]]
        return max(filter(None, found), key=lambda count: count.used, default=None)

    def _tokenizer_of(self, model: str) -> Any:
        if self._tokenizer is None or self._tokenizer[0] != model:
            self._tokenizer = model, self._shelf.new_tokenizer(model)
        return self._tokenizer[1]

"""What a run was made with, so that only a run of the same goes on with it.

Every checkpoint of a stage keeps its settings and the sums of what it builds on. What may change
between two goes is left out: how long it trains and how fast it learns (a longer run, a smaller
rate after the loss stopped being a number), how often it reports, and where it computes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from studio.training.dataset.corpus import Corpus
from studio.training.dataset.words import WordBank

FREE = frozenset(
    {"steps", "budget", "learning_rate", "warmup", "decay_share", "checkpoint_every"}
    | {"report_every", "bf16"}
)
START = "start"  # of `files`: the model that --from names


@dataclass(frozen=True)
class MadeWith:
    """What the shapes of a run's weights do not say.

    files: what it builds on, by the word that a sentence names it with, and its sum. `START` is
    there only when it was given: who goes on with a run need not name it again.
    """

    kind: str = ""  # what the weights are taught, in words
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str, config: object, files: Mapping[str, str]) -> MadeWith:
        """Return that of a stage's configuration, a dataclass with a `LoopConfig` as its `loop`."""
        found = asdict(config)  # type: ignore[call-overload]
        found |= found.pop("loop")
        return cls(kind, {name: v for name, v in found.items() if name not in FREE}, files)

    def record(self, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what a checkpoint keeps: what was recorded earlier stays unless it is told now."""
        before = earlier or {}
        return {
            "settings": {**before.get("settings", {}), **self.settings},
            "files": {**before.get("files", {}), **self.files},
        }

    def changes(self, recorded: Mapping[str, Any]) -> list[str]:
        """Say what is not as it is recorded; a setting that was not known then is no change."""
        before, files = recorded.get("settings", {}), recorded.get("files", {})
        now = json.loads(json.dumps(dict(self.settings)))
        found = [
            _changed(name.replace("_", " "), before[name], value)
            for name, value in now.items()
            if name in before and before[name] != value
        ]
        found += [
            f"the {name} is another one"
            for name, value in self.files.items()
            if name != START and files.get(name) != value
        ]
        if START in self.files and files.get(START) != self.files[START]:
            found.append("it did not begin from what --from names now (leave --from out to go on)")
        return found


def _changed(name: str, before: object, now: object) -> str:
    if isinstance(before, list | dict):
        return f"{name}: others"
    return f"{name}: {before} then, {now} now"


def sum_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors, whatever device and file they are in."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sum_of_files(*paths: Path) -> str:
    """Return the SHA-256 of files one after the other; one that is not there counts as empty."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def sum_of_corpus(corpus: Corpus) -> str:
    """Return the SHA-256 of what a corpus says of its pictures, in their order."""
    digest = hashlib.sha256(repr(corpus.pictures.shape).encode())
    for entry in corpus.entries:
        digest.update(json.dumps(asdict(entry)).encode())
    return digest.hexdigest()


def sum_of_words(words: WordBank) -> str:
    """Return the SHA-256 of words and what their teacher says of them."""
    return hashlib.sha256(
        "\n".join(words.words).encode() + words.vectors.numpy().tobytes()
    ).hexdigest()

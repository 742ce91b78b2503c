"""What can be known about a model by looking at its folder, without reading a weight.

A model is a plain diffusers folder: `model_index.json` and one folder for each network. Beside them
`subjects.txt` (one drawable subject a line) and `easel.json` may say what it was trained for:

    {"title": "...", "trained_sizes": [[128, 128], [176, 96]], "styles": ["pencil sketch"],
     "words": ["close-up", "on the left", "at night"]}
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio.core.errors import ModelError
from studio.diffusion.model_files import open_model_folder

STARTER = "starter"  # the name of the model that Easel brings
MAX_CONFIG_BYTES = 1_000_000
MAX_SUBJECTS_BYTES = 4_000_000
_DECISIVE = frozenset((".json", ".safetensors", ".txt", ".py", ".bin", ".ckpt"))
_FAMILIES = ((768, "Stable Diffusion 1.x"), (1024, "Stable Diffusion 2.x"))  # by text width


@dataclass(frozen=True)
class ModelEntry:
    """One model on the shelf, as the page shows it."""

    name: str  # as in `GenerationRequest.model`
    folder: Path
    title: str
    family: str = "Unknown"
    native_size: tuple[int, int] = (512, 512)  # (width, height) in pixels
    trained_sizes: tuple[tuple[int, int], ...] = ()  # empty: the model does not say
    styles: tuple[str, ...] = ()  # style words it was trained with; empty: it does not say
    words: tuple[str, ...] = ()  # of composition and light that its captions held
    subjects: tuple[str, ...] = ()  # what it can draw; empty: it does not say
    problem: str = ""  # a sentence when it cannot be loaded

    def knows_size(self, width: int, height: int) -> bool:
        """Whether a size in pixels is one that the model was trained for.

        A model that does not list its sizes is trusted from half to one and a half times its
        native area, up to a ratio of 2 to 1: beyond that Stable Diffusion repeats its subject.
        """
        if self.trained_sizes:
            return (width, height) in self.trained_sizes
        area = width * height / (self.native_size[0] * self.native_size[1])
        return 0.5 <= area <= 1.5 and 0.5 <= width / height <= 2


def read_entry(folder: Path, name: str) -> ModelEntry:
    """Look at a model folder. Never raises: what is wrong with it stands in `problem`."""
    plain = ModelEntry(name, folder, "Starter model" if name == STARTER else name)
    try:
        plain = replace(plain, subjects=_read_subjects(folder / "subjects.txt"))
        checked = open_model_folder(folder)
        about = _read_json(folder / "easel.json") if (folder / "easel.json").is_file() else {}
        return replace(
            plain,
            title=str(about.get("title", plain.title))[:80],
            family=_family(checked.unet.config),
            native_size=checked.native_size,
            trained_sizes=_sizes(about.get("trained_sizes", ())),
            styles=tuple(str(style) for style in about.get("styles", ())),
            words=tuple(str(word) for word in about.get("words", ())),
        )
    except ModelError as error:
        return replace(plain, problem=str(error))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return replace(plain, problem=_unreadable(plain.title, error))


def single_file(path: Path) -> ModelEntry:
    """Describe a checkpoint in one file: listed, with what to do about it."""
    problem = (
        f"'{path.name}' is a single file; Easel reads diffusers folders so far. Convert it with "
        "diffusers' StableDiffusionPipeline.from_single_file(...).save_pretrained(...)."
    )
    return ModelEntry(path.name, path, path.name, problem=problem)


def fingerprint(folder: Path) -> str:
    """Return names, sizes and times of a model's files as text: equal as long as none changed."""
    lines = []
    for path in sorted((*folder.glob("*.*"), *folder.glob("*/*.*"))):
        if path.suffix in _DECISIVE and path.is_file():
            status = path.stat()
            lines.append(f"{path.relative_to(folder)}:{status.st_size}:{status.st_mtime_ns}")
    return "\n".join(lines)


def _family(unet: dict[str, Any]) -> str:
    width = unet.get("cross_attention_dim")
    return next((family for known, family in _FAMILIES if known == width), "Own training")


def _sizes(listed: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(width), int(height)) for width, height in listed)


def _read_subjects(path: Path) -> tuple[str, ...]:
    if not path.is_file() or path.stat().st_size > MAX_SUBJECTS_BYTES:
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _read_json(path: Path) -> dict[str, Any]:
    """Read an object from a JSON file of bounded size; ValueError otherwise."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path.name} is too large for a configuration")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _unreadable(title: str, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"'{title}' cannot be read ({str(reason)[:120]}); copy the model again, completely."

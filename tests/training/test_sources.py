"""The pinned packages: fetched once, checked, and read as subjects and icons."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from studio.core.errors import TrainingError
from studio.training.dataset import sources
from studio.training.dataset.packages import PACKAGES, fetch_packages, package_folder
from studio.training.dataset.rasterise import rasterise
from studio.training.dataset.sources import Subject
from tests.training.synthetic import make_packages

NOTO = "@iconify-json/noto"


def write_icons(folder: Path, table: dict) -> None:
    path = package_folder(folder, NOTO) / "package" / "icons.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(table))


def pixels(svg: str, size: int = 16) -> np.ndarray:
    return np.asarray(rasterise(svg, size))


@pytest.mark.parametrize(
    ("label", "slug"),
    [
        ("red apple", "red-apple"),
        ("jack-o-lantern", "jack-o-lantern"),
        ("piñata", "pinata"),
        ("man’s shoe", "mans-shoe"),
        ("o'clock", "oclock"),
        ("keycap: *", "keycap"),
    ],
)
def test_a_subject_is_spelled_as_the_icon_packages_spell_it(label, slug):
    assert Subject(label, (), "1f600").slug == slug


def test_an_alias_shows_what_its_parent_shows(tmp_path):
    body = '<rect width="8" height="16" fill="#f00"/>'
    write_icons(
        tmp_path,
        {"width": 16, "icons": {"bar": {"body": body}}, "aliases": {"post": {"parent": "bar"}}},
    )
    icons = sources.read_icons(tmp_path, NOTO)
    assert set(icons) == {"bar", "post"}
    assert icons["post"] == icons["bar"]


def test_a_flipped_alias_is_the_mirror_image_of_its_parent(tmp_path):
    body = '<rect width="4" height="16" fill="#f00"/>'
    aliases = {"mirrored": {"parent": "bar", "hFlip": True}}
    write_icons(tmp_path, {"icons": {"bar": {"body": body}}, "aliases": aliases})
    icons = sources.read_icons(tmp_path, NOTO)
    assert pixels(icons["bar"])[8, 0].tolist() == [255, 0, 0, 255]
    assert pixels(icons["bar"])[8, 15, 3] == 0
    assert np.array_equal(pixels(icons["mirrored"]), pixels(icons["bar"])[:, ::-1])


def test_an_alias_without_a_parent_is_left_out(tmp_path):
    write_icons(tmp_path, {"icons": {}, "aliases": {"lost": {"parent": "nowhere"}}})
    assert sources.read_icons(tmp_path, NOTO) == {}


def test_an_icon_keeps_its_own_size(tmp_path):
    body = '<rect width="8" height="8" fill="#00f"/>'
    icons = {"small": {"body": body, "width": 8, "height": 8}}
    write_icons(tmp_path, {"width": 16, "height": 16, "icons": icons})
    assert pixels(sources.read_icons(tmp_path, NOTO)["small"])[15, 15].tolist() == [0, 0, 255, 255]


def test_subjects_are_things_to_draw_and_not_flags(tmp_path):
    pinned = make_packages(tmp_path / "packages")
    list(fetch_packages(tmp_path / "packages", pinned))
    subjects = sources.read_subjects(tmp_path / "packages")
    assert [s.label for s in subjects] == ["cat", "dog", "house", "red apple"]
    assert subjects[0] == Subject("cat", ("thing", "cat"), "1f600")


@pytest.mark.parametrize("name", ["2764-fe0f", "2764"])
def test_a_render_is_found_with_and_without_the_variation_selector(tmp_path, name):
    folder = package_folder(tmp_path, "@lobehub/fluent-emoji-3d") / "package" / "assets"
    folder.mkdir(parents=True)
    (folder / f"{name}.webp").touch()
    for code in ("2764-fe0f", "2764"):
        assert sources.render_file(tmp_path, Subject("heart", (), code)) == folder / f"{name}.webp"
    assert sources.render_file(tmp_path, Subject("cat", (), "1f408")) is None


def test_an_archive_with_another_checksum_is_refused_and_removed(tmp_path):
    folder = tmp_path / "packages"
    [first, *_] = make_packages(folder)
    with pytest.raises(TrainingError, match=r"not the file that .* train corpus` again"):
        list(fetch_packages(folder, (replace(first, sha256="0" * 64),)))
    assert not (folder / first.archive).exists()
    assert not package_folder(folder, first.name).exists()


def test_an_archive_that_climbs_out_of_its_folder_is_refused(tmp_path):
    package = PACKAGES[0]
    with tarfile.open(tmp_path / package.archive, "w:gz") as tar:
        member = tarfile.TarInfo("../../outside.txt")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"!"))
    found = hashlib.sha256((tmp_path / package.archive).read_bytes()).hexdigest()
    with pytest.raises(tarfile.OutsideDestinationError):
        list(fetch_packages(tmp_path, (replace(package, sha256=found),)))
    assert not (tmp_path.parent / "outside.txt").exists()


def test_without_npm_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match=r"no `npm` here. Install it"):
        list(fetch_packages(tmp_path / "packages"))


def test_when_npm_fails_the_sentence_carries_its_reason(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error getaddrinfo EAI_AGAIN' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(TrainingError, match=r"could not fetch emojibase-data@17.0.0: .*EAI_AGAIN"):
        list(fetch_packages(tmp_path / "packages"))


def test_archives_that_are_there_need_no_npm(tmp_path, monkeypatch):
    pinned = make_packages(tmp_path / "packages")
    monkeypatch.setenv("PATH", "")
    folders = list(fetch_packages(tmp_path / "packages", pinned))
    assert len(folders) == len(PACKAGES)
    assert all(any(f.rglob("*.*")) for f in folders)


def read_all(tmp_path) -> list[sources.Original]:
    pinned = make_packages(tmp_path / "packages")
    list(fetch_packages(tmp_path / "packages", pinned))
    return list(sources.read_originals(tmp_path / "packages"))


def test_every_set_gives_its_originals_and_what_cannot_be_named_is_left_out(tmp_path):
    found = [(o.style, o.subject) for o in read_all(tmp_path)]
    emoji = ("cat", "dog", "house", "red apple")
    styles = ("3d render", "flat illustration", "shaded cartoon", "simple icon")
    assert found == [
        *((style, subject) for style in styles for subject in emoji),
        ("pictogram", "cat"),
        ("clip art", "dog"),
    ]


def test_originals_travel_as_one_file(tmp_path):
    originals = read_all(tmp_path)
    path = tmp_path / "originals.zip"
    assert sources.write_originals(path, iter(originals), "recipe") == 18
    assert sources.load_originals(path) == originals
    assert sources.recipe_of(path) == "recipe"
    again = tmp_path / "again.zip"
    sources.write_originals(again, iter(originals), "recipe")
    assert again.read_bytes() == path.read_bytes()


def test_damaged_originals_are_a_sentence(tmp_path):
    path = tmp_path / "originals.zip"
    path.write_bytes(b"PK half a file")
    assert sources.recipe_of(path) == ""
    with pytest.raises(TrainingError, match=r"originals.zip is damaged. Delete it and run"):
        sources.load_originals(path)

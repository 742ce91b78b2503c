"""Presets: the shipped ones, the artist's own, and what people put into such files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.core.errors import EaselError, InvalidRequestError, NotFoundError
from studio.core.request import GenerationRequest
from studio.core.settings import PRESETS
from studio.services.model_folder import ModelEntry
from studio.services.presets import (
    Preset,
    PresetShelf,
    name_for,
    preset_from_mapping,
    read_preset,
    suits,
)

STARTER = ModelEntry(
    name="starter",
    folder=Path("starter"),
    title="Starter model",
    native_size=(128, 128),
    trained_sizes=((128, 128), (176, 96), (96, 176)),
    styles=("3d render", "flat illustration", "shaded cartoon", "pencil sketch", "ink drawing"),
)
STABLE_DIFFUSION = ModelEntry("sd15", Path("sd15"), "SD 1.5", native_size=(512, 512))
SHIPPED = tuple(sorted(PRESETS.glob("*.json")))
PROMPTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=60).map(
    lambda text: text.strip(" ,\n\t")
)


@pytest.fixture
def shelf(tmp_path: Path) -> PresetShelf:
    return PresetShelf(PRESETS, tmp_path / "presets")


def test_at_least_ten_presets_are_shipped_and_all_can_be_read(shelf: PresetShelf) -> None:
    assert len(shelf.all()) == len(SHIPPED) >= 10
    assert shelf.problems() == []


def test_the_looks_that_the_first_release_promises_are_there(shelf: PresetShelf) -> None:
    promised = {"storyboard-pencil", "ink", "flat-cartoon", "toy-3d", "wide-shot"}
    assert promised <= {preset.name for preset in shelf.all()}


def test_the_readme_names_every_field_and_every_shipped_preset(shelf: PresetShelf) -> None:
    readme = (PRESETS / "README.md").read_text(encoding="utf-8")
    fields = ("title", "description", "prompt", "styles", "steps", "guidance_scale", "sampler")
    assert [field for field in fields if f"`{field}`" not in readme] == []
    assert [preset.title for preset in shelf.all() if preset.title not in readme] == []


def test_presets_for_the_starter_model_use_exactly_its_style_words(shelf: PresetShelf) -> None:
    suitable = [preset for preset in shelf.all() if not suits(preset, STARTER)]
    assert {style for preset in suitable for style in preset.styles} == set(STARTER.styles)
    assert [p.name for p in suitable for style in p.styles if style not in p.prompt] == []


def test_a_preset_with_a_foreign_style_is_marked_with_a_sentence(shelf: PresetShelf) -> None:
    assert suits(shelf.get("watercolour"), STARTER) == (
        "Starter model was not trained for 'watercolour'; "
        "it knows 3d render, flat illustration, shaded cartoon, pencil sketch, ink drawing."
    )


def test_a_preset_of_composition_suits_a_model_that_learned_the_word(shelf: PresetShelf) -> None:
    close = shelf.get("close-up")
    assert "was not trained for 'close-up'" in suits(close, replace(STARTER, words=("at night",)))
    assert suits(close, replace(STARTER, words=("at night", "close-up"))) == ""


def test_a_preset_with_a_foreign_size_is_marked_with_a_sentence(shelf: PresetShelf) -> None:
    assert suits(shelf.get("wide-shot"), STARTER) == ""
    assert suits(shelf.get("wide-shot"), STABLE_DIFFUSION) == (
        "SD 1.5 was not trained for 176 x 96; its own size is 512 x 512."
    )


def test_a_model_that_does_not_name_its_styles_marks_no_style(shelf: PresetShelf) -> None:
    assert suits(shelf.get("ink"), STABLE_DIFFUSION) == ""


@pytest.mark.parametrize(("size", "known"), [
    ((512, 512), True), ((768, 512), True), ((512, 768), True), ((768, 432), True),
    ((128, 128), False), ((1024, 1024), False), ((1024, 256), False),
])  # fmt: skip
def test_a_model_without_a_list_of_sizes_is_trusted_near_its_native_one(
    size: tuple[int, int], known: bool
) -> None:
    assert STABLE_DIFFUSION.knows_size(*size) is known


def test_applying_changes_what_the_preset_names_and_keeps_the_rest() -> None:
    preset = Preset("wide", "Wide", prompt="{prompt}, pencil sketch", width=176, height=96)
    request = GenerationRequest(prompt="a cat", steps=33, seed=5, negative_prompt="blurry")
    assert preset.apply(request) == request.with_changes(
        prompt="a cat, pencil sketch", width=176, height=96
    )


def test_an_empty_prompt_gets_the_style_words_alone() -> None:
    assert Preset("p", "P", prompt="{prompt}, pencil sketch").dress("") == "pencil sketch"


@given(PROMPTS, st.sampled_from(SHIPPED))
def test_taking_a_look_off_gives_the_prompt_back(prompt: str, path: Path) -> None:
    preset = read_preset(path, own=False)
    assert preset.undress(preset.dress(prompt)) == prompt


def test_taking_off_a_look_that_is_not_worn_changes_nothing() -> None:
    assert Preset("p", "P", prompt="{prompt}, pencil sketch").undress("a cat") == "a cat"


def test_a_saved_preset_comes_back_equal(shelf: PresetShelf) -> None:
    preset = Preset(
        "mine", "Mine", "Ours", "{prompt}, ink", "blur", 128, 96, 12, 2.5, "Euler", ("ink",)
    )
    saved = shelf.save(preset)
    assert saved.own
    assert shelf.get("mine") == saved


def test_an_own_preset_hides_the_shipped_one_until_it_is_deleted(shelf: PresetShelf) -> None:
    shipped = shelf.get("ink")
    mine = shelf.save(Preset("ink", "My ink", prompt="{prompt}, my ink"))
    assert shelf.get("ink") == mine
    shelf.delete("ink")
    assert shelf.get("ink") == shipped


def test_a_shipped_preset_cannot_be_deleted(shelf: PresetShelf) -> None:
    with pytest.raises(NotFoundError):
        shelf.delete("ink")
    assert shelf.get("ink").title == "Ink"


@given(st.text(max_size=80))
def test_whatever_the_title_its_name_is_a_safe_file_name(title: str) -> None:
    name = name_for(title)
    assert Path(name).name == name
    assert Preset(name, "Title").name == name


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["../ink", "/etc/passwd", "..", ".", "", "con", "nul", "a/b", "a\\b", "ink.json", "INK",
         "a" * 41, "-ink", "ink\n", "ink\0", "%2e%2e", "C:ink", "ａbc"]
    ),
)  # fmt: skip


@given(HOSTILE)
def test_a_name_is_refused_unless_it_is_a_plain_slug(name: str) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
    reserved = {"con", "prn", "aux", "nul"} | {
        f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10)
    }
    plain = 0 < len(name) <= 40 and set(name) <= set(letters) and name[0] != "-"
    if plain and name not in reserved:
        assert Preset(name, "Title").name == name
    else:
        with pytest.raises(InvalidRequestError):
            Preset(name, "Title")


@given(HOSTILE)
def test_looking_for_a_hostile_name_finds_nothing(name: str) -> None:
    shelf = PresetShelf(PRESETS, PRESETS / "none")
    known = {path.stem for path in SHIPPED}
    if name not in known:
        with pytest.raises(NotFoundError):
            shelf.get(name)
        with pytest.raises(NotFoundError):
            shelf.delete(name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELD = st.sampled_from(
    ["title", "description", "prompt", "negative_prompt", "width", "height", "steps",
     "guidance_scale", "sampler", "styles", "own", "extra"]
)  # fmt: skip


@given(st.dictionaries(FIELD, JSON, max_size=5))
def test_any_json_is_either_a_preset_or_refused_with_a_sentence(values: dict[str, object]) -> None:
    try:
        preset = preset_from_mapping({"title": "T", **values, "name": "p"})
    except EaselError as error:
        assert str(error).endswith((".", "?"))
    else:
        assert isinstance(preset.apply(GenerationRequest()), GenerationRequest)


@pytest.mark.parametrize("broken", [
    "", "{", "[]", "null", '{"title": 5}', '{"title": "T", "prompt": "no place"}',
    '{"title": "T", "width": 130, "height": 128}', '{"title": "T", "colour": "red"}',
    '{"title": "T", "width": 128}', '{"title": "T", "steps": 1e999}', "[" * 100_000,
])  # fmt: skip
def test_a_broken_own_file_is_set_aside_with_its_content_and_a_sentence(
    shelf: PresetShelf, tmp_path: Path, broken: str
) -> None:
    own = tmp_path / "presets"
    own.mkdir()
    (own / "mine.json").write_text(broken, encoding="utf-8")
    assert len(shelf.all()) == len(SHIPPED)
    assert (own / "mine.json.broken").read_text(encoding="utf-8") == broken
    assert shelf.problems() == [
        "The preset file 'mine.json.broken' is broken and was set aside; mend it and take "
        "'.broken' off its name, or delete it."
    ]


def test_setting_a_second_broken_file_aside_keeps_the_first(
    shelf: PresetShelf, tmp_path: Path
) -> None:
    own = tmp_path / "presets"
    own.mkdir()
    for content in ("first", "second"):
        (own / "mine.json").write_text(content, encoding="utf-8")
        shelf.all()
    assert sorted(path.read_text(encoding="utf-8") for path in own.iterdir()) == ["first", "second"]


def test_a_broken_shipped_file_is_named_and_stays(tmp_path: Path) -> None:
    shutil.copytree(PRESETS, tmp_path / "shipped")
    (tmp_path / "shipped" / "ink.json").write_text("{", encoding="utf-8")
    shelf = PresetShelf(tmp_path / "shipped", tmp_path / "own")
    assert len(shelf.all()) == len(SHIPPED) - 1
    (problem,) = shelf.problems()
    assert "'ink.json' is broken" in problem
    assert (tmp_path / "shipped" / "ink.json").exists()


def test_a_preset_of_the_artist_is_plain_json_in_the_data_folder(
    shelf: PresetShelf, tmp_path: Path
) -> None:
    shelf.save(Preset("mine", "Mine", prompt="{prompt}, ink", steps=9))
    assert json.loads((tmp_path / "presets" / "mine.json").read_text(encoding="utf-8")) == {
        "name": "mine",
        "title": "Mine",
        "description": "",
        "prompt": "{prompt}, ink",
        "steps": 9,
        "styles": [],
    }

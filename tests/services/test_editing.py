"""Edits end to end: source and mask by hash, jobs that outlive a restart, lineage, send to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from studio.core.errors import InvalidRequestError, NotFoundError, StorageError
from studio.core.picture import Picture
from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.services.comparison import WORDS
from studio.services.editing import USUAL_STRENGTH
from studio.services.sending import TABS
from studio.services.studio import Studio, open_studio
from studio.store.sources import pixel_hash
from tests.services.test_generation import finish, hold_worker
from tests.store.test_files import encoded

SKETCH = Image.effect_noise((64, 64), 60).convert("RGB")


@pytest.fixture
def edit(request_tiny: GenerationRequest) -> GenerationRequest:
    """An edit of SKETCH that the tiny model draws in a moment."""
    return request_tiny.with_changes(source=pixel_hash(SKETCH), strength=0.5, steps=4)


@pytest.fixture
def sketched(studio: Studio) -> Iterator[Studio]:
    """A studio that holds SKETCH."""
    studio.sources.add(SKETCH)
    yield studio


def pixels(studio: Studio, picture: Picture) -> Image.Image:
    with Image.open(studio.gallery.file(picture)) as image:
        image.load()
        return image


def drawn(studio: Studio, request: GenerationRequest, key: str, parent_id=None) -> Picture:
    job = studio.generation.submit(request, key=key, parent_id=parent_id)
    view = finish(studio, job.id)
    assert view.state == "done", view
    return view.pictures[-1]


def test_an_edit_is_drawn_from_its_stored_source_and_files_its_parent(
    sketched: Studio, request_tiny: GenerationRequest, edit: GenerationRequest
) -> None:
    first = drawn(sketched, request_tiny, "first")
    picture = drawn(sketched, edit, "second", first.id)
    assert (picture.parent_id, picture.request.source) == (first.id, edit.source)
    assert sketched.gallery.get(picture.id) == picture
    assert pixels(sketched, picture).tobytes() != SKETCH.tobytes()
    assert drawn(sketched, edit.with_changes(strength=0.0), "none").parent_id is None
    unchanged = pixels(sketched, sketched.gallery.page(limit=1)[0])
    assert unchanged.tobytes() == SKETCH.tobytes()


def test_what_the_mask_leaves_out_is_in_the_file_bit_for_bit(
    sketched: Studio, edit: GenerationRequest
) -> None:
    mask = Image.new("L", SKETCH.size, 0)
    mask.paste(255, (40, 40, 60, 60))
    request = edit.with_changes(mask=sketched.sources.add(mask), mask_blur=1.0, strength=1.0)
    result = pixels(sketched, drawn(sketched, request, "k"))
    assert result.crop((0, 0, 64, 32)).tobytes() == SKETCH.crop((0, 0, 64, 32)).tobytes()
    assert result.crop((44, 44, 56, 56)).tobytes() != SKETCH.crop((44, 44, 56, 56)).tobytes()


def test_a_source_that_is_not_there_is_refused_at_its_field_before_anything_is_queued(
    studio: Studio, edit: GenerationRequest
) -> None:
    with pytest.raises(InvalidRequestError, match="Choose the picture once more") as refusal:
        studio.generation.submit(edit, key="k")
    assert refusal.value.field == "source"
    studio.sources.add(SKETCH)
    with pytest.raises(InvalidRequestError) as refusal:
        studio.generation.submit(edit.with_changes(mask="0a" * 32), key="k")
    assert refusal.value.field == "mask"
    assert studio.generation.latest() is None


def test_a_mask_of_another_size_is_refused_with_both_sizes(
    sketched: Studio, edit: GenerationRequest
) -> None:
    mask = sketched.sources.add(Image.new("L", (32, 64), 255))
    with pytest.raises(InvalidRequestError, match="32 x 64 pixels and the picture 64 x 64"):
        sketched.generation.submit(edit.with_changes(mask=mask), key="k")


def test_a_source_deleted_between_click_and_run_is_a_sentence_and_loses_nothing(
    sketched: Studio, edit: GenerationRequest
) -> None:
    go = hold_worker(sketched)
    sketched.drafts.save("mask", encoded(SKETCH, "PNG"))
    job = sketched.generation.submit(edit, key="k")
    sketched.sources.path(edit.source).unlink()
    go.set()
    view = finish(sketched, job.id)
    assert (view.state, view.details) == ("failed", "")
    assert "Choose the picture once more" in view.error
    assert sketched.drafts.load("mask") == encoded(SKETCH, "PNG")
    assert sketched.generation.view(job.id).job.request.strength == 0.5
    sketched.sources.add(SKETCH)  # the same pixels have the same name
    assert sketched.generation.resubmit(job.id).id == job.id
    assert finish(sketched, job.id).state == "done"


def test_an_edit_that_waited_is_drawn_after_a_restart_with_its_parent(
    tiny_settings: Settings, request_tiny: GenerationRequest, edit: GenerationRequest
) -> None:
    earlier = open_studio(tiny_settings)
    parent = drawn(earlier, request_tiny, "parent")
    earlier.sources.add(SKETCH)
    go = hold_worker(earlier)
    job = earlier.generation.submit(edit, key="k", parent_id=parent.id)
    go.set()
    earlier.worker.close()
    earlier.close()
    later = open_studio(tiny_settings)
    later.generation.resume_queue()
    state = finish(later, later.generation.resubmit(job.id).id)
    assert (state.state, state.pictures[0].parent_id) == ("done", parent.id)
    later.close()


def test_variations_of_one_picture_go_on_where_they_were_cut_short(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    request = request_tiny.with_changes(variation_seed=30, variation_strength=0.4, count=3)
    view = finish(studio, studio.generation.submit(request, key="k").id)
    assert [(p.seed, p.variation_seed) for p in view.pictures] == [(7, 30), (7, 31), (7, 32)]
    again = drawn(studio, request.with_changes(variation_seed=32, count=1), "again")
    difference = ImageChops.difference(pixels(studio, again), pixels(studio, view.pictures[2]))
    assert max(high for _, high in difference.getextrema()) <= 1  # another batch size rounds anew
    other = ImageChops.difference(pixels(studio, again), pixels(studio, view.pictures[1]))
    assert max(high for _, high in other.getextrema()) > 1


def test_a_parent_that_is_not_there_is_left_out(sketched: Studio, edit: GenerationRequest) -> None:
    assert drawn(sketched, edit, "k", parent_id=41).parent_id is None


def test_lineage_is_walked_both_ways_through_the_bin(
    sketched: Studio, request_tiny: GenerationRequest, edit: GenerationRequest
) -> None:
    first = drawn(sketched, request_tiny, "1")
    second = drawn(sketched, edit, "2", first.id)
    third = drawn(sketched, edit.with_changes(seed=8), "3", second.id)
    fourth = drawn(sketched, edit.with_changes(seed=9), "4", first.id)
    assert sketched.lineage.parents(third.id) == [second, first]
    assert sketched.lineage.parents(first.id) == []
    assert sketched.lineage.children(first.id) == [second, fourth]
    binned = sketched.gallery.delete(second.id)
    assert sketched.lineage.parents(third.id) == [binned, first]
    with pytest.raises(NotFoundError):
        sketched.lineage.parents(99)


def test_only_the_settings_that_differ_are_compared_in_words(
    sketched: Studio, request_tiny: GenerationRequest, edit: GenerationRequest
) -> None:
    text = drawn(sketched, request_tiny.with_changes(steps=3), "1")
    image = drawn(sketched, edit.with_changes(seed=8, mask_blur=9.0), "2")
    assert sketched.comparison.differences(text, text) == []
    assert sketched.comparison.differences(text, image) == [
        ("Steps (num_inference_steps)", "3", "4"),
        ("Seed", "7", "8"),
        ("Source picture", "none", edit.source[:10]),
        ("Strength (denoising)", "none", "0.5"),
    ]
    mask = sketched.sources.add(Image.new("L", SKETCH.size, 255))
    masked = drawn(sketched, edit.with_changes(seed=8, mask=mask, mask_blur=9.0), "3")
    assert sketched.comparison.differences(image, masked) == [
        ("Mask", "none", mask[:10]),
        ("Mask blur", "none", "9 px"),
    ]


def test_every_field_of_a_request_has_a_word_for_comparing() -> None:
    fields = set(GenerationRequest.__dataclass_fields__) - {"count"}
    assert set(WORDS) == fields


# Send to ---------------------------------------------------------------------------------------


def test_a_picture_is_sent_to_an_edit_as_its_source_with_its_settings(
    studio: Studio, request_tiny: GenerationRequest
) -> None:
    job = studio.generation.submit(request_tiny.with_changes(count=2), key="k")
    picture = finish(studio, job.id).pictures[1]
    for tab in ("img2img", "inpaint"):
        sent = studio.sending.picture(picture.id, tab)
        assert (sent.parent_id, sent.source_size, sent.notices) == (picture.id, (64, 64), ())
        assert sent.values["source"] == pixel_hash(pixels(studio, picture))
        assert (sent.values["prompt"], sent.values["seed"], sent.values["count"]) == (
            "red apple", 8, 1,
        )  # fmt: skip
        assert (sent.values["strength"], sent.values["mask"]) == (USUAL_STRENGTH, "")
        again = studio.generation.submit(
            GenerationRequest(**sent.values), key=tab, parent_id=sent.parent_id
        )
        assert finish(studio, again.id).pictures[0].parent_id == picture.id


def test_an_edit_is_sent_to_text_without_what_belongs_to_edits(
    sketched: Studio, edit: GenerationRequest
) -> None:
    picture = drawn(sketched, edit.with_changes(width=100, height=75, prompt="pear"), "k")
    sent = sketched.sending.picture(picture.id, "txt2img")
    assert "source" not in sent.values and "strength" not in sent.values
    assert (sent.values["width"], sent.values["height"]) == (96, 72)
    assert GenerationRequest(**sent.values).prompt == "pear"
    again = sketched.sending.picture(picture.id, "img2img").values
    assert (again["strength"], again["width"], again["height"]) == (0.5, 100, 75)


def test_a_dropped_file_of_ours_brings_its_settings_and_the_model_by_hash(
    studio: Studio, request_tiny: GenerationRequest, tmp_path: Path
) -> None:
    picture = drawn(studio, request_tiny, "k")
    content = studio.gallery.file(picture).read_bytes()
    for tab in TABS:
        sent = studio.sending.file(content, tab)
        assert (sent.values["prompt"], sent.values["model"]) == ("red apple", "tiny")
        assert (sent.values["seed"], sent.values["steps"]) == (7, 3)
        assert sent.notices == ()
    assert sent.source_size == (64, 64)
    assert sent.parent_id == picture.id


def test_a_dropped_file_of_another_studio_brings_what_it_says(studio: Studio) -> None:
    info = PngInfo()
    info.add_text(
        "parameters",
        "a pear\nSteps: 12, Sampler: Euler a, CFG scale: 6, Seed: 3, Size: 64x64, "
        "Model hash: abcdef1234, Model: toy, Denoising strength: 0.4, Mask blur: 7, "
        "Inpaint area: Only masked, Masked area padding: 12, Masked content: fill, Version: v1.10",
    )
    content = encoded(SKETCH, "PNG", pnginfo=info)
    sent = studio.sending.file(content, "inpaint")
    wanted = {
        "prompt": "a pear", "steps": 12, "sampler": "Euler a", "seed": 3, "mask_blur": 7.0,
        "inpaint_area": "only masked", "mask_padding": 12, "masked_content": "fill",
    }  # fmt: skip
    assert {name: sent.values[name] for name in wanted} == wanted
    assert sent.notices == ("The model 'toy' is not here; 'starter' draws instead.",)


def test_a_dropped_picture_without_a_recipe_is_a_source_and_says_so(studio: Studio) -> None:
    content = encoded(SKETCH, "WEBP", lossless=True)
    sent = studio.sending.file(content, "img2img")
    assert sent.values == {"source": pixel_hash(SKETCH), "width": 64, "height": 64}
    assert sent.notices == ("This file says nothing about how it was drawn.",)
    assert sent.parent_id is None
    assert studio.sending.file(content, "txt2img").values == {}


def test_a_source_too_large_to_draw_is_offered_smaller(studio: Studio) -> None:
    sent = studio.sending.file(encoded(Image.new("RGB", (8000, 80)), "PNG"), "img2img")
    assert (sent.values["width"], sent.values["height"]) == (4096, 40)
    assert "8000 x 80 pixels are drawn at 4096 x 40." in sent.notices


@pytest.mark.parametrize("tab", TABS)
def test_a_dropped_file_that_is_no_picture_is_a_sentence(studio: Studio, tab: str) -> None:
    with pytest.raises(StorageError, match="not a PNG, JPEG or WebP"):
        studio.sending.file(b"a poem", tab)


def test_there_is_no_other_tab_to_send_to(studio: Studio) -> None:
    with pytest.raises(InvalidRequestError):
        studio.sending.picture(1, "gallery")


# What keeps a source ---------------------------------------------------------------------------


def test_sources_that_anything_names_outlive_every_sweep(
    tiny_settings: Settings, edit: GenerationRequest
) -> None:
    studio = open_studio(tiny_settings)
    mask = studio.sources.add(Image.new("L", SKETCH.size, 255))
    in_form = studio.sources.add(Image.new("RGB", (64, 64), "red"))
    in_draft = studio.sources.add(Image.new("RGB", (64, 64), "green"))
    unused = studio.sources.add(Image.new("RGB", (64, 64), "blue"))
    studio.sources.add(SKETCH)
    drawn(studio, edit.with_changes(mask=mask), "k")
    studio.form.save("img2img", {"source": in_form})
    studio.drafts.save(f"mask-{in_draft}", encoded(SKETCH, "PNG"))
    for path in (tiny_settings.data_dir / "sources").rglob("*.png"):
        os.utime(path, (1, 1))
    studio.upkeep.look()
    assert studio.notes == ()
    for kept in (mask, in_form, in_draft, edit.source):
        assert studio.sources.path(kept).is_file()
    with pytest.raises(NotFoundError):
        studio.sources.path(unused)
    studio.close()

"""The tab's handlers: values by name in, updates and sentences out; the worker draws."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from studio.core.errors import InvalidRequestError
from studio.ui.commands import run_command
from studio.ui.controls import read_request
from studio.ui.drawing import DrawingHandlers
from studio.ui.kept import FORM
from studio.ui.shapes import shape_choices, shape_of, shape_size

Form = dict[str, Any]


def said(handlers: DrawingHandlers, updates: dict) -> dict:
    """Return what the handler told the page's script."""
    return json.loads(updates[handlers.form.bridge])


def value(handlers: DrawingHandlers, updates: dict, field: str) -> Any:
    return updates[handlers.form.controls.components[field]]["value"]


def event(**detail: Any) -> gr.EventData:
    return gr.EventData(None, detail)


def test_generate_queues_a_picture_with_a_new_seed(handlers, studio, form):
    updates = handlers.generate(**form)
    request = studio.generation.latest().job.request
    assert said(handlers, updates)["submitted"] is True
    assert (request.prompt, request.steps, request.model) == ("red apple", 2, "tiny")
    assert request.seed == value(handlers, updates, "seed") != form["seed"]


def test_a_kept_seed_is_drawn_again(handlers, studio, form):
    handlers.generate(**(form | {"keep_seed": True, "seed": 42}))
    assert studio.generation.latest().job.request.seed == 42


def test_every_click_queues_another_job(handlers, studio, form):
    for _ in range(3):
        handlers.generate(**form)
    assert len({view.job.id for view in studio.generation.queue()} | {""}) >= 2


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("width", 65), ("height", None), ("steps", 0), ("count", 1.5), ("seed", -1), ("eta", None)],
)
def test_a_refusal_names_its_field_and_draws_nothing(handlers, studio, form, field, wrong):
    error = said(handlers, handlers.generate(**(form | {"keep_seed": True, field: wrong})))["error"]
    assert error["field"] == field
    assert error["sentence"].endswith(".")
    assert studio.generation.latest() is None


def test_a_style_dresses_the_prompt(handlers, studio, form):
    preset = studio.presets.all()[0]
    handlers.generate(**(form | {"preset": preset.name}))
    assert studio.generation.latest().job.request.prompt == preset.dress("red apple")


@pytest.mark.parametrize("then", ["ink", ""])
def test_another_style_takes_the_negative_prompt_of_the_last_one_with_it(
    handlers, studio, form, then
):
    words = studio.presets.get("night").negative_prompt
    updates = handlers.pick_preset(**(form | {"preset": "night"}))
    assert value(handlers, updates, "negative_prompt") == words
    updates = handlers.pick_preset(**(form | {"preset": then, "negative_prompt": words}))
    assert value(handlers, updates, "negative_prompt") == ""
    updates = handlers.pick_preset(**(form | {"preset": then, "negative_prompt": "my own"}))
    assert handlers.form.controls.components["negative_prompt"] not in updates


def test_one_panel_a_line_becomes_a_named_set(handlers, studio, form):
    panels = {"panels": True, "prompt": "cat\n\ndog", "set_name": "Roof", "seed_policy": "same"}
    handlers.generate(**(form | panels))
    jobs = {view.job.label: view.job for view in studio.generation.queue()}
    jobs |= {(last := studio.generation.latest()).job.label: last.job}
    assert any(label.startswith("Roof, panel") for label in jobs)
    assert all(job.set_id for job in jobs.values())


def test_the_form_is_there_again_after_a_restart(handlers, studio, form):
    handlers.remember(**(form | {"prompt": "old tree", "steps": 33, "negative_prompt": "people"}))
    updates = handlers.restore()
    assert value(handlers, updates, "prompt") == "old tree"
    assert value(handlers, updates, "steps") == 33
    assert updates[handlers.form.controls.negative].open is True


def test_a_kept_form_that_no_longer_fits_falls_back_to_defaults(handlers, studio):
    studio.form.save(FORM, {"model": "gone", "sampler": "gone", "preset": "gone", "prompt": "kept"})
    updates = handlers.restore()
    assert value(handlers, updates, "sampler") == "DDIM"
    assert value(handlers, updates, "prompt") == "kept"
    assert value(handlers, updates, "model") in {e.name for e in studio.models.entries()}


def test_swap_dice_and_seed_change_only_their_fields(handlers, form):
    form |= {"width": 64, "height": 128}
    swapped = run_command(handlers, event(what="swap"), form)
    assert (value(handlers, swapped, "width"), value(handlers, swapped, "height")) == (128, 64)
    assert value(handlers, swapped, "shape") == shape_of(128, 64)
    kept = run_command(handlers, event(what="seed", seed=9), form)
    assert (value(handlers, kept, "seed"), value(handlers, kept, "keep_seed")) == (9, True)
    rolled = run_command(handlers, event(what="dice"), form)
    assert value(handlers, rolled, "seed") != form["seed"]


def test_a_subject_joins_the_prompt(handlers, form):
    updates = run_command(handlers, event(what="subject", subject="castle"), form)
    assert value(handlers, updates, "prompt") == "red apple, castle"


@pytest.mark.parametrize("detail", [{"what": "rm -rf"}, {}, {"what": "reuse", "picture": "../x"}])
def test_an_unknown_command_is_answered_with_a_sentence(handlers, form, detail):
    answer = said(handlers, run_command(handlers, event(**detail), form))
    assert "reload" in (answer.get("said") or answer["error"]["sentence"])


def test_a_style_is_saved_marked_and_deleted(handlers, studio, form):
    wide = form | {"width": 512, "height": 64}
    handlers.save_style("My look", "crayon on paper", **wide)
    preset = studio.presets.get("my-look")
    assert (preset.prompt, preset.width) == ("{prompt}, crayon on paper", 512)
    choices = dict(handlers.restore()[handlers.form.controls.components["preset"]].choices)
    assert "My look *" in choices
    handlers.delete_style(**(form | {"preset": "my-look"}))
    assert "my-look" not in {preset.name for preset in studio.presets.all()}


def test_a_shape_takes_the_models_own_size(handlers, form):
    updates = handlers.pick_shape(**(form | {"shape": "1:1", "width": 200, "height": 88}))
    assert (value(handlers, updates, "width"), value(handlers, updates, "height")) == (64, 64)


def test_every_named_shape_is_drawable_and_recognised(studio):
    entry = studio.models.entry("tiny")
    for _, shape in shape_choices(entry):
        width, height = shape_size(shape, entry)
        assert (width % 8, height % 8) == (0, 0)
    assert [shape_of(*size) for size in ((128, 128), (176, 96), (96, 176), (200, 84))] == [
        "1:1", "16:9", "9:16", "2.39:1",
    ]  # fmt: skip
    assert shape_of(100, 80) is None


def test_an_empty_number_is_refused_at_its_field(form):
    with pytest.raises(InvalidRequestError) as refused:
        read_request(form | {"width": None})
    assert refused.value.field == "width"


def test_a_form_that_set_out_before_its_source_came_does_not_take_the_source_back(
    handlers, studio, form
):
    source = studio.sources.add(Image.new("RGB", (64, 64)))
    handlers.remember(**form)
    run_command(handlers, event(what="source", sha256=source, task="inpaint"), form)
    handlers.remember(**(form | {"prompt": "typed meanwhile"}))
    assert studio.form.load(FORM)["source"] == source
    restored = handlers.restore()
    assert value(handlers, restored, "source") == source
    assert value(handlers, restored, "prompt") == "typed meanwhile"
    run_command(handlers, event(what="source", sha256=""), form | {"task": "inpaint"})
    assert studio.form.load(FORM)["source"] == ""

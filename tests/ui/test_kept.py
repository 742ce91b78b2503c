"""The form as it is kept: late answers lose nothing, and what was replaced comes back."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from studio.services.studio import Studio
from studio.ui.commands import run_command
from studio.ui.drawing import DrawingHandlers
from studio.ui.editor import draft_name
from studio.ui.kept import FORM, MOST_EARLIER, merged, missed
from studio.ui.routes import picture_routes
from tests.browser.waiting import LOADED
from tests.ui.served import Served
from tests.ui.test_drawing import event, said, value

Form = dict[str, Any]
LINES = "a gate in the rain\na lantern\na bridge"


def drawn(studio: Studio, handlers: DrawingHandlers, form: Form) -> int:
    """Draw what the form asks for and return the newest picture's number."""
    handlers.generate(**form)
    until = time.monotonic() + LOADED
    while queue := studio.generation.queue():
        assert time.monotonic() < until, "nothing was drawn"
        studio.generation.wait(queue[0].job.id, queue[0].version, 5)
    return studio.gallery.page()[0].id


def painted(studio: Studio, source: str, light: int = 255) -> None:
    stream = io.BytesIO()
    Image.new("L", studio.sources.size(source), light).save(stream, format="PNG")
    studio.drafts.save(draft_name("inpaint", source), stream.getvalue())


@pytest.mark.parametrize("task", ["img2img", "inpaint"])
def test_sending_a_picture_can_be_undone_with_panels_style_source_and_tab(
    handlers: DrawingHandlers, studio: Studio, form: Form, task: str
):
    picture = drawn(studio, handlers, form)
    source = studio.sources.add(Image.new("RGB", (64, 64), "red"))
    typed = form | {"prompt": LINES, "panels": True, "preset": "ink", "source": source}
    typed |= {"task": "inpaint", "extend_left": 24}
    sent = run_command(handlers, event(what="send", picture=picture, task=task), typed)
    assert value(handlers, sent, "prompt") == "red apple"
    told = said(handlers, sent)
    assert "with its settings" in told["said"]
    back = run_command(handlers, event(what="earlier", key=told["undo"]), handlers.kept.load())
    for name in ("prompt", "panels", "preset", "source", "task", "extend_left"):
        assert value(handlers, back, name) == typed[name], name
    assert said(handlers, back)["source"]["sha256"] == source
    for words in ("a gate in the rain", "3 panels", "style Ink", "its source"):
        assert words in said(handlers, back)["said"]
    assert studio.form.load(FORM)["prompt"] == LINES
    # The sent form has taken its place among the earlier ones: nothing is lost by undoing either.
    assert [one["prompt"] for one in said(handlers, back)["earlier"]] == ["red apple"]


def test_a_painted_mask_that_a_recipe_replaces_comes_back_with_the_form(
    handlers: DrawingHandlers, studio: Studio, form: Form
):
    source = studio.sources.add(Image.new("RGB", (64, 64), "blue"))
    painted(studio, source)
    edit = form | {"task": "inpaint", "source": source, "prompt": "a repaired wall"}
    picture = drawn(studio, handlers, edit)
    painted(studio, source, light=128)  # painted since, with much care
    kept = handlers.kept.load()
    reused = said(handlers, run_command(handlers, event(what="reuse", picture=picture), kept))
    assert reused["source"]["mask"] == studio.gallery.get(picture).request.mask
    painted(studio, source)  # the page puts that mask in the place of the careful one
    undo = event(what="earlier", key=reused["undo"])
    back = said(handlers, run_command(handlers, undo, handlers.kept.load()))
    assert studio.sources.image(back["source"]["mask"]).getextrema() == (128, 128)


def test_earlier_forms_are_few_alike_only_once_and_gone_when_taken_back(
    handlers: DrawingHandlers, studio: Studio, form: Form
):
    picture = drawn(studio, handlers, form)
    send = event(what="send", picture=picture, task="img2img")
    for number in [*range(MOST_EARLIER + 3), 5, 5]:
        run_command(handlers, send, form | {"prompt": f"words {number}"})
    kept = [one["prompt"] for one in handlers.kept.earlier()]
    assert kept[:3] == ["words 5", "words 14", "words 13"]
    assert len(kept) == len(set(kept)) == MOST_EARLIER
    key = handlers.kept.earlier()[1]["key"]
    run_command(handlers, event(what="earlier", key=key), form | {"prompt": ""})
    gone = run_command(handlers, event(what="earlier", key=key), form | {"prompt": ""})
    assert "not kept any more" in said(handlers, gone)["error"]["sentence"]


def test_the_kept_form_has_the_seed_that_was_drawn_although_the_page_saves_late(
    handlers: DrawingHandlers, studio: Studio, form: Form
):
    late = form | {"prompt": LINES, "panels": True}  # as the page stands when Generate is clicked
    updates = handlers.generate(**late)
    seed = studio.generation.latest().job.request.seed
    told = handlers.remember(**(late | {"set_name": "Typed meanwhile"}))  # before it has the answer
    restored = handlers.restore()
    assert value(handlers, restored, "seed") == seed == value(handlers, updates, "seed")
    assert value(handlers, restored, "set_name") == "Typed meanwhile"
    assert value(handlers, told, "seed") == seed
    assert said(handlers, told)["turn"] == int(value(handlers, told, "turn")) > 0
    heard = late | {name: value(handlers, updates, name) for name in ("seed", "turn")}
    handlers.remember(**(heard | {"seed": 77}))  # typed after the answer: the artist's own
    assert value(handlers, handlers.restore(), "seed") == 77


FORMS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), min_size=1)


@given(first=FORMS, steps=st.lists(st.tuples(FORMS, st.booleans(), st.booleans()), max_size=6))
def test_no_save_takes_back_what_a_handler_set_since(first: dict, steps: list):
    kept = merged({}, first, ())
    page = dict(first, turn="0")  # what the page knows
    for values, by_handler, heard in steps:
        before = kept
        sent = page | values
        kept = merged(before, sent, tuple(values) if by_handler else ())
        for name, news in missed(page, before).items():
            if not (by_handler and name in values) and name != "turn":
                assert kept[name] == news
        page = sent | (missed(sent, kept) if heard else {})
        if heard and not by_handler:
            assert page == {name: kept[name] for name in page}


@pytest.mark.parametrize("tab", ["gallery", "rate", "teach", "inpaint"])
def test_the_open_tab_opens_again(handlers: DrawingHandlers, form: Form, tab: str):
    handlers.remember(**(form | {"tab": tab, "task": "inpaint"}))
    assert handlers.restore()[handlers.tabs].selected == tab


def test_parts_of_the_page_are_kept_and_others_refused(page: Served):
    filters = {"search": "unicorn", "starred": True}
    assert page.ask("/easel/kept/gallery").json() == {}
    page.ask("/easel/kept/gallery", "POST", body={"values": filters})
    assert page.ask("/easel/kept/gallery").json() == filters
    page.ask("/easel/kept/gallery", "POST", body={"values": {}})
    for path, body in (("/easel/kept/passwords", {"values": {}}), ("/easel/kept/gallery", {})):
        refused = page.ask(path, "POST", body=body)
        assert (refused.status, "malformed" in refused.json()["sentence"]) == (422, True)


def test_a_set_reads_in_the_order_of_its_panels(
    handlers: DrawingHandlers, studio: Studio, form: Form
):
    drawn(studio, handlers, form | {"prompt": LINES, "panels": True, "set_name": "Gate"})
    listed = next(r.endpoint for r in picture_routes(studio).routes if r.path == "/pictures")
    (one,) = studio.gallery.sets()
    shown = listed(set_id=one.id)["pictures"]
    assert [(picture["panel"], picture["prompt"]) for picture in shown] == [
        (number, line) for number, line in enumerate(LINES.splitlines(), start=1)
    ]


def test_an_extension_is_drawn_from_noise_by_words_of_its_own_and_the_mask_waits(
    handlers: DrawingHandlers, studio: Studio, form: Form
):
    source = studio.sources.add(Image.new("RGB", (64, 64), "green"))
    painted(studio, source)
    edit = form | {"task": "inpaint", "source": source, "extend_right": 64, "preset": "ink"}
    drawn(studio, handlers, edit)
    first = studio.gallery.page()[0]
    request = first.request
    assert (request.prompt, request.mask, request.extend) == ("", "", (0, 0, 64, 0))
    assert (request.strength, request.masked_content, request.resampling) == (1, "fill", 10)
    assert (request.sampler, request.eta, request.guidance_scale) == ("DDIM", 1, 1)
    both = edit | {"extend_mask": True, "extend_prompt": "snowy hills"}
    picture = drawn(studio, handlers, both)
    request = studio.gallery.get(picture).request
    assert request.prompt.startswith("snowy hills, ")  # in the style's words
    assert request.guidance_scale == form["guidance_scale"]
    assert studio.sources.image(request.mask).getextrema() == (255, 255)
    # Re-used on a form that was left meanwhile, it is drawn again as it was.
    later = form | {"prompt": "a list of panels", "strength": 0.4}
    reused = run_command(handlers, event(what="reuse", picture=first.id), later)
    kept = handlers.kept.load()
    assert (kept["prompt"], kept["strength"], kept["extend_right"]) == ("a list of panels", 0.4, 64)
    assert said(handlers, reused)["source"]["sha256"] == source
    again = drawn(studio, handlers, kept)
    assert studio.gallery.get(again).request == first.request


def test_the_tokens_of_panels_are_those_of_the_longest_line(
    handlers: DrawingHandlers, studio: Studio, form: Form
):
    drawn(studio, handlers, form)  # loads the model
    lines = "a\na red apple on a table\na b"
    counted = {
        name: said(handlers, handlers.remember(**(form | {"prompt": lines} | changes)))["tokens"]
        for name, changes in (("panels", {"panels": True}), ("together", {}))
    }
    line = said(handlers, handlers.remember(**(form | {"prompt": lines.splitlines()[1]})))
    assert counted["panels"]["used"] == line["tokens"]["used"] < counted["together"]["used"]
    assert [counted[name]["longest"] for name in counted] == [True, False]

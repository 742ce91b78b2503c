"""What the buttons of the page's script do to the form: re-use, send, vary, sample, swap, ..."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gradio as gr

from studio.core.errors import EaselError
from studio.core.picture import Picture
from studio.ui.adapters import adapters_text
from studio.ui.controls import EXTENDED, REQUEST_FIELDS, form_of, new_seed
from studio.ui.drawing import DrawingHandlers, Updates
from studio.ui.form import outcome
from studio.ui.tasks import EDITS, IMG2IMG, TASKS

VARIATIONS = 4  # pictures
STALE = "This page is older than the studio; please reload it."
Values = dict[str, Any]
Detail = Mapping[str, Any]
UNFRAMED = MappingProxyType({"frame": "", **dict.fromkeys(EXTENDED, 0)})


def run_command(handlers: DrawingHandlers, event: gr.EventData, values: Values) -> Updates:
    """Do what a button of the page's script asked for; see `_COMMANDS`."""
    detail = dict(event._data or {})
    run = _COMMANDS.get(str(detail.get("what")))
    if run is None:
        return {handlers.form.bridge: outcome(said=STALE)}
    return handlers.answering(lambda form: run(handlers, form, detail), values)


def _reuse(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    """Put all that made a picture back into the form: settings, source and mask."""
    picture = _picture(handlers, detail)
    recipe = _recipe(handlers, picture) | {"count": 1, "keep_seed": True}
    recipe |= {"parent": str(picture.parent_id or "")}
    said = "Its settings are in the form."
    return handlers.moved(values, recipe, mask=picture.request.mask, said=said)


def _send(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    """Make a picture the source of an edit, with its settings as far as they make sense there."""
    task = _task(detail)
    sent = handlers.studio.sending.picture(_whole(detail, "picture"), task)
    told = {"values": sent.values, "parent": sent.parent_id, "notices": list(sent.notices)}
    return _fill(handlers, values, {"task": task, **told})


def _fill(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    """Take over settings that were sent: a picture's, or those that a dropped file carries."""
    task = str(detail.get("task"))
    if task not in TASKS or not isinstance(detail.get("values"), Mapping):
        raise EaselError(STALE)
    sent = {n: v for n, v in detail["values"].items() if n in REQUEST_FIELDS and n != "count"}
    aim: Values = {"task": task, "preset": ""}
    if task in EDITS:
        # The form's size is that of drawings and crops; an edit is as large as its source.
        sent = {n: v for n, v in sent.items() if n not in ("width", "height")}
        source = str(detail["values"].get("source", ""))
        aim |= {"source": source, "parent": str(detail.get("parent") or ""), "size_from": "source"}
        aim |= UNFRAMED
    if "adapters" in detail["values"]:
        aim["adapters"] = adapters_text(detail["values"]["adapters"] or ())
    fitting = handlers.sound(values | sent | aim)
    said = " ".join([f"Sent to {TASKS[task].title} with its settings.", *_notices(detail)])
    return handlers.moved(values, {name: fitting[name] for name in (*sent, *aim)}, said=said)


def _notices(detail: Detail) -> list[str]:
    """Return the sentences on what could not be taken over as it was."""
    notices = detail.get("notices")
    return [str(notice) for notice in notices] if isinstance(notices, list) else []


def _earlier(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    """Bring back a form that a command replaced; the present one changes places with it."""
    found = handlers.kept.take_back(str(detail.get("key")))
    if found is None:
        raise EaselError("This earlier form is not kept any more.")
    form, mask = found
    back = {name: value for name, value in handlers.sound(form).items() if name in form}
    return handlers.moved(values, back, mask=mask, said=_back(handlers, back))


def _back(handlers: DrawingHandlers, form: Values) -> str:
    """Say what came back."""
    prompt = " ".join(str(form["prompt"] or "").split())
    words = [f"“{prompt[:59]}…”" if len(prompt) > 60 else f"“{prompt}”" if prompt else "no prompt"]
    panels = sum(map(bool, map(str.strip, str(form["prompt"] or "").splitlines())))
    if form["panels"] and panels > 1:
        words.append(f"{panels} panels")
    if preset := handlers.preset(form):
        words.append(f"style {preset.title}")
    if form["task"] in EDITS and form["source"]:
        words.append("its source and what is painted on it")
    return f"Back: {', '.join(words)}."


def _source(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    """Take a picture that the page has just uploaded as the source; '' takes the source away."""
    source = str(detail.get("sha256", ""))
    task = values["task"] if values["task"] in EDITS else IMG2IMG
    wanted = str(detail.get("task") or task)
    parent = str(detail.get("parent") or "")
    aim = {"task": wanted if wanted in EDITS else task, "source": source, "parent": parent}
    said = "" if source else "The source is taken away."
    return handlers.moved(values, aim | UNFRAMED, said=said)


def _unframe(handlers: DrawingHandlers, values: Values, _detail: Detail) -> Updates:
    """Extend the picture no further: what is painted is to be repainted."""
    return handlers.changed(values, dict(UNFRAMED))


def _vary(handlers: DrawingHandlers, _values: Values, detail: Detail) -> Updates:
    picture = _picture(handlers, detail)
    varied = picture.request.with_changes(seed=new_seed(), count=VARIATIONS)
    handlers.studio.generation.submit(varied, key=uuid.uuid4().hex, parent_id=picture.parent_id)
    return {handlers.form.bridge: outcome(submitted=True)}


def _sample(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    drawn = values | {"prompt": str(detail.get("prompt", "")), "panels": False, "preset": ""}
    if not drawn["keep_seed"]:
        drawn["seed"] = new_seed()
    handlers.kept.put_aside(values, {"prompt": drawn["prompt"], "preset": ""})
    return handlers.submit(drawn) | handlers.controls(
        {name: drawn[name] for name in ("prompt", "panels", "preset", "seed")}
    )


def _subject(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    words = (values["prompt"] or "").strip().rstrip(",")
    subject = str(detail.get("subject", ""))
    return handlers.changed(values, {"prompt": f"{words}, {subject}" if words else subject})


def _swap(handlers: DrawingHandlers, values: Values, _detail: Detail) -> Updates:
    return handlers.changed(values, {"width": values["height"], "height": values["width"]})


def _dice(handlers: DrawingHandlers, values: Values, _detail: Detail) -> Updates:
    return handlers.changed(values, {"seed": new_seed()})


def _keep(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    return handlers.changed(values, {"seed": _whole(detail, "seed"), "keep_seed": True})


def _adapters(handlers: DrawingHandlers, values: Values, detail: Detail) -> Updates:
    """Draw with these adapters from now on: the header's chip, or a run that was kept."""
    chosen = detail.get("adapters")
    if not isinstance(chosen, list):
        raise EaselError(STALE)
    return handlers.changed(values, {"adapters": adapters_text(chosen)})


_COMMANDS = MappingProxyType(
    {
        "adapters": _adapters,
        "earlier": _earlier,
        "unframe": _unframe,
        "reuse": _reuse,
        "send": _send,
        "fill": _fill,
        "source": _source,
        "vary": _vary,
        "sample": _sample,
        "subject": _subject,
        "swap": _swap,
        "dice": _dice,
        "seed": _keep,
    }
)


def _recipe(handlers: DrawingHandlers, picture: Picture) -> Values:
    """Return the form of a picture; a model that is gone leaves the form's own."""
    recipe = form_of(picture.request) | {"seed": picture.seed}
    recipe["variation_seed"] = picture.variation_seed
    if not any(entry.name == recipe["model"] for entry in handlers.studio.models.entries()):
        del recipe["model"]
    return recipe


def _picture(handlers: DrawingHandlers, detail: Detail) -> Picture:
    return handlers.studio.gallery.get(_whole(detail, "picture"))


def _task(detail: Detail) -> str:
    task = str(detail.get("task"))
    if task not in EDITS:
        raise EaselError(STALE)
    return task


def _whole(detail: Detail, name: str) -> int:
    value = detail.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise EaselError(STALE)
    return value

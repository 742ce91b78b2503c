"""What the text-to-image tab's events do: values -> request -> service -> updates."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.core.errors import EaselError, InvalidRequestError, ModelError
from studio.core.request import SAMPLERS, GenerationRequest
from studio.services.model_folder import ModelEntry
from studio.services.presets import Preset, name_for, suits
from studio.services.studio import Studio
from studio.services.tokens import TokenCounter
from studio.ui.controls import (
    PAGE_FIELDS,
    REQUEST_FIELDS,
    default_form,
    first_usable,
    new_seed,
    read_request,
)
from studio.ui.labels import NO_PRESET, SEED_POLICIES, UNTRAINED_MARK, UNTRAINED_NOTE
from studio.ui.routes import FORM, picture_of
from studio.ui.shapes import shape_choices, shape_of, shape_size
from studio.ui.txt2img import DrawingTab, outcome

Updates = dict[Component, Any]
VARIATIONS = 4  # pictures
PRESET_FIELDS = ("negative_prompt", "width", "height", "steps", "guidance_scale", "sampler")


@dataclass(frozen=True)
class DrawingHandlers:
    """The tab's event handlers. Each gets the controls' values under their fields' names."""

    studio: Studio
    tab: DrawingTab
    tokens: TokenCounter

    def generate(self, **values: Any) -> Updates:
        """Queue what the form asks for, with a new seed unless it is kept."""
        if not values["keep_seed"]:
            values["seed"] = new_seed()
        return self._answering(self._submit, values)

    def remember(self, **values: Any) -> Updates:
        """Keep the form, and say how long the prompt is and whether the size was trained."""

        def save(form: dict[str, Any]) -> Updates:
            self.studio.form.save(FORM, form)
            shape = self._controls({"shape": shape_of(form["width"], form["height"])})
            return shape | {self.tab.bridge: outcome(**self._remarks(form))}

        return self._answering(save, values)

    def command(self, event: gr.EventData, **values: Any) -> Updates:
        """Do what a button of the page's script asked for; see `_COMMANDS`."""
        detail = dict(event._data or {})
        run = _COMMANDS.get(str(detail.get("what")))
        if run is None:
            return {self.tab.bridge: outcome(said="This page is older than the studio; reload it.")}
        return self._answering(lambda form: run(self, form, detail), values)

    def restore(self) -> Updates:
        """Fill a page that was just opened with the form as it was left."""
        entries = self.studio.models.entries()
        values = self._sound_form(self.studio.form.load(FORM), entries)
        entry = next(e for e in entries if e.name == values["model"])
        controls = self.tab.controls
        return (
            self._controls(values)
            | self._choices(entry, values)
            | {
                controls.negative: gr.Accordion(open=bool(values["negative_prompt"])),
                controls.panel_options: gr.Group(visible=bool(values["panels"])),
                self.tab.bridge: outcome(**self._remarks(values)),
            }
        )

    def pick_shape(self, **values: Any) -> Updates:
        """Set the numbers that a shape has on this model."""
        entry = self._entry(values["model"])
        width, height = shape_size(values["shape"], entry)
        return self._changed(values, {"width": width, "height": height})

    def pick_model(self, **values: Any) -> Updates:
        """Mark what another model was not trained for, and take its own size if need be."""
        entry = self._entry(values["model"])
        changes: dict[str, Any] = {}
        if not entry.knows_size(values["width"] or 0, values["height"] or 1):
            first = default_form(entry)
            changes = {name: first[name] for name in ("width", "height", "shape")}
        return self._changed(values, changes) | self._choices(entry, values | changes)

    def pick_preset(self, **values: Any) -> Updates:
        """Take a style's size and steps into the form; its words join the prompt when drawing."""
        preset = self._preset(values)
        editor = self.tab.controls.style_editor
        if preset is None:
            return self._changed(values, {}) | {editor["title"]: "", editor["words"]: ""}
        given = {n: getattr(preset, n) for n in PRESET_FIELDS if getattr(preset, n) is not None}
        note = suits(preset, self._entry(values["model"]))
        return self._changed(values, given, said=note) | {
            editor["title"]: preset.title,
            editor["words"]: preset.prompt,
        }

    def save_style(self, title: str, words: str, **values: Any) -> Updates:
        """Save the words and the form's size, steps, guidance and sampler as an own style."""

        def save(form: dict[str, Any]) -> Updates:
            fields = {name: form[name] for name in PRESET_FIELDS if name != "negative_prompt"}
            negative = form["negative_prompt"] or None
            text = words if "{prompt}" in words else f"{{prompt}}, {words.strip(' ,')}"
            name = name_for(title)
            preset = Preset(name, title.strip(), prompt=text, negative_prompt=negative, **fields)
            saved = self.studio.presets.save(preset)
            return self._after_styles(form | {"preset": saved.name}, f"“{saved.title}” is saved.")

        return self._answering(save, values)

    def delete_style(self, **values: Any) -> Updates:
        """Delete the picked style, if it is an own one."""

        def delete(form: dict[str, Any]) -> Updates:
            self.studio.presets.delete(form["preset"] or "")
            return self._after_styles(form | {"preset": ""}, "The style is deleted.")

        return self._answering(delete, values)

    def show_panels(self, panels: bool) -> gr.Group:
        """Unfold the options of "one panel a line"."""
        return gr.Group(visible=panels)

    # ------------------------------------------------------------------ submitting

    def _submit(self, values: dict[str, Any]) -> Updates:
        request = read_request(values)
        key = uuid.uuid4().hex
        preset = self._preset(values)
        if values["panels"]:
            styled = request.with_changes(prompt=preset.prompt if preset else "")
            name = (values["set_name"] or "").strip() or "Panels"
            policy = values["seed_policy"] or "same"
            self.studio.generation.submit_panels(
                request.prompt.splitlines(), styled, seed_policy=policy, key=key, name=name[:80]
            )
        else:
            if preset:
                request = request.with_changes(prompt=preset.dress(request.prompt))
            self.studio.generation.submit(request, key=key)
        self.studio.form.save(FORM, values)
        return self._controls({"seed": values["seed"]}) | {self.tab.bridge: outcome(submitted=True)}

    def _answering(self, run: Callable[[dict[str, Any]], Updates], values: dict) -> Updates:
        """Run a handler's work; a refusal becomes the sentence at its field."""
        try:
            return run(values)
        except EaselError as error:
            field = error.field if isinstance(error, InvalidRequestError) else ""
            refusal = {"field": field, "sentence": str(error)}
            return {self.tab.bridge: outcome(error=refusal)}

    # ------------------------------------------------------------------ the script's commands

    def _reuse(self, values: dict[str, Any], detail: Mapping[str, Any]) -> Updates:
        picture = self.studio.gallery.get(_whole(detail, "picture"))
        recipe = {name: getattr(picture.request, name) for name in REQUEST_FIELDS}
        recipe |= {"seed": picture.seed, "count": 1, "keep_seed": True, "preset": ""}
        if not any(entry.name == recipe["model"] for entry in self.studio.models.entries()):
            del recipe["model"]
        changed = self._changed(values, recipe)
        return changed | {
            self.tab.controls.negative: gr.Accordion(open=bool(recipe["negative_prompt"]))
        }

    def _vary(self, _values: dict[str, Any], detail: Mapping[str, Any]) -> Updates:
        request = self.studio.gallery.get(_whole(detail, "picture")).request
        varied = request.with_changes(seed=new_seed(), count=VARIATIONS)
        self.studio.generation.submit(varied, key=uuid.uuid4().hex)
        return {self.tab.bridge: outcome(submitted=True)}

    def _sample(self, values: dict[str, Any], detail: Mapping[str, Any]) -> Updates:
        drawn = values | {"prompt": str(detail.get("prompt", "")), "panels": False, "preset": ""}
        if not drawn["keep_seed"]:
            drawn["seed"] = new_seed()
        return self._submit(drawn) | self._controls(
            {name: drawn[name] for name in ("prompt", "panels", "preset", "seed")}
        )

    def _subject(self, values: dict[str, Any], detail: Mapping[str, Any]) -> Updates:
        words = (values["prompt"] or "").strip().rstrip(",")
        subject = str(detail.get("subject", ""))
        return self._changed(values, {"prompt": f"{words}, {subject}" if words else subject})

    def _swap(self, values: dict[str, Any], _detail: Mapping[str, Any]) -> Updates:
        return self._changed(values, {"width": values["height"], "height": values["width"]})

    def _dice(self, values: dict[str, Any], _detail: Mapping[str, Any]) -> Updates:
        return self._changed(values, {"seed": new_seed()})

    def _keep(self, values: dict[str, Any], detail: Mapping[str, Any]) -> Updates:
        return self._changed(values, {"seed": _whole(detail, "seed"), "keep_seed": True})

    # ------------------------------------------------------------------ values and choices

    def _changed(self, values: dict[str, Any], changes: dict[str, Any], said: str = "") -> Updates:
        """Change some controls, keep the whole form, and say what is to be said about it."""
        form = values | changes
        form["shape"] = changes["shape"] = shape_of(form["width"], form["height"])
        self.studio.form.save(FORM, form)
        return self._controls(changes) | {
            self.tab.bridge: outcome(said=said, **self._remarks(form))
        }

    def _controls(self, values: Mapping[str, Any]) -> Updates:
        components = self.tab.controls.components
        return {components[name]: gr.update(value=value) for name, value in values.items()}

    def _choices(self, entry: ModelEntry, values: Mapping[str, Any]) -> Updates:
        components = self.tab.controls.components
        styles = [NO_PRESET] + [
            (preset.title + (UNTRAINED_MARK if suits(preset, entry) else ""), preset.name)
            for preset in self.studio.presets.all()
        ]
        return {
            components["shape"]: gr.Radio(choices=shape_choices(entry), value=values["shape"]),
            components["preset"]: gr.Radio(choices=styles, value=values["preset"]),
        }

    def _after_styles(self, form: dict[str, Any], said: str) -> Updates:
        changed = self._changed(form, {"preset": form["preset"]}, said=said)
        return changed | self._choices(self._entry(form["model"]), form)

    def _remarks(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what stands under the prompt and under the size."""
        prompt = values["prompt"] or ""
        preset = self._preset(values)
        counted = self.tokens.count(values["model"], preset.dress(prompt) if preset else prompt)
        remarks: dict[str, Any] = {"tokens": counted.__dict__ if counted else None}
        width, height = values["width"], values["height"]
        entry = next((e for e in self.studio.models.entries() if e.name == values["model"]), None)
        known = not (entry and width and height) or entry.knows_size(width, height)
        if entry:
            pictured = picture_of(entry) is not None
            remarks["model"] = {"name": entry.name, "title": entry.title, "pictured": pictured}
        return remarks | {"size_note": "" if known else UNTRAINED_NOTE}

    def _entry(self, name: str) -> ModelEntry:
        try:
            return self.studio.models.entry(name)
        except ModelError:
            return first_usable(self.studio.models.entries())

    def _preset(self, values: Mapping[str, Any]) -> Preset | None:
        wanted = values["preset"]
        return next((p for p in self.studio.presets.all() if p.name == wanted), None)

    def _sound_form(self, saved: Mapping[str, Any], entries: list[ModelEntry]) -> dict[str, Any]:
        """Return the kept form; what does not fit this version or these models gets its default."""
        names = {entry.name for entry in entries}
        wanted = saved.get("model")
        model = wanted if wanted in names else first_usable(entries).name
        first = default_form(next(entry for entry in entries if entry.name == model))
        fields = (*REQUEST_FIELDS, *PAGE_FIELDS)
        values = first | {name: saved[name] for name in fields if name in saved} | {"model": model}
        if values["sampler"] not in SAMPLERS:
            values["sampler"] = GenerationRequest().sampler
        if values["seed_policy"] not in {policy for _, policy in SEED_POLICIES}:
            values["seed_policy"] = first["seed_policy"]
        if self._preset(values) is None:
            values["preset"] = ""
        values["shape"] = shape_of(values["width"], values["height"])
        return values


_COMMANDS = MappingProxyType(
    {
        "reuse": DrawingHandlers._reuse,
        "vary": DrawingHandlers._vary,
        "sample": DrawingHandlers._sample,
        "subject": DrawingHandlers._subject,
        "swap": DrawingHandlers._swap,
        "dice": DrawingHandlers._dice,
        "seed": DrawingHandlers._keep,
    }
)


def _whole(detail: Mapping[str, Any], name: str) -> int:
    value = detail.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise EaselError("This page is older than the studio; please reload it.")
    return value


def wire(handlers: DrawingHandlers, demo: gr.Blocks) -> None:
    """Connect the tab's events. None is queued: they answer at once and the worker draws."""
    tab, controls = handlers.tab, handlers.tab.controls
    named, editor = controls.named(), controls.style_editor
    everything = [*named.values(), tab.bridge, controls.negative, controls.panel_options]
    everything += [editor["title"], editor["words"]]
    common = {
        "outputs": everything,
        "queue": False,
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    demo.load(handlers.restore, **common)
    tab.generate.click(handlers.generate, inputs_kwargs=named, trigger_mode="multiple", **common)
    tab.bridge.remember(
        handlers.remember, inputs_kwargs=named, trigger_mode="always_last", **common
    )
    tab.bridge.command(handlers.command, inputs_kwargs=named, trigger_mode="multiple", **common)
    named["shape"].input(handlers.pick_shape, inputs_kwargs=named, **common)
    named["model"].input(handlers.pick_model, inputs_kwargs=named, **common)
    named["preset"].input(handlers.pick_preset, inputs_kwargs=named, **common)
    edited = named | {"title": editor["title"], "words": editor["words"]}
    editor["save"].click(handlers.save_style, inputs_kwargs=edited, **common)
    editor["delete"].click(handlers.delete_style, inputs_kwargs=named, **common)
    named["panels"].input(
        handlers.show_panels,
        inputs_kwargs={"panels": named["panels"]},
        **(common | {"outputs": controls.panel_options}),
    )

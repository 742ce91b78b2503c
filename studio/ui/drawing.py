"""What the form's events do on every drawing tab: values -> request -> service -> updates."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.core.errors import EaselError, InvalidRequestError, ModelError
from studio.core.geometry import extension_to_aspect
from studio.services.model_folder import ModelEntry
from studio.services.presets import Preset, name_for, suits
from studio.services.studio import Studio
from studio.services.tokens import TokenCounter
from studio.ui.adapters import read_adapters
from studio.ui.controls import (
    EXTENDED,
    default_form,
    first_usable,
    new_seed,
    read_request,
    sound_form,
    upscalers,
)
from studio.ui.editor import read_edit, source_json
from studio.ui.form import Form, outcome
from studio.ui.kept import KeptForm, missed, turn_of
from studio.ui.labels import NO_PRESET, UNTRAINED_MARK, UNTRAINED_NOTE
from studio.ui.routes import picture_of
from studio.ui.shapes import shape_choices, shape_of, shape_size
from studio.ui.tasks import TXT2IMG

Updates = dict[Component, Any]
PRESET_FIELDS = ("negative_prompt", "width", "height", "steps", "guidance_scale", "sampler")


@dataclass(frozen=True)
class DrawingHandlers:
    """The form's event handlers. Each gets the controls' values under their fields' names."""

    studio: Studio
    form: Form
    tabs: gr.Tabs
    tokens: TokenCounter

    def generate(self, **values: Any) -> Updates:
        """Queue what the form asks for, with a new seed unless it is kept."""
        if not values["keep_seed"]:
            values["seed"] = new_seed()
        return self.answering(self.submit, values)

    def remember(self, **values: Any) -> Updates:
        """Keep the form, and say how long the prompt is and whether the size was trained."""

        def save(form: dict[str, Any]) -> Updates:
            kept = self.kept.save(form)
            chips = {"shape": shape_of(kept["width"], kept["height"]), "frame": self._frame(kept)}
            told = self.controls(missed(form, kept) | chips)
            return told | {self.form.bridge: outcome(**self._remarks(kept))}

        return self.answering(save, values)

    def restore(self) -> Updates:
        """Fill a page that was just opened with the form as it was left."""
        entries = self.studio.models.entries()
        values = self.sound(self.kept.load())
        entry = next(e for e in entries if e.name == values["model"])
        source = source_json(self.studio, values["source"], values["parent"])
        return (
            self.controls(values)
            | self.choices(entry, values)
            | self.unfolded(values)
            | {
                self.tabs: gr.Tabs(selected=values["tab"] or values["task"]),
                self.form.bridge: outcome(
                    restored=True,
                    source=source,
                    earlier=self.kept.earlier(),
                    **self._remarks(values),
                ),
            }
        )

    def pick_shape(self, **values: Any) -> Updates:
        """Set the numbers that a shape has on this model."""
        entry = self._entry(values["model"])
        width, height = shape_size(values["shape"], entry)
        return self.changed(values, {"width": width, "height": height})

    def pick_frame(self, **values: Any) -> Updates:
        """Set by how much the source grows on each side to have the frame's proportions."""

        def extend(form: dict[str, Any]) -> Updates:
            sides = self._extension(form["source"], form["frame"])
            return self.changed(form, dict(zip(EXTENDED, sides, strict=True)))

        return self.answering(extend, values)

    def pick_model(self, **values: Any) -> Updates:
        """Mark what another model was not trained for, and take its own size if need be."""
        entry = self._entry(values["model"])
        changes: dict[str, Any] = {}
        if not entry.knows_size(values["width"] or 0, values["height"] or 1):
            first = default_form(entry)
            changes = {name: first[name] for name in ("width", "height", "shape")}
        return self.changed(values, changes) | self.choices(entry, values | changes)

    def pick_preset(self, **values: Any) -> Updates:
        """Take a style's size and steps into the form; its words join the prompt when drawing.

        The negative prompt that another style brought goes with that style; a typed one stays.
        """
        preset = self.preset(values)
        editor = self.form.controls.style_editor
        brought = {one.negative_prompt for one in self.studio.presets.all()}
        given = {"negative_prompt": ""} if values["negative_prompt"] in brought else {}
        if preset is None:
            self.kept.put_aside(values, given)
            return self.changed(values, given) | {editor["title"]: "", editor["words"]: ""}
        given |= {n: getattr(preset, n) for n in PRESET_FIELDS if getattr(preset, n) is not None}
        note = suits(preset, self._entry(values["model"]))
        self.kept.put_aside(values, given)
        return self.changed(values, given, said=note) | {
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

        return self.answering(save, values)

    def delete_style(self, **values: Any) -> Updates:
        """Delete the picked style, if it is an own one."""

        def delete(form: dict[str, Any]) -> Updates:
            self.studio.presets.delete(form["preset"] or "")
            return self._after_styles(form | {"preset": ""}, "The style is deleted.")

        return self.answering(delete, values)

    def show_panels(self, panels: bool) -> gr.Group:
        """Unfold the options of "one panel a line"."""
        return gr.Group(visible=panels)

    @property
    def kept(self) -> KeptForm:
        """The form as it is kept, and those that it replaced."""
        return KeptForm(self.studio)

    # ------------------------------------------------------------------ submitting

    def submit(self, values: dict[str, Any]) -> Updates:
        """Queue what these values ask for and keep them. Raises EaselError."""
        edit = read_edit(self.studio, values)
        request = read_request(values, edit)
        key = uuid.uuid4().hex
        preset = self.preset(values)
        generation = self.studio.generation
        if values["panels"] and edit is None:
            styled = request.with_changes(prompt=preset.prompt if preset else "")
            name = (values["set_name"] or "").strip() or "Panels"
            policy = values["seed_policy"] or "same"
            generation.submit_panels(
                request.prompt.splitlines(), styled, seed_policy=policy, key=key, name=name[:80]
            )
        else:
            if preset and (request.prompt or not any(request.extend)):
                request = request.with_changes(prompt=preset.dress(request.prompt))
            generation.submit(request, key=key, parent_id=edit.parent_id if edit else None)
        turn = self.kept.save(values, ("seed",))["turn"]
        told = self.controls({"seed": values["seed"], "turn": turn})
        return told | {self.form.bridge: outcome(submitted=True)}

    def answering(self, run: Callable[[dict[str, Any]], Updates], values: dict) -> Updates:
        """Run a handler's work; a refusal becomes the sentence at its field."""
        try:
            return run(values)
        except EaselError as error:
            field = error.field if isinstance(error, InvalidRequestError) else ""
            refusal = {"field": field, "sentence": str(error)}
            return {self.form.bridge: outcome(error=refusal)}

    # ------------------------------------------------------------------ values and choices

    def changed(self, values: dict[str, Any], changes: dict[str, Any], **said: Any) -> Updates:
        """Change some controls, keep the whole form, and say what is to be said about it."""
        form = values | changes
        form["shape"] = changes["shape"] = shape_of(form["width"], form["height"])
        form = self.kept.save(form, changes)
        told = outcome(earlier=self.kept.earlier(), **said, **self._remarks(form))
        return self.controls(changes | {"turn": form["turn"]}) | {self.form.bridge: told}

    def moved(
        self, values: dict[str, Any], changes: dict[str, Any], mask: str = "", **said: Any
    ) -> Updates:
        """Change controls, and open their tab with their source and what is painted on it.

        What that takes away from the form is put aside; the page offers to undo it.
        """
        form = values | changes
        source = source_json(self.studio, form["source"], form["parent"], mask)
        changes = changes | {"tab": form["task"]}
        undo = self.kept.put_aside(values, changes, mask)
        updates = self.changed(values, changes, source=source, undo=undo, **said)
        return updates | self.unfolded(form) | {self.tabs: gr.Tabs(selected=form["task"])}

    def unfolded(self, values: Mapping[str, Any]) -> Updates:
        """Open what is folded where these values have something to show, and fold the rest."""
        controls = self.form.controls
        return {
            controls.negative: gr.Accordion(open=bool(values["negative_prompt"])),
            controls.extension: gr.Accordion(open=any(values[name] for name in EXTENDED)),
            controls.panel_options: gr.Group(visible=bool(values["panels"])),
        }

    def controls(self, values: Mapping[str, Any]) -> Updates:
        """Return the updates that put values into the controls of their names."""
        components = self.form.controls.components
        return {components[name]: gr.update(value=value) for name, value in values.items()}

    def choices(self, entry: ModelEntry, values: Mapping[str, Any]) -> Updates:
        """Return the chips of shapes and styles, with those marked that the model does not know."""
        components = self.form.controls.components
        styles = [NO_PRESET] + [
            (preset.title + (UNTRAINED_MARK if suits(preset, entry) else ""), preset.name)
            for preset in self.studio.presets.all()
        ]
        return {
            components["shape"]: gr.Radio(choices=shape_choices(entry), value=values["shape"]),
            components["preset"]: gr.Radio(choices=styles, value=values["preset"]),
        }

    def _extension(self, source: str, frame: str | None) -> tuple[int, int, int, int]:
        """Return by how much a source grows to a frame such as '16:9'; '' is as it is."""
        if not frame:
            return (0, 0, 0, 0)
        if not source:
            raise InvalidRequestError("source", "There is no source yet that could be extended.")
        across, down = map(int, frame.split(":"))
        return extension_to_aspect(self.studio.sources.size(source), (across, down))

    def _frame(self, values: Mapping[str, Any]) -> str | None:
        """Return the frame chip that the extension still has, None when it has none."""
        size = source_json(self.studio, values["source"] or "")
        sides = tuple(values[name] or 0 for name in EXTENDED)
        if not any(sides) or not size["sha256"]:
            return None if any(sides) else ""
        frame = values["frame"]
        return frame if frame and self._extension(values["source"], frame) == sides else None

    def _after_styles(self, form: dict[str, Any], said: str) -> Updates:
        changed = self.changed(form, {"preset": form["preset"]}, said=said)
        return changed | self.choices(self._entry(form["model"]), form)

    def _remarks(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return how a kept form stands: its turn, and what the page shows beside the controls."""
        remarks: dict[str, Any] = {"turn": turn_of(values), "tokens": self._counted(values)}
        width, height = values["width"], values["height"]
        entry = next((e for e in self.studio.models.entries() if e.name == values["model"]), None)
        known = not (entry and width and height) or entry.knows_size(width, height)
        if entry:
            pictured = picture_of(entry) is not None
            remarks["model"] = {"name": entry.name, "title": entry.title, "pictured": pictured}
        remarks["adapters"] = [asdict(use) for use in read_adapters(values["adapters"] or "")]
        return remarks | {"size_note": "" if known else UNTRAINED_NOTE}

    def _counted(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return how long the prompt is, of panels the longest; None until the model is loaded."""
        prompt, preset = values["prompt"] or "", self.preset(values)
        panels = bool(values["panels"]) and values["task"] == TXT2IMG
        lines = (prompt.splitlines() if panels else []) or [prompt]
        dressed = [preset.dress(line) if preset else line for line in lines]
        counted = self.tokens.longest(values["model"], dressed)
        return asdict(counted) | {"longest": len(lines) > 1} if counted else None

    def _entry(self, name: str) -> ModelEntry:
        try:
            return self.studio.models.entry(name)
        except ModelError:
            return first_usable(self.studio.models.entries())

    def preset(self, values: Mapping[str, Any]) -> Preset | None:
        """Return the picked style, None without one."""
        wanted = values["preset"]
        return next((p for p in self.studio.presets.all() if p.name == wanted), None)

    def sound(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Return form values; what does not fit this version or these models gets its default."""
        entries = self.studio.models.entries()
        wanted = saved.get("model")
        entry = next((e for e in entries if e.name == wanted), None) or first_usable(entries)
        values = sound_form(saved, entry, upscalers(self.studio))
        if self.preset(values) is None:
            values["preset"] = ""
        if not source_json(self.studio, values["source"])["sha256"]:
            values |= {"source": "", "parent": ""}
        return values

"""Which event of which component calls which handler. None is queued: they answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from studio.ui.commands import run_command
from studio.ui.drawing import DrawingHandlers, Updates


def wire(
    handlers: DrawingHandlers,
    demo: gr.Blocks,
    tabs: Mapping[str, gr.Tab],
    others: Mapping[str, gr.Tab],
) -> None:
    """Connect the form's events; `tabs` are the drawing tabs by the names of their tasks."""
    form, controls = handlers.form, handlers.form.controls
    named, editor = controls.named(), controls.style_editor
    everything = [*named.values(), form.bridge, controls.negative, controls.panel_options]
    everything.append(controls.extension)
    everything += [editor["title"], editor["words"], handlers.tabs]
    common = {
        "outputs": everything,
        "queue": False,
        "show_progress": "hidden",
        "api_visibility": "private",
    }

    def command(event: gr.EventData, **values: Any) -> Updates:
        return run_command(handlers, event, values)

    demo.load(handlers.restore, **common)
    form.generate.click(handlers.generate, inputs_kwargs=named, trigger_mode="multiple", **common)
    form.bridge.remember(
        handlers.remember, inputs_kwargs=named, trigger_mode="always_last", **common
    )
    form.bridge.command(command, inputs_kwargs=named, trigger_mode="multiple", **common)
    for name in ("shape", "model", "preset", "frame"):
        pick = getattr(handlers, f"pick_{name}")
        named[name].input(pick, inputs_kwargs=named, **common)
    edited = named | {"title": editor["title"], "words": editor["words"]}
    editor["save"].click(handlers.save_style, inputs_kwargs=edited, **common)
    editor["delete"].click(handlers.delete_style, inputs_kwargs=named, **common)
    named["panels"].input(
        handlers.show_panels,
        inputs_kwargs={"panels": named["panels"]},
        **(common | {"outputs": controls.panel_options}),
    )
    # In the page alone: a change of tabs waits for no server.
    for task, tab in tabs.items():
        both = common | {"outputs": [named["task"], named["tab"]]}
        tab.select(None, js=f"() => ['{task}', '{task}']", **both)
    for name, tab in others.items():
        tab.select(None, js=f"() => '{name}'", **(common | {"outputs": named["tab"]}))

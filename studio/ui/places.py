"""Fixed pieces of markup, and the empty places that the page's script fills.

Nothing that an artist typed ever comes here: what changes is put in by the script, as text nodes.
"""

from __future__ import annotations

import gradio as gr


def place(name: str) -> gr.HTML:
    """Leave an empty place with that id for `assets/page/easel.js` to fill."""
    return markup(f'<div id="{name}"></div>', elem_id=f"{name}-block")


def markup(html: str, elem_id: str | None = None, classes: tuple[str, ...] = ()) -> gr.HTML:
    """Build fixed markup, without Gradio's own styles for prose."""
    return gr.HTML(html, elem_id=elem_id, elem_classes=list(classes), apply_default_css=False)

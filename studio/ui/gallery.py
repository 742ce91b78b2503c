"""The gallery tab: one grid for every picture ever made, filled by the page's script.

No component for an image: the grid is one element, whose tiles are thumbnails from disk. Prompts
go into it as text nodes only, so nothing in them is ever executed.
"""

from __future__ import annotations

from studio.ui.places import place


def build_gallery() -> None:
    """Build the tab's one place; `assets/page/gallery.js` fills it."""
    place("easel-gallery")

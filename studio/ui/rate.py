"""The Rate tab, and the page that a rater's login shows instead of the whole studio.

Both leave one empty place; `assets/page/rate.js` fills it and talks to `/easel/rate`, never to
Gradio's queue. The rater's page is ours alone: no Gradio, so no configuration of the studio goes
out to people who are to judge blindly.
"""

from __future__ import annotations

from studio.ui.places import place
from studio.ui.theme import GREY, SURFACES, VERMILION

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Easel · Rate</title>
<link rel="icon" href="data:,">
<style>{style}</style>
<link rel="stylesheet" href="/easel/page/easel.css">
<link rel="stylesheet" href="/easel/page/rate.css">
<script type="module" src="/easel/page/rater.js"></script>
</head>
<body class="easel-rater-page">
<header id="easel-header"><div id="easel-name"><h1>Easel</h1></div>
<div id="easel-header-right-block"><div id="easel-header-right"></div></div></header>
<main><div id="easel-rate"></div></main>
</body>
</html>
"""
_FONT = """@font-face {{ font-family: 'IBM Plex Sans'; font-weight: {weight};
src: url('/static/fonts/IBMPlexSans/IBMPlexSans-{name}.woff2') format('woff2'); }}"""
_BASE = """*, ::before, ::after { box-sizing: border-box; }
body { margin: 0; min-height: 100dvh; font-family: var(--font); font-size: var(--text-md);
background: var(--body-background-fill); color: var(--body-text-color); }
body.easel-rater-page { overflow-y: auto; }
#easel-header { display: flex; }"""
_FIXED = (
    ("font", "'IBM Plex Sans', system-ui, sans-serif"),
    ("text-xs", "11.5px"),
    ("text-sm", "12.5px"),
    ("text-md", "13.5px"),
    ("text-lg", "15px"),
)


def build_rate() -> None:
    """Build the tab's one place; `assets/page/rate.js` fills it."""
    place("easel-rate")


def rater_page() -> str:
    """Return the whole page of a rater's login, with the theme's colours for light and dark."""
    light = {name: colours[0] for name, colours in SURFACES.items()}
    dark = {name: colours[1] for name, colours in SURFACES.items()}
    rules = (
        _FONT.format(weight=400, name="Regular"),
        _FONT.format(weight=700, name="Bold"),
        f"body {{ {_variables(dict(_FIXED))} {_variables(light)} }}",
        f"body.dark {{ {_variables(dark)} }}",
        _BASE,
    )
    return _PAGE.format(style="\n".join(rules))


def _variables(values: dict[str, str]) -> str:
    return " ".join(f"--{n.replace('_', '-')}: {_colour(v)};" for n, v in values.items())


def _colour(value: str) -> str:
    """Resolve the theme's references such as '*primary_600' to a colour."""
    if not value.startswith("*"):
        return value
    hue, _, shade = value[1:].rpartition("_")
    return getattr(VERMILION if hue == "primary" else GREY, f"c{shade}")

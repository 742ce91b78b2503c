"""One running studio for all tests of its outside; a studio and handlers without a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from studio.core.settings import Settings
from studio.services.studio import Studio, open_studio
from studio.services.tokens import TokenCounter
from studio.ui.controls import default_form
from studio.ui.drawing import DrawingHandlers
from studio.ui.form import build_form
from studio.ui.header import build_header
from tests.diffusion.tiny_model import build_tiny_model
from tests.ui.served import Served, served


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny model, 'tiny'."""
    folder = tmp_path_factory.mktemp("models")
    build_tiny_model(folder / "tiny")
    return folder


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Served]:
    """A running studio; its environment asks for a tunnel, which it must ignore (S6)."""
    data_dir = tmp_path_factory.mktemp("page") / "data"
    data_dir.mkdir()
    with served(data_dir, models_dir, environment={"GRADIO_SHARE": "True"}) as studio:
        yield studio


@pytest.fixture
def studio(settings: Settings, models_dir: Path) -> Iterator[Studio]:
    """A studio with the tiny model and no page."""
    opened = open_studio(replace(settings, models_dir=models_dir))
    yield opened
    opened.close()


@pytest.fixture
def handlers(studio: Studio) -> DrawingHandlers:
    entries = studio.models.entries()
    with gr.Blocks():
        form = build_form(build_header(entries), studio.models.entry("tiny"))
        tabs = gr.Tabs()
    return DrawingHandlers(studio, form, tabs, TokenCounter(studio.models))


@pytest.fixture
def form(studio: Studio) -> dict[str, Any]:
    return default_form(studio.models.entry("tiny")) | {"steps": 2, "prompt": "red apple"}

"""One running studio for all tests of its outside; a studio without a page for its handlers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.settings import Settings
from studio.services.studio import Studio, open_studio
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

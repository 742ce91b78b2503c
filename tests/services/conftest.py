"""What the tests of the services share: a studio with the tiny model on its shelf."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from studio.core.request import GenerationRequest
from studio.core.settings import Settings
from studio.services.studio import Studio, open_studio
from tests.diffusion.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --models-dir with the folder 'tiny' in it; nobody writes to it."""
    folder = tmp_path_factory.mktemp("models")
    build_tiny_model(folder / "tiny")
    return folder


@pytest.fixture
def tiny_settings(settings: Settings, tiny_models: Path) -> Settings:
    """The test's own data folder, and the tiny model to draw with."""
    return replace(settings, models_dir=tiny_models, device="cpu")


@pytest.fixture
def own_models(settings: Settings, tiny_models: Path) -> Settings:
    """As `tiny_settings`, with a copy of the model that the test may damage."""
    shutil.copytree(tiny_models / "tiny", settings.models_dir / "tiny")
    return replace(settings, device="cpu")


@pytest.fixture
def studio(tiny_settings: Settings) -> Iterator[Studio]:
    studio = open_studio(tiny_settings)
    yield studio
    studio.close()


@pytest.fixture
def request_tiny() -> GenerationRequest:
    """A picture that the tiny model draws in a moment."""
    return GenerationRequest(
        prompt="red apple", width=64, height=64, steps=3, seed=7, count=1, model="tiny"
    )

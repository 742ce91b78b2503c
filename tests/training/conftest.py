"""The tiny model as fine-tuning needs it: in fp32, with an adapter, on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from studio.diffusion.adapters import add_trainable_adapter
from studio.diffusion.model import LatentDiffusionModel, load_model
from tests.diffusion.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model; nobody writes there."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums in the same order everywhere, and no tests that wait for each other's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(folder: Path, one_thread: None) -> LatentDiffusionModel:
    """The tiny model with an adapter that changes nothing yet."""
    model = load_model(folder, "tiny", device="cpu", dtype=torch.float32)
    add_trainable_adapter(model.unet, 4, seed=0)
    return model

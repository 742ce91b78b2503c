"""Real, tiny models; the starter model too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from studio.core.settings import STARTER_MODEL
from studio.diffusion.model import LatentDiffusionModel, load_model
from tests.diffusion.tiny_model import build_tiny_model


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def tiny_folder(request, tmp_path_factory) -> Path:
    """A tiny diffusers folder, once for each kind of prediction."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A tiny diffusers folder that predicts v, as the starter model does."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(folder) -> LatentDiffusionModel:
    """The tiny model on the CPU in fp32."""
    return load_model(folder, "tiny", device="cpu", dtype=torch.float32)


@pytest.fixture
def fresh_tiny(folder) -> LatentDiffusionModel:
    """A tiny model of its own, for tests that break it."""
    return load_model(folder, "tiny", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def starter() -> LatentDiffusionModel:
    """The starter model on the CPU in fp32."""
    return load_model(STARTER_MODEL, "starter", device="cpu", dtype=torch.float32)


@pytest.fixture
def counted() -> Callable[[torch.nn.Module], list[int]]:
    """A function that counts a network's calls: the list gets the batch size of each."""

    def watch(network: torch.nn.Module) -> list[int]:
        rows: list[int] = []

        def note(_, inputs, keywords):
            tensor = inputs[0] if inputs else next(iter(keywords.values()))
            rows.append(len(tensor))

        network.register_forward_pre_hook(note, with_kwargs=True)
        return rows

    return watch

"""bf16 and compiling are used where they make training quicker, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from studio.training.hardware import PLAIN, find_hardware, multiplies_bf16
from studio.training.stages import autoencoder, clip
from tests.training.synthetic import make_corpus, word_bank
from tests.training.test_recipe import CLIP, LOOP, VAE

PROBES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@pytest.fixture(params=[False, True], ids=["without bf16", "with bf16"])
def able(request, monkeypatch) -> bool:
    """A CPU that has units for bf16, or none."""
    for name in PROBES:
        monkeypatch.setattr(torch.cpu, name, lambda: request.param)
    return request.param


@contextmanager
def products() -> Iterator[set[torch.dtype]]:
    """Collect the number formats in which networks that learn multiply matrices."""
    found: set[torch.dtype] = set()

    def look(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d) and torch.is_grad_enabled():
            found.add(output.dtype)

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        yield found
    finally:
        handle.remove()


def test_a_cpu_without_units_for_bf16_computes_in_fp32(able, tmp_path):
    corpus, loop = make_corpus(tmp_path / "corpus"), replace(LOOP, steps=1)
    expected = {torch.bfloat16} if able else {torch.float32}
    assert multiplies_bf16(torch.device("cpu")) == able
    with products() as found:
        next(autoencoder.train(corpus, replace(VAE, loop=loop), tmp_path / "autoencoder"))
    assert found == expected
    with products() as found:
        next(clip.train(corpus, word_bank(), replace(CLIP, loop=loop), tmp_path / "clip"))
    assert found == expected


def test_what_would_be_slower_is_left_out_though_it_is_asked_for(able):
    found = find_hardware("cpu", compiled=True, bf16=True)
    assert (found.compile, found.bf16) == (False, able)
    assert multiplies_bf16(torch.device("cuda"))
    assert not multiplies_bf16(torch.device("mps"))


def test_what_is_not_wanted_is_not_done(able):
    linear, x = nn.Linear(2, 2), torch.ones(1, 2)
    with PLAIN.quickest(wanted=False):
        assert linear(x).dtype == torch.float32
    with PLAIN.quickest():
        assert linear(x).dtype == (torch.bfloat16 if able else torch.float32)

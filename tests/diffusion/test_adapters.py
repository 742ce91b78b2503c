"""Adapters: on for a picture and off again, in both namings, as diffusers draws with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from studio.core.errors import ModelError
from studio.core.request import GenerationRequest
from studio.diffusion.adapter_files import LowRank, read_adapter, read_lineage, write_adapter
from studio.diffusion.adapters import (
    AppliedAdapters,
    adapter_off,
    adapter_parameters,
    adapter_state,
    add_trainable_adapter,
    continue_from,
    drawn_with,
    remove_trained_adapter,
    restore_adapter,
    save_adapter,
    trained_layers,
)
from studio.diffusion.model import load_model
from studio.diffusion.sampler import Drawn, sample
from tests.diffusion.tiny_model import build_tiny_model

REQUEST = GenerationRequest(prompt="red apple", width=64, height=64, steps=3, seed=5, count=1)
FILES = ("adapter.safetensors", "adapter.kohya.safetensors")
LINEAGE = {"base": "ab" * 32, "votes": 300}


def load(folder):
    return load_model(folder, "tiny", device="cpu", dtype=torch.float32)


def trained(model, folder, seed=0, rank=4):
    """A trained-looking adapter in `folder`, and the model as it was."""
    add_trainable_adapter(model.unet, rank, seed)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(model.unet):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=chance))
    save_adapter(model.unet, folder, LINEAGE)
    remove_trained_adapter(model.unet)
    return folder


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    return trained(load(folder), tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def other(folder, tmp_path_factory):
    return trained(load(folder), tmp_path_factory.mktemp("other"), seed=1, rank=2)


def picture(model, *adapters):
    events = drawn_with(model, adapters, sample(model, REQUEST))
    [drawn] = [event for event in events if isinstance(event, Drawn)]
    return np.asarray(drawn.image)


def prediction(unet):
    chance = torch.Generator().manual_seed(9)
    latents, features = (
        torch.randn(shape, generator=chance) for shape in ((2, 4, 8, 8), (2, 77, 16))
    )
    with torch.no_grad():
        return unet(latents, torch.tensor([3, 400]), features).sample


def test_a_new_adapter_changes_nothing_and_taken_off_leaves_no_trace(fresh_tiny):
    unet = fresh_tiny.unet
    before, names = prediction(unet), list(unet.state_dict())
    parameters = add_trainable_adapter(unet, 4, seed=0)
    assert [p.requires_grad for p in unet.parameters()].count(True) == len(parameters)
    assert torch.equal(prediction(unet), before)
    remove_trained_adapter(unet)
    assert torch.equal(prediction(unet), before)
    assert list(unet.state_dict()) == names


def test_the_seed_decides_a_new_adapter_and_the_global_chance_is_left_alone(folder):
    states, chance = [], torch.get_rng_state()
    for seed in (0, 0, 1):
        unet = load(folder).unet
        add_trainable_adapter(unet, 4, seed)
        states.append(torch.cat([t.flatten() for t in adapter_state(unet).values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert torch.equal(torch.get_rng_state(), chance)


def test_an_adapter_in_training_computes_what_peft_does_and_has_its_gradient(fresh_tiny):
    parameters = add_trainable_adapter(fresh_tiny.unet, 4, seed=0)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=chance))
    latents = torch.randn((2, 4, 8, 8), generator=chance)
    words = torch.randn((2, 7, fresh_tiny.unet.config.cross_attention_dim), generator=chance)

    def found():
        fresh_tiny.unet.zero_grad()
        made = fresh_tiny.unet(latents, torch.tensor([700, 20]), words).sample
        made.square().sum().backward()
        return made.detach(), torch.cat([p.grad.flatten() for p in parameters])

    ours = found()
    for module in fresh_tiny.unet.modules():
        module.__dict__.pop("forward", None)  # peft's own again
    theirs = found()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_a_model_with_its_trained_adapter_off_is_the_base(fresh_tiny):
    unet = fresh_tiny.unet
    before = prediction(unet)
    parameters = add_trainable_adapter(unet, 4, seed=0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)
    tuned = prediction(unet)
    with adapter_off(unet):
        assert torch.equal(prediction(unet), before)
    assert torch.equal(prediction(unet), tuned)
    assert not torch.equal(tuned, before)
    assert all(parameter.requires_grad for parameter in parameters)


@pytest.mark.parametrize("file", FILES)
def test_diffusers_draws_the_same_with_each_file(folder, adapter, file):
    model = load(folder)
    with_ours = AppliedAdapters(model, [(adapter / file, 0.7)])
    with with_ours.on():
        ours = prediction(model.unet)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(adapter, weight_name=file)
    pipeline.set_adapters(pipeline.get_list_adapters()["unet"], 0.7)
    theirs = prediction(pipeline.unet)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, prediction(load(folder).unet), atol=1e-3)


def test_a_file_that_diffusers_wrote_is_read_with_its_alpha(folder, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for network, layers in (
        (pipeline.unet, ["to_q", "conv1"]),
        (pipeline.text_encoder, ["q_proj"]),
    ):
        network.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=layers))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.2)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(pipeline.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(pipeline.text_encoder),
        unet_lora_adapter_metadata=pipeline.unet.peft_config["default"].to_dict(),
        text_encoder_lora_adapter_metadata=pipeline.text_encoder.peft_config["default"].to_dict(),
    )
    model = load(folder)
    applied = AppliedAdapters(model, [(tmp_path / "pytorch_lora_weights.safetensors", 1.0)])
    ids = torch.tensor([[1, 2, 3]])
    with applied.on(), torch.no_grad():
        assert torch.allclose(prediction(model.unet), prediction(pipeline.unet), atol=1e-5)
        ours, theirs = model.text_encoder(ids)[0], pipeline.text_encoder(ids)[0]
    assert torch.allclose(ours, theirs, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(model.text_encoder(ids)[0], theirs, atol=1e-4)


def test_strength_zero_is_byte_for_byte_the_base(tiny, adapter):
    assert np.array_equal(picture(tiny, (adapter / FILES[0], 0.0)), picture(tiny))


def test_a_picture_with_an_adapter_leaves_the_model_as_it_was(tiny, adapter):
    before = picture(tiny)
    tuned = picture(tiny, (adapter / FILES[0], 1.0))
    assert not np.array_equal(tuned, before)
    assert np.array_equal(picture(tiny), before)
    assert np.array_equal(picture(tiny, (adapter / FILES[1], 1.0)), tuned)


def test_a_picture_drawn_between_two_steps_of_a_tuned_one_is_the_base_s(tiny, adapter, other):
    base, tuned = picture(tiny), picture(tiny, (adapter / FILES[0], 1.0))
    events = drawn_with(tiny, [(adapter / FILES[0], 1.0)], sample(tiny, REQUEST))
    next(events)
    assert np.array_equal(picture(tiny), base)
    assert not np.array_equal(picture(tiny, (other / FILES[0], 1.0)), base)
    [drawn] = [event for event in events if isinstance(event, Drawn)]
    assert np.array_equal(np.asarray(drawn.image), tuned)


def test_an_abandoned_picture_takes_its_adapter_along(tiny, adapter):
    names = list(tiny.unet.state_dict())
    events = drawn_with(tiny, [(adapter / FILES[0], 1.0)], sample(tiny, REQUEST))
    next(events)
    events.close()
    assert list(tiny.unet.state_dict()) == names


def test_several_adapters_add_up_in_any_order(folder, adapter, other):
    model, uses = load(folder), [(adapter / FILES[0], 0.5), (other / FILES[1], -0.8)]
    found = []
    for order in (uses, uses[::-1]):
        applied = AppliedAdapters(model, order)
        with applied.on():
            found.append(prediction(model.unet))
        applied.remove()
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_lora_weights(adapter, weight_name=FILES[0], adapter_name="a")
    pipeline.load_lora_weights(other, weight_name=FILES[0], adapter_name="b")
    pipeline.set_adapters(["a", "b"], [0.5, -0.8])
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.allclose(found[0], prediction(pipeline.unet), atol=1e-5)


def test_equal_adapters_are_equal_files(folder, adapter, tmp_path):
    again = trained(load(folder), tmp_path)
    assert all((again / f).read_bytes() == (adapter / f).read_bytes() for f in FILES)


def test_the_header_says_where_an_adapter_comes_from(adapter):
    assert [read_lineage(adapter / file) for file in FILES] == [LINEAGE, LINEAGE]


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_training_goes_on_where_an_adapter_ended(fresh_tiny, adapter, strength):
    unet = fresh_tiny.unet
    add_trainable_adapter(unet, 4, seed=3)
    continue_from(unet, adapter / FILES[1], strength)
    stored = read_adapter(adapter / FILES[0], {"unet": trained_layers(unet)["unet"]})
    for name, change in trained_layers(unet)["unet"].items():
        assert torch.equal(change.up, stored["unet"][name].up * strength)
        assert torch.equal(change.down, stored["unet"][name].down)


def test_training_does_not_go_on_from_an_adapter_of_another_rank(fresh_tiny, other):
    add_trainable_adapter(fresh_tiny.unet, 4, seed=3)
    with pytest.raises(ModelError, match="another rank"):
        continue_from(fresh_tiny.unet, other / FILES[0])


def test_a_saved_state_of_another_rank_is_refused(folder):
    small, large = load(folder).unet, load(folder).unet
    add_trainable_adapter(small, 2, seed=0)
    add_trainable_adapter(large, 4, seed=0)
    with pytest.raises(ModelError, match="same rank"):
        restore_adapter(large, adapter_state(small))


LAYERS = {"unet": ("mid.to_q", "mid.to_out.0", "down.0.conv"), "text_encoder": ("layers.0.q_proj",)}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ranks=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    alpha=st.floats(0.25, 32),
    seed=st.integers(0, 99),
)
def test_what_is_written_in_either_naming_reads_back_the_same(tmp_path_factory, ranks, alpha, seed):
    chance, numbers = torch.Generator().manual_seed(seed), iter(ranks)
    layers = {}
    for network, names in LAYERS.items():
        for name in names:
            rank, tail = next(numbers), (3, 3) if "conv" in name else ()
            down = torch.randn((rank, 6, *tail), generator=chance)
            up = torch.randn((7, rank, *(1 for _ in tail)), generator=chance)
            layers.setdefault(network, {})[name] = LowRank(down, up, alpha)
    for path in write_adapter(layers, tmp_path_factory.mktemp("adapter"), {}):
        found = read_adapter(path, LAYERS)
        assert {n: set(c) for n, c in found.items()} == {n: set(c) for n, c in layers.items()}
        for network, changes in layers.items():
            for name, change in changes.items():
                got = found[network][name]
                scale = got.alpha / got.rank / (change.alpha / change.rank)
                assert torch.equal(got.down, change.down)
                assert torch.allclose(got.up * scale, change.up, rtol=1e-5)


def test_the_oldest_naming_is_read_too(adapter, tmp_path):
    """diffusers' own conversion of kohya's file names layers as its first releases did."""
    converted, alphas = StableDiffusionPipeline.lora_state_dict(adapter, weight_name=FILES[1])
    assert any(".processor.to_q_lora." in key for key in converted)
    assert set(alphas.values()) == {4.0}
    save_file(converted, tmp_path / "old.safetensors")
    names = [k.removesuffix(".lora_A.weight")[5:] for k in load_file(adapter / FILES[0])]
    old = read_adapter(tmp_path / "old.safetensors", {"unet": names})["unet"]
    new = read_adapter(adapter / FILES[0], {"unet": names})["unet"]
    assert old.keys() == new.keys()
    for name, change in new.items():
        assert torch.equal(old[name].down, change.down)
        assert torch.equal(old[name].up, change.up)


def changed(tensors, path, metadata=None):
    save_file(tensors, path, metadata=metadata)
    return path


def cut(tensors, part):
    return {k: v[part].contiguous() if "lora_A" in k else v for k, v in tensors.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {k.replace("mid_", "middle_"): v for k, v in t.items()}, "does not fit"),
        (lambda t: {k: v for k, v in t.items() if "lora_B" not in k}, "one half"),
        (lambda t: t | {"unet.conv_in.hada_w1_a": torch.ones(2, 2)}, "not a plain LoRA"),
        (lambda t: cut(t, (slice(None), slice(3))), "another size"),
        (lambda t: cut(t, (slice(3),)), "do not belong"),
        (lambda t: {k: v * float("nan") for k, v in t.items()}, "not numbers"),
        (lambda t: {}, "does not fit"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_and_the_model_stays_whole(
    tiny, adapter, tmp_path, change, words
):
    before, names = prediction(tiny.unet), list(tiny.unet.state_dict())
    path = changed(change(load_file(adapter / FILES[0])), tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match=words):
        AppliedAdapters(tiny, [(adapter / FILES[0], 1.0), (path, 1.0)])
    assert list(tiny.unet.state_dict()) == names
    assert torch.equal(prediction(tiny.unet), before)


def test_an_adapter_of_a_wider_model_is_refused(tmp_path, adapter):
    wide = load(build_tiny_model(tmp_path / "wide"))
    wide.unet = type(wide.unet).from_config({**wide.unet.config, "block_out_channels": (32, 24)})
    with pytest.raises(ModelError, match="another size"):
        AppliedAdapters(wide, [(adapter / FILES[0], 1.0)])


def test_a_damaged_file_is_refused(tiny, adapter, tmp_path):
    whole = (adapter / FILES[0]).read_bytes()
    for content in (whole[:-1], b"", b"\xff" * 64, whole[:40]):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="damaged"):
            AppliedAdapters(tiny, [(path, 1.0)])


@pytest.mark.parametrize("text", ["[]", "{", "[" * 5000, json.dumps({"unet.lora_alpha": "x"})])
def test_a_strange_header_is_no_reason_to_fail(adapter, tmp_path, text):
    header = {"lora_adapter_metadata": text, "easel.lineage": text}
    path = changed(load_file(adapter / FILES[0]), tmp_path / "a.safetensors", header)
    names = [k.removeprefix("unet.").removesuffix(".lora_A.weight") for k in load_file(path)]
    found = read_adapter(path, {"unet": names})
    assert {change.alpha for change in found["unet"].values()} == {4.0}
    assert isinstance(read_lineage(path), dict)

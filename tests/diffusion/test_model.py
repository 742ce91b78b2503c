"""Loading a model folder: what is accepted, and the sentence of every refusal."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from studio.core.errors import ModelError
from studio.core.settings import REPOSITORY
from studio.diffusion.device import choose_device, choose_dtype, is_out_of_memory
from studio.diffusion.model import hash_model, load_model
from studio.diffusion.safetensors_header import MAX_HEADER_BYTES, check_safetensors
from tests.diffusion.tiny_model import build_tiny_model

UNET = Path("unet/diffusion_pytorch_model.safetensors")


@pytest.fixture
def own(folder, tmp_path) -> Path:
    """A copy of the tiny folder that a test may break."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        load_model(folder, "broken", device="cpu")
    sentence = str(error.value)
    assert sentence.endswith((".", ")."))
    return sentence


def test_model_is_loaded_with_its_native_size_and_hash(folder, tiny):
    assert tiny.native_size == (64, 64)
    assert tiny.vae_scale_factor == 8
    assert tiny.sha256 == hash_model(folder)
    assert tiny.latent_shape(128, 64) == (4, 8, 16)
    assert not tiny.unet.training and not any(p.requires_grad for p in tiny.unet.parameters())


def test_building_the_tiny_model_twice_gives_the_same_model(folder, tmp_path):
    assert hash_model(build_tiny_model(tmp_path / "again")) == hash_model(folder)


def test_hash_changes_with_any_weight_and_not_with_the_name(folder, own, tmp_path):
    assert hash_model(own) == hash_model(folder)
    weights = load_file(own / UNET)
    weights["conv_in.bias"][0] += 1e-3
    save_file(weights, own / UNET)
    assert hash_model(own) != hash_model(folder)


def test_half_precision_weights_draw_in_full_precision(own):
    """Some libraries keep a text encoder in the file's fp16 beside an fp32 U-Net."""
    for file in own.rglob("*.safetensors"):
        save_file({k: v.half() for k, v in load_file(file).items()}, file, {"format": "pt"})
    edit_json(own / "text_encoder" / "config.json", dtype="float16")
    model = load_model(own, "half", device="cpu", dtype=torch.float32)
    for network in (model.unet, model.vae, model.text_encoder):
        assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_bfloat16_is_for_the_unet_alone(folder):
    model = load_model(folder, "tiny", device="cpu", dtype=torch.bfloat16)
    assert model.unet.dtype == torch.bfloat16
    assert model.vae.dtype == model.text_encoder.dtype == torch.float32


def test_fp16_variant_files_are_found(own):
    for file in own.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    assert load_model(own, "variant", device="cpu").native_size == (64, 64)


def test_sd_1_5_style_safety_checker_entry_is_ignored(own):
    edit_json(
        own / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
    )
    assert load_model(own, "sd", device="cpu").name == "sd"


def test_a_cpu_never_draws_in_fp16():
    assert choose_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)
    assert choose_dtype(torch.device("cpu"), training=True) == torch.float32


def test_unknown_device_is_refused_with_a_sentence():
    with pytest.raises(ModelError, match="cpu, cuda or mps"):
        choose_device("abacus")


def test_missing_folder(tmp_path):
    assert "no model folder" in refusal(tmp_path / "nowhere")


def test_empty_folder(tmp_path):
    assert "no model_index.json" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["model.ckpt", "v1.PT", "pytorch_model.bin"])
def test_pickled_checkpoint_points_to_conversion(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x04")
    assert "Convert the model" in refusal(tmp_path)


def test_component_with_pickled_weights_points_to_conversion(own):
    (own / UNET).rename(own / "unet" / "diffusion_pytorch_model.bin")
    assert "Convert the model" in refusal(own)


@pytest.mark.parametrize("where", ["pipeline.py", "unet/unet.py", "a/b/c.py"])
def test_python_files_are_refused(own, where):
    (own / where).parent.mkdir(parents=True, exist_ok=True)
    (own / where).write_text("raise SystemExit")
    assert "Python files" in refusal(own)


@pytest.mark.parametrize(
    "changes",
    [
        {"unet": ["evil", "UNet2DConditionModel"]},
        {"unet": ["diffusers", "SD3Transformer2DModel"]},
        {"text_encoder": ["transformers", "AutoModel"]},
        {"vae": "AutoencoderKL"},
        {"vae": None},
        {"extra": ["os", "system"]},
        {"safety_checker": ["evil.module", "X"]},
        {"scheduler": [{}, "X"]},
    ],
)
def test_foreign_classes_are_refused(own, changes):
    edit_json(own / "model_index.json", **changes)
    assert "names" in refusal(own)


def test_other_families_are_named(own):
    edit_json(own / "model_index.json", _class_name="StableDiffusionXLPipeline")
    assert "StableDiffusionXLPipeline" in refusal(own)


@pytest.mark.parametrize(
    "missing",
    [
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        UNET.as_posix(),
        "text_encoder/model.safetensors",
    ],
)
def test_missing_file_is_named(own, missing):
    (own / missing).unlink()
    assert Path(missing).name.split(".")[0] in refusal(own)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "tokenizer/vocab.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\x01", "[" * 100_000])
def test_broken_json_is_refused(own, file, text):
    (own / file).write_text(text)
    assert "damaged" in refusal(own)


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_truncated_weights_are_refused(own, size):
    content = (own / UNET).read_bytes()
    (own / UNET).write_bytes(content[:size])
    assert "damaged" in refusal(own)


@pytest.mark.parametrize(
    ("part", "changes", "word"),
    [
        ("unet", {"cross_attention_dim": 24}, "belong together"),
        ("unet", {"in_channels": 8}, "inpainting"),
        ("unet", {"sample_size": 10**9}, "range"),
        ("unet", {"sample_size": None}, "range"),
        ("unet", {"layers_per_block": 10**6}, "range"),
        ("unet", {"block_out_channels": [10**9]}, "range"),
        ("unet", {"block_out_channels": [16, 32]}, "Copy the folder"),
        ("unet", {"block_out_channels": "wide"}, "Copy the folder"),
        ("unet", {"down_block_types": ["NoSuchBlock", "DownBlock2D"]}, "Copy the folder"),
        ("vae", {"latent_channels": 16}, "channels"),
        ("vae", {"block_out_channels": []}, "range"),
        ("vae", {"norm_num_groups": 3}, "Copy the folder"),
        ("text_encoder", {"num_hidden_layers": 3}, "missing"),
        ("text_encoder", {"vocab_size": 10}, "Copy the folder"),
    ],
)
def test_configuration_that_does_not_fit_is_refused(own, part, changes, word):
    edit_json(own / part / "config.json", **changes)
    assert word in refusal(own)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(own, part, value):
    file = next((own / part).glob("*.safetensors"))
    weights = load_file(file)
    next(iter(weights.values())).flatten()[0] = value
    save_file(weights, file, {"format": "pt"})
    assert "not numbers" in refusal(own)


def test_missing_weights_are_never_filled_with_noise(own):
    weights = load_file(own / UNET)
    del weights["conv_in.weight"]
    save_file(weights, own / UNET, {"format": "pt"})
    assert "conv_in.weight" in refusal(own)


def test_shards_outside_the_folder_are_refused(own):
    (own / UNET).unlink()
    index = own / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../x.safetensors"}}))
    assert "outside" in refusal(own)


def write_safetensors(path: Path, header, payload: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + payload)
    return path


GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def test_well_formed_safetensors_pass(tmp_path):
    check_safetensors(write_safetensors(tmp_path / "x", GOOD, bytes(8)))
    check_safetensors(write_safetensors(tmp_path / "y", {"__metadata__": {"k": "v"}}))


@pytest.mark.parametrize(
    ("header", "payload", "length"),
    [
        (GOOD, bytes(7), None),
        (GOOD, bytes(9), None),
        (GOOD, bytes(8), 2**63),
        (GOOD, bytes(8), 10**6),
        (b"[]", b"", None),
        (b'{"a":1}', b"", None),
        (b"\xff\xfe", b"", None),
        (b'{"a":{},"a":{}}', b"", None),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8), None),
        ({"a": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}}, bytes(8), None),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, bytes(16), None),
        ({"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}, bytes(8), None),
    ],
)
def test_malformed_safetensors_are_refused(tmp_path, header, payload, length):
    path = write_safetensors(tmp_path / "x.safetensors", header, payload, length)
    with pytest.raises(ModelError, match="damaged"):
        check_safetensors(path)


def test_header_beyond_the_cap_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", MAX_HEADER_BYTES + 1))
    with path.open("r+b") as stream:
        stream.truncate(MAX_HEADER_BYTES + 9)
    with pytest.raises(ModelError, match="too large"):
        check_safetensors(path)


def test_too_many_tensors_are_refused(tmp_path):
    header = {str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)}
    with pytest.raises(ModelError, match="20,000"):
        check_safetensors(write_safetensors(tmp_path / "x.safetensors", header))


@settings(max_examples=150)
@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_any_flipped_header_byte_is_refused_or_harmless(tmp_path_factory, position, byte):
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    save_file({"weight": torch.zeros(3, 2), "bias": torch.zeros(5)}, path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content)
    try:
        check_safetensors(path)
    except ModelError as error:
        assert str(error).endswith(".")


def test_checking_a_folder_needs_no_torch(folder):
    program = (
        "import sys; from pathlib import Path\n"
        "from studio.diffusion.model_files import open_model_folder\n"
        "size = open_model_folder(Path(sys.argv[1])).native_size\n"
        "sys.exit('torch' in sys.modules or size != (64, 64))"
    )
    assert subprocess.run([sys.executable, "-c", program, folder], cwd=REPOSITORY).returncode == 0


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"))
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

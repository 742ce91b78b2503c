"""A tiny diffusers folder with random weights: the shape of a real checkpoint, under 1 MB."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from studio.training.stages.starter import model_index

TINY_SIZE = 64  # pixels a side
_WORDS = ("apple", "castle", "cat", "dog", "house", "red", "blue", "sketch", "tree", "flat")
_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_tiny_model(
    folder: Path, prediction_type: str = "v_prediction", seed: int = 0, in_channels: int = 4
) -> Path:
    """Write a deterministic tiny model into `folder` and return it; 9 channels: for inpainting."""
    folder.mkdir(parents=True, exist_ok=True)
    rng_state = torch.get_rng_state()
    torch.manual_seed(seed)
    vocabulary_size = _write_tokenizer(folder / "tokenizer")
    _text_encoder(vocabulary_size).save_pretrained(folder / "text_encoder")
    _unet(in_channels).save_pretrained(folder / "unet")
    _vae().save_pretrained(folder / "vae")
    torch.set_rng_state(rng_state)
    DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction_type,
        steps_offset=1,
        clip_sample=False,
        timestep_spacing="leading",
        set_alpha_to_one=False,
    ).save_pretrained(folder / "scheduler")
    index = model_index() | {
        "_class_name": f"StableDiffusion{'Inpaint' * (in_channels == 9)}Pipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=1), "utf-8")
    return folder


def _unet(in_channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=TINY_SIZE // 8,
        in_channels=in_channels,
        block_out_channels=(16, 24),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=TINY_SIZE,
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
    )


def _text_encoder(vocabulary_size: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=vocabulary_size - 2,
            eos_token_id=vocabulary_size - 1,
            pad_token_id=vocabulary_size - 1,
        )
    )


def _write_tokenizer(folder: Path) -> int:
    """Bytes, bytes at a word's end, and merges for a few words; returns the vocabulary's size."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = _byte_letters()
    merges: list[str] = []
    for word in _WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = f"{parts[0]} {parts[1]}"
            parts = [parts[0] + parts[1], *parts[2:]]
            if merge not in merges:
                merges.append(merge)
    tokens = [*letters, *(f"{c}</w>" for c in letters), *(m.replace(" ", "") for m in merges)]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*tokens, _START, _END]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": _END}
    config |= {"bos_token": _START, "eos_token": _END, "unk_token": _END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return len(vocabulary)


def _byte_letters() -> list[str]:
    """The printable letter for each byte in byte-level BPE (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]

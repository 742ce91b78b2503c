"""The CLIP pair: a tokenizer that loses nothing, and the loss that transformers computes."""

from __future__ import annotations

import math
import re
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from studio.training import clip
from studio.training.clip import ClipConfig, ClipPair, caption, contrastive_loss, tokenize
from studio.training.corpus import Entry
from tests.training.synthetic import make_corpus

TINY = ClipConfig(
    width=32, layers=2, heads=2, projection=16, vocabulary=620, patch=32, picture_size=64
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    corpus = make_corpus(folder / "corpus", size=16)
    return folder, corpus, clip.train_tokenizer(corpus, TINY, folder)


@pytest.fixture(scope="module")
def tokenizer(trained) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(trained[0] / "tokenizer", local_files_only=True)


def plain(text: str) -> str:
    """What CLIP's tokenizer keeps of a text: not its capitals, not its spaces."""
    lowered = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    return re.sub(r"\s+", "", lowered.replace("ς", "σ"))


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_in_any_script_is_encoded_and_decoded_to_itself(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert all(0 <= i < len(tokenizer) for i in ids)
    assert plain(tokenizer.decode(ids[1:-1])) == plain(text)


def test_words_of_the_corpus_became_tokens_of_their_own(tokenizer):
    assert tokenizer.tokenize("Red apple, 3D render") == [
        "red</w>",
        "apple</w>",
        ",</w>",
        "3</w>",
        "d</w>",
        "render</w>",
    ]
    assert len(tokenizer) <= TINY.vocabulary


def test_a_saved_tokenizer_is_the_trained_one(trained, tokenizer):
    text = "a PENCIL sketch of 猫 & dogs"
    assert tokenizer(text).input_ids == trained[2](text).input_ids
    assert (tokenizer.model_max_length, tokenizer.pad_token) == (77, "<|endoftext|>")


def test_training_the_tokenizer_twice_gives_the_same_files(trained, tmp_path):
    folder, corpus, _ = trained
    clip.train_tokenizer(corpus, TINY, tmp_path)
    for name in ("vocab.json", "merges.txt"):
        again = (tmp_path / "tokenizer" / name).read_bytes()
        assert again == (folder / "tokenizer" / name).read_bytes()


def test_captions_are_cut_and_padded_to_77_tokens(tokenizer):
    ids = tokenize(tokenizer, ["cat", "cat " * 200])
    assert ids.shape == (2, 77)
    assert ids[0, 2:].eq(tokenizer.eos_token_id).all()
    assert ids[1, -1] == tokenizer.eos_token_id
    assert ids[1, 1:-1].eq(ids[0, 1]).all()
    assert tokenize(tokenizer, ["cat", "cat dog"], trim=True).shape == (2, 4)


@pytest.fixture(scope="module")
def clip_model() -> CLIPModel:
    """Transformers' own CLIP in the shape of our pair, with random weights."""
    torch.manual_seed(0)
    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    shared |= {"intermediate_size": 128}
    text = shared | {"vocab_size": 620, "bos_token_id": 618, "eos_token_id": 619}
    vision = shared | {"image_size": 64, "patch_size": 32}
    config = CLIPConfig(
        text_config=text | {"pad_token_id": 619},
        vision_config=vision,
        projection_dim=16,
        logit_scale_init_value=math.log(TINY.temperature),
    )
    return CLIPModel(config).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 618, (5, 9), generator=generator)
    ids[:, 0], ids[:, -1] = 618, 619
    return ids, torch.randn(5, 3, 64, 64, generator=generator)


@torch.no_grad()
def test_the_loss_is_the_one_of_transformers_clip(clip_model, batch):
    found = clip_model(input_ids=batch[0], pixel_values=batch[1], return_loss=True)
    torch.testing.assert_close(contrastive_loss(found.logits_per_text), found.loss)
    torch.testing.assert_close(contrastive_loss(found.logits_per_image), found.loss)


@torch.no_grad()
def test_the_pair_with_clips_weights_gives_clips_similarities(clip_model, batch):
    pair = ClipPair(TINY, 620, 619).eval()
    theirs = clip_model.state_dict()
    for tower, part in ((pair.text, "text"), (pair.vision, "vision")):
        prefix = ("visual" if part == "vision" else part) + "_projection.weight"
        own = {k: v for k, v in theirs.items() if k.startswith(f"{part}_model.")}
        tower.load_state_dict(own | {prefix: theirs[prefix]})
    expected = clip_model(input_ids=batch[0], pixel_values=batch[1]).logits_per_text
    torch.testing.assert_close(pair(*batch), expected)


def test_a_pair_that_matches_as_well_is_no_negative():
    logits = torch.tensor([[3.0, 2.0, 0.5], [1.0, 4.0, 0.0], [0.0, 1.0, 2.0]])
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True

    def surprise(right: float, others: list[float]) -> float:
        return math.log(math.exp(right) + sum(map(math.exp, others))) - right

    rows = surprise(3, [0.5]) + surprise(4, [0]) + surprise(2, [0, 1])
    columns = surprise(3, [0]) + surprise(4, [1]) + surprise(2, [0.5, 0])
    assert contrastive_loss(logits, same).item() == pytest.approx((rows + columns) / 6)
    unmasked = contrastive_loss(logits)
    assert contrastive_loss(logits, torch.eye(3, dtype=torch.bool)) == unmasked
    assert unmasked > contrastive_loss(logits, same)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_caption_begins_with_the_subject_and_ends_with_the_style(seed):
    entry = Entry("red apple", "3d render", ("apple", "fruit", "red", "food", "diet"), "MIT")
    subject, *tags, style = caption(entry, np.random.default_rng(seed)).split(", ")
    assert (subject, style) == ("red apple", "3d render")
    assert len(tags) in (0, 3) and len(set(tags)) == len(tags)
    assert set(tags) <= {"fruit", "food", "diet"}  # 'apple' and 'red' are said already


def test_half_of_the_captions_carry_no_tags():
    entry = Entry("cat", "3d render", ("pet",), "MIT")
    choose = np.random.default_rng(0)
    plain_ones = sum(caption(entry, choose) == "cat, 3d render" for _ in range(2000))
    assert 900 < plain_ones < 1100


def test_what_is_moved_and_scaled_stays_on_white():
    white = np.full((6, 64, 64, 3), 255, np.uint8)
    augmented = clip._augment(white, np.random.default_rng(0))
    torch.testing.assert_close(augmented, torch.ones(6, 3, 64, 64))

"""The CLIP pair: a tokenizer that loses nothing, and the loss that transformers computes."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from studio.training.dataset.scenes import paint_bank
from studio.training.stages import clip, clip_check, towers
from studio.training.stages.clip_check import told_apart, unseen_words
from studio.training.stages.towers import (
    ClipConfig,
    ClipPair,
    composition_loss,
    contrastive_loss,
    distillation_loss,
    tokenize,
)
from tests.training.synthetic import make_corpus, word_bank

TINY = ClipConfig(
    width=32, layers=2, heads=2, projection=16, vocabulary=620, patch=32, picture_size=64
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    corpus = make_corpus(folder / "corpus", size=16)
    return folder, corpus, towers.train_tokenizer(texts(corpus), TINY, folder)


def texts(corpus) -> list[str]:
    bank = paint_bank(corpus, corpus.training_rows, (16, 16), 4, 0)
    return list(clip._texts(corpus, bank, word_bank()))


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
    expected = ["house</w>", "thing</w>", ",</w>", "3</w>", "d</w>"]
    assert tokenizer.tokenize("House thing, 3D") == expected
    assert len(tokenizer) <= TINY.vocabulary


def test_a_saved_tokenizer_is_the_trained_one(trained, tokenizer):
    text = "a PENCIL sketch of 猫 & dogs"
    assert tokenizer(text).input_ids == trained[2](text).input_ids
    assert (tokenizer.model_max_length, tokenizer.pad_token) == (77, "<|endoftext|>")


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


def test_scenes_come_in_pairs_and_captions_with_their_pictures(trained):
    corpus = trained[1]
    bank = paint_bank(corpus, corpus.training_rows, (16, 16), 12, 0)
    config = replace(TINY, batch_size=10, scene_share=0.6)
    pictures, captions, scenes = clip.draw_batch(corpus, bank, config, np.random.default_rng(0))
    assert len(pictures) == len(captions) == 10
    assert captions[4:] == [bank.captions[number] for number in scenes]
    for picture, caption in zip(pictures[4:], captions[4:], strict=True):
        same = [i for i, said in enumerate(bank.captions) if said == caption]
        assert any(np.array_equal(picture, bank.pictures[i]) for i in same)
    numbers = [bank.captions.index(c) // 2 for c in captions[4:]]
    assert numbers[::2] == numbers[1::2]


def test_what_a_caption_says_of_a_scene_has_to_be_named_and_nothing_else():
    pair = ClipPair(TINY, 620, 619, 16)
    embeds = torch.randn(2, TINY.projection, generator=torch.Generator().manual_seed(0))
    said = torch.tensor([[2, -1, -1, -1, -1, -1], [0, -1, 3, -1, -1, -1]])
    logits = pair.composition(embeds)
    place, count = logits[:, :3], logits[:, 8:12]  # three places, five shots, four numbers
    surprises = [
        -place[0].log_softmax(0)[2], -place[1].log_softmax(0)[0], -count[1].log_softmax(0)[3]
    ]  # fmt: skip
    torch.testing.assert_close(composition_loss(pair, embeds, said), sum(surprises) / 3)
    assert composition_loss(pair, embeds, torch.full((2, 6), -1)) == 0
    assert composition_loss(pair, embeds[:0], said[:0]) == 0


def test_the_teacher_is_matched_when_the_maps_give_its_vectors(tokenizer):
    torch.manual_seed(0)
    pair = ClipPair(TINY, len(tokenizer), tokenizer.eos_token_id, 16).eval()
    texts = ["cat", "dog house", "cat dog house"]
    ids = tokenize(tokenizer, texts, trim=True)
    counts = [len(tokenizer.tokenize(text)) for text in texts]
    with torch.no_grad():
        hidden = pair.text(ids).last_hidden_state
        ends = torch.stack([hidden[i, n + 1] for i, n in enumerate(counts)])
        means = torch.stack([hidden[i, 1 : n + 1].mean(0) for i, n in enumerate(counts)])
        maps = zip(pair.lessons, (ends, means), strict=True)
        cosines = [torch.cosine_similarity(m(s), torch.ones(3, 16), dim=1).mean() for m, s in maps]
        found = distillation_loss(pair, ids, torch.ones(3, 16))
    torch.testing.assert_close(found, 1 - sum(cosines) / 2)


def test_one_word_in_ten_is_never_learned_and_no_label_is_held_out():
    words = word_bank(600)
    assert not (words.held_out & words.of_corpus).any()
    assert 0.05 < words.held_out[~words.of_corpus].mean() < 0.16


@pytest.fixture(scope="module")
def untrained(tokenizer) -> ClipPair:
    torch.manual_seed(0)
    small = replace(TINY, picture_size=32)
    return ClipPair(small, len(tokenizer), tokenizer.eos_token_id, 16).eval()


def test_an_untrained_pair_tells_scenes_apart_by_chance_only(untrained, tokenizer, tmp_path):
    corpus = make_corpus(tmp_path, size=32)
    figures = told_apart(untrained, tokenizer, corpus, 120)
    assert {"tells_place", "tells_shot", "tells_count"} <= figures.keys()
    assert 0.25 < np.mean(list(figures.values())) < 0.75


def test_unseen_words_land_near_what_they_mean_when_the_map_is_the_teachers(untrained, tokenizer):
    words = word_bank(300)
    by_chance = unseen_words(untrained, tokenizer, words)["unseen_words_land_near"]
    held = words.held_out
    vectors = words.vectors.clone()
    states = clip_check._end_states(untrained, tokenizer, list(words.words))
    vectors[:] = torch.nn.functional.normalize(states, dim=1)
    taught = replace(words, vectors=vectors)
    assert unseen_words(untrained, tokenizer, taught) == {"unseen_words_land_near": 1.0}
    assert held.any() and by_chance <= 1.0


def test_what_is_moved_and_scaled_keeps_its_ground_and_its_side():
    left = torch.full((6, 64, 64, 3), 255, dtype=torch.uint8)
    left[:, 20:44, 8:24] = 0
    augmented = clip._augment(left, np.random.default_rng(0))
    assert augmented.shape == (6, 3, 64, 64)
    assert augmented[:, :, :, 44:].min() > 0.99  # the right stays empty
    assert augmented[:, :, :, :32].min(dim=3).values.min() < -0.9

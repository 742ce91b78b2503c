"""The judge: ranks among subjects, fair banks, and its pictures are the studio's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.core.request import GenerationRequest
from studio.diffusion.model import load_model
from studio.diffusion.sampler import Drawn, sample
from studio.training.dataset.sources import ALL_STYLES, EMOJI_STYLES
from studio.training.stages import judge
from studio.training.stages.judge import Bank, JudgeConfig, hit_rates, rank
from tests.diffusion.tiny_model import TINY_SIZE, build_tiny_model
from tests.training.synthetic import make_corpus

THREE_D, FLAT, SKETCH = "3d render", "flat illustration", "pencil sketch"


def bank(*rows: tuple[str, str, float]) -> Bank:
    """Features (cos, sin) at the given angles in degrees, with subject and style."""
    angles = torch.tensor([angle for _, _, angle in rows]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    return Bank(features, tuple(s for s, _, _ in rows), tuple(s for _, s, _ in rows))


LOOKING_RIGHT = torch.tensor([1.0, 0.0])


@pytest.mark.parametrize(("subject", "place"), [("cat", 1), ("dog", 2), ("house", 3), ("fish", 4)])
def test_a_subjects_place_counts_different_subjects_only(subject, place):
    found = bank(
        ("cat", THREE_D, 5), ("cat", FLAT, 10), ("dog", THREE_D, 20), ("cat", SKETCH, 30),
        ("house", FLAT, 90), ("dog", FLAT, 170),
    )  # fmt: skip
    assert rank(LOOKING_RIGHT, subject, found) == place


def test_hit_rates_are_the_shares_found_first_in_five_and_in_ten():
    assert hit_rates([1, 1, 3, 5, 6, 10, 11, 900]) == {
        "first_1": 2 / 8,
        "first_5": 4 / 8,
        "first_10": 6 / 8,
    }


@pytest.mark.parametrize(
    ("style", "left"),
    [
        (THREE_D, {"flat illustration", "shaded cartoon", "simple icon", "pictogram", "clip art"}),
        (FLAT, {"3d render", "shaded cartoon", "simple icon", "pictogram", "clip art"}),
        (SKETCH, {"flat illustration", "shaded cartoon", "simple icon", "pictogram", "clip art"}),
    ],
)
def test_the_judged_style_and_what_was_derived_from_it_are_left_out(style, left):
    everything = bank(*(("cat", s, float(i)) for i, s in enumerate(ALL_STYLES)))
    others = everything.without_style(style)
    assert set(others.styles) == left
    kept = [i for i, s in enumerate(ALL_STYLES) if s in left]
    assert torch.equal(others.features, everything.features[kept])


def test_real_pictures_are_judged_as_drawn_ones_are():
    found = bank(
        ("cat", THREE_D, 0), ("dog", THREE_D, 90), ("cat", FLAT, 10), ("dog", FLAT, 5),
        ("fish", THREE_D, 50),
    )  # fmt: skip
    figures = judge._real_rates(found, THREE_D, ("cat", "dog"))
    # nearest in the other styles: to the cat the dog (5 degrees), to the dog the cat (80 degrees)
    assert figures == {"real_first_1": 0.0, "real_first_5": 1.0, "real_first_10": 1.0}


@pytest.fixture(scope="module")
def real_bank(tmp_path_factory) -> Bank:
    corpus = make_corpus(tmp_path_factory.mktemp("judge"), size=64)
    return judge.build_bank(judge.load_network(), corpus)


def test_features_have_unit_length(real_bank):
    assert real_bank.features.shape == (20, 1280)
    torch.testing.assert_close(real_bank.features.norm(dim=1), torch.ones(20))


def test_a_picture_finds_its_own_subject_when_its_style_is_in_the_bank(real_bank):
    pairs = zip(real_bank.features, real_bank.subjects, strict=True)
    ranks = [rank(feature, subject, real_bank) for feature, subject in pairs]
    assert ranks == [1] * 20
    nearest = (real_bank.features @ real_bank.features.T).argmax(dim=1)
    assert nearest.tolist() == list(range(20))


def test_the_judge_draws_what_the_studio_draws(tmp_path):
    folder = build_tiny_model(tmp_path / "tiny")
    config = JudgeConfig(steps=3, batch=2)
    drawn = judge.draw(folder, ["cat", "red apple", "dog"], config)
    model = load_model(folder, "tiny")
    for prompt, picture in zip(("cat", "red apple", "dog"), drawn, strict=True):
        request = GenerationRequest(
            prompt=prompt, width=TINY_SIZE, height=TINY_SIZE, steps=3, guidance_scale=3.0,
            seed=config.seed,
        )  # fmt: skip
        [expected] = [e.image for e in sample(model, request) if isinstance(e, Drawn)]
        difference = np.abs(picture.astype(int) - np.asarray(expected.convert("RGB")).astype(int))
        assert difference.mean() < 1
    assert not np.array_equal(drawn[0], drawn[1])


def test_the_bank_holds_the_sets_that_name_their_subjects_alike(real_bank):
    assert set(real_bank.styles) == {*EMOJI_STYLES, SKETCH}

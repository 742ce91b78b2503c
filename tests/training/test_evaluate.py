"""The figures of the evaluation against outside formulas and against pictures made for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

from studio.training.stages.evaluate import (
    frechet_distance,
    placement,
    precision_and_recall,
    psnr,
    ssim,
)


def normal(count: int, features: int, seed: int, scale: float = 1.0, shift: float = 0.0):
    values = torch.randn(count, features, generator=torch.Generator().manual_seed(seed))
    return scale * values + shift


@pytest.mark.parametrize(("n", "m", "features"), [(200, 150, 6), (40, 30, 60)])
def test_the_frechet_distance_is_that_of_the_formula(n, m, features):
    first, second = normal(n, features, 0), normal(m, features, 1, scale=1.7, shift=0.3)
    a, b = first.double().numpy(), second.double().numpy()
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum()
    expected += np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-4)


def test_a_set_has_no_distance_from_itself_and_a_shift_costs_its_square():
    values = normal(100, 8, 0)
    assert frechet_distance(values, values) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(values, values + 2) == pytest.approx(8 * 4, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(5, 30), st.integers(5, 30), st.integers(1, 4))
def test_precision_and_recall_are_those_of_the_definition(seed, n, m, k):
    drawn, real = normal(n, 3, seed), normal(m, 3, seed + 1, shift=0.5)

    def share(points, by):
        radius = [
            sorted(float((p - q).norm()) for j, q in enumerate(by) if j != i)[k - 1]
            for i, p in enumerate(by)
        ]
        near = [
            any(float((p - q).norm()) <= r + 1e-6 for q, r in zip(by, radius, strict=True))
            for p in points
        ]
        return sum(near) / len(points)

    precision, recall = precision_and_recall(drawn, real, k)
    assert precision == pytest.approx(share(drawn, real))
    assert recall == pytest.approx(share(real, drawn))


def test_one_good_picture_again_and_again_is_precise_and_recalls_little():
    real = normal(200, 4, 0)
    drawn = real[:1] + 0.001 * normal(200, 4, 1)
    precision, recall = precision_and_recall(drawn, real)
    assert precision == 1
    assert recall < 0.05


def disc(size: tuple[int, int], centre: tuple[float, float], radius: int, ground="white"):
    picture = Image.new("RGB", size, ground)
    x, y = centre[0] * size[0], centre[1] * size[1]
    ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill="red")
    return np.asarray(picture)


@pytest.mark.parametrize("ground", ["white", "#203040"])
@pytest.mark.parametrize("centre", [(0.25, 0.5), (0.5, 0.5), (0.8, 0.3)])
def test_a_subject_is_found_where_it_stands_and_as_large_as_it_is(centre, ground):
    found = placement(disc((176, 96), centre, 20, ground))
    assert found.x == pytest.approx(centre[0], abs=0.02)
    assert found.y == pytest.approx(centre[1], abs=0.02)
    assert found.width == pytest.approx(40 / 176, rel=0.2)
    assert found.height == pytest.approx(40 / 96, rel=0.2)


def test_an_empty_picture_has_nothing_anywhere():
    found = placement(np.full((96, 176, 3), 200, np.uint8))
    assert (found.x, found.width, found.height) == (0.5, 0, 0)


def test_structural_similarity_is_that_of_the_formula():
    chance = np.random.default_rng(0)
    first = gaussian_filter(chance.uniform(0, 255, (40, 48)), 2)
    second = first + chance.normal(0, 3, first.shape)

    def mean(values):  # the same window of 11 x 11, away from the border
        return gaussian_filter(values, 1.5, truncate=3.4)[5:-5, 5:-5]

    mx, my = mean(first), mean(second)
    vx, vy = mean(first**2) - mx**2, mean(second**2) - my**2
    together = mean(first * second) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mx * my + c1) * (2 * together + c2)
    expected /= (mx**2 + my**2 + c1) * (vx + vy + c2)
    greys = [torch.from_numpy(g)[None] for g in (first, second)]
    assert ssim(*greys) == pytest.approx(expected.mean(), rel=1e-6)
    assert ssim(greys[0], greys[0]) == pytest.approx(1)


def test_the_signal_to_noise_ratio_is_in_decibels_of_the_whole_range():
    black, grey = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * np.log10(5))

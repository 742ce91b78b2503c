"""How good are drawn pictures, beside real ones: distances between sets, and where things stand.

All on features of a frozen network (`judge.features`), so the figures are comparable with each
other, at equal numbers of pictures, and with nobody else's FID. It took no part in the training of
the shipped model; where the autoencoder has its perceptual term (h200), early maps of it did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from studio.training.dataset.captions import SHOTS


@dataclass(frozen=True)
class Placement:
    """Where a picture's subject is, in shares of the picture."""

    x: float  # of its centre; 0 is the left edge
    y: float
    width: float  # of the box that holds nearly all of it
    height: float


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the Frechet distance of normal distributions fitted to features (N, F) and (M, F).

    ||mu_1 - mu_2||^2 + Tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), Heusel et al. 2017, equation 6. The trace
    of the root is the sum of the singular values of X_1 X_2^T / sqrt((N - 1) (M - 1)), X_i being
    the centred features, so few pictures of many features are no trouble.
    """
    first, second = first.double(), second.double()
    a, b = first - first.mean(0), second - second.mean(0)
    n, m = len(a) - 1, len(b) - 1
    means = (first.mean(0) - second.mean(0)).square().sum()
    traces = a.square().sum() / n + b.square().sum() / m
    root = torch.linalg.svdvals(a @ b.T).sum() / (n * m) ** 0.5
    return float((means + traces - 2 * root).clamp(min=0))


def precision_and_recall(drawn: Tensor, real: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Return the share of drawn features (N, F) among the real ones (M, F), and the reverse.

    A point is among a set when it is no farther from one of its points than that one is from its
    k-th neighbour in the set. Kynkaanniemi et al. 2019, equations 1 and 2.
    """
    return _covered(drawn, real, neighbours), _covered(real, drawn, neighbours)


def _covered(points: Tensor, by: Tensor, neighbours: int) -> float:
    """Return the share of points that lie within the radius of one of `by`."""
    within = torch.cdist(by.double(), by.double())
    within.fill_diagonal_(torch.inf)
    radii = within.kthvalue(min(neighbours, len(by) - 1), dim=1).values
    inside = torch.cdist(points.double(), by.double()) <= radii
    return float(inside.any(dim=1).double().mean())


def placement(picture: np.ndarray) -> Placement:
    """Find the subject of a picture (H, W, 3) uint8 on a plain ground.

    The ground is what the picture's edge looks like; a pixel counts by how far it is from it. The
    box leaves out two hundredths of that weight on each side, so that specks do not widen it.
    """
    levels = picture.astype(np.float64)
    edge = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    weight = np.abs(levels - np.median(edge, axis=0)).sum(axis=2)
    weight = np.where(weight > 30, weight, 0.0)  # of 765; what no eye sees is ground
    if not weight.any():
        return Placement(0.5, 0.5, 0.0, 0.0)
    across, down = weight.sum(axis=0), weight.sum(axis=1)
    (left, x, right), (top, y, bottom) = _span(across), _span(down)
    return Placement(x, y, right - left, bottom - top)


def _span(weight: np.ndarray) -> tuple[float, float, float]:
    """Return begin, centre of gravity and end of a profile, in shares of its length."""
    places = (np.arange(len(weight)) + 0.5) / len(weight)
    running = np.cumsum(weight) / weight.sum()
    begin = int(np.searchsorted(running, 0.02)) / len(weight)
    end = (int(np.searchsorted(running, 0.98)) + 1) / len(weight)
    return begin, float((places * weight).sum() / weight.sum()), min(end, 1.0)


def ssim(first: Tensor, second: Tensor) -> float:
    """Return the mean structural similarity of greys (N, H, W) in 0..255; 1 is the same picture.

    Wang et al. 2004, equation 13: Gaussian windows of 11 x 11 with sigma 1.5, K = 0.01 and 0.03.
    """
    at = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-at.square() / (2 * 1.5**2))
    window /= window.sum()

    def blurred(values: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(values[:, None], window[None, None, :, None])
        return torch.nn.functional.conv2d(rows, window[None, None, None, :])[:, 0]

    x, y = first.double(), second.double()
    mx, my = blurred(x), blurred(y)
    vx, vy = blurred(x * x) - mx * mx, blurred(y * y) - my * my
    together = blurred(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    same = (2 * mx * my + c1) * (2 * together + c2)
    return float((same / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of pictures uint8 of one shape, in decibels."""
    error = np.mean((first.astype(np.float64) - second) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def in_place(found: Placement, place: str) -> bool:
    """Whether a subject stands where the caption's words for its place put it."""
    low, high = {"on the left": (0, 0.45), "in the centre": (0.4, 0.6)}.get(place, (0.55, 1))
    return found.width > 0 and low <= found.x <= high


def at_size(found: Placement, shot: str, size: tuple[int, int]) -> bool:
    """Whether a subject is nearer in size to the shot that was asked for than to any other.

    size: of the picture (width, height). What does not fit into the picture cannot be told apart.
    """
    whole = max(size) / min(size)
    side = max(found.width * size[0], found.height * size[1]) / min(size)
    if side == 0:
        return False
    nearest = min(SHOTS, key=lambda name: abs(np.log(min(SHOTS[name], whole) / side)))
    return min(SHOTS[nearest], whole) == min(SHOTS[shot], whole)

"""The reward: one artist's taste, as Bradley-Terry with ties on frozen features of pictures.

A picture's score is r = w . z, where z are its features after a projection that is fitted without
votes: principal components, and products of two of them each (a quadratic utility). The weights
have a Gaussian prior and a Gaussian posterior by Laplace's approximation; `davidson.py` has the
equations. The prior's width, and how much of the taste it expects in the products, are those under
which the votes are likeliest (`evidence.py`). So the reward knows how sure it is of each score:
selection asks where it is not, and fine-tuning distrusts what it never saw.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from studio.core.errors import DiskFullError, ModelError, TrainingError
from studio.diffusion.safetensors_header import check_safetensors
from studio.training.preference.comparisons import Comparisons
from studio.training.preference.davidson import (
    LOG_NU_PRIOR,
    bradley_terry_loss,
    davidson_log_probabilities,
    fit_posterior,
    sigmoid,
)
from studio.training.preference.evidence import most_likely_prior
from studio.training.preference.projection import (
    Products,
    Projection,
    fit_products,
    fit_projection,
    mixed,
)

__all__ = [
    "TRAINED_TOWARDS", "Comparisons", "Reward", "RewardConfig", "bradley_terry_loss", "fit_reward",
]  # fmt: skip

Floats = NDArray[np.float64]

LEAST_VOTES = 10  # fewer say nothing, whatever the prior
_FORMAT = "easel-reward-2"
_FORMATS = (_FORMAT, "easel-reward-1")  # which had no products


@dataclass(frozen=True)
class RewardConfig:
    """How the reward is fitted; `tests/benchmarks/reward.py` measures these choices.

    With `squares` the features are second-order polynomial ones and the taste a quadratic utility;
    share and width are picked by their evidence (MacKay 1992), the probability of all votes.
    """

    components: int = 128  # principal components of the features' differences that are kept
    squares: int = 12  # first components whose squares and products count too; 0: linear taste
    product_shares: tuple[float, ...] = (0.0, 0.3, 0.6, 1.0)  # how much they count; one is picked
    prior_stds: tuple[float, ...] = tuple(2 ** (k / 2) for k in range(-6, 7))  # logits; likewise
    folds: int = 5  # of the check by cross-validation; each prompt is in one of them
    seed: int = 0  # of the prompts' distribution over the folds
    refit_growth: float = 1.2  # votes grow by this factor before prior and projection are anew


TRAINED_TOWARDS = RewardConfig(squares=0)  # linear: pictures leave what was voted on while a model
# is trained, and a product leads them further astray than a sum (measured, see LOG.md)


@dataclass(frozen=True)
class Reward:
    """A fitted taste: `score` gives logits, `score_std` how sure it is of them.

    Scores are relative: 0 is the mean of the pictures that were voted on, and a difference of 1
    between two pictures means that the better one wins 73 % of the decisive votes.
    """

    projection: Projection
    weights: Floats  # (d,) mean of the posterior
    covariance: Floats  # (d, d) of the posterior
    nu: float  # Davidson's: the larger, the more ties
    prior_std: float  # of each weight, logits
    votes: int = 0  # that it learned from
    prompts: int = 0
    fitted_votes: int = 0  # when prior and projection were chosen last
    votes_hash: str = ""
    encoder_name: str = ""
    encoder_sha256: str = ""

    def score(self, phi: NDArray[np.floating]) -> Floats:
        """Features (N, D) -> mean score (N,) in logits."""
        return self.projection(phi) @ self.weights

    def moments(self, z: Floats) -> tuple[Floats, Floats]:
        """Projected features, or differences of them (N, d) -> mean and std, (N,) each."""
        return z @ self.weights, np.sqrt(
            np.maximum(np.einsum("nd,nd->n", z @ self.covariance, z), 0)
        )

    def score_std(self, phi: NDArray[np.floating]) -> Floats:
        """Features (N, D) -> standard deviation (N,) of the score under the posterior."""
        return self.moments(self.projection(phi))[1]

    def lower_bound(self, phi: NDArray[np.floating], k: float = 1.0) -> Floats:
        """Mean minus k standard deviations (N,): a score that strangeness cannot inflate."""
        mean, std = self.moments(self.projection(phi))
        return mean - k * std

    def difference(
        self, phi_left: NDArray[np.floating], phi_right: NDArray[np.floating]
    ) -> tuple[Floats, Floats]:
        """Mean and standard deviation, (N,) each, of left's score minus right's."""
        return self.moments(self.projection(phi_left) - self.projection(phi_right))

    def win_probability(
        self, phi_left: NDArray[np.floating], phi_right: NDArray[np.floating]
    ) -> Floats:
        """Probability (N,) that left wins a decisive vote, the weights' uncertainty included."""
        return moderated(*self.difference(phi_left, phi_right))

    def vote_probabilities(
        self, phi_left: NDArray[np.floating], phi_right: NDArray[np.floating]
    ) -> Floats:
        """Probabilities (N, 3) of left, tie and right at the posterior's mean."""
        mean, _ = self.difference(phi_left, phi_right)
        return np.exp(davidson_log_probabilities(mean, self.nu))


def moderated(mean: Floats, std: Floats) -> Floats:
    """Mean of sigmoid over N(mean, std^2): about sigmoid(mean / sqrt(1 + pi std^2 / 8)).

    MacKay 1992, "The evidence framework applied to classification networks", equation 11.
    """
    return sigmoid(mean / np.sqrt(1 + np.pi * std**2 / 8))


def fit_reward(
    comparisons: Comparisons, config: RewardConfig | None = None, *, start: Reward | None = None
) -> Reward:
    """Fit the taste behind the votes. Raises `TrainingError` when there are too few.

    `start`, an earlier reward on the same encoder, makes it faster: until the votes have grown by
    `refit_growth` its projection and prior stay, and Newton's method starts from its weights.
    """
    config = config or RewardConfig()
    if len(comparisons) < LEAST_VOTES:
        raise TrainingError(
            f"The reward needs {LEAST_VOTES} votes to begin and has {len(comparisons)}. "
            f"Rate {LEAST_VOTES - len(comparisons)} more pairs."
        )
    if start is not None and _is_near(start, comparisons, config):
        projection, prior_std, fitted_votes = start.projection, start.prior_std, start.fitted_votes
        z = difference_features(comparisons, projection)
        theta = np.append(start.weights, np.log(start.nu))
    else:
        projection, differences = voted_projection(comparisons, config)
        fitted_votes, theta = len(comparisons), None
        share, prior_std = most_likely_prior(
            differences,
            comparisons.choice,
            comparisons.weights,
            config.product_shares,
            config.prior_stds,
        )
        projection, z = projection.with_share(share), mixed(*differences, share)
    found = fit_posterior(z, comparisons.choice, comparisons.weights, prior_std, theta)
    return Reward(
        projection=projection,
        weights=found.weights,
        covariance=found.covariance,
        nu=found.nu,
        prior_std=prior_std,
        votes=len(comparisons),
        prompts=comparisons.prompts,
        fitted_votes=fitted_votes,
        votes_hash=comparisons.votes_hash,
        encoder_name=comparisons.encoder_name,
        encoder_sha256=comparisons.encoder_sha256,
    )


def untrained_reward(
    phi: NDArray[np.floating],
    config: RewardConfig | None = None,
    *,
    prior_std: float = 1.0,
    differences: NDArray[np.floating] | None = None,
) -> Reward:
    """The prior alone, before any vote: every score is 0, and as unsure as the prior is wide.

    `phi` (N, D) are features of the pictures that may be shown, `differences` (M, D) those between
    pictures that may meet: they decide what is kept. Selection starts from it. There are no
    products: nothing says yet how much they count.
    """
    config = config or RewardConfig()
    phi = np.asarray(phi)
    centre = phi.mean(axis=0)
    spread = phi - centre if differences is None else np.asarray(differences)
    projection = fit_projection(spread, centre, config.components)
    return Reward(
        projection=projection,
        weights=np.zeros(projection.width),
        covariance=prior_std**2 * np.eye(projection.width),
        nu=float(np.exp(LOG_NU_PRIOR[0])),
        prior_std=prior_std,
    )


def voted_projection(
    comparisons: Comparisons, config: RewardConfig
) -> tuple[Projection, tuple[Floats, Floats | None]]:
    """The projection that the voted pictures' features ask for; votes do not enter.

    With it, for left minus right, components (N, d) and products (N, p), None without products.
    """
    left, right = comparisons.phi_left, comparisons.phi_right
    centre = (left.mean(axis=0) + right.mean(axis=0)) / 2
    linear = fit_projection(left - right, centre, config.components)
    z_left, z_right = linear.components(left), linear.components(right)
    products = fit_products(z_left, z_right, config.squares)
    if products is None:
        return linear, (z_left - z_right, None)
    both = z_left - z_right, products(z_left) - products(z_right)
    return replace(linear, products=products), both


def difference_features(comparisons: Comparisons, projection: Projection) -> Floats:
    """Projected features of left minus right (N, d)."""
    return projection(comparisons.phi_left) - projection(comparisons.phi_right)


def _is_near(start: Reward, comparisons: Comparisons, config: RewardConfig) -> bool:
    return (
        start.encoder_sha256 == comparisons.encoder_sha256
        and start.projection.centre.shape[0] == comparisons.phi_left.shape[1]
        and (start.projection.products is None or config.squares > 0)
        and 0 < start.fitted_votes <= len(comparisons)
        and len(comparisons) < config.refit_growth * start.fitted_votes
    )


def reward_bytes(reward: Reward) -> bytes:
    """Return a reward as the content of a safetensors file."""
    tensors = {
        "centre": reward.projection.centre,
        "axes": reward.projection.axes,
        "weights": reward.weights,
        "covariance": reward.covariance,
    }
    if reward.projection.products is not None:
        tensors |= {f"product_{n}": v for n, v in vars(reward.projection.products).items()}
    about = {name: getattr(reward, name) for name in _ABOUT}
    return to_bytes(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        metadata={"format": _FORMAT, "reward": json.dumps(about)},
    )


def save_reward(reward: Reward, path: Path) -> None:
    """Write a reward as one safetensors file, in one piece or not at all."""
    partial = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(reward_bytes(reward))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DiskFullError(
            f"The reward could not be written ({error.strerror}). Free some disk space; the votes "
            "are safe, and it can be fitted again."
        ) from error


def load_reward(path: Path) -> Reward:
    """Read what `save_reward` wrote. Raises `ModelError` when it is missing or damaged.

    Files of the first format have no products and are linear as they were: a run that goes on is
    trained towards what it began with.
    """
    check_safetensors(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["format"] not in _FORMATS:
            raise ValueError("another format")
        about = json.loads(metadata["reward"])
        projection = Projection(found["centre"], found["axes"], _products(found))
        reward = Reward(
            projection, found["weights"], found["covariance"], **{n: about[n] for n in _ABOUT}
        )
        _check_shapes(reward)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ModelError(
            f"{path.name} is not a reward that Easel wrote. Fit it again from the votes."
        ) from error
    return reward


_ABOUT = (
    "nu", "prior_std", "votes", "prompts", "fitted_votes", "votes_hash", "encoder_name",
    "encoder_sha256",
)  # fmt: skip


def _products(found: dict[str, NDArray]) -> Products | None:
    """Products from a file's tensors; None where it has none. Raises KeyError, ValueError."""
    if "product_scale" not in found:
        return None
    mean, std, scale, share = (found[f"product_{n}"] for n in ("mean", "std", "scale", "share"))
    if mean.ndim != 1 or std.shape != mean.shape or share.shape != (1,):
        raise ValueError("the products' shapes do not fit each other")
    if scale.shape != (len(mean) * (len(mean) + 1) // 2,):
        raise ValueError("not every product has a scale")
    if not all(a.dtype == np.float64 and np.isfinite(a).all() for a in (mean, std, scale)):
        raise ValueError("numbers are not finite")
    if not (0 < share[0] <= 1 and (std > 0).all()):
        raise ValueError("a share or a spread is none")
    return Products(mean, std, scale, float(share[0]))


def _check_shapes(reward: Reward) -> None:
    projection, width = reward.projection, reward.projection.width
    shapes = (projection.axes.shape[:1], reward.weights.shape, reward.covariance.shape)
    if shapes != (projection.centre.shape, (width,), (width, width)):
        raise ValueError("shapes do not fit each other")
    if projection.products and len(projection.products.mean) > projection.axes.shape[1]:
        raise ValueError("products of components that are not there")
    if not (0 <= reward.nu < np.inf and 0 < reward.prior_std < np.inf):
        raise ValueError("a number is none")
    arrays = (projection.centre, projection.axes, reward.weights, reward.covariance)
    if not all(a.dtype == np.float64 and np.isfinite(a).all() for a in arrays):
        raise ValueError("numbers are not finite")

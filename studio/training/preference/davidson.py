"""Bradley-Terry with ties: likelihood and posterior of a linear score. Plain numpy in float64.

Davidson 1970, equation 2.1: with d = r_left - r_right and a tie parameter nu,

    P(left) : P(tie) : P(right) = exp(d / 2) : nu : exp(-d / 2)

so that among decisive votes P(left) = sigmoid(d), which is Bradley & Terry 1952. With r = w . z the
negative log-likelihood is convex in (w, log nu); Newton's method finds its minimum under a Gaussian
prior, and the Hessian there gives Laplace's posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOG_NU_PRIOR = (-1.0, 1.5)  # mean and std of log nu: one vote in six a tie, give or take a lot
NO_TIES = -18.0  # log nu where no tie was seen: the model is Bradley and Terry's then
_TOLERANCE = 1e-9  # of Newton's decrement, in nats
_MAX_STEPS = 60
_MAX_HALVINGS = 40


@dataclass(frozen=True)
class Posterior:
    """A Gaussian over theta = (weights, log nu): its mean, and the Hessian, its precision."""

    theta: Floats  # (d + 1,)
    hessian: Floats  # (d + 1, d + 1)

    @property
    def weights(self) -> Floats:
        """Mean of the weights (d,)."""
        return self.theta[:-1]

    @property
    def nu(self) -> float:
        """Davidson's tie parameter."""
        return float(np.exp(self.theta[-1]))

    @property
    def covariance(self) -> Floats:
        """Covariance of the weights (d, d), whatever nu is."""
        return np.linalg.inv(self.hessian)[:-1, :-1]


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def davidson_log_probabilities(delta: Floats, nu: float) -> Floats:
    """Score differences (N,) -> log P of left, tie and right (N, 3)."""
    with np.errstate(divide="ignore"):  # nu = 0: no ties
        tie = np.full_like(delta, np.log(nu))
    logits = np.stack([delta / 2, tie, -delta / 2], axis=1)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def bradley_terry_loss(delta: Floats, choice: Floats, nu: float = 0.0) -> Floats:
    """Negative log-likelihood (N,) of answers (1 left, 0.5 tie, 0 right) at differences (N,).

    P(a > b) = sigmoid(r_a - r_b), with Davidson's ties. Where the model has no ties (nu = 0), a tie
    counts as half a vote for each side.
    """
    log_p = davidson_log_probabilities(delta, nu)
    tie = (log_p[:, 0] + log_p[:, 2]) / 2 if nu == 0 else log_p[:, 1]
    return -np.where(choice == 1, log_p[:, 0], np.where(choice == 0, log_p[:, 2], tie))


def penalised_loss(
    theta: Floats, z: Floats, choice: Floats, weight: Floats, prior_std: float
) -> float:
    """Minus the log of likelihood times prior, up to a constant.

    theta (d + 1,), differences of features z (N, d), answers (N,), weights of the votes (N,).
    """
    mean, std = LOG_NU_PRIOR
    loss = weight @ bradley_terry_loss(z @ theta[:-1], choice, float(np.exp(theta[-1])))
    prior = theta[:-1] @ theta[:-1] / prior_std**2 + ((theta[-1] - mean) / std) ** 2
    return float(loss + prior / 2)


def slope(
    theta: Floats, z: Floats, choice: Floats, weight: Floats, prior_std: float
) -> tuple[Floats, Floats]:
    """Gradient (d + 1,) of `penalised_loss`, and each vote's probabilities (N, 3).

    The sufficient statistics are s (1/2, 0, -1/2 for left, tie, right) and t (1 for a tie); their
    mean under the model, less what was seen, is the gradient of the likelihood.
    """
    p = np.exp(davidson_log_probabilities(z @ theta[:-1], float(np.exp(theta[-1]))))
    mean_s = (p[:, 0] - p[:, 2]) / 2
    gradient = np.append(
        z.T @ (weight * (mean_s - (choice - 0.5))), weight @ (p[:, 1] - (choice == 0.5))
    )
    mean, _ = LOG_NU_PRIOR
    centre = np.append(np.zeros(len(theta) - 1), mean)
    return gradient + prior_precision(len(theta), prior_std) * (theta - centre), p


def curvature(z: Floats, p: Floats, weight: Floats) -> Floats:
    """Hessian (d + 1, d + 1) of the likelihood alone: the covariance of s and t under the model."""
    mean_s, tie = (p[:, 0] - p[:, 2]) / 2, p[:, 1]
    var_s = (p[:, 0] + p[:, 2]) / 4 - mean_s**2
    hessian = np.empty((z.shape[1] + 1, z.shape[1] + 1))
    hessian[:-1, :-1] = (z * (weight * var_s)[:, None]).T @ z
    hessian[:-1, -1] = hessian[-1, :-1] = -z.T @ (weight * mean_s * tie)
    hessian[-1, -1] = weight @ (tie * (1 - tie))
    return hessian


def prior_precision(size: int, prior_std: float) -> Floats:
    """One over the prior's variance for each entry of theta (size,)."""
    _, std = LOG_NU_PRIOR
    return np.append(np.full(size - 1, prior_std**-2), std**-2)


def fit_posterior(
    z: Floats,
    choice: Floats,
    weight: Floats,
    prior_std: float,
    start: Floats | None = None,
    tolerance: float = _TOLERANCE,
) -> Posterior:
    """Newton's method with step halving, and Laplace's approximation at the optimum.

    z (N, d) features of left minus right, answers (N,), weights (N,), prior's standard deviation of
    each weight; `start` (d + 1,) is a theta nearby, `tolerance` what Newton's decrement, in nats,
    may still be at the end. Without any tie among the answers nu is not fitted but next to 0.
    """
    theta = np.append(np.zeros(z.shape[1]), LOG_NU_PRIOR[0]) if start is None else start.copy()
    ties_seen = bool((choice == 0.5).any())
    if not ties_seen:
        theta[-1] = NO_TIES
    loss = penalised_loss(theta, z, choice, weight, prior_std)
    for _ in range(_MAX_STEPS):
        gradient, p = slope(theta, z, choice, weight, prior_std)
        hessian = curvature(z, p, weight) + np.diag(prior_precision(len(theta), prior_std))
        if not ties_seen:
            gradient[-1] = 0.0  # nu stays
        step = np.linalg.solve(hessian, gradient)
        decrement = gradient @ step
        if decrement < tolerance:
            break
        size = 1.0
        for _ in range(_MAX_HALVINGS):
            tried = penalised_loss(theta - size * step, z, choice, weight, prior_std)
            if tried <= loss - 1e-4 * size * decrement:
                break
            size /= 2
        else:
            break  # rounding: no step goes further down
        theta, loss = theta - size * step, tried
    return Posterior(theta, hessian)


def log_evidence(
    posterior: Posterior, z: Floats, choice: Floats, weight: Floats, prior_std: float
) -> float:
    """Log of the probability of all answers under the prior: the marginal likelihood, in nats.

    `posterior` is what `fit_posterior` found for the same z (N, d), answers and weights (N,).
    Laplace's approximation of the integral over theta (MacKay 1992, "Bayesian interpolation"):
    log P(answers | theta) + log prior(theta) + log((2 pi)^(k/2) det(H)^(-1/2)) at the optimum. The
    powers of 2 pi cancel. Where no tie was seen nu is not integrated over.
    """
    mean, std = LOG_NU_PRIOR
    theta, precision = posterior.theta, posterior.hessian
    found = -penalised_loss(theta, z, choice, weight, prior_std) - z.shape[1] * np.log(prior_std)
    if (choice == 0.5).any():
        found -= np.log(std)
    else:
        found += ((theta[-1] - mean) / std) ** 2 / 2
        precision = precision[:-1, :-1]
    return float(found - np.linalg.slogdet(precision)[1] / 2)

"""Is a solution better than the plain Gaussian process? Asked without a Markov chain.

The solution's own law of the hidden weights, C independent w_c ~ N(0, Sigma), is a proposal for
the exact posterior: with the readout integrated out the weight of a sample is
log r = -(1/2) log det(Q_W + noise) - (1/2) y^T (Q_W + noise)^{-1} y
        - (1/2) sum_c w_c^T (Sigma_0^{-1} - Sigma^{-1}) w_c,   Q_W its empirical kernel,
and averages with weights r are exact as the effective number of samples grows. Where that number
is small nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.checks import whole
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate, jackknife

if TYPE_CHECKING:
    from thermolearn.systems.training.feature_learning.equations import Solution

BLOCK = 2**24  # numbers in one batch of kernels
ENOUGH = 100.0  # effective samples below which nothing is said
BLOCKS = 40  # of the jackknife
FRESH = 100  # inputs drawn like the training ones
WORSE, BETTER, UNKNOWN = "worse than the GP", "better than the GP", "cannot tell"


@dataclass(frozen=True, eq=False)
class SelfCheck:
    """Errors of the two predictors against the exact posterior mean, by importance sampling.

    Attributes
    ----------
    error, gp_error : Estimate
        ||f - f_exact|| / ||f_exact|| over the inputs, of the equations of state and of the
        Gaussian process.
    verdict : str
        "better than the GP", "worse than the GP" (a difference of more than two standard errors)
        or "cannot tell".
    predictor : Estimate (m,)
        The posterior mean at the inputs.
    n_eff : float
        (sum r)^2 / sum r^2, of `draws` samples.
    """

    error: Estimate
    gp_error: Estimate
    verdict: str
    predictor: Estimate
    n_eff: float

    @property
    def settled(self) -> bool:
        """Whether there are enough effective samples for the numbers to count."""
        return self.n_eff >= ENOUGH

    def __str__(self) -> str:
        if not self.settled:
            return f"cannot tell: {self.n_eff:.0f} effective samples"
        return (
            f"{self.verdict}: relative error {self.error} against {self.gp_error} "
            f"({self.n_eff:.0f} effective samples)"
        )


def self_check(solution: Solution, Xs: Any = None, draws: int = 4000, seed: int = 0) -> SelfCheck:
    """Compare a solution and the Gaussian process with the exact posterior mean.

    Parameters
    ----------
    solution : Solution
        Of a network with one hidden layer.
    Xs : array, optional
        Inputs at which predictors are compared; default: the training inputs.
    draws : int
        Samples of the hidden weights, at least 400. Reliable at widths above about 20 in standard
        scaling; at strong feature learning the effective number falls to a few.
    seed : int

    Raises
    ------
    NotApplicableError
        More than one hidden layer: the law of the second layer given the first is not the
        solution's. Use the sampler.
        Or labels that are all 0: both predictors are 0, exactly.
    ValueError
        Inputs of another shape, too few draws.
    """
    inputs = solution.X if Xs is None else solution.net.inputs(Xs, "Xs")
    return self_checks(solution, [inputs], draws, seed)[0]


def self_checks(
    solution: Solution, sets: Sequence[np.ndarray], draws: int, seed: int = 0
) -> list[SelfCheck]:
    """`self_check` on several sets of checked inputs, each (m, P, S), with the same draws."""
    draws = whole("draws", draws, least=400)
    if len(solution.net.layers) != 1:
        raise NotApplicableError(
            "self_check needs one hidden layer: with more, the solution does not define a law of "
            "the weights; compare with sample_posterior"
        )
    if not solution.problem.y.any():
        raise NotApplicableError("self_check needs labels y that are not all 0: f = 0 for them")
    inputs = np.concatenate(sets)
    f, log_r = _samples(solution, solution.X, inputs, draws, seed)
    r = np.exp(log_r - log_r.max())
    fits = np.stack([solution.predict_checked(inputs), solution.gp.predict_checked(inputs)])
    ends = np.cumsum([len(part) for part in sets])[:-1]
    parts = zip(np.split(f, ends, axis=1), np.split(fits, ends, axis=1), strict=True)
    return [_verdict(f_part, fit, r) for f_part, fit in parts]


def fresh_inputs(X: np.ndarray, m: int = FRESH, seed: int = 0) -> np.ndarray:
    """m Gaussian inputs (m, P, S) with the mean and the covariance of the given ones (n, P, S).

    Sums over the given inputs: in more dimensions than inputs they stay in their span. A single
    input is taken as it is.
    """
    mean = X.mean(0)
    weights = np.random.default_rng(seed).standard_normal((m, len(X))) / np.sqrt(max(len(X) - 1, 1))
    return mean + np.tensordot(weights, X - mean, axes=1)


def _verdict(f: np.ndarray, fits: np.ndarray, r: np.ndarray) -> SelfCheck:
    """From f of every draw (draws, m), the two predictors (2, m) and the weights (draws,)."""

    def errors(f: np.ndarray, r: np.ndarray) -> np.ndarray:
        exact = r @ f / r.sum()
        a, b = (np.linalg.norm(fit - exact) / np.linalg.norm(exact) for fit in fits)
        return np.array([a, b, a - b])

    n_eff = float(r.sum() ** 2 / (r**2).sum())
    found = jackknife(errors, f, r, blocks=BLOCKS)
    status = "ok" if n_eff >= ENOUGH else "under-sampled"
    value, stderr = np.asarray(found.value), np.asarray(found.stderr)
    error, gp_error = (Estimate(value[i], stderr[i], n_eff, status) for i in (0, 1))
    verdict = UNKNOWN
    if status == "ok" and abs(value[2]) > 2 * stderr[2]:
        verdict = WORSE if value[2] > 0 else BETTER
    mean = jackknife(lambda f, r: r @ f / r.sum(), f, r, blocks=BLOCKS)
    predictor = Estimate(mean.value, mean.stderr, n_eff, status)
    return SelfCheck(error, gp_error, verdict, predictor, n_eff)


def _samples(
    solution: Solution, X: np.ndarray, inputs: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """E[f | hidden weights] at the inputs (draws, m), and log r (draws,)."""
    net, problem = solution.net, solution.problem
    generator = torch.Generator().manual_seed(seed)
    covariance = solution.input_covariance
    root = torch.from_numpy(np.linalg.cholesky(covariance))
    tilt = np.eye(len(covariance)) / problem.prior - np.linalg.inv(covariance)
    x, y, z = (torch.from_numpy(a) for a in (X, problem.y, inputs))
    eye = problem.noise * torch.eye(len(y), dtype=torch.double)
    share = net.prior_variances[-1]
    size = max(1, BLOCK // (len(x) * (len(x) + len(z) + net.shapes[-1][0])))
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    for start in range(0, draws, size):
        shape = (min(size, draws - start), net.layers[0], len(covariance))
        W = torch.randn(shape, generator=generator, dtype=torch.double) @ root.T
        features = net.features([W], x)
        half = torch.linalg.cholesky(share * features @ features.mT + eye)
        t = torch.cholesky_solve(y[:, None].expand(len(W), -1, 1), half)[..., 0]
        test = net.features([W], z)
        outputs.append(share * (test @ (features.mT @ t[..., None]))[..., 0])
        weights.append(
            -half.diagonal(dim1=1, dim2=2).log().sum(1)
            - t @ y / 2
            - ((W @ torch.from_numpy(tilt)) * W).sum((1, 2)) / 2
        )
    return torch.cat(outputs).numpy(), torch.cat(weights).numpy()

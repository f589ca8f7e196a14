"""Equations of state: the kernels of a finite network, adapted to the data, without training.

Every layer's pre-activations are taken as Gaussian with a covariance of their own, and the layers
talk through these alone (I. Seroussi, G. Naveh, Z. Ringel, arXiv:2112.15383). One hidden layer of
C units: with Q~ = Q(Sigma) + noise, t = Q~^{-1} y,
Sigma^{-1} = Sigma_0^{-1} - (1/C) d_Sigma Tr[(t t^T - Q~^{-1}) Q(Sigma)], f(x) = Q(x, X) t.
The bracket's second term enters with a minus, as the variation of the free energy gives it (the
authors' public notebook has a plus in its three-layer equation). Solved as the minimum of
`free_energy.free_energy`, from more than one start.

What it is good for: learned directions, the size of the kernel's shift, the posterior mean of
networks in mean-field scaling (readout variance O(1 / width)). Corrections are O(1 / width): in
standard scaling they are as large as the gain over the Gaussian process (N. Rubin et al.,
arXiv:2502.03210), and larger where the network is nearly linear on its inputs: linear, ReLU on a
linear teacher, erf at small weights. A solution says so in ``flags``, see `caveats`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from thermolearn.core.checks import real, whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.systems.training.feature_learning.caveats import caveats
from thermolearn.systems.training.feature_learning.free_energy import (
    Problem,
    make_problem,
    output_force,
    residuals,
    whitened,
)
from thermolearn.systems.training.feature_learning.gaussian_process import (
    GaussianProcess,
    KernelRegression,
)
from thermolearn.systems.training.feature_learning.minimize import Coordinates, descend

if TYPE_CHECKING:
    from thermolearn.systems.training.feature_learning.networks import _Network
    from thermolearn.systems.training.feature_learning.self_check import SelfCheck

STARTS = ("prior", "continuation", "both")
NEIGHBOR = 4  # the continuation comes from widths this many times smaller
SMALL = 256  # samples up to which one BLAS thread is best
LARGE = 1e4  # variance of a pre-activation under the prior; inputs of unit size have about 1
NEAR_DUPLICATES = (
    "a kernel between the inputs may be nearly singular (inputs that are nearly equal or opposite, "
    "or in few dimensions): remove them, or pass jitter=1e-6; "
)


class EquationsOfState:
    """The equations of state of a network on a data set; made by `net.equations_of_state`.

    Parameters
    ----------
    net : BayesianFCN or BayesianCNN
    X, y, noise
        Checked, as `net.data` gives them.
    jitter : float
        Added to the diagonal of the kernels between hidden layers, relative to sigma_w2.
    """

    def __init__(
        self, net: _Network, X: np.ndarray, y: np.ndarray, noise: float, jitter: float = 0.0
    ):
        self.net = net
        self.X = X
        jitter = real("jitter", jitter, least=0) * net.sigma_w2
        self.problem = make_problem(net, X, y, noise, jitter)

    def solve(
        self,
        tol: float = 1e-8,
        init: str | Sequence[np.ndarray] | Solution = "both",
        max_steps: int = 5000,
    ) -> Solution:
        """The minimum of the free energy, and what to know before using it.

        One hidden layer: one S x S covariance, O(n^2 S P + n^3) a step; each further layer an
        n x n one: measured with three layers 0.1 s at n = 30, 5 s at n = 200 (from one start).
        Near standard scaling up to 0.3 s more for the check against the Gaussian process.

        Parameters
        ----------
        tol : float
            Largest residual of the explicit equations, relative (see `Solution.residual`).
        init : str, Solution or sequence of covariances
            "prior": infinite width; "continuation": the solution at widths four times smaller,
            where more is learned; "both" (the default) keeps the lower minimum and reports both:
            a difference is a discontinuous onset of learning. Covariances: the input covariance
            (S, S), then one (n, n) for each further hidden layer.
        max_steps : int
            Of L-BFGS, from one start.

        Returns
        -------
        Solution

        Raises
        ------
        ConvergenceError
            The residual stays above tol.
        ValueError
            An unknown start, covariances of wrong shape or not positive definite.
        numpy.linalg.LinAlgError
            A hidden kernel is singular: duplicate inputs, or many in few dimensions (jitter).

        Warns
        -----
        UserWarning
            Near standard scaling (the prior's outputs have more than 0.2 of the labels' mean
            square) at a width below the number of samples: corrections are not small. Or the
            predictor is worse than the plain Gaussian process at fresh inputs. Both are in
            `Solution.flags` too.
        """
        tol, max_steps = real("tol", tol, above=0), whole("max_steps", max_steps, least=1)
        # on small matrices, BLAS threads that wait for each other cost a factor of 20
        with threadpool_limits(1 if len(self.problem.y) <= SMALL else None):
            return self._solve(tol, init, max_steps)

    def _solve(
        self, tol: float, init: str | Sequence[np.ndarray] | Solution, max_steps: int
    ) -> Solution:
        at = Coordinates(self.problem)
        gradient_tol = 0.1 * tol * min(self.problem.widths) ** 0.5
        found = {
            name: descend(at, start, gradient_tol, max_steps)
            for name, start in self._starts(at, init, max_steps).items()
        }
        energies = {name: at.value_and_gradient(u)[0] for name, u in found.items()}
        best = min(energies, key=lambda name: energies[name])
        covariances = [L @ L.T for L in at.factors(found[best])]
        residual = max(residuals(self.problem, covariances))
        if not residual <= tol:
            raise ConvergenceError(
                f"the equations of state are met to {residual:.1e} only (tol {tol:g}) after at "
                f"most {max_steps} steps; {self._advice()}"
                "raise max_steps or tol, or start elsewhere with init"
            )
        solution = Solution(self.net, self.X, self.problem, covariances, energies, residual, ())
        known = caveats(solution)
        for text in known.warnings:
            warnings.warn(text, UserWarning, stacklevel=4)
        return replace(solution, flags=known.flags)

    def _advice(self) -> str:
        """What in the data makes the equations hard to solve, if it shows."""
        problem, out = self.problem, ""
        largest = problem.prior * float((problem.X**2).sum(2).max())
        if largest > LARGE:
            out += (
                f"pre-activations of the prior have a variance of {largest:.1e}: scale the inputs "
                "X (or sigma_w2) so that it is of order one; "
            )
        if len(problem.widths) > 1 and not problem.averages.linear:
            out += NEAR_DUPLICATES
        return out

    def _starts(
        self, at: Coordinates, init: str | Sequence[np.ndarray] | Solution, max_steps: int
    ) -> dict[str, np.ndarray]:
        if isinstance(init, str):
            if init not in STARTS:
                raise ValueError(f"init must be one of {STARTS}, or covariances, got {init!r}")
            out = {"prior": at.prior()} if init != "continuation" else {}
            if init != "prior":
                narrow = tuple(max(1, width // NEIGHBOR) for width in self.problem.widths)
                near = Coordinates(replace(self.problem, widths=narrow))
                u = descend(near, near.prior(), 1e-3, max_steps, polish=False)
                out["continuation"] = at.of([L @ L.T for L in near.factors(u)])
            return out
        given = init.covariances if isinstance(init, Solution) else init
        return {"given": at.of(self._checked(given))}

    def _checked(self, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        given = [given] if isinstance(given, np.ndarray) and given.ndim == 2 else list(given)
        expected = [K.shape for K in self.problem.at_prior()]
        out = [np.asarray(K, dtype=np.float64) for K in given]
        basis = self.problem.basis
        if basis is not None and out and out[0].shape == (len(basis),) * 2:
            out[0] = basis.T @ out[0] @ basis
        if [K.shape for K in out] != expected:
            raise ValueError(
                f"init must hold covariances of shapes {expected}, one for each hidden layer, got "
                f"{[K.shape for K in out]}"
            )
        for number, K in enumerate(out):
            if not np.isfinite(K).all() or np.linalg.eigvalsh((K + K.T) / 2)[0] <= 0:
                raise ValueError(f"init[{number}] is not a positive definite covariance")
        return [(K + K.T) / 2 for K in out]


@dataclass(frozen=True, eq=False)
class Solution:
    """The adapted kernels of a network, and the predictor that they make.

    Attributes
    ----------
    net : BayesianFCN or BayesianCNN
    X : ndarray (n, P, S)
    problem : Problem
    covariances : list of ndarray
        As `free_energy` represents them; a start for another solution.
    energies : dict
        Free energy of the minimum reached from every start.
    residual : float
        Of the explicit equations, all layers: ||A^T (K^{-1} - right side) A||_2 relative to
        max(1, ||A^T K^{-1} A||_2), A A^T the covariance of infinite width.
    flags : tuple of str
        What to know before using the numbers; empty if nothing: several minima, a saddle point
        that is not controlled, a predictor worse than that of the Gaussian process (and at which
        inputs) or, near standard scaling, that this was not checked.
    """

    net: _Network
    X: np.ndarray
    problem: Problem
    covariances: list[np.ndarray]
    energies: dict[str, float]
    residual: float
    flags: tuple[str, ...]

    def __repr__(self) -> str:
        learned = np.linalg.eigvalsh(self.relative_input_covariance)[-1]
        return (
            f"Solution(free_energy={self.free_energy:.6g}, learned variance={learned:.4g}, "
            f"feature_shift={self.feature_shift:.3g}, residual={self.residual:.1e}, "
            f"flags={len(self.flags)}, {self.net}, n={len(self.X)})"
        )

    @cached_property
    def _regression(self) -> KernelRegression:
        return KernelRegression(self.problem, self.covariances)

    @property
    def free_energy(self) -> float:
        """F at the minimum: about -log evidence - (n / 2) log 2 pi, neither bound holds."""
        return min(self.energies.values())

    @property
    def input_covariance(self) -> np.ndarray:
        """Sigma (S, S), covariance of the first layer's weights over its units."""
        first, basis = self.covariances[0], self.problem.basis
        if basis is None:
            return first
        rest = self.problem.prior * (np.eye(len(basis)) - basis @ basis.T)
        return basis @ first @ basis.T + rest

    @property
    def relative_input_covariance(self) -> np.ndarray:
        """Sigma in units of the prior's sigma_w2 / S: the identity if nothing is learned."""
        return self.input_covariance / self.problem.prior

    @property
    def kernels(self) -> list[np.ndarray]:
        """Covariance (n, n) of the pre-activations of every hidden layer after the first."""
        if self.problem.averages.linear:
            X = self.problem.X[:, 0]
            return [X @ K @ X.T for K in self.covariances[1:]]
        return list(self.covariances[1:])

    @property
    def output_kernel(self) -> np.ndarray:
        """Q (n, n), the covariance of the outputs with these kernels."""
        return self._regression.output_kernel

    @property
    def discrepancy(self) -> np.ndarray:
        """t = (Q + noise)^{-1} y = (y - f(X)) / noise, (n,)."""
        return self._regression.discrepancy

    @cached_property
    def feature_shift(self) -> float:
        """||A^T d_K Tr[(t t^T - (Q + noise)^{-1}) Q(K)] A||_2 / width of the last hidden layer.

        At infinite width, A A^T = K: the first relative change of the kernel that the data ask
        for. Far below 1: the Gaussian process; about 1 and more: features are learned.
        """
        prior = self.problem.at_prior()[-1]
        white = whitened(self.problem)[-1]
        force = white.T @ output_force(self.problem, prior) @ white / self.problem.widths[-1]
        return float(np.abs(np.linalg.eigvalsh((force + force.T) / 2)).max())

    def predict(self, Xs: Any) -> np.ndarray:
        """Posterior mean of f at test inputs (m, d) or (m, P, S), by the adapted kernel.

        Raises
        ------
        ValueError
            Inputs of another shape, NaN or infinite.
        """
        return self.predict_checked(self.net.inputs(Xs, "Xs"))

    def predict_checked(self, Xs: np.ndarray) -> np.ndarray:
        """Posterior mean at inputs (m, P, S) that `net.inputs` has checked."""
        return self._regression.predict(Xs)

    @cached_property
    def gp(self) -> GaussianProcess:
        """The same network at infinite width."""
        return GaussianProcess(self.net, self.X, self.problem.y, self.problem.noise)

    def self_check(self, Xs: Any = None, draws: int = 4000, seed: int = 0) -> SelfCheck:
        """Is this better than the plain Gaussian process? See `self_check.self_check`."""
        from thermolearn.systems.training.feature_learning.self_check import self_check

        return self_check(self, Xs, draws, seed)

    def predictive_variance(self, Xs: Any) -> Estimate:
        """Posterior variance of f at test inputs, (m,), noise not added: leading order only.

        Q(x, x) - Q(x, X)(Q + noise)^{-1} Q(X, x) misses the fluctuations of the kernel between
        samples of the posterior: measured at 20 units and strong learning, a factor 1.8 too
        small; in standard scaling 1.2 too large. The status says so; take it from the sampler.

        Raises
        ------
        ValueError
            Inputs of another shape, NaN or infinite.
        """
        return Estimate(
            self._regression.variance(self.net.inputs(Xs, "Xs")),
            np.nan,
            status="leading order",
            note="fluctuations of the kernel are missing: up to a factor of about 2 at 20 units",
        )

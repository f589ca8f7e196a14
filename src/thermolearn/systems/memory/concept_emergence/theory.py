"""Replica-symmetric theory of a memory that stores examples without knowing their archetypes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from scipy import optimize, special

from thermolearn.core.checks import real, whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.systems.memory.example_noise import unsupervised_engine
from thermolearn.systems.memory.replica_symmetric import RSAssociative, RSState, binomial_chi

# The example state has become the archetype's where its overlaps agree to this.
SYMMETRIC = 1e-6


@dataclass(frozen=True)
class ExampleState(RSState):
    """The zero-temperature state near one example; further fields beside those of `RSState`.

    Attributes
    ----------
    n_example : float
        n_1, overlap with the example itself. n is the overlap with the mean example.
    n_other : float
        n', overlap with each other example of its archetype (0 if there is none).
    """

    n_example: float
    n_other: float


def unsupervised_theory(
    alpha: float,
    r: float,
    M: int,
    T: float,
    branch: Literal["retrieval", "spin_glass", "example"] = "retrieval",
) -> RSState:
    """Replica-symmetric state of the Hebb network of M unlabeled examples per archetype.

    Parameters
    ----------
    alpha : float
        Load K / N > 0.
    r : float
        Quality in (0, 1].
    M : int
        Examples per archetype, at least 1.
    T : float
        Temperature >= 0, in the units of the Hopfield model (J is divided by calR).
    branch : "retrieval", "spin_glass" or "example"
        The archetype is recalled; nothing is; or one example is (T = 0 only).

    Returns
    -------
    RSState
        m: overlap with the archetype; n: with the mean example, so n / r is what tends to m for
        many examples, as n = r m / (1 - (1 - r^2) s C / M) with s = 1 / calR, exact in a Gaussian
        blur (at alpha = 0.02, r = 0.3 right to 0.6% at M = 40, to 1e-8 at M = 1000).
        Where the branch does not exist, another, as its `branch` says: the archetype's for
        "example", and n = m = 0 for "retrieval". For "example" an `ExampleState`.

    Raises
    ------
    ValueError
        A parameter out of range, or branch "example" at T > 0.
    ConvergenceError
        The equations are not solved to 1e-9.

    References
    ----------
    Agliari, Alemanno, Barra, De Marzo, arXiv:2109.00454. Here at finite M within replica symmetry:
    a binomial instead of a Gaussian field of the mean example.
    """
    engine = unsupervised_engine(alpha, r, M)
    if branch != "example":
        return engine.solve(T, branch)
    if T != 0:
        raise ValueError(f'branch "example" is solved at T = 0 only, got T = {T!r}')
    return _example_state(engine, r, M)


@dataclass(frozen=True)
class _ExampleFields:
    """Fields of the state near example 1, on its site classes (chi_1, mean of the others)."""

    engine: RSAssociative
    first: np.ndarray
    others: np.ndarray
    weights: np.ndarray
    M: int

    def field(self, n_example: float, n_other: float) -> np.ndarray:
        total = n_example * self.first + (self.M - 1) * n_other * self.others
        return self.engine.scale * total / self.M

    def moments(self, n_example: float, n_other: float, C: float) -> np.ndarray:
        """Right-hand sides of n_1, n' and C at given left-hand sides."""
        R = self.engine.equations(0.0).slope(C)
        x = self.field(n_example, n_other) / math.sqrt(2 * R)
        sign = self.weights * special.erf(x)
        height = math.sqrt(2 / (math.pi * R))
        return np.array(
            [self.first @ sign, self.others @ sign, height * (self.weights @ np.exp(-x * x))]
        )

    def susceptibility(self, n_example: float, n_other: float) -> float:
        top = self.engine.equations(0.0).top * (1 - 1e-12)
        return bracketed_root(lambda C: self.moments(n_example, n_other, C)[2] - C, 0.0, top)


def _example_state(engine: RSAssociative, r: float, M: int) -> ExampleState:
    """Follow n_1 = 1, n' = r^2 to its fixed point, C solved inside; Newton's method at the end."""
    values, weights = binomial_chi(M - 1, r) if M > 1 else (np.zeros(1), np.ones(1))
    signs, halves = np.array([1.0, -1.0]), np.array([(1 + r) / 2, (1 - r) / 2])
    fields = _ExampleFields(
        engine,
        np.repeat(signs, len(values)),
        np.tile(values, 2),
        np.outer(halves, weights).ravel(),
        M,
    )
    x = np.array([1.0, r * r if M > 1 else 0.0])
    for _ in range(20_000):
        C = fields.susceptibility(x[0], x[1])
        new = fields.moments(x[0], x[1], C)[:2]
        step, x = float(np.abs(new - x).max()), new
        if step < 1e-6:
            break
    polished = optimize.root(
        lambda y: fields.moments(*y) - y, [*x, fields.susceptibility(x[0], x[1])], tol=1e-14
    ).x
    residual = float(np.abs(fields.moments(*polished) - polished).max())
    if not (residual < 1e-9 and np.abs(polished[:2] - x).max() < 1e-2):
        raise ConvergenceError(
            f"the example state is solved to {residual:.3g} only (r = {r:g}, M = {M}); it is about "
            "to lose its stability: move alpha or r by 1e-3"
        )
    n_example, n_other, C = map(float, polished)
    if n_example - n_other < SYMMETRIC and r < 1:  # also where both are zero
        fallen = engine.solve(0.0)
        return ExampleState(**asdict(fallen), n_example=fallen.n, n_other=fallen.n)
    return _described(fields, n_example, n_other, C, residual)


def _described(
    fields: _ExampleFields, n_example: float, n_other: float, C: float, residual: float
) -> ExampleState:
    """The state with its m and f."""
    engine, M = fields.engine, fields.M
    R = engine.equations(0.0).slope(C)
    h = fields.field(n_example, n_other)
    x = h / math.sqrt(2 * R)
    mean_field = h * special.erf(x) + math.sqrt(2 * R / math.pi) * np.exp(-x * x)
    overlaps = n_example**2 + (M - 1) * n_other**2
    f = engine.scale * overlaps / (2 * M) - float(fields.weights @ mean_field) + R * C / 2
    f -= float((engine.w * engine.lam / (1 - engine.lam * C)).sum()) / 2
    return ExampleState(
        m=float(fields.weights @ special.erf(x)),
        n=(n_example + (M - 1) * n_other) / M,
        q=1.0,
        C=C,
        R=R,
        f=f,
        u=f,
        entropy=0.0,
        T=0.0,
        replicon=-math.inf if R > 0 else 1.0,
        residual=residual,
        converged=True,
        branch="example",
        n_example=n_example,
        n_other=n_other,
    )


def small_quality_constant(alpha: float) -> float:
    """x_c(alpha) of the law M_c -> x_c / r^4 for r -> 0 without labels, at T = 0.

    There the examples are Gaussian disorder of variance Delta = alpha / x. With y = m / sqrt(2 R)

        1 / x(y) = erf(y)^2 / (2 alpha y^2) - 1 / (1 - C)^2,  C = 2 y exp(-y^2) / (sqrt(pi) erf(y)),

    and 1 / x_c is its maximum. The law is reached slowly: at alpha = 0.02 and r = 0.2, M_c r^4 is
    2.6 x_c.

    Parameters
    ----------
    alpha : float
        Load in (0, 0.13790), below the capacity of the Hopfield model.

    Raises
    ------
    ValueError
        A load out of range.
    """
    real("alpha", alpha, above=0)

    def negative(y: float) -> float:
        ratio = math.erf(y) / y
        C = 2 * math.exp(-y * y) / (math.sqrt(math.pi) * ratio)
        return 1 / (1 - C) ** 2 - ratio**2 / (2 * alpha)

    grid = np.geomspace(0.05, 20.0, 200)
    best = int(np.argmin([negative(y) for y in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    inverse = -float(optimize.minimize_scalar(negative, bounds=bounds).fun)
    if inverse <= 0:
        raise ValueError(f"alpha = {alpha:g} is above the capacity 0.13790 of the Hopfield model")
    return 1 / inverse


def spectral_sample_size(alpha: float, r: float) -> float:
    """alpha (1 - r^2)^2 / r^4: with fewer examples the leading K principal components miss.

    The threshold at which the archetypes leave the bulk of the spectrum of the examples'
    covariance; a lower bound on the examples that any spectral method needs. Accurate for K << N.

    Parameters
    ----------
    alpha : float
        Load K / N > 0.
    r : float
        Quality in (0, 1].

    References
    ----------
    Baik, Ben Arous, Peche, arXiv:math/0403022.
    """
    r = real("quality r", r, above=0, most=1)
    return real("alpha", alpha, above=0) * (1 - r * r) ** 2 / r**4


def subspace_overlap(N: int, K: int, M: int, r: float) -> float:
    """|P xi|^2 / N, P the projector on the K leading principal components of the examples.

    (1 - gamma / l^2) / (1 + gamma / l) for gamma < l^2, else 0, with gamma = N / (K M) and
    l = N r^2 / (K (1 - r^2)); for K << N, and from below where K / N is finite.

    Raises
    ------
    ValueError
        A parameter out of range.

    References
    ----------
    Baik, Ben Arous, Peche, arXiv:math/0403022; the overlap is that of Paul, Statist. Sinica 17
    (2007) 1617.
    """
    sizes = whole("N", N, 1), whole("K", K, 1), whole("M", M, 1)
    if real("quality r", r, above=0, most=1) == 1:
        return 1.0
    gamma = sizes[0] / (sizes[1] * sizes[2])
    spike = N * r * r / (K * (1 - r * r))
    return max(0.0, 1 - gamma / spike**2) / (1 + gamma / spike)

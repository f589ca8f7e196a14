"""Replica-symmetric theory of +-1 networks whose couplings are a sum of random modes.

Every associative memory of this folder is H = -1/2 sigma^T J sigma with
J = (1/N) sum of rank-one modes (+ Gaussian disorder), so one solver serves them all. Two order
parameters remain, the overlap n and C = beta (1 - q): plain damped iteration in (m, q) oscillates
and leaves the domain lambda C < 1 on the spin-glass branch at small load, so the solver follows
the outer fixed point in n with a bracketed root in C inside, and polishes with Newton's method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from thermolearn.core.checks import real, whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.systems.memory.replica_equations import STEEPEST, Equations

Branch = Literal["retrieval", "spin_glass"]

# An overlap below this is the symmetric solution n = 0.
ZERO = 1e-7
TOLERANCE = 1e-12
# Up to here the blur of examples is binomial, above normal. A Gauss-Hermite rule of few nodes would
# not do: where the other noise is small, the blur must be resolved on that scale.
MOST_EXAMPLES = 20_000


@dataclass(frozen=True)
class RSState:
    """A replica-symmetric solution.

    Attributes
    ----------
    m, n, q : float
        Overlap with the condensed pattern (archetype), with the field's own pattern chi (the mean
        example; n = m for chi = 1), and the Edwards-Anderson parameter.
    C : float
        beta (1 - q), the susceptibility; finite at T = 0.
    R : float
        Variance of the field of the other modes.
    f, u, entropy : float
        Free energy, internal energy and entropy per spin, J with its diagonal. Without the
        diagonal add ``RSAssociative.diagonal`` to f and u. The entropy is negative near T = 0
        where replica symmetry fails.
    T : float
        Temperature.
    replicon : float
        1 - beta^2 (dR/dq) E sech^4(beta h): below 0 the solution is unstable to replica symmetry
        breaking (de Almeida, Thouless). -inf at T = 0, where RS is always unstable if R > 0.
    residual : float
        Largest error of the two saddle-point equations.
    converged : bool
        residual below 1e-9. `RSAssociative.solve` raises otherwise; a grid may hold False.
    branch : str
        "retrieval" (n > 0) or "spin_glass" (n = 0, q > 0) or "paramagnet" (n = q = 0).
    """

    m: float
    n: float
    q: float
    C: float
    R: float
    f: float
    u: float
    entropy: float
    T: float
    replicon: float
    residual: float
    converged: bool
    branch: str


class RSAssociative:
    """A +-1 network J = sum_k sum_{a <= w_k N} (lambda_k / N) u^a u^a^T + Gaussian disorder.

    The field on a site, in the gauge of the condensed pattern, is h = s n chi + sqrt(R) z,
    z ~ N(0, 1), and with C = beta (1 - q)

        n = E chi tanh(beta h),  q = E tanh^2(beta h),  m = E tanh(beta h),
        R = Delta q + q sum_k w_k lambda_k^2 / (1 - lambda_k C)^2,   lambda_max C < 1.

    Parameters
    ----------
    modes : sequence of (w, lambda)
        w >= 0, the number of modes per spin; lambda their strength, either sign.
    chi : (values, weights), optional
        Distribution of the condensed field's blur; by default chi = 1.
    scale : float
        s > 0.
    delta : float
        Delta >= 0: variance of sqrt(N) J_ij of the Gaussian part.

    Raises
    ------
    ValueError
        A parameter out of range, or neither a mode nor disorder (nothing to condense against is
        fine: modes = [] with delta = 0 is the Curie-Weiss model).

    References
    ----------
    Amit, Gutfreund, Sompolinsky, Phys. Rev. Lett. 55 (1985) 1530, for modes = [(alpha, 1)]; the
    other modes enter as there, one R-transform per strength.
    """

    def __init__(
        self,
        modes: Sequence[tuple[float, float]],
        chi: tuple[ArrayLike, ArrayLike] | None = None,
        scale: float = 1.0,
        delta: float = 0.0,
    ):
        pairs = np.asarray(list(modes), dtype=np.float64).reshape(-1, 2)
        if not np.isfinite(pairs).all() or (pairs[:, 0] < 0).any():
            raise ValueError(f"modes must be pairs (w >= 0, lambda), all finite; got {modes!r}")
        pairs = pairs[(pairs[:, 0] > 0) & (pairs[:, 1] != 0)]
        real("scale", scale, above=0)
        real("delta", delta, least=0)
        values, weights = (np.ones(1), np.ones(1)) if chi is None else chi
        self.chi = np.atleast_1d(np.asarray(values, dtype=np.float64))
        self.weights = np.atleast_1d(np.asarray(weights, dtype=np.float64))
        if self.chi.shape != self.weights.shape or not np.isfinite(self.chi).all():
            raise ValueError("chi must be (values, weights) of one length, all finite")
        if (self.weights < 0).any() or abs(self.weights.sum() - 1) > 1e-9:
            raise ValueError(
                f"the weights of chi must be >= 0 with sum 1, got {self.weights.sum()}"
            )
        self.w, self.lam = pairs.T
        self.scale, self.delta = float(scale), float(delta)

    @property
    def diagonal(self) -> float:
        """sum_k w_k lambda_k / 2: added to f and u when the diagonal of J is zero."""
        return float((self.w * self.lam).sum() / 2)

    @property
    def glass_temperature(self) -> float:
        """T_g, where q leaves 0 at n = 0: T^2 = dR/dq at C = 1 / T; 0 if q stays 0."""
        strength = self.delta + float((self.w * self.lam**2).sum())
        if strength == 0:
            return 0.0
        equations = self.equations(0.0)

        def excess(T: float) -> float:
            return 1.0 - equations.slope(1 / T) / T**2

        strongest = float(self.lam.max(initial=0.0))
        low = strongest * (1 + 1e-9) if strongest > 0 else 1e-3 * math.sqrt(strength)
        if excess(low) >= 0:  # fewer negative modes than spins, and no disorder
            return 0.0
        return bracketed_root(excess, low, strongest + 1.1 * math.sqrt(strength), 1e-14)

    def equations(self, T: float) -> Equations:
        """The saddle-point equations at a temperature."""
        return Equations(self.w, self.lam, self.chi, self.weights, self.scale, self.delta, T)

    def solve(
        self, T: float, branch: Branch = "retrieval", start: RSState | None = None
    ) -> RSState:
        """The replica-symmetric state of a branch at temperature T >= 0.

        Parameters
        ----------
        T : float
            Temperature; 0 is the zero-temperature theory. Below T = sqrt(R) / 1500
            quadrature is refused.
        branch : "retrieval" or "spin_glass"
            The largest n > 0, or n = 0. Where no n > 1e-4 exists "retrieval" returns the state
            with n = 0, whose `branch` says so.
        start : RSState, optional
            A neighboring solution of the same branch for continuation; where Newton's method
            from it fails the branch is searched from the top again.

        Raises
        ------
        ValueError
            T negative, not finite or too small but not 0; an unknown branch.
        ConvergenceError
            The equations are not solved to 1e-9.
        """
        if not isinstance(T, (int, float, np.number)):
            raise TypeError(f"T must be one number, not {type(T).__name__}")
        real("T", T, least=0)
        if branch not in ("retrieval", "spin_glass"):
            raise ValueError(f'branch must be "retrieval" or "spin_glass", got {branch!r}')
        equations = self.equations(float(T))
        point = None
        if branch == "retrieval":
            if start is not None and start.n > ZERO:
                point = _newton(equations, start.n, start.C, start.n)
            point = point or _retrieval(equations)
        if point is None:
            glass = T == 0 or self.glass_temperature > T
            point = (0.0, _susceptibility(equations, 0.0) if glass else 1 / T)
        return _state(equations, *point)


# -- solving -----------------------------------------------------------------------------------


def _susceptibility(equations: Equations, n: float) -> float:
    """C at fixed n: g_C > 0 at C = 0 and < 0 at the upper end of C."""

    def g(C: float) -> float:
        return equations.residuals(n, C)[1]

    if equations.T == 0 and equations.slope(0.0) == 0:
        return 0.0
    top = equations.top
    if math.isinf(top):
        top = 1.0
        while g(top) > 0:
            top *= 2
            if top > 1e12:
                raise ConvergenceError(
                    "the susceptibility diverges: negative modes alone leave the ground state "
                    "degenerate at T = 0; take T > 0"
                )
    low, high = 1e-13 * top, top * (1 - 1e-12)
    if n == 0 and equations.T > 0:
        # q = 0 solves the equation too: stop short of it, where g points to smaller C
        shares = (top * (1 - 10.0**-k) for k in range(12, 0, -1))
        high = next((C for C in shares if g(C) < 0), high)
    if g(high) > 0:
        return high  # q within 1e-12 of 0: the residual decides
    return low if g(low) < 0 else bracketed_root(g, low, high, 1e-15)


def _total(equations: Equations, n: float) -> tuple[float, float]:
    """G(n) = g_n(n, C(n)) and its derivative: roots with G' < 0 are stable."""
    C = _susceptibility(equations, n)
    return equations.residuals(n, C)[0], _total_slope(equations.jacobian(n, C))


def _total_slope(jacobian: np.ndarray) -> float:
    return float(jacobian[0, 0] - jacobian[0, 1] * jacobian[1, 0] / jacobian[1, 1])


def _retrieval(equations: Equations) -> tuple[float, float] | None:
    """The largest n > 0: iteration from above, where G(n) < 0 down to the first root.

    States of smaller n may exist besides, where the blur chi has few values. Newton's method takes
    over near a root, `_bottleneck` where the iteration creeps because two roots are about to meet,
    or have just met.
    """
    n = float(equations.weights @ np.abs(equations.chi))
    step = math.inf
    for iteration in range(2000):
        C = _susceptibility(equations, n)
        if abs(step) < 1e-13:
            return n, C
        new = n + equations.residuals(n, C)[0]
        if new < 1e-4:
            return None
        step, n = n - new, new
        if abs(step) < 3e-3 * n or iteration % 5 == 4:
            point = _newton(equations, n, C, n + abs(step))
            if point is not None:
                return point
        if iteration % 10 == 9 and step > 0:
            n, found = _bottleneck(equations, n, step)
            if found:
                return n, _susceptibility(equations, n)
    raise ConvergenceError(
        f"no replica-symmetric state after 2000 iterations at T = {equations.T:.6g} (n = {n:.6g}, "
        f"last step {step:.3g}); move the parameters by 1e-6, this may be a spinodal"
    )


def _bottleneck(equations: Equations, n: float, step: float) -> tuple[float, bool]:
    """Pass the place below n where G < 0 is largest, or find its root there.

    Returns a new n and whether it is a root.
    """

    def value(x: float) -> float:
        return _total(equations, x)[0]

    def slope(x: float) -> float:
        return _total(equations, x)[1]

    if slope(n) > 0:  # already below the maximum: the iteration is leaving it
        return n, False
    width, high = 4 * step, n
    while (low := high - width) > 0.2 * n:
        if value(low) >= 0:
            return bracketed_root(value, low, high, 1e-15), True
        if slope(low) > 0:  # the maximum lies between
            top = bracketed_root(slope, low, high)
            if value(top) < 0:
                return low, False
            return bracketed_root(value, top, high, 1e-15), True
        high, width = low, 2 * width
    return high, False  # as at a continuous transition, where n creeps to 0


def _newton(equations: Equations, n: float, C: float, ceiling: float) -> tuple[float, float] | None:
    """Newton's method in (n, C); None unless it ends on a stable root in its neighborhood."""
    start = n
    for _ in range(30):
        if equations.T > 0 and equations.steepness(C) > STEEPEST:
            return None
        residuals = equations.residuals(n, C)
        jacobian = equations.jacobian(n, C)
        if max(map(abs, residuals)) < TOLERANCE * max(1.0, C):
            break
        determinant = float(np.linalg.det(jacobian))
        if not math.isfinite(determinant) or abs(determinant) < 1e-14:
            return None
        step = np.linalg.solve(jacobian, residuals)
        n, C = n - float(step[0]), C - float(step[1])
        if not (0 < n <= 1.5 * ceiling and 0 <= C < equations.top):
            return None
    else:
        return None
    if n < 1e-3 or abs(n - start) > 0.3 * start:
        return None
    return (n, C) if _total_slope(jacobian) < 0 and jacobian[1, 1] < 0 else None


def _state(equations: Equations, n: float, C: float) -> RSState:
    residual = max(map(abs, equations.residuals(n, C)))
    if residual > 1e-9 * max(1.0, C):
        raise ConvergenceError(
            f"the saddle-point equations are solved to {residual:.3g} only at T = "
            f"{equations.T:.6g} (n = {n:.6g}, C = {C:.6g}); move away from the spinodal"
        )
    T, q = equations.T, 1 - equations.T * C
    q = 0.0 if abs(q) < 1e-11 else q
    m, f, u, entropy, replicon = equations.observables(n, C)
    branch = "retrieval" if n > ZERO else "spin_glass" if q > 0 else "paramagnet"
    return RSState(
        m=m if n > ZERO else 0.0,
        n=n,
        q=q,
        C=C,
        R=q * equations.slope(C),
        f=f,
        u=u,
        entropy=entropy,
        T=T,
        replicon=replicon,
        residual=residual,
        converged=True,
        branch=branch,
    )


def binomial_chi(M: int, r: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights of the mean of M signs of mean r: (2 k - M) / M, k ~ Bin(M, (1 + r) / 2).

    Weights below 1e-14 are dropped. Above M = 20 000 the normal of the same mean and variance
    replaces them, on 1601 equidistant nodes: its error in the averages is of order 1 / M.

    Raises
    ------
    ValueError
        M not an integer of at least 1, or r outside [0, 1].
    """
    whole("M", M, 1)
    real("quality r", r, least=0, most=1)
    p = (1 + r) / 2
    if p == 1:
        return np.ones(1), np.ones(1)
    if M > MOST_EXAMPLES:
        z = np.linspace(-8.5, 8.5, 1601)
        density = np.exp(-z * z / 2)
        return r + math.sqrt((1 - r * r) / M) * z, density / density.sum()
    k = np.arange(M + 1)
    log_weight = special.gammaln(M + 1) - special.gammaln(k + 1) - special.gammaln(M - k + 1)
    weight = np.exp(log_weight + k * math.log(p) + (M - k) * math.log1p(-p))
    kept = weight > 1e-14
    return (2 * k[kept] - M) / M, weight[kept] / weight[kept].sum()

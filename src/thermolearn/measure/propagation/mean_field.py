"""The mean-field map of a deep random network: lengths and correlations from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor

from thermolearn.core.activation import Activation, resolve_activation
from thermolearn.core.checks import real, whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.measure.propagation.averages import (
    COARSE,
    NODES,
    half_square_difference,
    moments,
    pair_moments,
    refuse_jump,
)

ActivationLike = str | Callable[[Tensor], Tensor] | Activation

WIDE = "leading order in the width; stderr is the numerical error"
LARGEST, SMALLEST = 1e9, 1e-12  # of a variance that is looked for
STEP = 1.05  # of the search for a fixed point
ROUNDING = 1e-13  # relative; what a fixed point is found to
CLOSEST = 1e-12  # distance 1 - c* that is resolved
EQUAL = 1e-11  # chi_1 - 1 that is the rounding of the averages
CRITICAL = 1e-4  # |chi_1 - 1| below which the phase is called critical
MOST_LAYERS = 100_000


@dataclass(frozen=True)
class FixedPoint:
    """A variance that the map leaves alone: V(q) = q, and the slope V'(q) there."""

    q: float
    slope: float

    @property
    def stable(self) -> bool:
        """Whether variances nearby come closer: |V'(q)| < 1."""
        return abs(self.slope) < 1


@dataclass(frozen=True, eq=False)
class MeanFieldMap:
    """Mean-field theory of z_l = W_l f(z_{l-1}) + b_l in the limit of wide layers.

    Weights of variance sigma_w2 / fan-in and biases of variance sigma_b2 are independent. Then
    pre-activations are Gaussian, and from one layer to the next

        V(q) = sigma_w2 E f(sqrt(q) x)^2 + sigma_b2,   x ~ N(0, 1)               (variance)
        C(c) = [sigma_w2 E f(u) f(v) + sigma_b2] / V(q),   u, v ~ N(0, q)         (correlation)

    with u and v of correlation c. At the fixed point q* the slope C'(1) = chi_1 = sigma_w2 E
    f'(sqrt(q*) x)^2 is also the factor by which the squared gradient grows per layer backwards.

    Parameters
    ----------
    activation : str, module or callable
        See `core.activation.resolve_activation`.
    sigma_w2 : float
        Weight variance times fan-in, > 0.
    sigma_b2 : float
        Bias variance, >= 0.

    Raises
    ------
    ValueError, TypeError
        A variance out of range, or an activation that cannot be used.
    NotApplicableError
        Of the methods that need a slope (all but `variance`, and `correlation` and `trajectory`
        at a given q): the activation jumps.

    Notes
    -----
    Poole et al., arXiv:1606.05340 (the maps), Schoenholz et al., arXiv:1611.01232 (depth scales).
    All methods return Estimates whose stderr is the numerical error. Corrections at finite width
    N are of relative order depth / N.
    """

    activation: ActivationLike
    sigma_w2: float
    sigma_b2: float = 0.0
    _f: Activation = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma_w2", real("sigma_w2", self.sigma_w2, above=0.0))
        object.__setattr__(self, "sigma_b2", real("sigma_b2", self.sigma_b2, least=0.0))
        object.__setattr__(self, "_f", resolve_activation(self.activation))

    # -- the maps ----------------------------------------------------------------------------
    def variance(self, q: float) -> Estimate:
        """V(q), the pre-activation variance one layer after q >= 0."""
        return self._estimate(lambda n: self._v(_variance(q), n))

    def correlation(self, c: float, q: float | None = None) -> Estimate:
        """C(c, q), the correlation one layer after c in [-1, 1] between inputs of variance q.

        Default q: `q_star`.
        """
        c = real("c", c, least=-1.0, most=1.0)
        at = self._operating_point(q)
        return self._estimate(lambda n: self._c(c, at, n))

    def trajectory(
        self, q0: float, depth: int, c0: float | None = None
    ) -> tuple[Estimate, Estimate]:
        """q_l and c_l for l = 0..depth from q_0 and, of two inputs of that variance, c_0.

        Returns
        -------
        variances, correlations : Estimate, arrays (depth + 1,)
            NaN correlations without `c0`. If the variance passes 1e9 the rest is inf, and the
            status is "diverges".
        """
        q, c = _variance(q0), math.nan if c0 is None else real("c0", c0, least=-1.0, most=1.0)
        depth = whole("depth", depth, 0, MOST_LAYERS)
        fine, coarse = (self._iterate(q, c, depth, n) for n in (NODES, COARSE))
        status = "ok" if np.isfinite(fine[0]).all() else "diverges"
        with np.errstate(invalid="ignore"):
            error = np.nan_to_num(np.abs(fine - coarse), nan=0.0)
        return (
            Estimate(fine[0], error[0], status=status, note=WIDE),
            Estimate(fine[1], error[1], status=status, note=WIDE),
        )

    # -- the fixed points --------------------------------------------------------------------
    def q_star(self, q0: float = 1.0) -> Estimate:
        """The variance q* = V(q*) that deep layers reach from the variance q0 > 0.

        Status "unstable" if q0 sits on a fixed point with V'(q*) > 1 (variances beside it run
        away from it: with GELU and SiLU every critical point of small q is of this kind), and
        "marginal" if V'(q*) = 1 (ReLU at sigma_w2 = 2: every q is a fixed point).

        Raises
        ------
        ConvergenceError
            No finite fixed point q* is reached; the message names those that exist.
        """
        q0 = real("q0", q0, above=0.0, most=LARGEST)
        found = self._reach(q0)
        coarse = found.q
        if found.q not in (0.0, q0):  # error of the root: that of V over 1 - V'
            shift = abs(self._v(found.q, NODES) - self._v(found.q, COARSE))
            coarse = found.q + shift / max(abs(1 - found.slope), 1e-8)
        return Estimate(
            found.q,
            abs(coarse - found.q) + ROUNDING * found.q,
            status=_stability(found.slope, found.q),
            note=f"reached from q_0 = {q0:.6g}; V'(q*) = {found.slope:.6g}; {WIDE}",
        )

    def fixed_points(self, smallest: float = 1e-6, largest: float = 1e4) -> list[FixedPoint]:
        """All q in [smallest, largest] with V(q) = q, ascending, stable or not (and q = 0).

        Only isolated ones, and none that touches the diagonal without crossing it.
        """
        grid = np.geomspace(smallest, largest, 1 + math.ceil(math.log(largest / smallest, 1.1)))
        excess = np.array([self._excess(q) for q in grid])
        excess[np.abs(excess) < 4 * ROUNDING] = 0.0
        zero = [FixedPoint(0.0, self._slope(0.0))] if self._v(0.0) < 1e-24 else []
        crossing = np.flatnonzero(excess[:-1] * excess[1:] < 0)
        return zero + [self._root(grid[k], grid[k + 1]) for k in crossing]

    def variance_slope(self, q: float | None = None) -> Estimate:
        """V'(q) = sigma_w2 E f f' z / q; above 1 at q* the variance is unstable.

        Default q: `q_star`.
        """
        at = self._operating_point(q)
        return self._estimate(lambda n: self._slope(at, n))

    def chi(self, q: float | None = None) -> Estimate:
        """chi_1 = sigma_w2 E f'(sqrt(q) x)^2: below 1 ordered, above 1 chaotic.

        Default q: `q_star`.
        """
        at = self._operating_point(q)
        return self._estimate(lambda n: self._chi(at, n))

    def c_star(self, q: float | None = None) -> Estimate:
        """The stable correlation c* = C(c*) of two inputs: 1 if chi_1 <= 1, below 1 in chaos.

        Status "marginal" where every correlation stays (q* = 0 of an activation that is linear
        there, or a linear activation without biases), and where c* is below 1 by less than 1e-12.
        """
        at = self._operating_point(q)
        fine = self._c_star(at, NODES)
        error = abs(fine - self._c_star(at, COARSE))
        excess = self._chi(at) - 1
        if 0 < fine < 1 and excess > 0:  # rounding of the two averages that chi_1 - 1 compares
            error += min(ROUNDING / excess, 1.0) * (1 - fine)
        unresolved = fine == 1.0 and excess > EQUAL
        marginal = unresolved or (fine == 1.0 and abs(self._c(0.5, at) - 0.5) < ROUNDING)
        return Estimate(fine, error, status="marginal" if marginal else "ok", note=WIDE)

    def xi_q(self, q: float | None = None) -> Estimate:
        """Depth scale of the variance, -1 / ln |V'(q*)| layers; inf if it does not shrink."""
        return self._depth_scale(self.variance_slope(q))

    def xi_c(self, q: float | None = None) -> Estimate:
        """Depth scale of correlations, -1 / ln [sigma_w2 E f'(u) f'(v)] layers at c*; inf at the
        transition. Inputs can be told apart to a depth of about 6 xi_c (Schoenholz et al.)."""
        at, c = self._operating_point(q), self.c_star(q)
        slope = self._estimate(lambda n: self._correlation_slope(float(c), at, n))
        # c* is a root: where it moves, the slope moves as well
        near = self._correlation_slope(max(float(c) - float(c.stderr), -1.0), at)
        error = float(slope.stderr) + abs(near - float(slope))
        return self._depth_scale(Estimate(slope.value, error, note=WIDE))

    def gradient_depth(self, q: float | None = None) -> Estimate:
        """Depth scale of gradients, 1 / |ln chi_1| layers."""
        chi = self.chi(q)
        if float(chi) <= 0 or abs(math.log(float(chi))) < 1e-12:
            return Estimate(math.inf if float(chi) > 0 else 0.0, note=WIDE)
        rate = math.log(float(chi))
        return Estimate(1 / abs(rate), float(chi.stderr) / (float(chi) * rate**2), note=WIDE)

    def phase(self, q: float | None = None, tolerance: float = CRITICAL) -> str:
        """ "ordered", "chaotic", or "critical" where |chi_1 - 1| <= tolerance."""
        chi = float(self.chi(q))
        if abs(chi - 1) <= tolerance:
            return "critical"
        return "ordered" if chi < 1 else "chaotic"

    # -- numbers -----------------------------------------------------------------------------
    def _estimate(self, function: Callable[[int], float]) -> Estimate:
        fine = function(NODES)
        return Estimate(fine, abs(fine - function(COARSE)), note=WIDE)

    def _operating_point(self, q: float | None) -> float:
        return self._q if q is None else _variance(q)

    @cached_property
    def _q(self) -> float:
        return float(self.q_star())

    def _v(self, q: float, n: int = NODES) -> float:
        return self.sigma_w2 * moments(self._f, q, n).square + self.sigma_b2

    def _slope(self, q: float, n: int = NODES) -> float:
        refuse_jump(self._f)
        return self.sigma_w2 * moments(self._f, q, n).growth

    def _chi(self, q: float, n: int = NODES) -> float:
        refuse_jump(self._f)
        return self.sigma_w2 * moments(self._f, q, n).slope_square

    def _c(self, c: float, q: float, n: int = NODES) -> float:
        both = self.sigma_w2 * pair_moments(self._f, q, c, n)[0] + self.sigma_b2
        same = self.sigma_w2 * pair_moments(self._f, q, 1.0, n)[0] + self.sigma_b2
        return min(max(both / same, -1.0), 1.0) if same > 0 else math.nan

    def _correlation_slope(self, c: float, q: float, n: int = NODES) -> float:
        return self.sigma_w2 * pair_moments(self._f, q, c, n)[1]

    def _excess(self, q: float) -> float:
        """V(q) / q - 1; inf where V is not finite."""
        try:
            return self._v(q) / q - 1
        except ValueError:
            return math.inf

    def _iterate(self, q: float, c: float, depth: int, n: int) -> np.ndarray:
        path = np.full((2, depth + 1), [[math.inf], [math.nan]])
        for layer in range(depth + 1):
            path[:, layer] = q, c
            if layer == depth or q > LARGEST:
                break
            if not math.isnan(c):
                c = self._c(c, q, n)
            try:
                q = self._v(q, n)
            except ValueError:  # the activation outgrows the Gaussian
                break
        return path

    def _root(self, low: float, high: float) -> FixedPoint:
        q = bracketed_root(self._excess, low, high, tol=1e-15, log=True)
        return FixedPoint(q, self._slope(q))

    def _reach(self, q0: float) -> FixedPoint:
        """Follow the sign of V(q) - q from q0 to the first fixed point."""
        start = self._excess(q0)
        if abs(start) <= 4 * ROUNDING:
            return FixedPoint(q0, self._slope(q0))
        low, factor = q0, STEP if start > 0 else 1 / STEP
        while SMALLEST < low * factor < LARGEST:
            high = low * factor
            excess = self._excess(high)
            if excess * start <= 0:
                found = self._root(min(low, high), max(low, high))
                return found if found.slope >= 0 else self._settle(q0)
            low = high
        if start < 0 and self._v(0.0) <= 1e-24:
            return FixedPoint(0.0, self._slope(0.0))
        raise ConvergenceError(self._no_fixed_point(q0))

    def _settle(self, q0: float) -> FixedPoint:
        """Plain forward iteration, for a variance map that falls at its fixed point."""
        q = q0
        for _ in range(MOST_LAYERS // 50):
            new = self._v(q)
            if abs(new - q) <= ROUNDING * q:
                return FixedPoint(new, self._slope(new))
            q = new
        raise ConvergenceError(
            f"the variance keeps oscillating from q_0 = {q0:.6g} (V'(q*) <= -1): there is no q* "
            "that deep layers reach; lower sigma_w2"
        )

    def _no_fixed_point(self, q0: float) -> str:
        others = [f"{p.q:.6g} (V' = {p.slope:.5g})" for p in self.fixed_points()]
        return (
            f"no finite fixed point q* is reached from q_0 = {q0:.6g} with {self._f.name}, "
            f"sigma_w2 = {self.sigma_w2:.6g}, sigma_b2 = {self.sigma_b2:.6g}: the variance grows "
            "without bound. "
            + (
                f"Fixed points: {', '.join(others)}; start"
                if others
                else "Lower sigma_w2, or start"
            )
            + " at or below a fixed point (q0 = ..., and inputs rescaled to it)"
        )

    def _c_star(self, q: float, n: int) -> float:
        if self._chi(q, n) <= 1 + EQUAL:
            return 1.0
        if abs(at_zero := self._c(0.0, q, n)) < 1e-14:  # odd, without biases
            return 0.0
        if at_zero < 0:
            return 0.0
        same = self._v(q, n)

        def excess(distance: float) -> float:
            apart = half_square_difference(self._f, q, distance, n)
            return 1 - self.sigma_w2 * apart / (same * distance)

        # at distance d below 1 the map exceeds the diagonal only beyond c*
        if excess(CLOSEST) >= 0:
            return 1.0
        return 1.0 - bracketed_root(excess, CLOSEST, 1.0, tol=1e-13, log=True)

    def _depth_scale(self, slope: Estimate) -> Estimate:
        s, error = abs(float(slope)), float(slope.stderr)
        if s == 0:
            return Estimate(0.0, note=WIDE)
        if s >= 1 - max(1e-12, error):
            grows = s > 1 + max(1e-9, error)
            return Estimate(math.inf, status="unstable" if grows else "ok", note=WIDE)
        rate = -math.log(s)
        return Estimate(1 / rate, error / (s * rate**2), note=WIDE)


def _variance(q: float) -> float:
    return real("q", q, least=0.0)


def _stability(slope: float, q: float) -> str:
    if abs(slope - 1) <= (1e-9 if q > 0 else 0.0):
        return "marginal"
    return "ok" if abs(slope) < 1 or q == 0 else "unstable"

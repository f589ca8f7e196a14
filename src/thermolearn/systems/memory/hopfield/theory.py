"""Replica-symmetric theory of the Hopfield model, and its phase diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.core.progress import track
from thermolearn.systems.memory.replica_equations import STEEPEST
from thermolearn.systems.memory.replica_symmetric import Branch, RSAssociative, RSState

# Below this temperature quadrature gives way to the theory at T = 0.
COLDEST = 2e-3


def hopfield_theory(alpha: float, T: float, branch: Branch = "retrieval") -> RSState:
    """Replica-symmetric state of the Hopfield model at load alpha = K / N and temperature T.

        m = E tanh(beta (m + sqrt(alpha r) z)),  q = E tanh^2(...),  r = q / (1 - beta (1 - q))^2

    Parameters
    ----------
    alpha : float
        Patterns per spin, > 0.
    T : float
        Temperature >= 0; 0 is the limit in closed form.
    branch : "retrieval" or "spin_glass"
        Where no retrieval state exists, m = 0 is returned and the state's `branch` says so.

    Returns
    -------
    RSState
        f, u with the diagonal of J, J_ii = alpha; without it add alpha / 2 to both.

    Raises
    ------
    ValueError
        alpha <= 0 or T < 0, or either not finite.
    ConvergenceError
        The equations are not solved to 1e-9.

    References
    ----------
    Amit, Gutfreund, Sompolinsky, Phys. Rev. Lett. 55 (1985) 1530; Ann. Phys. 173 (1987) 30.
    """
    return _engine(alpha).solve(T, branch)


@dataclass(frozen=True)
class Capacity:
    """Storage capacity at T = 0.

    Attributes
    ----------
    alpha_c, m_c : Estimate
        The load at which retrieval ends, and the overlap there.
    alpha_1 : Estimate
        The load up to which the retrieval states are the ground states.
    """

    alpha_c: Estimate
    m_c: Estimate
    alpha_1: Estimate


def hopfield_capacity() -> Capacity:
    """Storage capacity of the Hopfield model at T = 0, replica symmetric.

    With y = m / sqrt(2 R) the equations at T = 0 are sqrt(2 alpha) = erf(y) / y - (2 / sqrt(pi))
    exp(-y^2); alpha_c is the maximum over y. alpha_1 is where the energies of retrieval and spin
    glass meet. (Replica symmetry breaking raises alpha_c to about 0.1382.)

    References
    ----------
    Amit, Gutfreund, Sompolinsky, Ann. Phys. 173 (1987) 30.
    """

    def root_of_load(y: float) -> float:
        return float(special.erf(y)) / y - 2 / math.sqrt(math.pi) * math.exp(-y * y)

    def slope(y: float) -> float:
        gauss = 2 / math.sqrt(math.pi) * math.exp(-y * y)
        return gauss / y - float(special.erf(y)) / y**2 + 2 * y * gauss

    y = bracketed_root(slope, 1.0, 2.0, 1e-15)

    def gap(alpha: float) -> float:
        return hopfield_theory(alpha, 0).f - hopfield_theory(alpha, 0, "spin_glass").f

    alpha_1 = bracketed_root(gap, 0.03, 0.1, 1e-12)
    return Capacity(
        Estimate(root_of_load(y) ** 2 / 2, 1e-14),
        Estimate(float(special.erf(y)), 1e-14),
        # the energies are good to 1e-12, their difference changes by 0.1 per unit of load
        Estimate(alpha_1, 1e-10),
    )


@dataclass(frozen=True)
class PhaseDiagram:
    """Transition temperatures of the Hopfield model.

    Attributes
    ----------
    alphas, T_M, T_c, T_g : ndarray (n,)
        Loads; end of the retrieval states, end of their global stability, freezing. NaN where
        there is none.
    status : list of str
        Why T_M or T_c is NaN, else "ok".
    """

    alphas: np.ndarray
    T_M: np.ndarray
    T_c: np.ndarray
    T_g: np.ndarray
    status: list[str]


def hopfield_phase_diagram(alphas: Sequence[float] | np.ndarray) -> PhaseDiagram:
    """T_M, T_c and T_g = 1 + sqrt(alpha) at the given loads.

    T_M: largest T with a retrieval state, found as the fold where the overlap equation and its
    derivative vanish together. T_c < T_M: the free energies of retrieval and spin glass are equal.

    Parameters
    ----------
    alphas : sequence of float
        Loads > 0, each at least 1e-4.

    Raises
    ------
    ValueError
        A load out of range.
    """
    loads = np.atleast_1d(np.asarray(alphas, dtype=np.float64))
    if loads.ndim != 1 or not loads.size or not (loads >= 1e-4).all():
        raise ValueError("alphas must be loads of at least 1e-4")
    capacity = hopfield_capacity()
    lines = [_transitions(float(a), capacity) for a in track(loads, "phase diagram", len(loads))]
    T_M, T_c, status = zip(*lines, strict=True)
    return PhaseDiagram(loads, np.array(T_M), np.array(T_c), 1 + np.sqrt(loads), list(status))


def spinodal_temperature(alpha: float) -> Estimate:
    """T_M(alpha), the largest temperature with a retrieval state.

    Raises
    ------
    ValueError
        alpha <= 0, or above the capacity, where no temperature has one.
    """
    engine = _engine(alpha)
    if engine.solve(0.0).branch != "retrieval":
        raise ValueError(f"alpha = {alpha} is above the capacity 0.137906: there is no T_M")
    low, high, state = 0.0, 1.0, engine.solve(0.0)
    while high > COLDEST and high - low > 1e-9:
        middle = (low + high) / 2
        found = engine.solve(middle)
        if found.branch != "retrieval":
            high = middle
            continue
        low, state = middle, found
        fold = _fold(engine, state, high)
        if fold is not None:
            return fold
    if low > 0:
        return Estimate(low, high - low)
    return Estimate(0.0, high, status="bracketed", note=f"between T = 0 and {high:.3g}")


def transition_temperature(alpha: float) -> Estimate | None:
    """T_c(alpha), where retrieval and spin glass have the same free energy.

    None above alpha_1 = 0.0518543, where the spin glass is lower at every temperature.
    """
    engine = _engine(alpha)

    def gap(T: float) -> float:
        return engine.solve(T).f - engine.solve(T, "spin_glass").f

    if engine.solve(0.0).branch != "retrieval" or gap(0.0) >= 0:
        return None
    # just below the fold the retrieval state is still there, and higher in f
    high = float(spinodal_temperature(alpha)) * (1 - 1e-7)
    low = high / 2
    while gap(low) >= 0:
        low, high = low / 2, low
        if low < COLDEST:
            return Estimate(0.0, high, status="bracketed", note=f"between T = 0 and {high:.3g}")
    return Estimate(bracketed_root(gap, low, high, 1e-11), 1e-10)


def _engine(alpha: float) -> RSAssociative:
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be a finite load > 0, got {alpha!r}")
    return RSAssociative([(alpha, 1.0)])


def _fold(engine: RSAssociative, state: RSState, high: float) -> Estimate | None:
    """Where the equations and the determinant of their Jacobian vanish together, in (n, C, T).

    None unless the search from a retrieval state below ends between its T and `high`.
    """

    def system(x: np.ndarray) -> list[float]:
        n, C, T = map(float, x)
        equations = engine.equations(T)
        if not (T > 0 and 0 < C < equations.top and equations.steepness(C) < STEEPEST):
            return [1.0, 1.0, 1.0]
        return [*equations.residuals(n, C), float(np.linalg.det(equations.jacobian(n, C)))]

    if state.T == 0:
        return None
    solution = optimize.root(system, [state.n, state.C, state.T], method="hybr", tol=1e-13)
    n, _, T = solution.x
    residual = float(np.abs(system(solution.x)).max())
    if residual > 1e-9 or not 0 < n < 1 or not state.T <= T <= high:
        return None
    return Estimate(float(T), 1e-10 + 10 * residual)


def _transitions(alpha: float, capacity: Capacity) -> tuple[float, float, str]:
    if alpha >= float(capacity.alpha_c):
        return math.nan, math.nan, "no T_M and no T_c: the load is above capacity"
    T_M = spinodal_temperature(alpha)
    T_c = transition_temperature(alpha)
    if T_c is None:
        return float(T_M), math.nan, "no T_c: the spin glass is lower at every temperature"
    return float(T_M), float(T_c), "ok"

"""Replica-symmetric theory of the Hopfield model, and its phase diagram."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from thermolearn.core.checks import real
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.core.progress import track
from thermolearn.systems.memory.replica_equations import STEEPEST
from thermolearn.systems.memory.replica_symmetric import Branch, RSAssociative, RSState

# Below this temperature quadrature gives way to the theory at T = 0.
COLDEST = 2e-3
# Where replica-symmetric retrieval may exist though there is none at T = 0: the load at its end
# is largest, 0.138189, at T = 0.0229.
REENTRANT = 0.0229 + 0.02 * np.array([0.0, -0.25, 0.25, -0.5, 0.5, -0.75, 0.75, 1.0])


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
    glass meet. Around T = 0.02 the load may be .00028 larger, where the theory is reentrant.
    (Replica symmetry breaking raises alpha_c to about 0.1382.)

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
        Why T_M or T_c is NaN, or where the phase is reentrant, else "ok".
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
    lines = [_transitions(float(a)) for a in track(loads, "phase diagram", len(loads))]
    T_M, T_c, status = zip(*lines, strict=True)
    return PhaseDiagram(loads, np.array(T_M), np.array(T_c), 1 + np.sqrt(loads), list(status))


def spinodal_temperature(alpha: float) -> Estimate:
    """T_M(alpha), the largest temperature with a retrieval state.

    Replica-symmetric retrieval is reentrant: for 0.137906 < alpha < 0.138189 it exists only
    between two temperatures, of which this is the upper; the note gives the lower.

    Raises
    ------
    ValueError
        alpha <= 0, or above the capacity at every temperature.
    """
    engine = _engine(alpha)
    ends = _retrieval_interval(engine)
    if ends is None:
        raise ValueError(f"alpha = {alpha} is above capacity at every temperature: there is no T_M")
    return ends[1]


def transition_temperature(alpha: float) -> Estimate | None:
    """T_c(alpha), below which retrieval has a lower free energy than the spin glass.

    Reentrant as well, because the entropy of the replica-symmetric spin glass is negative at low
    T: for 0.0518543 < alpha < 0.0531 retrieval is lower only between two temperatures, of which
    this is the upper; the note gives the lower. None where the spin glass is lower at every
    temperature.
    """
    engine = _engine(alpha)
    ends = _retrieval_interval(engine)
    return None if ends is None else _crossing(engine, float(ends[1]))


def _crossing(engine: RSAssociative, end: float) -> Estimate | None:
    """T_c of a load whose retrieval states end at a temperature."""

    def gap(T: float) -> float:
        state = engine.solve(T)
        if state.branch != "retrieval":
            return 1.0
        return state.f - engine.solve(T, "spin_glass").f

    # just below the fold the retrieval state is still there, and higher in f
    high = end * (1 - 1e-7)
    if gap(0.0) < 0:
        return Estimate(_change_of_sign(gap, high), 1e-10)
    best: Any = optimize.minimize_scalar(gap, bounds=(COLDEST, high), options={"xatol": 1e-6})
    if best.fun >= 0:
        return None
    lower = bracketed_root(gap, COLDEST, float(best.x), 1e-11)
    note = f"reentrant: retrieval is the ground state only above T = {lower:.6g}"
    return Estimate(bracketed_root(gap, float(best.x), high, 1e-11), 1e-10, note=note)


def _change_of_sign(gap: Callable[[float], float], high: float) -> float:
    """The root of a gap that is negative at T = 0 and positive at `high`."""
    low = high / 2
    while gap(low) >= 0:
        low, high = low / 2, low
    return bracketed_root(gap, low, high, 1e-11)


def _retrieval_interval(engine: RSAssociative) -> tuple[float, Estimate] | None:
    """Lowest and highest temperature with a retrieval state; None if there is none."""
    state = engine.solve(0.0)
    if state.branch == "retrieval":
        return 0.0, _upper_end(engine, state)
    found = (engine.solve(float(T)) for T in REENTRANT)
    state = next((s for s in found if s.branch == "retrieval"), None)
    if state is None:
        return None
    lower = _lower_end(engine, state)
    end = _upper_end(engine, state)
    note = f"reentrant: retrieval states exist only above T = {lower:.6g}"
    return lower, Estimate(end.value, end.stderr, status=end.status, note=note)


def _lower_end(engine: RSAssociative, state: RSState) -> float:
    """Where the retrieval branch through a state ends on cooling, though not to T = 0."""
    low, high = 0.0, state.T
    while high - low > 1e-9:
        middle = (low + high) / 2
        found = engine.solve(middle) if middle > COLDEST / 10 else engine.solve(0.0)
        if found.branch != "retrieval":
            low = middle
            continue
        high, state = middle, found
        fold = _fold(engine, state, low, high)
        if fold is not None:
            return float(fold)
    return high


def _upper_end(engine: RSAssociative, state: RSState) -> Estimate:
    """Where the retrieval branch through a state ends on heating."""
    low, high = state.T, 1.0
    while high > COLDEST and high - low > 1e-9:
        middle = (low + high) / 2
        found = engine.solve(middle)
        if found.branch != "retrieval":
            high = middle
            continue
        low, state = middle, found
        fold = _fold(engine, state, low, high)
        if fold is not None:
            return fold
    if low > 0:
        return Estimate(low, high - low)
    return Estimate(0.0, high, status="bracketed", note=f"between T = 0 and {high:.3g}")


def _engine(alpha: float) -> RSAssociative:
    if not isinstance(alpha, (int, float, np.number)):
        raise TypeError(
            f"alpha must be one number, not {type(alpha).__name__}; for several loads see "
            "hopfield_phase_diagram and hopfield_map"
        )
    return RSAssociative([(real("alpha", alpha, above=0), 1.0)])


def _fold(engine: RSAssociative, state: RSState, low: float, high: float) -> Estimate | None:
    """Where the equations and the determinant of their Jacobian vanish together, in (n, C, T).

    None unless the search from a retrieval state ends between two temperatures.
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
    if residual > 1e-9 or not 0 < n < 1 or not low <= T <= high:
        return None
    return Estimate(float(T), 1e-10 + 10 * residual)


def _transitions(alpha: float) -> tuple[float, float, str]:
    engine = _engine(alpha)
    ends = _retrieval_interval(engine)
    if ends is None:
        return math.nan, math.nan, "no T_M and no T_c: above capacity at every temperature"
    T_c = _crossing(engine, float(ends[1]))
    if T_c is None:
        note = ends[1].note or "the spin glass is lower at every temperature"
        return float(ends[1]), math.nan, f"no T_c: {note}"
    return float(ends[1]), float(T_c), T_c.note or "ok"

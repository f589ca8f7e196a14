"""Decimation step by step: the replica-symmetric theory of each column's associative memory.

References: Camilli, Mezard, arXiv:2212.02105 and arXiv:2307.16564 (the scheme and its theory for
general priors). Here the prior is +-1 and every step is a Hopfield model with Gaussian disorder
and with the residuals of the columns already taken off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.core.progress import track
from thermolearn.systems.memory.decimation.problem import Params
from thermolearn.systems.memory.replica_symmetric import ZERO, RSAssociative, RSState

NO_RETRIEVAL = "no retrieval"
# Replica symmetry puts the glass too low, by 4% of its energy in the Sherrington-Kirkpatrick model;
# annealing (100 sweeps, N = 600) ended 4% to 6% above it. Columns scatter by SCATTER deviations.
GLASS, SCATTER = 0.97, 4.0


@dataclass(frozen=True, eq=False)
class DecimationTheory:
    """The course of decimation in t = (columns taken off) / P; see `decimation_theory`.

    Attributes
    ----------
    t : array (steps + 1,)
        0 to 1.
    p, q : array (steps + 1,)
        Overlap eta . xi / N and squared norm |eta|^2 / N of the column found at t.
    energy : array (steps + 1,)
        Energy per spin of the retrieval state, zero diagonal. From t > 0 on it is too low by about
        (alpha / 2) int_0^t (q / (1 - C)^2 - q), C = (1 - q) / T (0.0027 at t = 1, alpha = 0.03,
        Delta = 0.1, T = 0.2): the columns taken off lean towards those still in Y, which the theory
        leaves out. p and q do not feel it.
    replicon : array (steps + 1,)
        Below 0 the state is unstable to replica symmetry breaking; -inf at T = 0 with noise, where
        it always is and the numbers are an approximation.
    p_stderr, q_stderr, energy_stderr : array (steps + 1,)
        Error of the step size.
    mse : Estimate
        (1/N^2) |X X^T - sum eta eta^T|_F^2 / N; its status is "no retrieval" and its value NaN if
        a step has no retrieval state.
    alpha, delta, T : float
        The parameters.
    converged : bool
        Every step retrieves. If not, p = 0 at the step that fails and NaN after it: decimation
        stops there.
    """

    t: np.ndarray
    p: np.ndarray
    q: np.ndarray
    energy: np.ndarray
    replicon: np.ndarray
    p_stderr: np.ndarray
    q_stderr: np.ndarray
    energy_stderr: np.ndarray
    mse: Estimate
    alpha: float
    delta: float
    T: float
    converged: bool

    def average(self, values: np.ndarray, start: float = 0.0, stop: float = 1.0) -> float:
        """Mean of a curve such as `p` over start <= t <= stop, by a cubic spline."""
        from scipy.interpolate import CubicSpline

        if not 0 <= start < stop <= 1:
            raise ValueError(f"0 <= start < stop <= 1 is needed, got {start} and {stop}")
        return float(CubicSpline(self.t, values).integrate(start, stop)) / (stop - start)

    def modes(self, t: float) -> list[tuple[float, float]]:
        """Modes (w, lambda) of the couplings at t: columns left, and residuals of those found."""
        real("t", t, least=0, most=1)
        past = np.append(self.t[self.t < t - 1e-12], t)
        p, q = np.interp(past, self.t, self.p), np.interp(past, self.t, self.q)
        return _modes(self.alpha, past, p, q)


def decimation_theory(
    alpha: float, delta: float, T: float = 0.0, steps: int = 40
) -> DecimationTheory:
    """Overlap, norm, energy and error of decimation for Y = X X^T / sqrt(N) + sqrt(Delta) Z.

    Column by column x ~ exp(beta x^T Y_R x / (2 sqrt(N))) is estimated by its Gibbs mean eta and
    eta eta^T / sqrt(N) is taken off Y. At t = R / P the couplings have alpha (1 - t) N patterns of
    strength 1, Gaussian disorder Delta, and per column found at tau < t the two eigenvalues

        lambda = [(1 - q) +- sqrt((1 - q)^2 + 4 (q - p^2))] / 2,   p = p(tau), q = q(tau),

    of xi xi^T - eta eta^T; the solution of `RSAssociative` is p(t), q(t), and
    mse = alpha int_0^1 (1 - 2 p^2 + q^2) dt.

    Parameters
    ----------
    alpha : float
        P / N > 0.
    delta : float
        Delta >= 0.
    T : float
        Temperature 1 / beta >= 0; at 0 the estimates are signs.
    steps : int
        Intervals in t, at least 2. The integral over the past is solved with this many and twice
        as many steps and extrapolated in 1 / steps^2; the difference is the error.

    Returns
    -------
    DecimationTheory

    Raises
    ------
    ValueError
        A parameter out of range.
    ConvergenceError
        The saddle point of a step is not found.

    References
    ----------
    Camilli, Mezard, arXiv:2212.02105. The modes of the residuals are derived here from theirs.
    """
    real("alpha", alpha, above=0)
    real("delta", delta, least=0)
    whole("steps", steps, 2)
    coarse = _march(alpha, delta, T, steps)
    fine = _march(alpha, delta, T, 2 * steps)
    same = fine[:, ::2]
    curves = (4 * same[:3] - coarse[:3]) / 3
    # never below the certificate of the solver
    errors = np.maximum(np.abs(same[:3] - coarse[:3]) / 3, 1e-10)
    return DecimationTheory(
        t=np.linspace(0, 1, steps + 1),
        p=curves[0],
        q=curves[1],
        energy=curves[2],
        replicon=same[3],
        p_stderr=errors[0],
        q_stderr=errors[1],
        energy_stderr=errors[2],
        mse=_mse(alpha, coarse, fine),
        alpha=float(alpha),
        delta=float(delta),
        T=float(T),
        converged=bool((curves[0] > ZERO).all()),
    )


def critical_noise(alpha: float, T: float = 0.0) -> Estimate:
    """The largest Delta at which the first step still retrieves, so that decimation can start.

    Along the retrieval solutions of the saddle point the noise field R fixes n and C, and
    Delta = R / q - alpha / (1 - C)^2 is largest at the spinodal. At T = 0 it tends to 2 / pi, as
    alpha^(1/3), for alpha -> 0 and to 0 at the storage capacity alpha = 0.1379.

    Parameters
    ----------
    alpha : float
        P / N > 0.
    T : float
        Temperature >= 0; 0 or at least 0.01.

    Returns
    -------
    Estimate
        0 with status "no retrieval" where not even Delta = 0 allows it.

    Raises
    ------
    ValueError
        A parameter out of range.
    """
    from scipy import optimize

    real("alpha", alpha, above=0)
    if not (real("T", T) == 0 or T >= 0.01):
        raise ValueError(f"T must be 0 or at least 0.01, got {T!r}")

    def noise(log_R: float) -> float:
        return _noise_at(math.exp(log_R), alpha, T)

    grid = np.linspace(math.log(1e-4), math.log(2 / math.pi), 120)
    values = np.array([noise(x) for x in grid])
    k = int(np.clip(values.argmax(), 1, len(grid) - 2))
    best = optimize.minimize_scalar(
        lambda x: -noise(x),
        bounds=(grid[k - 1], grid[k + 1]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    top = max(-float(best.fun), float(values.max()))
    if not top > 0:
        return Estimate(0.0, 0.0, status=NO_RETRIEVAL, note="above the storage capacity")
    return Estimate(top, 1e-9)


def _noise_at(R: float, alpha: float, T: float) -> float:
    """Delta of the retrieval state whose noise field has variance R; -inf without one."""
    from scipy import special

    if T == 0:

        def overlap(n: float) -> tuple[float, float]:
            x = n / math.sqrt(2 * R)
            return float(special.erf(x)), math.sqrt(2 / (math.pi * R)) * math.exp(-x * x)
    else:
        z = np.linspace(-8.5, 8.5, 2 * math.ceil(8.5 * max(40, 4 * math.sqrt(R) / T)) + 1)
        weight = np.exp(-z * z / 2)
        weight /= weight.sum()

        def overlap(n: float) -> tuple[float, float]:
            t = np.tanh((n + math.sqrt(R) * z) / T)
            return float(weight @ t), float(weight @ (1 - t * t)) / T

    # E tanh is concave in n > 0: one root there, if the slope C at 0 is above 1
    if overlap(0.0)[1] <= 1 or overlap(1e-6)[0] <= 1e-6:
        return -math.inf
    n = bracketed_root(lambda n: overlap(n)[0] - n, 1e-6, 1.0, tol=1e-14)
    C = overlap(n)[1]
    return R / (1 - T * C) - alpha / (1 - C) ** 2


def acceptance_energy(alpha: float, delta: float, N: int) -> float:
    """Energy per spin that tells a column from a spin-glass state, at T = 0 with zero diagonal.

    The smaller of 0.97 e_glass and e_retrieval + 4 s, with the replica-symmetric energies and the
    scatter s = sqrt((alpha + delta) / (2 N)) of the energy of columns; -inf where theory has no
    retrieval state.

    Parameters
    ----------
    alpha : float
        Columns still in Y, per row; >= 0.
    delta : float
        Delta >= 0.
    N : int
        Order of the matrix.
    """
    solver = RSAssociative([(alpha, 1.0)], delta=delta)
    state = solver.solve(0.0)
    if state.n <= ZERO:
        return -math.inf
    retrieval = state.u + solver.diagonal + SCATTER * math.sqrt((alpha + delta) / (2 * N))
    if alpha == 0 and delta == 0:
        return retrieval / 2  # -1/4: nothing but the column
    glass = solver.solve(0.0, branch="spin_glass").u + solver.diagonal
    return min(retrieval, GLASS * glass)


def theory(p: Params) -> dict[str, Estimate]:
    """What decimation theory says about the observables of `simulate`; see `decimation_theory`."""
    result = decimation_theory(p.rank / p.n_spins, p.delta, p.temperature, steps=12)
    first = math.ceil(p.rank / 4) / p.rank
    if not result.converged:
        lost = Estimate(math.nan, math.nan, status=NO_RETRIEVAL, note=result.mse.note)
        return dict.fromkeys(("p_first", "p_last", "q", "recovered"), lost)
    status = "ok" if result.replicon.min() > 0 else "replica symmetry is broken"

    def mean(curve: np.ndarray, error: np.ndarray, start: float, stop: float) -> Estimate:
        return Estimate(result.average(curve, start, stop), float(error.max()), status=status)

    return {
        "p_first": mean(result.p, result.p_stderr, 0.0, first),
        "p_last": mean(result.p, result.p_stderr, 1 - first, 1.0),
        "q": mean(result.q, result.q_stderr, 0.0, 1.0),
        "recovered": 1 - result.mse / result.alpha,
    }


# -- one march through t -------------------------------------------------------------------------
def _modes(
    alpha: float, past: np.ndarray, p: np.ndarray, q: np.ndarray
) -> list[tuple[float, float]]:
    """Columns left at past[-1], and the residuals at the nodes `past`, by the trapezoidal rule."""
    width = np.zeros(len(past))
    gaps = np.diff(past)
    width[:-1] += gaps / 2
    width[1:] += gaps / 2
    root = np.sqrt((1 - q) ** 2 + 4 * np.maximum(q - p * p, 0.0))
    strengths = np.concatenate([(1 - q + root) / 2, (1 - q - root) / 2])
    weights = alpha * np.concatenate([width, width])
    return [(alpha * (1 - past[-1]), 1.0), *zip(weights.tolist(), strengths.tolist(), strict=True)]


def _march(alpha: float, delta: float, T: float, steps: int) -> np.ndarray:
    """p, q, energy and replicon at the nodes of t, of second order in 1 / steps."""
    t = np.linspace(0, 1, steps + 1)
    out = np.full((4, steps + 1), math.nan)
    state: RSState | None = None
    for k in track(range(steps + 1), "decimation theory", steps + 1):
        p, q = out[0, : k + 1].copy(), out[1, : k + 1].copy()
        # the column of this very moment has weight dt / 2: predicted, then corrected
        p[k], q[k] = _predict(p[:k]), _predict(q[:k])
        for _ in range(2 if k else 1):
            solver = RSAssociative(_modes(alpha, t[: k + 1], p, q), delta=delta)
            state = solver.solve(T, start=state)
            p[k], q[k] = state.n, state.q
            out[:, k] = state.n, state.q, state.u + solver.diagonal, state.replicon
        if out[0, k] <= ZERO:
            break
    return out


def _predict(values: np.ndarray) -> float:
    """The next value by linear extrapolation, within [0, 1]."""
    if len(values) < 2:
        return float(values[-1]) if len(values) else 0.0
    return float(np.clip(2 * values[-1] - values[-2], 0.0, 1.0))


def _mse(alpha: float, coarse: np.ndarray, fine: np.ndarray) -> Estimate:
    if not (coarse[0] > ZERO).all():
        where = "the first step" if coarse[0, 0] <= ZERO else "a later step"
        note = f"{where} has no retrieval state: decimation cannot go on; lower alpha, delta or T"
        return Estimate(math.nan, math.nan, status=NO_RETRIEVAL, note=note)

    def integral(p: np.ndarray, q: np.ndarray) -> float:
        return alpha * float(np.trapezoid(1 - 2 * p * p + q * q, dx=1 / (len(p) - 1)))

    rough, better = integral(*coarse[:2]), integral(*fine[:2])
    error = max(abs(better - rough) / 3, 1e-10 * alpha)
    return Estimate((4 * better - rough) / 3, error, note="stderr is the error of the step size")

"""The jump at which errors localize."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import bracketed_root
from thermolearn.systems.sampling.metropolis.jumps import Jump
from thermolearn.systems.sampling.metropolis.operator import MetropolisOperator, Parity
from thermolearn.systems.sampling.metropolis.potentials import Potential, as_potential
from thermolearn.systems.sampling.metropolis.verdict import CLEAR_GAP

Family = Callable[[float], Jump]
# gaps from which a closing one is extrapolated: wide enough to be resolved by the cells
_WIDEST, _NARROWEST = 1.2e-2, 1.5e-3


def critical_jump(
    potential: Potential | Callable[[np.ndarray], ArrayLike],
    family: Family,
    bracket: tuple[float, float],
    beta: float = 1.0,
    parity: Parity | None = None,
) -> Estimate:
    """Scale a* of the jump above which errors localize at the maximum of R.

    Where the slowest mode of a sector is bound at max R by a kernel of finite strength mu, a*
    solves mu(a*) = 1 (`MetropolisOperator.binding`), exact at the transition itself. The gap
    Lambda - max R of such a mode closes quadratically within a last per cent of a*, so that an
    extrapolation of the gap comes out early. Where the strength jumps instead (walls), the gap
    closes linearly and is extrapolated, by a parabola between .012 and .0015. A mode that is bound
    at every length (sectors of a double well, whose R is largest in the wells) has no a*: its gap
    falls, ever faster but without closing, and what is returned is the scale at which it passes
    5e-4, the gap below which `MetropolisOperator.is_localised` says localized; status
    "narrow gap".

    Parameters
    ----------
    potential : Potential or callable
    family : callable
        scale -> Jump, e.g. the class `UniformJump`.
    bracket : (float, float)
        Scales below and above the transition.
    beta : float
        Inverse temperature, > 0.
    parity : None, "even" or "odd"
        The sector that is followed. None: the slowest at the lower end of the bracket, and no
        other may have a gap at the upper end. (Harmonic potential, Gaussian jumps: the odd mode
        localizes at 2.591 while the even one stays isolated.)

    Returns
    -------
    Estimate
        stderr: the change from half the cells to the extrapolation, and, of a gap, from a
        straight line to the parabola. status: "ok", or "narrow gap" where the mode stays bound.

    Raises
    ------
    ValueError
        A bracket that is not increasing and positive, or without a transition inside; the
        message gives what was found at its ends.
    ConvergenceError
        A gap that does not close monotonically.

    References
    ----------
    Chepelianskii, Majumdar, Schawe, Trizac, arXiv:2207.10488; the criterion on the strength is
    ours.
    """
    target = as_potential(potential)
    low, high = checked_bracket(bracket)

    def make(scale: float) -> MetropolisOperator:
        return MetropolisOperator(target, family(scale), beta)

    first, last = make(low), make(high)
    kind = first.relaxation_eigenvalue(parity).status
    if kind == "continuum":
        return _tails(make, low, high)
    if parity is None:
        curves = {s: first.relaxation_eigenvalue(s) for s in first._sectors(None)}
        sector = max(curves, key=lambda s: float(curves[s]))
        if not last.is_localised():
            raise ValueError(
                f"bracket: at its upper end {high:.4g} Lambda is {last.relaxation_eigenvalue()} "
                f"({last.relaxation_eigenvalue().note}), above the supremum of R "
                f"{float(last.max_rejection()):.6g}; go further, or name a parity"
            )
    else:
        sector = parity
    near = _nearly_closed(make, sector, low, high)
    begin, end = make(near).binding(sector), last.binding(sector)
    if np.isfinite(begin) and begin > 1 > end > 0:
        return _unbinding(make, sector, near, high)
    closing = _closing_gap(make, sector, near, high)
    beyond = min(high, 1.005 * float(closing) + 4 * float(closing.stderr))
    if make(beyond).binding(sector) > 1:  # it does not close
        return _narrowing_gap(make, sector, near, high)
    return closing


def checked_bracket(bracket: tuple[float, float]) -> tuple[float, float]:
    """Two increasing positive scales, or ValueError."""
    try:
        low, high = bracket
    except (TypeError, ValueError) as error:
        raise ValueError(f"bracket must be two scales (low, high), got {bracket!r}") from error
    low = real("bracket[0]", low, above=0)
    return low, real("bracket[1]", high, above=low)


def _unbinding(
    make: Callable[[float], MetropolisOperator], sector: Parity | None, low: float, high: float
) -> Estimate:
    """Where the strength passes through 1, on the grid and on half its cells."""

    def root(coarse: bool) -> float:
        # in (-1, 1), finite where the strength is not
        return bracketed_root(
            lambda a: 1 - 2 / (1 + make(a).binding(sector, coarse)), low, high, tol=1e-6 * low
        )

    fine, coarse = root(False), root(True)
    correction = (fine - coarse) / 3
    return Estimate(
        fine + correction, abs(correction) + 2e-6 * low, note=f"{sector or 'whole'} mode unbinds"
    )


def _tails(make: Callable[[float], MetropolisOperator], low: float, high: float) -> Estimate:
    """Where the supremum of R overtakes the continuum of linear tails."""

    def lead(scale: float) -> float:
        curves = make(scale).curves(quick=True)
        return curves["continuum"] - curves["rejection"]

    if not lead(low) > 0 > lead(high):
        raise ValueError(
            f"bracket: the supremum of R does not overtake the continuum of the linear tails "
            f"between {low:.4g} and {high:.4g}: it trails by {lead(low):.3g} and {lead(high):.3g}"
        )
    scale = bracketed_root(lead, low, high, tol=1e-9 * low)
    return Estimate(scale, 1e-8 * scale, note="the supremum of R overtakes the linear tails")


def _gap(
    make: Callable[[float], MetropolisOperator], sector: Parity | None, quick: bool = False
) -> Callable[[float], float]:
    """The gap of a sector above the supremum of R against the scale, remembered."""

    @cache
    def gap(scale: float) -> float:
        curves = make(scale).curves(quick)
        return curves[sector or "whole"] - curves["rejection"]

    return gap


def _nearly_closed(
    make: Callable[[float], MetropolisOperator], sector: Parity | None, low: float, high: float
) -> float:
    """The scale at which the gap is .012 on the coarser grid."""
    gap = _gap(make, sector, quick=True)
    if gap(low) < _WIDEST or gap(high) > 4 * CLEAR_GAP:
        raise ValueError(
            f"bracket: the gap of the {sector or 'whole'} mode above the supremum of R must be "
            f"open at the lower end and closed at the upper; it is {gap(low):.2g} at {low:.4g} and "
            f"{gap(high):.2g} at {high:.4g} (open: above {_WIDEST}, closed: below {CLEAR_GAP})"
        )
    return bracketed_root(lambda a: gap(a) - _WIDEST, low, high, tol=1e-3 * low)


def _narrowing_gap(
    make: Callable[[float], MetropolisOperator], sector: Parity | None, low: float, high: float
) -> Estimate:
    """Where the gap of a mode that stays bound passes 5e-4, on the extrapolated curves."""
    fine, coarse = (
        bracketed_root(lambda a, gap=gap: gap(a) - CLEAR_GAP, low, high, tol=1e-5 * low)
        for gap in (_gap(make, sector), _gap(make, sector, quick=True))
    )
    note = f"{sector or 'whole'} mode stays bound; its gap falls below {CLEAR_GAP:g}"
    return Estimate(fine, abs(fine - coarse) / 4 + 2e-5 * low, status="narrow gap", note=note)


def _closing_gap(
    make: Callable[[float], MetropolisOperator], sector: Parity | None, low: float, high: float
) -> Estimate:
    """Where the gap of a sector above the supremum of R reaches 0, extrapolated."""
    gap, quick = _gap(make, sector), _gap(make, sector, quick=True)
    last = bracketed_root(lambda a: gap(a) - _NARROWEST, low, high, tol=1e-4 * low)
    scales = [float(a) for a in np.linspace(low, last, 5)]
    gaps, coarse = (np.array([f(a) for a in scales]) for f in (gap, quick))
    if np.any(np.diff(gaps) >= 0):
        raise ConvergenceError(
            "the gap does not close monotonically near the transition: "
            f"{np.array2string(gaps, precision=5)}; narrow the bracket or name a parity"
        )
    parabola = float(np.polyfit(gaps, scales, 2)[-1])
    line = float(np.polyfit(gaps[2:], scales[2:], 1)[-1])
    other = float(np.polyfit(coarse, scales, 2)[-1])
    stderr = float(np.hypot(parabola - line, parabola - other)) + 1e-6
    return Estimate(parabola, stderr, note=f"the gap of the {sector or 'whole'} mode closes")

"""The localization transition and the best jump."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from scipy.optimize import brentq

from thermolearn.systems.sampling.metropolis.grids import Grid
from thermolearn.systems.sampling.metropolis.jumps import (
    ExponentialJump,
    GaussianJump,
    TwoPeakedJump,
    UniformJump,
)
from thermolearn.systems.sampling.metropolis.operator import MetropolisOperator
from thermolearn.systems.sampling.metropolis.optimum import critical_jump, optimal_jump
from thermolearn.systems.sampling.metropolis.potentials import box, double_well, harmonic, power


# -- the transition -------------------------------------------------------------------------------
def test_critical_jump_of_the_harmonic_potential():
    """Published: 3.331(1)."""
    value = critical_jump(harmonic(), UniformJump, (2.5, 4.0))
    assert abs(float(value) - 3.331) < 0.005
    assert value.stderr < 1e-3
    assert abs(float(value) - 3.33125) < 2e-4
    operator = MetropolisOperator(harmonic(), UniformJump(float(value)))
    assert float(operator.max_rejection()) == pytest.approx(0.624, abs=5e-4)
    assert float(operator.acceptance()) == pytest.approx(0.455, abs=5e-4)


@pytest.mark.slow
def test_critical_jump_of_the_quartic_potential():
    value = critical_jump(power(4), UniformJump, (1.5, 2.3))
    assert 2.0 < float(value) < 2.1
    assert abs(float(value) - 2.0458) < 3e-4


@pytest.mark.slow
def test_the_odd_mode_of_gaussian_jumps_localizes_later_than_published():
    """Published 2.561(1), an extrapolated gap; at 2.58 a gap of 3.8e-4 is still resolved."""
    value = critical_jump(harmonic(), GaussianJump, (1.5, 4.0), parity="odd")
    assert abs(float(value) - 2.5908) < 2e-4
    operator = MetropolisOperator(harmonic(), GaussianJump(2.58), grid=Grid(-9, 9, 1200))
    gap = float(operator._level("odd").value) - float(operator.rejection(0.0))
    assert gap > 50 * operator._level("odd").stderr
    assert gap == pytest.approx(3.8e-4, rel=0.05)


@pytest.mark.slow
def test_gaps_of_smooth_potentials_close_quadratically():
    """Why an extrapolated gap is early: its square root is what vanishes linearly."""
    gaps = []
    for s in (2.57, 2.58):
        operator = MetropolisOperator(harmonic(), GaussianJump(s), grid=Grid(-9, 9, 1600))
        gaps.append(operator._level("odd").value - float(operator.rejection(0.0)))
    roots = np.sqrt(gaps)
    _, intercept = np.polyfit(roots, [2.57, 2.58], 1)
    assert intercept == pytest.approx(2.5908, abs=0.01)
    assert np.polyfit(gaps, [2.57, 2.58], 1)[1] < 2.5895


@pytest.mark.slow
def test_critical_jumps_of_a_box():
    """Exact: the odd mode at a = 2, the width of the box; the even one at a = 1."""
    odd = critical_jump(box(), UniformJump, (1.2, 2.3))
    assert abs(float(odd) - 2) < max(2e-3, 4 * float(odd.stderr))
    assert odd.stderr < 5e-3
    even = critical_jump(box(), UniformJump, (0.7, 1.3), parity="even")
    assert abs(float(even) - 1) < 1e-4


def test_critical_jump_of_the_linear_potential():
    """max R overtakes the tails: 1 - (1-e^-a)/a = 1/2 - (1-e^-a)/2a + 2 (1-e^{-a/2})/a."""

    def lead(a):
        decay = (1 - math.exp(-a)) / a
        return 0.5 - decay / 2 + 2 * (1 - math.exp(-a / 2)) / a - (1 - decay)

    exact = brentq(lead, 4, 5, xtol=1e-12)
    value = critical_jump(power(1), UniformJump, (3.0, 6.0))
    assert abs(float(value) - exact) < 1e-6


@pytest.mark.slow
def test_the_transition_scales_with_temperature():
    hot = critical_jump(harmonic(), UniformJump, (5.4, 7.6), beta=0.25)
    assert abs(float(hot) - 2 * 3.33125) < 1e-3


def test_brackets_without_a_transition():
    with pytest.raises(ValueError, match=r"closed at the upper|above the supremum"):
        critical_jump(harmonic(), UniformJump, (1.0, 2.0))
    with pytest.raises(ValueError, match="open"):
        critical_jump(harmonic(), UniformJump, (4.0, 6.0))
    # with Gaussian jumps the even mode stays isolated
    with pytest.raises(ValueError, match="name a parity"):
        critical_jump(harmonic(), GaussianJump, (1.5, 4.0))
    with pytest.raises(ValueError, match="overtake"):
        critical_jump(power(1), UniformJump, (2.0, 3.0))
    for bracket in ((2.0, 1.0), (0.0, 1.0), (1.0,), 3.0, (math.nan, 2.0)):
        with pytest.raises(ValueError, match="bracket"):
            critical_jump(harmonic(), UniformJump, bracket)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="parity"):
        critical_jump(harmonic(), UniformJump, (2.5, 4.0), parity="both")


# -- the optimum ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_best_uniform_jump_is_the_transition():
    best = optimal_jump(harmonic(), UniformJump)
    assert best.active == ("odd", "rejection")
    assert abs(float(best.scale) - 3.331) < 0.005
    assert float(best.eigenvalue) == pytest.approx(0.624, abs=5e-4)
    assert float(best.acceptance) == pytest.approx(0.455, abs=1e-3)
    assert float(best.relaxation_time) == pytest.approx(-1 / math.log(float(best.eigenvalue)))
    # the jump with the largest mean square displacement is longer, and slower
    longer = MetropolisOperator(harmonic(), UniformJump(3.7))
    assert float(longer.esjd()) > float(MetropolisOperator(harmonic(), best.jump).esjd())
    assert float(longer.relaxation_eigenvalue()) == pytest.approx(0.6613, abs=2e-4)


@pytest.mark.slow
def test_best_gaussian_jump_is_a_crossing_of_sectors():
    """Published: 2.2, Lambda .6475, acceptance .470, on a coarse scale."""
    best = optimal_jump(harmonic())
    assert best.active == ("odd", "even")
    assert abs(float(best.scale) - 2.2) < 0.05
    assert float(best.eigenvalue) < 0.64746
    assert float(best.acceptance) == pytest.approx(0.470, abs=5e-3)
    values = MetropolisOperator(harmonic(), best.jump).curves()
    assert values["odd"] == pytest.approx(values["even"], abs=1e-5)
    for factor in (0.97, 1.03):
        other = MetropolisOperator(harmonic(), GaussianJump(factor * float(best.scale)))
        assert float(other.relaxation_eigenvalue()) > float(best.eigenvalue)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("potential", "family", "scale", "active"),
    [
        (box(2.0), UniformJump, 4.0, ("odd", "rejection")),
        (power(1), UniformJump, 4.5859, ("continuum", "rejection")),
        (harmonic(), ExponentialJump, 1.8743, ("odd", "even")),
        (harmonic(), partial(TwoPeakedJump, spread=0.25), 0.8855, ("odd", "even")),
        (double_well(3.0, 0.3), GaussianJump, 1.575, ("whole", "whole")),
    ],
)
def test_best_jumps(potential, family, scale, active):
    best = optimal_jump(potential, family)
    assert best.active == active
    assert abs(float(best.scale) - scale) < 2e-3 + 4 * float(best.scale.stderr)
    for factor in (0.95, 1.05):
        other = MetropolisOperator(potential, family(factor * float(best.scale)))
        assert float(other.relaxation_eigenvalue()) > float(best.eigenvalue) - 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "ell", "published"),
    [(2, 2.1, 0.77704), (50, 1.9, 0.98803)],
)
def test_best_jump_in_many_dimensions(d, ell, published):
    """The radial mode crosses the first angular one; published on a scale of steps .1."""
    best = optimal_jump(harmonic(), GaussianJump, d)
    assert best.active == ("l = 1", "l = 0")
    assert abs(float(best.scale) * math.sqrt(d) - ell) < 0.1
    assert float(best.eigenvalue) < published + 4e-5
    assert float(best.eigenvalue) == pytest.approx(published, abs=6e-4)
    assert best.eigenvalue.status == "isolated"


def test_bad_arguments_of_the_optimum():
    with pytest.raises(ValueError, match="no minimum"):
        optimal_jump(harmonic(), UniformJump, bracket=(0.5, 1.5))
    with pytest.raises(ValueError, match="bracket"):
        optimal_jump(harmonic(), UniformJump, bracket=(2.0, 1.0))
    with pytest.raises(ValueError, match="GaussianJump"):
        optimal_jump(harmonic(), UniformJump, dimension=2)
    for d in (0, 1.5, 301):
        with pytest.raises(ValueError, match="dimension"):
            optimal_jump(harmonic(), dimension=d)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="confine"):
        optimal_jump(lambda x: 0 * x)


# -- modes that are bound at every length ---------------------------------------------------------
@pytest.mark.parametrize("length", [2.2755, 2.31, 2.4, 3.0])
def test_odd_modes_of_double_wells_are_bound_at_every_length(length):
    """k(m, m) = 0 in the odd sector (2 |m| < a) but k(., m) is not: the strength diverges."""
    operator = MetropolisOperator(double_well(3.0), UniformJump(length))
    assert operator.binding("odd") == math.inf
    assert 1 < operator.binding("even") < 2


def test_a_gap_that_narrows_without_closing_is_flagged():
    """The gap passes 5e-4 there, and is still resolved beyond."""
    value = critical_jump(double_well(3.0), UniformJump, (2.2, 2.4), parity="odd")
    assert value.status == "narrow gap" and "stays bound" in value.note
    curves = MetropolisOperator(double_well(3.0), UniformJump(float(value))).curves()
    assert curves["odd"] - curves["rejection"] == pytest.approx(5e-4, abs=1e-6)
    beyond = MetropolisOperator(double_well(3.0), UniformJump(2.31))
    gap = beyond.curves()["odd"] - float(beyond.max_rejection())
    assert gap > 10 * beyond._level("odd").stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("barrier", "scale", "eigenvalue"),
    [(0.3, 3.21, 0.548208), (1.0, 2.448, 0.608980)],
)
def test_best_uniform_jump_of_a_double_well(barrier, scale, eigenvalue):
    """Scans of an independent operator: the mode turns up before its gap has closed."""
    best = optimal_jump(double_well(barrier), UniformJump)
    assert abs(float(best.scale) - scale) < 0.002 * scale
    assert float(best.eigenvalue) == pytest.approx(eigenvalue, abs=1e-5)
    for factor in (0.995, 1.005):
        other = MetropolisOperator(double_well(barrier), UniformJump(factor * float(best.scale)))
        assert float(other.relaxation_eigenvalue()) > float(best.eigenvalue)


@pytest.mark.parametrize(
    "potential", [power(0.9), lambda x: np.abs(x) ** 0.7, lambda x: 15.5 * np.log1p(x * x / 30)]
)
def test_no_jump_is_best_without_a_gap(potential):
    with pytest.raises(ValueError, match="more slowly"):
        optimal_jump(potential)


def test_names_are_not_potentials():
    with pytest.raises(ValueError, match=r"harmonic\(\)"):
        optimal_jump("harmonic")  # type: ignore[arg-type]

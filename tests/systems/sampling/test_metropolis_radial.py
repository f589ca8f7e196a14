"""The radial Metropolis operator against the line, a square grid, and limits of high dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.sparse.linalg import eigsh
from scipy.special import ive

from thermolearn.systems.sampling.metropolis.grids import Grid
from thermolearn.systems.sampling.metropolis.jumps import GaussianJump, UniformJump
from thermolearn.systems.sampling.metropolis.operator import MetropolisOperator
from thermolearn.systems.sampling.metropolis.potentials import (
    NotNormalisableError,
    Potential,
    box,
    harmonic,
    power,
)
from thermolearn.systems.sampling.metropolis.radial import (
    RadialMetropolisOperator,
    exact_log_bessel,
    log_bessel,
)


@pytest.mark.parametrize("order", [-0.5, 0.0, 0.5, 4.0, 24.5, 150.0])
def test_the_table_of_bessel_functions(order):
    z = np.exp(np.random.default_rng(0).uniform(-19.5, 17, 4000))
    table = log_bessel(order, z)
    np.testing.assert_allclose(table, exact_log_bessel(order, z), rtol=1e-10, atol=1e-9)
    safe = ive(order, z) > 1e-290
    np.testing.assert_allclose(np.exp(table[safe]), ive(order, z[safe]), rtol=1e-8)
    if order > 0:  # below the table a power, above it e^z / sqrt(2 pi z)
        below = log_bessel(order, np.array([1e-12, 1e-11]))
        assert np.diff(below)[0] == pytest.approx(order * math.log(10), rel=1e-9)
    large = log_bessel(order, np.array([1e10]))[0]
    assert large == pytest.approx(-0.5 * math.log(2e10 * math.pi), abs=2e-4)


def test_one_dimension_is_the_line():
    for potential in (harmonic(), box(1.7)):
        line = MetropolisOperator(potential, GaussianJump(1.5))
        radial = RadialMetropolisOperator(1, potential, GaussianJump(1.5))
        for sector, parity in ((0, "even"), (1, "odd")):
            exact = float(line.relaxation_eigenvalue(parity))
            assert float(radial.relaxation_eigenvalue(sector)) == pytest.approx(exact, abs=1e-5)
        assert float(radial.acceptance()) == pytest.approx(float(line.acceptance()), abs=1e-8)
        assert float(radial.esjd()) == pytest.approx(float(line.esjd()), abs=1e-8)
        assert float(radial.max_rejection()) == pytest.approx(float(line.max_rejection()), abs=1e-8)
    published = RadialMetropolisOperator(1, harmonic(), GaussianJump(1.5))
    assert abs(float(published.relaxation_eigenvalue(0)) - 0.679927) < 1e-5
    assert abs(float(published.relaxation_eigenvalue(1)) - 0.712877) < 1e-5
    assert abs(float(published.acceptance()) - 2 / math.pi * math.atan(2 / 1.5)) < 1e-6


@pytest.mark.parametrize("d", [2, 3, 10, 50])
def test_harmonic_rejection_at_the_center(d):
    for s in (0.4, 1.9 / math.sqrt(d)):
        operator = RadialMetropolisOperator(d, harmonic(), GaussianJump(s))
        exact = 1 - (1 + s * s) ** (-d / 2)
        assert float(operator.rejection(0.0)) == pytest.approx(exact, abs=1e-9)
        assert float(operator.max_rejection()) == pytest.approx(max(exact, 0.5), abs=1e-8)
        assert operator.spectrum(1)[0] == pytest.approx(1, abs=1e-8)


@pytest.mark.slow
def test_two_dimensions_against_a_square_grid():
    """Every sector at once: a chain on 33 x 33 points with the same jumps."""
    s, h, n = 1.5, 0.3, 33
    axis = h * (np.arange(n) - (n - 1) / 2)
    points = np.array(np.meshgrid(axis, axis)).reshape(2, -1).T
    u = (points**2).sum(1) ** 2 / 4
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    propose = h * h * np.exp(-squared / (2 * s * s)) / (2 * math.pi * s * s)
    rise = u[None] - u[:, None]
    stay = 1 - (propose * np.exp(-np.maximum(rise, 0))).sum(1)
    kernel = propose * np.exp(-np.abs(rise) / 2)
    kernel[np.diag_indices_from(kernel)] += stay
    values = np.sort(eigsh(kernel, 4, which="LA", return_eigenvectors=False))[::-1]
    operator = RadialMetropolisOperator(2, lambda r: r**4 / 4, GaussianJump(s))
    ours = sorted([*operator.spectrum(2, 0), *2 * [operator.spectrum(1, 1)[0]]], reverse=True)
    np.testing.assert_allclose(ours, values, atol=3e-3)


@pytest.mark.parametrize(
    ("d", "ell", "published", "acceptance"),
    [(2, 2.1, 0.77704, 0.404), (5, 2.0, 0.89394, 0.363), (10, 1.9, 0.94345, 0.365),
     (50, 1.9, 0.98803, 0.348)],
)  # fmt: skip
def test_harmonic_published_numbers(d, ell, published, acceptance):
    operator = RadialMetropolisOperator(d, harmonic(), GaussianJump(ell / math.sqrt(d)))
    value = operator.relaxation_eigenvalue()
    # the published grids are converged to 4e-5
    assert value.status == "isolated" and abs(float(value) - published) < 4e-5
    assert float(operator.acceptance()) == pytest.approx(acceptance, abs=2e-3)
    assert not operator.is_localised()
    assert float(operator.relaxation_time()) == pytest.approx(-1 / math.log(float(value)))


def test_higher_sectors_are_faster():
    operator = RadialMetropolisOperator(10, harmonic(), GaussianJump(1.9 / math.sqrt(10)))
    values = [abs(operator.spectrum(2, sector)[int(sector == 0)]) for sector in (1, 2, 3)]
    assert values[0] > values[1] > values[2]
    assert values[1] == pytest.approx(0.898, abs=1e-3)


@pytest.mark.slow
def test_one_coordinate_bounds_the_first_sector():
    """lambda_1 >= 1 - ESJD/2d, the correlation of one coordinate; equal when d is large."""
    for d in (2, 10, 100):
        operator = RadialMetropolisOperator(d, harmonic(), GaussianJump(2.38 / math.sqrt(d)))
        loss = 1 - float(operator.relaxation_eigenvalue(1))
        bound = float(operator.esjd()) / (2 * d)
        assert loss <= bound + 1e-7
        if d == 100:
            assert loss == pytest.approx(bound, rel=0.05)
            # Roberts, Gelman, Gilks: acceptance .234 at 2.38 / sqrt(d)
            assert float(operator.acceptance()) == pytest.approx(0.234, abs=5e-3)


def test_a_ball():
    ball = RadialMetropolisOperator(3, box(1.0), GaussianJump(0.5))
    assert 0.5 < float(ball.relaxation_eigenvalue()) < 1
    assert float(ball.rejection(1.0)) > float(ball.rejection(0.2))


@pytest.mark.slow
def test_a_cone_is_the_hydrogen_atom():
    """U = r in three dimensions: short jumps have 1 - Lambda = s^2/2 (1/4 - 1/4n^2), n = 2.

    The Fokker-Planck operator is -d^2/dr^2 + 1/4 - 1/r; 2s and 2p are degenerate.
    """
    losses = []
    for s in (0.25, 0.5, 1.0):
        operator = RadialMetropolisOperator(3, power(1), GaussianJump(s))
        levels = operator.curves()
        assert min(levels["l = 0"], levels["l = 1"]) > levels["continuum"] + 5e-4
        losses.append([(1 - levels[f"l = {sector}"]) / (s * s / 2) for sector in (0, 1)])
    first, second, third = np.array(losses)
    np.testing.assert_allclose((8 * first - 6 * second + third) / 3, 3 / 16, rtol=0.02)


def test_linear_and_slower_tails():
    """Far out the sphere is flat: the continuum of a linear potential is that of the line."""
    line = MetropolisOperator(power(1), GaussianJump(0.8)).curves(quick=True)
    cone = RadialMetropolisOperator(2, power(1), GaussianJump(0.8)).curves(quick=True)
    assert cone["continuum"] == pytest.approx(line["continuum"], abs=1e-12)
    slower = RadialMetropolisOperator(2, power(0.8), GaussianJump(9.0))
    assert slower.relaxation_eigenvalue().status == "no gap"


def test_temperature_is_a_unit_of_length():
    first = RadialMetropolisOperator(4, harmonic(), GaussianJump(1.0)).relaxation_eigenvalue()
    second = RadialMetropolisOperator(4, harmonic(), GaussianJump(0.5), beta=4.0)
    assert float(second.relaxation_eigenvalue()) == pytest.approx(float(first), abs=1e-7)


def test_bad_arguments():
    jump = GaussianJump(1.0)
    for d in (0, -1, 2.5, 301):
        with pytest.raises(ValueError, match="dimension"):
            RadialMetropolisOperator(d, harmonic(), jump)
    with pytest.raises(ValueError, match="GaussianJump"):
        RadialMetropolisOperator(2, harmonic(), UniformJump(1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta"):
        RadialMetropolisOperator(2, harmonic(), jump, beta=0)
    with pytest.raises(NotNormalisableError):
        RadialMetropolisOperator(2, lambda r: 0 * r, jump)
    with pytest.raises(NotNormalisableError):
        RadialMetropolisOperator(3, harmonic(), jump, grid=Grid(0, 3, 200))
    with pytest.raises(ValueError, match="nan"):
        RadialMetropolisOperator(2, lambda r: np.where(r < 1, r, np.nan), jump)
    with pytest.raises(ValueError, match="too short"):
        RadialMetropolisOperator(2, harmonic(), GaussianJump(1e-3))
    with pytest.warns(UserWarning, match="coarse"):
        RadialMetropolisOperator(2, harmonic(), jump, grid=Grid(0, 10, 30))
    with pytest.raises(ValueError, match="low"):
        RadialMetropolisOperator(2, harmonic(), jump, grid=Grid(-9, 9, 200))
    line = RadialMetropolisOperator(1, harmonic(), jump)
    for call in (
        lambda: line.spectrum(3, 2), lambda: line.spectrum(3, -1), lambda: line.spectrum(0),
        lambda: line.rejection(-1.0), lambda: line.rejection(math.nan),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            call()
    wall = RadialMetropolisOperator(2, Potential(lambda r: r**2, high=2.0), jump)
    with pytest.raises(ValueError, match="wall"):
        wall.rejection(2.5)

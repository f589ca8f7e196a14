"""Decimation of the Ising models: closed forms against enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from thermolearn.systems.dynamics.relative_entropy import (
    enumeration,
    ising1d,
    ising2d,
    relative_entropy_flow,
)

PLATEAUS = {0.5: 0.110944, 1.0: 0.327813, 1.5: 0.502282}


# -- one dimension -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["coupling", "fill"])
@pytest.mark.parametrize("K", PLATEAUS)
def test_both_kinds_grow_to_the_same_plateau(K, kind):
    flow = relative_entropy_flow("ising1d", K, 12, kind)
    assert flow.plateau == pytest.approx(PLATEAUS[K], abs=1e-6)
    assert flow.plateau == pytest.approx(K * math.tanh(K) - math.log(math.cosh(K)), abs=1e-12)
    # with uniform spins on all but one site in 4096 the same is reached
    assert flow.divergence[-1] == pytest.approx(flow.plateau, abs=1e-6)
    assert flow.divergence[0] == 0 and (np.diff(flow.divergence) > -1e-14).all()


def test_flows_have_their_reference_values():
    table = {
        (0.5, "coupling"): (0.034054, 0.090896, 0.109985, 0.110942),
        (0.5, "fill"): (0.099455, 0.110684, 0.110944),
        (1.0, "coupling"): (0.028316, 0.121268, 0.247688, 0.318138),
        (1.0, "fill"): (0.23821, 0.313385, 0.327011, 0.327808),
    }
    for (K, kind), expected in table.items():
        found = relative_entropy_flow("ising1d", K, len(expected), kind)
        np.testing.assert_allclose(found.divergence[1:], expected, atol=1e-6)
    couplings = relative_entropy_flow("ising1d", 1.0, 4).couplings[1:]
    np.testing.assert_allclose(couplings, (0.662501, 0.350061, 0.113672, 0.012812), atol=1e-6)


def test_the_ring_of_twelve_by_enumeration():
    fill, coupling = enumeration.ring_fill(12, 0.7), enumeration.ring_coupling(12, 0.7)
    assert fill == pytest.approx(ising1d.ring_fill_divergence(12, 0.7), abs=1e-12)
    assert coupling == pytest.approx(ising1d.ring_coupling_divergence(12, 0.7), abs=1e-12)
    assert fill == pytest.approx(0.162314612, abs=1e-9)
    assert coupling == pytest.approx(0.036538249, abs=1e-9)
    assert relative_entropy_flow("ising1d", 0.7, 1, "fill").divergence[1] == pytest.approx(
        0.161649, abs=1e-6
    )


@pytest.mark.parametrize(("K", "b"), [(0.7, 2), (-0.6, 2), (-0.6, 3), (1.1, 3)])
def test_the_marginal_of_a_ring_is_an_ising_ring(K, b):
    whole = enumeration.ring(12, K, b)
    kept = enumeration.ring(12 // b, ising1d.decimate(K, b), 2)
    np.testing.assert_allclose(whole.marginal(), kept.probability, atol=1e-15)
    assert whole.log_partition == pytest.approx(ising1d.ring_log_partition(12, K), abs=1e-12)
    fill = ising1d.ring_fill_divergence(12, K, b)
    assert whole.fill() == pytest.approx(fill, abs=1e-12)


def test_antiferromagnets_and_strong_couplings():
    assert ising1d.decimate(-0.6, 3) == -ising1d.decimate(0.6, 3)
    assert ising1d.decimate(-0.6, 2) == ising1d.decimate(0.6, 2) > 0
    assert ising1d.decimate(0.0) == 0
    # tanh K = 1 in double precision from K = 19 on; K' = K - ln(b) / 2 there
    assert ising1d.decimate(40.0) == pytest.approx(40 - math.log(2) / 2, abs=1e-12)
    assert ising1d.decimate(17.999) == pytest.approx(17.999 - math.log(2) / 2, abs=1e-12)
    assert ising1d.decimate(1e4, 3) == pytest.approx(1e4 - math.log(3) / 2)
    assert relative_entropy_flow("ising1d", -0.7, 3, "fill").divergence[1] == pytest.approx(
        0.161649, abs=1e-6
    )


# -- two dimensions ------------------------------------------------------------------------------
def test_onsager():
    point = ising2d.onsager(0.4)
    numerical = (ising2d.onsager(0.4001).f - ising2d.onsager(0.3999).f) / 2e-4
    assert point.u == pytest.approx(1.1060792, abs=1e-7)
    assert point.u == pytest.approx(numerical, abs=1e-6)
    critical = ising2d.onsager(ising2d.CRITICAL)
    assert critical.s == pytest.approx(0.306470, abs=1e-5)
    assert critical.u == pytest.approx(math.sqrt(2), abs=1e-7)
    assert critical.f == pytest.approx(0.9296953983, abs=1e-9)
    # ground state, free spins, reflection, and no step where series and closed form meet
    assert ising2d.onsager(20.0).s == pytest.approx(0, abs=1e-12)
    assert ising2d.onsager(0.0) == (math.log(2), 0.0, math.log(2))
    assert ising2d.onsager(-0.4).u == -point.u and ising2d.onsager(-0.4).s == point.s
    a, b = ising2d.onsager(0.01 - 1e-12), ising2d.onsager(0.01 + 1e-12)
    np.testing.assert_allclose(a, b, atol=1e-11)


def test_the_torus_approaches_onsager():
    f = enumeration.torus(4, 4, 0.2).log_partition / 16
    assert f == pytest.approx(ising2d.onsager(0.2).f, abs=2e-3)


@pytest.mark.parametrize(
    ("K", "expected"),
    [
        (0.2, (0, 0.00958, 0.03065, 0.04274, 0.04425, 0.04426)),
        (0.3, (0, 0.0088, 0.03845, 0.08104, 0.10868, 0.11382, 0.11394)),
        (0.4, (0, 0.00487, 0.0243, 0.06644, 0.13427, 0.20883, 0.24967, 0.2561, 0.25622)),
    ],
)
def test_the_truncated_flow_has_its_reference_values(K, expected):
    flow = relative_entropy_flow("ising2d", K, 14)
    np.testing.assert_allclose(flow.divergence[: len(expected)], expected, atol=1.1e-5)
    assert (np.diff(flow.divergence) > -1e-14).all()
    assert flow.divergence[-1] == pytest.approx(flow.plateau, abs=1e-9)
    assert flow.status == "ok"


def test_plateaus_of_the_square_lattice():
    assert relative_entropy_flow("ising2d", 0.4, 20).plateau == pytest.approx(0.256215, abs=1e-5)
    critical = relative_entropy_flow("ising2d", ising2d.CRITICAL, 14)
    assert critical.divergence[-1] == pytest.approx(0.386677, abs=1e-6)
    assert critical.plateau == pytest.approx(0.386677, abs=1e-6)


def test_the_fixed_point_of_the_truncation():
    point = brentq(lambda K: ising2d.decimate(K) - K, 0.4, 0.6, xtol=1e-14)
    assert point == pytest.approx(0.506981, abs=1e-5)
    assert point == pytest.approx(ising2d.FIXED_POINT, abs=1e-12)
    nu = math.log(math.sqrt(2)) / math.log(1.5 * math.tanh(4 * point))
    assert nu == pytest.approx(0.9346, abs=1e-4)


def test_where_the_truncated_flow_must_not_be_believed():
    assert relative_entropy_flow("ising2d", 0.47, 30).status == "truncated"
    with pytest.warns(UserWarning, match="grows without bound"):
        flow = relative_entropy_flow("ising2d", 0.6, 9)
    assert flow.status == "diverges"
    slope = np.diff(flow.divergence) / np.diff(flow.couplings)
    # linear in K_n, with the slope 2 - u(K) of a perfectly ordered neighbor
    assert slope[-1] == pytest.approx(2 - ising2d.onsager(0.6).u, abs=1e-3)


def test_checkerboard_decimation_is_exact():
    """Log marginal weights of the torus equal the sum of the terms that erased spins leave."""
    K = 0.37
    state, c = enumeration.torus(4, 4, K), ising2d.checkerboard(K)
    grid = state.spins.reshape(-1, 4, 4).astype(float)
    around = np.stack([np.roll(grid, s, axis) for s in (1, -1) for axis in (1, 2)], -1)
    four = around.reshape(len(grid), 16, 4)[:, ~state.kept]
    pairs = (four.sum(-1) ** 2 - 4) / 2
    weight = (c.constant + c.diagonal * pairs + c.four * four.prod(-1)).sum(-1)
    exact = np.log(state.marginal())[state.cells()] + state.log_partition
    np.testing.assert_allclose(weight, exact, atol=1e-12)
    assert c.nearest == 2 * c.diagonal
    assert ising2d.decimate(K) == pytest.approx(c.nearest + c.diagonal)


@pytest.mark.parametrize(
    ("K", "expected"), [(0.2, 0.0425753100), (0.4, 0.2042515366), (0.6, 0.3162823450)]
)
def test_the_torus_by_enumeration(K, expected):
    state = enumeration.torus(4, 4, K)
    sums = enumeration.neighbor_sums(state, 4, 4)
    formula = float(state.probability @ ising2d.fill_divergence(K, sums).sum(1)) / 16
    assert state.fill() == pytest.approx(formula, abs=1e-12)
    assert state.fill() == pytest.approx(expected, abs=1e-9)


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize("K", [math.nan, math.inf, -math.inf, "1", None])
def test_couplings_must_be_finite(K):
    for call in (
        ising1d.decimate, ising1d.entropy, ising2d.onsager, ising2d.decimate, ising2d.checkerboard,
        lambda K: relative_entropy_flow("ising1d", K, 2), lambda K: enumeration.ring(4, K),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="K must be"):
            call(K)


def test_other_bad_input():
    with pytest.raises(ValueError, match="b must be"):
        ising1d.decimate(0.5, 1)
    with pytest.raises(ValueError, match="b must divide"):
        ising1d.ring_fill_divergence(12, 0.5, 5)
    with pytest.raises(ValueError, match="b must divide"):
        enumeration.ring(12, 0.5, 5)
    with pytest.raises(ValueError, match="at most 20"):
        enumeration.ring(22, 0.5)
    with pytest.raises(ValueError, match="at most 20"):
        enumeration.torus(4, 6, 0.5)
    with pytest.raises(ValueError, match="even"):
        enumeration.torus(3, 4, 0.5)
    with pytest.raises(ValueError, match="model"):
        relative_entropy_flow("ising3d", 0.5, 1)
    with pytest.raises(ValueError, match="kind"):
        relative_entropy_flow("ising1d", 0.5, 1, "push")
    with pytest.raises(ValueError, match="steps"):
        relative_entropy_flow("ising1d", 0.5, -1)
    with pytest.raises(ValueError, match="not closed"):
        relative_entropy_flow("ising2d", 0.5, 1, "fill")
    with pytest.raises(ValueError, match="b must be 2"):
        relative_entropy_flow("ising2d", 0.4, 1, b=4)
    with pytest.raises(ValueError, match="K must be"):
        relative_entropy_flow("ising2d", -0.4, 1)

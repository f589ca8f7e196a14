"""Branches followed around folds, through bifurcations and to first-order points."""

import math

import numpy as np
import pytest
import torch
from saddle_models import (
    curie_weiss,
    hopfield,
    hopfield_ground_state,
    sherrington_kirkpatrick,
)

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.saddle_point import BranchEndError, SaddlePoint

RETRIEVAL = {"m": 0.98, "q": 0.95, "r": 1.0}


# -- Curie-Weiss ---------------------------------------------------------------------------------
@pytest.mark.parametrize("T", [0.3, 0.5, 0.8])
def test_hysteresis_of_curie_weiss(T):
    curve = curie_weiss().continuation({"m": 0.95}, "h", (0.6, -0.6), T=T)
    m = math.sqrt(1 - T)
    h = m - T * math.atanh(m)
    first, second = curve.spinodals
    for fold, sign in ((first, 1), (second, -1)):
        assert abs(float(fold.value) + sign * h) <= fold.value.stderr + 1e-15
        assert 0 < fold.value.stderr < 1e-12
        assert fold.order_parameters["m"] == pytest.approx(sign * m, abs=1e-7)
        assert curve.values[int(fold.position)] != curve.values[int(fold.position) + 1]
    assert curve.end == "interval" and curve.bifurcations == ()
    assert curve.values[0] == 0.6 and curve.values[-1] == -0.6
    assert curve.residual < 1e-10
    # stable, barrier, stable
    assert np.abs(np.diff(curve.stable.astype(int))).sum() == 2
    np.testing.assert_array_equal(curve.stable, curve.index == 0)
    m_of_h = curve.order_parameters["m"]
    np.testing.assert_allclose(m_of_h, np.tanh((m_of_h + curve.values) / T), atol=1e-9)
    three = curve.at(0.0)
    assert [s.stable for s in three] == [True, False, True]
    assert curve.at(5.0) == ()
    assert len(curve.rows()) == len(curve.values) and curve.rows()[0]["h"] == 0.6


@pytest.mark.parametrize(
    ("start", "ends"), [(0.0, (2.0, 0.5)), (0.0, (0.5, 2.0)), (0.9, (0.5, 2.0))]
)
def test_the_pitchfork_of_curie_weiss(start, ends):
    curve = curie_weiss().continuation({"m": start}, "T", ends, h=0.0)
    (point,) = curve.special
    assert point.kind == "bifurcation"
    assert abs(float(point.value) - 1) <= point.value.stderr < 1e-7
    assert abs(point.order_parameters["m"]) < 1e-4


def test_a_field_removes_the_pitchfork():
    curve = curie_weiss().continuation({"m": 0.9}, "T", (0.5, 2.0), h=0.01)
    assert curve.special == () and curve.end == "interval" and curve.stable.all()


def test_first_order_line_of_curie_weiss():
    model = curie_weiss()
    T = 0.5
    up, down = model.solve([0.9], T=T, h=0.05), model.solve([-0.9], T=T, h=-0.05)
    jump = model.first_order(up, down, "h", -0.1, 0.15)
    assert abs(float(jump.value)) <= jump.value.stderr < 1e-14
    assert float(jump.jump) == pytest.approx(-2 * 0.9575040240772688, abs=1e-12)
    assert jump.a.m > 0 > jump.b.m


def test_a_transcritical_point_is_flagged():
    # x (c - x) = 0: two lines that cross
    model = SaddlePoint(lambda x, *, c: c * x**2 / 2 - x**3 / 3, {"x": None})
    for start in ({"x": 0.0}, {"x": -1.0}):
        curve = model.continuation(start, "c", (-1.0, 1.3))
        (point,) = curve.special
        assert point.kind == "bifurcation" and abs(float(point.value)) <= point.value.stderr < 1e-8
        assert curve.end == "interval"


def test_a_ring_is_followed_back_to_its_first_value():
    # grad f = x^2 + c^2 - 1
    model = SaddlePoint(lambda x, *, c: x**3 / 3 + (c**2 - 1) * x, {"x": None})
    curve = model.continuation({"x": 1.0}, "c", (0.0, 3.0))
    assert curve.end == "interval"  # through c = 1 and back to c = 0
    (fold,) = curve.spinodals
    assert float(fold.value) == pytest.approx(1, abs=1e-12)
    assert [s.stable for s in curve.at(0.5)] == [True, False]


# -- replica theories ----------------------------------------------------------------------------
def test_spinodal_temperature_of_the_hopfield_model():
    curve = hopfield().continuation(RETRIEVAL, "T", (0.4, 0.7), alpha=0.05)
    (fold,) = curve.spinodals
    assert float(fold.value) == pytest.approx(0.54229, abs=5e-4)
    assert fold.value.stderr < 1e-10
    assert curve.end == "interval" and curve.values[-1] == 0.4
    k = int(fold.position)
    assert curve.stable[: k + 1].all() and not curve.stable[k + 1 :].any()
    assert curve.replicon is not None and curve.replicon[0] > 0
    # found again without continuation: two solutions just below, none just above
    model, at = hopfield(), fold.order_parameters
    starts = [at | {"m": at["m"] + shift} for shift in (-0.02, 0.02)]
    below = model.branches(starts, n_starts=0, alpha=0.05, T=float(fold.value) - 1e-5)
    assert [s.stable for s in below] == [True, False]
    with pytest.raises(ConvergenceError):
        model.branches(starts, n_starts=0, alpha=0.05, T=float(fold.value) + 1e-5)


@pytest.mark.parametrize(("alpha", "reference"), [(0.1, 0.31544), (0.13, 0.14893)])
def test_spinodals_at_larger_loads(alpha, reference):
    curve = hopfield().continuation(
        {"m": 0.98, "q": 0.98, "r": 1.0}, "T", (0.1, 0.4), alpha=alpha, through_folds=False
    )
    assert float(curve.spinodals[0].value) == pytest.approx(reference, abs=5e-5)
    assert curve.end == "fold" and curve.stable[:-1].all()


def test_first_order_temperature_of_the_hopfield_model():
    model = hopfield()
    retrieval = model.solve(RETRIEVAL, alpha=0.03, T=0.45)
    glass = model.solve({"m": 0.0, "q": 0.66, "r": 25.0}, alpha=0.03, T=0.45)
    point = model.first_order(retrieval, glass, "T", 0.42, 0.52)
    assert float(point.value) == pytest.approx(0.47879, abs=1e-5)
    assert point.value.stderr < 1e-12
    assert float(point.a.f) == pytest.approx(float(point.b.f), abs=1e-14)
    latent = float(point.b.derivative("T")) - float(point.a.derivative("T"))
    assert float(point.jump) == pytest.approx(-latent)
    with pytest.raises(BranchEndError, match=r"branch a ends at T = 0.650") as refused:
        model.first_order(
            model.solve(retrieval, alpha=0.03, T=0.55),
            model.solve(glass, alpha=0.03, T=0.55),
            "T",
            0.5,
            0.7,
        )
    assert refused.value.branch == "a"
    assert refused.value.end == pytest.approx(0.65042, abs=1e-4)


def test_capacity_and_first_order_load_at_zero_temperature():
    model = hopfield_ground_state()
    retrieval = model.solve({"m": 0.99, "C": 0.1}, alpha=0.05)
    (fold,) = model.continuation(retrieval, "alpha", (0.05, 0.2)).spinodals
    assert float(fold.value) == pytest.approx(0.137905566, abs=1e-9)
    assert fold.order_parameters["m"] == pytest.approx(0.967417, abs=1e-6)
    glass = model.solve({"m": 0.0, "C": 0.78}, alpha=0.05)
    point = model.first_order(retrieval, glass, "alpha", 0.02, 0.13)
    assert float(point.value) == pytest.approx(0.0518543, abs=1e-7)
    with pytest.raises(ValueError, match="same branch"):
        model.first_order(glass, glass, "alpha", 0.02, 0.13)
    with pytest.raises(ValueError, match="though both branches exist"):
        model.first_order(retrieval, glass, "alpha", 0.04, 0.05)


def test_a_branch_that_runs_into_the_border():
    curve = sherrington_kirkpatrick().continuation({"q": 0.5}, "T", (0.5, 1.5))
    assert curve.end == "border" and curve.border == "q"
    assert curve.values[-1] == pytest.approx(1.0, abs=2e-6)  # T_g
    assert curve.special == () and curve.stable.all()
    assert curve.replicon is not None and (curve.replicon < 0).all()


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("parameter", "values", "message"),
    [
        ("x", (0, 1), "not a control parameter"),
        ("m", (0, 1), "not a control parameter"),
        ("T", (1,), "two or more"),
        ("T", 1.0, "two or more"),
        ("T", (0.5, math.nan), "two or more finite"),
        ("T", (0.5, 0.5), "equal"),
        ("T", ("a", "b"), "must be numbers"),
    ],
)
def test_bad_curves(parameter, values, message):
    with pytest.raises(ValueError, match=message):
        curie_weiss().continuation({"m": 0.9}, parameter, values, T=0.5, h=0.0)


def test_bad_steps_and_intervals():
    model = curie_weiss()
    with pytest.raises(ValueError, match="step"):
        model.continuation({"m": 0.9}, "T", (0.5, 0.9), step=0.0, h=0.0)
    state = model.solve({"m": 0.9}, T=0.5, h=0.0)
    with pytest.raises(ValueError, match="lo < hi"):
        model.first_order(state, state, "h", 0.1, -0.1)
    with pytest.raises(ValueError, match="outside"):
        model.first_order(state, state, "h", 0.1, 0.2)


def test_a_branch_lost_inside_the_domain_is_said():
    def f(m, *, c):
        return torch.where(c < 0.5, 1.0, math.nan) * (m - c) ** 2

    with pytest.raises(ConvergenceError, match=r"lost at c = 0\.[45]"):
        SaddlePoint(f, {"m": None}).continuation({"m": 0.0}, "c", (0.0, 1.0))

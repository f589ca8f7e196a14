"""Gaussian averages with torch, and free energies that break the rules."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from saddle_models import curie_weiss, hopfield, sherrington_kirkpatrick
from scipy import special

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.gaussian import gauss_nodes
from thermolearn.core.saddle_point import SaddlePoint, gauss_average, log2cosh

CW = {"T": 0.5, "h": 0.0}


# -- gauss_average -------------------------------------------------------------------------------
def test_moments():
    for k in range(0, 17, 2):
        moment = float(gauss_average(lambda z, k=k: z**k))
        assert moment == pytest.approx(special.factorial2(k - 1) if k else 1.0, rel=1e-13)
        assert abs(float(gauss_average(lambda z, k=k: z ** (k + 1)))) < 1e-7 * moment


@pytest.mark.parametrize(("slope", "error"), [(1, 3e-15), (15, 3e-15), (30, 3e-8), (60, 3e-4)])
def test_the_accuracy_that_is_promised(slope, error):
    # an independent rule, panels fine enough for the slope
    z, w = gauss_nodes(1.0, fineness=0.5 / slope)
    exact = w @ np.tanh(slope * (0.3 + z)) ** 2
    assert abs(float(gauss_average(lambda z: torch.tanh(slope * (0.3 + z)) ** 2)) - exact) < error
    assert (
        abs(float(gauss_average(lambda z: torch.tanh(slope * (0.3 + z)) ** 2, 60)) - exact) < 3e-15
    )


def test_the_promised_loss_of_accuracy_is_real():
    z, w = gauss_nodes(1.0, fineness=0.01)
    exact = w @ np.tanh(60 * (0.3 + z)) ** 2
    assert abs(float(gauss_average(lambda z: torch.tanh(60 * (0.3 + z)) ** 2)) - exact) > 1e-7


def test_averages_keep_leading_axes_and_derivatives():
    beta = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    mean = gauss_average(lambda z: torch.exp(beta[:, None] * z))
    np.testing.assert_allclose(mean.detach(), np.exp([0.125, 2.0]), rtol=1e-13)
    (slope,) = torch.autograd.grad(mean.sum(), beta)
    np.testing.assert_allclose(slope, np.array([0.5, 2.0]) * np.exp([0.125, 2.0]), rtol=1e-13)


@given(st.floats(-800, 800))
@settings(max_examples=60, deadline=None)
def test_log2cosh_and_its_derivatives(x):
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = log2cosh(t)
    (first,) = torch.autograd.grad(value, t, create_graph=True)
    (second,) = torch.autograd.grad(first, t)
    exact = abs(x) + math.log1p(math.exp(-2 * abs(x)))
    assert value.item() == pytest.approx(exact, rel=1e-15)
    assert first.item() == pytest.approx(math.tanh(x), abs=5e-16)
    assert second.item() == pytest.approx(1 - math.tanh(x) ** 2, abs=2e-15)


def test_log2cosh_is_smooth_at_zero():
    assert torch.func.hessian(log2cosh)(torch.zeros((), dtype=torch.float64)).item() == 1.0


@pytest.mark.parametrize("steepness", [0, -1, 201, math.nan])
def test_bad_steepness(steepness):
    with pytest.raises(ValueError, match="steepness"):
        gauss_average(torch.tanh, steepness)


def test_an_average_must_keep_the_nodes():
    with pytest.raises(ValueError, match="last axis"):
        gauss_average(lambda z: z.sum())
    with pytest.raises(ValueError, match="last axis"):
        gauss_average(lambda z: 1.0)  # type: ignore[arg-type, return-value]


# -- derivatives of the functional ---------------------------------------------------------------
def test_jets_agree_with_torch_func():
    functional = hopfield().functional
    x = np.array([0.9, 0.85, 1.4])
    controls = {"alpha": 0.05, "T": 0.45}

    def f(y):
        return functional.evaluate(y, controls)

    jet = functional.jet(x, controls)
    t = torch.tensor(x)
    np.testing.assert_allclose(jet.gradient, torch.func.grad(f)(t), rtol=1e-11)
    np.testing.assert_allclose(jet.hessian, torch.func.hessian(f)(t), rtol=1e-10, atol=1e-14)


def test_an_operation_without_a_batching_rule_is_no_obstacle():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[override]
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):  # type: ignore[override]
            (x,) = ctx.saved_tensors
            return 2 * x * grad

    model = SaddlePoint(lambda m, *, c: Square.apply(m - c) + m**2, {"m": None})
    assert float(model.solve([3.0], c=1.0).m) == pytest.approx(0.5, abs=1e-15)


def test_a_linear_direction_has_no_curvature():
    model = SaddlePoint(lambda a, b, *, c: a * b + c * b, {"a": None, "b": None})
    state = model.solve([1.0, 1.0], c=0.5)
    np.testing.assert_allclose(state.x, [-0.5, 0.0], atol=1e-15)


# -- what is refused -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("f", "error", "message"),
    [
        (lambda m, *, T: 1.0, TypeError, "torch tensor"),
        (lambda m, *, T: None, TypeError, "torch tensor"),
        (lambda m, *, T: m * torch.ones(2), ValueError, "scalar"),
        (lambda m, *, T: (m**2).float(), TypeError, "float64"),
        (lambda m, *, T: (m * torch.ones(2)).sum() ** 2, TypeError, "float64"),
        (lambda m, *, T: torch.log(m - 2) * T, ValueError, "not finite at the start m = 0.5"),
        (lambda m, *, T: torch.sqrt(m - 0.5) * T, ValueError, "not finite"),
        (lambda m, *, T: torch.tensor(2.0, dtype=torch.float64), TypeError, "does not depend"),
        (lambda m, *, T: m**2 + math.exp(float(m.detach())), ValueError, "derivative .* in 'm'"),
    ],
)
def test_bad_functionals(f, error, message):
    with pytest.raises(error, match=message):
        SaddlePoint(f, {"m": (-1, 1)}).solve({"m": 0.5}, T=1.0)


def test_a_cut_derivative_in_a_control_parameter_is_noticed():
    model = SaddlePoint(lambda m, *, T: m**2 + m * math.sqrt(float(T.detach())), {"m": None})
    state = model.solve({"m": 0.0}, T=4.0)
    assert float(state.m) == -1.0
    for use in (lambda: state.derivative("T"), lambda: state.response("T")):
        with pytest.raises(ValueError, match="'T'"):
            use()
    with pytest.raises(ValueError, match="'T'"):
        model.continuation(state, "T", (4.0, 5.0))


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"m": 1.0}, "outside the open domain m in"),
        ({"m": -3.0}, "outside"),
        ({"m": math.nan}, "outside"),
        ({}, "missing"),
        ({"m": 0.1, "q": 0.2}, "unknown"),
        ([0.1, 0.2], "2 values"),
    ],
)
def test_bad_starts(start, message):
    with pytest.raises(ValueError, match=message):
        curie_weiss().solve(start, **CW)


@pytest.mark.parametrize(
    ("controls", "error", "message"),
    [
        ({"T": 0.5}, ValueError, r"\['h'\] have no value"),
        ({**CW, "beta": 2.0}, ValueError, "'beta' is not a control parameter"),
        ({**CW, "m": 0.3}, ValueError, "'m' is not a control parameter"),
        ({**CW, "h": "0"}, TypeError, "must be a number"),
        ({**CW, "h": None}, TypeError, "must be a number"),
        ({**CW, "h": math.inf}, ValueError, "finite"),
        ({**CW, "h": object()}, TypeError, "must be a number"),
    ],
)
def test_bad_controls(controls, error, message):
    with pytest.raises(error, match=message):
        curie_weiss().solve({"m": 0.5}, **controls)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order_parameters": {}}, ValueError, "empty"),
        ({"order_parameters": "m"}, TypeError, "mapping"),
        ({"order_parameters": {"m": (1, 0)}}, ValueError, "lo < hi"),
        ({"order_parameters": {"m": (1, math.nan)}}, ValueError, "lo < hi"),
        ({"order_parameters": {"m": 3}}, ValueError, r"\(lo, hi\) or None"),
        ({"order_parameters": {"x": None}}, ValueError, "not arguments of free_energy"),
        ({"maximize": ["x"]}, ValueError, "maximize must name"),
        ({"maximize": "m"}, ValueError, "maximize must name"),
        ({"conjugate": ["m", "q"]}, ValueError, "pairs"),
        ({"conjugate": [("m", "x")]}, ValueError, "conjugate must name"),
        ({"maximize": ["m"], "conjugate": [("m", "q")]}, ValueError, "only once"),
        ({"tol": 0.0}, ValueError, "tol"),
        ({"replicon": 3}, TypeError, "replicon"),
        ({"free_energy": 3}, TypeError, "must be a function"),
        ({"free_energy": lambda *a: a[0]}, TypeError, "keywords"),
    ],
)
def test_bad_declarations(options, error, message):
    def f(m, q, *, T):
        return m**2 + q**2

    arguments = {"free_energy": f, "order_parameters": {"m": (-1, 1), "q": (0, 1)}, **options}
    with pytest.raises(error, match=message):
        SaddlePoint(**arguments)


def test_other_mistakes():
    state = curie_weiss().solve({"m": 0.9}, **CW)
    with pytest.raises(AttributeError, match="order parameter 'q'"):
        _ = state.q
    for name in ("m", "beta"):
        with pytest.raises(ValueError, match="not a control parameter"):
            state.derivative(name)
    with pytest.raises(ValueError, match="at least one start"):
        curie_weiss().branches(n_starts=0, **CW)
    assert state.replicon is None and state.at_stable is None


def test_array_controls_are_taken_but_do_not_vary():
    model = SaddlePoint(lambda m, *, v, c: ((m - v) ** 2).sum() + c * m, {"m": None})
    state = model.solve({"m": 0.0}, v=[1.0, 2.0], c=0.0)
    assert float(state.m) == pytest.approx(1.5, abs=1e-15)
    with pytest.raises(ValueError, match="array"):
        state.derivative("v")
    with pytest.raises(ValueError, match="non-finite"):
        model.solve({"m": 0.0}, v=[1.0, math.nan], c=0.0)


def test_a_replicon_that_is_not_a_number_is_refused():
    model = curie_weiss(replicon=lambda m, *, T, h: math.nan)
    with pytest.raises(ValueError, match="replicon returned NaN"):
        model.solve({"m": 0.9}, **CW)


def test_defaults_and_open_signatures():
    model = SaddlePoint(lambda m, *, c=2.0: (m - c) ** 2, {"m": None})
    assert float(model.solve([0.0]).m) == 2.0
    open_model = SaddlePoint(lambda **x: (x["m"] - x["c"]) ** 2, {"m": None})
    assert float(open_model.solve([0.0], c=1).m) == 1.0


@given(st.floats(0.05, 0.95), st.floats(0.2, 0.95))
@settings(max_examples=15, deadline=None)
def test_glass_solutions_satisfy_their_equation(q, T):
    state = sherrington_kirkpatrick().solve({"q": q}, T=T)
    if state.status == "ok":
        x = float(state.q)
        mean = gauss_average(lambda z: torch.tanh(math.sqrt(x) * z / T) ** 2)
        assert float(mean) == pytest.approx(x, abs=1e-12)


def test_a_variable_that_does_nothing_is_degenerate() -> None:
    state = SaddlePoint(lambda m, *, T: 0 * m, {"m": (-1, 1)}).solve(0.3, T=0.5)
    assert state.status == "degenerate" and state.order_parameters["m"].stderr == 2.0
    idle = SaddlePoint(lambda m, x, *, T: (m - T) ** 2 + 0 * x, {"m": None, "x": (0, 1)})
    assert idle.solve({"m": 0.1, "x": 0.5}, T=0.5).status == "degenerate"


def test_numpy_inside_the_functional_is_named() -> None:
    f = SaddlePoint(lambda m, *, T: m * m / 2 - T * np.log(2 * np.cosh(m / T)), {"m": (-1, 1)})
    with pytest.raises(TypeError, match="numpy function"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        f.solve({"m": 0.5}, T=0.5)


def test_a_functional_that_is_nowhere_finite_is_named() -> None:
    f = SaddlePoint(lambda m, *, T: m * m / 2 - T * torch.log(torch.cosh(m / T)), {"m": (-1, 1)})
    with pytest.raises(ConvergenceError, match="not finite at any"):
        f.branches(T=0.0)

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.fixed_point import bracketed_root, damped_iteration


def test_cosine_and_its_certificate():
    got = damped_iteration(np.cos, 0.5, tol=1e-14)
    assert float(got.x) == pytest.approx(0.7390851332151607, abs=1e-13)
    assert got.residual == abs(np.cos(got.x) - got.x) <= 1e-14
    calls = []
    again = damped_iteration(lambda x: (calls.append(1), np.cos(x))[1], 0.5, tol=1e-14)
    assert len(calls) == again.iterations


@given(a=st.floats(-2.9, 0.95), b=st.floats(-10, 10), start=st.floats(-5, 5))
def test_damping_reaches_slopes_that_plain_iteration_does_not(a, b, start):
    """x = a x + b with damping 1/2 converges for -3 < a < 1."""
    got = damped_iteration(lambda x: a * x + b, [start], tol=1e-11)
    x = b / (1 - a)
    # residual x scale / (1 - a), and rounding
    assert got.x[0] == pytest.approx(x, abs=1.01e-11 * max(1.0, abs(x)) / (1 - a))
    if a < -1.1 and abs(start - b / (1 - a)) > 1e-3:
        with pytest.raises(ConvergenceError):
            damped_iteration(lambda x: a * x + b, [start], damping=0.0, max_iter=300)


def test_heavy_damping_does_not_pass_for_convergence():
    with pytest.raises(ConvergenceError, match=r"residual .* after 5 iterations"):
        damped_iteration(lambda x: x / 2 + 1, np.zeros(2), damping=1 - 1e-13, max_iter=5)


def test_complex_and_matrix_fixed_points():
    """g = -1/(z + g), the semicircle at z = 2i, with Im g > 0."""
    got = damped_iteration(lambda g: -1 / (2j + g), np.full((2, 2), 1j))
    assert np.allclose(got.x, 1j * (math.sqrt(2) - 1), atol=1e-11)


def test_integer_start_is_not_rounded():
    assert float(damped_iteration(lambda x: 0.5 * x + 0.1, 1).x) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: damped_iteration(lambda x: 2 * x, 1.0, max_iter=10_000), ConvergenceError, "left"),
        (lambda: damped_iteration(lambda x: x + np.nan, 1.0), ConvergenceError, "iteration 1"),
        (lambda: damped_iteration(lambda x: x + 1, 1.0, max_iter=9), ConvergenceError, "9 iter"),
        (lambda: damped_iteration(np.cos, 0.5, damping=1.0), ValueError, "damping"),
        (lambda: damped_iteration(np.cos, 0.5, damping=-0.1), ValueError, "damping"),
        (lambda: damped_iteration(np.cos, 0.5, tol=0.0), ValueError, "tol"),
        (lambda: damped_iteration(np.cos, 0.5, max_iter=0), ValueError, "max_iter"),
        (lambda: damped_iteration(np.cos, np.inf), ValueError, "x0"),
        (lambda: damped_iteration(lambda x: x[:1], np.ones(2)), ValueError, "shape"),
        (lambda: bracketed_root(lambda x: x + 1, 0, 1), ValueError, "change of sign"),
        (lambda: bracketed_root(lambda x: x, 1, 0), ValueError, "lo < hi"),
        (lambda: bracketed_root(lambda x: x, -1, 1, log=True), ValueError, "0 < lo < hi"),
        (lambda: bracketed_root(lambda x: x, 0, math.inf), ValueError, "lo < hi"),
        (lambda: bracketed_root(lambda x: x, -1, 1, tol=0), ValueError, "tol"),
        (lambda: bracketed_root(lambda x: math.nan, 0, 1), ConvergenceError, "f is nan at x = 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_input_and_failures(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_root_on_a_line_and_at_the_ends():
    assert bracketed_root(lambda x: x**3 - 2, 0, 2) == pytest.approx(2 ** (1 / 3), abs=2e-12)
    assert bracketed_root(lambda x: x, 0, 1) == 0.0
    assert bracketed_root(lambda x: x - 1, 0, 1) == 1.0
    assert bracketed_root(lambda x: x - 8.0, 1e-3, 8.0, log=True) == pytest.approx(8.0, rel=1e-12)


@given(exponent=st.floats(-11.5, 11.5))
def test_root_in_log_scale_has_relative_accuracy(exponent):
    root = 10.0**exponent
    got = bracketed_root(lambda x: 1 / x - 1 / root, 1e-12, 1e12, log=True)
    assert got == pytest.approx(root, rel=1e-11)


def test_a_step_is_bracketed_to_the_tolerance():
    got = bracketed_root(lambda x: -1.0 if x < math.pi else 1.0, 0, 10, tol=1e-9)
    assert abs(got - math.pi) < 1e-8

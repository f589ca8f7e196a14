"""The closed theory of random features: published numbers, limits, and its own other form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from thermolearn.core.activation import resolve_activation
from thermolearn.core.errors import ConvergenceError
from thermolearn.predict.shift import RFShiftTheory, shift_order, simulate_rf
from thermolearn.predict.shift.constants import linear_part
from thermolearn.predict.shift.self_consistent import Sizes, solve

D = 200
WIDE = np.array([330, 400, 500, 800, 1500, 5000])


def spectrum(exponent: float, d: int = D) -> np.ndarray:
    ell = np.arange(1, d + 1) ** -exponent
    return ell / ell.mean()


TRAIN = spectrum(0.5)
TESTS = {"none": TRAIN, "easy": spectrum(1.0), "hard": spectrum(0.0), "scale2": 2 * TRAIN}


def theory(shift: str) -> RFShiftTheory:
    return RFShiftTheory(TRAIN, TESTS[shift], noise=0.1)


# shift, n, p, ridge, error, its parts if known, simulated error and its standard error
TABLE = [
    ("none", 300, 100, 1e-2, 0.7847, (0.2825, 0.2183, 0.2838)),
    ("none", 300, 300, 1e-2, 0.4941, (0.0455, 0.0890, 0.3595)),
    ("none", 300, 900, 1e-2, 0.2085, (0.0277, 0.0212, 0.1596)),
    ("none", 300, 900, 1e-6, 0.2391, None),
    ("none", 100, 400, 1e-1, 0.6346, None),
    ("easy", 300, 100, 1e-2, 0.5423, None),
    ("easy", 300, 900, 1e-2, 0.1450, None),
    ("hard", 300, 100, 1e-2, 0.9382, None),
    ("hard", 300, 300, 1e-2, 0.5804, None),
    ("hard", 300, 900, 1e-2, 0.2513, (0.0384, 0.0230, 0.1900)),
    ("hard", 300, 900, 1e-6, 0.2858, None),
    ("scale2", 300, 300, 1e-2, 0.9510, (0.2924, 0.1560, 0.5026)),
    ("scale2", 300, 900, 1e-2, 0.4855, (0.2405, 0.0388, 0.2062)),
]


# -- numbers -------------------------------------------------------------------------------------
def test_constants_of_erf() -> None:
    part = linear_part(resolve_activation("erf"), 1.0)
    assert part.slope == pytest.approx(2 / math.sqrt(3 * math.pi), abs=1e-12)
    residue = 2 / math.pi * math.asin(2 / 3) - 4 / (3 * math.pi)
    assert part.residue == pytest.approx(residue, abs=1e-12)
    assert (part.slope, part.residue) == pytest.approx((0.65147002, 0.04014587), abs=1e-8)


def test_constants_of_relu_and_of_a_line() -> None:
    part = linear_part(resolve_activation("relu"), 4.0)
    assert part.mean == pytest.approx(2 / math.sqrt(2 * math.pi), rel=1e-12)
    assert part.slope == pytest.approx(0.5, rel=1e-12)
    assert part.residue == pytest.approx(4 * (0.25 - 1 / (2 * math.pi)), rel=1e-12)
    assert linear_part(resolve_activation("linear"), 3.0).residue == 0


@pytest.mark.parametrize(("shift", "n", "p", "ridge", "error", "parts"), TABLE)
def test_table(shift: str, n: int, p: int, ridge: float, error: float, parts: tuple) -> None:
    found = theory(shift).predict(n, p, ridge)
    assert found.test == pytest.approx(error, abs=1e-4)
    assert found.test == pytest.approx(found.bias + found.variance, rel=1e-12)
    assert found.residual < 1e-12
    if parts:
        assert (found.bias, found.var_features, found.var_data) == pytest.approx(parts, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "n", "p", "ridge", "error", "parts"), TABLE)
def test_table_is_simulated(
    shift: str, n: int, p: int, ridge: float, error: float, parts: tuple
) -> None:
    found = simulate_rf(TRAIN, TESTS[shift], n, p, ridge, seeds=20, noise=0.1)
    expected = theory(shift).predict(n, p, ridge)
    for measured, predicted in (
        (found.test, expected.test),
        (found.in_distribution, expected.in_distribution.test),
    ):
        assert abs(float(measured) - predicted) < 3 * measured.stderr


def test_double_descent() -> None:
    flat = RFShiftTheory(np.ones(D), np.ones(D), noise=0.25)
    p = np.array([50, 150, 270, 300, 330, 450, 900, 3000])
    known = [0.98255, 1.03973, 3.76166, 18.7272, 3.99647, 1.04766, 0.47851, 0.33066]
    found = flat.predict(300, p, 1e-5)
    np.testing.assert_allclose(found.test, known, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(found.bias)[p > 500], 0.01703, atol=1e-5)
    # without a ridge the bias does not depend on the width
    ridgeless = np.asarray(flat.predict(300, p[p > 300], ridgeless=True).bias)
    np.testing.assert_allclose(ridgeless, ridgeless[-1], rtol=1e-5)
    peaks = flat.predict(300, 300, np.array([1e-4, 1e-5, 1e-6, 1e-7])).test
    np.testing.assert_allclose(peaks, [6.019, 18.727, 58.93, 186.05], rtol=1e-4)


@pytest.mark.parametrize(
    ("shift", "slope", "intercept"), [("hard", 1.138782, 0.013533), ("easy", 0.794156, -0.020146)]
)
def test_errors_with_and_without_shift_are_on_a_line(
    shift: str, slope: float, intercept: float
) -> None:
    solver = theory(shift)
    line = solver.id_ood_line(300, WIDE)
    assert line.exact
    assert line.slope == pytest.approx(slope, abs=1e-5)
    assert line.intercept == pytest.approx(intercept, abs=1e-5)
    assert line.residual < 1e-8
    assert 1e-4 < solver.id_ood_line(300, WIDE, ridge=1e-2).residual < 1e-3
    narrow = solver.id_ood_line(300, np.arange(40, 280, 20))
    assert narrow.residual > 1e-2 and not narrow.exact


def test_wider_models_are_more_robust() -> None:
    found = theory("hard").predict(300, np.array([330, 500, 1000, 5000]), ridgeless=True)
    gap = np.asarray(found.test) - np.asarray(found.in_distribution.test)
    np.testing.assert_allclose(gap, [0.34037, 0.07762, 0.04451, 0.03323], atol=1e-5)


def test_scaled_inputs() -> None:
    known = {0.25: 0.3571, 0.5: 0.2543, 1: 0.2085, 2: 0.2428, 4: 0.3385}
    for k, value in known.items():
        found = RFShiftTheory(TRAIN, k * TRAIN, noise=0.1).predict(300, 900, 1e-2).test
        assert found / k == pytest.approx(value, abs=1e-4)


# -- limits --------------------------------------------------------------------------------------
def test_a_large_ridge_predicts_nothing() -> None:
    found = theory("hard").predict(300, 900, 1e9).test
    assert found == pytest.approx(1.0, abs=1e-6)


def test_many_features_are_a_linear_ridge() -> None:
    solver = RFShiftTheory(TRAIN, TRAIN, noise=0.25)
    a, b = solver.constants.slope**2, solver.constants.residue
    found = solver.predict(300, 10**6, 1e-2).test
    assert found == pytest.approx(0.252372, abs=1e-6)
    # ridge regression on x itself: ridge (lambda + b) d/a beside X'X
    ridge = (1e-2 + b) * D / a
    kappa = brentq(lambda k: (TRAIN / (TRAIN + k)).sum() + ridge / k - 300, 1e-9, 1e9, xtol=1e-14)
    h = 1 / (TRAIN + kappa)
    df2 = ((TRAIN * h) ** 2).sum()
    bias = kappa**2 * (TRAIN * h**2).mean()
    direct = (300 * bias + 0.25 * df2) / (300 - df2)
    assert direct == pytest.approx(0.252288, abs=1e-6)
    assert found == pytest.approx(direct, rel=1e-3)


def test_a_linear_activation_is_least_squares() -> None:
    flat = RFShiftTheory(np.ones(D), np.ones(D), activation="linear", noise=0.25)
    for p in (200, 300, 1000):
        found = flat.predict(300, p, ridgeless=True)
        if p > D:
            assert found.test == pytest.approx(0.25 * D / (300 - D), rel=1e-6)
        assert np.isfinite(found.test)


def test_as_many_samples_as_needed() -> None:
    assert theory("none").predict(10**7, 10**5, 1e-6).test < 0.01


def test_directions_without_variance_do_not_count() -> None:
    ell = np.concatenate([spectrum(0.5, 50), np.zeros(50)])
    found = RFShiftTheory(ell, ell, noise=0.1).predict(80, 200, 1e-2)
    assert math.isfinite(found.test) and found.test > 0


# -- its other form, other activations, matrices -------------------------------------------------
@pytest.mark.parametrize(("n", "p", "ridge"), [(300, 100, 1e-2), (300, 900, 1e-3), (100, 400, 0.1)])
def test_the_equations_of_the_paper(n: int, p: int, ridge: float) -> None:
    """x and tau solved from the published pair agree with kappa and kappa'."""
    solver = theory("none")
    rho, omega = solver.constants.slope**2, solver.constants.residue / solver.constants.slope**2
    phi, psi = D / n, D / p

    def tau(x: float) -> float:
        root = math.sqrt((psi - phi) ** 2 + 4 * x * psi * phi * ridge / rho)
        return (root + psi - phi) / (2 * psi * ridge)

    def integral(x: float) -> float:
        return phi * float(np.mean(TRAIN / (phi + x * TRAIN)))

    x = brentq(lambda x: x - (1 - ridge * tau(x)) / (omega + integral(x)), 1e-12, 1e6, xtol=1e-15)
    found = solver.predict(n, p, ridge)
    assert phi / x == pytest.approx(found.kappa_prime, rel=1e-9)
    assert p / (n * tau(x)) == pytest.approx(found.kappa, rel=1e-9)


def test_the_stiffness_is_a_derivative() -> None:
    part = linear_part(resolve_activation("erf"), 1.0)
    state = solve(TRAIN, part, Sizes.checked(300, 250, 1e-2))
    ridge = (part.residue + state.kappa) * D / part.slope**2
    from thermolearn.predict.shift.self_consistent import implicit_ridge

    step = 1e-5 * ridge
    p = np.array([250.0])
    slope = (implicit_ridge(TRAIN, ridge + step, p) - implicit_ridge(TRAIN, ridge - step, p)) / (
        2 * step
    )
    np.testing.assert_allclose(slope, state.stiffness, rtol=1e-7)


def test_matrices_that_do_not_commute_against_simulation() -> None:
    rng = np.random.default_rng(0)
    train, test, signal = (
        a @ a.T / 60
        for a in (rng.normal(size=(60, 60)), rng.normal(size=(60, 60)), rng.normal(size=(60, 30)))
    )
    signal /= 30
    solver = RFShiftTheory(train, test, signal, "tanh", noise=0.1)
    for p in (60, 200):
        found = simulate_rf(train, test, 90, p, 1e-2, 40, signal, "tanh", 0.1, n_test=600)
        expected = solver.predict(90, p, 1e-2)
        assert abs(float(found.test) - expected.test) < 4 * found.test.stderr
        home = found.in_distribution
        assert abs(float(home) - expected.in_distribution.test) < 4 * home.stderr


def test_a_centered_relu_against_simulation() -> None:
    train, test = spectrum(0.5, 80), spectrum(0.0, 80)
    found = simulate_rf(train, test, 120, 240, 1e-2, 40, None, "relu", 0.1, n_test=600)
    expected = RFShiftTheory(train, test, None, "relu", 0.1).predict(120, 240, 1e-2)
    assert abs(float(found.test) - expected.test) < 4 * found.test.stderr


def test_a_rotation_changes_nothing() -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0]
    train, test = spectrum(0.5, 40), spectrum(1.0, 40)
    plain = RFShiftTheory(train, test, noise=0.1).predict(60, 90, 1e-2)
    turned = RFShiftTheory((turn * train) @ turn.T, (turn * test) @ turn.T, noise=0.1)
    assert turned.predict(60, 90, 1e-2).test == pytest.approx(plain.test, rel=1e-9)


def test_learning_curves_are_predictions() -> None:
    solver = theory("easy")
    by_width = solver.learning_curve(widths=[100, 900], n=300, ridge=1e-2)
    np.testing.assert_allclose(by_width.prediction.test, [0.5423, 0.1450], atol=1e-4)
    by_samples = solver.learning_curve(samples=[100, 300], p=900, ridge=1e-2)
    assert by_samples.axis == "samples"
    assert np.asarray(by_samples.prediction.test)[1] == pytest.approx(0.1450, abs=1e-4)


# -- order of shifts -----------------------------------------------------------------------------
def test_easier_shifts_have_smaller_errors() -> None:
    exponents = (0.0, 0.25, 0.5, 0.75, 1.0)
    known = {
        (900, 1e-6): (0.2858, 0.2658, 0.2391, 0.2057, 0.1697),
        (100, 0.1): (0.8464, 0.7896, 0.7099, 0.6060, 0.4892),
    }
    for (p, ridge), errors in known.items():
        found = [
            RFShiftTheory(TRAIN, spectrum(e), noise=0.1).predict(300, p, ridge).test
            for e in exponents
        ]
        np.testing.assert_allclose(found, errors, atol=1e-4)
        assert (np.diff(found) < 0).all()
    for low, high in ((0.0, 0.25), (0.25, 1.0)):
        assert shift_order(TRAIN, spectrum(high), spectrum(low)) == "easier"
        assert shift_order(TRAIN, spectrum(low), spectrum(high)) == "harder"


def test_the_order_is_partial() -> None:
    train = np.array([3.0, 2.0, 1.0])
    assert shift_order(train, train, train) == "equal"
    assert shift_order(train, [2, 3, 1], [2, 2, 2]) == "incomparable"
    assert shift_order(train, 2 * train, train) == "incomparable"  # another trace
    assert shift_order(train, [6, 0, 0], [0, 0, 6]) == "easier"
    # no weak or strong direction
    assert shift_order(2 * np.ones(3), [3, 2, 1], [1, 2, 3]) == "equal"


def test_shifts_of_another_trace_have_no_order() -> None:
    """At a smaller trace the slope grows, and variance in strong directions may hurt more."""
    train = 3 * np.r_[[1.8] * 50, [0.2] * 50]
    strong = np.r_[[0.2] * 50, [0.0] * 50]
    weak = strong[::-1]
    errors = [
        RFShiftTheory(train, test, None, "tanh", 0.0).predict(1000, 400, 1e-3).test
        for test in (strong, weak)
    ]
    np.testing.assert_allclose(errors, [0.1390, 0.0791], atol=1e-4)
    assert shift_order(train, strong, weak) == "incomparable"
    assert shift_order(train, 30 * strong, 30 * weak) == "easier"  # the trace of training


def test_ordered_shifts_have_ordered_errors() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        train, weak = np.sort(rng.gamma(0.7, size=12)) + 1e-3, rng.gamma(0.7, size=12)
        strong = weak * np.sort(rng.gamma(1.0, size=12))
        weak, strong = (r * train.sum() / r.sum() for r in (weak, strong))
        assert shift_order(train, strong, weak) == "easier"
        n, p, ridge = rng.integers(2, 200), rng.integers(2, 200), 10 ** rng.uniform(-6, 1)
        low, high = (
            RFShiftTheory(train, r, None, "tanh", 0.1).predict(n, p, ridge) for r in (strong, weak)
        )
        assert low.test <= high.test * (1 + 1e-9) and low.bias <= high.bias * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
def test_ridgeless_does_not_depend_on_its_ridge(scale: float) -> None:
    flat = scale * np.ones(50)
    solver = RFShiftTheory(flat, flat, np.eye(50) / 50 / scale, "tanh", 0.1)
    b = solver.constants.residue
    for p in (40, 150):
        found = solver.predict(75, p, ridgeless=True).test
        for ridge in (1e-8 * b, 1e-13 * b):
            assert found == pytest.approx(solver.predict(75, p, ridge).test, rel=1e-6)


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ridge": 0.0}, "ridgeless=True"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"ridge": math.nan}, "ridge must be"),
        ({"ridge": None}, "ridge is missing"),
        ({"ridgeless": True}, "not both"),
        ({"n": 0}, "n must be"),
        ({"p": 0.5}, "p must be"),
        ({"n": "many"}, "n must be"),
        ({"n": [1, 2], "p": [1, 2, 3]}, "broadcast"),
    ],
)
def test_bad_sizes(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        theory("none").predict(**({"n": 30, "p": 40, "ridge": 0.1} | change))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2)), "not symmetric"),
        ((np.array([1.0, -1.0]), np.eye(2)), "negative eigenvalue"),
        ((np.eye(2), np.eye(3)), "dimensions"),
        ((np.eye(2), np.eye(2), np.ones(3)), "dimensions"),
        ((np.zeros(2), np.eye(2)), "zero"),
        ((np.array([1.0, np.nan]), np.eye(2)), "non-finite"),
        ((np.ones((2, 3)), np.eye(2)), "matrix"),
        ((np.eye(2), 2 * np.eye(2), None, "relu"), "not centered"),
        ((np.eye(2), np.eye(2), None, lambda z: z**2), "no slope"),
        ((np.eye(2), np.eye(2), None, "erf", -1.0), "noise"),
        ((np.eye(2), np.eye(2), None, "no such"), "not known"),
    ],
)
def test_bad_models(given: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RFShiftTheory(*given)


@pytest.mark.parametrize("d", [10, 20, 30])
def test_no_number_without_a_solution(d: int) -> None:
    """p = n, no residue: the denominators vanish with the ridge."""
    flat = RFShiftTheory(np.ones(d), np.ones(d), activation="linear", noise=0.1)
    with pytest.raises(ConvergenceError, match="ridge"):
        flat.predict(20, 20, 1e-300)


def test_numbers_as_long_as_there_is_a_solution() -> None:
    """n = p < d: the error grows as one over the square root of the ridge."""
    flat = RFShiftTheory(np.ones(30), np.ones(30), activation="linear", noise=0.1)
    found = np.asarray(flat.predict(20, 20, np.array([1e-10, 1e-12, 1e-14])).test)
    np.testing.assert_allclose(found[1:] / found[:-1], 10.0, rtol=1e-3)


def test_the_peak_without_a_ridge_is_infinite() -> None:
    with pytest.raises(ConvergenceError, match="infinite"):
        theory("none").predict(300, np.array([200, 300, 400]), ridgeless=True)


def test_bad_lines_and_curves() -> None:
    with pytest.raises(ValueError, match="three different"):
        theory("hard").id_ood_line(300, [400, 500])
    for given in ({}, {"widths": [3], "samples": [3]}, {"widths": [3]}, {"samples": [3], "n": 2}):
        with pytest.raises(ValueError, match="learning_curve"):
            theory("hard").learning_curve(**given, ridge=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ridge": 0.0}, "ridge"),
        ({"seeds": 0}, "seeds"),
        ({"n": 0}, "n must"),
        ({"p": 1.5}, "p must"),
    ],
)
def test_bad_simulations(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_rf(
            **(
                {"cov_train": np.eye(3), "cov_test": np.eye(3), "n": 5, "p": 4, "ridge": 0.1}
                | change
            )
        )  # type: ignore[arg-type]

"""Detectors of Laplace noise in closed form, and trained networks against fresh samples."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from thermolearn.predict.exponents import AnalyticCGF, ErrorExponents
from thermolearn.systems.inference import error_exponents as system
from thermolearn.systems.inference.error_exponents.closed_form import (
    chernoff_information,
    linear_detector,
    llr_detector,
)


@pytest.fixture(scope="module")
def detector():
    return system.trained_detector()


# -- closed forms --------------------------------------------------------------------------------
@pytest.mark.parametrize("shift", [0.1, 1.0, 5.0])
def test_the_likelihood_ratio_in_closed_form(shift):
    found = llr_detector(shift)
    t = np.array([-1.3, -0.2, 0.3, 1.0, 2.0])
    for at, phi in zip(t, found.h0.cgf(t), strict=True):
        ends = (math.exp(-at * shift) + math.exp(at * shift - shift)) / 2
        inside = integrate.quad(lambda x, a=at: math.exp(a * (2 * x - shift) - x) / 2, 0, shift)[0]
        assert phi == pytest.approx(math.log(ends + inside), abs=1e-12)
    assert found.h1.cgf(t) == pytest.approx(found.h0.cgf(t + 1), abs=1e-12)
    zero, one = found.rates(0.3 * shift)
    assert float(zero.rate - one.rate) == pytest.approx(0.3 * shift, abs=1e-12)
    gamma, exponent = found.chernoff_point()
    assert float(gamma) == pytest.approx(0, abs=1e-10)
    assert float(exponent) == pytest.approx(chernoff_information(shift), abs=1e-12)


@pytest.mark.parametrize(("n", "worst"), [(10, 0.004), (20, 0.0015), (40, 6e-4)])
def test_the_linear_score_against_its_exact_tail(n, worst):
    # the sum of Laplace noise is the difference of two Gamma variables
    for gamma in (0.45, 0.55, stats.norm.isf(0.01) * math.sqrt(2 / n)):
        exact = integrate.quad(
            lambda y, s=n * gamma: stats.gamma.pdf(y, n) * stats.gamma.sf(s + y, n),
            0, n + 15 * math.sqrt(n) + 20, epsabs=0, epsrel=1e-10, limit=400,
        )[0]  # fmt: skip
        found = float(linear_detector(1.0).false_alarm(n, gamma))
        assert abs(found / exact - 1) < worst


def test_the_chernoff_information_of_the_table():
    assert chernoff_information(1.0) == pytest.approx(0.0945349, abs=1e-7)
    assert float(system.theory(system.Params())["efficiency"]) == pytest.approx(0.6420, abs=1e-4)


# -- a trained network ---------------------------------------------------------------------------
def test_false_alarms_of_a_trained_network(detector):
    # calibrated on 50 000 scores, against draws from fresh ones: within 10% up to n = 50
    for n in (2, 5, 20, 50):
        measured, _ = detector.measure(n, 0.0)
        model = float(detector.exponents.false_alarm(n, 0.0))
        assert abs(model / float(measured) - 1) < 0.1
        assert float(measured.log_stderr) < 0.05


@pytest.mark.slow
def test_misses_of_a_trained_network(detector):
    for n in (5, 20, 50):
        _, measured = detector.measure(n, 0.0)
        model = detector.exponents.miss(n, 0.0)
        spread = math.hypot(float(model.log_stderr), float(measured.log_stderr))
        assert abs(float(model.log_probability - measured.log_probability)) < 4 * spread


def test_gaussian_normalization_of_a_trained_network(detector):
    gamma = float(detector.exponents.cfar_threshold(20, 0.01))
    rng = np.random.default_rng(0)
    means = rng.choice(detector.test_h0, (200_000, 20)).mean(1)
    realized = float((means > gamma).mean())
    assert realized == pytest.approx(0.0109, abs=0.0012)
    assert realized == pytest.approx(float(detector.exponents.false_alarm(20, gamma)), rel=0.1)


def test_a_trained_network_is_close_to_the_best(detector):
    # two independent coordinates: the ratios add, and so do their cumulants
    one = llr_detector(0.5)
    best = ErrorExponents(*(
        AnalyticCGF(
            lambda t, c=c: 2 * c.moments(t).cgf, lambda t, c=c: 2 * c.moments(t).mean,
            lambda t, c=c: 2 * c.moments(t).var, support=(-1.0, 1.0),
        )
        for c in (one.h0, one.h1)
    ))  # fmt: skip
    assert float(best.chernoff_point()[1]) == pytest.approx(2 * chernoff_information(0.5))
    found = detector.exponents.efficiency(best)
    assert 0.85 < float(found) < 1 + 4 * found.stderr


def test_training_draws_no_global_numbers():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b = (system.trained_detector("breast_cancer") for _ in range(2))
    assert (a.test_h0 == b.test_h0).all() and a.train_loss == b.train_loss
    assert (torch.get_rng_state() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()


# -- real data -----------------------------------------------------------------------------------
@pytest.mark.parametrize("data", ["digits_parity", "digits_3_8", "breast_cancer"])
def test_real_data_within_the_error_bars(data):
    found = system.trained_detector(data)
    gamma = float(found.exponents.chernoff_point()[0])
    for n in (2, 5, 10, 20):
        pairs = zip(
            found.measure(n, gamma, 4000),
            (found.exponents.false_alarm(n, gamma), found.exponents.miss(n, gamma)),
            strict=True,
        )
        for measured, model in pairs:
            spread = math.hypot(float(model.log_stderr), float(measured.log_stderr))
            assert abs(float(model.log_probability - measured.log_probability)) < 4 * spread
    status = str(found.exponents.false_alarm(5, gamma).status)
    assert status == "ok" if data == "digits_parity" else "ESS" in status


def test_bad_requests():
    for arguments, words in (
        ({"data": "mnist"}, "data must be"),
        ({"calibration": 10}, "calibration must"),
        ({"data": "breast_cancer", "calibration": 100}, "calibration is set by the split"),
        ({"hidden": 0}, "hidden must"),
        ({"steps": 0}, "steps must"),
        ({"seed": -1}, "seed must"),
        ({"data": "breast_cancer", "noise": -1.0}, "noise must"),
    ):
        with pytest.raises(ValueError, match=words):
            system.trained_detector(**arguments)
    for arguments in ({"threshold": 2.0}, {"shift": 9.0}, {"alpha": 0.9}, {"draws": 5}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            system.Params(**arguments)

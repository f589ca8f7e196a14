"""The catalogue entry of covariate shift."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from thermolearn.predict.shift import RFShiftTheory, shift_order
from thermolearn.systems.inference import covariate_shift as system

SMALL = system.Params(input_dim=40, draws=2)


def test_theory_is_the_published_table() -> None:
    p = system.Params(
        input_dim=200, samples_per_dim=1.5, narrow=0.5, wide=4.5, ridge=1e-2, test_exponent=0.0
    )
    found = system.theory(p)
    known = {
        "error": 0.7847,
        "error_shifted": 0.9382,
        "error_wide": 0.2085,
        "error_shifted_wide": 0.2513,
    }
    for name, value in known.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-4)
        assert 0 < found[name].stderr < 1e-9


def test_spectra_have_mean_one_and_an_order() -> None:
    easy, hard = (replace(SMALL, test_exponent=a) for a in (1.0, 0.0))
    for p in (easy, hard):
        assert p.spectra[0].mean() == pytest.approx(1)
    assert replace(SMALL, test_scale=2.0).spectra[1].mean() == pytest.approx(2)
    assert shift_order(easy.spectra[0], easy.spectra[1], hard.spectra[1]) == "easier"
    assert float(system.theory(easy)["error_shifted"]) < float(system.theory(hard)["error_shifted"])


def test_without_a_shift_both_errors_agree() -> None:
    found = system.theory(replace(SMALL, test_exponent=0.5))
    assert float(found["error"]) == pytest.approx(float(found["error_shifted"]), rel=1e-12)


def test_seeds_do_not_share_draws() -> None:
    one, two = (system.simulate(SMALL, seed) for seed in (0, 1))
    assert all(float(one[k]) != float(two[k]) for k in system.OBSERVABLES)
    assert all(math.isfinite(one[k].stderr) for k in system.OBSERVABLES)


@pytest.mark.parametrize(
    "change",
    [
        {"input_dim": 5},
        {"ridge": 0.0},
        {"noise": -0.1},
        {"narrow": 0.0},
        {"train_exponent": 4.0},
        {"test_scale": math.inf},
        {"activation": "relu"},
        {"draws": 0},
    ],
)
def test_bad_parameters(change: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SMALL, **change)


@pytest.mark.slow
def test_figures() -> None:
    drawing = system.figure(quick=True)
    lines = [r for r in drawing.rows if r["kind"] == "theory" and r["panel"] == 0]
    peak = max(lines, key=lambda r: r["y"])
    assert peak["x"] == pytest.approx(1.0, rel=0.15)  # p = n
    drawing = system.line(quick=True)
    for label in ("easier (a* = 1)", "harder (a* = 0)"):
        rows = [r for r in drawing.rows if r["kind"] == "theory" and r["curve"] == label]
        x, y = (np.array([r[c] for r in rows]) for c in ("x", "y"))
        assert np.abs(np.polyval(np.polyfit(x, y, 1), x) - y).max() < 1e-3
        points = [r for r in drawing.rows if r["kind"] == "simulation" and r.get("shift") == label]
        assert len(points) == 4


def test_the_solver_is_the_public_one() -> None:
    p = SMALL
    train, test = p.spectra
    found = RFShiftTheory(train, test, noise=p.noise).predict(p.n_samples, p.widths[1], p.ridge)
    assert found.test == pytest.approx(float(system.theory(p)["error_shifted_wide"]), rel=1e-12)

"""Localization, and the entry of the catalogue beyond its contract."""

from __future__ import annotations

import numpy as np
import pytest

from thermolearn.systems.sampling.metropolis import Params, figure, localization, theory
from thermolearn.systems.sampling.metropolis.figures import deviations, width

STEPS = (10, 20, 40, 80)


@pytest.mark.parametrize(
    ("a", "participation", "widths"),
    [
        (5.0, (0.299, 0.339, 0.410, 0.516), (1.157, 1.069, 0.971, 0.891)),
        (2.0, (0.196, 0.190, 0.189, 0.189), (1.678, 1.720, 1.730, 1.730)),
    ],
)
def test_deviations_sharpen_beyond_the_transition(a, participation, widths):
    """Participation and width of |P_n - P| from a blob of width 1/2 at x = 1.5: beyond the
    transition it keeps narrowing, below it settles on one mode."""
    x, kept = deviations(a, 80)
    for n, expected, w in zip(STEPS, participation, widths, strict=True):
        size = np.abs(kept[n]) / (np.abs(kept[n]).sum() * (x[1] - x[0]))
        assert (size @ size) * (x[1] - x[0]) == pytest.approx(expected, abs=1.2e-3)
        assert width(x, kept[n]) == pytest.approx(w, abs=1.2e-3)


def test_deviations_decay_with_the_eigenvalue():
    kept = deviations(2.0, 80)[1]
    np.testing.assert_allclose(kept.sum(1), 0, atol=1e-12)
    ratio = np.abs(kept[60]).sum() / np.abs(kept[59]).sum()
    assert ratio == pytest.approx(0.73428, abs=2e-5)


@pytest.mark.slow
def test_walkers_show_the_width():
    drawing = localization()
    for a in (2.0, 5.0):
        rows = [r for r in drawing.rows if r["panel"] == 0 and r["a"] == a]
        exact = {r["x"]: r["y"] for r in rows if r["kind"] == "theory"}
        points = [r for r in rows if r["kind"] == "simulation"]
        assert len(points) == 6
        # bins of 0.2 widen what they count: 0.2^2/24 over the width
        for r in points:
            assert abs(r["y"] - exact[r["x"]]) < 4 * r["stderr"] + 2e-3


@pytest.mark.slow
def test_points_of_the_figure_lie_on_its_lines():
    drawing = figure()
    points = [r for r in drawing.rows if r["kind"] == "simulation"]
    for jump in ("uniform", "gaussian"):
        for length in (1.0, 2.0):
            exact = theory(Params(jump=jump, length=length))
            found = [r for r in points if r["jump"] == jump and r["x"] == length]
            keys = ("odd_eigenvalue", "even_eigenvalue", "acceptance")
            for r, key in zip(found, keys, strict=True):
                # six seeds: Student's t at the probability of four standard deviations
                assert abs(r["y"] - float(exact[key])) < 12 * r["stderr"]
                assert r["stderr"] < 3e-3


def test_sectors_without_a_mode_are_said_to_have_none():
    found = theory(Params(length=5.0))
    assert found["odd_eigenvalue"].status == "localised"
    assert found["odd_eigenvalue"].value == pytest.approx(0.749, abs=2e-3)
    assert theory(Params())["odd_eigenvalue"].status == "ok"
    inverse = theory(Params(beta=4.0, length=1.0))
    assert inverse["odd_eigenvalue"].value == pytest.approx(0.734281, abs=1e-5)

"""The catalogue's linear machine: its limits, and that theory knows the finite size."""

import math

import numpy as np
import pytest

from thermolearn.measure.temperature import Normal, initial_energy, type1_temperature
from thermolearn.systems.training import temperature
from thermolearn.systems.training.temperature import Params


def test_limit_of_many_features():
    far = temperature.theory(Params(n_features=10**6))
    assert float(far["temperature_normal"]) == pytest.approx(
        2 / math.log(2 * math.pi * math.e), rel=2e-6
    )
    assert float(far["temperature_uniform"]) == pytest.approx(0.75 / math.log(3), rel=2e-6)
    normal, uniform = (float(far[f"mae_initial_energy{k}"]) for k in ("", "_uniform"))
    assert normal == pytest.approx(math.sqrt(2 / math.pi * 5.25), rel=1e-6)
    assert uniform == pytest.approx(normal, rel=1e-6)


def test_theory_is_the_mean_over_data_of_the_conditional_formulas():
    """`type1_temperature` and `initial_energy` on drawn data, whose mean over data is `theory`."""
    p, rng = Params(n_features=20), np.random.default_rng(0)
    T, E = [], []
    for _ in range(200):
        X, t = rng.normal(size=(p.n_samples, 20)), rng.normal(size=20)
        y = X @ t / np.linalg.norm(t) + p.noise * rng.normal(size=p.n_samples)
        T.append(float(type1_temperature(X, y).temperature))
        E.append(float(initial_energy(X, y, "mae", Normal(p.score_scale / 20**0.5))))
    expected = temperature.theory(p)
    for found, name in ((T, "temperature_normal"), (E, "mae_initial_energy")):
        stderr = np.std(found, ddof=1) / len(found) ** 0.5
        assert abs(np.mean(found) - float(expected[name])) < 4 * stderr + 0.1 / 20**2


@pytest.mark.parametrize(
    "changes",
    [
        {"sigma": 0.0}, {"half_width": 0.5}, {"sigma": 1 / math.sqrt(2 * math.pi * math.e)},
        {"score_scale": 21.0}, {"classes": 1}, {"bath_temperature": -1.0}, {"draws": 5},
    ],
)  # fmt: skip
def test_bad_parameters(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Params(**changes)

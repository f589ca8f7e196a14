"""The canonical catalogue entry: Marchenko-Pastur, agreement, what it must reject, the figure."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate

from thermolearn.systems.training import canonical
from thermolearn.systems.training.canonical import ABOUT, EDGES, Params, figure, simulate, theory

SCALARS = ("average_loss_per_neuron", "complexity_per_neuron")


def between_seeds(p, seeds):
    rows = [simulate(p, seed) for seed in range(seeds)]
    values = {name: np.array([row[name].value for row in rows]) for name in rows[0]}
    return {name: (v.mean(0), v.std(0, ddof=1) / math.sqrt(seeds)) for name, v in values.items()}


# -- theory --------------------------------------------------------------------------------------
def test_one_linear_layer_is_marchenko_pastur():
    # lambda + 1/lambda = 2 + s with s of the square Marchenko-Pastur law on (0, 4 sigma_w2)
    p = Params(width=30, depth=1, sigma_w2=1.7, sigma_b2=0.0, activation="linear", beta=2.0)
    expected = theory(p)
    t, top = 1 / p.beta, 4 * p.sigma_w2

    def mean(g):
        def integrand(angle):
            s = top * math.sin(angle / 2) ** 2
            return g(s) * math.cos(angle / 2) ** 2 / math.pi

        return integrate.quad(integrand, 0, math.pi)[0] * 2

    assert mean(lambda s: 1.0) == pytest.approx(1, abs=1e-12)
    log_det = mean(lambda s: math.log((1 + t) ** 2 + t * s)) / 2
    trace = mean(lambda s: (2 * (1 + t) + s) / ((1 + t) ** 2 + t * s)) / 2
    assert float(expected["complexity_per_neuron"]) == pytest.approx(-log_det / 2, rel=1e-9)
    energy = t / 2 * (1 - t * trace)
    assert float(expected["average_loss_per_neuron"]) == pytest.approx(energy, rel=1e-7)


def test_spectral_weight_is_a_distribution():
    for activation in ("tanh", "relu"):  # relu: a point mass at 1
        weight = theory(Params(activation=activation))["spectral_weight"]
        assert weight.value.shape == (len(EDGES) - 1,)
        assert weight.value.sum() == pytest.approx(1, abs=1e-12)
        assert (weight.value > 0).all()
        assert (weight.stderr < 1e-3).all()


def test_no_weights_is_the_identity():
    p = Params(width=7, sigma_w2=0.0, beta=4.0)
    for result in (theory(p), simulate(p, 0)):
        assert float(result["average_loss_per_neuron"]) == pytest.approx(0.1, rel=1e-9)
        complexity = -math.log(1.25) / 2
        assert float(result["complexity_per_neuron"]) == pytest.approx(complexity, rel=1e-9)
        assert result["spectral_weight"].value[4] == pytest.approx(1, abs=1e-6)


# -- sampled networks ----------------------------------------------------------------------------
def test_seeds_share_no_network_and_repeat():
    p = Params(width=8)
    first, again, other = (simulate(p, seed) for seed in (0, 0, 1))
    for name in first:
        assert np.array_equal(first[name].value, again[name].value)
        assert not np.array_equal(first[name].value, other[name].value)
    pooled = simulate(replace(p, networks=16), 0)  # the networks of seeds 0 and 1 together
    for name in SCALARS:
        together = (float(first[name]) + float(other[name])) / 2
        assert float(pooled[name]) == pytest.approx(together, rel=1e-12)


def test_default_agrees_and_wrong_theories_are_rejected():
    p, seeds = Params(), ABOUT["seeds"]
    measured, right = between_seeds(p, seeds), theory(p)
    wrong = theory(replace(p, **ABOUT["contrast"]))
    for name, (mean, stderr) in measured.items():
        c, gamma = ABOUT["allowance"][name]
        allowed = c * p.width**-gamma
        assert (np.abs(mean - right[name].value) < 4 * stderr + allowed).all()
        assert (np.abs(mean - wrong[name].value) > 5 * stderr + allowed).any()
        if name in SCALARS:
            value = right[name].value
            shift = max(0.02 * abs(value), 5 * stderr)
            for moved in (value - shift, value + shift):
                assert abs(mean - moved) > 5 * stderr + allowed


@pytest.mark.slow
def test_corrections_fall_as_one_over_the_width():
    scaled = {}
    for width, seeds in ((20, 400), (40, 120)):
        p = Params(width=width)
        measured, limit = between_seeds(p, seeds), theory(p)
        scaled[width] = {
            name: (width * (measured[name][0] - float(limit[name])), width * measured[name][1])
            for name in SCALARS
        }
    for name in SCALARS:
        small, large = scaled[20][name], scaled[40][name]
        assert abs(small[0]) > 4 * small[1]  # the correction is there
        assert abs(large[0] - small[0]) < 4 * math.hypot(large[1], small[1])
        assert abs(small[0]) < ABOUT["allowance"][name][0]


# -- figure, bad input ---------------------------------------------------------------------------
def test_canonical_figure():
    drawing = figure(depths=(1, 3), draws=4)
    axes = drawing.axes.ravel()
    assert [axis.get_ylabel() for axis in axes] == [
        "average loss U (loss units)",
        "minus complexity, -C (nats)",
        "networks - theory\n(standard errors)",
        "",
    ]
    assert len(axes[0].get_legend().get_texts()) == 2
    drawing.figure.canvas.draw()
    points = [row for row in drawing.rows if row["kind"] == "simulation" and row["panel"] < 2]
    assert len(points) == 2 * 2 * 11
    assert {row["seeds"] for row in points} == {4}
    with pytest.raises(ValueError, match="depths"):
        figure(depths=(0,))
    with pytest.raises(ValueError, match="draws"):
        figure(draws=1)


def test_theory_and_experiment_are_independent(monkeypatch):
    def broken(*args, **kwargs):
        raise AssertionError("must not be called")

    with monkeypatch.context() as patch:
        patch.setattr(canonical, "wide_limit", broken)
        simulate(Params(width=4), 0)
    monkeypatch.setattr(canonical, "sampled_network", broken)
    theory(Params(width=4))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"width": 0}, "width"),
        ({"width": 2.5}, "width"),
        ({"depth": 0}, "depth"),
        ({"networks": 0}, "networks"),
        ({"beta": 0.0}, "beta"),
        ({"beta": math.nan}, "beta"),
        ({"sigma_w2": -1.0}, "sigma_w2"),
        ({"sigma_b2": math.inf}, "sigma_b2"),
        ({"q0": -1.0}, "q0"),
        ({"activation": "tanhh"}, "tanh, erf"),
        ({"activation": 3}, "activation"),
    ],
)
def test_bad_params(change, match):
    with pytest.raises(ValueError, match=match):
        Params(**change)

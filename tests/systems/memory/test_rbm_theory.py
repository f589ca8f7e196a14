"""Random machines: the theory of two layers against limits, derivatives and enumeration."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermolearn.core.errors import SamplerWarning
from thermolearn.systems.memory.rbm import (
    Params,
    enumeration,
    figure,
    partition,
    random_machine,
    simulate,
    simulation,
    theory,
    two_layer_theory,
)
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.simulation import _one

PARAMS = st.builds(
    Params,
    hidden_share=st.floats(0.05, 0.95),
    coupling=st.floats(0.0, 1.2),
    visible_field=st.floats(-1.5, 1.5),
    hidden_field=st.floats(0.3, 1.5),
)


def test_without_couplings_the_units_are_free() -> None:
    s = two_layer_theory(Params(coupling=0.0, visible_field=0.3, hidden_field=-0.7))
    free = 0.6 * math.log(2 * math.cosh(0.3)) + 0.4 * math.log(2 * math.cosh(0.7))
    assert s.log_partition == pytest.approx(free, abs=1e-12)
    assert s.q_visible == pytest.approx(math.tanh(0.3) ** 2, abs=1e-12)
    assert s.energy == 0


def test_without_fields_the_annealed_average_is_exact() -> None:
    s = two_layer_theory(Params(coupling=1.2, visible_field=0.0, hidden_field=0.0))
    assert s.q_visible == pytest.approx(0, abs=1e-6)
    assert s.log_partition == pytest.approx(math.log(2) + 1.2**2 * 0.6 * 0.4 / 2, abs=1e-9)
    below = Params(coupling=0.999 / 0.24**0.25, visible_field=0.0, hidden_field=0.0)
    above = replace(below, coupling=1.1 / 0.24**0.25)
    assert two_layer_theory(below).replicon > 0
    assert two_layer_theory(above).q_visible > 0.05
    assert theory(above)["energy"].status == "unstable"


@given(PARAMS)
@settings(max_examples=25, deadline=None)
def test_derivatives_of_ln_z_are_the_averages(p: Params) -> None:
    d = 1e-4

    def slope(name: str) -> float:
        value = getattr(p, name)
        up, down = (two_layer_theory(replace(p, **{name: value + s})) for s in (d, -d))
        return (up.log_partition - down.log_partition) / (2 * d)

    s = two_layer_theory(p)
    if p.coupling > 0.01:
        assert -p.coupling * slope("coupling") == pytest.approx(s.energy, abs=1e-6)
    # d / da = x_v E tanh, and q >= (E tanh)^2
    m = slope("visible_field") / (1 - p.hidden_share)
    assert m**2 <= s.q_visible + 1e-6
    assert 0 <= s.q_hidden < 1
    swapped = Params(
        hidden_share=1 - p.hidden_share,
        coupling=p.coupling,
        visible_field=p.hidden_field,
        hidden_field=p.visible_field,
    )
    other = two_layer_theory(swapped)
    assert other.log_partition == pytest.approx(s.log_partition, abs=1e-9)
    assert other.q_hidden == pytest.approx(s.q_visible, abs=1e-8)


def test_enumerated_machines_approach_the_theory_as_one_over_n() -> None:
    """Mean ln Z / N of W and -W over many exact machines of two small sizes, extrapolated."""
    p = Params(coupling=1.0, visible_field=0.5, hidden_field=0.5)
    means, errors = [], []
    for n, count in ((20, 300), (26, 300)):
        q = replace(p, n_spins=n)
        runs = [
            np.mean([enumeration.log_partition(random_machine(q, [n, i], s)) / n for s in (1, -1)])
            for i in range(count)
        ]
        means.append(np.mean(runs))
        errors.append(np.std(runs) / math.sqrt(count))
    limit = (26 * means[1] - 20 * means[0]) / 6
    error = math.hypot(26 * errors[1], 20 * errors[0]) / 6
    assert abs(limit - two_layer_theory(p).log_partition) < 4 * error
    assert error < 0.01


def test_simulation_agrees_with_enumeration_of_the_same_machine() -> None:
    p = Params(n_spins=30)
    w = random_machine(p, 5)
    moments = enumeration.moments(w)
    rows = np.array([_one(p, w, Noise([7, i]))[0] for i in range(40)])
    product = float((moments.product * w.W.double()).sum())
    exact = (
        moments.log_partition / 30,
        -product / 30,
        float(moments.visible.square().mean()),
        float(moments.hidden.square().mean()),
    )
    z = (rows.mean(0) - exact) / (rows.std(0, ddof=1) / math.sqrt(40))
    assert np.abs(z).max() < 4.5


def test_simulation_says_if_the_annealing_is_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {e.status for e in simulate(Params(), 0).values()} == {"ok"}
    monkeypatch.setattr(simulation, "LEAST_BETAS", 1)
    monkeypatch.setattr(simulation, "BETAS_PER_SPIN", 0.0)
    with pytest.warns(SamplerWarning, match="effective samples"):
        found = simulate(Params(n_spins=1000, coupling=1.4), 0)
    assert {e.status for e in found.values()} == {"low-ess"}
    assert "machines" in found["energy"].note


@pytest.mark.parametrize("coupling", [1.0, 1.4])
def test_annealing_of_the_default_machines_keeps_its_samples(coupling: float) -> None:
    """The least of 48 machines; 0.53 was the least of 2560 at the default coupling."""
    p = Params(coupling=coupling)
    share = []
    for seed in range(48):
        w = random_machine(p, [0, seed])
        n_betas = max(simulation.LEAST_BETAS, int(simulation.BETAS_PER_SPIN * coupling**2 * 300))
        run = partition.anneal(
            w, n_betas, simulation.N_CHAINS, Noise(seed), a0=simulation._mean_field(w)
        )
        share.append(run.effective_sample_size / simulation.N_CHAINS)
    assert min(share) > 0.4


def test_same_seed_same_bits() -> None:
    p = Params(n_spins=40)
    one, two, other = simulate(p, 3), simulate(p, 3), simulate(p, 4)
    assert all(one[k].value == two[k].value != other[k].value for k in one)
    assert one.keys() == theory(p).keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_spins", 10),
        ("n_spins", 30.0),
        ("hidden_share", 1.0),
        ("coupling", -0.1),
        ("coupling", math.nan),
        ("visible_field", math.inf),
    ],
)
def test_bad_parameters_raise(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Params(**{name: value})


@pytest.mark.slow
def test_figure() -> None:
    drawing = figure(quick=True)
    assert {row["panel"] for row in drawing.rows} == {0, 1}
    last = [r for r in drawing.rows if r["curve"] == "PCD-1"][-1]
    assert last["y"] > -5.6


@pytest.mark.parametrize("coupling", [0.5, 1.0, 1.4])
def test_the_free_energy_written_once_has_this_saddle_point(coupling: float) -> None:
    from thermolearn.core.saddle_point import SaddlePoint, gauss_average, log2cosh

    def free_energy(q_v, q_h, *, x_h, g, a, b):
        x_v = 1 - x_h
        visible = gauss_average(lambda z: log2cosh(a + g * (x_h * q_h).sqrt() * z))
        hidden = gauss_average(lambda z: log2cosh(b + g * (x_v * q_v).sqrt() * z))
        pair = g**2 * x_v * x_h * (1 - q_v) * (1 - q_h) / 2
        return -(x_v * visible + x_h * hidden + pair)

    p = Params(coupling=coupling)
    problem = SaddlePoint(free_energy, {"q_v": (0, 1), "q_h": (0, 1)})
    controls = {"x_h": p.hidden_share, "a": p.visible_field, "b": p.hidden_field}
    state, s = problem.solve([0.5, 0.5], g=coupling, **controls), two_layer_theory(p)
    assert float(state.q_v) == pytest.approx(s.q_visible, abs=1e-9)
    assert float(state.q_h) == pytest.approx(s.q_hidden, abs=1e-9)
    assert -float(state.f) == pytest.approx(s.log_partition, abs=1e-10)
    # d ln Z / d ln g = <v W h>
    assert coupling * float(state.derivative("g")) == pytest.approx(s.energy, abs=1e-8)

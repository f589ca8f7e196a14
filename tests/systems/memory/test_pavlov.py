"""Pavlov to Hebb: numpy twins, exact filters, the equations of large populations, known numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from thermolearn.systems.memory import pavlov
from thermolearn.systems.memory.pavlov import (
    ABOUT,
    ConditioningExperiment,
    Params,
    PavlovHebb,
    figure,
    simulate,
    theory,
)
from thermolearn.systems.memory.pavlov.simulation import advance, advance_numpy
from thermolearn.systems.memory.pavlov.theory import _random_order, predict


def pairs(n):
    return np.triu_indices(n, 1)


# -- the kernel ----------------------------------------------------------------------------------
@pytest.mark.parametrize("floor", [-1.0, 0.0])
def test_kernel_against_numpy(floor):
    rng = np.random.default_rng(0)
    n = 7
    J, x, bias = rng.standard_normal((n, n)), rng.standard_normal(n), rng.standard_normal(n)
    rate = rng.uniform(0, 0.1, (n, n)) * rng.integers(0, 2, (n, n))  # some synapses are fixed
    arguments = (bias, rate, 0.3, 2.0, 1.5, floor, 0.2)
    expected_J, expected_x = advance_numpy(J, x, *arguments, 40)
    advance(J, x, *arguments, 0.0, 0.0, 40, rng)
    np.testing.assert_allclose(J, expected_J, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(x, expected_x, rtol=1e-12, atol=1e-13)


def test_kernel_noise_has_its_variance_and_is_symmetric():
    rng, n, step, rate = np.random.default_rng(1), 40, 0.2, 0.1
    J, x, zero = np.zeros((n, n)), np.zeros(n), np.zeros(n)
    neurons, synapses = [], []
    for _ in range(200):  # beta = gamma = 0: independent autoregressions
        kicks = (math.sqrt(2 * 0.3 * step), math.sqrt(2) * 0.5)
        advance(J, x, zero, np.full((n, n), rate), 1.0, 0.0, 0.0, -1.0, step, *kicks, 60, rng)
        neurons.append((x**2).mean())
        synapses.append((J[pairs(n)] ** 2).mean())
    np.testing.assert_allclose(J, J.T, atol=1e-14)
    for samples, expected in ((neurons, 0.3 / (1 - step / 2)), (synapses, 0.25 / (1 - rate / 2))):
        stderr = np.std(samples, ddof=1) / math.sqrt(200)
        assert abs(np.mean(samples) - expected) < 4 * stderr
        assert stderr < 0.03 * expected


# -- theory of the Hebbian network ------------------------------------------------------------
@pytest.mark.parametrize(
    ("first", "second"), [((1, 1, -1), (1, -1, -1)), ((1, 1, 1), (1, 1, -1)), ((1, 1), (1, -1))]
)
def test_slope_and_variance_of_a_pair_against_the_filter(first, second):
    """Two neurons as linear filters of their patterns, step by step, and the synapse behind."""
    xi = np.array([first, second], dtype=float)
    k, steps, step, rate, presentations = xi.shape[1], 20, 0.4, 0.02, 60_000
    rng = np.random.default_rng(3)
    shown = rng.integers(k, size=presentations)
    m = np.arange(steps)
    u, weight = (1 - step) ** m, rate * (1 - rate) ** (steps - 1 - m)
    present, before = xi[:, shown[1:]], xi[:, shown[:-1]]
    sigma = (1 - u)[:, None, None] * present + u[:, None, None] * before
    drive = weight @ (sigma[:, 0] * sigma[:, 1])
    e, J, ends = (1 - rate) ** steps, 0.0, np.empty(len(drive))
    for n, value in enumerate(drive):
        J = e * J + value
        ends[n] = J
    ends = ends[200:]

    hebb, m1, m2 = float(np.mean(xi[0] * xi[1])), *xi.mean(1)
    a, b, d = (weight @ part / (1 - e) for part in ((1 - u) ** 2, u**2, u * (1 - u)))
    blocks = ends[: len(ends) // 50 * 50].reshape(50, -1)
    expected = _random_order(hebb, m1, m2, a, b, d, e)
    mean = (a + b) * hebb + 2 * d * m1 * m2
    spread = blocks.var(1)
    stderr = spread.std(ddof=1) / math.sqrt(50)
    assert abs(spread.mean() - expected) < 4 * stderr
    assert stderr < 0.02 * expected
    assert abs(ends.mean() - mean) < 4 * blocks.mean(1).std(ddof=1) / math.sqrt(50)


def test_cyclic_variance_is_the_average_over_all_patterns():
    k, steps, step, rate = 4, 15, 0.4, 0.03
    m = np.arange(steps)
    u, weight = (1 - step) ** m, rate * (1 - rate) ** (steps - 1 - m)
    e = (1 - rate) ** steps
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * (2 * k), indexing="ij")).reshape(2 * k, -1)
    first, second = signs[:k], signs[k:]
    drive = np.zeros_like(first)
    for share, w in zip(u, weight, strict=True):
        one = (1 - share) * first + share * np.roll(first, 1, axis=0)
        two = (1 - share) * second + share * np.roll(second, 1, axis=0)
        drive += w * one * two
    J, ends = np.zeros(first.shape[1]), []
    for n in range(80 * k):
        J = e * J + drive[n % k]
        ends.append(J)
    ripple = np.var(ends[-k:], axis=0)
    level = np.abs((first * second).sum(0)).astype(int)
    predicted = predict(k, 50.0, 2.0, 1.0, step, rate, steps, "cyclic", 0.0, 0.0)
    for c, value in zip(predicted.couplings, predicted.variance.value, strict=True):
        assert ripple[level == round(c * k)].mean() == pytest.approx(value, rel=1e-3)
    assert float(predicted.mean_variance) == pytest.approx(ripple.mean(), rel=1e-3)


def test_theory_limits():
    # tau << T_present << tau_syn in short steps: 1 - (1 - 1/K) tau / T_present
    for k in (1, 2, 4):
        fine = PavlovHebb(K=k, T_present=50.0, tau_syn=1e5, dt=0.01, h=5.0).theory()
        assert float(fine.slope) == pytest.approx(1 - (1 - 1 / k) / 50, abs=2e-4)
    cyclic = PavlovHebb(K=4, T_present=50.0, tau_syn=1e5, dt=0.01, h=5.0, order="cyclic").theory()
    assert float(cyclic.slope) == pytest.approx(1 - 1 / 50, abs=2e-4)
    # instantaneous neurons: gamma^2 (1 - J_H^2)(1 - e)/(1 + e) + s_J^2
    slow = PavlovHebb(K=5, gamma=0.7, tau=0.01, dt=0.002, T_present=20.0, noise=0.05, h=5.0)
    prediction = slow.theory()
    e = prediction.memory
    assert e == pytest.approx(math.exp(-0.1), rel=1e-5)
    expected = 0.49 * (1 - prediction.couplings**2) * (1 - e) / (1 + e) + 0.0025
    np.testing.assert_allclose(prediction.variance.value, expected, rtol=2e-3)
    np.testing.assert_allclose(prediction.leading_variance(prediction.couplings), expected)
    assert list(prediction.couplings) == [0.2, 0.6, 1.0]
    assert PavlovHebb(K=1).theory().mean_variance.value == pytest.approx(0, abs=1e-15)
    assert PavlovHebb(h=0.5).theory().slope.status == "stimulus too weak"


# -- neurons that the stimulus does not saturate ---------------------------------------------
UNSATURATED = [
    (1.0, 1.05, 60.0),
    pytest.param(0.5, 1.5, 60.0, marks=pytest.mark.slow),
    pytest.param(1.0, 1.3, 200.0, marks=pytest.mark.slow),
]


def orthogonal_patterns(k, copies):
    """All 2^(k-1) columns that start with +1, each `copies` times: no overlaps, no 1/N."""
    signs = np.array(np.meshgrid(*[[1.0, -1.0]] * k, indexing="ij")).reshape(k, -1)
    return np.tile(signs[:, : 2 ** (k - 1)], (1, copies))


def filter_alone(network):
    """Slope of the linear filter, with the neurons in the mean field of the Hebb matrix."""
    s = network.theory().activity
    u = (1 - network.dt / network.tau) ** np.arange(network.steps)
    e = 1 - network.dt / network.tau_syn
    weight = e ** np.arange(network.steps)[::-1]
    d = weight @ (u * (1 - u)) / weight.sum()
    return network.gamma * s**2 * (1 - 2 * d * (1 - 1 / network.K))


@pytest.mark.parametrize(("beta", "h", "tau_syn"), UNSATURATED)
def test_unsaturated_neurons_in_random_order(beta, h, tau_syn):
    xi = orthogonal_patterns(4, 2)  # exact at any N: no overlaps
    network = PavlovHebb(N=16, K=4, beta=beta, h=h, tau_syn=tau_syn, T_present=20.0)
    run = network.run(200 * tau_syn, seeds=range(24), patterns=xi)
    many = replace(network, N=10**9).theory()
    assert many.slope.status == "ok"
    assert 0 < many.slope.stderr < 5e-4
    error = math.hypot(run.slope.stderr, many.slope.stderr)
    assert error < 1.2e-3
    assert abs(run.slope.value - many.slope.value) < 4 * error
    assert abs(run.slope.value - filter_alone(network)) > 5 * error  # what it would be without
    classes, variance = run.variance_by_coupling()
    inside = classes < 1
    error = np.hypot(variance.stderr, many.variance.stderr)[inside]
    assert (np.abs(variance.value - many.variance.value)[inside] < 4 * error).all()
    assert (error < 0.05 * many.variance.value[inside]).all()


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_unsaturated_neurons_in_cyclic_order(k):
    """A limit cycle on both sides: no sampling error; what K > 2 leaves out is small."""
    network = PavlovHebb(
        N=2 ** (k - 1) * 2, K=k, beta=1.0, h=1.2, tau_syn=60.0, T_present=24.0, order="cyclic"
    )
    xi = orthogonal_patterns(k, 2)
    cycles = math.ceil(20 * 60 / (24 * k)) * k
    run = network.run(24.0 * (cycles + 2 * k), patterns=xi, warmup=24.0 * cycles)
    many = replace(network, N=10**9).theory()
    assert float(run.slope) == pytest.approx(float(many.slope), rel=2e-4)
    assert abs(run.slope.value - many.slope.value) < many.slope.stderr + 1e-7
    if k > 1:
        classes, variance = run.variance_by_coupling()
        assert variance.value[classes < 1] == pytest.approx(
            many.variance.value[classes < 1], rel=0.02
        )


def test_size_term_bounds_what_overlaps_do():
    network = PavlovHebb(N=30, K=4, beta=1.0, h=1.05, tau_syn=60.0, T_present=20.0)
    few, many = network.theory().slope, replace(network, N=10**6).theory().slope
    assert few.value == many.value
    assert few.status == "neurons not saturated"
    run = network.run(6000.0, seeds=range(32))
    assert 0.3 * few.stderr < run.slope.value - few.value < few.stderr + 4 * run.slope.stderr
    # saturated: no status, and the error bar of what is neglected
    default = PavlovHebb().theory().slope
    assert default.status == "ok"
    assert 0 < default.stderr < 1e-3


def test_neglected_terms_are_told():
    slow = {"T_present": 50.0, "tau_syn": 1e5, "dt": 0.01}  # too long for the correction
    found = PavlovHebb(K=4, beta=0.5, h=1.5, N=10**6, **slow).theory().slope
    assert found.status == "neurons not saturated"
    assert found.stderr > 5e-3 * found.value
    with pytest.warns(UserWarning, match="below 5 tau"):
        short = PavlovHebb(K=4, beta=1.0, h=1.3, N=10**6, T_present=2.0, tau_syn=60.0)
    assert short.theory().slope.status == "neurons not settled"


def test_slope_in_continuous_time():
    coarse, fine, finest = (PavlovHebb(T_present=20.0, dt=dt).theory() for dt in (0.2, 0.02, 0.002))
    for prediction, known in ((coarse, 0.96760), (fine, 0.96396)):
        assert float(prediction.slope) == pytest.approx(known, abs=1e-5)
        limit = float(prediction.slope_continuous)
        assert limit == pytest.approx(0.96360, abs=1e-5)
        assert limit == pytest.approx(float(finest.slope), abs=5e-5)
        assert f"(slope {limit:.5f} in continuous time)" in prediction.slope.note
    cyclic = {"beta": 1.0, "h": 1.05, "tau_syn": 60.0, "T_present": 20.0, "order": "cyclic"}
    rough, smooth = (PavlovHebb(N=10**9, dt=dt, **cyclic).theory() for dt in (0.2, 0.005))
    apart = abs(float(rough.slope) - float(smooth.slope))
    missed = abs(float(rough.slope_continuous) - float(smooth.slope_continuous))
    assert missed < 0.01 * apart


# -- simulated Hebbian network, against theory and the known numbers --------------------------
@pytest.fixture(scope="module")
def reference_run():
    network = PavlovHebb(N=30, K=4, T_present=50.0)
    return network, network.run(12_000.0, seeds=range(3))


def test_known_slope_and_variance(reference_run):
    network, run = reference_run
    assert abs(run.slope.value - 0.987) < 0.01
    hebb = run.J_hebb[:, *pairs(30)]
    ratio = run.variance.value / network.theory().leading_variance(hebb).mean()
    assert 0.85 < ratio < 1.15
    assert run.correlation > 0.99


@pytest.mark.parametrize(("k", "known"), [(2, 0.9742), (4, 0.9669)])
def test_known_slopes_at_short_presentations(k, known):
    run = PavlovHebb(K=k, T_present=20.0).run(12_000.0, seeds=range(3))
    assert abs(run.slope.value - known) < 0.01


def test_hebb_emerges_as_the_time_scales_separate():
    deviation = []
    for tau_syn in (20.0, 60.0, 200.0, 600.0):
        network = PavlovHebb(K=4, T_present=20.0, tau_syn=tau_syn, order="cyclic")
        deviation.append(network.run(12_000.0, seeds=range(3)).relative_deviation.value)
    assert all(np.diff(deviation) < 0)
    assert deviation[2] < 0.2
    np.testing.assert_allclose(deviation, [0.949, 0.369, 0.128, 0.069], rtol=0.25)


def test_synaptic_noise_has_its_variance():
    run = PavlovHebb(K=1, T_present=20.0, noise=0.1).run(6000.0, seeds=range(2))
    assert run.variance.value == pytest.approx(0.01, rel=0.1)


def test_neuronal_noise_reaches_the_synapses():
    network = PavlovHebb(K=1, T_present=20.0, neuron_noise=0.1)
    run = network.run(12_000.0, seeds=range(6))
    expected = float(network.theory().mean_variance)
    assert abs(run.variance.value - expected) < 4 * run.variance.stderr
    assert run.variance.stderr < 0.03 * expected


def test_without_one_over_n_there_is_no_hebb():
    n = 30  # J sigma + h xi = N (J sigma / N + (h / N) xi)
    right = {"N": n, "K": 4, "T_present": 20.0, "order": "cyclic"}
    wrong = PavlovHebb(**right, beta=2.0 * n, h=2.0 / n)
    assert wrong.run(4000.0).relative_deviation.value > 1
    assert wrong.theory().slope.status != "ok"
    assert PavlovHebb(**right).run(4000.0).relative_deviation.value < 0.2


def test_averaged_dynamics_have_no_relaxation():
    network = PavlovHebb(K=4, T_present=50.0, noise=0.05)
    run = network.run(40_000.0, seeds=range(12), method="averaged")
    settled = network.theory().activity ** 2
    assert abs(run.slope.value - settled) < 4 * run.slope.stderr + 1e-4
    expected = network.theory().leading_variance(run.J_hebb[:, *pairs(30)]).mean()
    assert abs(run.variance.value / expected - 1) < 4 * run.variance.stderr / expected
    assert run.variance.stderr < 0.05 * expected
    np.testing.assert_allclose(run.J, run.J.transpose(0, 2, 1), atol=1e-12)


def test_langevin_follows_the_averaged_dynamics(reference_run):
    network, run = reference_run
    averaged = network.run(12_000.0, seeds=range(3), method="averaged")
    np.testing.assert_allclose(averaged.patterns, run.patterns)
    apart = np.abs(averaged.J - run.J)[:, *pairs(30)].mean()  # same patterns in the same order
    assert apart < 0.05 < 0.2 < np.abs(run.J - run.J_hebb)[:, *pairs(30)].mean()


def test_history_and_given_patterns():
    xi = np.random.default_rng(5).choice([-1.0, 1.0], (3, 12))
    network = PavlovHebb(N=12, K=3, T_present=10.0)
    run, again = (network.run(1500.0, seeds=(0, 1), patterns=xi) for _ in range(2))
    assert np.array_equal(run.J, again.J)
    assert not np.array_equal(run.J[0], run.J[1])
    np.testing.assert_allclose(run.J_hebb[0], xi.T @ xi / 3)
    assert run.history["time"][-1] == 1500.0
    assert run.history["slope"].shape == run.history["deviation"].shape == (2, 150)
    off = run.J[0] - run.J_hebb[0]
    np.fill_diagonal(off, 0)
    hebb = run.J_hebb[0] - np.eye(12)
    expected = np.linalg.norm(off) / np.linalg.norm(hebb)
    assert run.history["deviation"][0, -1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["random", "cyclic"])
def test_no_correction_in_the_size(order):
    for n, seeds in ((30, 200), (60, 100)):
        network = PavlovHebb(N=n, K=4, T_present=20.0, order=order)
        run, expected = network.run(4000.0, seeds=range(seeds)), network.theory()
        assert abs(run.slope.value - float(expected.slope)) < 4 * run.slope.stderr
        assert run.slope.stderr < 1e-3
        assert abs(run.variance.value - float(expected.mean_variance)) < 4 * run.variance.stderr


# -- conditioning -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def acquired():
    return ConditioningExperiment().run(paired=True, trials=30, extinction=90)


def test_known_conditioning_numbers(acquired):
    response, coupling = acquired.responses[0], acquired.couplings[0]
    assert abs(response[30] - 0.871) < 0.02
    assert abs(coupling[30] - 0.870) < 0.02
    for trial, known in ((0, 0.036), (5, 0.240), (10, 0.538), (60, 0.490), (120, 0.050)):
        assert abs(response[trial] - known) < 0.02
    assert int(np.argmax(response > 0.5)) == 10
    unpaired = ConditioningExperiment().run(paired=False, trials=30)
    assert unpaired.responses[0, -1] < 0.1
    assert unpaired.couplings[0, -1] == pytest.approx(0.036, abs=0.002)


def test_equal_units_follow_the_theory_of_large_populations(acquired):
    for run, paired, extinction in (
        (acquired, True, 90),
        (ConditioningExperiment(population=3).run(False, 8), False, 0),
    ):
        trials = run.conditioning
        expected = ConditioningExperiment().theory(paired, trials, extinction)
        np.testing.assert_allclose(run.couplings, expected.couplings, atol=1e-10)
        # the test lasts long enough for its reading to settle
        np.testing.assert_allclose(run.responses, expected.responses, atol=1e-4)


def test_short_steps_give_the_differential_equations():
    e = ConditioningExperiment()

    def derivative(t, y):
        on = float(t % 20 < 10)
        x_a, x_b, x_r, j = y

        def rate(v):
            return 0.5 * (1 + math.tanh(3 * v))

        target = rate(1.5 * on - 0.6)
        return [target - x_a, target - x_b, rate(j * x_a + 2 * x_b - 0.6) - x_r,
                (2 * x_r * x_a - j) / 200]  # fmt: skip

    rest = 0.5 * (1 + math.tanh(-1.8))
    start = [rest, rest, 0.5 * (1 + math.tanh(3 * (2 * rest - 0.6))), 0.0]
    exact = solve_ivp(derivative, (0, 60), start, max_step=0.02, rtol=1e-8).y[3, -1]
    coarse, fine = (replace(e, dt=dt).theory(trials=3).couplings[0, -1] for dt in (0.02, 0.01))
    assert 2 * fine - coarse == pytest.approx(exact, abs=2e-5)
    assert abs(coarse - exact) < 2.2 * abs(fine - exact) + 2e-5


@pytest.mark.parametrize(("beta", "within"), [(30.0, 2e-3), (3.0, 1e-2)])
@pytest.mark.parametrize("change", [{}, {"T_on": 20.0, "T_off": 20.0}, {"gamma": 3.0}])
def test_steady_cycle(beta, within, change):
    e = ConditioningExperiment(beta=beta, dt=0.02, **change)
    steady = e.theory(trials=100).couplings[0, -1]
    assert e.steady_coupling() == pytest.approx(steady, rel=within)


def test_noisy_units_agree_with_theory():
    e = ConditioningExperiment(neuron_noise=0.01)
    run, expected = e.run(trials=10, seeds=range(16)), e.theory(trials=10)
    for measured, value in (
        (run.coupling, expected.couplings[0]),
        (run.response, expected.responses[0]),
    ):
        z = (measured.value - value)[1:] / measured.stderr[1:]
        assert np.abs(z).max() < 4.1  # Student's t of 16 seeds, correlated trials
        assert measured.stderr.max() < 0.02


def test_plastic_populations_are_a_trap():
    trap = ConditioningExperiment(plastic="all").run(paired=False)
    assert trap.responses[0, -1] > 0.9
    with pytest.raises(ValueError, match="plastic"):
        ConditioningExperiment(plastic="all").theory()


def test_tests_at_the_end_only():
    e = ConditioningExperiment(population=2)
    run, every = e.run(trials=3, tests=False), e.run(trials=3)
    assert np.isnan(run.responses[0, 1:-1]).all()
    assert run.responses[0, -1] == pytest.approx(every.responses[0, -1])


# -- the catalogue entry ------------------------------------------------------------------------
def test_pavlov_agrees_and_a_wrong_theory_is_rejected():
    p, seeds = Params(), ABOUT["seeds"]
    rows, right = [simulate(p, seed) for seed in range(seeds)], theory(p)
    wrong = theory(replace(p, **ABOUT["contrast"]))
    assert set(rows[0]) == set(right)
    for name, expected in right.items():
        values = np.array([row[name].value for row in rows])
        mean, stderr = values.mean(0), values.std(0, ddof=1) / math.sqrt(seeds)
        assert (np.abs(mean - expected.value) < 4 * stderr).all()
        if name in ("hebb_slope", "synaptic_variance"):
            assert np.max(np.abs(mean - wrong[name].value) / stderr) > 8
        if np.ndim(mean) == 0:
            assert 5 * stderr < 0.01 * abs(expected.value)  # 2% would be seen
    again = simulate(p, 0)
    assert all(np.array_equal(again[name].value, rows[0][name].value) for name in again)


@pytest.mark.slow
def test_pavlov_figure():
    drawing = figure(quick=True)
    assert drawing.axes.shape == (1, 3)
    assert {row["kind"] for row in drawing.rows} == {"theory", "simulation"}
    assert all(math.isfinite(row["y"]) for row in drawing.rows)
    drawing.figure.canvas.draw()


def test_pavlov_theory_and_simulation_are_independent(monkeypatch):
    def broken(*args, **kwargs):
        raise AssertionError("must not be called")

    small = Params(n_neurons=20, presentations=60, trials=1)
    with monkeypatch.context() as patch:
        patch.setattr(pavlov.hebb, "predict", broken)
        patch.setattr(ConditioningExperiment, "theory", broken)
        simulate(small, 0)
    monkeypatch.setattr(pavlov.hebb, "advance", broken)
    monkeypatch.setattr(pavlov.conditioning, "advance", broken)
    theory(small)


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        (PavlovHebb, {"N": 1}, "N must"),
        (PavlovHebb, {"N": 5.5}, "N must"),
        (PavlovHebb, {"K": 0}, "K must"),
        (PavlovHebb, {"beta": 0.0}, "beta"),
        (PavlovHebb, {"h": math.nan}, "h must"),
        (PavlovHebb, {"gamma": -1.0}, "gamma"),
        (PavlovHebb, {"noise": -0.1}, "noise"),
        (PavlovHebb, {"neuron_noise": math.inf}, "neuron_noise"),
        (PavlovHebb, {"order": "sorted"}, "order"),
        (PavlovHebb, {"dt": 0.6}, "unstable"),
        (PavlovHebb, {"T_present": 20.1}, "multiple"),
        (ConditioningExperiment, {"dt": 0.6}, "unstable"),
        (ConditioningExperiment, {"population": 0}, "population"),
        (ConditioningExperiment, {"gamma": -1.0}, "gamma"),
        (ConditioningExperiment, {"theta": 2.5}, "theta"),
        (ConditioningExperiment, {"T_off": 0.3}, "T_off"),
        (ConditioningExperiment, {"plastic": "some"}, "plastic"),
        (Params, {"n_neurons": 3}, "n_neurons"),
        (Params, {"patterns": 1}, "patterns"),
        (Params, {"patterns": 12}, "patterns"),
        (Params, {"gamma": 0.0}, "gamma"),
        (Params, {"tau_syn": 0.5}, "tau_syn"),
        (Params, {"T_present": 2.0}, "T_present"),
        (Params, {"presentations": 40}, "presentations"),
        (Params, {"trials": 0}, "trials"),
        (Params, {"h": -1.0}, "h must"),
    ],
)
def test_bad_parameters(kind, change, match):
    with pytest.raises(ValueError, match=match):
        kind(**change)


def test_scales_that_are_not_separated_are_told():
    with pytest.warns(UserWarning, match="not separated"):
        PavlovHebb(tau_syn=0.8)
    with pytest.warns(UserWarning, match="below 5 tau"):
        PavlovHebb(T_present=4.0)
    with pytest.warns(UserWarning, match="not separated"):
        ConditioningExperiment(tau_syn=0.8)
    with pytest.warns(UserWarning, match="below 5 tau"):
        ConditioningExperiment(T_on=4.0)


def test_bad_runs():
    network, circuit = PavlovHebb(N=5, K=2), ConditioningExperiment(population=2)
    with pytest.raises(ValueError, match="t_end"):
        network.run(1000.0)
    with pytest.raises(ValueError, match="method"):
        network.run(3000.0, method="euler")
    with pytest.raises(ValueError, match="neuron_noise"):
        replace(network, neuron_noise=0.1).run(3000.0, method="averaged")
    with pytest.raises(ValueError, match="patterns"):
        network.run(3000.0, patterns=np.ones((2, 4)))
    for machine, arguments in ((network, (3000.0,)), (circuit, ())):
        with pytest.raises(ValueError, match="seeds"):
            machine.run(*arguments, seeds=())
    for change in ({"trials": -1}, {"extinction": 2.5}):
        with pytest.raises(ValueError, match="integer"):
            circuit.run(**change)

"""Dynamical mean-field theory of SGD: closed forms, a transcription, published numbers, limits."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from thermolearn.core import dmft
from thermolearn.core.errors import DataError, DivergedError
from thermolearn.systems.training.sgd_noise.losses import hinge2
from thermolearn.systems.training.sgd_noise.mean_field import Order, Site
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.result import load
from thermolearn.systems.training.sgd_noise.schedules import GD, SGD, PersistentSGD
from thermolearn.systems.training.sgd_noise.simulation import simulate

sys.path.append(str(Path(__file__).parents[2] / "oracle"))
from sgd_least_squares import LeastSquares
from sgd_mean_field import march

THREE = [(0.25, 1, 1), (0.25, -1, 1), (0.5, 0, -1)]


def even_hinge(h, y):
    return torch.clamp(0.5 - y * (h**2 - 1), min=0) ** 2 / 2


# -- closed forms ------------------------------------------------------------------------------
def test_gradient_descent_on_least_squares_is_the_random_matrix_integral():
    exact = LeastSquares(2, 0.5, 0.2, 0.1, 40, (1.0, 0.3))
    model = GaussianMixturePerceptron(2, 0.5, loss="quadratic")
    found = model.dmft(GD(0.2), 0.1, 40, n_mc=400, start=(1.0, 0.3), runs=2, pivot=1e-4)
    np.testing.assert_allclose(found.m.value, exact.m, atol=2e-7)
    np.testing.assert_allclose(found.R.value, exact.R, atol=2e-7)
    np.testing.assert_allclose(found.C.value, exact.C, atol=1e-6)
    np.testing.assert_allclose(found.loss.value, exact.loss, atol=1e-6)


def test_sgd_on_least_squares_is_the_volterra_equation():
    exact = LeastSquares(2, 0.5, 0.1, 0.1, 30, (1.0, 0.3), batch=0.15)
    model = GaussianMixturePerceptron(2, 0.5, loss="quadratic")
    found = model.dmft(SGD(0.1, 0.15), 0.1, 30, n_mc=4000, start=(1.0, 0.3), runs=8)
    for name, at in (("m", 10), ("m", 30), ("loss", 10), ("loss", 30), ("C", (10, 10))):
        e = found.estimate(name)
        assert abs(e.value[at] - getattr(exact, name)[at]) < 4 * e.stderr[at], (name, at)
    for name, at in (("C", (30, 30)), ("C", (30, 10)), ("R", (30, 10)), ("R", (20, 0))):
        e = found.estimate(name)
        assert abs(e.value[at] - getattr(exact, name)[at]) < 4 * e.stderr[at], (name, at)
    # the noise matters: without it C misses by far more
    quiet = LeastSquares(2, 0.5, 0.1, 0.1, 30, (1.0, 0.3))
    assert found.C.value[30, 30] - quiet.C[30, 30] > 8 * found.C.stderr[30, 30]


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_march_is_the_equations_sum_by_sum(replicas):
    model = GaussianMixturePerceptron(1.3, 0.6, prior=THREE, loss=even_hinge)
    b, eta, tau, n, steps = 0.4, 0.15, 0.5, 90, 6
    off, on = eta * (1 - b) / (b * tau), eta / tau

    def mask(t, before, rng):
        u = rng.random((replicas, n))
        if before is None:
            return (u < b) / b
        return np.where(before > 0, u >= off, u < on) / b

    def slope(h, y):
        return -2 * h * y * np.maximum(0.5 - y * (h**2 - 1), 0)

    def curvature(h, y):
        u = 0.5 - y * (h**2 - 1)
        return (u > 0) * (4 * h**2 - 2 * y * u)

    c, y = model.clusters.stratified(n)
    schedule, start = PersistentSGD(eta, b, tau), (0.7, 0.2)
    found = dmft.solve(
        lambda k, rng: Site(model, schedule, replicas, k),
        lambda: Order(model, schedule, 0.3, replicas, start),
        steps,
        n,
        fields=replicas,
        runs=2,
        seed=5,
        dtype=np.float64,
        pivot=1e-9,
    ).per_run
    for run in range(2):
        expected = march(
            c, y, 1.3, 0.6, eta, 0.3, slope, curvature, mask, start, steps, (5, run, 0), replicas
        )
        for name in ("m", "R", "C", "mu") + (("between",) if replicas == 2 else ()):
            np.testing.assert_allclose(found[name][run], expected[name], atol=1e-10, err_msg=name)
        np.testing.assert_allclose(found["G"][run, 0], expected["G"], atol=1e-10)


# -- identities and limits ---------------------------------------------------------------------
def test_the_first_displacement_is_the_squared_gradient():
    """<|g|^2>/d by its parts: drift, memory and noise of covariance alpha Delta M."""
    model = GaussianMixturePerceptron(2, 0.5, loss="hinge2")
    decay, eta, T = 0.1, 0.2, 12
    result = model.dmft(SGD(eta, 0.3), decay, T, n_mc=200, start=(1.0, 0.1), runs=2)
    found = result.solution.per_run
    for run in range(2):
        m, C, R, mu = (found[k][run] for k in ("m", "C", "R", "mu"))
        M, G = found["M"][run, 0, 0], found["G"][run, 0]
        for t in range(T):
            own = 2 * G[t, : t + 1]  # alpha Delta G, and alpha Delta = 1
            own = own / 2
            own[t] += decay
            noise = -eta * R[: t + 1, : t + 1] @ M[t, : t + 1]  # <zeta(t) w(s)>
            square = own @ C[: t + 1, : t + 1] @ own + 2 * 2 * mu[t] * (own @ m[: t + 1])
            square += (2 * mu[t]) ** 2 + M[t, t] + 2 * own @ noise
            moved = C[t + 1, t + 1] + C[t, t] - 2 * C[t + 1, t]
            # H(1)/chi(1) = eta <g^2>/(2d)
            assert moved / 2 / eta == pytest.approx(eta * square / 2, rel=1e-8)


def test_a_batch_of_everything_is_gradient_descent_to_the_bit():
    model = GaussianMixturePerceptron(2, 0.5, loss="logistic")
    runs = [
        model.dmft(s, 0.1, 5, n_mc=100, runs=1, start=(1.0, 0.2)).per_run
        for s in (GD(0.2), SGD(0.2, 1.0), PersistentSGD(0.2, 1.0, 0.7))
    ]
    for other in runs[1:]:
        assert all(np.array_equal(runs[0][name], other[name]) for name in runs[0])


def test_without_normalization_rate_and_decay_are_rescaled():
    model = GaussianMixturePerceptron(2, 0.5, loss="logistic")
    options = {"n_mc": 200, "runs": 1, "start": (1.0, 0.2)}
    plain = model.dmft(SGD(0.2, 0.5, normalize=False), 0.1, 6, **options)
    other = model.dmft(SGD(0.1, 0.5), 0.2, 6, **options)
    for name in ("m", "C", "R", "loss"):
        np.testing.assert_allclose(plain.per_run[name], other.per_run[name], rtol=1e-6, atol=1e-7)


def test_two_steps_per_unit_of_time_keep_the_noise_of_persistent_batches_only():
    """Distance of replicas at time 2: independent of eta with persistence, ~ eta without."""
    model = GaussianMixturePerceptron(3, 1.0, loss="logistic")
    options = {"n_mc": 1500, "replicas": 2, "runs": 2, "start": (1.0, 0.5)}

    def distance(schedule, steps):
        return float(model.dmft(schedule, 0.5, steps, **options).distance.value[-1])

    fresh = distance(SGD(0.1, 0.5), 20) / distance(SGD(0.05, 0.5), 40)
    kept = distance(PersistentSGD(0.1, 0.5, 1.0), 20) / distance(PersistentSGD(0.05, 0.5, 1.0), 40)
    assert abs(fresh - 2) < 0.25
    assert abs(kept - 1) < 0.1


def test_replicas_that_see_the_same_batches_do_not_part():
    model = GaussianMixturePerceptron(2, 0.5, loss="logistic")
    result = model.dmft(GD(0.2), 0.1, 8, n_mc=400, replicas=2, runs=2)
    np.testing.assert_allclose(result.distance.value, 0, atol=1e-10)
    assert result.flags == ()


def test_gradient_descent_ends_in_the_static_state():
    model = GaussianMixturePerceptron(2, 0.5, loss="hinge2")
    end = model.static(0.3)
    found = model.dmft(GD(0.25), 0.3, 70, n_mc=1500, runs=4, start=(0.5, 0.3))
    for name, exact in (("m", end.m), ("loss", end.loss), ("test_error", end.test_error)):
        e = found.estimate(name)
        assert abs(e.value[-1] - exact.value) < 4 * e.stderr[-1] + 1e-4, name
    assert abs(found.C.value[-1, -1] - end.C.value) < 4 * found.C.stderr[-1, -1]
    assert abs(found.chi.value[-1, 20] - end.chi.value) < 4 * found.chi.stderr[-1, 20]


# -- published numbers -------------------------------------------------------------------------
CASES = {
    # t: m, C, loss, error of a simulation at d = 2000 with their errors
    "squared hinge, SGD": (
        GaussianMixturePerceptron(2, 0.5, loss="hinge2"),
        (SGD(0.2, 0.3), 0.1, (1.0, 0.1)),
        {
            10: ((0.8709, 0.0024), (1.2693, 0.0028), (0.0709, 0.0007), (0.0308, 0.0007)),
            40: ((0.9646, 0.0030), (1.5733, 0.0039), (0.0377, 0.0005), (0.0083, 0.0004)),
        },
    ),
    "squared hinge, persistent": (
        GaussianMixturePerceptron(2, 0.5, loss="hinge2"),
        (PersistentSGD(0.2, 0.3, 1.0), 0.1, (1.0, 0.1)),
        {
            10: ((0.8553, 0.0031), (1.2717, 0.0040), (0.0826, 0.0010), (0.0417, 0.0014)),
            40: ((0.9482, 0.0034), (1.5186, 0.0050), (0.0433, 0.0006), (0.0136, 0.0006)),
        },
    ),
    "logistic, unequal": (
        GaussianMixturePerceptron(1.5, 1.0, [(0.7, 1, 1), (0.3, -1, -1)], "logistic"),
        (SGD(0.2, 0.5), 0.2, (0.5, 0.2)),
        {
            20: ((0.8442, 0.0038), (1.2998, 0.0051), (0.2860, 0.0013), (0.0520, 0.0020)),
            40: ((0.9002, 0.0040), (1.5323, 0.0056), (0.2639, 0.0013), (0.0399, 0.0013)),
        },
    ),
    "three clusters": (
        GaussianMixturePerceptron(2, 0.3, THREE, even_hinge),
        (SGD(0.05, 0.5), 0.1, (0.5, 0.3)),
        {
            5: ((0.4632, 0.0), (0.7865, 0.0050), (0.3154, 0.0031)),
            15: ((0.6866, 0.0049), (1.1022, 0.0036), (0.1948, 0.0025)),
            30: ((0.8142, 0.0038), (1.3552, 0.0065), (0.1255, 0.0016)),
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_published_dynamics(case):
    """Within 4 standard errors and 1% of simulations of independent code."""
    model, (schedule, decay, start), table = CASES[case]
    found = model.dmft(schedule, decay, max(table), n_mc=3000, runs=4, start=start)
    for t, row in table.items():
        for name, (value, stderr) in zip(("m", "C", "loss", "error"), row, strict=False):
            e = found.estimate(name)
            at = (t, t) if name == "C" else t
            allowed = 4 * np.hypot(stderr, e.stderr[at]) + 0.01 * value
            assert abs(e.value[at] - value) < allowed, (name, t)


def test_squared_hinge_with_sgd_at_step_20():
    model = GaussianMixturePerceptron(2, 0.5, loss="hinge2")
    found = model.dmft(SGD(0.2, 0.3), 0.1, 20, start=(1.0, 0.1))
    assert abs(found.m.value[20] - 0.929) < 0.012
    assert abs(found.C.value[20, 20] - 1.419) < 0.03


@pytest.mark.slow
def test_squared_hinge_with_sgd_against_a_simulation():
    model = GaussianMixturePerceptron(2, 0.5, loss="hinge2")
    found = model.dmft(SGD(0.2, 0.3), 0.1, 20, start=(1.0, 0.1))
    made = model.simulate(2000, SGD(0.2, 0.3), 0.1, 20, seeds=6, start=(1.0, 0.1))
    for name, at in (("m", 20), ("C", (20, 20)), ("loss", 20), ("error", 20), ("test_error", 20)):
        a, b = found.estimate(name), made.estimate(name)
        allowed = 4 * np.hypot(a.stderr[at], b.stderr[at]) + 0.01 * abs(a.value[at])
        assert abs(a.value[at] - b.value[at]) < allowed, name


def test_ridge_at_step_200():
    model = GaussianMixturePerceptron(2, 0.5, loss="quadratic")
    found = model.dmft(GD(0.2), 0.1, 200, n_mc=600, runs=1, start=(1.0, 0.1))
    assert abs(found.m.value[200] - 0.630087) < 0.003
    assert abs(found.C.value[200, 200] - 0.778657) < 0.005
    assert abs(found.chi.value[200, 0] - 1.483315) < 1e-4


@pytest.mark.slow
def test_published_distance_of_interpolating_replicas():
    model = GaussianMixturePerceptron(0.5, 0.5, loss="hinge2")
    found = model.dmft(SGD(0.2, 0.3), 0.0, 40, replicas=2, runs=2, start=(1.0, 0.1)).distance
    assert found.status == "ok" and (found.value >= 0).all()
    for t, value, stderr in ((10, 0.0666, 0.0034), (40, 0.0141, 0.0004)):
        assert abs(found.value[t] - value) < 4 * np.hypot(stderr, found.stderr[t]) + 0.01 * value


@pytest.mark.parametrize(("b", "coarse"), [(0.98, 1e-2), (0.6, 0.1)])
def test_a_distance_of_replicas_is_resolved_or_flagged(b, coarse):
    """Beside a run that drops nothing; the number of samples is not what it hangs on."""
    model = GaussianMixturePerceptron(0.5, 0.5, loss="hinge2")

    def distance(pivot):
        options = {"n_mc": 1000, "replicas": 2, "runs": 2, "start": (1.0, 0.1)}
        return model.dmft(SGD(0.2, b), 0.0, 40, pivot=pivot, **options)

    exact, usual, rough = distance(1e-6), distance(None), distance(coarse)
    assert exact.flags == () and usual.flags == ()
    assert exact.solution.dropped == 2  # at the start they are one
    np.testing.assert_allclose(usual.distance.value, exact.distance.value, rtol=5e-3)
    assert rough.distance.value[40] < 0.95 * exact.distance.value[40]
    assert "not resolved" in rough.distance.status and "smaller pivot" in rough.flags[0]


def test_the_flag_of_a_distance_is_stored_with_it(tmp_path):
    model = GaussianMixturePerceptron(0.5, 0.5, loss="hinge2")
    run = model.dmft(SGD(0.2, 0.6), 0.0, 12, n_mc=300, replicas=2, runs=2, pivot=0.1)
    run.save(tmp_path / "run.npz")
    assert run.flags and load(tmp_path / "run.npz", model, SGD(0.2, 0.6), 0).flags == run.flags
    still = model.dmft(GD(0.2), 0.0, 12, n_mc=300, replicas=2, runs=2, pivot=0.1)
    assert still.flags == () and not still.distance.value.any()


def test_without_weights_nothing_is_decided():
    """A score of 0 is wrong on the training set and on fresh samples, in theory and simulation."""
    model = GaussianMixturePerceptron(2, 0.5, loss="hinge2")
    options = {"start": (0.0, 0.0)}
    for found in (
        model.dmft(GD(0.1), 0.1, 2, n_mc=200, runs=2, **options),
        model.simulate(40, GD(0.1), 0.1, 2, seeds=2, **options),
    ):
        assert (found.error.value[0], found.test_error.value[0], found.gap.value[0]) == (1, 1, 0)
        assert 0 < found.test_error.value[1] < 0.5
    # h^2 - 1 < 0 is a decision: for the cluster in the middle, half of all
    even = GaussianMixturePerceptron(2, 0.3, THREE, even_hinge, lambda h: h**2 - 1)
    found = even.dmft(GD(0.1), 0.1, 1, n_mc=200, runs=2, **options)
    assert found.error.value[0] == found.test_error.value[0] == 0.5


# -- storage, storms and bad input -------------------------------------------------------------
def test_a_longer_run_and_a_resumed_one_have_the_same_bits(tmp_path):
    model = GaussianMixturePerceptron(2, 0.5, loss="hinge2")
    options = {"n_mc": 200, "runs": 2, "start": (1.0, 0.1)}
    long = model.dmft(SGD(0.2, 0.3), 0.1, 14, **options)
    other = model.dmft(SGD(0.2, 0.3), 0.1, 6, **options).resume(8)
    assert other.steps == 14
    assert all(np.array_equal(long.per_run[k], other.per_run[k]) for k in long.per_run)
    long.save(tmp_path / "run.npz")
    again = load(tmp_path / "run.npz", model, SGD(0.2, 0.3), 0.1)
    assert all(np.array_equal(long.per_run[k], again.per_run[k]) for k in long.per_run)
    again.save(tmp_path / "copy.npz")
    assert load(tmp_path / "copy.npz", model, SGD(0.2, 0.3), 0.1).loss.note == again.loss.note


@pytest.mark.parametrize(
    ("name", "model", "schedule", "decay"),
    [
        ("alpha", {"alpha": 2.1}, SGD(0.2, 0.3), 0.1),
        ("Delta", {"Delta": 0.6}, SGD(0.2, 0.3), 0.1),
        ("prior", {"prior": [(0.4, 1, 1), (0.6, -1, -1)]}, SGD(0.2, 0.3), 0.1),
        ("prior", {"prior": [(1.0, 1, 1)]}, SGD(0.2, 0.3), 0.1),
        ("loss", {"loss": "logistic"}, SGD(0.2, 0.3), 0.1),
        ("loss", {"loss": hinge2(0.99)}, SGD(0.2, 0.3), 0.1),
        ("decision", {"decision": lambda h: h**2 - 1}, SGD(0.2, 0.3), 0.1),
        ("rate", {}, SGD(0.4, 0.3), 0.1),
        ("batch_fraction", {}, SGD(0.2, 0.31), 0.1),
        ("persistence", {}, PersistentSGD(0.2, 0.3, 2.0), 0.1),
        ("normalize", {}, SGD(0.2, 0.3, normalize=False), 0.1),
        ("weight_decay", {}, SGD(0.2, 0.3), 0.2),
    ],
)
def test_a_saved_run_belongs_to_its_parameters(tmp_path, name, model, schedule, decay):
    """Temperatures and responses would be those of another training."""
    base = {"alpha": 2.0, "Delta": 0.5, "loss": "hinge2"}
    run = GaussianMixturePerceptron(**base).dmft(SGD(0.2, 0.3), 0.1, 3, n_mc=60, runs=2)
    run.save(tmp_path / "run.npz")
    other = GaussianMixturePerceptron(**base | model)
    with pytest.raises(DataError, match=f"another {name}"):
        load(tmp_path / "run.npz", other, schedule, decay)
    other = GaussianMixturePerceptron(**base | {"loss": hinge2(1.0)})  # the same under its name
    assert load(tmp_path / "run.npz", other, SGD(0.2, 0.3), 0.1).steps == 3


def test_what_no_machine_holds_is_refused_at_once():
    model = GaussianMixturePerceptron(2, 0.5)
    with pytest.raises(ValueError, match="GiB of memory"):
        model.dmft(SGD(0.2, 0.3), 0.1, 100_000, n_mc=500_000)
    with pytest.raises(ValueError, match="GiB of memory"):
        model.simulate(10**7, SGD(0.2, 0.3), 0.1, 5)


def test_a_start_out_of_all_bounds_is_named():
    model = GaussianMixturePerceptron(2, 0.5)
    for start in ((1e200, 0), (0, -1e200)):
        with pytest.raises(ValueError, match="start"):
            simulate(model, 20, GD(0.1), 0.1, 2, start=start)


def test_shapes_times_and_plot():
    model = GaussianMixturePerceptron(2, 0.5, loss="hinge2")
    result = model.dmft(SGD(0.2, 0.3), 0.1, 5, n_mc=200, runs=2, replicas=2)
    assert result.steps == 5 and result.times[-1] == pytest.approx(1.0)
    assert all(getattr(result, k).value.shape == (6, 6) for k in ("C", "R", "chi", "C12"))
    names = ("m", "loss", "error", "test_error", "gap", "distance")
    assert all(getattr(result, k).value.shape == (6,) for k in names)
    assert (np.triu(result.R.value) == 0).all() and (np.diag(result.chi.value) == 0).all()
    np.testing.assert_allclose(np.diag(result.chi.value, -1), 0.2)
    assert len(result.plot().rows) == 6 * 6
    with pytest.raises(KeyError, match="replicas=2"):
        model.dmft(GD(0.2), 0.1, 2, n_mc=100, runs=1).distance  # noqa: B018


def test_a_rate_beyond_stability_is_said_with_its_step():
    model = GaussianMixturePerceptron(2, 0.5, loss="quadratic")
    with pytest.raises(DivergedError, match="step") as caught:
        model.dmft(GD(20.0), 0.1, 120, n_mc=400, runs=1)
    assert 2 < caught.value.step < 20


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"steps": 0}, "steps"),
        ({"n_mc": 8}, "n_mc"),
        ({"replicas": 3}, "replicas"),
        ({"start": (-1.0, 0.0)}, "R0"),
        ({"start": (1.0,)}, "start"),
        ({"runs": 0}, "runs"),
        ({"pivot": 2.0}, "pivot"),
    ],
)
def test_bad_arguments_are_named(bad, message):
    model = GaussianMixturePerceptron(2, 0.5)
    options = {"schedule": GD(0.2), "weight_decay": 0.1, "steps": 10, "n_mc": 100} | bad
    with pytest.raises(ValueError, match=message):
        model.dmft(**options)


def test_a_model_needs_positive_numbers_and_a_schedule():
    for bad in ({"alpha": 0}, {"alpha": np.nan}, {"Delta": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            GaussianMixturePerceptron(**{"alpha": 1, "Delta": 1} | bad)
    with pytest.raises(TypeError, match="schedule"):
        GaussianMixturePerceptron(1, 1).dmft(0.1, 0.1, 3)
    assert GaussianMixturePerceptron(1, 1, loss=hinge2(0.3)).losses.name == "hinge2 (kappa = 0.3)"

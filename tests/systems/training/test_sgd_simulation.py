"""Finite-d training against linear algebra, identities and its own slower forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from thermolearn.core.errors import DivergedError
from thermolearn.measure.noise import effective_temperature
from thermolearn.systems.training import sgd_noise
from thermolearn.systems.training.sgd_noise import simulation
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.schedules import GD, SGD, PersistentSGD
from thermolearn.systems.training.sgd_noise.simulation import dynamics, simulate

RIDGE = GaussianMixturePerceptron(2.0, 0.5, loss="quadratic")
HINGE = GaussianMixturePerceptron(2.0, 0.5, loss="hinge2")
FORWARD: dict[str, Any] = {
    "weight_decay": 0.1,
    "steps": 12,
    "precision": "float64",
    "start": (1.0, 0.1),
}
DOUBLE = np.dtype("float64")


def ridge(d: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hessian A (d, d), linear term b and start of `RIDGE` without weight decay."""
    by_data, by_start, _, _ = simulation._generators(seed)
    x, y = simulation.data_set(RIDGE, d, by_data, DOUBLE)
    return x.T @ x, x.T @ y, simulation.first_weights(d, (1.0, 0.1), by_start)


# -- exact ---------------------------------------------------------------------------------------
def test_gradient_descent_on_squared_error_is_the_linear_recursion() -> None:
    d, rate, decay = 40, 0.2, 0.1
    A, b, w0 = ridge(d, 3)
    H = A + decay * np.eye(d)
    fixed = np.linalg.solve(H, b)
    jump = np.eye(d) - rate * H
    path = [fixed + np.linalg.matrix_power(jump, t) @ (w0 - fixed) for t in range(13)]
    found = simulate(RIDGE, d, GD(rate), seeds=[3], **FORWARD)
    np.testing.assert_allclose(found.m.value, [w.mean() for w in path], rtol=1e-10)
    np.testing.assert_allclose(found.C.value, np.array(path) @ np.array(path).T / d, rtol=1e-10)


def test_response_on_squared_error_is_a_matrix_power() -> None:
    d, rate, decay, lag = 40, 0.2, 0.1, 8
    A, _, _ = ridge(d, 0)
    jump = np.eye(d) - rate * (A + decay * np.eye(d))
    options: dict[str, Any] = {"waiting_times": [0, 3], "lag": lag, "seeds": [0]}
    found = simulate(RIDGE, d, GD(rate), **FORWARD, **options).response.value
    by_force = simulation._generators(0)[3]
    for row in np.asarray(found):
        signs = by_force.choice([-1.0, 1.0], d)
        shift, exact = np.zeros(d), []
        for _ in range(lag):
            shift = jump @ shift + rate * signs
            exact.append(shift @ signs / d)
        np.testing.assert_allclose(row, exact, rtol=1e-9)


def test_a_batch_of_all_samples_is_gradient_descent() -> None:
    runs = [
        simulate(HINGE, 60, schedule, seeds=2, **FORWARD)
        for schedule in (GD(0.2), SGD(0.2, 1.0), PersistentSGD(0.2, 1.0, 3.0))
    ]
    for other in runs[1:]:
        np.testing.assert_array_equal(other.C.value, runs[0].C.value)
        np.testing.assert_array_equal(other.loss.value, runs[0].loss.value)


def test_without_normalization_rate_and_decay_are_rescaled() -> None:
    b = 0.3
    one = simulate(HINGE, 60, SGD(0.2, b), weight_decay=0.1, steps=8, seeds=2, precision="float64")
    other = simulate(
        HINGE, 60, SGD(0.2 / b, b, normalize=False), 0.1 * b, 8, seeds=2, precision="float64"
    )
    np.testing.assert_allclose(one.C.value, other.C.value, rtol=1e-10)


def test_a_naive_loop_over_samples_takes_the_same_path() -> None:
    d, rate, decay, b, tau = 12, 0.1, 0.05, 0.4, 0.7
    schedule = PersistentSGD(rate, b, tau)
    by_data, by_start, by_mask, _ = simulation._generators(5)
    model = GaussianMixturePerceptron(3.0, 0.8, [(0.7, 1.0, 1.0), (0.3, -1.0, -1.0)], "logistic")
    x, y = simulation.data_set(model, d, by_data, DOUBLE)
    x *= math.sqrt(d)
    w = simulation.first_weights(d, (0.5, 0.2), by_start)
    mask = by_mask.random((len(x), 1)) < b
    path, losses = [w], []
    for _ in range(10):
        step = decay * w
        for mu in range(len(x)):
            h = x[mu] @ w / math.sqrt(d)
            if mask[mu]:
                step = step - y[mu] / (1 + math.exp(y[mu] * h)) * x[mu] / math.sqrt(d) / b
        h = x @ w / math.sqrt(d)
        losses.append(np.mean([math.log1p(math.exp(-v * u)) for v, u in zip(y, h, strict=True)]))
        w = w - rate * step
        path.append(w)
        u = by_mask.random((len(x), 1))
        mask = np.where(mask, u >= rate * (1 - b) / (b * tau), u < rate / tau)
    found = simulate(
        model, d, schedule, decay, 10, seeds=[5], start=(0.5, 0.2), precision="float64"
    )
    np.testing.assert_allclose(found.C.value, np.array(path) @ np.array(path).T / d, rtol=1e-11)
    np.testing.assert_allclose(np.asarray(found.loss.value)[:-1], losses, rtol=1e-11)


def test_the_start_has_its_order_parameters_exactly() -> None:
    found = simulate(HINGE, 30, GD(0.1), 0.0, 1, seeds=3, start=(0.7, -0.4))
    np.testing.assert_allclose(found.per_seed["m"][:, 0], -0.4, rtol=1e-12)
    np.testing.assert_allclose(found.per_seed["C"][:, 0, 0], 0.7 + 0.16, rtol=1e-12)


def test_a_start_at_zero_decides_nothing() -> None:
    found = simulate(HINGE, 30, GD(0.1), 0.0, 2, seeds=2, start=(0.0, 0.0))
    for e in (found.error, found.test_error):
        assert e.value[0] == 1 and 0 < e.value[1] < 0.5  # type: ignore[index]


# -- identities ----------------------------------------------------------------------------------
def test_the_first_step_temperature_is_the_squared_gradient() -> None:
    d, rate, decay = 50, 0.1, 0.3
    run = dynamics(HINGE, d, SGD(rate, 0.5), decay, replicas=3)
    generator = torch.Generator().manual_seed(0)
    state, squares, displacement = run.start, [], []
    for _ in range(5):
        noise = run.draw(generator)
        new, w = run.step(state, noise, 0.0), run.position(state)
        pushed = run.position(run.step(state, noise, torch.ones_like(w)))
        chi = float((pushed - run.position(new)).mean())
        assert chi == pytest.approx(rate, rel=1e-12)
        displacement.append(float((run.position(new) - w).square().mean()) / 2 / chi)
        squares.append(rate * float(total_gradient(run, state, d, decay).square().mean()) / 2)
        state = new
    np.testing.assert_allclose(displacement, squares, rtol=1e-8)


def total_gradient(run: Any, state: torch.Tensor, d: int, decay: float) -> torch.Tensor:
    """Gradient of the step from the data, by autograd of the summed loss."""
    out = []
    for r, row in enumerate(state):
        by_data = simulation._generators(r)[0]
        x, y = (torch.from_numpy(a) for a in simulation.data_set(HINGE, d, by_data, DOUBLE))
        w = row[:d].clone().requires_grad_(True)
        losses = torch.clamp(1 - y * (x @ w), min=0) ** 2 / 2
        total = (losses * row[d:]).sum() / 0.5 + decay / 2 * w.square().sum()
        out.append(torch.autograd.grad(total, w)[0])
    return torch.stack(out)


def test_seeds_of_dynamics_and_simulation_start_alike() -> None:
    run = dynamics(RIDGE, 30, GD(0.2), 0.1, replicas=2, seed=4, start=(1.0, 0.1))
    state = run.start
    for _ in range(12):
        state = run.step(state, None, 0.0)
    found = simulate(RIDGE, 30, GD(0.2), seeds=[4, 5], **FORWARD)
    np.testing.assert_allclose(
        run.position(state).square().mean(1), found.per_seed["C"][:, -1, -1], rtol=1e-10
    )


def test_the_virial_and_the_first_step_agree_up_to_the_drift() -> None:
    found = simulate(HINGE, 80, SGD(0.1, 0.5), 0.5, 60, seeds=2, waiting_times=[20, 40], lag=20)
    C, t = found.per_seed["C"], np.arange(30, 60)
    virial = (C[:, t, t] - C[:, t, t + 1]).mean(1) / 0.1
    squares = (C[:, t, t] + C[:, t + 1, t + 1] - 2 * C[:, t, t + 1]).mean(1) / 0.2
    drift = (C[:, 60, 60] - C[:, 30, 30]) / (2 * 0.1 * 30)
    np.testing.assert_allclose(virial, squares - drift, rtol=1e-9)
    one = found.effective_temperature((30, 60), "virial")
    assert float(one) == pytest.approx(virial.mean(), rel=1e-12)


# -- masks ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("b", "tau"), [(0.3, 1.0), (0.6, 0.5)])
def test_the_persistent_mask_forgets_in_b_tau(b: float, tau: float) -> None:
    rate, n, steps = 0.1, 40000, 4
    schedule = PersistentSGD(rate, b, tau)
    rng = np.random.default_rng(0)
    first = now = simulation.first_mask(schedule, (n, 1), rng)
    for _ in range(steps):
        now = simulation.next_mask(schedule, now, rng)
    for mask in (first, now):
        assert mask.mean() == pytest.approx(b, abs=4 * math.sqrt(b * (1 - b) / n))
    kept = np.mean((first - b) * (now - b)) / (b * (1 - b))
    assert kept == pytest.approx((1 - rate / (b * tau)) ** steps, abs=4 / math.sqrt(n))


def test_batches_of_sgd_are_fresh() -> None:
    rng = np.random.default_rng(0)
    first = simulation.first_mask(SGD(0.1, 0.3), (40000, 1), rng)
    other = simulation.next_mask(SGD(0.1, 0.3), first, rng)
    assert abs(np.mean((first - 0.3) * (other - 0.3))) / 0.21 < 4 / 200


# -- its own slower forms ------------------------------------------------------------------------
def test_samples_in_single_precision_change_nothing_that_counts(monkeypatch: Any) -> None:
    """Same samples in both precisions: order parameters to 1e-6, response to 1e-3."""
    draw = simulation.data_set

    def drawn(model: Any, d: int, rng: Any, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        rows, labels = draw(model, d, rng, DOUBLE)
        return rows.astype(dtype), labels

    monkeypatch.setattr(simulation, "data_set", drawn)
    runs = [
        simulate(
            HINGE, 200, SGD(0.2, 0.3), 0.1, 40, seeds=2, waiting_times=[10], lag=30, precision=p
        )
        for p in ("float32", "float64")
    ]
    np.testing.assert_allclose(runs[0].C.value, runs[1].C.value, rtol=2e-6)
    np.testing.assert_allclose(runs[0].response.value, runs[1].response.value, rtol=1e-3)


def test_the_response_does_not_depend_on_the_force() -> None:
    model = GaussianMixturePerceptron(2.0, 0.5, loss="logistic")
    options: dict[str, Any] = {"seeds": 2, "waiting_times": [5], "lag": 15, "precision": "float64"}
    small, large = (
        simulate(model, 100, SGD(0.2, 0.5), 0.1, 20, force=f, **options).response.value
        for f in (1e-4, 1e-3)
    )
    np.testing.assert_allclose(small, large, rtol=2e-4)


def test_replicas_are_independent_of_each_other_and_alike() -> None:
    found = simulate(HINGE, 80, SGD(0.2, 0.5), 0.1, 10, seeds=2, replicas=3)
    distance = np.asarray(found.distance.value)
    assert distance[0] == 0 and (distance[1:] > 0).all()
    C, C12 = np.asarray(found.C.value), np.asarray(found.C12.value)
    np.testing.assert_allclose(distance, 2 * (np.diagonal(C) - np.diagonal(C12)), atol=1e-12)
    still = simulate(HINGE, 80, GD(0.2), 0.1, 5, seeds=2, replicas=2)
    np.testing.assert_allclose(still.distance.value, 0, atol=1e-20)


def test_a_seed_fixes_the_bits_whatever_the_others() -> None:
    one = simulate(HINGE, 50, SGD(0.2, 0.5), 0.1, 5, seeds=[7])
    two = simulate(HINGE, 50, SGD(0.2, 0.5), 0.1, 5, seeds=[2, 7])
    np.testing.assert_array_equal(one.per_seed["C"][0], two.per_seed["C"][1])
    assert (one.per_seed["C"][0] != two.per_seed["C"][0]).any()
    assert math.isnan(np.asarray(one.m.stderr)[-1]) and np.asarray(two.m.stderr)[-1] > 0


def test_test_error_of_clusters_is_that_of_fresh_samples() -> None:
    rng = np.random.default_rng(0)
    even = GaussianMixturePerceptron(
        2.0,
        0.3,
        [(0.25, 1, 1), (0.25, -1, 1), (0.5, 0, -1)],
        lambda h, y: torch.clamp(0.5 - y * (h * h - 1), min=0) ** 2 / 2,
        lambda h: h * h - 1,
    )
    from thermolearn.systems.training.sgd_noise.simulation_result import test_error

    for model in (HINGE, even):
        n, prior = 40000, model.clusters
        k = rng.choice(len(prior), n, p=np.array(prior.probabilities))
        h = np.array(prior.positions)[k] * 0.6 + math.sqrt(model.Delta) * 0.9 * rng.normal(size=n)
        wrong = np.sign(model.decision(h)) != np.array(prior.labels)[k]
        exact = test_error(model, np.array([0.6]), np.array([0.81]))[0]
        assert exact == pytest.approx(wrong.mean(), abs=4 * wrong.std() / math.sqrt(n))


def test_temperature_of_simulation_and_of_the_instrument() -> None:
    model = GaussianMixturePerceptron(3.0, 1.0, loss="hinge2")
    steps = range(30, 61, 5)
    found = simulate(
        model, 150, SGD(0.1, 0.5), 0.5, 80, seeds=8, start=(1.0, 0.5), waiting_times=steps, lag=20
    ).effective_temperature((30, 80))
    run = dynamics(model, 150, SGD(0.1, 0.5), 0.5, replicas=8, seed=100, start=(1.0, 0.5))
    probe = effective_temperature(run, lag=20, origins=6, burn_in=30)
    for name in ("t_fast", "t_glob"):
        a, b = getattr(found, name), getattr(probe, name)
        assert abs(float(a) - float(b)) < 4 * math.hypot(a.stderr, b.stderr)
    assert probe.virial_factor == 1.0


def test_ctrl_c_keeps_the_seeds_that_are_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = simulation.run, []

    def interrupted(model: Any, plan: Any, seed: int) -> Any:
        calls.append(seed)
        if seed == 2:
            raise KeyboardInterrupt
        return whole(model, plan, seed)

    monkeypatch.setattr(simulation, "run", interrupted)
    found = simulate(HINGE, 20, GD(0.1), 0.1, 5, seeds=4)
    assert calls == [0, 1, 2] and found.seeds == (0, 1)
    assert found.m.status == "interrupted after 2 of 4 seeds"
    with pytest.raises(KeyboardInterrupt):
        simulate(HINGE, 20, GD(0.1), 0.1, 5, seeds=[2, 3])
    with pytest.raises(KeyboardInterrupt):  # of the catalogue: whole, or not there
        sgd_noise.simulate(sgd_noise.Params(data_sets=3, dimension=20, steps=4), 0)


# -- bad input -----------------------------------------------------------------------------------
def test_a_rate_beyond_stability_is_said_with_its_step() -> None:
    with pytest.raises(DivergedError, match=r"step \d+ .*rate = 5 .*lower") as error:
        simulate(RIDGE, 50, GD(5.0), 0.1, 200, seeds=2)
    assert 2 < error.value.step < 30


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"d": 1}, "d must be"),
        ({"d": 20.0}, "d must be"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"weight_decay": math.nan}, "weight_decay"),
        ({"steps": 0}, "steps"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"replicas": 0}, "replicas"),
        ({"start": (-1.0, 0.1)}, "R0"),
        ({"start": (1.0, math.inf)}, "m0"),
        ({"start": 1.0}, "start"),
        ({"waiting_times": [2], "lag": 0}, "belong together"),
        ({"lag": 2}, "belong together"),
        ({"waiting_times": [-2], "lag": 1}, "waiting_times"),
        ({"waiting_times": [8], "lag": 5}, "exceeds steps"),
        ({"force": 0.0}, "force"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_bad_arguments_are_named(bad: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"d": 20, "weight_decay": 0.1, "steps": 10, "schedule": GD(0.1)}
    with pytest.raises(ValueError, match=message):
        simulate(HINGE, **(good | bad))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"loss": "absolute"}, "loss"),
        ({"schedule": "adam"}, "schedule"),
        ({"alpha": 0.0}, "alpha"),
        ({"batch_fraction": 1.5}, "batch_fraction"),
        ({"schedule": "persistent", "persistence": 0.1}, "rate .* must be at most"),
        ({"alpha": 0.01, "dimension": 20}, "no sample"),
        ({"steps": 3}, "steps"),
        ({"n_mc": 10}, "n_mc"),
    ],
)
def test_bad_parameters_are_named(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sgd_noise.Params(**bad)


@pytest.mark.parametrize("schedule", ["gd", "persistent"])
def test_the_other_schedules_of_the_catalogue(schedule: str) -> None:
    p = sgd_noise.Params(schedule=schedule, data_sets=150, n_mc=5000, loss="hinge2", steps=8)
    theory, found = sgd_noise.theory(p), sgd_noise.simulate(p, 0)
    assert theory.keys() == found.keys()
    for key, e in theory.items():
        error = math.hypot(e.stderr, found[key].stderr)
        # below 1% at this dimension
        assert abs(float(e) - float(found[key])) < 4 * error + 0.01 * float(e), key


def test_what_is_not_a_schedule_or_not_recorded_is_refused() -> None:
    with pytest.raises(TypeError, match="schedule"):
        simulate(HINGE, 20, 0.1, 0.1, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no sample"):
        simulate(GaussianMixturePerceptron(0.1, 1.0), 3, GD(0.1), 0.1, 5)
    found = simulate(HINGE, 20, GD(0.1), 0.1, 5, seeds=2)
    for ask in (lambda: found.response, lambda: found.effective_temperature()):
        with pytest.raises(ValueError, match="waiting_times and lag"):
            ask()
    with pytest.raises(ValueError, match="replicas=2"):
        _ = found.distance
    with pytest.raises(KeyError, match="recorded"):
        found.estimate("entropy")
    with pytest.raises(ValueError, match="method"):
        found.effective_temperature(method="guess")
    other = simulate(HINGE, 20, SGD(0.1, 0.5), 0.1, 12, seeds=2, waiting_times=[2], lag=6)
    with pytest.raises(ValueError, match="no waiting time lies in the window"):
        other.effective_temperature((4, 12))
    with pytest.raises(ValueError, match="window"):
        other.effective_temperature((4, 40))

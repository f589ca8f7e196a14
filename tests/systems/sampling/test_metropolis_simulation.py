"""Chains and their measured relaxation, against closed forms, enumeration and the operator."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import erf, erfc

from thermolearn.core.estimate import mean_estimate
from thermolearn.systems.sampling.metropolis import (
    ExponentialJump,
    GaussianJump,
    MetropolisOperator,
    Params,
    UniformJump,
    harmonic,
    simulate,
    simulate_metropolis,
    tune_step,
)
from thermolearn.systems.sampling.metropolis.relaxation import slowest_eigenvalue


def normal(x: np.ndarray) -> np.ndarray:
    return -x * x / 2


# -- the chains ----------------------------------------------------------------------------------
def test_every_step_is_that_of_a_plain_loop():
    """Same random numbers, one walker at a time: the same bits, runs of rejections and records."""
    root = np.array([[1.0, 0.0], [0.7, 0.2]])
    run = simulate_metropolis(
        lambda x: -(x**4).sum(1),
        [0.1, -0.2],
        GaussianJump(0.9),
        60,
        5,
        seed=3,
        scale=root,
        observables={"first": lambda x: x[:, 0]},
        keep=True,
    )
    rng = np.random.default_rng(3)
    x = np.tile([0.1, -0.2], (5, 1))
    runs, chance, jumped, path = np.zeros((5, 60), dtype=int), 0.0, 0.0, []
    for n in range(60):
        jump = 0.9 * rng.standard_normal((5, 2)) @ root.T
        uniform = rng.random(5)
        for w in range(5):
            new = x[w] + jump[w]
            p = min(1.0, math.exp((x[w] ** 4).sum() - (new**4).sum()))
            chance, jumped = chance + p / 300, jumped + p * (jump[w] ** 2).sum() / 300
            if uniform[w] < p:
                x[w] = new
            else:
                runs[w, n] = 1 + (runs[w, n - 1] if n else 0)
        path.append(x.copy())
    np.testing.assert_array_equal(run.x, path)
    assert run.log_prob is not None
    np.testing.assert_allclose(run.log_prob, -(np.array(path) ** 4).sum(2), rtol=1e-14)
    np.testing.assert_array_equal(run.observables["first"], np.array(path)[:, :, 0])
    np.testing.assert_array_equal(run.longest_rejection, runs.max(1))
    assert float(run.acceptance) == pytest.approx(chance, abs=1e-12)
    assert float(run.esjd) == pytest.approx(jumped, abs=1e-12)


@pytest.mark.parametrize("s", [0.7, 2.0, 5.0])
def test_acceptance_of_the_harmonic_potential(s):
    """(2/pi) atan(2/s) for Gaussian jumps; the mean square jump by quadrature."""
    start = np.random.default_rng(1).normal(size=(20_000, 1))
    run = simulate_metropolis(normal, start, GaussianJump(s), 20, 20_000)
    assert run.acceptance.stderr < 2e-3
    assert abs(run.acceptance.value - 2 / math.pi * math.atan(2 / s)) < 4 * run.acceptance.stderr

    def moved(y: float) -> float:
        bell = math.exp(-((y / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))
        return 2 * bell * y * y * erfc(y / (2 * math.sqrt(2)))

    assert abs(run.esjd.value - quad(moved, 0, 40)[0]) < 4 * run.esjd.stderr


@pytest.mark.parametrize("a", [1.0, 5.0])
def test_a_walker_at_the_mode_stays_with_the_power_of_the_rejection(a):
    """P(no move in n steps) = R(0)^n, R(0) = 1 - sqrt(pi/2) erf(a/sqrt 2)/a."""
    walkers, n = 40_000, 3
    run = simulate_metropolis(normal, 0.0, UniformJump(a), n, walkers, seed=5)
    share = np.mean(run.longest_rejection == n)
    exact = (1 - math.sqrt(math.pi / 2) * erf(a / math.sqrt(2)) / a) ** n
    assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / walkers)
    assert (run.last[run.longest_rejection == n] == 0).all()


def test_the_density_is_sampled_in_two_dimensions():
    covariance = np.array([[2.0, 1.2], [1.2, 1.0]])
    inverse = np.linalg.inv(covariance)

    def log_prob(x: np.ndarray) -> np.ndarray:
        return -0.5 * np.einsum("wi,ij,wj->w", x, inverse, x)

    pairs = {"xx": (0, 0), "xy": (0, 1), "yy": (1, 1)}
    watched = {k: lambda x, i=i, j=j: x[:, i] * x[:, j] for k, (i, j) in pairs.items()}
    run = simulate_metropolis(
        log_prob,
        [3.0, 0.0],
        GaussianJump(1.5),
        400,
        300,
        scale=np.linalg.cholesky(covariance),
        burn=100,
        observables=watched,
    )
    for name, (i, j) in pairs.items():
        found = mean_estimate(run.observables[name].mean(0))
        assert abs(found.value - covariance[i, j]) < 4 * found.stderr
        assert found.stderr < 0.03
    assert 2 < float(run.tau("xy")) < 8
    with pytest.raises(KeyError, match="xy"):
        run.tau("zz")


def test_one_chain_has_an_error_bar_along_itself():
    runs = [simulate_metropolis(normal, 0.0, UniformJump(2.0), 1000, seed=s) for s in range(10)]
    z = [(float(r.acceptance) - 0.631253) / float(r.acceptance.stderr) for r in runs]
    assert np.max(np.abs(z)) < 4 and 0.4 < np.std(z) < 2
    short = simulate_metropolis(normal, 0.0, UniformJump(2.0), 20)
    assert math.isnan(short.acceptance.stderr) and short.acceptance.note


def test_a_seed_fixes_the_run_and_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    one, two, other = (
        simulate_metropolis(normal, 0.0, ExponentialJump(1.0), 30, 20, seed=s) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.last, two.last)
    assert (one.last != other.last).any()
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


# -- relaxation ----------------------------------------------------------------------------------
def test_the_eigenfunction_decays_with_its_eigenvalue():
    """E[phi(x_n)] = Lambda^n phi(x_0): the operator's mode in walkers that started at x = 2."""
    mode = MetropolisOperator(harmonic(), UniformJump(2.0)).mode(0, "odd")
    assert mode.eigenvalue == pytest.approx(0.73428, abs=2e-5)
    run = simulate_metropolis(normal, 2.0, UniformJump(2.0), 5, 800_000, seed=4)
    left = mean_estimate(mode(run.last[:, 0]) / mode(np.array(2.0)))
    found, error = left.value**0.2, left.stderr * left.value**-0.8 / 5
    assert error < 5e-4
    assert abs(found - 0.73428) < 4 * error


@pytest.mark.parametrize("lag", [2, 4])
def test_the_slowest_mode_of_a_small_chain(lag):
    """Reversible chain of four states, weighted starts, and one whose slowest mode alternates."""
    p = np.array([0.4, 0.3, 0.2, 0.1])
    move = np.minimum(1, p[None] / p[:, None]) / 4
    np.fill_diagonal(move, 0)
    move += np.diag(1 - move.sum(1))
    exact = np.sort(np.linalg.eigvals(move).real)[-2]
    rng = np.random.default_rng(0)
    start = rng.integers(4, size=200_000)  # uniform, weighted by p
    later = walk(move, start, lag, rng)
    functions = np.eye(4)[:, :3]
    found = slowest_eigenvalue(functions[start], functions[later], p[start] * 4, lag)
    assert abs(found.value - exact) < 4 * found.stderr and found.stderr < 0.02
    swap = np.array([[0.1, 0.9], [0.9, 0.1]])
    start = rng.integers(2, size=20_000)
    sign = np.array([[-1.0], [1.0]])
    ends = sign[start], sign[walk(swap, start, lag, rng)]
    found = slowest_eigenvalue(*ends, np.ones(20_000), lag, center=False)
    assert abs(found.value - 0.8) < 4 * found.stderr
    gone = slowest_eigenvalue(ends[0], rng.permutation(ends[1]), np.ones(20_000), lag)
    assert gone.status == "cannot tell" and math.isnan(gone.value)


def walk(move: np.ndarray, state: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    for _ in range(steps):
        state = (rng.random(len(state))[:, None] > move[state].cumsum(1)[:, :-1]).sum(1)
    return state


# potential, jump, length, lag, odd, even: numbers of arXiv:2207.10488's operator, on a grid
RATES = [
    ("harmonic", "uniform", 1.0, 4, 0.888392, 0.834994),
    ("harmonic", "uniform", 3.0, 2, 0.642815, None),
    ("harmonic", "gaussian", 2.2, 2, 0.647463, 0.646376),
    ("quartic", "uniform", 1.0, 2, 0.724157, 0.601114),
    ("box", "uniform", 0.8, 2, 0.777543, None),
    ("box", "uniform", 1.5, 2, 0.5643222, None),
    ("harmonic", "exponential", 1.0, 2, 0.775462, 0.744164),
]


@pytest.mark.parametrize(("potential", "jump", "length", "lag", "odd", "even"), RATES)
def test_chains_relax_with_the_eigenvalues(potential, jump, length, lag, odd, even):
    p = Params(30_000, potential, jump, length, lag=lag)
    found = [simulate(p, seed) for seed in range(12)]
    for key, exact in (("odd_eigenvalue", odd), ("even_eigenvalue", even)):
        if exact is not None:
            value = mean_estimate([float(f[key]) for f in found])
            assert abs(value.value - exact) < 4 * value.stderr, key
            assert value.stderr < 2.5e-3
            assert {f[key].status for f in found} == {"ok"}


@pytest.mark.parametrize(
    ("d", "ell", "acceptance", "odd", "even"),
    [(2, 2.1, 0.404, 0.775967, 0.77704), (10, 1.9, 0.3645, 0.943475, 0.94335)],
)
def test_chains_of_more_dimensions(d, ell, acceptance, odd, even):
    p = Params(12_000, "harmonic", "gaussian", ell / d**0.5, dimension=d, lag=4 if d == 2 else 8)
    found = [simulate(p, seed) for seed in range(8)]
    exact = {"acceptance": acceptance, "odd_eigenvalue": odd, "even_eigenvalue": even}
    for key, wanted in exact.items():
        value = mean_estimate([float(f[key]) for f in found])
        assert abs(value.value - wanted) < 4 * value.stderr + 5e-5, key
        assert value.stderr < 2e-3


def test_units_of_length_and_temperature():
    """beta U is all that counts: beta = 4 at half the length gives the same bits."""
    one, two = simulate(Params(2000), 7), simulate(Params(2000, beta=4.0, length=1.0), 7)
    assert one["odd_eigenvalue"].value == two["odd_eigenvalue"].value
    assert one["mean_square_jump"].value == 4 * two["mean_square_jump"].value


@pytest.mark.parametrize(
    ("p", "key"),
    [
        (Params(20_000, length=5.0), "odd_eigenvalue"),
        (Params(20_000, length=5.0), "even_eigenvalue"),
        (Params(20_000, "box", length=1.5), "even_eigenvalue"),
        (Params(20_000, "harmonic", "gaussian", 0.95, dimension=10, lag=12), "odd_eigenvalue"),
    ],
)
def test_localized_modes_are_said_to_be(p, key):
    found = simulate(p, 0)[key]
    assert found.status == "localised" and "rejection" in found.note


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_prob": lambda x: np.where(x > 1, np.nan, 0.0)}, "log_prob is nan"),
        ({"log_prob": lambda x: np.where(x > 1, np.inf, 0.0)}, "log_prob is inf"),
        ({"log_prob": lambda x: 0.0}, "one number per walker"),
        ({"log_prob": lambda x: np.where(np.abs(x) < 1, 0.0, -np.inf), "x0": 2.0}, "x0"),
        ({"x0": np.nan}, "x0"),
        ({"x0": np.zeros((3, 1))}, "one row per walker"),
        ({"steps": 0}, "steps"),
        ({"walkers": 0}, "walkers"),
        ({"seed": -1}, "seed"),
        ({"burn": -1}, "burn"),
        ({"every": 0}, "every"),
        ({"x0": [0.0, 0.0]}, "law on the line"),
        ({"jump": lambda rng, shape: rng.exponential(size=shape)}, "not symmetric"),
        ({"jump": lambda rng, shape: rng.exponential(size=shape) - 1}, "not symmetric"),
        ({"jump": lambda rng, shape: np.zeros(3)}, "shape asked for"),
        ({"scale": np.eye(2)}, "scale"),
    ],
)
def test_bad_runs(change, message):
    given = {
        "log_prob": normal, "x0": 0.0, "jump": UniformJump(2.0), "steps": 200, "walkers": 20,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        simulate_metropolis(**(given | change))


def test_a_jump_must_be_a_law():
    with pytest.raises(TypeError, match="jump"):
        simulate_metropolis(normal, 0.0, 2.0, 10)
    own = simulate_metropolis(normal, 0.0, lambda rng, shape: rng.uniform(-2, 2, shape), 50, 400)
    law = simulate_metropolis(normal, 0.0, UniformJump(2.0), 50, 400)
    assert own.acceptance.value == law.acceptance.value


@pytest.mark.parametrize(
    "bad",
    [
        {"potential": "double well"}, {"jump": "cauchy"}, {"lag": 3}, {"length": 0.0},
        {"beta": -1.0}, {"dimension": 2}, {"walkers": 10}, {"dimension": 0},
        {"dimension": 2, "jump": "gaussian", "potential": "box"},
    ],
)  # fmt: skip
def test_bad_parameters(bad):
    with pytest.raises(ValueError, match="|".join(["jump", *bad])):
        Params(**bad)


def test_few_walkers_do_not_pass_for_an_isolated_mode():
    """Of noisy values only upward fluctuations would."""
    for seed in range(30):
        for p in (Params(2000, jump="gaussian", length=2.2), Params(400, "box", length=2.5)):
            found = simulate(p, seed)
            assert {found[k].status for k in ("odd_eigenvalue", "even_eigenvalue")} <= {
                "localised", "cannot tell",
            }  # fmt: skip
            assert "lower bound" not in found["odd_eigenvalue"].note


def test_jumps_that_do_not_sample():
    def normal(x):
        return -x * x / 2

    for scale in ([0.0], [[0.0]]):
        with pytest.raises(ValueError, match="singular"):
            simulate_metropolis(normal, 0.0, UniformJump(1.0), 100, scale=scale)

    def lopsided(rng, shape):  # median 0, mean 0, not symmetric
        left = -np.where(rng.random(shape) < 0.5, 0.5, 1.5)
        return np.where(rng.random(shape) < 0.5, rng.uniform(0, 2, shape), left)

    with pytest.raises(ValueError, match="not symmetric"):
        simulate_metropolis(normal, 0.0, lopsided, 100)
    simulate_metropolis(normal, 0.0, lambda rng, shape: rng.standard_cauchy(shape), 100)


class Impatient:
    """A density at whose k-th evaluation Ctrl-C is pressed."""

    def __init__(self, patience: int):
        self.left = patience

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return normal(x) if x.ndim == 1 else normal(x).sum(1)


def test_an_interrupted_run_is_the_shorter_run():
    def moments(steps: int, density):
        return simulate_metropolis(
            density, 0.5, UniformJump(2.0), steps, 32, 3, every=4,
            observables={"x2": lambda x: x * x}, keep=True,
        )  # fmt: skip

    # the start takes one evaluation, and each step one
    cut, whole = moments(1000, Impatient(1 + 90)), moments(90, normal)
    assert cut.steps == 90
    assert cut.acceptance.status == cut.esjd.status == "interrupted"
    assert "90 of 1000" in cut.acceptance.note
    assert float(cut.acceptance) == float(whole.acceptance)
    assert float(cut.esjd) == float(whole.esjd)
    assert (cut.longest_rejection == whole.longest_rejection).all()
    assert (cut.last == whole.last).all()
    assert cut.x.shape == (22, 32, 1)
    assert (cut.x == whole.x).all()
    assert (cut.observables["x2"] == whole.observables["x2"]).all()
    with pytest.raises(KeyboardInterrupt):  # nothing is finished
        moments(1000, Impatient(1))


def test_interrupted_pilot_runs_choose_no_jump():
    with pytest.raises(KeyboardInterrupt):
        tune_step(log_prob=Impatient(500), x0=[0.0, 0.0])

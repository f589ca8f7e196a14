"""What a solution of the mean-field solver offers, and what is refused or flagged."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from dmft_systems import (
    Given,
    GivenOrder,
    GivenSite,
    LinearPerceptron,
    Network,
    solve_network,
)

from thermolearn.core import dmft
from thermolearn.core.errors import DataError, DivergedError, NotApplicableError
from thermolearn.core.estimate import Estimate

# -- what a user relies on -------------------------------------------------------------------------
NETWORK = Network(0.2, 2.0, 0.6, "tanh")


def solve(steps, n=300, **kwargs):
    return dmft.solve(NETWORK.site, NETWORK.closure, steps, n, **{"runs": 2, **kwargs})


def same(a, b):
    assert a.per_run.keys() == b.per_run.keys()
    for name in a.per_run:
        np.testing.assert_array_equal(a.per_run[name], b.per_run[name])


@pytest.mark.parametrize("keep", [True, False])
def test_a_resumed_run_has_the_bits_of_a_longer_one(keep):
    short = solve(17, keep=keep)
    before = {name: x.copy() for name, x in short.per_run.items()}
    longer = short.resume(20)
    same(longer, solve(37))
    same(short.resume(20), longer)  # again, although the samples have moved on
    same(longer.resume(0), longer)
    for name in before:  # causal: the later steps change nothing in the earlier ones
        np.testing.assert_array_equal(short.per_run[name], before[name])
    np.testing.assert_array_equal(longer.per_run["M"][..., :17, :17], before["M"])
    np.testing.assert_array_equal(longer.per_run["G"][..., :17, :17], before["G"])


def test_seeds_and_runs_are_independent():
    same(solve(8), solve(8))
    two = solve(8).per_run["M"]
    assert not np.array_equal(two[0], two[1])
    assert not np.array_equal(two, solve(8, seed=1).per_run["M"])
    np.testing.assert_array_equal(solve(8, runs=3).per_run["M"][:2], two)
    state = np.random.get_state()[1].copy()
    solve(3)
    assert (np.random.get_state()[1] == state).all()


class Interrupting:
    """The network, with Ctrl-C pressed in the n-th step of all."""

    def __init__(self, n, press):
        self.left, self.press = n, press

    def site(self, n, rng):
        unit, counter = NETWORK.site(n, rng), self
        step = unit.step

        def pressed(*args):
            counter.left -= 1
            if not counter.left:
                counter.press()
            return step(*args)

        unit.step = pressed
        return unit


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("n", "runs", "steps", "says"),
    [(7, 1, 7, "step 7 of 10 of the first run"), (10, 1, 10, "1 of 3"), (25, 2, 10, "2 of 3")],
)
def test_ctrl_c_keeps_what_is_finished(n, runs, steps, says):
    system = Interrupting(n, ctrl_c)
    partial = dmft.solve(system.site, NETWORK.closure, 10, 300, runs=3)
    assert (partial.runs, partial.steps) == (runs, steps)
    assert any(says in flag for flag in partial.flags)
    assert says in partial.M.note and partial.M.status == "flagged"
    whole = solve(10, runs=3)
    np.testing.assert_array_equal(
        partial.per_run["M"], whole.per_run["M"][:runs, :, :, :steps, :steps]
    )
    made = partial.resume()
    same(made, whole)
    assert made.flags == () and -39 < system.left <= -(30 - n)  # the finished steps were not redone
    same(partial.resume(5), solve(15, runs=3))


def test_ctrl_c_before_anything_is_finished_is_raised():
    def press():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dmft.solve(Interrupting(1, press).site, NETWORK.closure, 10, 300)
    # in the middle of a step that could not be finished: the finished runs remain
    partial = dmft.solve(Interrupting(14, press).site, NETWORK.closure, 10, 300, runs=2)
    assert partial.runs == 1
    same(partial.resume(), solve(10))


def test_a_solution_survives_in_a_file(tmp_path):
    found = solve(6, pivot=0.3)
    found.save(tmp_path / "found.npz")
    again = dmft.load(tmp_path / "found.npz")
    same(found, again)
    assert (again.names, again.steps, again.n_mc, again.dropped, again.flags) == (
        found.names, found.steps, found.n_mc, found.dropped, found.flags,
    )  # fmt: skip
    assert again.pivot == found.pivot == 0.3 and again.facts == {}
    found.save(tmp_path / "facts.npz", {"gain": 2.0, "M": [1, 2]})
    beside = dmft.load(tmp_path / "facts.npz")
    same(found, beside)
    assert beside.facts["gain"] == 2 and beside.facts["M"].tolist() == [1, 2]
    beside.save(tmp_path / "again.npz")
    assert dmft.load(tmp_path / "again.npz").facts.keys() == beside.facts.keys()
    assert again.dropped > 0 and "dropped" in again.M.note
    assert str(again.observables) == str(found.observables)
    for call in (again.resume, again.bias):
        with pytest.raises(NotApplicableError, match="loaded"):
            call()
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    np.savez(tmp_path / "pickled.npz", sizes=np.array([{}], dtype=object))
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("bad", "other", "pickled", "empty"):
        with pytest.raises(DataError, match=name):
            dmft.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        dmft.load(tmp_path / "none.npz")


def test_error_bars_are_those_between_the_runs():
    """One-step observable <h^4>: the spread between runs against its known value."""
    found = Given(np.ones((1, 1, 1, 1)), 0.0)

    class Fourth(type(found.site(4, None))):
        def step(self, t, field, memory, state, rng):
            return dmft.SiteStep(field, None, {"fourth": field[0] ** 4})

    n, runs = 400, 200
    out = dmft.solve(
        lambda n, rng: Fourth(0.0, np.zeros((0, n))), found.closure, 1, n, runs=runs
    ).observables["fourth"]
    # mean and variance are matched: the variance of h^4 that h^2 does not explain, 96 - 72 = 24
    assert abs(out.value[0] - 3 * (1 - 2 / n)) < 4 * out.stderr[0]
    assert out.stderr[0] == pytest.approx((24 / n / runs) ** 0.5, rel=0.25)
    alone = dmft.solve(found.site, found.closure, 1, 20, runs=1)
    assert np.isnan(alone.M.stderr).all()


def test_the_bias_of_few_samples_is_seen():
    """(mean of N numbers)^2 has the bias 1/N."""

    class Square(GivenOrder):
        value = 0.0

        def advance(self, t, averages):
            self.value = averages.observables["noise"] ** 2

        def order_parameters(self):
            return {"q": np.array(self.value)}

    class Noisy(GivenSite):
        def step(self, t, field, memory, state, rng):
            return dmft.SiteStep(field, None, {"noise": rng.standard_normal(field.shape[1])})

    one = np.ones((1, 1, 1, 1))
    found = dmft.solve(
        lambda n, rng: Noisy(0.0, np.zeros((0, n))), lambda: Square(one, None), 1, 50, runs=800
    )
    bias = found.bias()["q"]
    assert abs(bias.value - (1 / 25 - 1 / 50)) < 4 * bias.stderr < 0.012
    assert abs(found.order_parameters["q"].value - 1 / 50) < 4 * found.order_parameters["q"].stderr


# -- what must be refused or flagged ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", 2.0), ("n_mc", 1), ("fields", 0), ("runs", 0), ("seed", -1),
        ("seed", 2**32), ("pivot", 0.0), ("pivot", 1.0), ("pivot", np.nan), ("dtype", np.float16),
    ],
)  # fmt: skip
def test_bad_arguments(name, value):
    arguments = {"steps": 5, "n_mc": 100, name: value}
    with pytest.raises(ValueError, match=name):
        dmft.solve(NETWORK.site, NETWORK.closure, **arguments)


def test_two_fields_have_one_covariance():
    """<a b> at equal times given twice, and not alike."""
    covariance = np.zeros((2, 2, 3, 3))
    covariance[:, :, range(3), range(3)] = np.array([[1.0, 0.5], [0.4, 1.0]])[..., None]
    given = Given(covariance, 0.0, np.zeros((0, 50)))
    with pytest.raises(ValueError, match="covariance of step 0 is not symmetric"):
        dmft.solve(given.site, given.closure, 3, 50, fields=2)


class Broken(Given):
    """A system whose parts are what the test says."""

    def __init__(self, kernel=None, step=None):
        super().__init__(np.eye(4)[None, None], 0.0)
        self.kernel, self.change = kernel, step or (lambda out: out)

    def site(self, n, rng):
        change = self.change

        class Site:
            leak = 0.0

            def step(self, t, field, memory, state, rng):
                return change(dmft.SiteStep(field, None, {"one": field[0]}))

        return Site()

    def closure(self):
        made, kernel = super().closure(), self.kernel
        if kernel is not None:
            made.kernel = lambda t: kernel[:, :t]
        return made


@pytest.mark.parametrize(
    ("system", "error", "message"),
    [
        (Broken(step=lambda out: out.signal), TypeError, "SiteStep.*got ndarray"),
        (Broken(step=lambda out: out._replace(observables={"x": out.signal})), ValueError, "'x'"),
        (Broken(kernel=np.zeros((3, 4))), ValueError, "kernel of step 1 has 3 rows"),
    ],
)
def test_what_a_system_gives_is_checked(system, error, message):
    with pytest.raises(error, match=message):
        dmft.solve(system.site, system.closure, 4, 50)


def test_matched_rows_may_be_left_out_and_factories_may_not():
    found = dmft.solve(Broken().site, Broken().closure, 4, 50, runs=1)
    np.testing.assert_allclose(found.M.value[0, 0], np.eye(4), atol=1e-12)
    assert found.M.status == "one run" and len(repr(found)) < 500
    with pytest.raises(TypeError, match="callables"):
        dmft.solve(Broken().site(50, None), Broken().closure, 4, 50)


def test_too_few_samples():
    """The constant, one label and 2 x 9 rows: 21 samples hold them."""
    given = Given(
        np.eye(18).reshape(9, 2, 9, 2).transpose(1, 3, 0, 2), 0.0, np.tile([1.0, -1], 10)[None]
    )
    with pytest.raises(ValueError, match="n_mc must be at least 21"):
        dmft.solve(given.site, given.closure, 9, 20, fields=2)
    given.rows = np.tile([1.0, -1, 0], 7)[None]
    found = dmft.solve(given.site, given.closure, 9, 21, fields=2, runs=1)
    assert "few samples: 21 for 20" in found.flags[0]
    np.testing.assert_allclose(found.M.value[:2, :2, 8, 8], np.eye(2), atol=1e-12)


def test_divergence_is_an_error_with_the_step():
    system = LinearPerceptron(2.0, 0.5, rate=40.0, decay=0.1, m0=0.1, r0=1.0)
    with pytest.raises(DivergedError, match="diverged at step") as error:
        dmft.solve(system.site, system.closure, 150, 300, runs=1, dtype="float64")
    assert 20 < error.value.step < 150


def test_wrong_shapes_are_named():
    class Wide(GivenOrder):
        def covariance(self, t):
            return np.ones((1, 1, t + 2))

    class Memory(GivenOrder):
        def kernel(self, t):
            return np.ones(t)

    given = Given(np.ones((1, 1, 3, 3)), 0.0)
    for order, name in ((Wide, "covariance"), (Memory, "kernel")):
        with pytest.raises(ValueError, match=name):
            dmft.solve(given.site, lambda order=order: order(given.full, None), 3, 50)

    class Loud(GivenSite):
        def step(self, t, field, memory, state, rng):
            return dmft.SiteStep(field[0], field)

    with pytest.raises(ValueError, match="signal"):
        dmft.solve(lambda n, rng: Loud(0.0, np.zeros((0, n))), given.closure, 3, 50)


class Claims(GivenOrder):
    """Any order parameters one likes."""

    def __init__(self, full, claimed):
        super().__init__(full, None)
        self.claimed = claimed

    def order_parameters(self):
        return self.claimed


@pytest.mark.parametrize(
    ("claimed", "says"),
    [
        ({"R": np.eye(4)}, "R is not causal"),
        ({"R12": np.eye(4, k=1)}, "R12 is not causal"),
        ({"R": np.eye(4, k=-1)}, None),
        ({"C": np.array([[1.0, 2.0], [2.0, 1.0]])}, "C is not positive"),
        ({"C": np.array([[1.0, 0.2], [0.1, 1.0]])}, "C is not symmetric"),
        ({"C": np.ones((2, 2)), "m": np.array([[1.0, 2.0], [2.0, 1.0]])}, None),
    ],
)
def test_causality_and_positivity_are_checked(claimed, says):
    given = Given(np.eye(4)[None, None], 0.0)
    found = dmft.solve(given.site, lambda: Claims(given.full, claimed), 4, 50, runs=2)
    assert found.flags == () if says is None else says in found.flags[0]
    assert (found.M.status == "ok") == (says is None)


def test_a_covariance_that_cannot_be_is_flagged():
    full = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.9], [0.0, 0.9, 1.0]])
    given = Given(full[None, None], 0.0)
    found = dmft.solve(given.site, given.closure, 3, 50)
    assert "not positive" in found.flags[0]


def test_one_name_for_two_quantities():
    given = Given(np.eye(4)[None, None], 0.0)
    with pytest.raises(ValueError, match="mean: two quantities"):
        dmft.solve(given.site, lambda: Claims(given.full, {"mean": np.ones(5)}), 4, 50)


# -- the limit of small steps ----------------------------------------------------------------------
def test_extrapolation_is_exact_for_polynomials():
    sizes = (0.4, 0.2, 0.1)
    at = {h: Estimate(np.array([1 + 2 * h - 3 * h**2, 5.0]), 0.0) for h in sizes}
    found = dmft.extrapolate(at)
    np.testing.assert_allclose(found.value, [1.0, 5.0], atol=1e-12)
    # its own error: what the coarsest size changes
    np.testing.assert_allclose(found.stderr[0], abs(1 - (2 * 1.17 - 1.28)), atol=1e-12)
    second = {h: Estimate(1 + h**2 + h**3, 0.1) for h in sizes}
    assert dmft.extrapolate(second, order=2).value == pytest.approx(1.0)
    two = dmft.extrapolate({0.2: Estimate(1.2, 0.3), 0.1: Estimate(1.1, 0.4)})
    assert two.value == pytest.approx(1.0)
    assert two.stderr == pytest.approx(np.hypot(0.1, np.hypot(0.3, 0.8)))


def test_extrapolation_to_continuous_time():
    """Symmetric linear couplings: C(1, 1) at dt = 0 from runs at .1, .05 and .025."""
    at = {}
    for dt in (0.1, 0.05, 0.025):
        steps = round(1 / dt) + 1
        found = solve_network(steps, 200, dt, 0.4, 1.0, "linear", pivot=1e-5).M
        at[dt] = Estimate(found.value[0, 0, -1, -1], 0.0)
    k = np.arange(1, 401)
    x, w = np.cos(k * np.pi / 401), np.sin(k * np.pi / 401) ** 2
    truth = (w * np.exp(-2 * (1 - 0.8 * x))).sum() / w.sum()
    limit = dmft.extrapolate(at)
    assert abs(limit.value - truth) < limit.stderr < 2e-3
    assert abs(at[0.025].value - truth) > 10 * abs(limit.value - truth)


def test_extrapolation_of_what_does_not_fit():
    one = Estimate(1.0, 0.1)
    for at in ({0.1: one}, {0.1: one, -0.2: one}, {0.1: one, 0.2: Estimate(np.ones(2), 0.0)}):
        with pytest.raises(ValueError, match="step size"):
            dmft.extrapolate(at)

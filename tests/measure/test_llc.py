"""Learning coefficients against the cases that are known exactly."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn
from torch.nn import functional as F

from thermolearn.core.copying import fingerprint
from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.measure.llc import (
    LocalLearningCoefficient,
    compare,
    llc_of_function,
    local_learning_coefficient,
    monomial_lambda,
    reduced_rank_lambda,
)
from thermolearn.measure.llc.analysis import _expected_rhat, _mean, _rhat
from thermolearn.measure.llc.model import ChainLoss
from thermolearn.measure.llc.sampler import Traces
from thermolearn.measure.objective import trained_parameters

N = 9119  # n / ln n = 1000
POWERS = {"p2": [2] * 8, "p4": [4] * 8, "mixed": [2, 2, 4, 4, 6, 6]}


def monomial(powers):
    p = torch.tensor(powers, dtype=torch.float64)
    return (
        lambda w: 0.5 * w.abs().pow(p).sum(-1),
        lambda w: 0.5 * p * w.abs().pow(p - 1) * w.sign(),
    )


def zeros(d):
    return torch.zeros(d, dtype=torch.float64)


def close(result, exact, part=0.02, bars=3):
    return abs(result.value - exact) < max(part * exact, bars * result.stderr)


# -- exact values ------------------------------------------------------------------------------
def test_monomials_in_closed_form():
    exact = [monomial_lambda(p).value for p in POWERS.values()]
    np.testing.assert_allclose(exact, [4, 2, 11 / 6])


def test_reduced_rank_in_closed_form():
    """Values of the theorem's four cases, worked out by hand."""
    known = {
        (1, 1, 1, 0): (0.5, 2), (1, 1, 1, 1): (0.5, 1), (2, 2, 2, 0): (1.5, 1),
        (2, 2, 2, 1): (2.0, 2), (2, 2, 2, 2): (2.0, 1), (3, 2, 2, 0): (2.0, 2),
        (1, 5, 2, 0): (1.0, 1), (5, 1, 1, 0): (0.5, 1), (1, 1, 5, 0): (0.5, 1),
        (6, 2, 2, 1): (4.0, 1),
    }  # fmt: skip
    for sizes, expected in known.items():
        assert reduced_rank_lambda(*sizes) == expected, sizes


def test_reduced_rank_properties():
    for m, h, n in itertools.product(range(1, 6), repeat=3):
        ranks = range(min(m, h, n) + 1)
        values = [reduced_rank_lambda(m, h, n, r).value for r in ranks]
        assert values == [reduced_rank_lambda(n, h, m, r).value for r in ranks]  # transposition
        assert np.all(np.diff(values) >= 0)  # a larger true rank is less singular
        # the image of B A has dimension rank (m + n - rank): the value of a regular model of it
        top = ranks[-1]
        full = min(h, m, n)
        regular = full * (m + n - full) / 2
        assert values[-1] == regular if top == h or h >= min(m, n) else values[-1] <= regular
        assert max(values) <= h * (m + n) / 2


@pytest.mark.parametrize("bad", [(0, 1, 1, 0), (2, 2, 2, 3), (2, 1, 2, 2), (2, 2, 2.0, 1)])
def test_sizes_that_no_network_has(bad):
    with pytest.raises(ValueError):
        reduced_rank_lambda(*bad)


# -- the sampler -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", POWERS)
def test_monomials_by_mala(name):
    value, gradient = monomial(POWERS[name])
    result = llc_of_function(
        value, zeros(len(POWERS[name])), N, gradient=gradient, draws=1500, warmup=1000
    )
    exact = monomial_lambda(POWERS[name]).value
    assert result.status == "ok", result.note
    assert close(result, exact)
    assert result.stderr < 0.02 * exact
    assert result.rhat < 1.02
    assert result.ess > 3000


@pytest.mark.slow
@pytest.mark.parametrize("name", POWERS)
@pytest.mark.parametrize("method", ["mala", "sgld"])
def test_monomials_by_autograd_at_length(name, method):
    value, _ = monomial(POWERS[name])
    result = llc_of_function(value, zeros(len(POWERS[name])), N, method=method)
    assert result.status == "ok", result.note
    assert close(result, monomial_lambda(POWERS[name]).value)


@pytest.mark.slow
def test_the_step_bias_of_sgld_is_seen_and_removed():
    """At s n beta = 0.6 the excess is 1/(1 - 0.15); half the step leaves 1/(1 - 0.075)."""
    value, gradient = monomial([2] * 8)
    result = llc_of_function(
        value, zeros(8), N, gradient=gradient, method="sgld", step=6e-4, localization=0.0,
        draws=8000,
    )  # fmt: skip
    half, whole = 4 / (1 - 0.075), 4 / (1 - 0.15)
    bar = result.stderr / 2
    assert abs(result.uncorrected - half) < 4 * bar
    assert abs(float(result.step_shift) - 2 * (whole - half)) < 4 * result.step_shift.stderr
    assert abs(result.value - (2 * half - whole)) < 4 * result.stderr  # 4 (1 - x^2/2 ...)
    assert result.uncorrected - 4 > 5 * bar


def test_the_localization_is_corrected_to_first_order():
    """A Gaussian mode: (1/2) h/(h + gamma) becomes (1/2) (1 - (gamma/(h + gamma))^2)."""
    value, gradient = monomial([2] * 8)
    result = llc_of_function(
        value, zeros(8), N, gradient=gradient, localization=150.0, draws=1500, warmup=500
    )
    assert abs(result.value - 4 * (1 - (150 / 1150) ** 2)) < 4 * result.stderr
    assert abs(result.uncorrected - 4 * 1000 / 1150) < 4 * result.stderr
    assert result.uncorrected < 3.6


def test_a_strong_localization_is_said():
    value, gradient = monomial([2] * 8)
    result = llc_of_function(
        value, zeros(8), N, gradient=gradient, localization=1000.0, draws=1000, warmup=500
    )
    assert result.status == "localized"
    assert result.value == result.uncorrected
    assert abs(result.value - 2) < 4 * result.stderr


def exact_two_layer(t, sizes):
    """n beta <K> of K = |B A|^2/2 around 0 under w ~ N(0, 1/gamma), t = n beta/gamma^2.

    With B integrated out: (n/2) <sum_i t s_i/(1 + t s_i)> over the eigenvalues s = u^2 of A A^T,
    weight prod (1 + t s_i)^(-n/2); h = m = n = k of 1 or 2.
    """
    k = sizes
    u = np.exp(np.linspace(-18, 2.5, 1201)) if k == 1 else np.exp(np.linspace(-18, 2.2, 901))
    if k == 1:
        s, jacobian = u**2, u
        weight = jacobian * np.exp(-s / 2) * (1 + t * s) ** -0.5
        return 0.5 * (weight * t * s / (1 + t * s)).sum() / weight.sum()
    a, b = np.meshgrid(u**2, u**2)
    weight = np.sqrt(a * b) * np.abs(a - b) * np.exp(-(a + b) / 2) / ((1 + t * a) * (1 + t * b))
    return (weight * (t * a / (1 + t * a) + t * b / (1 + t * b))).sum() / weight.sum()


def two_layer(k):
    def loss(w):
        a, b = w[:, : k * k].reshape(-1, k, k), w[:, k * k :].reshape(-1, k, k)
        return 0.5 * (b @ a).square().sum((1, 2))

    return loss


def test_the_exact_integrals_approach_the_theorem():
    assert abs(exact_two_layer(1e8, 2) - reduced_rank_lambda(2, 2, 2, 0).value) < 0.01
    # multiplicity 2: value - 1/ln t (1 + O(1/ln t))
    assert abs(exact_two_layer(1e8, 1) - 0.5 + 1 / math.log(1e8)) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2])
def test_reduced_rank_regression_at_finite_n(k):
    result = llc_of_function(
        two_layer(k), zeros(2 * k * k), N, localization=3.0, draws=6000, warmup=3000
    )
    exact = exact_two_layer(result.n_beta / 3.0**2, k)
    assert result.status == "localized", result.note  # it holds the arms, flat at 0
    assert abs(result.uncorrected - exact) < max(0.02 * exact, 4 * result.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "allowance"), [(1, 0.03), (2, 0.02)])
def test_reduced_rank_regression_at_a_true_map(rank, allowance):
    """lambda - (m - 1)/ln(n beta) at finite n, with the next order in 1/ln n allowed for."""
    truth = torch.diag(torch.tensor([1.0, float(rank == 2)], dtype=torch.float64))

    def loss(w):
        a, b = w[:, :4].reshape(-1, 2, 2), w[:, 4:].reshape(-1, 2, 2)
        return 0.5 * (b @ a - truth).square().sum((1, 2))

    w0 = truth.flatten().repeat(2)
    result = llc_of_function(loss, w0, N, localization=5.0, draws=6000, warmup=4000)
    exact = reduced_rank_lambda(2, 2, 2, rank)
    expected = exact.value - (exact.multiplicity - 1) / math.log(result.n_beta)
    assert result.status == "localized", result.note  # it holds the fiber of equal products
    assert abs(result.value - expected) < max(allowance * expected, 4 * result.stderr)


def test_chains_that_miss_a_part_of_the_density_are_not_ok():
    """The arms of the cross w_1 w_2 = 0 at a weak localization: R-hat does not see it."""
    result = llc_of_function(two_layer(1), zeros(2), N, localization=0.01, draws=600, warmup=400)
    assert result.status == "not converged"
    assert float(result.equipartition) < 0.95


def test_a_shared_direction_counts_once():
    """K = (v . w)^2/2 in 6 dimensions: 1/2, whatever the flat directions do."""
    v = numbers(6)

    def value(w):
        return 0.5 * (w @ v).square()

    result = llc_of_function(value, zeros(6), N, draws=1500, warmup=500, localization=20.0)
    # nothing at this localization tells flat directions from held ones
    assert result.status == "localized", result.note
    held = 5 + 20 / (20 + result.n_beta * float(v.square().sum()))
    assert abs(float(result.held_directions) - held) < 4 * result.held_directions.stderr
    assert close(result, 0.5, bars=4)


# -- the localization --------------------------------------------------------------------------
MIXED = {"1..100": [1.0, 10.0, 30.0, 100.0], "one stiff": [1000.0, 1.0, 1.0, 1.0, 1.0, 1.0]}


@pytest.mark.parametrize("name", MIXED)
def test_a_mixed_spectrum_is_not_ok(name):
    """d/2 exactly, but the automatic gamma holds the soft directions: their part is missing.

    Curvatures h = scale^2; (1/2) sum h/(h + gamma) and sum gamma/(h + gamma) in closed form.
    """
    h = 100 / math.log(100) * torch.tensor(MIXED[name], dtype=torch.float64).square()

    def value(w):
        return 0.5 * (w.square() * h).sum(-1) * math.log(100) / 100

    result = llc_of_function(value, zeros(len(h)), 100, draws=2500, warmup=1000, chains=32)
    held = float((result.localization / (h + result.localization)).sum())
    assert result.status in ("localized", "under-sampled")
    assert "localization holds" in result.note
    assert abs(float(result.held_directions) - held) < 4 * result.held_directions.stderr
    assert abs(result.uncorrected - (len(h) - held) / 2) < 4 * result.stderr
    assert result.value + held / 2 > len(h) / 2 - 4 * result.stderr  # the bound of the note
    assert result.value < 0.8 * len(h) / 2  # which "ok" would hide


def test_few_held_directions_are_ok():
    value, gradient = monomial([2] * 8)
    result = llc_of_function(
        value, zeros(8), N, gradient=gradient, localization=20.0, draws=600, warmup=400
    )
    assert result.status == "ok", result.note
    expected = 8 * 20 / 1020
    assert abs(float(result.held_directions) - expected) < 4 * result.held_directions.stderr


# -- verdicts ----------------------------------------------------------------------------------
def test_a_saddle_is_invalid():
    def value(w):
        return 0.5 * w[:, 0].square() - 0.05 * w[:, 1].square() + 0.01 * w[:, 1].pow(4)

    result = llc_of_function(value, zeros(2), 1000, draws=500, warmup=500)
    assert result.value < 0
    assert result.status == "invalid"
    assert result.to_estimate().status == "invalid"


def test_a_point_on_a_slope_is_flagged():
    value, _ = monomial([2] * 4)
    result = llc_of_function(
        value, torch.full((4,), 0.03, dtype=torch.float64), N, draws=600, warmup=400
    )
    # n beta |w0|^2/2 = 1.8 of the 2 is lost
    assert result.status in ("not a critical point", "invalid")
    # n beta g . <w - w*>/2 at the auto localization
    expected = -1.8 * 1000 / (1000 + result.localization)
    assert abs(float(result.gradient_shift) - expected) < 0.1


def double_well(d, depth):
    """d regular directions at a saddle, `depth` nats above its two wells."""
    n_beta = 1000 / math.log(1000)

    def value(w):
        return 0.5 * w[:, :-1].square().sum(1) + depth / n_beta * ((w[:, -1] ** 2 - 1) ** 2 - 1)

    return value


@pytest.mark.parametrize(("d", "depth"), [(10, 2.0), (20, 3.0), (50, 5.0)])
def test_a_saddle_is_invalid_in_any_dimension(d, depth):
    result = llc_of_function(
        double_well(d, depth), zeros(d + 1), 1000, chains=8, draws=500, warmup=500
    )
    assert result.value > 0
    assert result.status == "invalid"
    assert "saddle" in result.note
    gamma = result.localization  # of which gamma u^2/2 is lost
    bottom = depth - gamma / 2 + gamma**2 / (16 * depth)
    assert abs(result.depth - bottom) < 0.01
    assert f"curvature of n beta L at w* is {-4 * depth:.3g} " in result.note


def test_a_saddle_of_a_model_is_invalid():
    """Outputs a b x_1 + v . x at a = b = 0: dL = 0 there, ab = 1 fits the data."""

    class Product(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.v = nn.Parameter(torch.zeros(d - 1, dtype=torch.float64))
            self.ab = nn.Parameter(zeros(2))

        def forward(self, x):
            return x[:, 1:] @ self.v + self.ab[0] * self.ab[1] * x[:, 0]

    x = torch.linalg.qr(numbers(300, 41))[0] * 300**0.5
    y = x[:, 0]
    result = local_learning_coefficient(
        Product(41), lambda o, t: 0.5 * (o - t).square().mean(), (x, y), **SHORT
    )
    assert result.status == "invalid", (result.status, result.note)
    assert "saddle" in result.note


def test_minima_have_no_depth():
    """Quadratic, quartic, and a slope, whose depth the gradient explains."""
    for powers, at in (([2] * 4, 0.0), ([2, 4, 4], 0.0), ([2] * 4, 0.02)):
        value, _ = monomial(powers)
        w0 = torch.full((len(powers),), at, dtype=torch.float64)
        result = llc_of_function(value, w0, N, draws=200, warmup=200, chains=8)
        assert -0.1 < result.depth < 0.01


def test_a_bias_below_the_verdict_is_named():
    """0.3 standard deviations off in 10 directions: half of 0.9 of the 5 is lost."""
    n_beta = 1000 / math.log(1000)
    w0 = torch.full((10,), 0.3 / math.sqrt(n_beta), dtype=torch.float64)
    value, _ = monomial([2] * 10)
    result = llc_of_function(value, w0, 1000, draws=1500, warmup=500, chains=16)
    assert result.status == "ok"
    assert abs(result.value + 0.45 - 5) < 4 * result.stderr
    assert "no exact minimum, takes 0.4" in result.note


@pytest.mark.parametrize("method", ["mala", "sgld"])
@pytest.mark.parametrize(
    "wrong", [lambda w: 2 * w, lambda w: -w, lambda w: w * (w > 0), lambda w: 0 * w]
)
def test_a_gradient_of_another_function_is_refused(method, wrong):
    with pytest.raises(ValueError, match="gradient is not the gradient"):
        llc_of_function(
            monomial([2] * 4)[0], zeros(4), 1000, gradient=wrong, method=method, draws=100,
            warmup=100,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("powers", [[1, 2], [2, 4, 6], [2] * 50])
def test_a_true_gradient_passes_the_check(dtype, powers):
    p = torch.tensor(powers, dtype=dtype)

    def value(w):
        return 3 + 0.5 * w.abs().pow(p).sum(-1)

    def gradient(w):
        return 0.5 * p * w.abs().pow(p - 1) * w.sign()

    llc_of_function(
        value, torch.zeros(len(p), dtype=dtype), 1000, gradient=gradient, draws=60, warmup=60
    )


def test_a_loss_below_its_rounding_is_invalid():
    """n beta L(w*) eps = 7e6 1.2e-7 = 0.9 nat in float32, wherever it is computed."""

    def value(w):
        return 100 + 0.5 * w.float().square().sum(-1)

    for w0 in (zeros(2).float(), zeros(2)):
        result = llc_of_function(value, w0, 10**6, draws=60, warmup=60, chains=4)
        assert result.status == "invalid"
        assert "rounded" in result.note
    result = llc_of_function(
        lambda w: 100 + 0.5 * w.square().sum(-1), zeros(2), 10**6, draws=100, warmup=60
    )
    assert "rounded" not in result.note


def test_unequal_chains_do_not_loosen_the_threshold():
    """Chains around means that differ by a standard deviation, white within: R-hat 1.4."""
    offsets = numbers(8, 1, seed=3).numpy()
    for size, mixed in ((0.0, True), (0.3, False), (1.0, False)):
        energy = 5 + numbers(8, 1000, seed=4).numpy() + size * offsets
        traces = Traces(1.0, energy, energy, energy, energy)
        assert (_rhat(energy) <= _expected_rhat(traces)) is mixed
        assert _expected_rhat(traces) < 1.02
        assert float(_mean(energy).stderr) >= 0.999 * energy.mean(1).std(ddof=1) / 8**0.5


def test_slow_chains_are_never_ok_beyond_the_cap():
    """R-hat above 1.05, though short chains of this correlation show that: under-sampled."""
    value, gradient = monomial([2] * 4)
    result = llc_of_function(
        value, zeros(4), N, gradient=gradient, step=4e-5, localization=0.0, chains=8, draws=300,
        warmup=300,
    )  # fmt: skip
    assert result.rhat > 1.05
    assert result.rhat_threshold <= 1.05
    assert result.status in ("under-sampled", "not converged")


def test_equipartition_that_is_not_known_is_under_sampled():
    value, _ = monomial([2] * 2)
    result = llc_of_function(value, zeros(2), 1000, chains=4, draws=200, warmup=100)
    assert float(result.equipartition.stderr) > 0.05
    assert result.status == "under-sampled"


def test_a_deeper_basin_nearby_is_seen():
    def value(w):  # minima at 0 (0) and at 1 (deeper), low barrier
        x = w[:, 0]
        return (
            0.3 * x.square() * (x - 1).square() - 0.02 * x.pow(3) * (4 - 3 * x) + w[:, 1].square()
        )

    result = llc_of_function(
        value, zeros(2), 1000, localization=0.1, draws=1000, warmup=1000, chains=16
    )
    assert result.status in ("left the basin", "invalid")


def test_few_draws_are_said():
    value, gradient = monomial([4] * 3 + [2])
    result = llc_of_function(value, zeros(4), N, gradient=gradient, chains=2, draws=60, warmup=400)
    assert result.status in ("under-sampled", "not converged")


def test_sgld_diverges_loudly():
    value, gradient = monomial([4] * 4)
    with pytest.raises(ConvergenceError, match="diverged"):
        llc_of_function(
            value, zeros(4), N, gradient=gradient, method="sgld", step=1.0, draws=200, warmup=100
        )


def test_same_seed_same_bits_and_no_global_generator():
    value, _ = monomial([2, 4])
    state = torch.get_rng_state()
    a, b = (llc_of_function(value, zeros(2), N, draws=60, warmup=40, seed=5) for _ in range(2))
    assert a.value == b.value
    assert np.array_equal(a.energies, b.energies)
    assert torch.equal(state, torch.get_rng_state())


def test_float32_chains_agree():
    value = lambda w: 0.5 * w.square().sum(-1)  # noqa: E731
    result = llc_of_function(value, torch.zeros(8), N, draws=1500, warmup=800)
    assert close(result, 4, bars=4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n": 2}, "n must"), ({"method": "hmc"}, "method"), ({"chains": 1}, "chains"),
        ({"draws": 10}, "draws"), ({"warmup": 0}, "warmup"), ({"step": -1.0}, "step"),
        ({"localization": -1.0}, "localization"), ({"beta": 0.0}, "beta"), ({"seed": -1}, "seed"),
        ({"w0": torch.zeros(2, 2)}, "w0"), ({"w0": torch.tensor([math.nan])}, "w0"),
        ({"function": lambda w: w}, "function must map"),
        ({"function": lambda w: w.sum(-1) / 0}, "not finite"),
        ({"function": lambda w: 0 * w.sum(-1)}, "does not depend"),
        ({"function": lambda w: torch.ones(len(w))}, "does not depend"),
        ({"gradient": lambda w: w.sum(-1)}, "gradient must map"),
    ],
)  # fmt: skip
def test_bad_input(change, match):
    call = {"function": monomial([2, 2])[0], "w0": zeros(2), "n": 100, **change}
    with pytest.raises(ValueError, match=match):
        llc_of_function(call.pop("function"), call.pop("w0"), call.pop("n"), **call)


def test_what_is_no_function():
    with pytest.raises(TypeError, match="callable"):
        llc_of_function(3, zeros(2), 100)


# -- models ------------------------------------------------------------------------------------
def half_squared(outputs, targets):
    """-ln p of unit variance."""
    return 0.5 * (outputs - targets).square().sum(1).mean()


def regression(n=400, d=5):
    """Linear regression at its least-squares solution: lambda = d/2 exactly."""
    x = numbers(n, d)
    y = x @ numbers(d, 1, seed=1) + numbers(n, 1, seed=2)
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    return model, x, y


SHORT = {"chains": 8, "draws": 600, "warmup": 200}


def test_a_regular_model_has_half_its_parameters():
    model, x, y = regression()
    result = local_learning_coefficient(model, half_squared, (x, y), **SHORT)
    assert result.status == "ok", result.note
    assert close(result, 2.5, bars=4)
    assert result.dimension == 5
    assert math.isclose(result.n_beta, 400 / math.log(400))
    assert abs(float(result.equipartition) - 1) < 4 * result.equipartition.stderr


@pytest.mark.slow
def test_minibatches_give_the_same():
    model, x, y = regression()
    result = local_learning_coefficient(
        model, half_squared, (x, y), batch_size=100, chains=8, draws=5000, warmup=1000,
        localization=0.5,
    )  # fmt: skip
    assert result.settings["batch_size"] == 100
    assert abs(result.value - 2.5) < 4 * result.stderr
    assert result.stderr < 0.6


@pytest.mark.slow
def test_the_step_of_small_minibatches_follows_their_noise():
    """Covariance C of n beta grad L adds s tr C/8: at most about a tenth of the value."""
    model, x, y = regression(300, 5)
    result = local_learning_coefficient(
        model, half_squared, (x, y), batch_size=4, chains=8, draws=2500, warmup=500
    )
    assert abs(float(result.step_shift)) < 0.25 * 2.5 + 4 * result.step_shift.stderr
    assert result.status in ("ok", "under-sampled"), result.note
    assert abs(result.value - 2.5) < 4 * result.stderr
    noise = (x * (model(x) - y).detach()).square().sum(1).mean() / 4 * result.n_beta**2
    assert 0.03 < result.step * float(noise) / 8 / 2.5 < 0.3


def test_a_large_step_on_minibatches_is_blamed_for_what_it_does():
    model, x, y = regression(300, 5)
    result = local_learning_coefficient(
        model, half_squared, (x, y), batch_size=4, chains=8, draws=600, warmup=300, step=0.02
    )
    assert result.status == "not converged"
    assert "step of SGLD" in result.note


def test_a_sum_over_samples_is_the_same_loss():
    model, x, y = regression()
    mean, total = (
        local_learning_coefficient(model, loss, (x, y), chains=2, draws=60, warmup=40)
        for loss in (half_squared, lambda o, t: 0.5 * (o - t).square().sum())
    )
    assert math.isclose(mean.value, total.value, rel_tol=1e-6)


def small_net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def test_chains_at_once_and_one_by_one_agree():
    model, x, y = small_net(), numbers(20, 3), numbers(20, 2, seed=1)
    parameters = trained_parameters(model)
    size = sum(p.numel() for p in parameters.values())
    w = numbers(3, size, seed=2)
    together = ChainLoss(model, F.mse_loss, parameters, "mean")
    apart = ChainLoss(model, F.mse_loss, parameters, "mean")
    apart.usable = False
    for a, b in zip(together.of_all(w, x, y), apart.of_all(w, x, y), strict=True):
        torch.testing.assert_close(a, b)
    assert together.usable
    xs, ys = x[:12].reshape(3, 4, 3), y[:12].reshape(3, 4, 2)
    pairs = zip(together.of_batches(w, xs, ys), apart.of_batches(w, xs, ys), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)


class Stubborn(nn.Module):
    """Its forward depends on values: vmap refuses it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2).double()

    def forward(self, x):
        out = self.linear(x)
        return out if float(out.detach().sum()) > -1e9 else 0 * out


class InPlace(nn.Module):
    """Its forward changes its inputs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2).double()

    def forward(self, x):
        x -= 0.5
        return self.linear(x)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_forward_in_place_sees_the_same_inputs_each_time(at_once):
    model, x, y = InPlace(), numbers(20, 3), numbers(20, 2, seed=1)
    before, parameters = x.clone(), trained_parameters(model)
    w = numbers(3, 8, seed=2)
    chains = ChainLoss(model, F.mse_loss, parameters, "mean")
    chains.usable = at_once
    a, b = (chains.of_all(w, x, y)[0] for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(x, before)
    plain = ChainLoss(model.linear, F.mse_loss, trained_parameters(model.linear), "mean")
    torch.testing.assert_close(a, plain.of_all(w, x - 0.5, y)[0])


class Penalized(nn.Module):
    """A loss that holds the model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, outputs, targets):
        penalty = sum(p.square().sum() for p in self.model.parameters())
        return F.mse_loss(outputs, targets) + 0.1 * penalty


def losses_that_see(model, x):
    def closure(o, t):
        return F.mse_loss(o, t) + 0.1 * sum(p.square().sum() for p in model.parameters())

    return {
        "closure": closure,
        "ignores the outputs": lambda o, t: F.mse_loss(model(x[: len(o)]), t),
        "module": Penalized(model),
    }


@pytest.mark.parametrize("kind", ["closure", "ignores the outputs", "module"])
def test_a_loss_that_sees_the_model_is_refused(kind):
    x, y = numbers(20, 3), numbers(20, 2, seed=1)
    model = small_net()
    loss = losses_that_see(model, x)[kind]
    loss(model(x), y).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(NotApplicableError, match="not through the outputs"):
        local_learning_coefficient(model, loss, (x, y), chains=2, draws=50, warmup=20)
    for p, before in zip(model.parameters(), grads, strict=True):
        assert torch.equal(p.grad, before)


def test_a_loss_with_weights_of_its_own_is_taken():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(1))
            self.weights = nn.Parameter(torch.ones(2))

        def forward(self, outputs, targets):
            return (self.weights * (outputs * self.temperature - targets).square()).mean()

    x, y = numbers(20, 3), numbers(20, 2, seed=1)
    result = local_learning_coefficient(
        small_net(), Scaled(), (x, y), chains=2, draws=50, warmup=20
    )
    assert math.isfinite(result.value)


def test_a_model_that_vmap_refuses_is_run_chain_by_chain():
    x, y = numbers(30, 3), numbers(30, 2, seed=1)
    model, plain = Stubborn(), nn.Linear(3, 2).double()
    plain.load_state_dict(model.linear.state_dict())
    short = {"chains": 2, "draws": 50, "warmup": 40}
    a = local_learning_coefficient(model, nn.MSELoss(), (x, y), **short)
    b = local_learning_coefficient(plain, nn.MSELoss(), (x, y), **short)
    assert math.isclose(a.value, b.value, rel_tol=1e-6)


def test_the_model_is_left_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = numbers(20, 3).float(), numbers(20, 2, seed=1).float()
    F.mse_loss(model(x), y).backward()
    model.train()
    before = fingerprint(model, optimizer)
    local_learning_coefficient(model, nn.MSELoss(), (x, y), chains=2, draws=50, warmup=20)
    assert fingerprint(model, optimizer) == before


def test_frozen_parameters_stay_and_tied_ones_count_once():
    x, y = numbers(30, 3), numbers(30, 3, seed=1)
    short = {"chains": 2, "draws": 50, "warmup": 40}
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[0].weight.requires_grad_(False)
    result = local_learning_coefficient(model, nn.MSELoss(), (x, y), **short)
    assert result.dimension == 3 + 9 + 3
    tied = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    tied[2].weight = tied[0].weight
    result = local_learning_coefficient(tied, nn.MSELoss(), (x, y), **short)
    assert result.dimension == 9 + 3 + 3


@pytest.mark.parametrize("model", [nn.Tanh(), nn.Linear(3, 2).requires_grad_(False)])
def test_nothing_to_move_is_not_applicable(model):
    data = (numbers(10, 3), numbers(10, 3 if isinstance(model, nn.Tanh) else 2))
    with pytest.raises(NotApplicableError, match="no parameter"):
        local_learning_coefficient(model, nn.MSELoss(), data)


def test_bad_models_and_data():
    model, x, y = regression(20, 3)
    with pytest.raises(ValueError, match="n must"):
        local_learning_coefficient(model, nn.MSELoss(), (x[:2], y[:2]))
    with pytest.raises(ValueError, match="must be finite"):
        local_learning_coefficient(model, lambda o, t: (o - t).square().mean() / 0, (x, y))
    with pytest.raises(ValueError, match="batch_size is for"):
        local_learning_coefficient(model, nn.MSELoss(), (x, y), batch_size=5, method="mala")
    with pytest.raises(ValueError, match="batch_size"):
        local_learning_coefficient(model, nn.MSELoss(), (x, y), batch_size=50)
    with pytest.raises(TypeError, match="model"):
        local_learning_coefficient(lambda x: x, nn.MSELoss(), (x, y))
    with pytest.raises(NotApplicableError, match="minibatch"):
        local_learning_coefficient(
            model, lambda o, t: (o - t).square().mean() * o.std(), (x, y), batch_size=5
        )
    with torch.no_grad():
        model.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        local_learning_coefficient(model, nn.MSELoss(), (x, y))


# -- comparison --------------------------------------------------------------------------------
def test_comparisons_need_equal_settings():
    model, x, y = regression()
    options = {"localization": 0.5, **SHORT}
    a = local_learning_coefficient(model, half_squared, (x, y), **options)
    b = local_learning_coefficient(model, half_squared, (x, y), seed=1, **options)
    assert a.status == b.status == "ok"
    gap = compare(a, b)
    assert abs(float(gap)) < 4 * gap.stderr
    other = replace(a, settings={**a.settings, "localization": 0.7})
    with pytest.raises(ValueError, match=r"differ in localization; .*pass localization="):
        compare(a, other)
    part = replace(a, settings={**a.settings, "data": "other"})
    with pytest.raises(ValueError, match="data"):
        compare(a, part)


def test_the_settings_know_architecture_data_and_loss():
    _, x, y = regression(20, 3)
    short = {"chains": 2, "draws": 50, "warmup": 20, "localization": 1.0}

    def settings(model=None, loss=half_squared, data=(x, y)):
        return local_learning_coefficient(model or nn.Linear(3, 1), loss, data, **short).settings

    own = settings()
    assert settings() == own  # other parameters, one architecture
    wider = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    for key, other in (
        ("architecture", settings(wider)),
        ("loss", settings(loss=nn.MSELoss())),
        ("data", settings(data=(x + 1, y))),
    ):
        assert [k for k in own if own[k] != other[k]] == [key]


def test_what_is_invalid_is_not_compared():
    def value(w):
        return 0.5 * w[:, 0].square() - 0.05 * w[:, 1].square() + 0.01 * w[:, 1].pow(4)

    bad = llc_of_function(value, zeros(2), 1000, draws=200, warmup=200)
    with pytest.raises(ValueError, match="a is invalid"):
        compare(bad, bad)


def test_the_plot_is_a_figure():
    import matplotlib.pyplot as plt

    value, _ = monomial([2, 2])
    figure = llc_of_function(value, zeros(2), N, draws=60, warmup=40).plot()
    assert len(figure.axes) == 2
    plt.close(figure)


# -- in a run ----------------------------------------------------------------------------------
def test_the_quantity_summarizes_the_last_snapshot():
    import thermolearn

    model, x, y = regression(100, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    probe = thermolearn.Probe(
        model, half_squared, optimizer, reference=(x, y), quantities=[LocalLearningCoefficient()]
    )
    for _ in range(3):
        optimizer.zero_grad()
        loss = half_squared(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    (row,) = [r for r in probe.rows if r["kind"] == "summary"]
    found = row["values"]["learning_coefficient"]
    assert abs(found["value"] - 1.5) < 4 * found["stderr"]
    assert row["values"]["regular_value"]["value"] == 1.5
    assert any("100 reference samples" in note for note in row["notes"])
    assert not [r for r in probe.rows if r["kind"] == "flag"]


def test_a_penalty_in_the_loss_of_a_run_is_flagged():
    import thermolearn

    model, x, y = regression(40, 3)

    def penalized(o, t):
        return half_squared(o, t) + 0.1 * sum(p.square().sum() for p in model.parameters())

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    probe = thermolearn.Probe(
        model, penalized, optimizer, reference=(x, y), quantities=[LocalLearningCoefficient()]
    )
    for _ in range(2):
        optimizer.zero_grad()
        loss = penalized(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    text = json.dumps(probe.rows, default=str)
    assert "not through the outputs" in text
    assert not [r for r in probe.rows if r["kind"] == "summary"]

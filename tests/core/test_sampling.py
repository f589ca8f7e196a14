import math
import warnings

import numpy as np
import pytest
import torch

from thermolearn.core import sampling
from thermolearn.core.errors import SamplerWarning
from thermolearn.core.sampling import evaluate, hmc, hmc_step, leapfrog, mala


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


COVARIANCE = torch.tensor([[2.0, 0.6, 0.0], [0.6, 0.5, -0.2], [0.0, -0.2, 1.0]]).double()
MEAN = torch.tensor([1.0, -2.0, 0.5]).double()
PRECISION = torch.linalg.inv(COVARIANCE)


def gaussian(x):
    """N(MEAN, COVARIANCE) up to a constant."""
    y = x - MEAN
    return -0.5 * ((y @ PRECISION) * y).sum(-1)


def standard(x):
    return -0.5 * (x**2).sum(-1)


MOMENTS = {
    "mean_0": (lambda x: x[:, 0], 1.0),
    "mean_1": (lambda x: x[:, 1], -2.0),
    "var_0": (lambda x: (x[:, 0] - 1) ** 2, 2.0),
    "cov_01": (lambda x: (x[:, 0] - 1) * (x[:, 1] + 2), 0.6),
    "cov_12": (lambda x: (x[:, 1] + 2) * (x[:, 2] - 0.5), -0.2),
    "cov_02": (lambda x: (x[:, 0] - 1) * (x[:, 2] - 0.5), 0.0),
}


def lattice(kappa, lam, size):
    """ln density of phi^4: minus sum [-2 kappa phi phi' + (1 - 2 lam) phi^2 + lam phi^4]."""

    def log_density(x):
        phi = x.reshape(-1, size, size)
        hop = phi * (phi.roll(1, 1) + phi.roll(1, 2))
        action = -2 * kappa * hop + (1 - 2 * lam) * phi**2 + lam * phi**4
        return -action.sum((1, 2))

    return log_density


def run_gaussian(kernel, seed=0):
    x0 = torch.zeros(8, 3).double()
    observables = {name: f for name, (f, _) in MOMENTS.items()}
    if kernel == "hmc":
        return hmc(gaussian, x0, 0.35, 6, 1500, 100, generator(seed), observables)
    return mala(gaussian, x0, 0.1, 6000, 300, generator(seed), observables)


@pytest.mark.parametrize("kernel", ["hmc", "mala"])
def test_gaussian_with_known_covariance(kernel):
    result = run_gaussian(kernel)
    for name, (_, exact) in MOMENTS.items():
        got = result.mean(name)
        assert got.status == "ok", name
        assert abs(float(got) - exact) < 4 * got.stderr, name
        assert result.rhat(name) < 1.01
        assert got.n_eff == pytest.approx(result.ess(name))
        sd = result.observables[name].std()
        assert got.stderr == pytest.approx(
            sd * math.sqrt(2 * float(result.tau(name)) / sd.size / result.observables[name].size)
        )
    unit = result.exp_minus_delta_h
    assert abs(float(unit) - 1) < 4 * unit.stderr and unit.stderr < 0.02
    assert 0.5 < result.accept_rate < 1


def test_error_bars_have_the_scatter_between_runs():
    z = []
    for seed in range(60):
        result = hmc(
            standard, torch.randn(4, 2, generator=generator(seed)).double(), 0.3, 3, 150, 0,
            generator(seed), {"x": lambda x: x[:, 0]},
        )  # fmt: skip
        got = result.mean("x")
        z.append(float(got) / got.stderr)
    assert 0.7 < np.std(z) < 1.3 and abs(np.mean(z)) < 4 / math.sqrt(60)


def test_a_biased_kernel_would_be_caught(monkeypatch):
    """Without accept/reject the variance is off by 1/(1 - step^2/4): the check must see it."""

    def always(log_density, state, step, n_leapfrog, g):
        momentum = torch.randn(state.x.shape, generator=g, dtype=state.x.dtype)
        new, _ = leapfrog(log_density, state, momentum, step, n_leapfrog)
        zeros = torch.zeros_like(new.log_density)
        return new, zeros, zeros == 0

    def variance():
        result = hmc(
            standard, torch.zeros(8, 3).double(), 0.8, 2, 1500, 50, generator(),
            {"var": lambda x: x[:, 0] ** 2},
        )  # fmt: skip
        return result.mean("var")

    right = variance()
    assert abs(float(right) - 1) < 4 * right.stderr
    monkeypatch.setattr(sampling, "hmc_step", always)
    wrong = variance()
    assert abs(float(wrong) - 1) > 4 * wrong.stderr
    assert abs(float(wrong) - 1 / (1 - 0.16)) < 4 * wrong.stderr


def test_leapfrog_is_reversible_and_keeps_volume():
    log_density = lattice(0.2, 0.022, 8)
    x = torch.randn(5, 64, generator=generator(1)).double()
    p = torch.randn(5, 64, generator=generator(2)).double()
    state, momentum = leapfrog(log_density, evaluate(log_density, x), p, 0.2, 25)
    assert float((state.x - x).abs().max()) > 0.1
    back, momentum = leapfrog(log_density, state, -momentum, 0.2, 25)
    assert float((back.x - x).abs().max()) < 1e-10
    assert float((momentum + p).abs().max()) < 1e-10

    def flow(z):
        # analytic gradient: the volume is that of the map itself
        q, v = z[:1], z[1:]
        for _ in range(3):
            v = v - 0.15 * torch.sin(q)
            q = q + 0.3 * v
            v = v - 0.15 * torch.sin(q)
        return torch.cat([q, v])

    z = torch.tensor([0.7, -0.4]).double()
    state, v = leapfrog(
        lambda x: torch.cos(x).sum(-1), evaluate(lambda x: torch.cos(x).sum(-1), z[:1, None]),
        z[1:, None], 0.3, 3,
    )  # fmt: skip
    assert torch.allclose(torch.cat([state.x[0], v[0]]), flow(z), atol=1e-14)
    determinant = torch.linalg.det(torch.autograd.functional.jacobian(flow, z))
    assert float(determinant) == pytest.approx(1, abs=1e-12)


def test_energy_error_is_third_order_in_one_step():
    log_density = lattice(0.2, 0.3, 4)
    x = torch.randn(6, 16, generator=generator(3)).double()
    p = torch.randn(6, 16, generator=generator(4)).double()
    start = evaluate(log_density, x)

    def error(step):
        state, end = leapfrog(log_density, start, p, step, 1)
        return 0.5 * (end**2 - p**2).sum(-1) - state.log_density + start.log_density

    ratio = error(2e-3) / error(1e-3)
    assert torch.allclose(ratio, torch.full((6,), 8.0).double(), rtol=0.1)


def test_mala_equals_the_textbook_formula():
    """One leapfrog step of length sqrt(2 eps) has the Langevin proposal and its Hastings ratio."""
    eps = 0.07
    x = torch.randn(9, 3, generator=generator(5)).double()
    start = evaluate(gaussian, x)
    _, delta_h, _ = hmc_step(gaussian, start, math.sqrt(2 * eps), 1, generator(6))
    xi = torch.randn(9, 3, generator=generator(6), dtype=torch.float64)
    y = x + eps * start.gradient + math.sqrt(2 * eps) * xi
    there = evaluate(gaussian, y)
    forward = ((y - x - eps * start.gradient) ** 2).sum(-1) / (4 * eps)
    backward = ((x - y - eps * there.gradient) ** 2).sum(-1) / (4 * eps)
    log_ratio = there.log_density - start.log_density - backward + forward
    assert torch.allclose(-delta_h, log_ratio, atol=1e-12)


@pytest.mark.parametrize(("kernel", "target"), [("hmc", 0.8), ("mala", 0.574)])
@pytest.mark.parametrize("first", [1e-3, 3.0])
def test_the_step_adapts_to_the_target_in_warm_up_only(kernel, target, first):
    x0 = torch.randn(16, 20, generator=generator()).double()
    args = (500, 300, generator(1), {"x2": lambda x: (x**2).mean(-1)})
    if kernel == "hmc":
        result = hmc(standard, x0, first, 5, *args, adapt=True)
    else:
        result = mala(standard, x0, first, *args, adapt=True)
    assert abs(result.accept_rate - target) < 0.07
    again = result.mean("x2")
    assert abs(float(again) - 1) < 4 * again.stderr
    fixed = hmc(standard, x0, 0.37, 5, 60, 5, generator(1))
    assert fixed.step == 0.37


def test_jitter_breaks_the_resonance_of_a_fixed_length():
    """Half a period returns every harmonic oscillator to minus its start: |x| never changes."""
    step = 0.1
    n = round(math.pi / step)
    x0 = torch.full((4, 1), 2.0).double()
    state = evaluate(standard, x0)
    for _ in range(20):
        state, _, _ = hmc_step(standard, state, step, n, generator(0))
    assert float((state.x.abs() - 2).abs().max()) < 0.3  # stuck without jitter
    result = hmc(standard, x0, step, n, 400, 20, generator(0), {"x2": lambda x: x[:, 0] ** 2})
    got = result.mean("x2")
    assert abs(float(got) - 1) < 4 * got.stderr and float(result.tau("x2")) < 3


@pytest.mark.slow
def test_lattice_phi4_second_moment():
    """<phi^2> = .6025 +- .006 on 16 x 16 at kappa = .2, lambda = .022."""
    x0 = torch.randn(64, 256, generator=generator(1)).double() * math.sqrt(0.5)
    result = hmc(
        lattice(0.2, 0.022, 16), x0, 0.2, 6, 400, 100, generator(2),
        {"phi2": lambda x: (x**2).mean(-1)},
    )  # fmt: skip
    got = result.mean("phi2")
    assert got.status == "ok" and got.stderr < 0.0015
    assert abs(float(got) - 0.6025) < 0.006
    unit = result.exp_minus_delta_h
    assert abs(float(unit) - 1) < 4 * unit.stderr and unit.stderr < 0.01
    assert 0.8 < result.accept_rate < 0.95


def test_lattice_with_closed_form():
    """Free field (lambda = 0): <phi^2> is the mean of 1 / (2 - 4 kappa sum_mu cos k_mu)."""
    size, kappa = 6, 0.2
    k = 2 * math.pi * np.arange(size) / size
    mass = 1 - 2 * kappa * (np.cos(k)[:, None] + np.cos(k))
    exact = (1 / (2 * mass)).mean()
    x0 = torch.randn(16, size**2, generator=generator(1)).double() * math.sqrt(0.5)
    result = hmc(
        lattice(kappa, 0.0, size), x0, 0.25, 6, 600, 50, generator(2),
        {"phi2": lambda x: (x**2).mean(-1)},
    )  # fmt: skip
    got = result.mean("phi2")
    assert abs(float(got) - exact) < 4 * got.stderr and got.stderr < 0.02 * exact


@pytest.mark.parametrize("kernel", ["hmc", "mala"])
def test_same_seed_same_bits_and_no_global_randomness(kernel):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b = run_short(kernel, 3), run_short(kernel, 3)
    assert torch.equal(a.x, b.x) and np.array_equal(a.delta_h, b.delta_h) and a.step == b.step
    assert not torch.equal(a.x, run_short(kernel, 4).x)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def run_short(kernel, seed):
    x0 = torch.zeros(3, 3).double()
    if kernel == "hmc":
        return hmc(gaussian, x0, 0.3, 4, 20, 5, generator(seed), adapt=True)
    return mala(gaussian, x0, 0.1, 20, 5, generator(seed), adapt=True)


def test_what_is_kept():
    x0 = torch.zeros(3, 3)
    before = x0.clone()
    draws = hmc(lambda x: standard(x), x0, 0.3, 4, 7, 0, generator())
    assert draws.x.shape == (7, 3, 3) and draws.x.dtype == torch.float32
    assert torch.equal(draws.x[-1], draws.last) and torch.equal(x0, before)
    assert draws.delta_h.shape == (7, 3) and draws.delta_h.dtype == np.float64
    only = hmc(standard, x0, 0.3, 4, 7, 0, generator(), {"a": lambda x: x.sum(-1)})
    assert only.x is None and only.observables["a"].shape == (7, 3)
    both = hmc(standard, x0, 0.3, 4, 7, 0, generator(), {"a": lambda x: x.sum(-1)}, keep_x=True)
    assert np.allclose(both.x.sum(-1).numpy(), both.observables["a"], atol=1e-6)
    with pytest.raises(KeyError, match=r"recorded: \['a'\]"):
        only.mean("b")


def test_gradients_elsewhere_are_untouched():
    scale = torch.ones((), requires_grad=True)
    with torch.no_grad():
        result = hmc(lambda x: scale * standard(x), torch.zeros(2, 2), 0.1, 2, 3, 0, generator())
    assert scale.grad is None and not result.x.requires_grad


def test_walls_reject_instead_of_breaking():
    """Outside the support the density is zero: ln = -inf, or NaN, is a rejection."""

    def box(x):
        return torch.where((x.abs() < 1).all(-1), -0.1 * x.sum(-1), -math.inf)

    def root(x):
        return torch.sqrt(1 - x[:, 0] ** 2).log()  # NaN beyond 1

    for log_density in (box, root):
        result = hmc(log_density, torch.zeros(8, 1).double(), 0.5, 3, 200, 10, generator())
        assert float(result.x.abs().max()) < 1 and 0.2 < result.accept_rate < 1
        assert torch.isfinite(result.x).all()


def test_stuck_chains_warn():
    with pytest.warns(SamplerWarning, match="acceptance 0.00% after the warm-up"):
        hmc(lambda x: -1e6 * (x**2).sum(-1), torch.full((4, 10), 1e-3), 1.0, 3, 60, 0, generator())


def test_chains_in_different_wells_are_not_mixed():
    x0 = torch.tensor([[-5.0], [5.0]]).double().repeat(4, 1)

    def wells(x):
        return -0.5 * (x[:, 0].abs() - 5) ** 2

    result = hmc(wells, x0, 0.5, 4, 300, 10, generator(), {"x": lambda x: x[:, 0]})
    with pytest.warns(SamplerWarning):
        assert result.mean("x").status != "ok"
    assert result.rhat("x") > 1.5


def test_slightly_different_chains_are_flagged_by_rhat():
    """Shifts too small for the window of tau, but visible between chains."""
    x = np.random.default_rng(0).standard_normal((16, 400))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sampling.chain_mean(x, "x").status == "ok"
    shifted = x + 0.35 * np.linspace(-1, 1, 16)[:, None]
    with pytest.warns(SamplerWarning, match="split R-hat of x"):
        assert sampling.chain_mean(shifted, "x").status == "not mixed"


def test_constant_observable():
    result = hmc(
        standard, torch.zeros(2, 2), 0.3, 2, 60, 0, generator(), {"c": lambda x: x[:, 0] * 0}
    )
    got = result.mean("c")
    assert float(got) == 0 and got.status == "constant" and math.isnan(got.stderr)


def short(**changes):
    arguments = {
        "log_density": standard, "x0": torch.zeros(2, 2), "step": 0.1, "n_leapfrog": 2,
        "n_samples": 3, "n_warmup": 0, "generator": generator(),
    }  # fmt: skip
    return hmc(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 0.0}, "step must be positive"),
        ({"step": -1.0}, "step must be positive"),
        ({"step": math.nan}, "step must be positive"),
        ({"step": math.inf}, "step must be positive"),
        ({"n_leapfrog": 0}, "n_leapfrog"),
        ({"n_samples": 0}, "n_samples"),
        ({"n_warmup": -1}, "n_warmup"),
        ({"adapt": True}, "needs 0 < target < 1 and a warm-up"),
        ({"adapt": True, "n_warmup": 5, "target": 1.0}, "target = 1.0"),
        ({"x0": torch.zeros(3)}, r"x0 must be a floating-point tensor \(chains, d\)"),
        ({"x0": torch.zeros(3, 2, dtype=torch.int64)}, "x0"),
        ({"x0": torch.zeros(0, 2)}, "x0"),
        ({"log_density": lambda x: x.sum()}, "log_density must map"),
        ({"log_density": lambda x: x}, "log_density must map"),
        ({"log_density": lambda x: standard(x).log()}, "is nan in chain|is -inf in chain"),
        (
            {"log_density": lambda x: standard(x) - math.inf * (x[:, 0] == 7).float(),
             "x0": torch.tensor([[0.0, 0.0], [7.0, 0.0]])},
            "non-finite|in chain",
        ),
        ({"log_density": lambda x: x.abs().sqrt().sum(-1)}, "gradient at the start is"),
        ({"observables": {"x": lambda x: x}}, "observable 'x' must have shape"),
    ],
)  # fmt: skip
def test_bad_input(changes, message):
    with pytest.raises(ValueError, match=message):
        short(**changes)


def test_the_value_of_a_non_finite_start_is_named():
    with pytest.raises(ValueError, match="log-density at the start is -inf in chain 1"):
        short(
            log_density=lambda x: torch.where(x[:, 0] > 1, -math.inf, standard(x)),
            x0=torch.tensor([[0.0, 0.0], [2.0, 0.0]]),
        )
    with pytest.raises(ValueError, match="step must be positive"):
        mala(standard, torch.zeros(2, 2), 0.0, 3, 0, generator())

"""Wide limit: closed forms, identities, sampled networks, published and reference numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from thermolearn.core.errors import ConvergenceError
from thermolearn.measure.canonical import CanonicalEnsemble, dyson, random_network
from thermolearn.measure.canonical.random_network import sampled_network
from thermolearn.measure.canonical.wide_networks import wide_limit, wide_limit_recurrent

TANH = ((80,) * 4, 1.69, 0.1, "tanh")


def sampled_blocks(widths, sigma_w2, sigma_b2, activation, draws, **options):
    networks = [
        sampled_network(widths, sigma_w2, sigma_b2, activation, seed=k, **options)
        for k in range(draws)
    ]
    return [torch.cat(layer) for layer in zip(*networks, strict=True)]


def eigenvalues_of(blocks):
    """Eigenvalues of G from the dense M, without any code of the library."""
    widths = [blocks[0].shape[2], *(b.shape[1] for b in blocks)]
    cuts = np.cumsum([0, *widths])
    m = np.tile(np.eye(cuts[-1]), (len(blocks[0]), 1, 1))
    for layer, block in enumerate(blocks):
        rows = slice(cuts[layer + 1], cuts[layer + 2])
        m[:, rows, cuts[layer] : cuts[layer + 1]] = -block.numpy()
    return np.linalg.svd(m, compute_uv=False) ** 2


# -- closed forms --------------------------------------------------------------------------------
@pytest.mark.parametrize("widths", [(50, 50), (40, 90), (90, 40)])
@pytest.mark.parametrize("beta", [0.01, 1.0, 30.0])
def test_one_linear_layer_is_marchenko_pastur(widths, beta):
    sigma_w2, t = 1.7, 1 / beta
    ratio = widths[1] / widths[0]
    low, high = (sigma_w2 * (1 + sign * math.sqrt(ratio)) ** 2 for sign in (-1, 1))

    def mean(g):  # over the nonzero squared singular values of J, s = center + half cos(angle)
        center, half = (low + high) / 2, (high - low) / 2

        def integrand(angle):
            s = center + half * math.cos(angle)
            return g(s) * (half * math.sin(angle)) ** 2 / (2 * math.pi * sigma_w2 * ratio * s)

        return integrate.quad(integrand, 0, math.pi)[0] / min(1, 1 / ratio)

    pairs, ones = min(widths), abs(widths[0] - widths[1])
    assert mean(lambda s: 1.0) == pytest.approx(1, abs=1e-9)
    log_det = pairs * mean(lambda s: math.log((1 + t) ** 2 + t * s)) + ones * math.log1p(t)
    trace = pairs * mean(lambda s: (2 * (1 + t) + s) / ((1 + t) ** 2 + t * s)) + ones / (1 + t)
    limit = wide_limit(widths, sigma_w2, 0.0, "linear", beta)
    assert float(limit.complexity) == pytest.approx(-log_det / 2, rel=1e-9)
    assert float(limit.average_loss) == pytest.approx(t / 2 * (sum(widths) - t * trace), rel=1e-7)


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_one_layer_at_unit_temperature(activation):
    # eigenvalues come in pairs (lambda, 1 / lambda), or are 1: U(1) = N / 4
    limit = wide_limit((30, 70), 2.0, 0.3, activation, 1.0)
    assert float(limit.average_loss) == pytest.approx(25.0, rel=1e-12)


def test_no_weights_is_the_identity():
    limit = wide_limit((5, 7, 9), 0.0, 0.2, "tanh", [0.5, 4.0])
    np.testing.assert_allclose(limit.average_loss.value, 21 / 2 / (1 + np.array([0.5, 4.0])))
    np.testing.assert_allclose(limit.complexity.value, -21 / 2 * np.log(1 + np.array([2, 0.25])))
    assert limit.mass_at_one == 1.0


# -- identities and limits -----------------------------------------------------------------------
@settings(max_examples=15, deadline=None)
@given(
    activation=st.sampled_from(["tanh", "relu", "erf", "silu", "leaky_relu", "hardtanh"]),
    sigma_w2=st.floats(0.05, 6.0),
    depth=st.integers(1, 6),
    log_beta=st.floats(-7, 9),
)
def test_derivative_identities(activation, sigma_w2, depth, log_beta):
    beta, h = math.exp(log_beta), 1e-4
    widths = (30, 20, 40, 30, 10, 25, 30)[: depth + 1]
    limit = wide_limit(widths, sigma_w2, 0.1, activation, beta * np.exp([-h, 0.0, h]))
    energy, complexity = limit.average_loss.value, limit.complexity.value
    t, n = 1 / beta, sum(widths)
    slope = (limit.log_partition.value[2] - limit.log_partition.value[0]) / (2 * h * beta)
    assert -slope == pytest.approx(energy[1], rel=1e-6)
    cooling = (complexity[0] - complexity[2]) / (2 * h * t)
    assert cooling == pytest.approx(-(n - 2 * energy[1] / t) / (2 * t), rel=1e-5)
    assert energy[0] > energy[1] > energy[2] > 0
    assert complexity[0] < complexity[1] < complexity[2] < 0


def test_hot_and_cold_limits():
    widths, sigma_w2, sigma_b2 = (40, 60, 30), 2.0, 0.1
    hot, cold = 1e-8, 1e9
    limit = wide_limit(widths, sigma_w2, sigma_b2, "tanh", [hot, cold])
    trace, q = float(sum(widths)), 1.0
    for n in widths[1:]:
        variance = sigma_w2 * q + sigma_b2

        def mean(g, v=variance):
            return integrate.quad(
                lambda z: g(z) * math.exp(-z * z / (2 * v)) / math.sqrt(2 * math.pi * v), -30, 30
            )[0]

        trace += n * sigma_w2 * mean(lambda z: math.cosh(z) ** -4)
        q = mean(lambda z: math.tanh(z) ** 2)
    assert limit.average_loss.value[0] == pytest.approx(trace / 2, rel=1e-6)
    assert limit.average_loss.value[1] == pytest.approx(sum(widths) / 2 / cold, rel=1e-6)
    assert -1e-4 < limit.complexity.value[1] < 0


def test_deep_chaotic_and_cold_converges():
    limit = wide_limit((100,) * 101, 16.0, 0.05, "tanh", np.logspace(-6, 9, 6))
    assert np.all(np.diff(limit.complexity.value) > 0)
    assert np.all(limit.average_loss.stderr < 1e-6 * limit.average_loss.value)


def test_callable_and_names_agree():
    def saturating(z):
        return z.clamp(-1, 1)

    saturating.kinks = (-1.0, 1.0)
    by_name = wide_limit((30, 30, 30), 2.0, 0.1, "hardtanh", 3.0)
    by_call = wide_limit((30, 30, 30), 2.0, 0.1, saturating, 3.0)
    assert float(by_call.complexity) == pytest.approx(float(by_name.complexity), rel=1e-12)
    last = wide_limit((30, 30, 30), 2.0, 0.1, "tanh", 3.0, output_activation="linear")
    assert [layer.name for layer in last.layers] == ["tanh", "linear"]
    undeclared = wide_limit((30, 30, 30), 2.0, 0.1, lambda z: z.clamp(-1, 1), 3.0)
    missed = abs(float(undeclared.complexity) - float(by_name.complexity))
    assert float(by_call.complexity.stderr) < 1e-12
    stderr = float(undeclared.complexity.stderr)
    assert stderr > 1e-7 and missed < 10 * stderr


# -- spectrum ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("widths", "activation", "panels"),
    [((50, 50), "tanh", 10), ((30, 60, 40), "relu", 20), ((60, 60), "linear", 40)],
)
def test_density_integrates_to_one_and_to_the_trace(widths, activation, panels):
    sigma_w2, sigma_b2 = 2.0, 0.1
    limit = wide_limit(widths, sigma_w2, sigma_b2, activation, 1e-9)
    # panels, because the ends of the spectrum lie inside
    u, w = np.polynomial.legendre.leggauss(5)
    u = ((u + 1) / 2 + np.arange(panels)[:, None]).ravel() / panels
    w = np.tile(w, panels) / (2 * panels)
    total = moment = limit.mass_at_one
    for low, high in ((1e-2, 0.5), (0.5, 1.0), (1.0, 2.0), (2.0, 6.0), (6.0, 25.0)):
        if 1.0 in (low, high):  # lambda = 1 -+ h u^4 next to the singularity
            h = high - low
            lam = 1 + (h if low == 1 else -h) * u**4
            jacobian = 4 * h * u**3
        else:
            lam = low * (high / low) ** u
            jacobian = lam * math.log(high / low)
        density = limit.density(lam).value
        part = (w * jacobian) @ density
        gain = np.diff(limit.cumulative([low, high - 1e-9]).value)[0]
        assert part == pytest.approx(gain, abs=1e-3)
        total += part
        moment += (w * jacobian) @ (lam * density)
    trace = 2 * float(limit.average_loss) / sum(widths)  # beta -> 0: U = tr G / 2
    assert total == pytest.approx(1, abs=1e-3)
    assert moment == pytest.approx(trace, rel=1e-3)


def test_linear_layer_density_closed_form():
    # lambda + 1/lambda = 2 + s, s Marchenko-Pastur: rho(lambda) = mp(s) |ds/dlambda| / 2
    limit = wide_limit((50, 50), 1.0, 0.0, "linear", 1.0)
    lam = np.array([0.2, 0.6, 0.99, 1.3, 3.0, 5.5])
    s = lam + 1 / lam - 2
    marchenko_pastur = np.sqrt(s * (4 - s)) / (2 * math.pi * s)
    expected = marchenko_pastur * np.abs(1 - lam**-2) / 2
    np.testing.assert_allclose(limit.density(lam).value, expected, rtol=1e-6)
    edge = 3 + math.sqrt(8)
    np.testing.assert_allclose(
        limit.cumulative([-1, 0, 1 / edge - 0.01, 1, edge + 0.01]).value,
        [0, 0, 0, 0.5, 1],
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("widths", "activation"),
    [((20, 60, 20), "linear"), ((15, 10, 8, 6, 4), "relu"), ((60, 20, 60), "tanh")],
)
def test_point_mass_at_one(widths, activation):
    limit = wide_limit(widths, 2.0, 0.05, activation, 1.0)
    eigenvalues = eigenvalues_of(sampled_blocks(widths, 2.0, 0.05, activation, 20))
    counted = (np.abs(eigenvalues - 1) < 1e-9).mean(1)
    stderr = counted.std(ddof=1) / math.sqrt(20)
    # a finite layer has a random number of dead neurons: a bias of order 1 / width
    assert abs(counted.mean() - limit.mass_at_one) <= 4 * stderr + 0.5 / sum(widths)
    if activation != "tanh":
        jump = np.diff(limit.cumulative([1 - 1e-4, 1.0]).value)[0]
        assert jump == pytest.approx(limit.mass_at_one, abs=2e-3)


def test_spectrum_of_sampled_networks():
    widths, sigma_w2, sigma_b2 = (100,) * 5, 2.25, 0.05
    edges = [0.05, 0.2, 0.5, 1.0, 1.5, 2.5, 4.0, 6.0]
    limit = wide_limit(widths, sigma_w2, sigma_b2, "tanh", 1.0)
    eigenvalues = eigenvalues_of(sampled_blocks(widths, sigma_w2, sigma_b2, "tanh", 24))
    counts = np.array([np.histogram(e, edges)[0] for e in eigenvalues]) / 500
    z = (counts.mean(0) - np.diff(limit.cumulative(edges).value)) / (
        counts.std(0, ddof=1) / math.sqrt(24)
    )
    assert np.abs(z).max() < 4


# -- sampled networks ----------------------------------------------------------------------------
def test_sampled_networks_agree_and_a_wrong_theory_is_rejected():
    ensemble = CanonicalEnsemble(sampled_blocks(*TANH, draws=16), beta=1.0)
    contrast = {"linear output": 0.0, "sigma_w2 off by 10%": 0.0}
    for beta in (0.1, 1.0, 20.0, 300.0):
        right = wide_limit(*TANH, beta)
        wrong = {
            "linear output": wide_limit(*TANH, beta, output_activation="linear"),
            "sigma_w2 off by 10%": wide_limit(TANH[0], 1.1 * TANH[1], *TANH[2:], beta),
        }
        for name in ("average_loss", "complexity"):
            measured = getattr(ensemble.at(beta), name)
            assert abs(measured - float(getattr(right, name))) < 4 * measured.stderr
            for case, limit in wrong.items():
                z = abs(measured - float(getattr(limit, name))).value / measured.stderr
                contrast[case] = max(contrast[case], float(z))
    assert min(contrast.values()) > 4


def test_energy_of_samples_without_the_library_formulas():
    lam = eigenvalues_of(sampled_blocks((60, 40, 20), 2.0, 0.0, "relu", 16))
    for beta in (0.3, 10.0):
        limit = wide_limit((60, 40, 20), 2.0, 0.0, "relu", beta)
        for samples, value in (
            (0.5 * (lam / (1 + beta * lam)).sum(1), limit.average_loss),
            (-0.5 * np.log(lam + 1 / beta).sum(1), limit.complexity),
        ):
            assert abs(samples.mean() - float(value)) < 4 * samples.std(ddof=1) / 4


@pytest.mark.slow
def test_corrections_do_not_grow_with_the_width():
    deviation = {}
    for width, draws in ((20, 900), (80, 300)):
        widths = (width,) * 5
        ensemble = CanonicalEnsemble(sampled_blocks(widths, 2.25, 0.05, "tanh", draws), beta=1.0)
        limit = wide_limit(widths, 2.25, 0.05, "tanh", 1.0)
        deviation[width] = ensemble.complexity - float(limit.complexity)
    small, large = deviation[20], deviation[80]
    assert small > 4 * small.stderr  # the correction is there
    assert abs(large.value - small.value) < 4 * math.hypot(large.stderr, small.stderr)


def test_sampled_jacobian_is_slope_times_weight():
    seen = []

    def recording(z):
        seen.append(z.detach().clone())
        return torch.tanh(z)

    options = {"sigma_w2": 1.5, "sigma_b2": 0.2, "q0": 0.7, "seed": 3}
    weights = sampled_network((40, 30, 20), activation="linear", **options)
    blocks = sampled_network((40, 30, 20), activation=recording, **options)
    for z, weight, block in zip(seen, weights, blocks, strict=True):
        expected = (1 - torch.tanh(z) ** 2)[:, None] * weight[0]
        torch.testing.assert_close(block[0], expected, rtol=1e-12, atol=1e-14)
    assert [tuple(b.shape) for b in blocks] == [(1, 30, 40), (1, 20, 30)]
    variance = weights[0].square().mean() * 40
    assert abs(variance - 1.5) < 4 * 1.5 * math.sqrt(2 / 1200)
    again = sampled_network((40, 30, 20), activation="linear", **options)
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))


def test_theory_and_experiment_are_independent(monkeypatch):
    def broken(*args, **kwargs):
        raise AssertionError("must not be called")

    with monkeypatch.context() as patch:
        patch.setattr(dyson, "propagate_slopes", broken)
        sampled_network((5, 5), 1.0, 0.0, "tanh")
    monkeypatch.setattr(random_network, "sampled_network", broken)
    wide_limit((5, 5), 1.0, 0.0, "tanh", 1.0).density(0.5)


# -- reference numbers ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("net", "beta", "energy", "complexity"),
    [
        (TANH, 1, (81.4371, 1e-4), (-131.129, 5e-4)),
        (TANH, 20, (7.38865, 1e-5), (-13.773, 5e-4)),
        (((100,) * 5, 1.0, 0.0, "linear"), 1, (129.7585, 5e-5), (-218.860, 5e-4)),
        (((100,) * 5, 1.0, 0.0, "linear"), 100, (2.4351, 5e-5), (-6.954, 5e-4)),
        (((100,) * 7, 2.25, 0.05, "tanh"), 1, (181.790, 5e-4), (-307.25, 5e-3)),
        (((100,) * 7, 2.25, 0.05, "tanh"), 10, (29.924, 5e-4), None),
        (((150, 100, 80, 60, 40), 2.0, 0.0, "relu"), 1, (109.659, 5e-4), (-178.20, 5e-3)),
        (((150, 100, 80, 60, 40), 2.0, 0.0, "relu"), 100, (2.1047, 5e-5), (-4.813, 5e-4)),
    ],
)
def test_reference_networks(net, beta, energy, complexity):
    limit = wide_limit(*net, beta)
    assert abs(limit.average_loss - energy[0]) <= energy[1]
    if complexity is not None:
        assert abs(limit.complexity - complexity[0]) <= complexity[1]


# -- recurrent -----------------------------------------------------------------------------------
def test_recurrent_reference_numbers():
    for g, log_det in ((0.5, 0.0), (0.9, 0.0), (1.5, 0.2554), (2.0, 0.6363)):
        assert abs(wide_limit_recurrent(400, g, 1.0).log_det_per_neuron - log_det) < 5e-5
    energies = {0.5: (0.25170, 0.04452), 0.9: (0.26267, 0.04259), 1.5: (0.29524, 0.04249)}
    for g, expected in energies.items():
        limit = wide_limit_recurrent(400, g, [1.0, 10.0])
        np.testing.assert_allclose(limit.average_loss_per_neuron.value, expected, atol=6e-6)
    assert float(wide_limit_recurrent(400, 2.0, 1.0).average_loss) == pytest.approx(
        129.288, abs=4e-3
    )


@settings(max_examples=30, deadline=None)
@given(g=st.floats(0, 5), log_beta=st.floats(-12, 12))
def test_recurrent_identities(g, log_beta):
    beta, h = math.exp(log_beta), 1e-4
    limit = wide_limit_recurrent(1, g, beta * np.exp([-h, 0.0, h]))
    energy, complexity = (
        limit.average_loss_per_neuron.value,
        limit.complexity_per_neuron.value,
    )
    # C = log Z(beta, w) - 1/2 log(2 pi T), so U = -d(C - 1/2 log beta) / d beta
    slope = (complexity[2] - complexity[0]) / (2 * h * beta) - 0.5 / beta
    assert -slope == pytest.approx(energy[1], rel=1e-4, abs=1e-9 / beta)
    assert energy[0] > energy[1] > energy[2] > 0


def test_recurrent_limits():
    for g in (0.0, 0.5, 1.5, 3.0):
        limit = wide_limit_recurrent(10, g, [1e-9, 1e12])
        assert limit.average_loss_per_neuron.value[0] == pytest.approx((1 + g * g) / 2, rel=1e-6)
        assert -2 * limit.complexity_per_neuron.value[1] == pytest.approx(
            float(limit.log_det_per_neuron), abs=1e-5
        )


def test_recurrent_matrices():
    n, g, draws = 150, 1.5, 24
    x = np.random.default_rng(0).standard_normal((draws, n, n))
    lam = np.linalg.svd(np.eye(n) - g * x / math.sqrt(n), compute_uv=False) ** 2
    for beta in (1.0, 10.0):
        samples = 0.5 * (lam / (1 + beta * lam)).sum(1)
        stderr = samples.std(ddof=1) / math.sqrt(draws)
        deviation = samples.mean() - float(wide_limit_recurrent(n, g, beta).average_loss)
        assert abs(deviation) < 4 * stderr + 0.1  # corrections of order 1


# -- bad input -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"widths": (5,)}, ValueError, "widths"),
        ({"widths": (5, 0, 3)}, ValueError, "widths"),
        ({"widths": (5, 2.5)}, ValueError, "widths"),
        ({"widths": 7}, ValueError, "widths"),
        ({"sigma_w2": -1.0}, ValueError, "sigma_w2"),
        ({"sigma_w2": math.nan}, ValueError, "sigma_w2"),
        ({"sigma_b2": -0.1}, ValueError, "sigma_b2"),
        ({"q0": math.inf}, ValueError, "q0"),
        ({"beta": 0.0}, ValueError, "beta"),
        ({"beta": [1.0, -2.0]}, ValueError, "beta"),
        ({"beta": []}, ValueError, "beta"),
        ({"activation": "tanhh"}, ValueError, "tanh, erf"),
        ({"activation": 3}, TypeError, "activation"),
        ({"activation": torch.sum}, TypeError, "same shape"),
        ({"activation": lambda z: torch.zeros_like(z)}, TypeError, "differentiated"),
        ({"activation": torch.exp, "sigma_w2": 500.0}, ValueError, "grows too fast"),
        ({"output_activation": "nope"}, ValueError, "known"),
    ],
)
def test_bad_input(change, error, match):
    arguments = {
        "widths": (5, 5), "sigma_w2": 1.0, "sigma_b2": 0.0, "activation": "tanh", "beta": 1.0,
    }  # fmt: skip
    with pytest.raises(error, match=match):
        wide_limit(**{**arguments, **change})


def test_bad_input_recurrent_and_spectrum():
    for arguments in ((0, 1.0, 1.0), (5.5, 1.0, 1.0), (5, -1.0, 1.0), (5, math.nan, 1.0)):
        with pytest.raises(ValueError, match=r"n must|g must"):
            wide_limit_recurrent(*arguments)
    with pytest.raises(ValueError, match="beta"):
        wide_limit_recurrent(5, 1.0, 0.0)
    with pytest.raises(ValueError, match="finite"):
        wide_limit((5, 5), 1.0, 0.0, "tanh", 1.0).density([0.5, math.nan])


def test_no_convergence_is_an_error(monkeypatch):
    monkeypatch.setattr(dyson, "TOLERANCE", 1e-300)
    with pytest.raises(ConvergenceError, match="Dyson equation did not converge"):
        wide_limit((5, 5, 5), 1.3, 0.1, "tanh", [0.7, 3.0])

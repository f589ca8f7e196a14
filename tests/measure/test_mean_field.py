"""The mean-field map against closed forms, published numbers and a network."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from thermolearn.core.activation import resolve_activation
from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.measure.propagation import MeanFieldMap, critical_line
from thermolearn.measure.propagation.averages import half_square_difference, moments, pair_moments
from thermolearn.measure.propagation.graph import trace_steps

CORRELATIONS = (-1.0, -0.99999, -0.5, 0.0, 0.3, 0.9, 0.999, 1 - 1e-8, 1.0)


# -- Gaussian averages -------------------------------------------------------------------------
@pytest.mark.parametrize("q", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("c", CORRELATIONS)
def test_pairs_of_relu_are_the_arc_cosine_kernels(q, c):
    theta = math.acos(c)
    first = q * (math.sin(theta) + (math.pi - theta) * c) / (2 * math.pi)
    zeroth = (math.pi - theta) / (2 * math.pi)
    value, slope = pair_moments(resolve_activation("relu"), q, c)
    assert value / q == pytest.approx(first / q, abs=1e-14)
    assert slope == pytest.approx(zeroth, abs=1e-14)


@pytest.mark.parametrize("q", [0.1, 1.0, 20.0, 400.0])
@pytest.mark.parametrize("c", CORRELATIONS)
def test_pairs_of_erf_have_the_closed_form_of_williams(q, c):
    value, slope = pair_moments(resolve_activation("erf"), q, c)
    assert value == pytest.approx(2 / math.pi * math.asin(2 * q * c / (1 + 2 * q)), abs=1e-13)
    exact = 4 / math.pi / math.sqrt((1 + 2 * q) ** 2 - (2 * q * c) ** 2)
    assert slope == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("name", ["hardtanh", "elu", "silu", "softplus"])
def test_pairs_against_a_plain_tensor_rule(name):
    f = resolve_activation(name)
    x, w = np.polynomial.hermite_e.hermegauss(161)
    w, q, c = w / w.sum(), 0.7, 0.4
    u = math.sqrt(q) * x[:, None] + 0 * x
    v = math.sqrt(q) * (c * x[:, None] + math.sqrt(1 - c * c) * x)
    a, b = (f.function(torch.from_numpy(z)).numpy() for z in (u, v))
    smooth = name in ("silu", "softplus")
    naive = float(np.einsum("i,j,ij,ij->", w, w, a, b))
    assert pair_moments(f, q, c)[0] == pytest.approx(naive, abs=1e-10 if smooth else 2e-4)


@settings(deadline=None, max_examples=15)
@given(q=st.floats(1e-3, 30), c=st.floats(-1, 1), name=st.sampled_from(["tanh", "gelu", "relu"]))
def test_a_pair_obeys_cauchy_schwarz_and_growth_is_the_derivative(q, c, name):
    f = resolve_activation(name)
    one = moments(f, q)
    assert abs(pair_moments(f, q, c)[0]) <= one.square * (1 + 1e-12)
    h = 1e-4 * q
    numeric = (moments(f, q + h).square - moments(f, q - h).square) / (2 * h)
    assert one.growth == pytest.approx(numeric, rel=1e-6)


# -- published numbers -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "sigma_b2, sigma_w2, q",
    [(0.01, 1.42421, 0.2733), (0.05, 1.76095, 0.57005), (0.1, 1.98607, 0.8058),
     (0.3, 2.50513, 1.46117)],
)  # fmt: skip
def test_the_critical_line_of_tanh_by_bias(sigma_b2, sigma_w2, q):
    point = critical_line("tanh", sigma_b2=sigma_b2)
    assert float(point.sigma_w2) == pytest.approx(sigma_w2, abs=1e-5)
    assert float(point.q) == pytest.approx(q, abs=5e-5)
    assert float(point.sigma_b2) == pytest.approx(sigma_b2, abs=1e-14)
    assert point.stable
    assert float(point.map().chi()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    "name, q, sigma_w2, sigma_b2",
    [("tanh", 0.1, 1.17757, 0.00083), ("tanh", 0.5, 1.68798, 0.03804), ("tanh", 1, 2.1533, 0.15096),
     ("erf", 0.1, 0.9293, 0.00094), ("erf", 0.5, 1.36035, 0.04655), ("erf", 1, 1.7562, 0.18414),
     ("gelu", 0.1, 3.3002, 0.0040), ("gelu", 0.5, 2.45551, 0.03454), ("gelu", 1, 2.1937, 0.06719),
     ("silu", 0.1, 3.66626, 0.00199), ("silu", 0.5, 2.98767, 0.02623),
     ("silu", 1, 2.63517, 0.06247), ("silu", 20, 1.97547, 0.67891),
     ("gelu", 20, 1.96019, 0.47534), ("relu", 3, 2.0, 0.0),
     (nn.LeakyReLU(0.1), 1, 1.9802, 0.0)],
)  # fmt: skip
def test_the_critical_line_by_variance(name, q, sigma_w2, sigma_b2):
    point = critical_line(name, q)
    assert float(point.sigma_w2) == pytest.approx(sigma_w2, abs=1e-5)
    assert float(point.sigma_b2) == pytest.approx(sigma_b2, abs=1e-5)
    assert float(point.sigma_w2.stderr) < 1e-9


@pytest.mark.parametrize(
    "name, slopes",
    [("gelu", {0.1: 1.076, 0.5: 1.100, 1: 1.067, 2: 1.026, 3: 1.006, 5: 0.990, 20: 0.982}),
     ("silu", {0.1: 1.039, 0.5: 1.093, 1: 1.099, 3: 1.065, 8: 1.019, 12: 1.005, 20: 0.993})],
)  # fmt: skip
def test_small_critical_variances_of_gelu_and_silu_are_unstable(name, slopes):
    for q, slope in slopes.items():
        point = critical_line(name, q)
        assert float(point.variance_slope) == pytest.approx(slope, abs=1e-3)
        assert point.stable == (slope < 1)
        assert point.variance_slope.status == ("ok" if slope < 1 else "unstable")


@pytest.mark.parametrize(
    "name, q, ratio", [("gelu", 1, 3.3), ("silu", 1, 121), ("gelu", 20, 1.05), ("silu", 20, 1.08),
                       ("tanh", 0.5, 1.0)]
)  # fmt: skip
def test_ten_percent_off_the_fixed_point_after_forty_layers(name, q, ratio):
    path, _ = critical_line(name, q).map().trajectory(1.1 * q, 40)
    assert path.value[-1] / q == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize(
    "sigma_w2, q, chi, c, xi_c, xi_q",
    [(0.8, 0.13808, 0.64684, 1, 2.295, 1.514), (1.3, 0.31532, 0.88016, 1, 7.834, 1.785),
     (1.7, 0.53308, 0.98674, 1, 74.918, 1.558), (2.5, 1.06396, 1.13352, 0.4468, 11.796, 1.180),
     (4, 2.19549, 1.3424, 0.16506, 6.980, 0.873)],
)  # fmt: skip
def test_depth_scales_of_tanh(sigma_w2, q, chi, c, xi_c, xi_q):
    m = MeanFieldMap("tanh", sigma_w2, 0.05)
    for value, wanted, within in (
        (m.q_star(), q, 1e-5), (m.chi(), chi, 1e-5), (m.c_star(), c, 1e-5),
        (m.xi_c(), xi_c, 1e-3), (m.xi_q(), xi_q, 1e-3),
    ):  # fmt: skip
        assert float(value) == pytest.approx(wanted, abs=within)
        assert value.status == "ok" and float(value.stderr) < 1e-8 * float(value) + 1e-12
    assert m.phase() == ("ordered" if chi < 1 else "chaotic")
    assert float(m.gradient_depth()) == pytest.approx(1 / abs(math.log(chi)), rel=1e-4)
    fixed = float(m.correlation(c))
    assert fixed == pytest.approx(c, abs=1e-4)


def test_the_setting_of_wolinski_and_arbel():
    m = MeanFieldMap("tanh", 1.46, 0.013)
    assert float(m.q_star()) == pytest.approx(0.30294, abs=1e-5)
    assert float(m.chi()) == pytest.approx(0.99886, abs=1e-5)


def test_variances_from_layer_to_layer():
    path, correlations = MeanFieldMap("tanh", 1.3, 0.05).trajectory(1.0, 9)
    assert path.value[[1, 3, 9]] == pytest.approx([0.5626, 0.3751, 0.3172], abs=1e-4)
    assert np.isnan(correlations.value).all()


# -- the fixed point ---------------------------------------------------------------------------
def test_q_star_is_a_fixed_point_to_thirteen_digits():
    for name, pair in (("tanh", (1.76, 0.05)), ("gelu", (1.96, 0.47)), ("elu", (1.2, 0.1))):
        m = MeanFieldMap(name, *pair)
        q = float(m.q_star())
        assert float(m.variance(q)) == pytest.approx(q, rel=1e-13)


def test_no_finite_fixed_point_is_said():
    with pytest.raises(ConvergenceError, match="no finite fixed point"):
        MeanFieldMap("gelu", 2.5, 0.1).q_star()
    with pytest.raises(ConvergenceError, match="no finite fixed point"):
        MeanFieldMap("relu", 2.1, 0.0).chi()
    path, _ = MeanFieldMap("relu", 4.0, 0.0).trajectory(1.0, 50)
    assert path.status == "diverges" and path.value[-1] == math.inf


def test_both_sides_of_an_unstable_fixed_point():
    m = critical_line("gelu", 1.0).map()
    low, high = m.fixed_points()
    assert (low.stable, high.stable) == (True, False)
    assert float(m.q_star(1.0)) == pytest.approx(1.0, rel=1e-12)
    assert m.q_star(1.0).status == "unstable"
    assert float(m.q_star(0.99)) == pytest.approx(low.q, rel=1e-12)
    with pytest.raises(ConvergenceError, match=r"Fixed points: 0\.25"):
        m.q_star(1.01)


def test_every_variance_of_critical_relu_is_marginal():
    m = MeanFieldMap("relu", 2.0)
    assert m.q_star(3.7).status == "marginal" and float(m.q_star(3.7)) == 3.7
    assert (float(m.c_star()), m.phase()) == (1.0, "critical")
    assert math.isinf(float(m.xi_c())) and math.isinf(float(m.xi_q()))
    assert str(m.xi_c()) == "inf"


def test_without_biases_the_ordered_phase_ends_at_zero():
    m = MeanFieldMap("tanh", 0.5)
    assert (float(m.q_star()), float(m.chi())) == (0.0, pytest.approx(0.5))
    assert m.c_star().status == "marginal"
    assert float(m.xi_q()) == pytest.approx(1 / math.log(2))
    # ReLU: closed form q* = sigma_b2 / (1 - sigma_w2 / 2)
    assert float(MeanFieldMap("relu", 1.0, 0.3).q_star()) == pytest.approx(0.6, rel=1e-13)


def test_odd_chaos_without_biases_decorrelates():
    assert float(MeanFieldMap("tanh", 2.5).c_star()) == 0.0


def test_the_distance_from_criticality_is_resolved():
    for shift in (1e-3, 1e-5):
        m = MeanFieldMap("tanh", 1.76095 * (1 + shift), 0.05)
        c = float(m.c_star())
        assert 0 < 1 - c < 10 * shift and float(m.correlation(c)) == pytest.approx(c, abs=1e-12)


@pytest.mark.parametrize("shift", [1e-6, 1e-7, 1e-8, 1e-9])
def test_just_beyond_criticality(shift):
    """1 - c* = 2 (chi_1 - 1) / C''(1) and xi_c = 1 / (chi_1 - 1) to leading order."""
    point = critical_line("tanh", sigma_b2=0.05)
    m = MeanFieldMap("tanh", float(point.sigma_w2) * (1 + shift), 0.05)
    excess, c = float(m.chi()) - 1, m.c_star()
    assert 0 < excess < shift
    assert (1 - float(c)) / excess == pytest.approx(6.1711, rel=3e-4)
    xi_c = m.xi_c()
    assert abs(float(xi_c) * excess - 1) < 4 * float(xi_c.stderr) * excess + 2 * shift + 1e-4
    assert c.status == "ok"


@pytest.mark.parametrize("distance", [0.5, 1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("name", ["relu", "tanh", "hardtanh"])
def test_the_distance_of_close_inputs(name, distance):
    f = resolve_activation(name)
    got = half_square_difference(f, 0.7, distance)
    plain = moments(f, 0.7).square - pair_moments(f, 0.7, 1 - distance)[0]
    assert got == pytest.approx(plain, abs=1e-15)
    if distance < 1e-4:  # leading order: q E f'^2 d, with a kink of order d^(3/2)
        leading = 0.7 * moments(f, 0.7).slope_square * distance
        assert got == pytest.approx(leading, rel=2 * math.sqrt(distance))


# -- activations without a slope that tells ----------------------------------------------------
@pytest.mark.parametrize(
    "jumps", [torch.sign, torch.round, nn.Hardshrink(), nn.Threshold(1.0, 3.0)]
)
def test_activations_that_jump_have_no_chi(jumps):
    for call in (
        lambda: critical_line(jumps, 1.0),
        lambda: critical_line(jumps, sigma_b2=0.1),
        lambda: MeanFieldMap(jumps, 1.0).chi(1.0),
        lambda: MeanFieldMap(jumps, 1.0, 0.1).c_star(1.0),
    ):
        with pytest.raises(NotApplicableError, match="jumps at z"):
            call()


def test_the_correlation_of_signs_is_known_all_the_same():
    c = MeanFieldMap(torch.sign, 1.0).correlation(0.5, 1.0)
    assert float(c) == pytest.approx(2 / math.pi * math.asin(0.5), abs=1e-12)


def test_steep_but_continuous_activations_are_not_refused():
    for steep in (lambda z: torch.tanh(500 * z), nn.LeakyReLU(30.0), nn.Hardtanh(-0.01, 0.01)):
        assert float(MeanFieldMap(steep, 1.0).chi(1.0)) > 0


def test_kinks_that_are_not_known_are_refused():
    def bent(z):
        return z.clamp(-0.7, 0.7)

    with pytest.raises(NotApplicableError, match=r"kinks = \(z_1"):
        critical_line(bent, 0.5)
    bent.kinks = (-0.7, 0.7)  # type: ignore[attr-defined]
    exact = 1 / math.erf(0.7 / math.sqrt(2 * 0.5))
    assert float(critical_line(bent, 0.5).sigma_w2) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    "call, kinks",
    [(lambda z: F.hardtanh(z, -0.3, 0.4), (-0.3, 0.4)), (lambda z: F.hardtanh(z), (-1.0, 1.0)),
     (lambda z: F.hardtanh(z, max_val=2.0), (-1.0, 2.0)), (F.relu6, (0.0, 6.0)),
     (F.hardswish, (-3.0, 3.0)), (F.mish, ())],
)  # fmt: skip
def test_the_kinks_of_functions_in_a_traced_model(call, kinks):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x):
            return self.b(call(self.a(x)))

    (f,) = [s.activation for s in trace_steps(Net()) if s.activation is not None]
    assert set(kinks) <= set(f.kinks)
    chi = MeanFieldMap(f, 1.0).chi(1.0)
    assert float(chi.stderr) < 1e-9 * float(chi)


# -- a network ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name, w2, b2", [("tanh", 1.3, 0.05), ("tanh", 2.5, 0.05), ("relu", 2, 0)])
def test_correlations_of_wide_networks(name, w2, b2):
    m, f = MeanFieldMap(name, w2, b2), resolve_activation(name).function
    g = torch.Generator().manual_seed(7)
    width, seeds, c0 = 1000, 6, 0.3
    z = torch.randn(seeds, 2, width, generator=g)
    z[:, 1] = c0 * z[:, 0] + math.sqrt(1 - c0**2) * z[:, 1]
    variances, correlations = m.trajectory(1.0, 9, c0)
    for layer in range(1, 10):
        weight = torch.randn(seeds, width, width, generator=g) * math.sqrt(w2 / width)
        bias = torch.randn(seeds, 1, width, generator=g) * math.sqrt(b2)
        z = f(z) @ weight + bias
        q = z.square().mean(2)
        c = (z[:, 0] * z[:, 1]).mean(1) / q.prod(1).sqrt()
        assert abs(float(c.mean()) - correlations.value[layer]) < 0.06
        within = 4 * float(q.mean(1).std()) / math.sqrt(seeds) + 0.01
        assert abs(float(q.mean()) - variances.value[layer]) < within


# -- bad input ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call, words",
    [(lambda: MeanFieldMap("tanh", 0.0), "sigma_w2"),
     (lambda: MeanFieldMap("tanh", 1.0, -0.1), "sigma_b2"),
     (lambda: MeanFieldMap("tanh", math.nan), "sigma_w2"),
     (lambda: MeanFieldMap("sin", 1.0), "not known"),
     (lambda: MeanFieldMap("tanh", 1.0, 0.1).correlation(1.1), "c must"),
     (lambda: MeanFieldMap("tanh", 1.0, 0.1).variance(-1.0), "q must"),
     (lambda: MeanFieldMap("tanh", 1.0, 0.1).q_star(0.0), "q0"),
     (lambda: MeanFieldMap("tanh", 1.0, 0.1).trajectory(1.0, -1), "depth"),
     (lambda: critical_line("tanh"), "exactly one"),
     (lambda: critical_line("tanh", 1.0, sigma_b2=0.1), "exactly one"),
     (lambda: critical_line("sigmoid", 0.1), "admissible q: 46"),
     (lambda: critical_line("relu", sigma_b2=0.1), "scale-free"),
     (lambda: critical_line("tanh", 0.0), "q must"),
     (lambda: MeanFieldMap(torch.exp, 1.0).variance(40.0), "grows too fast")],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_activation_torch_cannot_differentiate_is_refused():
    with pytest.raises(TypeError, match="differentiated"):
        MeanFieldMap(lambda z: z.detach(), 1.0).variance(1.0)
    with pytest.raises(TypeError, match="instance"):
        MeanFieldMap(nn.Tanh, 1.0)


@pytest.mark.parametrize("name", ["tanh", "gelu", "relu"])
def test_the_variance_shrinks_below_any_size(name):
    """At sigma_b2 = 0 deep in the ordered phase V(q) = sigma_w2 q E f'(0)^2, however small q is."""
    ordered = MeanFieldMap(name, 0.5, 0.0)
    per_layer = {"tanh": 0.5, "gelu": 0.125, "relu": 0.25}[name]
    for q in (1e-18, 1e-30, 1e-100):
        assert float(ordered.variance(q)) / q == pytest.approx(per_layer, rel=1e-6)

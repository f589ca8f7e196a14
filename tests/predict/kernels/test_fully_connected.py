"""NNGP and tangent kernels of fully connected networks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thermolearn.core.activation import resolve_activation
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.gaussian import gauss_nodes
from thermolearn.predict.kernels.fully_connected import NNGP, NTK


def inputs(n: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.double)


def on_sphere(n: int, d: int, seed: int = 0) -> torch.Tensor:
    x = inputs(n, d, seed)
    return x * (math.sqrt(d) / x.norm(dim=1, keepdim=True))


def by_hand(
    x: torch.Tensor, depth: int, activation: str, w2: float, b2: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recursion as it is printed, for ReLU and erf."""
    k = w2 * x @ x.T / x.shape[1] + b2
    theta = k
    for _ in range(depth - 1):
        q = k.diagonal()
        if activation == "relu":
            s = (q[:, None] * q).sqrt()
            rho = (k / s).clamp(-1, 1)
            angle = torch.arccos(rho).fill_diagonal_(0.0)
            value = s * ((1 - rho**2).sqrt() + (math.pi - angle) * rho) / (2 * math.pi)
            slope = (math.pi - angle) / (2 * math.pi)
        else:
            root = ((1 + 2 * q[:, None]) * (1 + 2 * q)).sqrt()
            value = 2 / math.pi * torch.arcsin(2 * k / root)
            slope = 4 / math.pi / (root**2 - 4 * k**2).sqrt()
        k = w2 * value + b2
        theta = k + w2 * theta * slope
    return k, theta


@pytest.mark.parametrize("activation", ["relu", "erf"])
@pytest.mark.parametrize("b2", [0.0, 0.1])
def test_gram_is_the_printed_recursion(activation: str, b2: float) -> None:
    x = inputs(40, 8)
    k, theta = by_hand(x, 4, activation, 2.0, b2)
    found_k, found_theta = NTK(4, activation, 2.0, b2).gram_pair(x)
    torch.testing.assert_close(found_k, k, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_theta, theta, rtol=1e-12, atol=1e-12)
    assert torch.equal(found_k, NNGP(4, activation, 2.0, b2).gram(x))


def test_values_of_neural_tangents() -> None:
    """neural-tangents 0.6.5, jax 0.4.34, float64: depth 4, ReLU, sigma_w2 = 2, sigma_b2 = 0.01.

    Its diagonal goes through arccos(1) and is right to 1e-7 only.
    """
    x = np.random.default_rng(0).standard_normal((1002, 64))[1000:]
    k, theta = NTK(4, "relu", 2.0, 0.01).gram_pair(x)
    assert float(k[0, 1]) == pytest.approx(0.9842367987197354, abs=1e-12)
    assert float(theta[0, 1]) == pytest.approx(1.6164247845725837, abs=1e-12)
    assert float(theta[0, 0]) == pytest.approx(7.231818312288812, abs=1e-6)


def test_float32_diagonal_of_the_tangent_kernel() -> None:
    """T = sum of q_l for sigma_w2 = 2: not spoilt by an arc cosine next to 1."""
    x = inputs(300, 64)
    theta = NTK(4, "relu", 2.0, 0.01).gram(x, dtype=torch.float32)
    q = 2 * x.square().sum(1) / 64 + 0.01
    torch.testing.assert_close(theta.diagonal().double(), 4 * q + 0.06, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("kernel", [NNGP, NTK])
def test_quadrature_against_closed_form_of_erf(kernel: type) -> None:
    x = inputs(60, 8)

    def erf(z: torch.Tensor) -> torch.Tensor:
        return torch.erf(z)

    exact, table = kernel(4, "erf", 1.5, 0.2), kernel(4, erf, 1.5, 0.2)
    torch.testing.assert_close(table.gram(x), exact.gram(x), rtol=0.0, atol=1e-8)
    t = np.linspace(-1, 1, 41)
    np.testing.assert_allclose(table(t), exact(t), rtol=0.0, atol=1e-8)


def tangent_of_networks(x: torch.Tensor, nets: int, width: int, w2: float, b2: float) -> list:
    """Empirical tangent kernels of depth-4 ReLU networks, float32, by the products of layers."""
    generator = torch.Generator().manual_seed(0)
    x = x.float()
    found = []
    for _ in range(nets):
        sizes = (x.shape[1], width, width, width, 1)
        h, layers = x, []
        for n_in, n_out in itertools.pairwise(sizes):
            w = torch.randn(n_out, n_in, generator=generator)
            z = h @ w.T * math.sqrt(w2 / n_in)
            z += math.sqrt(b2) * torch.randn(n_out, generator=generator)
            layers.append((w, h, z))
            h = z.relu()
        back = torch.ones(len(x), 1)
        total = torch.zeros(len(x), len(x))
        for depth, (w, h, _) in reversed(list(enumerate(layers))):
            n_in = w.shape[1]
            total += (back @ back.T) * (w2 / n_in * h @ h.T + b2)
            if depth:
                back = back @ w * math.sqrt(w2 / n_in) * (layers[depth - 1][2] > 0)
        found.append(total.double())
    return found


@pytest.mark.slow
def test_networks_of_width_1024() -> None:
    x = on_sphere(6, 8)
    found = torch.stack(tangent_of_networks(x, 12, 1024, 2.0, 0.1))
    theta = NTK(4, "relu", 2.0, 0.1).gram(x)
    assert float(((found.mean(0) - theta) / theta).abs().max()) < 0.10
    z = (found.mean(0) - theta) / (found.std(0) / math.sqrt(12))
    assert float(z.abs().max()) < 6  # Student's t with 11 degrees of freedom, 21 entries


def test_products_of_layers_by_autograd() -> None:
    """The products of layers above are the tangent kernel of a network of width 16."""
    x = on_sphere(3, 4).float()
    generator = torch.Generator().manual_seed(0)
    weights, biases = [], []
    for shape in ((16, 4), (16, 16), (16, 16), (1, 16)):  # drawn in the order of the function
        weights.append(torch.randn(shape, generator=generator).requires_grad_())
        biases.append(torch.randn(shape[0], generator=generator).requires_grad_())
    rows = []
    for sample in x:
        h = sample
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            h = math.sqrt(2.0 / w.shape[1]) * (w @ h) + math.sqrt(0.1) * b
            h = h.relu() if k < 3 else h
        grads = torch.autograd.grad(h.sum(), [*weights, *biases])
        rows.append(torch.cat([g.flatten() for g in grads]))
    jacobian = torch.stack(rows).double()
    (expected,) = tangent_of_networks(x, 1, 16, 2.0, 0.1)
    torch.testing.assert_close(jacobian @ jacobian.T, expected, rtol=1e-4, atol=1e-4)


def test_depth_1_is_linear() -> None:
    x = inputs(5, 3)
    for kernel in (NNGP(1, "relu", 1.5, 0.2), NTK(1, "tanh", 1.5, 0.2)):
        torch.testing.assert_close(kernel.gram(x), 1.5 * x @ x.T / 3 + 0.2)
        assert kernel(0.5) == pytest.approx(0.95)


@pytest.mark.parametrize("activation", ["relu", nn.LeakyReLU(0.2), "erf", "gelu", torch.sin])
def test_sphere_and_gram_agree(activation: object) -> None:
    x = on_sphere(30, 6)
    t = ((x @ x.T) / 6).clamp(-1, 1).fill_diagonal_(1.0)
    for kernel in (NNGP(3, activation, 1.7, 0.1), NTK(3, activation, 1.7, 0.1)):
        torch.testing.assert_close(kernel(t), kernel.gram(x), rtol=1e-11, atol=1e-11)
        assert isinstance(kernel(t.numpy()), np.ndarray)
        assert kernel(1.0) == pytest.approx(float(kernel.diagonal(x)[0]), rel=1e-14)


def test_known_ends_of_relu() -> None:
    """sigma_w2 = 2, no bias: Theta(1) = depth k(1) = 2 depth; k(-1) = 0 at depth 2."""
    assert NTK(4)(1.0) == pytest.approx(8.0, rel=1e-14)
    assert NNGP(2)(-1.0) == pytest.approx(0.0, abs=1e-15)
    assert NTK(2)(-1.0) == pytest.approx(0.0, abs=1e-15)
    # next to 1: Theta(1) - Theta(t) = c sqrt(1 - t), c = 2 sqrt(2) / pi at depth 2
    gap = 1e-14
    slope = (NTK(2)(1.0) - NTK(2)(1 - gap)) / math.sqrt(gap)
    assert slope == pytest.approx(2 * math.sqrt(2) / math.pi, rel=0.02)


@pytest.mark.parametrize(
    ("depth", "b2", "gap", "drop"),
    [
        (8, 0.1, 1.1102230246251565e-16, 2.7335563738084854e-7),
        (4, 0.1, 1.1102230246251565e-16, 5.8359276143238348e-8),
        (8, 0.1, 1.000000082740371e-10, 2.5942972425707142e-4),
    ],
)
def test_next_to_coinciding_inputs(depth: int, b2: float, gap: float, drop: float) -> None:
    """Theta(1) - Theta(1 - gap), ReLU, sigma_w2 = 2, by 60 digits of mpmath."""
    kernel = NTK(depth, "relu", 2.0, b2)
    assert float(kernel(1.0) - kernel(1 - gap)) == pytest.approx(drop, abs=2e-14)


def test_a_number_of_a_number() -> None:
    for activation in ("relu", "erf", "tanh"):
        assert isinstance(NTK(3, activation)(0.5), float)
        assert NTK(3, activation)(np.full((2, 3), 0.5)).shape == (2, 3)


@pytest.mark.parametrize("depth", [2, 4, 10])
@pytest.mark.parametrize("slope", [0.0, 0.3, -0.9, -1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_opposite_inputs(depth: int, slope: float, dtype: torch.dtype) -> None:
    """E phi(u) phi(-u) = -slope q and E phi'(u) phi'(-u) = slope in the first layer."""
    x = inputs(20, 8)
    kernel, square = NTK(depth, nn.LeakyReLU(slope), 50.0), (1 + slope**2) / 2
    k, theta = kernel.gram_pair(x, -2.0 * x, dtype=dtype)
    c = torch.tensor(-1.0, dtype=torch.double)
    t, scale, slopes = c.clone(), 50.0 * x.square().sum(1) / 8 * 2, []
    for _ in range(depth - 1):
        share = (1 - slope) ** 2 / (2 * math.pi * square)
        if not slopes:  # opposite in the first layer only, unless |z| makes them one
            slopes, c = [slope / square], torch.tensor(-slope / square, dtype=torch.double)
        else:
            angle = torch.acos(c.clamp(-1, 1))
            slopes.append(float(1 - share * angle))
            c = c + share * (angle.sin() - angle * c)
        t = c + slopes[-1] * t
    scale = scale * (50.0 * square) ** (depth - 1)
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    assert float((k.diagonal() / scale - c).abs().max()) < tolerance
    assert float((theta.diagonal() / scale - t).abs().max()) < tolerance * depth


def test_float32_of_even_kernels() -> None:
    """|z| makes opposite inputs one: also those that are nearly opposite."""
    x = torch.cat([inputs(300, 3), inputs(300, 3, seed=1)])
    x[300:400] = -x[:100] + 10.0 ** torch.linspace(-9, -1, 100)[:, None] * x[300:400]
    kernel = NTK(4, torch.abs)
    exact, single = kernel.gram(x), kernel.gram(x, dtype=torch.float32).double()
    root = exact.diagonal().sqrt()
    assert float(((single - exact) / root / root[:, None]).abs().max()) < 1e-6


@pytest.mark.parametrize("activation", ["silu", "elu"])
def test_one_standardized_feature_without_bias(activation: str) -> None:
    """Norms from 0.007 to 3: the table is held against quadrature pair by pair."""
    x = torch.logspace(-2.15, 0.5, 40, dtype=torch.double)[:, None]
    x[::2] *= -1
    k = NNGP(2, activation, 1.0).gram(x)
    value = [
        (1 if x[i, 0] * x[j, 0] > 0 else -1, float(x[i, 0].abs()), float(x[j, 0].abs()), k[i, j])
        for i, j in ((0, 0), (0, 1), (0, 38), (0, 39), (20, 21), (38, 39), (10, 37))
    ]
    z, w = gauss_nodes(1.0, 16)
    for sign, a, b, found in value:
        f, g = (resolve_activation(activation).function(torch.from_numpy(v)).numpy()
                for v in (a * z, sign * b * z))  # fmt: skip
        scale = math.sqrt(float(w @ f**2) * float(w @ g**2))
        assert float(found) == pytest.approx(float(w @ (f * g)), abs=1e-8 * scale)


def test_norms_too_different_are_called_so() -> None:
    x = torch.logspace(-3.5, 0.6, 40, dtype=torch.double)[:, None]
    with pytest.raises(NotApplicableError, match=r"variances this different.*give inputs of less"):
        NTK(2, "tanh").gram(x)


def test_duplicates_equal_the_diagonal() -> None:
    x = inputs(400, 20)
    x[300] = x[3]
    for activation in ("relu", "leaky_relu", "erf", "gelu"):
        for matrix in NTK(4, activation, 2.0, 0.01).gram_pair(x):
            assert float(matrix[3, 300]) == pytest.approx(float(matrix[3, 3]), rel=1e-12)
            assert float(matrix[300, 3]) == pytest.approx(float(matrix[3, 3]), rel=1e-12)


def test_near_duplicates_keep_their_distance() -> None:
    """Theta(x, x) - Theta(x, x') is proportional to |x - x'|: rounding would make it 1e-8."""
    x = on_sphere(1, 20)
    normal = on_sphere(1, 20, seed=1)
    normal -= (normal @ x.T) / 20 * x
    angles = torch.tensor([1e-6, 1e-7, 1e-8], dtype=torch.double)
    moved = x + angles[:, None] * normal * (math.sqrt(20) / normal.norm())
    theta = NTK(3).gram(x, moved)[0]
    drop = (6.0 - theta) / angles
    assert float((drop / drop[0] - 1).abs().max()) < 1e-6


def test_duplicates_of_a_tabulated_activation() -> None:
    x = inputs(20, 10)
    x[11] = x[3]
    theta = NTK(2, "tanh", 1.5, 0.1).gram(x, block=8)
    assert float(theta[3, 11]) == pytest.approx(float(theta[3, 3]), rel=1e-12)
    assert float(torch.linalg.eigvalsh(theta)[0]) > -1e-9


@settings(max_examples=25, deadline=None)
@given(
    depth=st.integers(1, 5), w2=st.floats(0.1, 4.0), b2=st.floats(0.0, 2.0),
    activation=st.sampled_from(["relu", "leaky_relu", "erf", "gelu", "linear", torch.sin]),
    seed=st.integers(0, 100),
)  # fmt: skip
def test_a_kernel_is_one(depth: int, w2: float, b2: float, activation: object, seed: int) -> None:
    """Positive semi-definite, symmetric, indifferent to order; X = X2 changes nothing."""
    x = inputs(12, 4, seed) * 10.0 ** (seed % 3 - 1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    for kernel in (NNGP(depth, activation, w2, b2), NTK(depth, activation, w2, b2)):
        matrix = kernel.gram(x, block=5)
        top = float(matrix.diagonal().max())
        assert torch.equal(matrix, matrix.T)
        assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-12 * 12 * top
        assert torch.equal(matrix, kernel.gram(x, x.clone(), block=5))
        near = {"rtol": 1e-11, "atol": 1e-12 * top}
        torch.testing.assert_close(kernel.gram(x[order]), matrix[order][:, order], **near)
        torch.testing.assert_close(kernel.gram(x[:4], x[4:]), matrix[:4, 4:], **near)
        torch.testing.assert_close(kernel.diagonal(x), matrix.diagonal(), rtol=1e-12, atol=0.0)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-6, 1e6))
def test_relu_without_bias_is_homogeneous(scale: float) -> None:
    x = inputs(5, 3)
    for kernel in (NNGP(3), NTK(3)):
        torch.testing.assert_close(
            kernel.gram(scale * x), scale**2 * kernel.gram(x), rtol=1e-10, atol=1e-14 * scale**2
        )


def test_an_input_of_zeros() -> None:
    x = inputs(4, 3)
    x[2] = 0
    matrix = NTK(3).gram(x)
    assert not matrix[2].any() and torch.isfinite(matrix).all()
    biased = NTK(3, "relu", 2.0, 0.1).gram(x)
    assert float(biased[2, 2]) == pytest.approx(float(NTK(3, "relu", 2.0, 0.1).diagonal(x)[2]))


def test_types_of_inputs() -> None:
    x = np.array([[1, 2], [3, -1], [0, 1]])
    expected = NTK(3).gram(torch.tensor(x, dtype=torch.double))
    for given_x in (x, x.tolist(), torch.tensor(x), x.astype(np.float32)):
        found = NTK(3).gram(given_x)
        assert found.dtype == torch.float64
        assert torch.equal(found, expected)
    assert NTK(3).gram(x, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"depth": 0}, ValueError, "depth"),
        ({"depth": 2.0}, ValueError, "depth"),
        ({"depth": 2, "sigma_w2": 0.0}, ValueError, "sigma_w2"),
        ({"depth": 2, "sigma_w2": math.nan}, ValueError, "sigma_w2"),
        ({"depth": 2, "sigma_b2": -0.1}, ValueError, "sigma_b2"),
        ({"depth": 2, "activation": "rellu"}, ValueError, "rellu"),
        ({"depth": 2, "activation": 7}, TypeError, "activation"),
        ({"depth": 2, "activation": nn.PReLU()}, NotApplicableError, "parameters"),
    ],
)
def test_bad_parameters(parameters: dict, error: type[Exception], match: str) -> None:
    for kernel in (NNGP, NTK):
        with pytest.raises(error, match=match):
            kernel(**parameters)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (np.zeros(3), ValueError, "2-d"),
        (np.zeros((0, 3)), ValueError, "samples"),
        (np.zeros((3, 0)), ValueError, "features"),
        (np.array([[1.0, math.nan]]), ValueError, "NaN"),
        (np.array([[1.0, math.inf]]), ValueError, "infinite"),
        (np.array([["a", "b"]]), TypeError, "real numbers"),
        (torch.zeros(2, 2, dtype=torch.complex64), TypeError, "real numbers"),
        (np.array([[1e30, 0.0]]), ValueError, "scale"),
    ],
)
def test_bad_inputs(x: object, error: type[Exception], match: str) -> None:
    for call in (NTK(2).gram, NTK(2).diagonal, NTK(2).gram_pair):
        with pytest.raises(error, match=match):
            call(x)  # type: ignore[operator]


def test_kinks_away_from_0_want_inputs_of_one_norm() -> None:
    x = inputs(4, 5)
    with pytest.raises(NotApplicableError, match="one norm"):
        NTK(2, nn.Hardtanh()).gram(x.repeat(40, 1))


def test_bad_options() -> None:
    x = inputs(3, 2)
    with pytest.raises(ValueError, match="X2 must have the 2 features"):
        NTK(2).gram(x, inputs(3, 4))
    with pytest.raises(TypeError, match="dtype"):
        NTK(2).gram(x, dtype=torch.float16)
    with pytest.raises(ValueError, match="block"):
        NTK(2).gram(x, block=0)
    for t in (1.1, math.nan, -2.0):
        with pytest.raises(ValueError, match="t must lie"):
            NTK(2)(t)

"""Hessian products, trace and spectral moments against curvlinops (an independent library)."""

import warnings

import numpy as np
import pytest
import torch

from thermolearn.core.linalg import gauss_rule, hutchinson, hvp_operator, probe_lanczos

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    curvlinops = pytest.importorskip(
        "curvlinops",
        reason="curvlinops is not installed: "
        "pip install --no-deps -r tests/oracle/constraints-oracle.txt",
    )


@pytest.fixture
def problem():
    """A small tanh network in float64, its data and its loss."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4), torch.nn.Tanh()
    ).double()
    torch.set_rng_state(state)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(32, 6, generator=g, dtype=torch.float64)
    y = torch.randn(32, 4, generator=g, dtype=torch.float64)
    return model, torch.nn.MSELoss(), x, y


@pytest.fixture
def oracle(problem):
    model, loss, x, y = problem
    return curvlinops.HessianLinearOperator(
        model, loss, list(model.parameters()), [(x, y)], check_deterministic=False
    )


@pytest.fixture
def ours(problem):
    model, loss, x, y = problem
    return hvp_operator(lambda: loss(model(x), y), model.parameters())


def test_hessian_products(ours, oracle):
    n = oracle.shape[0]
    v = torch.randn(5, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(ours(v), (oracle @ v.T).T, atol=1e-13)


def test_trace(ours, oracle):
    n = oracle.shape[0]
    exact = float((oracle @ torch.eye(n, dtype=torch.float64)).trace())
    e = hutchinson(ours, n, 100, torch.Generator().manual_seed(3))
    assert abs(float(e) - exact) < 4 * e.stderr


def test_spectral_density_moments(ours, oracle):
    """Quadrature nodes reproduce extreme eigenvalues and tr exp(H) of the dense oracle matrix."""
    n = oracle.shape[0]
    spectrum = np.linalg.eigvalsh((oracle @ torch.eye(n, dtype=torch.float64)).numpy())
    recursion = probe_lanczos(ours, n, (), 40, 20, torch.Generator().manual_seed(4))
    nodes, weights = gauss_rule(*recursion)
    assert float(nodes.max()) == pytest.approx(spectrum[-1], rel=1e-6)
    assert float(nodes.min()) == pytest.approx(spectrum[0], rel=1e-6)
    samples = n * (weights * nodes.exp()).sum(-1)
    error = float(samples.std() / len(samples) ** 0.5)
    assert abs(float(samples.mean()) - np.exp(spectrum).sum()) < 4 * error

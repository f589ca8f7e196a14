import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thermolearn.core.linalg import gauss_rule, hutchinson, hvp_operator, lanczos, probe_lanczos


def slq_nodes(*arguments):
    """Quadrature of the whole recursion."""
    return gauss_rule(*probe_lanczos(*arguments))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spd(n, batch=(), seed=0, spread=6.0):
    """Random symmetric matrices with eigenvalues from 1/spread to spread."""
    g = generator(seed)
    q = torch.linalg.qr(torch.randn(*batch, n, n, generator=g, dtype=torch.float64))[0]
    exponent = 2 * torch.rand(*batch, n, generator=g, dtype=torch.float64) - 1
    return (q * (spread**exponent)[..., None, :]) @ q.mT


def times(a):
    """matvec of one matrix, or of a batch with one probe axis between batch and vector."""
    return lambda v: v @ a.mT if a.ndim == 2 else (a[..., None, :, :] @ v[..., None])[..., 0]


def tridiagonal(alpha, beta):
    return torch.diag_embed(alpha) + torch.diag_embed(beta, 1) + torch.diag_embed(beta, -1)


def naive_lanczos(a, v, k):
    """The three-term recurrence as in the textbooks, without reorthogonalisation."""
    q, previous, b = v / v.norm(), torch.zeros_like(v), 0.0
    alpha, beta = [], []
    for _ in range(k):
        w = a @ q - b * previous
        alpha.append(q @ w)
        w = w - alpha[-1] * q
        b = w.norm()
        previous, q = q, w / b
        beta.append(b)
    return torch.stack(alpha), torch.stack(beta[:-1])


def test_lanczos_matches_the_plain_recurrence_over_few_steps():
    a = spd(30)
    v = torch.randn(30, generator=generator(1), dtype=torch.float64)
    alpha, beta = lanczos(times(a), v, 6)
    alpha_0, beta_0 = naive_lanczos(a, v, 6)
    assert torch.allclose(alpha, alpha_0, atol=1e-11)
    assert torch.allclose(beta, beta_0, atol=1e-11)


def test_lanczos_with_all_steps_has_the_spectrum_of_the_matrix():
    a = spd(25, batch=(3,), spread=1e3)
    v = torch.randn(3, 2, 25, generator=generator(1), dtype=torch.float64)
    nodes = torch.linalg.eigvalsh(tridiagonal(*lanczos(times(a), v, 25)))
    exact = torch.linalg.eigvalsh(a)
    assert torch.allclose(nodes, exact[:, None].expand_as(nodes), rtol=1e-9, atol=1e-9)


def test_lanczos_makes_no_ghost_copies_of_a_converged_eigenvalue():
    d = torch.cat([torch.linspace(0, 1, 199, dtype=torch.float64), torch.tensor([100.0])])
    v = torch.ones(200, dtype=torch.float64)
    alpha, beta = lanczos(lambda x: d * x, v, 60)
    nodes = torch.linalg.eigvalsh(tridiagonal(alpha, beta))
    assert int((nodes > 50).sum()) == 1
    ghosts = torch.linalg.eigvalsh(tridiagonal(*naive_lanczos(torch.diag(d), v, 60)))
    assert int((ghosts > 50).sum()) > 1  # the test can fail


@pytest.mark.parametrize("values", [[2.0], [0.0], [1.0, 3.0], [-1.0, 0.0, 5.0], [1e-30, 1e30]])
def test_lanczos_breakdown_leaves_an_exact_quadrature(values):
    """Few distinct eigenvalues end the recurrence early: zero weights, never NaN."""
    d = torch.tensor((24 * values)[:24], dtype=torch.float64)
    nodes, weights = slq_nodes(lambda x: d * x, 24, (), 10, 5, generator())
    assert torch.isfinite(nodes).all() and torch.isfinite(weights).all()
    assert torch.allclose(weights.sum(-1), torch.ones(5, dtype=torch.float64), atol=1e-12)
    assert float((weights > 1e-12).sum(-1).max()) <= len(values)
    for power in (1, 2):
        got = 24 * (weights * nodes**power).sum(-1)
        assert torch.allclose(got, (d**power).sum().expand(5), rtol=1e-10, atol=1e-12)


def test_breakdown_of_one_batch_member_leaves_the_others_alone():
    a = torch.stack([torch.eye(12, dtype=torch.float64), spd(12)])
    alone = slq_nodes(times(a[1:]), 12, (1,), 12, 4, generator(5))
    z = 2.0 * torch.randint(0, 2, (1, 4, 12), generator=generator(5)).double() - 1
    both = lanczos(times(a), z.expand(2, 4, 12).clone(), 12)
    assert torch.allclose(torch.linalg.eigvalsh(tridiagonal(*both))[1], alone[0][0], atol=1e-10)
    assert torch.allclose(both[0][0], torch.ones(4, 12, dtype=torch.float64))
    assert torch.equal(both[1][0], torch.zeros(4, 11, dtype=torch.float64))


def test_quadrature_with_all_steps_is_exact_for_every_probe():
    a = spd(16)
    nodes, weights = slq_nodes(times(a), 16, (), 16, 6, generator(3))
    z = 2.0 * torch.randint(0, 2, (6, 16), generator=generator(3)).double() - 1
    for f in (torch.log, torch.exp, torch.reciprocal, torch.sqrt):
        e, u = torch.linalg.eigh(a)
        exact = torch.einsum("pi,ij,pj->p", z, (u * f(e)) @ u.T, z)
        assert torch.allclose(16 * (weights * f(nodes)).sum(-1), exact, rtol=1e-10)


def test_quadrature_is_exact_for_polynomials_up_to_degree_2k_minus_1():
    a = spd(20, spread=2.0)
    nodes, weights = slq_nodes(times(a), 20, (), 4, 3, generator(4))
    z = 2.0 * torch.randint(0, 2, (3, 20), generator=generator(4)).double() - 1

    def error(power):
        exact = ((z @ torch.linalg.matrix_power(a, power)) * z).sum(-1)
        return float((20 * (weights * nodes**power).sum(-1) / exact - 1).abs().max())

    assert max(error(p) for p in range(8)) < 1e-12
    assert error(8) > 1e-9


def test_log_det_error_bars_cover_the_exact_value():
    """Over many seeds the deviation in standard errors is that of Student's t."""
    n, n_probes, n_seeds = 60, 12, 300
    a = spd(n, spread=20.0)
    exact = float(torch.logdet(a))
    z = []
    for seed in range(n_seeds):
        nodes, weights = slq_nodes(times(a), n, (), 25, n_probes, generator(seed))
        samples = n * (weights * nodes.log()).sum(-1)
        z.append(float((samples.mean() - exact) / (samples.std() / math.sqrt(n_probes))))
    z = torch.tensor(z)
    # |t_11| < 1 with probability .661, < 2.201 with .95; four binomial standard errors
    for limit, probability in ((1.0, 0.661), (2.201, 0.95)):
        inside = float((z.abs() < limit).double().mean())
        assert abs(inside - probability) < 4 * math.sqrt(probability * (1 - probability) / n_seeds)
    assert abs(float(z.mean())) < 4 * float(z.std()) / math.sqrt(n_seeds)


def test_float32_and_more_steps_than_dimensions():
    nodes, weights = slq_nodes(lambda v: 3 * v, 5, (2,), 40, 3, generator(), torch.float32)
    assert nodes.shape == weights.shape == (2, 3, 5) and nodes.dtype == torch.float32
    assert torch.allclose((weights * nodes).sum(-1), torch.full((2, 3), 3.0))
    assert slq_nodes(lambda v: 3 * v, 1, (), 1, 1, generator())[0].item() == pytest.approx(3.0)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 14), k=st.integers(1, 14), seed=st.integers(0, 1000), s=st.floats(-6, 6))
def test_nodes_lie_in_the_spectrum_and_scale_with_the_matrix(n, k, seed, s):
    a = spd(n, seed=seed)
    nodes, weights = slq_nodes(times(a), n, (), k, 2, generator(seed))
    e = torch.linalg.eigvalsh(a)
    assert nodes.min() > e[0] - 1e-9 and nodes.max() < e[-1] + 1e-9
    scaled, same = slq_nodes(times(10.0**s * a), n, (), k, 2, generator(seed))
    assert torch.allclose(scaled, 10.0**s * nodes, rtol=1e-6)
    assert torch.allclose(same, weights, atol=1e-6)


def test_hutchinson_against_the_trace_and_its_variance():
    g = generator(7)
    a = torch.randn(50, 50, generator=g, dtype=torch.float64)
    symmetric = (a + a.T) / 2
    per_probe = 2 * float((symmetric**2).sum() - (symmetric.diagonal() ** 2).sum())
    estimates = [hutchinson(times(a), 50, 40, generator(seed)) for seed in range(100)]
    z = torch.tensor([(float(e) - float(a.trace())) / e.stderr for e in estimates])
    assert abs(float(z.mean())) < 0.4 and 0.7 < float(z.std()) < 1.3
    variance = sum(e.stderr**2 for e in estimates) / 100
    assert variance == pytest.approx(per_probe / 40, rel=0.1)


def test_hutchinson_is_exact_for_a_diagonal_matrix():
    d = torch.linspace(-1, 3, 9, dtype=torch.float64)
    e = hutchinson(lambda v: d * v, 9, 5, generator())
    assert float(e) == pytest.approx(float(d.sum()), abs=1e-13) and e.stderr < 1e-13
    assert math.isnan(hutchinson(lambda v: d * v, 9, 1, generator()).stderr)


def network(activation=torch.nn.Tanh):
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), activation(), torch.nn.Linear(5, 3))
    torch.set_rng_state(torch_state)
    model = model.double()
    g = generator(1)
    x = torch.randn(10, 4, generator=g, dtype=torch.float64)
    y = torch.randn(10, 3, generator=g, dtype=torch.float64)
    return model, x, y


def full_hessian(model, loss_of_output, x):
    """Dense Hessian row by row, of the functional network."""
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    sizes = [p.numel() for p in model.parameters()]

    def loss(flat):
        parts = [c.reshape(s) for c, s in zip(flat.split(sizes), shapes, strict=True)]
        out = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (x,))
        return loss_of_output(out)

    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return torch.func.jacrev(torch.func.grad(loss))(flat)


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.ReLU])
def test_hessian_products_equal_the_full_hessian(activation):
    model, x, y = network(activation)
    matvec = hvp_operator(lambda: ((model(x) - y) ** 2).mean(), model.parameters())
    hessian = full_hessian(model, lambda out: ((out - y) ** 2).mean(), x)
    n = len(hessian)
    assert torch.allclose(matvec(torch.eye(n, dtype=torch.float64)), hessian, atol=1e-13)
    v = torch.randn(2, 3, n, generator=generator(2), dtype=torch.float64)
    assert torch.allclose(matvec(v), v @ hessian, atol=1e-12)
    e = hutchinson(matvec, n, 200, generator(3))
    assert abs(float(e) - float(hessian.trace())) < 4 * e.stderr
    nodes, _ = slq_nodes(matvec, n, (), n, 2, generator(4))
    spectrum = torch.linalg.eigvalsh(hessian)
    assert nodes.max() == pytest.approx(float(spectrum[-1]), rel=1e-9)
    assert nodes.min() == pytest.approx(float(spectrum[0]), rel=1e-9)


def test_hessian_products_leave_the_model_alone():
    model, x, y = network()
    before = [p.detach().clone() for p in model.parameters()]
    matvec = hvp_operator(lambda: ((model(x) - y) ** 2).mean(), model.parameters())
    matvec(torch.ones(sum(p.numel() for p in model.parameters()), dtype=torch.float64))
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_hessian_of_linear_and_partly_unused_parameters():
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    b = torch.ones(2, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(1, dtype=torch.float64, requires_grad=True)
    v = torch.arange(1.0, 7.0, dtype=torch.float64)
    matvec = hvp_operator(lambda: (w**3).sum() / 6 + b.sum(), [w, b, unused])
    assert torch.equal(matvec(v), torch.tensor([1, 2, 3, 0, 0, 0], dtype=torch.float64))
    assert torch.equal(hvp_operator(lambda: b.sum(), [b])(v[:2]), torch.zeros(2).double())


def test_hessian_products_under_no_grad():
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert hvp_operator(lambda: (w**2).sum(), [w])(torch.ones(3).double()).sum() == 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lanczos(lambda v: v, torch.ones(3), 4), "k must lie between 1"),
        (lambda: lanczos(lambda v: v, torch.ones(3), 0), "k must lie between 1"),
        (lambda: lanczos(lambda v: v, torch.zeros(3), 2), "zero or non-finite starting vector"),
        (lambda: lanczos(lambda v: v[:2], torch.ones(3), 2), "maps shape"),
        (lambda: lanczos(lambda v: v * math.nan, torch.ones(3), 2), "non-finite"),
        (lambda: lanczos(lambda v: v * math.inf, torch.ones(3), 2), "non-finite"),
        (lambda: slq_nodes(lambda v: v, 3, (), 2, 0, generator()), "n_probes"),
        (lambda: hutchinson(lambda v: v * math.nan, 3, 2, generator()), "non-finite"),
        (lambda: hutchinson(lambda v: v, 0, 2, generator()), "n and n_probes"),
        (lambda: hvp_operator(lambda: torch.ones(()), [torch.ones(2)]), "requires a gradient"),
        (
            lambda: hvp_operator(lambda: torch.ones(2), [torch.ones(2, requires_grad=True)]),
            "scalar",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_vector_length_of_a_hessian_product():
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="has 2 entries, the Hessian 3"):
        hvp_operator(lambda: (w**2).sum(), [w])(torch.ones(2))


def test_probes_come_from_the_given_generator_alone():
    state = torch.get_rng_state()
    first = slq_nodes(times(spd(8)), 8, (), 4, 3, generator(1))
    again = slq_nodes(times(spd(8)), 8, (), 4, 3, generator(1))
    other = slq_nodes(times(spd(8)), 8, (), 4, 3, generator(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])

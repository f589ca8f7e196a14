"""Laplacians of the free energy against full Hessians by autograd."""

import math

import pytest
import torch
from networks import sinnet
from torch import nn
from torch.func import functional_call

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.canonical import CanonicalEnsemble, NeuronSystem, Septuple, septuple_of


def naive_free_energy(model, x, beta, flat, shapes):
    """F of one sample from the dense M, as a function of the flat parameters."""
    names = [n for n, _ in model.named_parameters()]
    parts = flat.split([math.prod(s) for s in shapes])
    tensors = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
    states, blocks, state = [x], [], x
    for name, module in model.named_children():
        local = {k.split(".")[1]: v for k, v in tensors.items() if k.startswith(name + ".")}

        def layer(u, module=module, local=local):
            return functional_call(module, local, (u[None],))[0]

        jacobian = torch.func.jacrev(layer)(state[0])
        if isinstance(module, nn.Linear):
            blocks.append(jacobian)
        else:
            blocks[-1] = jacobian @ blocks[-1]
        state = layer(state[0])[None]
        states.append(state)
    widths = [blocks[0].shape[1], *(b.shape[0] for b in blocks)]
    m = torch.eye(sum(widths), dtype=torch.float64)
    rows = []
    for i in range(len(widths)):
        row = []
        for k in range(len(widths)):
            if i == k:
                row.append(torch.eye(widths[i], dtype=torch.float64))
            elif k == i - 1:
                row.append(-blocks[k])
            else:
                row.append(torch.zeros(widths[i], widths[k], dtype=torch.float64))
        rows.append(torch.cat(row, 1))
    m = torch.cat(rows, 0)
    n = sum(widths)
    log_det = torch.logdet(torch.eye(n, dtype=torch.float64) + beta * m.mT @ m)
    return -(0.5 * n * math.log(2 * math.pi) - 0.5 * log_det) / beta


def full_hessian(model, x, beta):
    """Hessian of F over all parameters, and which of them are weights."""
    parameters = list(model.parameters())
    shapes = [p.shape for p in parameters]
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    hessian = torch.autograd.functional.hessian(
        lambda q: naive_free_energy(model, x, beta, q, shapes), flat
    )
    is_weight = torch.cat([torch.full((p.numel(),), p.ndim == 2) for p in parameters])
    return hessian, is_weight


@pytest.mark.parametrize("activation", [None, nn.ReLU])
@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0, 1000.0])
def test_edges_equal_the_hessian_trace_for_piecewise_linear_nets(activation, beta):
    model, x = sinnet([4, 5, 5, 3], 1.3, activation)
    hessian, is_weight = full_hessian(model, x, beta)
    found = CanonicalEnsemble(NeuronSystem(model).jacobian_blocks(x), beta).laplacian("edges")
    expected = float(hessian.diagonal()[is_weight].sum())
    assert float(found) == pytest.approx(expected, rel=1e-6)
    # piecewise linear: the bias Laplacian is zero almost everywhere
    assert abs(float(hessian.diagonal()[~is_weight].sum())) < 1e-9 * abs(expected)


def test_reference_relu_net():
    model, x = sinnet([4, 6, 3], 2.0, nn.ReLU)
    hessian, is_weight = full_hessian(model, x, 1.0)
    assert float(hessian.diagonal()[is_weight].sum()) == pytest.approx(5.47566274, rel=1e-6)


@pytest.mark.parametrize("beta", [0.5, 20.0])
@pytest.mark.parametrize("part", ["weights", "biases", "all"])
def test_hutchinson_over_parameters_equals_the_full_hessian(beta, part):
    model, x = sinnet([4, 5, 5, 3], 1.3)
    hessian, is_weight = full_hessian(model, x, beta)
    chosen = {"weights": is_weight, "biases": ~is_weight, "all": torch.ones_like(is_weight)}[part]
    exact = float(hessian.diagonal()[chosen].sum())
    system = NeuronSystem(model)
    found = system.free_energy_laplacian(x, beta, 400, parameters=part)
    assert abs(float(found) - exact) < 4 * found.stderr
    assert found.stderr < 0.2 * abs(exact)
    # a smooth activation: slopes move with the weights, so the two Laplacians differ
    if part == "weights":
        edges = float(CanonicalEnsemble(system.jacobian_blocks(x), beta).laplacian())
        assert abs(edges - exact) > 20 * abs(float(found) - exact)


def test_rademacher_spread_is_that_of_the_off_diagonal():
    # one probe z^T H z has variance 2 sum_{i != j} H_ij^2: the error bar must say so
    model, x = sinnet([3, 4, 2], 1.3)
    hessian, is_weight = full_hessian(model, x, 2.0)
    block = hessian[is_weight][:, is_weight]
    off = block - torch.diag(block.diagonal())
    expected = math.sqrt(2 * float((off**2).sum()) / 600)
    found = NeuronSystem(model).free_energy_laplacian(x, 2.0, 600)
    assert found.stderr == pytest.approx(expected, rel=0.2)


def test_limits_of_the_edge_laplacian():
    model, x = sinnet([5, 7, 6, 4], 1.5)
    system = NeuronSystem(model)
    blocks = system.jacobian_blocks(x)

    def laplacian(beta):
        return float(CanonicalEnsemble(blocks, beta).laplacian())

    assert laplacian(1e-4) == pytest.approx(81.6230, rel=1e-5)
    hot = sum(
        float((s**2).sum() * e.shape[1]) for s, e in zip(blocks.slopes, blocks.edges, strict=True)
    )
    assert hot == pytest.approx(81.6555, rel=1e-5)
    for beta, value in ((1e3, 189.415), (1e4, 190.821), (1e5, 190.963)):
        assert laplacian(beta) * beta**2 == pytest.approx(value, rel=1e-5)
    # (downstream gain of i) x (upstream noise at j)
    septuple = septuple_of(system, x)
    m = torch.eye(22, dtype=torch.float64) - septuple.jacobian(torch.cat(system.states(x), 1))[0]
    gain = torch.linalg.inv(m @ m.mT).diagonal()
    noise = torch.linalg.inv(m.mT @ m).diagonal()
    slopes = septuple.slopes(torch.cat(system.states(x), 1))[0]
    cold = ((slopes**2 * gain)[:, None] * noise[None] * (septuple.weights != 0)).sum()
    assert float(cold) == pytest.approx(190.978, rel=1e-5)


def test_loops_make_it_negative():
    i = torch.arange(6, dtype=torch.float64)
    w = 0.5 * torch.sin(1 + 3 * i[:, None] + 5 * i[None])
    septuple = Septuple(w, torch.zeros(6), lambda z: z, [], [])
    x = torch.zeros(1, 6, dtype=torch.float64)
    for beta, value in ((1e2, -11.533), (1e4, -15.872), (1e6, -15.9229)):
        assert float(septuple.edge_laplacian(x, beta)) * beta == pytest.approx(value, rel=1e-4)


def test_dense_and_block_forms_agree():
    model, x = sinnet([5, 7, 6, 4], 1.5)
    system = NeuronSystem(model)
    septuple = septuple_of(system, x)
    state = torch.cat(system.states(x), 1)
    for mass in (0.0, 0.02):
        block = CanonicalEnsemble(system.jacobian_blocks(x), 10.0, mass).laplacian()
        assert float(septuple.edge_laplacian(state, 10.0, mass)) == pytest.approx(float(block))


def test_weight_sharing_separates_edges_from_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 2, 3, bias=False), nn.Flatten()).double().eval()
    x = torch.randn(1, 1, 6, dtype=torch.float64)
    system = NeuronSystem(model)
    blocks = system.jacobian_blocks(x)
    edges = float(CanonicalEnsemble(blocks, 1.0).laplacian())
    # one weight per unrolled connection against one per filter tap: second derivatives along
    # a shared direction add the mixed terms of the edges it drives
    taps = next(iter(model.parameters()))

    def free_energy(weight):
        j = torch.func.jacrev(lambda u: nn.functional.conv1d(u[None], weight)[0].flatten())(x[0])
        m = torch.eye(14, dtype=torch.float64)
        m = m - nn.functional.pad(j.reshape(8, 6), (0, 8, 6, 0))
        log_det = torch.logdet(torch.eye(14, dtype=torch.float64) + m.mT @ m)
        return 0.5 * log_det - 7 * math.log(2 * math.pi)

    h = torch.autograd.functional.hessian(free_energy, taps.detach()).reshape(6, 6)
    weights = system.free_energy_laplacian(x, 1.0, 300)
    assert abs(float(weights) - float(h.trace())) < 4 * weights.stderr + 1e-9
    assert abs(edges - float(h.trace())) > 0.003 * abs(edges)
    assert int(blocks.edges[0].sum()) == 2 * 4 * 3


def test_tied_weights_count_once():
    shared = nn.Linear(4, 4).double()
    model = nn.Sequential(shared, nn.Tanh(), shared).eval()
    x = torch.linspace(-1, 1, 4, dtype=torch.float64)[None]

    def free_energy(weight):
        def forward(u):
            z = torch.tanh(u @ weight.T + shared.bias)
            return z, z @ weight.T

        j1 = torch.func.jacrev(lambda u: forward(u)[0])(x[0])
        j2 = weight
        m = torch.eye(12, dtype=torch.float64)
        m = m - nn.functional.pad(j1, (0, 8, 4, 4)) - nn.functional.pad(j2, (4, 4, 8, 0))
        return 0.25 * torch.logdet(torch.eye(12, dtype=torch.float64) + 2 * m.mT @ m)

    h = torch.autograd.functional.hessian(free_energy, shared.weight.detach()).reshape(16, 16)
    found = NeuronSystem(model).free_energy_laplacian(x, 2.0, 500)
    assert abs(float(found) - float(h.trace())) < 4 * found.stderr


def test_what_has_no_laplacian_says_why():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Softmax(1)).eval()
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    ensemble = CanonicalEnsemble(NeuronSystem(model).jacobian_blocks(x), 1.0)
    with pytest.raises(NotApplicableError, match="segment '2' is not affine"):
        ensemble.laplacian()
    with pytest.raises(ValueError, match="free_energy_laplacian"):
        ensemble.laplacian("weights")
    system = NeuronSystem(model)
    for arguments in ({"probes": 1}, {"beta": 0.0}, {"parameters": "some"}):
        with pytest.raises(ValueError):
            system.free_energy_laplacian(x, **{"beta": 1.0, **arguments})
    with pytest.warns(UserWarning, match="kinks"):
        relu = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
        NeuronSystem(relu).free_energy_laplacian(x, 1.0, 4)

"""Kernels read off a module against exact relations, and against neural-tangents."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn.predict.kernels.dual import dual
from thermolearn.predict.kernels.fully_connected import NNGP, NTK
from thermolearn.predict.kernels.of_module import kernel_of

KERNELS = {"ntk": NTK, "nngp": NNGP}
LAW = {"sigma_w2": 1.7, "sigma_b2": 0.2}


def numbers(*shape):
    """sin(1 + 1.7 k^1.5), k = 0, 1, ..."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1 + 1.7 * k**1.5).reshape(shape)


def mlp(depth, act, d=5, n=8):
    layers: list[nn.Module] = [nn.Linear(d, n if depth > 1 else 1)]
    for k in range(1, depth):
        layers += [act(), nn.Linear(n, n if k < depth - 1 else 1)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize(
    ("act", "name"),
    [(nn.ReLU, "relu"), (nn.GELU, "gelu"), (nn.Tanh, "tanh"), (nn.Identity, "linear")],
)
@pytest.mark.parametrize("depth", [1, 3])
def test_fully_connected(kind, act, name, depth):
    x, y = numbers(6, 5), numbers(10, 5)[6:]
    read = kernel_of(mlp(depth, act), kind, parametrization="ntk", **LAW)
    known = KERNELS[kind](depth, name, **LAW)
    for pair in ((x,), (x, y)):
        torch.testing.assert_close(read.gram(*pair), known.gram(*pair), rtol=1e-10, atol=0)
    torch.testing.assert_close(read.diagonal(x), known.diagonal(x), rtol=1e-10, atol=0)
    t = np.linspace(-1, 1, 7)
    np.testing.assert_allclose(read(t), known(t), rtol=1e-10, atol=1e-12)


def test_spectrum_on_the_sphere():
    read = kernel_of(mlp(3, nn.ReLU), parametrization="ntk", **LAW).sphere_spectrum(5, 6)
    known = NTK(3, "relu", **LAW).sphere_spectrum(5, 6)
    np.testing.assert_allclose(read.eigenvalues, known.eigenvalues, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("parametrization", ["standard", "ntk"])
def test_a_window_as_large_as_the_image_is_fully_connected(kind, parametrization):
    x = numbers(5, 2, 3, 4)
    conv = nn.Sequential(
        nn.Conv2d(2, 8, (3, 4)), nn.Tanh(), nn.Conv2d(8, 8, 1), nn.Tanh(), nn.Flatten(),
        nn.Linear(8, 1),
    )  # fmt: skip
    plain = nn.Sequential(
        nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)
    )
    one, other = (
        kernel_of(m, kind, parametrization=parametrization, **LAW).gram(x) for m in (conv, plain)
    )
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KERNELS)
def test_all_pairs_of_positions_agree_with_equal_ones(kind):
    """An average over one position asks for all pairs; the kernel is the same without it."""
    x = numbers(4, 2, 5, 4)

    def model(*extra):
        return nn.Sequential(
            nn.Conv2d(2, 8, 2, padding=1, stride=(1, 2)), nn.ReLU(), nn.LayerNorm([8, 6, 3]),
            nn.Conv2d(8, 8, (3, 1), dilation=(2, 1)), nn.Softplus(), *extra, nn.Flatten(),
            nn.Linear(48, 1),
        )  # fmt: skip

    with_pool = kernel_of(model(nn.AvgPool2d(1)), kind, **LAW)
    without = kernel_of(model(), kind, **LAW)
    torch.testing.assert_close(with_pool.gram(x), without.gram(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(with_pool.diagonal(x), without.diagonal(x), rtol=1e-12, atol=0)
    assert with_pool._plan(x).pair_elements() > without._plan(x).pair_elements()


def test_average_of_a_linear_network_is_that_of_the_input():
    """Without activation the average over all positions passes the layers."""
    x = numbers(4, 3, 6)
    model = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Conv1d(8, 8, 1), nn.AdaptiveAvgPool1d(1),
                          nn.Flatten(), nn.Linear(8, 1))  # fmt: skip
    plain = mlp(3, nn.Identity, 3)
    one = kernel_of(model, sigma_w2=1.3, sigma_b2=0.4).gram(x)
    torch.testing.assert_close(
        one, kernel_of(plain, sigma_w2=1.3, sigma_b2=0.4).gram(x.mean(-1)), rtol=1e-12, atol=0
    )


def test_layer_norm_behind_an_activation_takes_the_mean_off():
    x = numbers(4, 5)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.LayerNorm(8, eps=0.1), nn.Linear(8, 1))
    q1 = NNGP(1, "relu", **LAW).gram(x)
    second = dual("relu").pair(q1.diagonal()[:, None], q1.diagonal()[None], q1)[0]
    m = (q1.diagonal() / (2 * math.pi)).sqrt()  # E max(u, 0)
    centered = second - m[:, None] * m
    s = (q1.diagonal() / 2 - m**2 + 0.1).sqrt()
    wanted = 1.7 * centered / (s[:, None] * s) + 0.2
    torch.testing.assert_close(kernel_of(model, "nngp", **LAW).gram(x), wanted, rtol=1e-12, atol=0)


def test_scale_of_layer_norm_before_an_activation():
    """E phi'(u) phi'(v) u v = E phi(u) phi(v) for ReLU: the part of a trained scale alone."""
    x = numbers(4, 5)
    model = nn.Sequential(
        nn.Linear(5, 8), nn.LayerNorm(8, eps=0.0), nn.ReLU(), nn.Linear(8, 1, bias=False)
    )
    for name, p in model.named_parameters():
        p.requires_grad_(name == "1.weight")
    q1 = NNGP(1, "relu", **LAW).gram(x)
    d = q1.diagonal().sqrt()
    c = q1 / (d[:, None] * d)
    one = torch.ones(4, dtype=torch.float64)
    wanted = 1.7 * dual("relu").pair(one[:, None], one[None], c)[0]
    # E phi'(u) phi'(v) u v by quadrature for tanh, in the same place
    torch.testing.assert_close(kernel_of(model, **LAW).gram(x), wanted, rtol=1e-8, atol=0)
    model[2] = nn.Tanh()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    u = nodes[:, None] + 0 * nodes[None]
    slope = lambda z: z / np.cosh(z) ** 2  # noqa: E731
    got = kernel_of(model, **LAW).gram(x).numpy() / 1.7
    for i, j in ((0, 1), (1, 2), (0, 3), (2, 2)):
        rho = min(float(c[i, j]), 1.0)
        v = rho * u + math.sqrt(1 - rho**2) * nodes[None]
        naive = weights @ (slope(u) * slope(v)) @ weights
        assert got[i, j] == pytest.approx(naive, rel=1e-5)


class PreActivation(nn.Module):
    def __init__(self, blocks, n=8):
        super().__init__()
        self.first = nn.Linear(5, n)
        self.blocks = nn.ModuleList(nn.Linear(n, n) for _ in range(blocks))
        self.last = nn.Linear(n, 1)

    def forward(self, x):
        z = self.first(x)
        for block in self.blocks:
            z = z + block(torch.relu(z)) / 2
        return self.last(z)


def test_residual_network_is_its_recursion():
    x = numbers(5, 5)
    k = 1.7 * x @ x.T / 5 + 0.2
    theta = k.clone()
    relu = dual("relu")
    for _ in range(3):
        q = k.diagonal()
        value, slope = relu.pair(q[:, None], q[None], k)
        branch = 1.7 * value + 0.2
        theta = theta + (branch + 1.7 * slope * theta) / 4
        k = k + branch / 4
    wanted = (1.7 * k + 0.2) + 1.7 * theta
    model = PreActivation(3)
    got = kernel_of(model, parametrization="ntk", **LAW).gram(x)
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=0)
    got = kernel_of(model, "nngp", **LAW).gram(x)
    torch.testing.assert_close(got, 1.7 * k + 0.2, rtol=1e-10, atol=0)


def test_dropout_reshapes_and_steps_on_the_input():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 8)
            self.net = nn.Sequential(nn.ReLU(), mlp(2, nn.ReLU, 8))
            self.register_buffer("mean", torch.full((6,), 0.3, dtype=torch.float64))

        def forward(self, x):
            x = x.view(x.size(0), -1)
            x = torch.tanh((x - self.mean) / 2)
            x = F.dropout(self.first(x), training=self.training)
            return self.net(x.unsqueeze(1).squeeze(1)) * 3

    x = numbers(4, 2, 3)
    model = Model()
    got = kernel_of(model, parametrization="ntk", **LAW).gram(x)
    wanted = 9 * NTK(3, "relu", **LAW).gram(torch.tanh((x.flatten(1) - 0.3) / 2))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=0)


def test_the_raw_input_beside_a_branch():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer, self.last = nn.Linear(5, 8), nn.Linear(8, 5), nn.Linear(5, 1)

        def forward(self, x):
            return self.last(x - self.outer(torch.relu(self.inner(x))))

    x = numbers(4, 5)
    branch = NNGP(2, "relu", **LAW).gram(x)
    wanted = 1.7 * (x @ x.T / 5 + branch) + 0.2
    got = kernel_of(Skip(), "nngp", **LAW).gram(x)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", KERNELS)
def test_blocks_duplicates_and_single_precision(kind):
    x = numbers(9, 2, 4)
    x[7] = x[2]
    model = nn.Sequential(nn.Conv1d(2, 8, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                          nn.Linear(8, 1))  # fmt: skip
    kernel = kernel_of(model, kind, **LAW)
    whole = kernel.gram(x)
    one = 8 * 16 * kernel._plan(x).pair_elements()
    assert torch.equal(whole, whole.T)
    assert torch.equal(whole[7], whole[2]) and torch.equal(whole.diagonal(), kernel.diagonal(x))
    for pairs in (1, 4, 16):
        blocks = kernel.gram(x, memory=pairs * one)
        torch.testing.assert_close(blocks, whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(kernel.gram(x, x[:4].clone()), whole[:, :4], rtol=1e-13, atol=0)
    single = kernel.gram(x.numpy(), dtype=torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), whole, rtol=1e-6, atol=0)


# -- golden numbers ----------------------------------------------------------------------------
class Erf(nn.Module):
    def forward(self, x):
        return torch.erf(x)


class OneBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        z = self.a(x)
        return self.c(torch.relu(z + self.b(torch.relu(z))))


# neural-tangents 0.6.5 with jax 0.4.34 in float64 (jax2tf and tf2jax left out by an empty module
# neural_tangents.experimental): w, b = 1.7 ** .5, .2 ** .5; D = Dense(8, w, b, parameterization=P)
#   residual    serial(D, FanOut(2), parallel(Identity(), serial(Relu(), D)), FanInSum(), Relu(), D)
#   layer_norm  serial(D, LayerNorm(axis=(-1,), eps=1e-5), Relu(), D)
#   flatten     serial(Conv(8, (3, 2), (2, 1), 'VALID', w, b), Relu(), Conv(8, (2, 2), (1, 1),
#               'SAME', w, b), Erf(), Flatten(), D)
#   global      serial(Conv(8, (3, 3), (1, 1), 'SAME', w, b), Relu(), AvgPool((2, 2), (2, 2)),
#               Conv(8, (2, 2), (1, 1), 'VALID', w, b), Relu(), GlobalAvgPool(), D)
# Entries (0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2) of the covariance and of the tangent
# kernel in both parametrizations. Its diagonals carry the rounding of arccos at 1, 1e-8.
GOLDEN = {
    "residual": (
        (
            1.5250347816046954,
            1.2992693419910082,
            1.5793922298431695,
            2.6718469130489653,
            1.436464039015977,
            2.0205539823067515,
        ),
        (
            3.380761219622359,
            2.0164176654498416,
            3.093851695620619,
            6.2012991645258335,
            2.1932615640051405,
            4.599470605132821,
        ),
        (
            14.133059194447114,
            9.240876099556383,
            13.164146519990531,
            24.70779744941812,
            10.0322262424482,
            18.70223465402092,
        ),
    ),
    "layer_norm": (
        (
            1.0499884279952059,
            0.6508147471673208,
            0.9395325094517254,
            1.0499941932894783,
            0.6290489513650583,
            1.0499919020384654,
        ),
        (
            1.8999768559904116,
            0.8511503764968587,
            1.5378603122914938,
            1.8999883865789564,
            0.8033165067050306,
            1.8999838040769306,
        ),
        (
            7.612553863189764,
            3.8634029135190917,
            6.310902690330825,
            7.30737309790114,
            3.6502728382296388,
            7.428658448575603,
        ),
    ),
    "flatten": (
        (
            0.8694845442159851,
            0.5959207201208229,
            0.5030208815989969,
            0.8572593168914782,
            0.6470151642423866,
            0.8998738768128333,
        ),
        (
            2.212416539783077,
            1.0866330583578143,
            0.792246653124175,
            2.1615590406844563,
            1.265885367920332,
            2.348425653703254,
        ),
        (
            35.27211079050624,
            17.671495999091718,
            12.61226328497657,
            34.39893000461966,
            20.74315674285185,
            37.56620560569112,
        ),
    ),
    "global": (
        (
            0.6809208164750242,
            0.6324996936001018,
            0.6538746791578284,
            0.6546388109323833,
            0.6573970345708673,
            0.7328160207075451,
        ),
        (
            1.2658163946522945,
            1.0483681525212998,
            1.0711089819529278,
            1.1953633589025472,
            1.1040658276210125,
            1.3849071450017405,
        ),
        (
            10.449651446500312,
            7.9884444914051365,
            8.212333106447998,
            9.664331700265203,
            8.601312789608969,
            11.793839484241339,
        ),
    ),
}


def golden_model(name):
    plain = nn.LayerNorm(8, elementwise_affine=False)
    return {
        "residual": (OneBlock(), numbers(3, 4)),
        "layer_norm": (
            nn.Sequential(nn.Linear(4, 8), plain, nn.ReLU(), nn.Linear(8, 1)), numbers(3, 4)
        ),
        "flatten": (
            nn.Sequential(nn.Conv2d(2, 8, (3, 2), stride=(2, 1)), nn.ReLU(),
                          nn.Conv2d(8, 8, 2, padding="same"), Erf(), nn.Flatten(),
                          nn.Linear(48, 1)),
            numbers(3, 5, 4, 2).permute(0, 3, 1, 2),
        ),
        "global": (
            nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
                          nn.Conv2d(8, 8, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(8, 1)),
            numbers(3, 4, 6, 2).permute(0, 3, 1, 2),
        ),
    }[name]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", GOLDEN)
def test_neural_tangents(name):
    model, x = golden_model(name)
    rows, columns = torch.triu_indices(3, 3)
    for (kind, parametrization), wanted in zip(
        (("nngp", "ntk"), ("ntk", "ntk"), ("ntk", "standard")), GOLDEN[name], strict=True
    ):
        k = kernel_of(model, kind, parametrization=parametrization, **LAW).gram(x)
        got = k[rows, columns].numpy()
        np.testing.assert_allclose(got, wanted, rtol=1e-9)
        off = (rows != columns).numpy()
        np.testing.assert_allclose(got[off], np.array(wanted)[off], rtol=1e-12)


def test_blank_inputs_and_patches():
    """Positions without variance: no bias, and patches of zeros."""
    x = numbers(4, 1, 5, 5)
    x[0], x[1, :, 3:] = 0, 0
    for pool in (nn.Identity(), nn.AdaptiveAvgPool2d(1)):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.ReLU(), pool, nn.Flatten(),
            nn.Linear(8 if isinstance(pool, nn.AdaptiveAvgPool2d) else 200, 1, bias=False),
        )  # fmt: skip
        k = kernel_of(model, sigma_w2=2.0).gram(x)
        assert torch.isfinite(k).all() and (k[0] == 0).all() and (k[1:, 1:].diagonal() > 0).all()


def test_many_variances_of_a_tabulated_activation():
    """Patches of zeros beside others, and blocks: one table for all, against direct averages."""
    x = numbers(5, 1, 6)
    x[:, :, :3] = 0
    model = nn.Sequential(nn.Conv1d(1, 8, 2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(56, 1))
    kernel = kernel_of(model, "nngp", sigma_w2=1.5, sigma_b2=0.04)
    k = kernel.gram(x, memory=2 * 8 * 16 * 7)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    padded = F.pad(x, (1, 1)).unfold(2, 2, 1)[:, 0]  # (samples, positions, 2)
    for i, j in ((0, 1), (2, 4), (3, 3)):
        q1, q2, c = (
            (1.5 * (padded[a] * padded[b]).sum(-1) / 2 + 0.04).numpy()
            for a, b in ((i, i), (j, j), (i, j))
        )
        total = 0.0
        for a, b, d in zip(q1, q2, c, strict=True):
            u = math.sqrt(a) * nodes[:, None]
            v = d / math.sqrt(a) * nodes[:, None] + math.sqrt(max(b - d**2 / a, 0)) * nodes
            total += weights @ (np.tanh(u) * np.tanh(v)) @ weights
        assert float(k[i, j]) == pytest.approx(1.5 * total / 7 + 0.04, rel=1e-7)

"""Kernels read off a module: wide random networks, exact relations between architectures."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn.predict.kernels.of_module import kernel_of

W2, B2 = 1.7, 0.2  # the law of the random networks
NETS = 16
ALLOWANCE = 4.0  # corrections of finite width, relative: ALLOWANCE / width


def inputs(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn(model, seed):
    """All affine layers ~ N(0, W2 / fan_in) and N(0, B2)."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.normal_(0, math.sqrt(W2 / fan_in), generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, math.sqrt(B2), generator=generator)
    return model


def tangent(model, x):
    """Sum over parameters of products of gradients of output 0, by plain Jacobians."""
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, x)[:, 0])(
        parameters
    )
    rows = torch.cat([j.flatten(1) for j in jacobian.values()], dim=1)
    return rows @ rows.T


class Residual(nn.Module):
    """z -> z + W phi(V z), twice, with a difference and a constant factor."""

    def __init__(self, d, n, norm=False):
        super().__init__()
        self.first = nn.Linear(d, n)
        self.inner = nn.ModuleList(nn.Linear(n, n) for _ in range(2))
        self.outer = nn.ModuleList(nn.Linear(n, n) for _ in range(2))
        self.norms = nn.ModuleList((nn.LayerNorm(n) if norm else nn.Identity()) for _ in range(2))
        self.last = nn.Linear(n, 16)

    def forward(self, x):
        z = self.first(x)
        z = z + self.outer[0](torch.relu(self.inner[0](self.norms[0](z))))
        z = 0.7 * z - self.outer[1](torch.tanh(self.inner[1](self.norms[1](z)))) / 2
        return self.last(F.relu(z))


class ConvResidual(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.stem = nn.Conv2d(2, c, 3, padding=1)
        self.branch = nn.Sequential(
            nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 1)
        )
        self.head = nn.Linear(c, 16)

    def forward(self, x):
        x = self.stem(x)
        x = F.avg_pool2d(x + self.branch(x), 2)
        return self.head(torch.relu(x).mean(dim=(2, 3)))


class TokenMLP(nn.Module):
    """LayerNorm over channels at every position, a residual MLP per position, mean over them."""

    def __init__(self, d, n):
        super().__init__()
        self.embed, self.norm = nn.Linear(d, n), nn.LayerNorm(n)
        self.inner, self.outer = nn.Linear(n, n), nn.Linear(n, n)
        self.head = nn.Linear(n, 16)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.outer(F.gelu(self.inner(self.norm(x))))
        return self.head(torch.tanh(x).mean(1))


def mlp(act, n=384):
    return nn.Sequential(
        nn.Linear(5, n), act, nn.Linear(n, n), act, nn.Linear(n, 16)
    )  # fmt: skip


CASES = {
    "relu": (lambda: mlp(nn.ReLU()), (4, 5), 384),
    "tanh": (lambda: mlp(nn.Tanh()), (4, 5), 384),
    "gelu": (lambda: mlp(nn.GELU()), (4, 5), 384),
    "leaky relu": (lambda: mlp(nn.LeakyReLU(0.3)), (4, 5), 384),
    "residual": (lambda: Residual(5, 256), (4, 5), 256),
    "residual with LayerNorm": (lambda: Residual(5, 256, norm=True), (4, 5), 256),
    "LayerNorm before ReLU": (
        lambda: nn.Sequential(nn.Linear(5, 256), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, 256),
                              nn.LayerNorm(256, eps=0.3), nn.Tanh(), nn.Linear(256, 16)),
        (4, 5), 256,
    ),
    "LayerNorm behind ReLU": (
        lambda: nn.Sequential(nn.Linear(5, 256), nn.ReLU(), nn.LayerNorm(256), nn.Linear(256, 256),
                              nn.Softplus(), nn.LayerNorm(256, elementwise_affine=False),
                              nn.Linear(256, 16)),
        (4, 5), 256,
    ),
    "CNN, flatten": (
        lambda: nn.Sequential(nn.Conv2d(2, 64, 3, padding=1), nn.ReLU(),
                              nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(),
                              nn.Linear(64 * 16, 16)),
        (3, 2, 4, 4), 64,
    ),
    "CNN, global average": (
        lambda: nn.Sequential(nn.Conv2d(2, 64, 3, padding=1), nn.ReLU(),
                              nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                              nn.Flatten(), nn.Linear(64, 16)),
        (3, 2, 4, 4), 64,
    ),
    "CNN, stride, padding, dilation": (
        lambda: nn.Sequential(nn.Conv2d(2, 96, (3, 2), stride=(2, 1), padding=(2, 0)), nn.Tanh(),
                              nn.Conv2d(96, 96, 3, dilation=(2, 1), padding="same"), nn.ReLU(),
                              nn.AvgPool2d(2, stride=1, padding=1), nn.Flatten(),
                              nn.Linear(96 * 5 * 5, 16)),
        (3, 2, 6, 5), 96,
    ),
    "CNN of one dimension, LayerNorm over all": (
        lambda: nn.Sequential(nn.Conv1d(3, 128, 3), nn.ReLU(), nn.LayerNorm([128, 5]),
                              nn.Conv1d(128, 128, 2, stride=2), nn.LayerNorm([128, 2]), nn.ReLU(),
                              nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 16)),
        (3, 3, 7), 128,
    ),
    "residual CNN": (lambda: ConvResidual(96), (3, 2, 4, 4), 96),
    "tokens": (lambda: TokenMLP(4, 256), (3, 5, 4), 256),
}  # fmt: skip


def trained_only(model, *names):
    for name, p in model.named_parameters():
        p.requires_grad_(any(n in name for n in names))
    return model


class TokensAsChannels(nn.Module):
    """Linear at every position, then a convolution over the positions."""

    def __init__(self, d, n):
        super().__init__()
        self.embed, self.conv = nn.Linear(d, n), nn.Conv1d(n, n, 2)
        self.head = nn.Linear(n * 3, 16)

    def forward(self, x):
        x = torch.tanh(self.embed(x)).transpose(1, 2)
        return self.head(torch.relu(self.conv(x)).flatten(1))


CASES |= {
    # the large matrices held, what remains is seen
    "biases alone": (lambda: trained_only(mlp(nn.Tanh()), "bias"), (4, 5), 384),
    "scales of LayerNorm alone": (
        lambda: trained_only(
            nn.Sequential(nn.Linear(5, 384), nn.LayerNorm(384), nn.Tanh(), nn.Linear(384, 384),
                          nn.LayerNorm(384), nn.Linear(384, 16)), "1.weight", "4.weight"),
        (4, 5), 384,
    ),
    "scales and shifts over positions": (
        lambda: trained_only(
            nn.Sequential(nn.Conv1d(3, 192, 2), nn.LayerNorm([192, 4]), nn.ReLU(),
                          nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(192, 16)), "1."),
        (3, 3, 5), 192,
    ),
    "tokens as channels": (lambda: TokensAsChannels(3, 128), (3, 4, 3), 128),
    "RMSNorm": (
        lambda: nn.Sequential(nn.Linear(5, 256), nn.ReLU(), nn.RMSNorm(256), nn.Linear(256, 16)),
        (4, 5), 256,
    ),
}  # fmt: skip


def features(model, x):
    """What the last affine layer reads."""
    found = []
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    handle = last.register_forward_pre_hook(lambda _, args: found.append(args[0].detach()))
    model(x)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("name", CASES)
def test_wide_random_networks(name):
    build, shape, width = CASES[name]
    x = inputs(*shape)
    ntk, nngp = [], []
    for seed in range(NETS):
        model = drawn(build(), seed)
        ntk.append(tangent(model, x))
        # the covariance of the outputs over draws of the last layer
        h = features(model, x)
        nngp.append(W2 * h @ h.T / h.shape[1] + B2)
    for kind, samples in (("ntk", ntk), ("nngp", nngp)):
        k = kernel_of(model, kind, sigma_w2=W2, sigma_b2=B2).gram(x)
        samples = torch.stack(samples)
        error = samples.std(0) / math.sqrt(NETS)
        scale = k.diagonal().sqrt()
        scale = scale[:, None] * scale
        assert (error < 0.06 * scale).all()
        assert ((samples.mean(0) - k).abs() <= 4 * error + ALLOWANCE / width * scale).all()


def test_several_outputs_are_uncorrelated():
    x = inputs(3, 5)
    mean_products = []
    for seed in range(NETS):
        with torch.no_grad():
            f = drawn(CASES["tanh"][0](), seed)(x)
        pairs = torch.einsum("io,jp->opij", f, f)
        mean_products.append(pairs[~torch.eye(f.shape[1], dtype=torch.bool)].mean(0))
    products = torch.stack(mean_products)
    assert (products.mean(0).abs() <= 4 * products.std(0) / math.sqrt(NETS)).all()


@pytest.mark.parametrize("convolutional", [False, True])
def test_scale_of_a_module_as_torch_makes_it(convolutional):
    """Read off a default initialization, in the scale of the module's own tangent kernel."""
    x = inputs(4, 30)
    ratios = []
    for seed in range(NETS):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if convolutional:
                model = nn.Sequential(
                    nn.Unflatten(1, (3, 10)), nn.Conv1d(3, 128, 3), nn.ReLU(),
                    nn.Conv1d(128, 128, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                    nn.Linear(128, 8),
                )  # fmt: skip
            else:
                model = nn.Sequential(nn.Linear(30, 256), nn.ReLU(), nn.Linear(256, 8))
        k = kernel_of(model).gram(x)
        scale = k.diagonal().sqrt()
        ratios.append((tangent(model.double(), x) - k) / (scale[:, None] * scale))
    found = torch.stack(ratios)
    error = found.std(0) / math.sqrt(NETS)
    assert (error < 0.04).all()
    assert (found.mean(0).abs() <= 4 * error + ALLOWANCE / 256).all()

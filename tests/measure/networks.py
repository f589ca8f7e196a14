"""Small networks and data of a given seed, and naive transcriptions used as oracles."""

import itertools
import math

import torch
from torch import nn

CHAIN_WEIGHTS = (1.2, -1.5, 1.1, 1.6, -0.9, 1.3)
CHAIN_BIASES = (0.1, -0.2, 0.3, 0.0, 0.1, -0.1)


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sinnet(widths, scale, activation=nn.Tanh):
    """W_l[i,j] = s sin(1+3i+5j+7l)/sqrt(n_{l-1}), b_l[i] = .1 cos(i+l), x_j = cos 2j."""
    layers = []
    for layer in range(1, len(widths)):
        linear = nn.Linear(widths[layer - 1], widths[layer]).double()
        i = torch.arange(widths[layer], dtype=torch.float64)[:, None]
        j = torch.arange(widths[layer - 1], dtype=torch.float64)[None]
        with torch.no_grad():
            linear.weight.copy_(
                scale * torch.sin(1 + 3 * i + 5 * j + 7 * layer) / math.sqrt(widths[layer - 1])
            )
            linear.bias.copy_(0.1 * torch.cos(i[:, 0] + layer))
        layers.append(linear)
        if activation is not None and layer < len(widths) - 1:
            layers.append(activation())
    x = torch.cos(2 * torch.arange(widths[0], dtype=torch.float64))[None]
    return nn.Sequential(*layers).eval(), x


def chain(activation=nn.Tanh):
    """Six neurons in a row, every one with the activation; input 0.7."""
    layers = []
    for w, b in zip(CHAIN_WEIGHTS, CHAIN_BIASES, strict=True):
        linear = nn.Linear(1, 1).double()
        with torch.no_grad():
            linear.weight.fill_(w)
            linear.bias.fill_(b)
        layers += [linear] if activation is None else [linear, activation()]
    return nn.Sequential(*layers).eval(), torch.tensor([[0.7]], dtype=torch.float64)


class Residual(nn.Module):
    """Convolutions, batch normalization, pooling, a residual block, functional calls."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.tanh(x + self.second(torch.tanh(self.first(x))))
        x = nn.functional.avg_pool2d(x, 2)
        return self.head(self.drop(x.view(x.size(0), -1)))


def residual_net(seed=0):
    torch.manual_seed(seed)
    model = Residual().double()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model.eval(), torch.randn(3, 2, 4, 4, dtype=torch.float64)


def random_blocks(widths, batch=3, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        scale * torch.randn(batch, b, a, generator=generator, dtype=torch.float64) / math.sqrt(a)
        for a, b in itertools.pairwise(widths)
    ]


def naive_m(blocks):
    """M = 1 - J written out entry block by entry block."""
    widths = [blocks[0].shape[-1], *(b.shape[-2] for b in blocks)]
    m = torch.eye(sum(widths), dtype=torch.float64).repeat(len(blocks[0]), 1, 1)
    for layer, b in enumerate(blocks):
        row, column = sum(widths[: layer + 1]), sum(widths[:layer])
        m[:, row : row + b.shape[-2], column : column + b.shape[-1]] -= b
    return m


def naive_state_functions(blocks, beta, mass=0.0):
    """Sums over eigenvalues g_i = lambda_i - m, straight from the definitions; shape (B,) each."""
    m = naive_m(blocks)
    g = torch.linalg.eigvalsh(m.mT @ m) - mass
    n, d = g.shape[-1], 1 + beta * g
    log_z = 0.5 * n * math.log(2 * math.pi) - 0.5 * d.log().sum(-1)
    u = 0.5 * (g / d).sum(-1)
    s_rel = beta * u + log_z - 0.5 * n * math.log(2 * math.pi)
    s_diff = 0.5 * n * (1 + math.log(2 * math.pi)) - 0.5 * d.log().sum(-1)
    return {
        "log_partition": log_z,
        "free_energy": -log_z / beta,
        "average_loss": u,
        "energy_variance": 0.5 * ((g / d) ** 2).sum(-1),
        "heat_capacity": beta**2 * 0.5 * ((g / d) ** 2).sum(-1),
        "relative": s_rel,
        "differential": s_diff,
        "complexity": -0.5 * (g + 1 / beta).log().sum(-1),
    }

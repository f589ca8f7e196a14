"""Gram matrices in blocks: the same numbers for any block, in little memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from thermolearn.predict.kernels import angular
from thermolearn.predict.kernels.blocked import Recursion
from thermolearn.predict.kernels.dual import dual
from thermolearn.predict.kernels.fully_connected import NNGP, NTK


def inputs(n: int, d: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, d, generator=generator, dtype=torch.double)


@pytest.mark.parametrize("activation", ["relu", nn.LeakyReLU(0.3), "erf"])
@pytest.mark.parametrize("block", [1, 7, 16, 50, 1000])
def test_blocks_do_not_show(activation: object, block: int) -> None:
    x, x2 = inputs(50, 6), inputs(31, 6) * 2
    kernel = NTK(3, activation, 2.0, 0.05)
    for one, two in ((x, None), (x, x2)):
        for found, expected in zip(
            kernel.gram_pair(one, two, block=block), kernel.gram_pair(one, two), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_float32_against_float64(activation: str) -> None:
    x = inputs(700, 64)
    x[400] = x[2]
    kernel = NTK(4, activation, 2.0, 0.01)
    for single, double in zip(
        kernel.gram_pair(x, dtype=torch.float32), kernel.gram_pair(x), strict=True
    ):
        assert single.dtype == torch.float32
        largest = float(double.diagonal().max())
        assert float((single.double() - double).abs().max()) < 1e-6 * largest
        torch.testing.assert_close(
            single.diagonal().double(), double.diagonal(), rtol=1e-6, atol=0.0
        )
        assert float(single[2, 400]) == pytest.approx(float(single[2, 2]), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("slope", [0.0, 0.3, -0.5, -1.0, 1.0])
@pytest.mark.parametrize("b2", [0.0, 0.3])
def test_compiled_loop_and_torch(dtype: torch.dtype, slope: float, b2: float) -> None:
    """The two ways through the layers are the same to rounding, at any angle and unlike lengths."""
    x, x2 = inputs(9, 3).double(), 3 * inputs(130, 3)
    recursion = Recursion(5, dual(nn.LeakyReLU(slope)), 1.7, b2)
    first, second = (recursion.rows(v, dtype).layers for v in (x, x2))
    assert first is not None and second is not None
    generator = torch.Generator().manual_seed(0)
    size = 10 ** (-40 * torch.rand(4, 117, generator=generator, dtype=torch.double)) / 2
    size[:, 50:] = torch.rand(4, 67, generator=generator, dtype=torch.double) / 2
    half = torch.where(torch.rand(4, 117, generator=generator) < 0.5, 1 - size, size).to(dtype)
    h = angular.signed(half, torch.where(half > 0.5, size, 1 - size).to(dtype))
    one = angular.Layers(*(v[..., 2:6] for v in first))
    two = angular.Layers(*(v[..., 5:122] for v in second))
    expected = angular.by_torch(slope, h, one, two)
    found = angular.by_numba(slope, h, torch.empty_like(h), first, second, 2, 5)
    scale = one.scale[:, None] * two.scale
    rounding = torch.finfo(dtype).eps
    for a, b in zip(found, expected, strict=True):
        assert float(((a - b) / scale).abs().max()) < 30 * rounding


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_series_of_the_arc_sine(dtype: torch.dtype) -> None:
    m = np.linspace(1e-9, 0.5, 20001)
    series = np.polynomial.polynomial.polyval(4 * m - 1, angular.ARC[dtype])
    error = np.abs(series / (np.arcsin(np.sqrt(m)) / np.sqrt(m)) - 1).max()
    assert error < (1e-15 if dtype == torch.float64 else 5e-8)


def test_pair_is_both() -> None:
    x = inputs(40, 5)
    k, theta = NNGP(3, "relu", 1.5, 0.1).gram_pair(x)
    torch.testing.assert_close(k, NNGP(3, "relu", 1.5, 0.1).gram(x), rtol=0.0, atol=0.0)
    torch.testing.assert_close(theta, NTK(3, "relu", 1.5, 0.1).gram(x), rtol=0.0, atol=0.0)


MEMORY = """
import torch
from thermolearn.predict.kernels.fully_connected import NTK
x = torch.randn(3000, 64, dtype=torch.double, generator=torch.Generator().manual_seed(0))
kernel = NTK(4, "{activation}", 2.0, 0.01)
kernel.gram_pair(x[:600])
def peak():  # not ru_maxrss, which a process takes over from its parent
    with open("/proc/self/status") as rows:
        return int(next(r for r in rows if r.startswith("VmHWM")).split()[1]) * 1024
before = peak()
result = kernel.gram_pair(x)
print((peak() - before) / sum(r.numel() * r.element_size() for r in result))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_peak_memory_is_little_more_than_the_result(activation: str) -> None:
    code = MEMORY.format(activation=activation)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert 0.9 < float(done.stdout) < 1.5


def test_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    NTK(3).gram(inputs(20, 4))
    assert torch.equal(state, torch.get_rng_state())

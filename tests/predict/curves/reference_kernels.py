"""Kernels of fully connected networks on the sphere, written out from the textbook recursion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Kernel = Callable[[np.ndarray], np.ndarray]


def relu(depth: int, sigma_w2: float = 2.0, sigma_b2: float = 0.0, ntk: bool = True) -> Kernel:
    """k(t) of a ReLU network with `depth` weight layers, inputs on the sphere."""

    def kernel(t: np.ndarray) -> np.ndarray:
        nngp = sigma_w2 * t + sigma_b2
        tangent, q = nngp, sigma_w2 + sigma_b2
        for _ in range(depth - 1):
            rho = np.clip(nngp / q, -1, 1)
            angle = np.arccos(rho)
            pair = q * (np.sqrt(1 - rho**2) + (np.pi - angle) * rho) / (2 * np.pi)
            nngp = sigma_w2 * pair + sigma_b2
            tangent = nngp + sigma_w2 * tangent * (np.pi - angle) / (2 * np.pi)
            q = sigma_w2 * q / 2 + sigma_b2
        return tangent if ntk else nngp

    return kernel


def erf_nngp(depth: int, sigma_w2: float, sigma_b2: float) -> Kernel:
    def kernel(t: np.ndarray) -> np.ndarray:
        nngp, q = sigma_w2 * t + sigma_b2, sigma_w2 + sigma_b2
        for _ in range(depth - 1):
            nngp = sigma_w2 * 2 / np.pi * np.arcsin(2 * nngp / (1 + 2 * q)) + sigma_b2
            q = sigma_w2 * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) + sigma_b2
        return nngp

    return kernel

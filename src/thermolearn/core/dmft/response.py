"""The response of every sample, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import get_blas_funcs

BLOCK = 16  # steps per array of the tensor


class ResponseTensor:
    """D(t, s) = d g(t) / d P(s) of N samples, and its average G(t, s).

    H(t, s) = leak H(t-1, s) + delta_ts + sum_{s <= u < t} kernel(t, u) D(u, s), D = gain(t) H.
    T^2 N / 2 numbers and T^3 N / 6 multiplications, read once per step: the time is that of
    reading memory. The tensor grows in blocks of 16 steps that are never moved.

    Parameters
    ----------
    samples : int
        N.
    leak : float
    dtype : numpy dtype
        float32 or float64.
    memory : bool
        Whether there is a kernel; without one nothing is stored.
    """

    def __init__(self, samples: int, leak: float, dtype: np.dtype, memory: bool):
        self.samples, self.leak, self.dtype, self.memory = samples, leak, dtype, memory
        self._gemv: Any = get_blas_funcs("gemv", dtype=dtype)
        self._blocks: list[np.ndarray] = []  # (BLOCK, steps, N): D(u, s)
        self._last = np.zeros((BLOCK, samples), dtype)  # H(t, s)

    def step(self, t: int, kernel: np.ndarray | None, gain: np.ndarray) -> np.ndarray:
        """G(t, s), s = 0, ..., t, from kernel(t, u), u < t, and the gain (N,) of step t."""
        if t >= len(self._last):
            self._last = np.concatenate([self._last, np.zeros_like(self._last[:BLOCK])])
        last = self._last
        if not self.leak:
            last[:t] = 0
        elif self.leak != 1.0:
            last[:t] *= self.leak
        if kernel is not None:
            self._add_memory(last.reshape(-1), kernel.astype(self.dtype), t)
        last[t] = 1
        gain = np.ascontiguousarray(gain, dtype=self.dtype)
        if self.memory:
            np.multiply(last[: t + 1], gain, out=self._row(t)[: t + 1])
        return (last[: t + 1] @ gain).astype(np.float64) / self.samples

    def _row(self, t: int) -> np.ndarray:
        if t % BLOCK == 0:
            self._blocks.append(np.zeros((BLOCK, t + BLOCK, self.samples), self.dtype))
        return self._blocks[-1][t % BLOCK]

    def _add_memory(self, last: np.ndarray, kernel: np.ndarray, t: int) -> None:
        for k, block in enumerate(self._blocks):
            part = kernel[k * BLOCK : min((k + 1) * BLOCK, t)]
            if part.any():
                matrix = block[: len(part)].reshape(len(part), -1).T  # D(u, s) is 0 for s > u
                length = len(matrix)
                self._gemv(1.0, matrix, part, beta=1.0, y=last[:length], overwrite_y=1)

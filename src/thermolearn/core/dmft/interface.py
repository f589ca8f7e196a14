"""What a system tells the solver: its single site and its closure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np


class SiteStep(NamedTuple):
    """What the N Monte Carlo samples of a single site do in one step.

    Attributes
    ----------
    signal : ndarray (K, N)
        g_k(t), what the site sends to the others.
    gain : ndarray (K', N), optional
        The derivative of g_k(t) by h_k(t), for the first K' <= K signals; None: no response is
        wanted. Replicas that are alike need only K' = 1.
    observables : mapping of str to ndarray (N,)
        Averaged over the samples at every step (a loss, say).
    state : any
        Handed back at the next step.
    """

    signal: np.ndarray
    gain: np.ndarray | None = None
    observables: Mapping[str, np.ndarray] = {}
    state: Any = None


@dataclass(frozen=True)
class Averages:
    """The averages of step t over the samples.

    Attributes
    ----------
    M : ndarray (K, K, t + 1)
        <g_a(t) g_b(s)>, s = 0, ..., t.
    G : ndarray (K', t + 1), optional
        <d g_k(t) / d P_k(s)>, P added to h at step s.
    observables : dict of str to float
    """

    M: np.ndarray
    G: np.ndarray | None
    observables: dict[str, float]


class SingleSite(Protocol):
    """The effective process of one site, for N samples at once; made fresh for every run.

    h(t) = leak h(t - 1) + field(t) + memory(t) + (what does not depend on a perturbation of h),
    g(t) = a function of h(t). The site computes h and g itself; the solver needs the leak for the
    response, d h(t) / d P(s) = leak d h(t-1) / d P(s) + delta_ts + sum_u kernel(t, u) D(u, s).

    Attributes
    ----------
    matched : ndarray (r, N)
        Rows (the labels, say) to which the Gaussian fields are made orthogonal, besides the
        constant; may be empty, or left out.
    leak : float
        0 where h is not carried over.
    """

    matched: np.ndarray
    leak: float

    def step(
        self, t: int, field: np.ndarray, memory: np.ndarray, state: Any, rng: np.random.Generator
    ) -> SiteStep:
        """One step from the Gaussian fields (F, N) and the memory (K, N)."""
        ...


class Closure(Protocol):
    """The order parameters, from averages of earlier steps only; made fresh for every run.

    A closure may have one more method, ``mean(t) -> ndarray (F, r) or None``: the coefficients of
    the site's r `matched` rows in the mean of the fields, field_a(t) = sum_j mean[a, j]
    matched[j] + a Gaussian of the covariance (the magnetization of a perceptron, say).
    """

    def covariance(self, t: int) -> np.ndarray:
        """<field_a(t) field_b(s)> for s = 0, ..., t: shape (F, F, t + 1)."""
        ...

    def kernel(self, t: int) -> np.ndarray | None:
        """memory_k(t) = sum over s < t of kernel[k, s] g_k(s): (K, t), or (1, t) if alike for all
        k; None at every t if there is no memory."""
        ...

    def advance(self, t: int, averages: Averages) -> None:
        """Move the order parameters to t + 1."""
        ...

    def order_parameters(self) -> dict[str, np.ndarray]:
        """After the last step, as arrays of their own. Names that begin with R are checked for
        causality (R[t, s] = 0 for t <= s), those that begin with C for positivity."""
        ...


def enlarged(array: np.ndarray, n: int, axes: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """The array, if its `axes` hold n entries; else a copy with these axes padded with zeros to
    twice their length or more. For order parameters that grow step by step."""
    if all(array.shape[axis] >= n for axis in axes):
        return array
    shape = list(array.shape)
    for axis in axes:
        shape[axis] = max(n, 2 * shape[axis])
    out = np.zeros(shape, array.dtype)
    out[tuple(slice(length) for length in array.shape)] = array
    return out

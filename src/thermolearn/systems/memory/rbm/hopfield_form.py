"""Gaussian hidden units summed out: the Hopfield network inside a Boltzmann machine.

References: A. Barra, A. Bernacchia, E. Santucci, P. Contucci, Neural Netw. 34 (2012) 1; E. Agliari,
F. Alemanno, A. Barra, G. De Marzo, arXiv:2109.00454.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import is_signs, real
from thermolearn.core.errors import NotApplicableError
from thermolearn.systems.memory.rbm.units import Weights


@dataclass(frozen=True, eq=False)
class HopfieldForm:
    """ln p(v) + ln Z = beta (1/2 v J v + field . v) + constant.

    Attributes
    ----------
    J : ndarray (n_visible, n_visible)
        Symmetric, diagonal included.
    field : ndarray (n_visible,)
    constant : float
        b^2 / 2.
    """

    J: np.ndarray
    field: np.ndarray
    constant: float


def hebbian_weights(eta: ArrayLike, beta: float, quality: float | None) -> np.ndarray:
    """W (N, K M) of the machine equivalent to the Hebb rule on the examples."""
    x = np.asarray(eta, dtype=np.float64)
    if x.ndim not in (2, 3) or x.size == 0:
        raise ValueError(f"eta must have shape (K, N) or (K, M, N), got {x.shape}")
    if not is_signs(x):
        raise ValueError("eta must hold -1 and 1 only")
    real("beta", beta, above=0)
    n_examples = x.shape[1] if x.ndim == 3 else 1
    power = 1.0
    if quality is not None:
        real("quality", quality, above=0, most=1)
        power = quality**2 + (1 - quality**2) / n_examples
    n = x.shape[-1]
    return math.sqrt(beta / (n * n_examples * power)) * x.reshape(-1, n).T


def hopfield_form(w: Weights, beta: float) -> HopfieldForm:
    """The pairwise form of the visible layer; see `RBM.to_hopfield`."""
    if w.hidden != "gaussian":
        raise NotApplicableError(
            f"{w.hidden} hidden units induce interactions of every order between visible ones; "
            "only hidden='gaussian' gives a Hopfield network"
        )
    real("beta", beta, above=0)
    W, a, b = (x.numpy() for x in (w.W, w.a, w.b))
    return HopfieldForm(W @ W.T / beta, (a + W @ b) / beta, float(b @ b / 2))

"""Coupled Langevin dynamics of fast neurons and slow synapses, by Euler-Maruyama.

    tau  dx_i  = [phi(beta (gain sum_j J_ij x_j + bias_i)) - x_i] dt + sqrt(2 tau T) dW_i
    tau' dJ_ij = [gamma x_i x_j - J_ij] dt + s_J sqrt(2 tau') dW_ij,   dW_ij = dW_ji

with phi = tanh, or phi = (1 + tanh) / 2 for firing rates in [0, 1].

Reference: E. Agliari, M. Aquaro, A. Barra, A. Fachechi, C. Marullo, arXiv:2204.07954; the
synaptic drift is the linear one, the small-coupling form of -J + tanh(...).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


# reassoc: the row sums may be vectorized; the order is fixed when compiled, so bits repeat
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def advance(
    J: np.ndarray,
    x: np.ndarray,
    bias: np.ndarray,
    rate: np.ndarray,
    gain: float,
    beta: float,
    gamma: float,
    floor: float,
    step: float,
    neuron_kick: float,
    synapse_kick: float,
    n_steps: int,
    rng: np.random.Generator,
) -> None:
    """Advance J and x in place under a constant stimulus.

    Both are updated from the values at the beginning of a step. A pass over J makes the fields
    and the synaptic drift together: O(N^2) per step, the dominant cost.

    Parameters
    ----------
    J : array (N, N)
        Couplings, C-contiguous; changed in place.
    x : array (N,)
        Activities; changed in place.
    bias : array (N,)
        Stimulus minus threshold.
    rate : array (N, N)
        dt / tau' of each synapse, 0 for a fixed one.
    gain, beta, gamma : float
        Of the field, of the neurons, of the synaptic drift.
    floor : float
        Lowest target: -1 gives tanh, 0 gives (1 + tanh) / 2.
    step : float
        dt / tau.
    neuron_kick : float
        sqrt(2 T dt / tau), the standard deviation of the neurons' noise per step.
    synapse_kick : float
        s_J sqrt(2); times sqrt(rate_ij) it is that of synapse ij, the same for ij and ji.
    n_steps : int
    rng : numpy Generator
    """
    n = x.shape[0]
    field = np.empty(n)
    half = (1.0 - floor) / 2
    for _ in range(n_steps):
        for i in range(n):
            total = 0.0
            drive = gamma * x[i]
            for j in range(n):
                total += J[i, j] * x[j]
                J[i, j] += rate[i, j] * (drive * x[j] - J[i, j])
            field[i] = total
        if synapse_kick > 0.0:
            for i in range(n):
                for j in range(i + 1):
                    noise = synapse_kick * rng.standard_normal()
                    J[i, j] += math.sqrt(rate[i, j]) * noise
                    if j < i:
                        J[j, i] += math.sqrt(rate[j, i]) * noise
        for i in range(n):
            target = floor + half * (1.0 + math.tanh(beta * (gain * field[i] + bias[i])))
            x[i] += step * (target - x[i])
        if neuron_kick > 0.0:
            for i in range(n):
                x[i] += neuron_kick * rng.standard_normal()


def advance_numpy(
    J: np.ndarray,
    x: np.ndarray,
    bias: np.ndarray,
    rate: np.ndarray,
    gain: float,
    beta: float,
    gamma: float,
    floor: float,
    step: float,
    n_steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The noiseless dynamics of `advance` in plain numpy, for tests and for reading."""
    for _ in range(n_steps):
        target = floor + (1 - floor) / 2 * (1 + np.tanh(beta * (gain * J @ x + bias)))
        J, x = J + rate * (gamma * np.outer(x, x) - J), x + step * (target - x)
    return J, x

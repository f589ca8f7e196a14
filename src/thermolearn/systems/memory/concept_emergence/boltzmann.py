"""The same memory as a restricted Boltzmann machine with Gaussian hidden units."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import is_signs, real, whole
from thermolearn.systems.memory.archetypes import checked_examples
from thermolearn.systems.memory.example_noise import second_moment
from thermolearn.systems.memory.glauber import GlauberRun


def rbm_weights(eta: ArrayLike, T: float, r: float, normalise: bool = True) -> np.ndarray:
    """W = eta / sqrt(T N M calR), one Gaussian hidden unit per example, float32 (K M, N).

    With P(sigma, z) ~ exp(sum_a z_a W_a . sigma - z^2 / 2) the integral over z leaves
    exp(-H / T), H = -(1/2) sigma^T J sigma with J of `hebb_unsupervised`, its diagonal included:
    an identity, not an approximation.

    Parameters
    ----------
    eta : array (K, M, N)
        +-1.
    T : float
        Temperature > 0.
    r : float
        Quality in (0, 1], for calR.
    normalise : bool
        As for `hebb_unsupervised`.

    Raises
    ------
    ValueError
        A parameter out of range.

    References
    ----------
    Agliari, Alemanno, Barra, De Marzo, arXiv:2109.00454.
    """
    examples = checked_examples(eta)
    if not (math.isfinite(T) and T > 0):
        raise ValueError(f"T must be finite and > 0, got {T!r}; hidden units have a temperature")
    M, N = examples.shape[1:]
    strength = second_moment(real("quality r", r, above=0, most=1), M) if normalise else 1.0
    return examples.reshape(-1, N).astype(np.float32) / np.float32(math.sqrt(T * N * M * strength))


def block_gibbs(
    weights: ArrayLike,
    sigma0: ArrayLike,
    T: float,
    sweeps: int = 200,
    seed: int = 0,
    warmup: int | None = None,
    observe: ArrayLike | None = None,
) -> GlauberRun:
    """Alternate z | sigma ~ N(W sigma, 1) and P(sigma_i = 1 | z) = 1 / (1 + exp(-2 (W^T z)_i)).

    All units of a layer at once, all chains in one matrix product. It samples the same
    distribution of sigma as heat-bath sweeps by another route, and moves more slowly per sweep.

    Parameters
    ----------
    weights : array (H, N)
        From `rbm_weights`, at the same T.
    sigma0 : array (N,) or (chains, N)
        +-1.
    T : float
        Temperature > 0; it is in the weights, and only sets the unit of the energy here.
    sweeps, warmup
        As for `GlauberSampler.run`.
    seed : int
        Of the private generator.
    observe : array (P, N), optional
        Patterns whose overlaps are recorded.

    Returns
    -------
    GlauberRun
        Its energy is that of the Hopfield model per spin, without the diagonal of J.

    Raises
    ------
    ValueError
        States that are not +-1, shapes that do not match, or a number out of range.
    """
    W = np.ascontiguousarray(weights, dtype=np.float32)
    spins = np.atleast_2d(np.asarray(sigma0))
    if W.ndim != 2 or spins.ndim != 2 or spins.shape[1] != W.shape[1]:
        raise ValueError(f"weights {W.shape} and sigma0 {spins.shape} do not match")
    if not is_signs(spins):
        raise ValueError("sigma0 must consist of -1 and +1")
    real("T", T, above=0)
    whole("sweeps", sweeps, 1)
    skipped = sweeps // 4 if warmup is None else warmup
    if not 0 <= skipped < sweeps:
        raise ValueError(f"warmup must lie in [0, sweeps), got {skipped} of {sweeps}")
    n = W.shape[1]
    patterns = np.atleast_2d(np.empty((0, n)) if observe is None else observe).astype(np.float32)
    if patterns.shape[1] != n:
        raise ValueError(f"observe must have shape (P, {n}), got {patterns.shape}")
    source = np.random.default_rng(seed)
    state = spins.astype(np.float32)
    total = np.zeros(state.shape)
    energy = np.empty((len(state), sweeps))
    overlaps = np.empty((len(state), sweeps, len(patterns)))
    diagonal = float((W.astype(np.float64) ** 2).sum())
    mean = state @ W.T
    for sweep in range(sweeps):
        z = mean + source.standard_normal(mean.shape, dtype=np.float32)
        field = z @ W
        # 1 / (1 + exp(-2 f)) > u, without the exponential's overflow
        up = np.tanh(field) > 2 * source.random(field.shape, dtype=np.float32) - 1
        state = np.where(up, np.float32(1), np.float32(-1))
        mean = state @ W.T
        squares = (mean.astype(np.float64) ** 2).sum(1)
        energy[:, sweep] = -0.5 * T * (squares - diagonal) / n
        overlaps[:, sweep] = state @ patterns.T / n
        if sweep >= skipped:
            total += state
    done = np.full(len(state), sweeps)
    return GlauberRun(
        state.astype(np.int8),
        total / (sweeps - skipped),
        energy,
        overlaps if observe is not None else None,
        done,
        np.ones(len(state), dtype=bool),
        skipped,
    )

"""Random networks of finite width, a sampled chain and Monte Carlo on the square lattice.

Nothing here uses the theory's formulas: divergences of networks are averages of log densities
and of covariance matrices, those of Ising models come from counts and from integrating the
measured energy over the coupling.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.activation import ACTIVATIONS
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.dynamics.relative_entropy.params import Params

PAIRS = 8  # pairs of inputs per network
CHAIN = 2**17  # spins
STEPS = 2
SIDE, REPLICAS, NODES, WARMUP, SWEEPS = 16, 12, 5, 30, 60
TORI, TORUS_WARMUP, TORUS_SWEEPS = 1000, 20, 45


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """One seed; the observables of `theory`.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative.

    Returns
    -------
    dict of Estimate
        Errors between networks; NaN for the Ising observables, whose samples are correlated.
    """
    rng = np.random.default_rng([seed, 20210706])
    couplings, fills = chain(p.chain_coupling, rng)
    return {
        **networks(p, seed),
        "chain_coupling": _one(couplings),
        "chain_fill": _one(fills),
        "torus_fill": _one(torus_fill(p.coupling, rng)),
        "square_plateau": _one(square_plateau(p.coupling, rng)),
    }


def _one(value: Any) -> Estimate:
    return Estimate(value, np.full(np.shape(value), math.nan))


# -- networks ------------------------------------------------------------------------------------
def networks(p: Params, seed: int) -> dict[str, Estimate]:
    """Divergences of layers 1..depth from layer 0, per network, from its own pre-activations."""
    generator = torch.Generator().manual_seed(2 * seed + 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    activation = ACTIVATIONS[p.activation][0]
    common, own = normal(p.networks, p.width, PAIRS), normal(p.networks, p.width, PAIRS)
    mixed = p.c0 * common + math.sqrt(1 - p.c0**2) * own
    z = math.sqrt(p.q0) * torch.stack([common, mixed], -1)  # (networks, width, pairs, 2)
    first = _moments(z)
    rows: dict[str, list[np.ndarray]] = {"push": [], "gaussian": [], "two_input": []}
    for _ in range(p.depth):
        weight = math.sqrt(p.sigma_w2 / p.width) * normal(p.networks, p.width, p.width)
        bias = math.sqrt(p.sigma_b2) * normal(p.networks, p.width, 1)
        z = (weight @ activation(z).flatten(2) + bias).unflatten(2, (PAIRS, 2))
        now = _moments(z)
        rows["push"].append(_push(first, z))
        rows["gaussian"].append(_kl(first[:, :1, :1], now[:, :1, :1]))
        rows["two_input"].append(_kl(first, now))
    return {name: mean_estimate(np.stack(found, 1)) for name, found in rows.items()}


def _moments(z: Tensor) -> np.ndarray:
    """Covariance of the two inputs, averaged over units and pairs, (networks, 2, 2)."""
    flat = z.flatten(1, 2)
    moment = flat.mT @ flat / flat.shape[1]
    even = 0.5 * (moment + moment.flip(-1, -2))  # the two inputs are alike
    return even.numpy()


def _push(first: np.ndarray, z: Tensor) -> np.ndarray:
    """Mean of ln p(z_0) - ln q(z_l) along the propagated values, p and q Gaussian."""
    scale = (z**2).mean(dim=(1, 2, 3))
    log_q = -0.5 * torch.log(2 * math.pi * scale) - ((z**2).mean(dim=(1, 2, 3)) / (2 * scale))
    log_p = -0.5 * np.log(2 * math.pi * math.e * first[:, 0, 0])
    return log_p - log_q.numpy()


def _kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL of N(0, a) from N(0, b), batched matrices."""
    trace = np.trace(np.linalg.solve(b, a), axis1=-2, axis2=-1)
    return 0.5 * (trace - a.shape[-1] + np.linalg.slogdet(b)[1] - np.linalg.slogdet(a)[1])


# -- the chain -----------------------------------------------------------------------------------
def chain(K: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Couplings of, and entropies lost in, 1..STEPS decimations by 2 of a sampled open chain."""
    aligned = rng.random(CHAIN) < 1 / (1 + math.exp(-2 * K))
    spins = np.cumprod(np.where(aligned, 1, -1))
    couplings, fills = [], []
    for step in range(1, STEPS + 1):
        block = 2**step
        kept = spins[::block]
        couplings.append(math.atanh(float((kept[1:] * kept[:-1]).mean())))
        couples = spins[: (len(kept) - 1) * block].reshape(-1, block)
        code = (np.column_stack([couples, kept[1:]]) > 0) @ (2 ** np.arange(block + 1))
        ends = (np.column_stack([kept[:-1], kept[1:]]) > 0) @ np.array([1, 2])
        inside = _entropy(code, 2 ** (block + 1)) - _entropy(ends, 4)
        fills.append(((block - 1) * math.log(2) - inside) / block)
    return np.array(couplings), np.array(fills)


def _entropy(code: np.ndarray, cells: int) -> float:
    """Entropy of counts with the Miller-Madow correction, nats."""
    count = np.bincount(code, minlength=cells)
    share = count[count > 0] / count.sum()
    return float(-(share * np.log(share)).sum()) + (len(share) - 1) / (2 * count.sum())


# -- the square lattice --------------------------------------------------------------------------
def heat_bath(
    spins: np.ndarray, K: np.ndarray, rng: np.random.Generator, odd: np.ndarray
) -> np.ndarray:
    """One sweep over both sublattices, in place; neighbor sums of `odd` sites before their turn."""
    for sites in (~odd, odd):
        around = _around(spins)
        up = rng.random(spins.shape, dtype=np.float32) * (1 + np.exp(-2 * K * around)) < 1
        np.copyto(spins, np.where(up, 1, -1).astype(np.float32), where=sites)
    return around  # the sums that the odd sites were drawn from


def _around(spins: np.ndarray) -> np.ndarray:
    rows = np.roll(spins, 1, 1) + np.roll(spins, -1, 1)
    return rows + np.roll(spins, 1, 2) + np.roll(spins, -1, 2)


def _odd(side: int) -> np.ndarray:
    return np.add.outer(np.arange(side), np.arange(side)) % 2 == 1


def square_plateau(K: float, rng: np.random.Generator) -> float:
    """ln 2 - s = K u(K) - int_0^K u, the energy u measured at quadrature nodes and at K."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    nodes = np.append(0.5 * K * (x + 1), K)
    share = np.append(np.ones(NODES), 3).astype(int)  # the end point counts most
    at = np.repeat(np.arange(NODES + 1), share * REPLICAS)
    spins = rng.choice(np.array([-1, 1], dtype=np.float32), (len(at), SIDE, SIDE))
    beta = nodes[at].astype(np.float32)[:, None, None]
    odd, energy = _odd(SIDE), np.zeros(len(at))
    for sweep in range(WARMUP + SWEEPS):
        around = heat_bath(spins, beta, rng, odd)
        if sweep >= WARMUP:  # every bond joins an odd site to an even one
            energy += (around * spins * odd).sum((1, 2)) / (SIDE**2 * SWEEPS)
    u = np.bincount(at, energy) / np.bincount(at)
    return float(K * u[-1] - 0.5 * K * (w @ u[:-1]))


def torus_fill(K: float, rng: np.random.Generator) -> float:
    """(1/2)[ln 2 - H(spin | sum of its neighbors)] on the 4 x 4 torus, from counts."""
    spins = rng.choice(np.array([-1, 1], dtype=np.float32), (TORI, 4, 4))
    odd, count = _odd(4), np.zeros((5, 2))
    for sweep in range(TORUS_WARMUP + TORUS_SWEEPS):
        around = heat_bath(spins, np.float32(K), rng, odd)  # type: ignore[arg-type]
        if sweep >= TORUS_WARMUP:
            cell = (around[:, odd] + 4) + (spins[:, odd] > 0)  # 4 + m is even
            count += np.bincount(cell.astype(int).ravel(), minlength=10).reshape(5, 2)
    share = count / count.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = -np.nansum(share * np.log(share / share.sum(1, keepdims=True)))
    return 0.5 * (math.log(2) - float(inside))

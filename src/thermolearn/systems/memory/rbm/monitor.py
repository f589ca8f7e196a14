"""Is the training sound? Likelihood at checkpoints, and chains beside fresh draws of the model.

The reconstruction error and the pseudo-likelihood improve while a machine gets worse; the
likelihood, exact or by annealing, does not.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.rbm import enumeration, partition
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.units import Weights

# Enumeration at every checkpoint up to this many units of the smaller layer.
CHEAP_UNITS = 12
MOST_ROWS = 10_000
N_FRESH = 1000
N_BETAS, N_CHAINS = 300, 100
# A gap or a loss of likelihood counts from 1 nat on, and only beyond these standard errors.
NATS = 1.0
SIGMAS = 5.0


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at one step.

    Attributes
    ----------
    step, epoch : int, float
    log_likelihood : Estimate
        Mean ln p of the training data (at most 10 000 rows of them), nats per sample; the error
        bar is that of ln Z.
    chain_gap : Estimate
        Mean free energy of the training chains minus that of fresh draws of the machine, nats: 0
        if the chains follow the machine. NaN without persistent chains.
    status : str
        ``"ok"``, ``"chains behind"``, or ``"not told"`` without a trustworthy likelihood.
    """

    step: int
    epoch: float
    log_likelihood: Estimate
    chain_gap: Estimate
    status: str = "ok"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **asdict(self),
            "log_likelihood": self.log_likelihood.to_dict(),
            "chain_gap": self.chain_gap.to_dict(),
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Checkpoint:
        """Inverse of `to_dict`."""
        return cls(
            row["step"],
            row["epoch"],
            Estimate.from_dict(row["log_likelihood"]),
            Estimate.from_dict(row["chain_gap"]),
            row["status"],
        )


def mean_log_likelihood(w: Weights, X: Tensor, log_z: Estimate) -> Estimate:
    """-<F(X)> - ln Z in nats per sample, with the error and status of ln Z."""
    total = sum(float(w.free_energy(part.double()).sum()) for part in X.split(4096))
    return Estimate(
        -total / len(X) - float(log_z),
        log_z.stderr,
        n_eff=log_z.n_eff,
        status=log_z.status,
        note="mean over the given samples; the error bar is that of ln Z",
    )


def resolve(monitor: str | None, w: Weights) -> str | None:
    """``"exact"``, ``"ais"`` or None for a machine of this size."""
    if monitor not in ("auto", "exact", "ais", None):
        raise ValueError(f"monitor must be 'auto', 'exact', 'ais' or None, got {monitor!r}")
    if monitor == "exact":
        enumeration.enumerated_layer(w, most=20)
    if monitor != "auto":
        return monitor
    discrete = [
        n for n, kind in ((w.n_visible, w.visible), (w.n_hidden, w.hidden)) if kind != "gaussian"
    ]
    return "exact" if min(discrete) <= CHEAP_UNITS else "ais"


def inspect(
    w: Weights,
    X: Tensor,
    chains: Tensor | None,
    method: str,
    a0: Tensor,
    seed: list[int],
    step: int,
    epoch: float,
    earlier: list[Checkpoint],
) -> Checkpoint:
    """Checkpoint of the machine; `method` is "exact" or "ais", `a0` the field annealed from."""
    w = w.double()
    noise = Noise(seed)
    if method == "exact":
        log_z = Estimate(enumeration.log_partition(w))
        fresh, share = (
            enumeration.exact_samples(w, N_FRESH, noise),
            torch.full((N_FRESH,), 1 / N_FRESH),
        )
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SamplerWarning)  # told by the status of the checkpoint
            run = partition.anneal(w, N_BETAS, N_CHAINS, noise, a0=a0)
        log_z, fresh = run.log_partition, run.samples
        share = torch.softmax(torch.from_numpy(run.log_weights), 0)
    rows = X[:: -(-len(X) // MOST_ROWS)]
    likelihood = mean_log_likelihood(w, rows, log_z)
    gap = Estimate(math.nan, math.nan, status="no chains")
    if chains is not None:
        gap = _gap(w, chains.double(), fresh, share.double(), log_z.status)
    status = _status(likelihood, gap, earlier)
    return Checkpoint(step, epoch, likelihood, gap, status)


def _gap(w: Weights, chains: Tensor, fresh: Tensor, share: Tensor, status: str) -> Estimate:
    """<F>_chains - <F>_fresh; the chains count as independent."""
    f_chain, f_fresh = w.free_energy(chains), w.free_energy(fresh)
    mean_fresh = (share * f_fresh).sum()
    variance = (share**2 * (f_fresh - mean_fresh) ** 2).sum() + f_chain.var() / len(chains)
    return Estimate(float(f_chain.mean() - mean_fresh), math.sqrt(float(variance)), status=status)


def _status(now: Estimate, gap: Estimate, earlier: list[Checkpoint]) -> str:
    if now.status != "ok":
        return "not told"
    trusted = [c.log_likelihood for c in earlier if c.log_likelihood.status == "ok"]
    if not trusted or math.isnan(float(gap)):
        return "ok"
    best = max(trusted, key=float)
    lost = float(best) - float(now)
    lost_error = float(np.hypot(best.stderr, now.stderr))
    behind = float(gap) > max(NATS, SIGMAS * float(gap.stderr))
    return "chains behind" if behind and lost > max(NATS, SIGMAS * lost_error) else "ok"


def tell(checkpoint: Checkpoint, earlier: list[Checkpoint], learning_rate: float, k: int) -> None:
    """Warn, with the numbers and what to change, when chains fall behind for the first time."""
    if checkpoint.status != "chains behind" or any(c.status == "chains behind" for c in earlier):
        return
    best = max(float(c.log_likelihood) for c in earlier if c.log_likelihood.status == "ok")
    warnings.warn(
        f"the training chains have fallen behind the machine at step {checkpoint.step}: their free "
        f"energy lies {checkpoint.chain_gap} nats above that of fresh draws, and the "
        f"log-likelihood has dropped from {best:.4g} to {checkpoint.log_likelihood} nats per "
        f"sample. Lower learning_rate (now {learning_rate:g}), raise k (now {k}), or use "
        "method='pt'",
        SamplerWarning,
        stacklevel=4,
    )

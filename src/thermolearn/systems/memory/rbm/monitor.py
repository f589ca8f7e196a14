"""Is the training sound? Likelihood at checkpoints, and chains beside fresh draws of the model.

The reconstruction error and the pseudo-likelihood improve while a machine gets worse; the
likelihood, exact or by annealing, does not.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

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
# An exact run is looked at this often at least, however few checkpoints are asked for: a collapse
# seen once at its end has no better likelihood to be compared with.
LEAST_LOOKS = 20
# Chains are behind if the gap and the loss of likelihood exceed 1 nat, or the gap alone 3 nats,
# and these standard errors. The gap of sound runs on bars and stripes stays below 2.
NATS = 1.0
GAP_ALONE = 3.0
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
    best: Estimate | None,
) -> Checkpoint:
    """Checkpoint of the machine; `method` is "exact" or "ais", `a0` the field annealed from.

    `best` is the highest trusted log-likelihood of the run so far.
    """
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
    status = _status(likelihood, gap, best)
    return Checkpoint(step, epoch, likelihood, gap, status)


def _gap(w: Weights, chains: Tensor, fresh: Tensor, share: Tensor, status: str) -> Estimate:
    """<F>_chains - <F>_fresh; the chains count as independent, their spread at least the machine's.

    Few chains may lie close together by chance, and their own variance would then be too small.
    """
    f_chain, f_fresh = w.free_energy(chains), w.free_energy(fresh)
    mean_fresh = (share * f_fresh).sum()
    square = (f_fresh - mean_fresh) ** 2
    spread = torch.maximum(f_chain.var(), (share * square).sum())
    variance = (share**2 * square).sum() + spread / len(chains)
    return Estimate(float(f_chain.mean() - mean_fresh), math.sqrt(float(variance)), status=status)


def _status(now: Estimate, gap: Estimate, best: Estimate | None) -> str:
    if now.status != "ok":
        return "not told"
    size, sure = float(gap), SIGMAS * float(gap.stderr)  # NaN, hence never above, without chains
    if size > max(GAP_ALONE, sure):
        return "chains behind"
    if best is None:
        return "ok"
    lost, lost_error = float(best) - float(now), math.hypot(float(best.stderr), float(now.stderr))
    behind = size > max(NATS, sure) and lost > max(NATS, SIGMAS * lost_error)
    return "chains behind" if behind else "ok"


def better(now: Estimate, best: Estimate | None) -> Estimate | None:
    """The running best: the higher of two log-likelihoods, of which `now` may be untrustworthy."""
    if now.status != "ok" or (best is not None and float(best) >= float(now)):
        return best
    return now


def tell(
    checkpoint: Checkpoint, best: Estimate | None, learning_rate: float, k: int, method: str
) -> None:
    """Warn, with the numbers and what to change, that the chains have fallen behind."""
    now = checkpoint.log_likelihood
    dropped = ""
    if best is not None and float(best) > float(now):
        dropped = f" (best so far {float(best):.4g})"
    other = "" if method == "pt" else ", or use method='pt'"
    warnings.warn(
        f"the training chains have fallen behind the machine at step {checkpoint.step}: their free "
        f"energy lies {checkpoint.chain_gap} nats above that of fresh draws; the log-likelihood is "
        f"{now} nats per sample{dropped}. Lower learning_rate (now {learning_rate:g}), raise k "
        f"(now {k}){other}",
        SamplerWarning,
        stacklevel=4,
    )

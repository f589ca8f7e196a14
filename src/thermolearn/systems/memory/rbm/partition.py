"""Annealed importance sampling of ln Z, in both directions.

References: R. M. Neal, Stat. Comput. 11 (2001) 125; R. Salakhutdinov, I. Murray, ICML 2008; the
reverse direction Y. Burda, R. Grosse, R. Salakhutdinov, arXiv:1412.8566; the equality of work and
free energy C. Jarzynski, arXiv:cond-mat/9610209.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.diagnostics import importance_ess
from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.rbm import units
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.units import Weights

# An effective sample below this share of the chains does not carry an error bar.
LEAST_ESS = 0.1


@dataclass(frozen=True, eq=False)
class Annealing:
    """One annealing run between the machine without couplings (ln Z_0 known) and the machine.

    Attributes
    ----------
    log_partition : Estimate
        ln Z. Its expectation lies below ln Z for the forward direction and above it for the
        reverse one (Jensen), by about stderr^2 / 2. status ``"low-ess"`` below 10% effective
        samples.
    log_weights : ndarray (n_chains,)
        -W of each chain, with the work W in units of T.
    effective_sample_size : float
        Kish's, from 1 to n_chains.
    dissipated_work : Estimate
        <W> - (F_end - F_start) >= 0 in the direction of the run, in nats: 0 if quasi-static.
    samples : Tensor (n_chains, n_visible)
        Final states; for the forward direction draws of the machine, with weights exp(log_weights).
    direction : {"forward", "reverse"}
    """

    log_partition: Estimate
    log_weights: np.ndarray
    effective_sample_size: float
    dissipated_work: Estimate
    samples: Tensor
    direction: str


@dataclass(frozen=True, eq=False)
class Bounds:
    """Stochastic bounds on ln Z: each holds in expectation, and its error bar is its own.

    Attributes
    ----------
    lower, upper : Estimate
        Log mean weight of the forward and of the reverse run.
    forward, reverse : Annealing
    """

    lower: Estimate
    upper: Estimate
    forward: Annealing
    reverse: Annealing


def anneal(
    w: Weights,
    n_betas: int,
    n_chains: int,
    noise: Noise,
    a0: Tensor | None = None,
    start: Tensor | None = None,
) -> Annealing:
    """Annealed importance sampling along (1 - beta) a0 + beta a, beta W, beta b.

    Forward, ln Z = ln Z_0 + ln <exp(log_weight)>; reverse, from draws of the machine,
    ln Z = ln Z_0 - ln <exp(log_weight)>. Chains run in the dtype of the weights, log weights in
    float64.

    Parameters
    ----------
    w : Weights
    n_betas : int
        Intervals of beta from 0 to 1, at least 1.
    n_chains : int
        At least 2; ignored with `start`.
    noise : Noise
    a0 : Tensor (n_visible,), optional
        Visible field of the starting machine; 0 by default.
    start : Tensor (n_chains, n_visible), optional
        Independent draws of the machine: anneals in the reverse direction.

    Warns
    -----
    SamplerWarning
        Effective samples below 10% of the chains.
    """
    if n_betas < 1 or (start is None and n_chains < 2) or (start is not None and len(start) < 2):
        raise ValueError(
            f"annealing needs n_betas >= 1 and n_chains >= 2, got {n_betas} and "
            f"{n_chains if start is None else len(start)}"
        )
    a0 = torch.zeros_like(w.a) if a0 is None else torch.as_tensor(a0, dtype=w.a.dtype)
    betas = torch.linspace(0, 1, n_betas + 1, dtype=torch.float64).tolist()
    if start is None:
        v = noise.units_(
            w.visible, a0.expand(n_chains, -1).contiguous(), w.a.new_empty(n_chains, w.n_visible)
        )
    else:
        v = start.to(w.a.dtype).clone(memory_format=torch.contiguous_format)
        betas.reverse()
    log_weight, v = _run(w, v, betas, a0, noise)
    log_z0 = units.log_normalizer(w.visible, a0.double()).sum()
    log_z0 = float(
        log_z0 + units.log_normalizer(w.hidden, torch.zeros(w.n_hidden, dtype=torch.float64)).sum()
    )
    return _summary(log_weight.numpy(), log_z0, v, "forward" if start is None else "reverse")


def _run(
    w: Weights, v: Tensor, betas: list[float], a0: Tensor, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Log weights (float64) and final states of a walk through the betas."""
    log_weight = torch.zeros(len(v), dtype=torch.float64)
    shift = w.a - a0
    h, spare = w.b.new_empty(len(v), w.n_hidden), torch.empty_like(v)
    for now, then in track(pairwise(betas), "annealing", len(betas) - 1):
        field = torch.addmm(w.b, v, w.W)
        after = units.log_normalizer(w.hidden, field * then)
        log_weight += (after - units.log_normalizer(w.hidden, field * now)).sum(-1)
        log_weight += (then - now) * (v @ shift)
        noise.units_(w.hidden, field.mul_(then), h)
        torch.addmm(a0 + then * shift, h, w.W.T, alpha=then, out=spare)
        noise.units_(w.visible, spare, v)
    return log_weight, v


def _summary(log_w: np.ndarray, log_z0: float, v: Tensor, direction: str) -> Annealing:
    sign, n = (1.0 if direction == "forward" else -1.0), len(log_w)
    top = log_w.max()
    scaled = np.exp(log_w - top)
    log_mean = float(top + math.log(scaled.mean()))
    stderr = float(scaled.std(ddof=1) / scaled.mean() / math.sqrt(n))
    ess = importance_ess(log_w)
    status, note = "ok", f"annealed importance sampling, {direction}"
    if ess < LEAST_ESS * n:
        status = "low-ess"
        note = (
            f"annealed importance sampling, {direction}: {ess:.1f} effective samples of {n}, so "
            "that the error bar is too small; raise n_betas"
        )
        warnings.warn(note, SamplerWarning, stacklevel=4)
    return Annealing(
        Estimate(log_z0 + sign * log_mean, stderr, n_eff=ess, status=status, note=note),
        log_w,
        ess,
        _dissipated(log_w, log_mean),
        v,
        direction,
    )


def _dissipated(log_w: np.ndarray, log_mean: float) -> Estimate:
    """ln <e^{-W}> + <W>, its error from the influence of each chain on both terms."""
    influence = np.exp(log_w - log_mean) - 1 - (log_w - log_w.mean())
    return Estimate(
        log_mean - float(log_w.mean()), float(influence.std(ddof=1)) / math.sqrt(len(log_w))
    )

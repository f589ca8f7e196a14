"""The laws of learning along a sequence of ensembles of one network on one set of samples.

dU = T dS + dW with S the relative entropy and dW = (dF/dq)_beta dq is an identity for any path
(exact for any activation). Between checkpoints the heat is taken at the log-mean temperature
(T_2 - T_1)/ln(T_2/T_1), which is exact for its leading part (N/2) ln T, and the work with the
mean of the two end-point gradients. Source: V. Vanchurin, arXiv:2004.09280; there the complexity
enters with a sign that is a matter of convention, so heat and work are returned, not a sign.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.canonical import block
from thermolearn.measure.canonical.ensemble import CanonicalEnsemble, per_sample
from thermolearn.measure.canonical.jacobian import JacobianBlocks

RULES = ("logmean", "trapezoid")


@dataclass(frozen=True)
class FirstLaw:
    """dU = heat + work + residual, batch means (stderr: spread over samples).

    Attributes
    ----------
    energy_change : Estimate
        U_2 - U_1.
    heat : Estimate
        T dS, S relative to the reference measure.
    work : Estimate
        (dF/dJ)_beta dJ: the part a change of the weights does at fixed temperature.
    residual : Estimate
        What the quadrature over the step leaves.
    """

    energy_change: Estimate
    heat: Estimate
    work: Estimate
    residual: Estimate

    @property
    def closure(self) -> float:
        """|residual| / |dU|; infinite for dU = 0."""
        change = abs(float(self.energy_change))
        return abs(float(self.residual)) / change if change else math.inf


def with_quadrature(law: FirstLaw) -> FirstLaw:
    """Heat and work with what the quadrature leaves in their bars; work below it is flagged."""
    left = abs(float(law.residual))
    heat, work = (replace(e, stderr=np.hypot(e.stderr, left)) for e in (law.heat, law.work))
    if left > abs(float(work)):
        note = "the closure of these snapshots is larger than the work: take them more densely"
        work = replace(work, status="coarse snapshots", note=note)
    return replace(law, heat=heat, work=work)


def free_energy_gradient(ensemble: CanonicalEnsemble) -> list[Tensor]:
    """(dF/dJ_l)_beta = -(M A^{-1}) on the blocks, shapes (B, n_l, n_{l-1})."""
    blocks = _blocks(ensemble)
    if ensemble.reference == "origin":
        raise ValueError("work needs reference 'fixed-point' or 'flat'")
    with torch.enable_grad():
        leaves = [b.detach().requires_grad_(True) for b in blocks]
        shifts = [blocks[0].new_full((1, 1), ensemble.tau)] * (len(blocks) + 1)
        total = block.log_det(block.cheaper_direction(leaves), shifts).sum()
        gradient = torch.autograd.grad(total, leaves)
    return [g / (2 * ensemble.beta) for g in gradient]


def _blocks(ensemble: CanonicalEnsemble) -> JacobianBlocks:
    blocks = ensemble._jacobian
    if not isinstance(blocks, JacobianBlocks):
        raise ValueError("the laws need feed-forward blocks: NeuronSystem.jacobian_blocks(x)")
    return blocks


def mean_temperature(first: float, second: float, rule: str) -> float:
    """Temperature at which the heat of a step is taken."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
    if rule == "trapezoid" or math.isclose(first, second, rel_tol=1e-9):
        return 0.5 * (first + second)
    return (second - first) / math.log(second / first)


def first_law(ensembles: Sequence[CanonicalEnsemble], rule: str = "logmean") -> FirstLaw:
    """First law along a path of ensembles at their own temperatures; sums over the steps.

    Parameters
    ----------
    ensembles : sequence of at least 2, same samples, same segmentation
    rule : "logmean" or "trapezoid"
        Temperature of the heat. In the first epoch T falls many-fold between checkpoints, and the
        trapezoid rule is then off by tens of per cent.

    Raises
    ------
    ValueError
        Fewer than two ensembles, or different samples.
    """
    if len(ensembles) < 2:
        raise ValueError("the first law needs at least two checkpoints")
    for a, b in pairwise(ensembles):
        _check_same_samples(a, b)
    steps = law_steps([law_point(e) for e in ensembles], rule)
    return FirstLaw(*(mean_estimate(step) for step in steps))


class LawPoint(NamedTuple):
    """What the first law needs of one checkpoint: T, and per sample U, S, J and (dF/dJ)_beta."""

    temperature: float
    energy: Tensor
    entropy: Tensor
    blocks: list[Tensor]
    gradient: list[Tensor]


def law_point(ensemble: CanonicalEnsemble) -> LawPoint:
    """Evaluate a checkpoint once; it serves the step before it and the step behind it."""
    energy = per_sample(ensemble._average_loss())
    entropy = ensemble.beta * energy + per_sample(ensemble._log_partition())
    gradient = free_energy_gradient(ensemble)
    return LawPoint(1 / ensemble.beta, energy, entropy, list(_blocks(ensemble)), gradient)


def law_steps(points: Sequence[LawPoint], rule: str = "logmean") -> tuple[Tensor, ...]:
    """dU, heat, work, residual per sample (B,), summed along evaluated checkpoints."""
    change = heat = work = torch.zeros_like(points[0].energy)
    for a, b in pairwise(points):
        change = change + b.energy - a.energy
        heat = heat + mean_temperature(a.temperature, b.temperature, rule) * (b.entropy - a.entropy)
        for g1, g2, j1, j2 in zip(a.gradient, b.gradient, a.blocks, b.blocks, strict=True):
            work = work + (0.5 * (g1 + g2) * (j2 - j1)).sum((-2, -1))
    return change, heat, work, change - heat - work


def _check_same_samples(a: CanonicalEnsemble, b: CanonicalEnsemble) -> None:
    keys = [getattr(e._jacobian, "samples_key", None) for e in (a, b)]
    shapes = [[tuple(j.shape) for j in _blocks(e)] for e in (a, b)]
    if shapes[0] != shapes[1] or (None not in keys and keys[0] != keys[1]):
        raise ValueError("the checkpoints belong to different sample sets or segmentations")
    if (a.reference, a.mass) != (b.reference, b.mass):
        raise ValueError("the checkpoints differ in reference or mass")


@dataclass(frozen=True)
class SecondLaw:
    """Entropy and free-energy changes of every step of a path.

    Attributes
    ----------
    fitted : ndarray (steps,)
        Change of the differential entropy at the ensembles' own (fitted) temperatures. It falls
        while the loss falls because the ensemble cools.
    fixed : dict beta -> ndarray (steps,)
        The same at one temperature: there S = N/2 + log Z, so that descending the free energy
        raises the entropy.
    """

    fitted: np.ndarray
    fixed: dict[float, np.ndarray]

    def falling(self, beta: float | None = None) -> Estimate:
        """Fraction of steps in which the entropy falls, binomial error."""
        change = self.fitted if beta is None else self.fixed[beta]
        share, n = float((change < 0).mean()), len(change)
        return Estimate(share, math.sqrt(share * (1 - share) / n), n)


def second_law(
    ensembles: Sequence[CanonicalEnsemble], betas: Sequence[float] = (1.0, 100.0)
) -> SecondLaw:
    """dS_diff <= 0 along a path, at fitted and at fixed temperature: two different statements."""
    if len(ensembles) < 2:
        raise ValueError("the second law needs at least two checkpoints")

    def changes(path: Sequence[CanonicalEnsemble]) -> np.ndarray:
        entropy = [float(e.entropy("differential")) for e in path]
        return np.diff(entropy)

    return SecondLaw(changes(ensembles), {b: changes([e.at(b) for e in ensembles]) for b in betas})


def factorization_defect(
    first: CanonicalEnsemble, second: CanonicalEnsemble, beta_1: float, beta_2: float
) -> Estimate:
    """[log Z(b1,q1) + log Z(b2,q2) - log Z(b1,q2) - log Z(b2,q1)]/N, per neuron, nats.

    Zero if Z = Z(beta) Z(b, w), which holds for T far below lambda_min(G) - m.
    """
    _check_same_samples(first, second)
    terms = [
        sign * per_sample(ensemble.at(beta)._log_partition())
        for sign, ensemble, beta in (
            (1, first, beta_1), (1, second, beta_2), (-1, second, beta_1), (-1, first, beta_2),
        )
    ]  # fmt: skip
    return mean_estimate(sum(terms) / first.neurons)


def effective_degrees(losses: Tensor | np.ndarray) -> Estimate:
    """N_eff = 2 mean^2/var of the per-sample loss, with its jackknife error.

    The canonical ensemble at U = N T/2 predicts about N; data give far fewer: the ensemble is not
    the data distribution.
    """
    from thermolearn.core.estimate import jackknife

    sample = np.asarray(losses.detach().cpu() if isinstance(losses, Tensor) else losses, float)
    if sample.ndim != 1 or len(sample) < 3:
        raise ValueError("effective_degrees needs at least three per-sample losses")
    if sample.var() == 0:
        return Estimate(math.inf, math.nan, len(sample), "constant", "all samples have equal loss")
    found = jackknife(lambda s: 2 * s.mean() ** 2 / s.var(ddof=1), sample)
    # no bias correction: it could make a count of degrees of freedom negative
    return replace(found, value=2 * sample.mean() ** 2 / sample.var(ddof=1))

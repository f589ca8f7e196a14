"""Hamiltonian Monte Carlo and MALA on batched chains.

`leapfrog` and `hmc_step` are pure functions for whoever wants a loop of their own; `hmc` and
`mala` run the loop and return the draws with their diagnostics.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.diagnostics import autocorrelation_time, effective_sample_size, split_rhat
from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track

LogDensity = Callable[[Tensor], Tensor]
Observables = Mapping[str, Callable[[Tensor], Tensor]]


class State(NamedTuple):
    """Chains with what is known at their positions: x (C, d), ln density (C,), gradient (C, d)."""

    x: Tensor
    log_density: Tensor
    gradient: Tensor


def evaluate(log_density: LogDensity, x: Tensor) -> State:
    """Log-density and its gradient at x (C, d), by autograd."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        value = log_density(x)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"log_density must map {tuple(x.shape)} to {tuple(x.shape[:1])}, "
                f"got {tuple(value.shape)}"
            )
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return State(x.detach(), value.detach().double(), gradient)


def leapfrog(
    log_density: LogDensity, state: State, momentum: Tensor, step: float, n_steps: int
) -> tuple[State, Tensor]:
    """Volume-preserving, reversible integration of dx/dt = p, dp/dt = grad ln density."""
    for _ in range(n_steps):
        momentum = momentum + 0.5 * step * state.gradient
        state = evaluate(log_density, state.x + step * momentum)
        momentum = momentum + 0.5 * step * state.gradient
    return state, momentum


def hmc_step(
    log_density: LogDensity, state: State, step: float, n_leapfrog: int, generator: torch.Generator
) -> tuple[State, Tensor, Tensor]:
    """One trajectory from fresh momenta N(0, 1), accepted with probability min(1, exp(-dH)).

    Returns
    -------
    state : State
    delta_h : Tensor (C,)
        Energy error of the proposals; +inf where the proposal is not finite.
    accepted : Tensor (C,) of bool
    """
    momentum = torch.randn(
        state.x.shape, generator=generator, dtype=state.x.dtype, device=state.x.device
    )
    new, end = leapfrog(log_density, state, momentum, step, n_leapfrog)
    kinetic = 0.5 * (end.double() ** 2 - momentum.double() ** 2).sum(-1)
    delta_h = kinetic - new.log_density + state.log_density
    delta_h = torch.where(torch.isfinite(delta_h), delta_h, torch.full_like(delta_h, math.inf))
    uniform = torch.rand(
        delta_h.shape, generator=generator, dtype=torch.float64, device=delta_h.device
    )
    accepted = uniform < torch.exp(-delta_h)
    chosen = State(
        torch.where(accepted[:, None], new.x, state.x),
        torch.where(accepted, new.log_density, state.log_density),
        torch.where(accepted[:, None], new.gradient, state.gradient),
    )
    return chosen, delta_h, accepted


@dataclass(frozen=True, eq=False)
class ChainResult:
    """Draws after warm-up, with their diagnostics.

    Attributes
    ----------
    x : Tensor (n, C, d) or None
        The draws, if kept.
    last : Tensor (C, d)
        The final positions, a start for more.
    observables : dict of ndarray (n, C)
        The recorded scalars.
    accept_rate : float
        Fraction of accepted proposals, all chains.
    step : float
        The step in use after warm-up.
    delta_h : ndarray (n, C)
        Energy error of each proposal.
    """

    x: Tensor | None
    last: Tensor
    observables: dict[str, np.ndarray]
    accept_rate: float
    step: float
    delta_h: np.ndarray = field(repr=False)

    def _draws(self, name: str) -> np.ndarray:
        if name not in self.observables:
            raise KeyError(f"no observable {name!r}; recorded: {sorted(self.observables)}")
        return self.observables[name].T

    def tau(self, name: str) -> Estimate:
        """Integrated autocorrelation time of an observable, in trajectories."""
        return autocorrelation_time(self._draws(name))

    def ess(self, name: str) -> float:
        """Effective number of independent draws of an observable."""
        return effective_sample_size(self._draws(name))

    def rhat(self, name: str) -> float:
        """Split R-hat of an observable."""
        return split_rhat(self._draws(name))

    def mean(self, name: str) -> Estimate:
        """Mean of an observable with stderr sd sqrt(2 tau_int / N).

        status: ``"under-sampled"`` (N < 50 tau_int), ``"not mixed"`` (R-hat above 1.01 beyond
        what the number of draws explains) or ``"constant"``; the first two also warn.
        """
        return chain_mean(self._draws(name), name)

    @property
    def exp_minus_delta_h(self) -> Estimate:
        """<exp(-dH)>, 1 for a correct integrator in equilibrium at any step."""
        return chain_mean(np.exp(-self.delta_h).T, "exp(-dH)")


def chain_mean(chains: np.ndarray, name: str) -> Estimate:
    """Mean of chains (C, T) with an honest error bar."""
    tau = autocorrelation_time(chains)
    mean = float(chains.mean())
    if tau.status == "constant":
        return Estimate(mean, math.nan, n_eff=None, status="constant", note=tau.note)
    ess = chains.size / (2 * float(tau))
    stderr = float(chains.std()) * math.sqrt(1 / ess)
    status, note = tau.status, tau.note
    rhat = split_rhat(chains)
    # halves of stationary chains scatter too: R-hat^2 - 1 = 4 tau / T, with its own 3 sigma
    scatter = 1 + 3 * math.sqrt(2 / (2 * chains.shape[0] - 1))
    if status == "ok" and rhat > 1.01 * math.sqrt(1 + 4 * float(tau) / chains.shape[1] * scatter):
        status = "not mixed"
        note = f"split R-hat of {name} is {rhat:.3f}: the chains disagree; warm up or run longer"
        warnings.warn(note, SamplerWarning, stacklevel=3)
    return Estimate(mean, stderr, n_eff=ess, status=status, note=note)


def hmc(
    log_density: LogDensity,
    x0: Tensor,
    step: float,
    n_leapfrog: int,
    n_samples: int,
    n_warmup: int,
    generator: torch.Generator,
    observables: Observables | None = None,
    *,
    adapt: bool = False,
    target: float = 0.8,
    keep_x: bool | None = None,
) -> ChainResult:
    """Hamiltonian Monte Carlo on independent chains that move together.

    Every trajectory has an integer number of leapfrog steps drawn uniformly from
    n_leapfrog - n_leapfrog//2 to n_leapfrog + n_leapfrog//2 (one draw for all chains), because
    a fixed length resonates with the periods of a Gaussian.

    Parameters
    ----------
    log_density : callable
        (C, d) -> (C,), up to a constant; differentiable; chains must not mix.
    x0 : Tensor (C, d)
        Start. In high dimension start from a typical draw of a similar density: from a mode the
        energy must first rise by about d/2 and a large step rejects everything.
    step : float
        Leapfrog step > 0, in units of the narrowest standard deviation about 1; the error of
        the energy grows as step^2 sqrt(d). An acceptance of .65 to .9 is efficient.
    n_leapfrog, n_samples, n_warmup : int
        Mean steps per trajectory >= 1, recorded trajectories >= 1, discarded ones >= 0.
    generator : torch.Generator
        The only source of randomness, on the device of x0.
    observables : dict of callables, optional
        Scalars (C, d) -> (C,) to record.
    adapt : bool
        Fit the step to the target acceptance by dual averaging, in the warm-up only.
    target : float
        Mean acceptance aimed at by ``adapt``.
    keep_x : bool, optional
        Keep all draws; default: only if there are no observables.

    Raises
    ------
    ValueError
        A bad argument, a log-density that is not finite at x0 or has the wrong shape.

    Warns
    -----
    SamplerWarning
        Acceptance below 1% after the warm-up.

    References
    ----------
    Duane, Kennedy, Pendleton, Roweth, Phys. Lett. B 195 (1987) 216; Hoffman, Gelman,
    arXiv:1111.4246 (dual averaging).
    """
    if n_leapfrog < 1:
        raise ValueError(f"n_leapfrog must be at least 1, got {n_leapfrog}")
    return _run(
        log_density, x0, step, n_leapfrog, n_samples, n_warmup, generator, observables or {},
        target if adapt else None, keep_x,
    )  # fmt: skip


def mala(
    log_density: LogDensity,
    x0: Tensor,
    step: float,
    n_samples: int,
    n_warmup: int,
    generator: torch.Generator,
    observables: Observables | None = None,
    *,
    adapt: bool = False,
    target: float = 0.574,
    keep_x: bool | None = None,
) -> ChainResult:
    """Metropolis-adjusted Langevin: y = x + step grad ln density + sqrt(2 step) N(0, 1).

    The same chain as `hmc` with one leapfrog step of length sqrt(2 step), by which it is run;
    parameters, errors and warnings are those of `hmc`. For rough starts and cheap single steps;
    `hmc` decorrelates faster in high dimension.

    References
    ----------
    Roberts, Tweedie, Bernoulli 2 (1996) 341; Roberts, Rosenthal, J. R. Stat. Soc. B 60 (1998)
    255 (acceptance 0.574).
    """
    if not step > 0:
        raise ValueError(f"step must be positive and finite, got {step}")
    result = _run(
        log_density, x0, math.sqrt(2 * step), 1, n_samples, n_warmup, generator, observables or {},
        target if adapt else None, keep_x,
    )  # fmt: skip
    return replace(result, step=result.step**2 / 2)


def _run(
    log_density: LogDensity,
    x0: Tensor,
    step: float,
    n_leapfrog: int,
    n_samples: int,
    n_warmup: int,
    generator: torch.Generator,
    observables: Observables,
    target: float | None,
    keep_x: bool | None,
) -> ChainResult:
    """Warm up (fitting the step if there is a target), then record."""
    _check_arguments(step, n_samples, n_warmup, target)
    state = _start(log_density, x0)
    if target is not None:
        state, step = _adapt(log_density, state, step, n_leapfrog, n_warmup, generator, target)
    else:
        for _ in track(range(n_warmup), "warm-up"):
            length = _jittered(n_leapfrog, generator)
            state = hmc_step(log_density, state, step, length, generator)[0]
    keep = not observables if keep_x is None else keep_x
    kept: list[Tensor] = []
    recorded: dict[str, list[Tensor]] = {name: [] for name in observables}
    errors: list[Tensor] = []
    n_accepted = 0
    for _ in track(range(n_samples), "sampling"):
        length = _jittered(n_leapfrog, generator)
        state, delta_h, accepted = hmc_step(log_density, state, step, length, generator)
        errors.append(delta_h)
        n_accepted += int(accepted.sum())
        if keep:
            kept.append(state.x)
        for name, function in observables.items():
            recorded[name].append(_scalar(name, function(state.x), x0.shape[0]))
    rate = n_accepted / (n_samples * x0.shape[0])
    if rate < 0.01:
        warnings.warn(
            f"acceptance {rate:.2%} after the warm-up: the chains do not move; lower the step "
            f"(now {step:.3g} in leapfrog units), warm up longer, or start from a typical draw",
            SamplerWarning,
            stacklevel=3,
        )
    return ChainResult(
        x=torch.stack(kept) if keep else None,
        last=state.x,
        observables={name: torch.stack(rows).cpu().numpy() for name, rows in recorded.items()},
        accept_rate=rate,
        step=step,
        delta_h=torch.stack(errors).cpu().numpy(),
    )


def _adapt(
    log_density: LogDensity,
    state: State,
    step: float,
    n_leapfrog: int,
    n_warmup: int,
    generator: torch.Generator,
    target: float,
) -> tuple[State, float]:
    """Warm-up with dual averaging of ln step towards a mean acceptance (arXiv:1111.4246, 3.2)."""
    shrink_to, deficit, average = math.log(10 * step), 0.0, 0.0
    for i in track(range(1, n_warmup + 1), "warm-up"):
        length = _jittered(n_leapfrog, generator)
        state, delta_h, _ = hmc_step(log_density, state, step, length, generator)
        acceptance = float(torch.exp(-delta_h).clamp(max=1).mean())
        deficit += (target - acceptance - deficit) / (i + 10)
        log_step = shrink_to - math.sqrt(i) / 0.05 * deficit
        average += i**-0.75 * (log_step - average)
        step = math.exp(log_step)
    return state, math.exp(average)


def _jittered(n_leapfrog: int, generator: torch.Generator) -> int:
    """Uniform integer within n_leapfrog//2 of n_leapfrog."""
    spread = n_leapfrog // 2
    if spread == 0:
        return n_leapfrog
    shift = torch.randint(-spread, spread + 1, (), generator=generator, device=generator.device)
    return n_leapfrog + int(shift)


def _check_arguments(step: float, n_samples: int, n_warmup: int, target: float | None) -> None:
    if not (step > 0 and math.isfinite(step)):
        raise ValueError(f"step must be positive and finite, got {step}")
    if n_samples < 1 or n_warmup < 0:
        raise ValueError(
            f"n_samples must be >= 1 and n_warmup >= 0, got {n_samples} and {n_warmup}"
        )
    if target is not None and (not 0 < target < 1 or n_warmup < 1):
        raise ValueError(
            f"adapting the step needs 0 < target < 1 and a warm-up, got target = {target} and "
            f"n_warmup = {n_warmup}"
        )


def _start(log_density: LogDensity, x0: Tensor) -> State:
    """The state at x0, refused where the density or its gradient is not finite."""
    if x0.ndim != 2 or not x0.is_floating_point() or x0.numel() == 0:
        raise ValueError(
            f"x0 must be a floating-point tensor (chains, d), got {tuple(x0.shape)} {x0.dtype}"
        )
    state = evaluate(log_density, x0)
    for name, value in (("log-density", state.log_density), ("gradient", state.gradient)):
        bad = ~torch.isfinite(value)
        if bool(bad.any()):
            chain = int(bad.nonzero()[0, 0])
            raise ValueError(
                f"the {name} at the start is {float(value[bad][0])} in chain {chain}; start "
                "where it is finite"
            )
    return state


def _scalar(name: str, value: Tensor, n_chains: int) -> Tensor:
    """A recorded observable, of shape (C,)."""
    if value.shape != (n_chains,):
        raise ValueError(
            f"observable {name!r} must have shape ({n_chains},), got {tuple(value.shape)}"
        )
    return value.detach().double()

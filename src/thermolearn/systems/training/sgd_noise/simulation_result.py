"""What a simulation found: per seed, and as means with errors between the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, ndtri

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.noise.response import EffectiveTemperature
from thermolearn.systems.training.sgd_noise.schedules import Schedule
from thermolearn.systems.training.sgd_noise.temperature import (
    check_method,
    check_window,
    half_msd,
    judged,
    stationarity,
    virial_temperature,
)

if TYPE_CHECKING:
    from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
    from thermolearn.systems.training.sgd_noise.simulation import Plan, Run

QUANTILES = 4001  # of the fresh field, for a decision other than its sign


@dataclass(frozen=True)
class SimulationResult:
    """Training at finite d. Estimates are means over the seeds with the error between them.

    Attributes
    ----------
    per_seed : dict of array (seeds, ...)
        Every quantity below, seed by seed: whatever is nonlinear in them is computed from these.
    schedule, weight_decay, d, seeds
        As asked for.
    waiting_times : tuple of int
        From which the response was measured.
    flags : tuple of str
        What is unfinished, in sentences; also the status of every Estimate.
    """

    per_seed: dict[str, np.ndarray] = field(repr=False)
    schedule: Schedule
    weight_decay: float
    d: int
    seeds: tuple[int, ...]
    waiting_times: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()

    def estimate(self, name: str) -> Estimate:
        """A quantity of `per_seed`, with its standard error between the seeds (NaN for one
        seed, whose status is "one seed").

        Raises
        ------
        KeyError
            It was not recorded.
        """
        if name not in self.per_seed:
            raise KeyError(f"no {name!r} in this simulation; recorded: {sorted(self.per_seed)}")
        status = "; ".join(self.flags) or ("one seed" if len(self.seeds) == 1 else "ok")
        note = f"d = {self.d}, {len(self.seeds)} seeds"
        return mean_estimate(self.per_seed[name], status=status, note=note)

    @property
    def steps(self) -> int:
        """Last step."""
        return self.per_seed["m"].shape[1] - 1

    @property
    def times(self) -> np.ndarray:
        """eta times steps, (steps + 1,)."""
        return self.schedule.rate * np.arange(self.steps + 1)

    @property
    def m(self) -> Estimate:
        """w(t).v/d, (steps + 1,)."""
        return self.estimate("m")

    @property
    def C(self) -> Estimate:
        """w(t).w(t')/d, (steps + 1, steps + 1)."""
        return self.estimate("C")

    @property
    def loss(self) -> Estimate:
        """Mean of l over the training samples, (steps + 1,)."""
        return self.estimate("loss")

    @property
    def error(self) -> Estimate:
        """Share of the training samples on the wrong side, (steps + 1,)."""
        return self.estimate("error")

    @property
    def test_error(self) -> Estimate:
        """Probability that a fresh sample is on the wrong side, given w; (steps + 1,)."""
        return self.estimate("test_error")

    @property
    def gap(self) -> Estimate:
        """Test error less training error, (steps + 1,)."""
        return self.estimate("gap")

    @property
    def C12(self) -> Estimate:
        """w_1(t).w_2(t')/d of two replicas, (steps + 1, steps + 1)."""
        self._needs_replicas()
        return self.estimate("C12")

    @property
    def distance(self) -> Estimate:
        """|w_1(t) - w_2(t)|^2/d of two replicas, (steps + 1,)."""
        self._needs_replicas()
        return self.estimate("distance")

    @property
    def response(self) -> Estimate:
        """chi(tw + k, tw) for k = 1, ..., lag: (waiting times, lag)."""
        if not self.waiting_times:
            raise ValueError("no response was measured: call simulate with waiting_times and lag")
        return self.estimate("response")

    def _needs_replicas(self) -> None:
        if "distance" not in self.per_seed:
            raise ValueError("one replica has no distance: call simulate with replicas=2 or more")

    def effective_temperature(
        self,
        window: tuple[int, int] | None = None,
        method: str = "fdt",
        lag: int | None = None,
    ) -> EffectiveTemperature | Estimate:
        """Temperature of the noise in a stationary window, in units of the summed loss.

        Parameters
        ----------
        window : (first, last), optional
            Steps; by default from the first waiting time to the end ("fdt"), or the second half.
        method : "fdt" or "virial"
            "fdt": half mean square displacement over response, averaged over the waiting times tw
            with tw and tw + lag in the window. "virial": <w.g>/d over the steps of the window, g
            the whole gradient of the step.
        lag : int >= 5, optional
            Largest lag of "fdt"; the one that was simulated by default.

        Returns
        -------
        EffectiveTemperature ("fdt"), or Estimate ("virial")
            Flagged as those of the theory are, by the steps from the first waiting time that is
            used to `lag` after the last ("fdt"), or those of the window.

        Raises
        ------
        ValueError
            An unknown method, a window or lag outside of what was simulated, or "fdt" of a single
            seed.
        """
        check_method(method)
        C, rate = self.per_seed["C"], self.schedule.rate
        noisy = self.schedule.batch_fraction < 1
        if method == "virial":
            return virial_temperature(C, rate, check_window(window, self.steps), noisy)
        if not self.waiting_times:
            raise ValueError("no response was measured: call simulate with waiting_times and lag")
        if len(self.seeds) < 2:
            raise ValueError("method 'fdt' needs seeds >= 2 for its errors")
        response = self.per_seed["response"]
        last = whole("lag", response.shape[2] if lag is None else lag, 5, response.shape[2])
        span = check_window(window or (self.waiting_times[0], self.steps), self.steps)
        inside = [i for i, t in enumerate(self.waiting_times) if span[0] <= t <= span[1] - last]
        if not inside:
            raise ValueError(
                f"no waiting time lies in the window {span} with {last} steps after it: choose "
                "another window, or simulate with other waiting_times or lag"
            )
        tw = np.array([self.waiting_times[i] for i in inside])
        msd = np.stack([half_msd(C, tw, k) for k in range(1, last + 1)], 1)
        used = int(tw[0]), int(tw[-1]) + last  # the curves know nothing of other steps
        steady = stationarity(C, rate, used, noisy)
        return judged(msd, response[:, inside, :last].mean(1), steady)


def pack(
    model: GaussianMixturePerceptron, plan: Plan, seeds: Sequence[int], runs: Sequence[Run]
) -> SimulationResult:
    """Order parameters of all seeds; paths are dropped."""
    rows: dict[str, list[Any]] = {}
    for one in runs:
        for name, value in order_parameters(model, one).items():
            rows.setdefault(name, []).append(value)
    per_seed = {name: np.stack(values) for name, values in rows.items()}
    if not plan.waiting_times:
        del per_seed["response"]
    done, flags = tuple(seeds[: len(runs)]), ()
    if len(done) < len(seeds):
        flags = (f"interrupted after {len(done)} of {len(seeds)} seeds",)
    return SimulationResult(
        per_seed, plan.schedule, plan.weight_decay, plan.d, done, plan.waiting_times, flags
    )


def order_parameters(model: GaussianMixturePerceptron, run: Run) -> dict[str, np.ndarray]:
    """m, C, ... of one seed, means over its replicas."""
    d, path = run.path.shape[2], run.path.swapaxes(0, 1)
    C = np.mean([w @ w.T / d for w in path], axis=0)
    m = path.mean(2)
    q = (path**2).mean(2)
    found = {
        "m": m.mean(0),
        "C": C,
        "loss": run.loss.mean(1),
        "error": run.error.mean(1),
        "test_error": test_error(model, m, q).mean(0),
        "response": run.response,
    }
    found["gap"] = found["test_error"] - found["error"]
    pairs = list(combinations(path, 2))
    if pairs:
        C12 = np.mean([v @ w.T / d for v, w in pairs], axis=0)
        found["C12"] = (C12 + C12.T) / 2
        found["distance"] = np.mean([((v - w) ** 2).mean(1) for v, w in pairs], axis=0)
    return found


def test_error(model: GaussianMixturePerceptron, m: np.ndarray, q: np.ndarray) -> np.ndarray:
    """P(sign decision(h) != sign y) of a fresh sample, h ~ N(c m, Delta q); shaped like m and q."""
    total, spread = np.zeros_like(m), np.sqrt(model.Delta * q)
    z = ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES)
    prior = model.clusters
    for p, c, y in zip(prior.probabilities, prior.positions, prior.labels, strict=True):
        if model.decision is np.asarray and y:
            with np.errstate(invalid="ignore", divide="ignore"):
                margin = np.sign(y) * c * m / spread
            # w = 0 decides nothing: counted as wrong, as on the training set
            total += p * ndtr(-np.where(np.isnan(margin), -np.inf, margin))
            continue
        h = c * m[..., None] + spread[..., None] * z
        total += p * (np.sign(model.decision(h)) != np.sign(y)).mean(-1)
    return total

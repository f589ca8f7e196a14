"""Order parameters of the dynamical mean-field theory, with errors, plot, temperatures, storage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thermolearn.core import dmft
from thermolearn.core.checks import real, whole
from thermolearn.core.errors import DataError
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.noise.response import EffectiveTemperature
from thermolearn.systems.training.sgd_noise.fresh import test_error
from thermolearn.systems.training.sgd_noise.mean_field import Order, Site
from thermolearn.systems.training.sgd_noise.schedules import Schedule, check_schedule
from thermolearn.systems.training.sgd_noise.storage import (
    check_memory,
    different,
    fingerprint,
)
from thermolearn.systems.training.sgd_noise.temperature import (
    integrated_response,
    theory_temperature,
)

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing
    from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron

SAMPLES = {1: 10_000, 2: 16_000}
# What is below pivot standard deviations is lost: of two replicas, their distance.
PIVOT = {1: 1e-2, 2: 1e-3}
RESOLVED = 30  # times pivot^2 C: a distance below is too small, by 1% there and 12% at 0.3


@dataclass(frozen=True, eq=False)
class DMFTResult:
    """Training for d to infinity. Estimates are means over the runs with the error between them.

    Times are steps 0, ..., T; eta times steps is in `times`.

    Attributes
    ----------
    model : GaussianMixturePerceptron
    schedule : GD, SGD or PersistentSGD
    weight_decay : float
    solution : dmft.Solution
        Of the solver: M, G, the Gaussian field's covariance, and one step more than asked for.
    per_run : dict of ndarray (runs, ...)
        m, C, R, chi, loss, error, test_error, gap, and C12, distance with two replicas, run by
        run: whatever is nonlinear in them is computed from these.
    flags : tuple of str
        What is wrong or unfinished, in sentences; also the status of every Estimate.
    """

    model: GaussianMixturePerceptron
    schedule: Schedule
    weight_decay: float
    solution: dmft.Solution = field(repr=False)
    per_run: dict[str, np.ndarray] = field(init=False, repr=False)
    flags: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_run", _quantities(self.model, self.schedule, self.solution))
        object.__setattr__(self, "flags", self.solution.flags + _of_replicas(self))

    def estimate(self, name: str) -> Estimate:
        """A quantity of `per_run`, with its standard error between the runs (NaN for one run,
        whose status is "one run").

        Raises
        ------
        KeyError
            There is none of that name (C12 and distance need ``replicas=2``).
        """
        if name not in self.per_run:
            raise KeyError(
                f"no {name!r} in this result (C12 and distance need replicas=2); there are "
                f"{sorted(self.per_run)}"
            )
        status = "; ".join(self.flags) or ("one run" if self.solution.runs == 1 else "ok")
        note = f"{self.solution.runs} runs of {self.solution.n_mc} samples"
        return mean_estimate(self.per_run[name], status=status, note=note)

    @property
    def steps(self) -> int:
        """Last step T."""
        return self.per_run["m"].shape[1] - 1

    @property
    def times(self) -> np.ndarray:
        """eta times steps, (T + 1,)."""
        return self.schedule.rate * np.arange(self.steps + 1)

    @property
    def m(self) -> Estimate:
        """w(t).v/d, (T + 1,)."""
        return self.estimate("m")

    @property
    def C(self) -> Estimate:
        """w(t).w(t')/d, (T + 1, T + 1)."""
        return self.estimate("C")

    @property
    def R(self) -> Estimate:
        """(1/d) sum_i dw_i(t)/dF_i(s), the step being w(s + 1) = ... + eta F(s): (T + 1, T + 1)."""
        return self.estimate("R")

    @property
    def chi(self) -> Estimate:
        """Response chi(t, tw) to a constant force from tw on, (T + 1, T + 1); 0 for t <= tw."""
        return self.estimate("chi")

    @property
    def loss(self) -> Estimate:
        """Mean of l over the training set, (T + 1,)."""
        return self.estimate("loss")

    @property
    def error(self) -> Estimate:
        """Share of wrong labels on the training set, (T + 1,)."""
        return self.estimate("error")

    @property
    def test_error(self) -> Estimate:
        """Share of wrong labels on fresh samples, (T + 1,)."""
        return self.estimate("test_error")

    @property
    def gap(self) -> Estimate:
        """Test error less training error, (T + 1,)."""
        return self.estimate("gap")

    @property
    def C12(self) -> Estimate:
        """w_1(t).w_2(t')/d of two replicas, (T + 1, T + 1)."""
        return self.estimate("C12")

    @property
    def distance(self) -> Estimate:
        """|w_1(t) - w_2(t)|^2/d of two replicas, (T + 1,)."""
        return self.estimate("distance")

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
            Steps; the second half of the run by default.
        method : "fdt" or "virial"
            "fdt": half mean square displacement over response, averaged over the waiting times tw
            with tw and tw + lag in the window; fast, slope and global temperatures. "virial":
            <w.g>/d, which is the fast one in a stationary state.
        lag : int >= 5, optional
            Largest lag of "fdt"; half of the window by default, but not less than 5.

        Returns
        -------
        EffectiveTemperature ("fdt"), or Estimate ("virial")
            Status "not stationary" (and ``stationary=False``) if <w.g>/d and eta <g^2>/(2d), or
            H(1) or H(k) of the two halves of the window (k a quarter of it), differ by more than
            4 standard errors or 5%; "under-sampled" where 5% may be noise or could not be seen,
            "not tested" with a single run, "no noise" with full batches.

        Raises
        ------
        ValueError
            An unknown method, a window or lag outside the run, or "fdt" of a single run.

        References
        ----------
        F. Mignacco, P. Urbani, arXiv:2112.10852; S. Yaida, arXiv:1810.00004.
        """
        C, R = self.per_run["C"], self.per_run["R"]
        return theory_temperature(C, R, self.schedule, window, method, lag)

    def resume(self, steps: int = 0) -> DMFTResult:
        """The same run `steps` further, with the bits of one longer run; 0 completes what was
        interrupted. Not of a loaded result (NotApplicableError)."""
        return DMFTResult(self.model, self.schedule, self.weight_decay, self.solution.resume(steps))

    def save(self, path: str | Path) -> None:
        """Write the numbers to an npz file, with the parameters; see `load`."""
        self.solution.save(path, fingerprint(self.model, self.schedule, self.weight_decay))

    def plot(self) -> Drawing:
        """Order parameters, losses and errors against the step."""
        from thermolearn.core.drawing import Drawing

        name, b = type(self.schedule).__name__, self.schedule.batch_fraction
        title = f"{name}: learning rate {self.schedule.rate:g}" + (f", b = {b:g}" if b < 1 else "")
        drawing = Drawing(title, columns=3, size=(14, 3.8))
        t = np.arange(self.steps + 1)
        panels = (("m", "C"), ("loss",), ("error", "test_error"))
        if "distance" in self.per_run:
            panels = (*panels[:1], ("loss", "distance"), panels[2])
        for ax, names in zip(drawing.axes[0], panels, strict=True):
            ax.set(xlabel="step t", ylabel=", ".join(names))
            for color, name in enumerate(names):
                y = self.estimate(name)
                if name == "C":
                    y = Estimate(np.diagonal(y.value), np.diagonal(np.asarray(y.stderr)))
                drawing.theory(ax, t, y, name if name != "C" else "C(t, t)", color)
            ax.legend(frameon=False)
        return drawing


def march(
    model: GaussianMixturePerceptron,
    schedule: Schedule,
    weight_decay: float,
    steps: int,
    n_mc: int | None,
    replicas: int,
    start: tuple[float, float],
    runs: int,
    seed: int,
    pivot: float | None,
    keep: bool,
) -> DMFTResult:
    """See `GaussianMixturePerceptron.dmft`."""
    check_schedule(schedule)
    decay = real("weight_decay", weight_decay, least=0)
    steps = whole("steps", steps, least=1)
    replicas = whole("replicas", replicas, 1, 2)
    if len(start) != 2:
        raise ValueError(f"start must be (R0, m0), got {start!r}")
    begin = real("R0 in start", start[0], least=0), real("m0 in start", start[1])
    samples = whole("n_mc", SAMPLES[replicas] if n_mc is None else n_mc, least=len(model.clusters))
    # fields, signals and the tensor of responses of one run; all of them with keep
    needed = 16 * replicas * steps * samples + 2 * steps**2 * samples
    check_memory(needed * (whole("runs", runs, 1) if keep else 1), "lower steps or n_mc")
    solution = dmft.solve(
        lambda n, rng: Site(model, schedule, replicas, n),
        lambda: Order(model, schedule, decay, replicas, begin),
        steps + 1,  # one more, for loss and error at T
        samples,
        fields=replicas,
        runs=runs,
        seed=seed,
        pivot=PIVOT[replicas] if pivot is None else pivot,
        keep=keep,
    )
    return DMFTResult(model, schedule, decay, solution)


def load(
    path: str | Path, model: GaussianMixturePerceptron, schedule: Schedule, weight_decay: float
) -> DMFTResult:
    """A result written by `DMFTResult.save`, of the same model, schedule and weight decay.

    Raises
    ------
    DataError
        The file is not such a result, or of another model, schedule or weight decay: the message
        says which parameter differs (of a loss or decision, its values at some fields).
    """
    solution = dmft.load(path)
    missing = {"m", "C", "R", "loss", "error", "covariance"} - solution.per_run.keys()
    if missing:
        raise DataError(f"{path} is no result of sgd_noise: it has no {', '.join(sorted(missing))}")
    check_schedule(schedule)
    decay = real("weight_decay", weight_decay, least=0)
    other = different(solution.facts, fingerprint(model, schedule, decay))
    if other:
        raise DataError(
            f"{path} was made with another {', another '.join(other)}: give the model, schedule "
            "and weight_decay of the saved run"
        )
    return DMFTResult(model, schedule, decay, solution)


def _quantities(
    model: GaussianMixturePerceptron, schedule: Schedule, solution: dmft.Solution
) -> dict[str, np.ndarray]:
    """Everything run by run, at the times at which all of it is known."""
    found, n = solution.per_run, solution.steps
    out = {"m": found["m"][:, :n]}
    for name, known in (("C", "C"), ("R", "R"), ("C12", "between")):
        if known in found:
            out[name] = found[known][:, :n, :n]
    out["chi"] = integrated_response(out["R"], schedule.rate)
    out |= {name: found[name][:, :n] for name in ("loss", "error")}
    q = np.diagonal(out["C"], axis1=1, axis2=2)
    out["test_error"] = np.array(
        [
            [test_error(model, *at) for at in zip(*run, strict=True)]
            for run in zip(out["m"], q, strict=True)
        ]
    )
    out["gap"] = out["test_error"] - out["error"]
    if "C12" in out:
        out["distance"] = 2 * (q - np.diagonal(out["C12"], axis1=1, axis2=2))
    return out


def _of_replicas(result: DMFTResult) -> tuple[str, ...]:
    """What is wrong with the distance between the replicas."""
    if "distance" not in result.per_run:
        return ()
    found, solution = mean_estimate(result.per_run["distance"]), result.solution
    distance, flags = np.asarray(found.value), []
    low = distance < -4 * np.nan_to_num(found.stderr) - 1e-9
    if low.any():
        flags.append(
            f"the distance between the replicas is negative at step {int(np.argmax(low))}: raise "
            "n_mc or pivot"
        )
    # at the start, and always without noise, the replicas agree exactly
    noisy = result.schedule.batch_fraction < 1 and solution.dropped > solution.runs
    size = np.diagonal(result.per_run["C"].mean(0))
    lost = np.flatnonzero(distance[1:] < RESOLVED * solution.pivot**2 * size[1:]) + 1
    if noisy and len(lost):
        flags.append(
            f"the distance between the replicas is not resolved at step {lost[0]} and {len(lost)} "
            f"steps in all, but too small: it is below {RESOLVED} pivot^2 C at pivot = "
            f"{solution.pivot:g}; take a smaller pivot"
        )
    return tuple(flags)

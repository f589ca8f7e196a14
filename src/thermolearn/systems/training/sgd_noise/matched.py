"""SGD on given data by mean-field theory: a Gaussian mixture with the data's means and covariance.

No parameter is fitted to a run: means, covariance, loss, schedule and weight decay give the
dynamics of the weights and the temperatures of their noise. How well that does for data that are
no Gaussian mixture is measured on digits (benchmarks/digits_temperature.py). The equations stand
in `matched_modes`.

Reference: cavity derivation for a general covariance made here, after F. Mignacco, P. Urbani,
arXiv:2112.10852, to which it reduces for a covariance Delta and one direction of the means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core import dmft
from thermolearn.core.checks import real, whole
from thermolearn.core.errors import DataError, DivergedError
from thermolearn.core.estimate import Estimate, summary
from thermolearn.measure.noise.response import EffectiveTemperature
from thermolearn.systems.training.sgd_noise.losses import Loss, as_loss
from thermolearn.systems.training.sgd_noise.matched_modes import FINITE, Modes, Sample
from thermolearn.systems.training.sgd_noise.schedules import Schedule, check_schedule
from thermolearn.systems.training.sgd_noise.temperature import (
    check_method,
    theory_temperature,
)

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

Array = np.ndarray
RAW = 10.0  # variance per direction, or squared mean over the variance, of samples not scaled


@dataclass(frozen=True, eq=False)
class MatchedMixture:
    """A Gaussian mixture with the means and the covariance of given data.

    Attributes
    ----------
    probabilities : ndarray (K,)
        p_k, the shares of the clusters.
    labels : ndarray (K,)
        y_k.
    means : ndarray (K, d)
        m_k in the eigenbasis.
    eigenvalues : ndarray (d,)
        lambda_i of the covariance within the clusters, ascending.
    basis : ndarray (d, d)
        Its eigenvectors as columns.
    samples : int
        n.
    loss : Loss
    """

    probabilities: Array
    labels: Array
    means: Array
    eigenvalues: Array
    basis: Array
    samples: int
    loss: Loss

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.eigenvalues)

    @property
    def alpha(self) -> float:
        """n/d."""
        return self.samples / self.dimension

    def __repr__(self) -> str:
        return (
            f"MatchedMixture({self.samples} samples in {self.dimension} dimensions, "
            f"{len(self.labels)} clusters of labels {summary(self.labels)}, eigenvalues "
            f"{summary(self.eigenvalues)}, loss={self.loss.name!r})"
        )

    @classmethod
    def fit(
        cls, x: Any, y: Any, *, loss: str | Loss = "logistic", clusters: Any = None
    ) -> MatchedMixture:
        """Means and pooled covariance of the clusters.

        Parameters
        ----------
        x : array (n, d)
            The samples as the model sees them: center and scale them before.
        y : array (n,)
            Labels, -1 and 1, both of them (for the quadratic loss any numbers, a few).
        loss : "logistic", "hinge2", "quadratic" or Loss
        clusters : array (n,), optional
            Which samples form a cluster (of one label); those of a label by default.

        Raises
        ------
        DataError
            x or y no finite numbers or of the wrong shape, a single sample in a cluster, a cluster
            with two labels, more clusters than dimensions, samples without any spread, or a loss of
            the margin with labels of one sign.
        ValueError
            Labels that do not fit the loss, such as 0 and 1 with "logistic"; see `as_loss`.
        """
        x, y = _numbers("x", x), _numbers("y", y)
        if x.ndim != 2 or y.shape != x.shape[:1] or not x.size:
            raise DataError(f"x must be (n, d) and y (n,), got {x.shape} and {y.shape}")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise DataError("x and y must be finite: remove the samples that are not")
        ids, index = np.unique(y if clusters is None else np.asarray(clusters), return_inverse=True)
        if index.shape != y.shape:
            raise DataError(f"clusters must have shape {y.shape}, got {index.shape}")
        counts = np.bincount(index)
        if len(ids) > x.shape[1] or counts.min() < 2:
            raise DataError(
                f"{len(ids)} clusters in {x.shape[1]} dimensions, the smallest with "
                f"{counts.min()} samples: give fewer `clusters` of two samples or more"
            )
        members = [index == k for k in range(len(ids))]
        if any(len(np.unique(y[own])) > 1 for own in members):
            raise DataError("a cluster has two labels: split it in `clusters`")
        means = np.stack([x[own].mean(0) for own in members])
        rest = x - means[index]
        eigenvalues, basis = np.linalg.eigh(rest.T @ rest / len(x))
        if not eigenvalues[-1] > 0:
            raise DataError("the samples of each cluster are all alike: nothing to match")
        labels = np.array([y[own][0] for own in members])
        function = as_loss(loss, tuple(labels))
        if function.signed and len(set(np.sign(labels))) < 2:
            raise DataError(
                f"y has the label {labels[0]:g} alone: a loss of the margin y h needs samples of "
                "both signs"
            )
        return cls(
            counts / len(x), labels, means @ basis, np.maximum(eigenvalues, 0.0), basis, len(x),
            function,
        )  # fmt: skip

    def dmft(
        self,
        schedule: Schedule,
        weight_decay: float,
        steps: int,
        n_mc: int = 2000,
        *,
        runs: int = 4,
        seed: int = 0,
        start_scale: float = 0.1,
        finite: str = "moments",
    ) -> MatchedResult:
        """The training, predicted.

        Parameters
        ----------
        schedule : GD, SGD or PersistentSGD
        weight_decay : float >= 0
            lambda beside the loss summed over the samples.
        steps : int >= 1
        n_mc : int
            Samples of the effective process per run; more than steps + clusters.
        runs : int >= 1
            For the errors.
        start_scale : float >= 0
            Standard deviation of the weights at the start.
        finite : "moments", "means" or "none"
            Terms of relative order 1/d: all that are diagonal, those of the means' share of the
            second moments alone, or the limit d to infinity. See `matched_modes`.

        Raises
        ------
        DivergedError
            The learning rate is too large, which for samples that are not scaled any may be.
        ValueError
            A number out of range.
        """
        schedule = check_schedule(schedule)
        decay = real("weight_decay", weight_decay, least=0)
        scale = real("start_scale", start_scale, least=0)
        if finite not in FINITE:
            raise ValueError(f"finite must be one of {FINITE}, got {finite!r}")
        hint = self._hint()
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # DivergedError says it
                solution = dmft.solve(
                    partial(_sample, self, schedule, finite == "moments"),
                    partial(Modes, self, schedule.rate, decay, scale, finite),
                    whole("steps", steps, least=1),
                    n_mc,
                    runs=runs,
                    seed=seed,
                    keep=False,
                )
        except DivergedError as error:
            raise DivergedError(
                error.step,
                f"diverged at step {error.step}: the learning rate {schedule.rate:g} is too large, "
                f"lower it{hint}",
            ) from error
        remarks = (hint.removeprefix("; "),) if hint and solution.flags else ()
        return MatchedResult(schedule, solution, remarks)

    def _hint(self) -> str:
        """What to do first where a prediction fails on samples that were not scaled."""
        spread = float(self.eigenvalues.mean())
        mean = self.probabilities @ self.means
        apart = float(mean @ mean) / self.dimension / spread
        if spread <= RAW and apart <= RAW:
            return ""
        return (
            f"; the samples have a variance of {spread:.3g} per direction and a squared mean of "
            f"{apart:.3g} of it: center and scale x before `fit`"
        )


def _sample(
    mixture: MatchedMixture, schedule: Schedule, moments: bool, n: int, rng: np.random.Generator
) -> Sample:
    return Sample(mixture, schedule, n, moments)


def _numbers(name: str, x: Any) -> Array:
    try:
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        kind = np.asarray(x, dtype=object).ravel()[:1]
        first = f" like {kind[0]!r}" if kind.size else ""
        hint = "; label the two classes -1 and 1" if name == "y" else ""
        raise DataError(f"{name} must hold numbers, got entries{first}{hint}") from None


@dataclass(frozen=True, eq=False)
class MatchedResult:
    """The predicted training: means over the runs with the standard error between them.

    Attributes
    ----------
    schedule : GD, SGD or PersistentSGD
    solution : dmft.Solution
        Of the solver: order parameters "q", "C" and "R", the field's covariance, M and G.
    remarks : tuple of str
        What may be the reason for a flag of the solver.
    """

    schedule: Schedule
    solution: dmft.Solution
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        flags = f", flags={self.flags!r}" if self.flags else ""
        return (
            f"MatchedResult({self.schedule!r}, {self.solution.steps} steps, "
            f"{self.solution.runs} runs of {self.solution.n_mc} samples{flags})"
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """What is wrong or unfinished, in sentences; empty if nothing is."""
        return self.solution.flags + self.remarks

    @property
    def C(self) -> Estimate:
        """w(t).w(t')/d, (T + 1, T + 1)."""
        return self.solution.estimate("C")

    @property
    def R(self) -> Estimate:
        """(1/d) sum_i dw_i(t)/dF_i(s), the step being w(s + 1) = ... + eta F(s): (T + 1, T + 1)."""
        return self.solution.estimate("R")

    @property
    def q(self) -> Estimate:
        """m_k.w(t)/sqrt(d), the mean of h in cluster k, (T + 1, K)."""
        return self.solution.estimate("q")

    @property
    def loss(self) -> Estimate:
        """Mean of l over the training set, (T,)."""
        return self.solution.estimate("loss")

    @property
    def error(self) -> Estimate:
        """Share of wrong labels on the training set, (T,)."""
        return self.solution.estimate("error")

    def effective_temperature(
        self,
        window: tuple[int, int] | None = None,
        method: str = "fdt",
        lag: int | None = None,
    ) -> EffectiveTemperature | Estimate:
        """Temperature per parameter of the noise in a stationary window, in units of the sum loss.

        Parameters
        ----------
        window : (first, last), optional
            Steps; the second half of the run by default.
        method : "fdt" or "virial"
            "fdt": fluctuation over response, averaged over the times tw with tw and tw + lag in
            the window. "virial": <w.g>/d, in a stationary state the fast one of "fdt".
        lag : int >= 5, optional
            Largest lag of "fdt"; half of the window by default, but not less than 5.

        Returns
        -------
        EffectiveTemperature ("fdt"), or Estimate ("virial")
            Flagged as that of `DMFTResult.effective_temperature` where the window moves or the
            samples are too few to tell; status "flagged" where the result has `flags`.

        Raises
        ------
        ValueError
            An unknown method, a window or lag outside the run, or a single run.
        """
        check_method(method)
        if self.solution.runs < 2:
            raise ValueError(
                "a temperature needs runs >= 2 for its errors: call .dmft(..., runs=4)"
            )
        C, R = self.solution.per_run["C"], self.solution.per_run["R"]
        found = theory_temperature(C, R, self.schedule, window, method, lag)
        if isinstance(found, Estimate):
            return self._flagged(found)
        names = ("t_fast", "t_slope", "t_glob")
        return replace(found, **{name: self._flagged(getattr(found, name)) for name in names})

    def _flagged(self, e: Estimate) -> Estimate:
        if not self.flags:
            return e
        status = "flagged" if e.status == "ok" else e.status
        return replace(e, status=status, note="; ".join(filter(None, (e.note, *self.flags))))

    def plot(self) -> Drawing:
        """Norm, means of h in the clusters, loss and error on the training set against the step."""
        from thermolearn.core.drawing import Drawing

        drawing = Drawing(repr(self.schedule), columns=4, size=(17, 3.8))
        C, q = self.C, self.q
        norm = Estimate(np.diagonal(C.value), np.diagonal(np.asarray(C.stderr)))
        clusters = [
            (f"cluster {k}", Estimate(np.asarray(q.value)[:, k], np.asarray(q.stderr)[:, k]))
            for k in range(np.shape(q.value)[1])
        ]
        panels: tuple[tuple[str, list[tuple[str, Estimate]]], ...] = (
            ("C(t, t)", [("", norm)]),
            ("mean of h", clusters),
            ("loss per sample", [("", self.loss)]),
            ("share of wrong labels", [("", self.error)]),
        )
        for ax, (label, curves) in zip(drawing.axes[0], panels, strict=True):
            ax.set(xlabel="step t", ylabel=label)
            for color, (name, y) in enumerate(curves):
                drawing.theory(ax, np.arange(len(np.asarray(y.value))), y, name, color)
        if 1 < len(clusters) <= 10:
            drawing.axes[0, 1].legend(frameon=False)
        return drawing

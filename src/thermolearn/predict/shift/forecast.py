"""Expected error of a kernel machine at inputs whose labels are not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate
from thermolearn.predict.shift.error_model import ErrorModel, draws_of_mean
from thermolearn.predict.shift.forecast_input import checked_inputs
from thermolearn.predict.shift.residuals import Kernel, geometry
from thermolearn.predict.shift.support import (
    OUTSIDE,
    Support,
    judge_support,
    outside_points,
)
from thermolearn.predict.shift.weights import effective_size, importance_weights, neighbor_weights

SUBSETS = 10  # training subsets when n is below the pool
WEIGHTINGS = 20  # estimates of the weights
REPLICATES = 400  # bootstrap samples of the pool
# Upward standard deviation of the logarithm per share of new inputs beyond most labelled ones, up
# to a share of 0.3: about a tenth of the errors of 400 random shifts is then above the interval,
# whatever that share is. There were hardly any larger shares.
OUTWARD, MOST_BEYOND = 4.0, 0.3
ASSUMPTION = "holds if only the inputs have changed: at the same input, the same labels"
OUTWARD_NOTE = (
    "{:.0%} of the new inputs lie farther out than 90% of the labelled ones (10% without a shift); "
    "{}errors that grow steeply beyond the labelled inputs (a square, a cube, noise that grows) "
    "are not seen and are missed"
)
ALLOWED = "the upper end of the interval allows for larger errors there, but "


@dataclass(frozen=True, eq=False)
class ShiftForecast:
    """Expected error on unlabelled inputs; see `expected_error`.

    Attributes
    ----------
    value : Estimate
        Expected mean error over the new inputs; NaN where the forecast is refused. Its bar leaves
        out the chance in the unknown labels themselves.
    interval : (float, float)
        Where the mean error will be, once the labels are known, with probability `level` over the
        shifts of the documentation: not a guarantee. Missed, nearly always upward, are errors that
        grow outward where few labelled points lie: a target that bends there (a square or a cube
        of an input that moves or widens), label noise that grows along the shift. Nothing in the
        labelled points shows this, and more of them do not cure it.
    level : float
    in_distribution : Estimate
        The same machine's error without a shift, by leaving labelled points out.
    ess : float
        Labelled points that the weighted estimate is worth.
    support : Support
    status : str
        ``"ok"`` or ``"outside the support"``.
    notes : tuple of str
        Conditions, and reasons of a refusal.
    task : str
        ``"regression"``: squared error summed over outputs. ``"classification"``: rate of wrong
        classes.
    """

    value: Estimate
    interval: tuple[float, float]
    level: float
    in_distribution: Estimate
    ess: float
    support: Support
    status: str
    notes: tuple[str, ...]
    task: str

    @property
    def refused(self) -> bool:
        """Whether there is no forecast."""
        return self.status != "ok"

    def __str__(self) -> str:
        name = "error rate" if self.task == "classification" else "squared error"
        if self.refused:
            return f"{name} on these inputs: refused, {self.status}. " + " ".join(
                f"{reason[0].upper()}{reason[1:]}." for reason in self.support.reasons
            )
        low, high = self.interval
        return (
            f"{name} on these inputs: {float(self.value):.4g} [{low:.4g}, {high:.4g}] "
            f"({self.level:.0%}, errors growing beyond the labelled inputs not seen); "
            f"without shift {self.in_distribution}"
        )


def expected_error(
    X: ArrayLike,
    y: ArrayLike,
    X_new: ArrayLike,
    *,
    kernel: Kernel | None = None,
    features: Callable[[np.ndarray], Any] | None = None,
    ridge: float,
    n: int | None = None,
    level: float = 0.8,
    seed: int = 0,
    task: str = "regression",
) -> ShiftForecast:
    """Error of kernel ridge regression at unlabelled inputs, or a refusal.

    The machine is f(x) = k(x)' (K + ridge)^{-1} y on the labelled pool. Every labelled point is
    left out once, in closed form. To the squared residuals r^2 is fitted what a Gaussian-process
    target and label noise make of them,

        E r^2 = A (k(x,x) - 2 a'k(x) + a'K a) + s^2 (1 + |a|^2),   a = (K + ridge)^{-1} k(x),

    so that the same A, s^2 >= 0 give an error at the new inputs: bias and variance at *their*
    geometry. What that leaves out is taken from the labelled points that resemble the new ones:
    the prediction is multiplied with sum w r^2 / sum w E r^2, where w = p_new / p_pool is the
    importance weight of a cross-fitted classifier of pool against new inputs. In classification
    the probability of a wrong class is a logistic function of margin over (E r^2)^{1/2}, with the
    same correction. The interval is from a bootstrap over labelled points (both fits repeated),
    the weights estimated again, and the chance of the unknown labels; its upper end
    grows with the share of new inputs that lie farther out than 90 percent of the labelled points
    (`Support.share_beyond`; squared errors only).

    Parameters
    ----------
    X : array (N, ...)
        Labelled inputs, N >= 20, scaled as the machine is to see them.
    y : array (N,) or (N, outputs)
        Targets; in classification class labels (N,), coded +-1 (two classes) or one-hot minus
        the mean.
    X_new : array (M, ...)
        Unlabelled inputs, M >= 10, scaled with the same constants. Those that are labelled points
        are left out (with a note): the machine has learned their labels by heart.
    kernel : object with ``gram(X, X2=None)``
        Returns arrays or tensors.
    features : callable
        Instead of a kernel: maps inputs to features (rows, p); k = f . f'.
    ridge : float
        > 0, added to the diagonal of K (not divided by N).
    n : int, optional
        Training size, at least 20, at most N; default N. Below N an average over 10 random
        training subsets.
    level : float
        Probability of the interval, in [0.5, 0.99].
    seed : int >= 0
        Of folds, subsets and bootstrap.
    task : "regression" or "classification"

    Returns
    -------
    ShiftForecast
        Refused (``status``, value NaN) where the labelled points cannot speak for the new ones:
        more than 30 percent of these farther out than 99 percent of the labelled points
        themselves, most of the error on such inputs, weights worth fewer than 15 points, or new
        inputs that are all the same.

    Raises
    ------
    ValueError
        Shapes, sizes, missing values, constant labels, labels beyond 1e60 (or all below 1e-60),
        fewer than 10 new inputs that are not labelled points, or arguments out of range.

    Notes
    -----
    y | x must not change: mislabelled or relabelled data, and labels that depend on something else
    that has shifted, are not seen. Shimodaira, J. Stat. Plan. Inference 90 (2000) 227, for the
    weights; the combination and its interval are our own, with measured coverage in the
    documentation.
    """
    level = real("level", level, least=0.5, most=0.99)
    rng = np.random.default_rng((2000_227, whole("seed", seed, 0)))
    ridge = real("ridge", ridge, above=0)
    given = checked_inputs(X, y, X_new, kernel, features, task)
    N = len(given.X)
    size = N if n is None else whole("n", n, 20, N)
    pool, new, between = geometry(
        given.kernel, given.X, given.targets, given.X_new, ridge, size, SUBSETS, rng
    )
    classified, neighbors = (
        way(given.rows, given.rows_new, WEIGHTINGS, rng)
        for way in (importance_weights, neighbor_weights)
    )
    weightings = np.stack([classified[0], neighbors[0]])
    effective = effective_size(classified[0])
    model = ErrorModel(pool, new, classes=task == "classification")
    everything = np.arange(N)
    expected = model.at_new(everything, weightings)
    in_distribution = model.in_distribution()
    outside, beyond = outside_points(given.rows, given.rows_new, pool, new)
    support = judge_support(given.rows_new, outside, beyond, expected, effective)
    support = replace(support, outside=_among_all(given.fresh, outside))
    allowed = "" if model.classes else ALLOWED
    notes = (ASSUMPTION, OUTWARD_NOTE.format(beyond, allowed), *given.notes)
    if not support.inside:
        nothing = Estimate(math.nan, math.nan, status=OUTSIDE, note=support.reasons[0])
        notes = (*notes, *support.reasons)
        return ShiftForecast(
            nothing, (math.nan, math.nan), level, in_distribution, effective, support, OUTSIDE,
            notes, task,
        )  # fmt: skip
    replicates = np.empty(REPLICATES)
    for k in range(REPLICATES):
        drawn = np.stack([classified[1][k % WEIGHTINGS], neighbors[1][k % WEIGHTINGS]])
        replicates[k] = model.at_new(rng.integers(N, size=N), drawn).mean()
    mean = float(expected.mean())
    # neighboring points err together; whether the class is wrong they share much less
    among_pool, among_new = (
        (1.0, 1.0) if model.classes else between.design_effects(*model.amplitudes())
    )
    spread = math.hypot(
        _log_spread(replicates) * math.sqrt(among_pool),
        _unknown_change(model.inflation(), mean, float(in_distribution), effective / N),
    )
    # a rate of wrong classes is bounded, and covered without
    upward = spread if model.classes else math.hypot(spread, OUTWARD * min(beyond, MOST_BEYOND))
    final = draws_of_mean(model, expected, weightings, (spread, upward), among_new, rng)
    low, high = np.quantile(final, [(1 - level) / 2, (1 + level) / 2])
    value = Estimate(mean, mean * upward, n_eff=effective, note=ASSUMPTION)
    return ShiftForecast(
        value, (float(low), float(high)), level, in_distribution, effective, support, "ok",
        notes, task,
    )  # fmt: skip


def _among_all(fresh: np.ndarray, outside: np.ndarray) -> np.ndarray:
    everywhere = np.zeros(len(fresh), dtype=bool)
    everywhere[fresh] = outside
    return everywhere


def _log_spread(replicates: np.ndarray) -> float:
    """Standard deviation of the logarithm, from quantiles: few replicates must not decide."""
    positive = np.log(np.maximum(replicates, 1e-300))
    low, high = np.quantile(positive, [0.1587, 0.8413])
    return float(high - low) / 2


def _unknown_change(inflation: float, value: float, without: float, share: float) -> float:
    """Standard deviation of what is not known of the change itself, in the logarithm.

    Predicted changes are right up to a part of themselves. The parts were set on random shifts
    other than those of the documented coverage.
    """
    total = math.log(value / without) if value > 0 and without > 0 else 0.0
    return math.sqrt(inflation**2 + 0.25 * total**2 + 0.03 * (1 - share))

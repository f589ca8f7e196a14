"""Gradient noise scale and critical batch size with confidence intervals."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from torch import nn

from thermolearn.core import checks
from thermolearn.core.copying import untouched
from thermolearn.core.diagnostics import autocorrelation_time
from thermolearn.core.errors import NotApplicableError, SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.measure.learning import sample_losses
from thermolearn.measure.noise.gradient_noise import fieller, gradient_products
from thermolearn.measure.noise.leading_order import step_noise
from thermolearn.measure.noise.training_mode import EVAL, training_differs
from thermolearn.measure.objective import trained_parameters
from thermolearn.measure.setting import window_of
from thermolearn.measure.window import Pair

FEWEST = 8  # samples
ENOUGH = 10  # independent steps


@dataclass(frozen=True)
class NoiseScale:
    """Noise and signal of the gradient.

    Attributes
    ----------
    gradient_norm_squared, noise_trace : Estimate
        |G|^2 and tr Sigma of the gradient of one sample, unbiased.
    noise_scale : Estimate
        B_simple = tr Sigma/|G|^2 in samples, which estimates the critical batch size: exactly so
        where the Hessian is a multiple of the identity, else up to a factor of order one.
    interval : (low, high)
        Confidence interval of the ratio (Fieller); high is inf where |G|^2 is not significantly
        above zero, and then the status of `noise_scale` is "under-sampled".
    confidence : float
    samples : int
        Samples or steps that were used.
    reduction : "mean" or "sum"
        How the loss of a batch is made of those of its samples.
    caveat : str
        Why these are not the numbers of the training run: where the model computes something else
        in training mode (dropout, batch normalization). Empty if they are.
    """

    gradient_norm_squared: Estimate
    noise_trace: Estimate
    noise_scale: Estimate
    interval: tuple[float, float]
    confidence: float
    samples: int
    reduction: str = "mean"
    caveat: str = ""

    def steps_factor(self, batch_size: float) -> float:
        """Optimizer steps at this batch size over the fewest possible: 1 + B_simple/B."""
        size = checks.real("batch_size", batch_size, above=0)
        return 1 + float(self.noise_scale) / size

    def samples_factor(self, batch_size: float) -> float:
        """Samples used at this batch size over the fewest possible: 1 + B/B_simple."""
        size = checks.real("batch_size", batch_size, above=0)
        return 1 + size / float(self.noise_scale)

    def temperature(self, learning_rate: float, batch_size: float, parameters: int) -> Estimate:
        """lr tr Sigma/(2 B d), for a sum over the batch lr B tr Sigma/(2 d).

        The leading order of SGD's temperature near a minimum. With momentum m and dampening t give
        lr (1 - t)/(1 - m) as the learning rate. Status "eval mode" where dropout or batch
        normalization make the noise of training another one.
        """
        rate = checks.real("learning_rate", learning_rate, above=0)
        size = checks.real("batch_size", batch_size, above=0)
        d = checks.whole("parameters", parameters, 1)
        found = self.noise_trace * (rate * step_noise(1.0, size, self.reduction) / (2 * d))
        return replace(found, status=EVAL, note=self.caveat) if self.caveat else found


def gradient_noise_scale(
    model: nn.Module, loss_fn: Any, data: Pair, *, confidence: float = 0.95
) -> NoiseScale:
    """tr Sigma, |G|^2 and the noise scale at the model's parameters, from per-sample gradients.

    On an eval-mode float64 copy; nothing of the user's is changed. Where the model computes
    something else in training mode, the numbers are not those of a training run (`caveat`).

    The interval relies on the central limit for the mean gradient and its square: its coverage is
    near `confidence` where no few samples dominate <|g|^2>; with heavy tails (a log-normal factor
    of spread 0.8 before each gradient) a 95% interval from 64 samples covers the truth in about 4
    of 5 cases.

    Parameters
    ----------
    data : (x, y)
        Samples, at least 8; the interval narrows as 1/sqrt(n).
    confidence : float in (0, 1)

    Raises
    ------
    TypeError, ValueError
        Bad arguments, fewer than 8 samples, or gradients that are not finite.
    NotApplicableError
        The loss is no mean or sum over samples, the model has no trained parameter or cannot be
        copied.

    References
    ----------
    McCandlish, Kaplan, Amodei, arXiv:1812.06162. Fieller, J. R. Stat. Soc. B 16 (1954) 175, with
    the jackknife's covariance of numerator and denominator.
    """
    confidence = checks.real("confidence", confidence, above=0, below=1)
    with untouched():
        window = window_of(model, loss_fn, data)
        x, y = window.reference
        if len(x) < FEWEST:
            raise ValueError(f"data must hold at least {FEWEST} samples, got {len(x)}")
        parameters = trained_parameters(window.model)
        losses, _, reduction = sample_losses(window.loss_fn, window.outputs, y)
        if not bool(losses.isfinite().all()):
            raise ValueError("the loss is not finite at these parameters on all samples of data")
        if reduction == "other":
            raise NotApplicableError(
                "the loss is neither the mean nor the sum of its samples' losses: there is no "
                "gradient per sample"
            )
        task = (window.model, window.loss_fn, x, y, reduction, parameters)
        squares, products, mean = gradient_products(*task)
        caveat = training_differs(window.model, x)
    if not (np.isfinite(squares).all() and math.isfinite(mean)):
        raise ValueError("the gradients are not finite at these parameters")
    n = len(squares)

    def signal_and_noise(n: int, mean: Any, square: Any) -> np.ndarray:
        return np.array([(n * mean - square) / (n - 1), n * (square - mean) / (n - 1)])

    value = signal_and_noise(n, mean, squares.mean())
    # the mean gradient without sample i, squared: (n - 1)^2 |.|^2 = n^2 m - 2 n g_i . gbar + g_i^2
    mean_without = (n**2 * mean - 2 * n * products + squares) / (n - 1) ** 2
    square_without = (squares.sum() - squares) / (n - 1)
    left_out = signal_and_noise(n - 1, mean_without, square_without)
    covariance = (n - 1) * np.cov(left_out, bias=True)
    found = _noise_scale(value, covariance, n, confidence)
    return replace(found, reduction=reduction, caveat=caveat)


def noise_scale_from_norms(
    small: ArrayLike,
    big: ArrayLike,
    small_batch: float,
    big_batch: float,
    *,
    confidence: float = 0.95,
) -> NoiseScale:
    """The noise scale from |g|^2 recorded at two batch sizes in the same steps.

    |G|^2 = (B |g_B|^2 - b |g_b|^2)/(B - b), tr Sigma = (|g_b|^2 - |g_B|^2)/(1/b - 1/B), averaged
    over steps before the ratio is taken: what gradient accumulation and data-parallel training
    give for nothing (small: one micro-batch or worker, big: their mean).

    Parameters
    ----------
    small, big : arrays (steps,)
        Squared gradient norms at batch size `small_batch` and `big_batch`, step by step. Steps
        must be few enough that |G|^2 hardly changes. Correlated steps count as fewer: n/(2 tau)
        with their autocorrelation time tau; below 10 of those the status is "under-sampled".

    Raises
    ------
    ValueError
        Arrays of different length, fewer than 8 steps, numbers that are not finite, or
        small_batch not below big_batch.

    References
    ----------
    McCandlish, Kaplan, Amodei, arXiv:1812.06162, appendix A.1.
    """
    confidence = checks.real("confidence", confidence, above=0, below=1)
    b = checks.real("small_batch", small_batch, above=0)
    most = checks.real("big_batch", big_batch, above=b)
    norms = np.asarray(small, dtype=np.float64), np.asarray(big, dtype=np.float64)
    if norms[0].ndim != 1 or norms[0].shape != norms[1].shape or len(norms[0]) < FEWEST:
        raise ValueError(
            f"small and big must be two arrays of one length of at least {FEWEST}, got shapes "
            f"{norms[0].shape} and {norms[1].shape}"
        )
    if not all(np.isfinite(n).all() and (n >= 0).all() for n in norms):
        raise ValueError("small and big must be finite and not negative")
    signal = (most * norms[1] - b * norms[0]) / (most - b)
    noise = (norms[0] - norms[1]) / (1 / b - 1 / most)
    both = np.stack([signal, noise], 1)
    independent = len(both) / (2 * max(_tau(signal), _tau(noise)))
    found = _noise_scale(
        both.mean(0), np.cov(both.T) / independent, len(both), confidence, independent
    )
    if independent < ENOUGH and found.noise_scale.status == "ok":
        note = (
            f"{len(both)} steps are worth {independent:.2g} independent ones, {ENOUGH} are "
            "needed: the interval may be too narrow"
        )
        scale = replace(found.noise_scale, status="under-sampled", note=note)
        found = replace(found, noise_scale=scale)
    return found


def _tau(series: np.ndarray) -> float:
    """Autocorrelation time in steps, 1/2 if independent.

    The larger of the integrated one (from 50 steps) and that of the first lag's correlation,
    tau = (1 + r)/(2 (1 - r)), with the bias of r, -(1 + 3 r)/n, taken out.
    """
    n, centered = len(series), series - series.mean()
    variance = float((centered**2).sum())
    if not variance > 0:
        return 0.5
    r = float((centered[1:] * centered[:-1]).sum()) / variance
    r = min(max(r + (1 + 3 * max(r, 0.0)) / n, 0.0), 1 - 1 / n)
    tau = (1 + r) / (2 * (1 - r)) if n * r**2 > 2 else 0.5  # r within its error of 0: none seen
    if n < 50:
        return tau
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        integrated = float(autocorrelation_time(series))
    return max(tau, integrated) if math.isfinite(integrated) else tau


def _noise_scale(
    value: np.ndarray,
    covariance: np.ndarray,
    n: int,
    confidence: float,
    independent: float | None = None,
) -> NoiseScale:
    """(|G|^2, tr Sigma) with their covariance, of so many independent samples (default n)."""
    n_eff = float(n) if independent is None else independent
    signal, noise = float(value[0]), float(value[1])
    errors = np.sqrt(np.diag(covariance))
    quantile = float(stats.t.ppf(0.5 + confidence / 2, max(n_eff - 1, 1.0)))
    low, high = fieller(noise, signal, covariance[::-1, ::-1], quantile)
    known = math.isfinite(high)
    ratio = noise / signal if signal > 0 else math.nan
    gradient = np.array([-noise / signal**2, 1 / signal]) if signal else np.full(2, math.nan)
    stderr = math.sqrt(float(gradient @ covariance @ gradient)) if known else math.nan
    return NoiseScale(
        Estimate(signal, float(errors[0]), n_eff),
        Estimate(max(noise, 0.0), float(errors[1]), n_eff),
        Estimate(
            ratio,
            stderr,
            n_eff,
            status="ok" if known else "under-sampled",
            note="in samples"
            if known
            else f"|G|^2 is not above zero at {100 * confidence:g}% confidence with {n} samples or "
            "steps: only the lower bound of the interval holds",
        ),
        (low, high),
        confidence,
        n,
    )

"""The four curves of a Gaussian field theory of learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.predict.curves import LearningCurve, learning_curve
from thermolearn.predict.spectrum import Spectrum, sphere_spectrum
from thermolearn.systems.training.learning_curves.params import Params

MAX_DEGREE = 60


def theory(p: Params) -> dict[str, Estimate]:
    """Averages over data sets of N samples, by the self-consistent curve.

    kappa N = sigma^2 + sum_n kappa lambda_n / (lambda_n + kappa), L_n = lambda_n/(lambda_n+kappa),
    gamma = sum_n L_n^2 / N.

    Parameters
    ----------
    p : Params

    Returns
    -------
    dict of Estimate
        test_error : (sum_n g_n^2 (1 - L_n)^2 + gamma s) / (1 - gamma) with s the label noise;
            squared error against the target without noise.
        train_error : (sigma^2 / N kappa)^2 (sum_n g_n^2 (1 - L_n)^2 + s) / (1 - gamma).
        learnability : L of the degrees in which the target has power.
        predictive_variance : kappa N - sigma^2, mean over inputs.
        log_evidence_per_sample : nats.
        All with the status of the curve: "few dimensions" where the fluctuations that it leaves out
        are known to matter (see `dim` of Params).

    Raises
    ------
    ValueError, ConvergenceError
        As `thermolearn.predict.curves`.
    """
    curve = _curve(p, _spectrum(p), [p.n_samples], "self-consistent")
    status, note = curve.status[0], "; ".join(curve.flags)
    found = {
        "test_error": Estimate(curve.test_error[0], curve.numerical_error[0]),
        "train_error": Estimate(curve.train_error[0]),
        "learnability": Estimate(curve.learnability[0][p.degrees]),
        "predictive_variance": Estimate(curve.predictive_variance[0]),
        "log_evidence_per_sample": Estimate(curve.log_evidence[0] / p.n_samples),
    }
    return {name: replace(e, status=status, note=note) for name, e in found.items()}


@dataclass(frozen=True, eq=False)
class Curves:
    """Test error against the number of samples at four orders of the theory.

    Attributes
    ----------
    n : ndarray (sizes,)
    self_consistent : ndarray (sizes,)
        All tadpole and bubble diagrams; the one to use.
    equivalence_kernel, subleading : ndarray (sizes,)
        Leading order in 1/noise and its first correction; NaN without noise.
    renormalized, renormalized_subleading : ndarray (sizes,)
        The same two on the degrees up to `degree`, the rest as noise.
    degree : int
    flags : dict of str to tuple of str
        What each order says about its validity.
    """

    n: np.ndarray
    self_consistent: np.ndarray
    equivalence_kernel: np.ndarray
    subleading: np.ndarray
    renormalized: np.ndarray
    renormalized_subleading: np.ndarray
    degree: int
    flags: dict[str, tuple[str, ...]]


def curves(p: Params, sizes: Sequence[int], degree: int | None = None) -> Curves:
    """The four curves over sizes.

    Parameters
    ----------
    p : Params
        Its `n_samples` is not used.
    sizes : sequence of int
        N, each at least 1.
    degree : int, optional
        Highest degree that the renormalized kernel keeps; that of the target by default.

    Raises
    ------
    ValueError, ConvergenceError
        As `thermolearn.predict.curves`.
    """
    n, spectrum = np.asarray(sizes), _spectrum(p)
    degree = int(p.degrees[-1]) if degree is None else degree
    orders: dict[str, Any] = {
        "self_consistent": "self-consistent",
        "equivalence_kernel": "equivalence-kernel",
        "subleading": "subleading",
        "renormalized": ("renormalized", degree),
        "renormalized_subleading": ("renormalized-subleading", degree),
    }
    found, flags = {}, {}
    for name, order in orders.items():
        if p.noise == 0 and name in ("equivalence_kernel", "subleading"):
            found[name], flags[name] = np.full(n.shape, np.nan), ("not defined without noise",)
            continue
        curve = _curve(p, spectrum, n, order)
        found[name], flags[name] = curve.test_error, curve.flags
    return Curves(n=n, degree=degree, flags=flags, **found)


def _spectrum(p: Params) -> Spectrum:
    return sphere_spectrum(p.machine(), p.dim, MAX_DEGREE)


def _curve(p: Params, spectrum: Spectrum, n: Any, order: Any) -> LearningCurve:
    return learning_curve(spectrum, p.target_power, n, p.noise, p.label_noise, order=order)

"""The learning curve as numbers, with what to know before using them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thermolearn.core.estimate import Estimate

OK = "ok"


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Averages over data sets of S sizes. With several outputs, arrays (S,) become (S, outputs).

    Attributes
    ----------
    n : ndarray (S,)
        Number of samples (mean number, if Poisson).
    order : str
        "self-consistent", "equivalence-kernel", "subleading", "renormalized r=3", ...
    size : str
        "fixed" or "poisson"; always the latter for the expansions, which are derived for it.
    noise, label_noise : float, ndarray (outputs,)
        sigma^2, and the variance of the noise in the labels.
    test_error : ndarray (S,) or (S, outputs)
        Mean squared error against the noise-free target.
    test_error_noisy : ndarray (S,) or (S, outputs)
        Against new noisy labels: larger by the label noise.
    train_error : ndarray (S,) or (S, outputs)
        On the samples, against their labels.
    bias, variance_over_data_sets : ndarray (S,) or (S, outputs)
        Error of the mean predictor, and the mean squared scatter about it; their sum is
        test_error.
    learned_fraction : ndarray (S,) or (S, outputs)
        Overlap of the mean predictor with the target over the target's power; NaN for a zero
        target.
    learnability : ndarray (S, modes)
        Fraction of each mode's coefficient that is learned.
    kappa : ndarray (S,)
        Effective ridge per sample, in units of the eigenvalues.
    gamma : ndarray (S,)
        Share of the error on noisy labels that comes back as variance, sum_n L_n^2 / N.
    predictive_variance : ndarray (S,)
        Posterior variance of the function, averaged over inputs; noise not included.
    log_evidence : ndarray (S,) or (S, outputs)
        ln p(y | X) of one output; outputs are independent, so they add. NaN at kappa = 0, with the
        status "no evidence".
    log_det : ndarray (S,)
        E log det(K + sigma^2).
    quadratic : ndarray (S,) or (S, outputs)
        E y^T (K + sigma^2)^{-1} y.
    loop_ratio : ndarray (S,)
        C0/sigma^2, the size of the first correction to the leading order (of the renormalized
        theory, where that was asked for).
    numerical_error : ndarray (S,)
        Of the total test error: sum over modes of |d error/d eigenvalue| times the numerical error
        of the eigenvalue, whatever the signs. The approximation itself has no error bar; see the
        measured accuracy in the documentation, and the status "few dimensions".
    status : tuple of str (S,)
        "ok", or why the number must not be used as it stands.
    flags : tuple of str
        The same in sentences, with what to do.
    """

    n: np.ndarray
    order: str
    size: str
    noise: float
    label_noise: np.ndarray
    test_error: np.ndarray
    test_error_noisy: np.ndarray
    train_error: np.ndarray
    bias: np.ndarray
    variance_over_data_sets: np.ndarray
    learned_fraction: np.ndarray
    learnability: np.ndarray
    kappa: np.ndarray
    gamma: np.ndarray
    predictive_variance: np.ndarray
    log_evidence: np.ndarray
    log_det: np.ndarray
    quadratic: np.ndarray
    loop_ratio: np.ndarray
    numerical_error: np.ndarray
    status: tuple[str, ...]
    flags: tuple[str, ...]

    def total(self, name: str) -> np.ndarray:
        """The sum over outputs of one of the attributes of shape (S,) or (S, outputs); (S,).

        Raises
        ------
        ValueError
            The attribute has no axis of outputs to sum over.
        """
        if name not in PER_OUTPUT:
            raise ValueError(f"total() takes one of {', '.join(PER_OUTPUT)}, got {name!r}")
        values = getattr(self, name)
        return values if values.ndim == 1 else values.sum(1)

    def estimates(self) -> list[Estimate]:
        """The total test error at each size, with its numerical error and status."""
        notes = "; ".join(self.flags)
        return [
            Estimate(float(value), float(error), status=status, note=notes)
            for value, error, status in zip(
                self.total("test_error"), self.numerical_error, self.status, strict=True
            )
        ]

    def table(self) -> list[dict[str, Any]]:
        """One row per size: totals over the outputs, kappa, gamma, loop_ratio, status."""
        columns = {name: self.total(name) for name in PER_OUTPUT}
        columns |= {
            "kappa": self.kappa,
            "gamma": self.gamma,
            "predictive_variance": self.predictive_variance,
            "loop_ratio": self.loop_ratio,
            "numerical_error": self.numerical_error,
        }
        return [
            {"n": float(size)}
            | {name: float(values[i]) for name, values in columns.items()}
            | {"status": self.status[i]}
            for i, size in enumerate(self.n)
        ]


PER_OUTPUT = (
    "test_error",
    "test_error_noisy",
    "train_error",
    "bias",
    "variance_over_data_sets",
    "log_evidence",
    "quadratic",
)

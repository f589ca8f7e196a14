"""Mean loss of a linear model with random weights: closed forms, one-dimensional integrals."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import whole
from thermolearn.core.estimate import Estimate
from thermolearn.measure.temperature.gaussian_losses import (
    logsumexp_means,
    softplus_fourth,
    softplus_mean,
)
from thermolearn.measure.temperature.initialization import (
    UNIFORM_KURTOSIS,
    Initialization,
    Normal,
    uniform_count,
    variances,
)

Loss = Literal["mse", "mae", "binary_cross_entropy", "cross_entropy"]
LOSSES = ("mse", "mae", "binary_cross_entropy", "cross_entropy")


def initial_energy(
    X: ArrayLike,
    y: ArrayLike,
    loss: Loss = "mse",
    init: Initialization | None = None,
    order: Literal["edgeworth", "gaussian"] = "edgeworth",
    classes: int | None = None,
) -> Estimate:
    """E_I = E_w E(w), the mean loss of scores z = X w over independent random weights w.

    With s_i^2 = sum_j X_ij^2 var(w_j), averaged over the samples i:

    - mse: y_i^2 + s_i^2, for (y - z)^2 without a factor 1/2; exact for every law of mean zero;
    - mae: s_i sqrt(2/pi) exp(-y_i^2/2 s_i^2) + y_i erf(y_i/(s_i sqrt 2)), for |y - z|;
    - binary_cross_entropy: E log(1 + e^{s_i g}), for log(1 + exp(-y z));
    - cross_entropy: E log sum_k e^{s_i g_k}, for log sum_k e^{z_k} - z_y, one column of weights
      per class; ln K + s^2 (1 - 1/K)/2 at small s.

    These are exact for normal weights. Uniform weights give scores that are only nearly Gaussian:
    ``order="edgeworth"`` adds kappa4_i/24 E f''''(z), kappa4_i = -1.2 sum_j var_j^2 X_ij^4 over
    the uniform ones (for K classes summed over the scores); ``"gaussian"`` leaves it out.

    Parameters
    ----------
    X : array (N, D)
        Features; a column of ones for a bias.
    y : array (N,)
        Real numbers; -1 and +1 for the binary, 0..K-1 for the K-class cross-entropy.
    loss : str
    init : Normal, Uniform or Mixed
        Law of the weights; default N(0, 1).
    order : "edgeworth" or "gaussian"
    classes : int
        K of the cross-entropy, at least 2; default the largest label plus 1.

    Returns
    -------
    Estimate
        In the unit of the loss. The error bar is the numerical error; for weights that are not
        all normal the size of the first term left out: with "gaussian" the Edgeworth term, with
        "edgeworth" that term times the mean |excess kurtosis| of the scores (no bound).

    Raises
    ------
    ValueError, TypeError
        No samples, data that are not finite, labels outside their range, unknown names.

    Notes
    -----
    Zhang, arXiv:2404.13218, for the energy; the formulas are derived here.
    """
    init = default_init(init)
    if order not in ("edgeworth", "gaussian"):
        raise ValueError(f"order must be 'edgeworth' or 'gaussian', got {order!r}")
    X, y, K = checked_data(X, y, loss, classes)
    var = variances(init, X.shape[1])
    s2 = X**2 @ var
    m = uniform_count(init, X.shape[1])
    fourth = UNIFORM_KURTOSIS * (X[:, :m] ** 4 @ var[:m] ** 2)
    base, correction, error = _terms(y, np.sqrt(s2), fourth, loss, K)
    if loss == "mse" or not m:
        return Estimate(base, error, note=f"exact mean of the {loss} over the initial weights")
    if order == "gaussian":
        note = "scores taken as Gaussian; error bar: the Edgeworth term that is left out"
        return Estimate(base, error + abs(correction), note=note)
    moving = s2 > 0
    kurtosis = float((np.abs(fourth[moving]) / s2[moving] ** 2).mean()) if moving.any() else 0.0
    note = "Edgeworth-corrected; error bar: the term times the scores' excess kurtosis, no bound"
    return Estimate(base + correction, error + abs(correction) * kurtosis, note=note)


def _terms(
    y: np.ndarray, s: np.ndarray, fourth: np.ndarray, loss: str, K: int
) -> tuple[float, float, float]:
    """Gaussian mean, Edgeworth term and numerical error of the former."""
    if loss == "mse":
        return float((y**2 + s**2).mean()), 0.0, 0.0
    if loss == "mae":
        return *_absolute(y, s, fourth), 0.0
    if loss == "binary_cross_entropy":
        fine, coarse = softplus_mean(s), softplus_mean(s, 12)
        term = fourth * softplus_fourth(s) / 24 if fourth.any() else fourth
        return float(fine.mean()), float(term.mean()), float(np.abs(fine - coarse).mean())
    mean, derivative, error = logsumexp_means(s, K)
    return float(mean.mean()), float((K * fourth * derivative / 24).mean()), error


def _absolute(y: np.ndarray, s: np.ndarray, fourth: np.ndarray) -> tuple[float, float]:
    """E |y - z| and kappa4/24 E f'''' = kappa4/12 p''(y), p the density of z."""
    from scipy.special import erf

    base, term = np.abs(y).astype(float), np.zeros_like(y, dtype=float)
    k = s > 0
    r, sk = y[k] / s[k], s[k]
    bell = np.exp(-(r**2) / 2) / math.sqrt(2 * math.pi)
    base[k] = 2 * sk * bell + y[k] * erf(r / math.sqrt(2))
    term[k] = fourth[k] / 12 * (r**2 - 1) * bell / sk**3
    return float(base.mean()), float(term.mean())


# -- arguments ---------------------------------------------------------------------------------
def default_init(init: Any) -> Initialization:
    """N(0, 1) for None; a TypeError for what is no law."""
    init = Normal() if init is None else init
    if not isinstance(init, Initialization):
        raise TypeError(
            f"init must be Normal(sigma), Uniform(a) or Mixed(n_uniform, a, sigma), got {init!r}"
        )
    return init


def checked_data(
    X: Any, y: Any, loss: Any, classes: int | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """X (N, D) and y (N,) in float64 (labels: integers), and the number of weight columns.

    Raises
    ------
    ValueError
        No samples or features, shapes that do not fit, numbers that are not finite, bad labels.
    TypeError
        Not numbers.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if classes is not None and loss != "cross_entropy":
        raise ValueError(f"classes belongs to loss='cross_entropy', not to {loss!r}")
    arrays = [_numbers("X", X), _numbers("y", y)]
    features, target = arrays
    if features.ndim != 2 or not features.size:
        raise ValueError(f"X must be an (N, D) array with N, D >= 1, got shape {features.shape}")
    if target.shape != (len(features),):
        raise ValueError(
            f"y must have one number per row of X: shape ({len(features)},), got {target.shape}"
        )
    if loss == "binary_cross_entropy" and not (np.abs(target) == 1).all():
        raise ValueError("y: the labels of binary_cross_entropy are -1 and +1")
    if loss != "cross_entropy":
        return features, target, 1
    if (target != np.floor(target)).any() or (target < 0).any():
        raise ValueError("y: the labels of cross_entropy are the integers 0..K-1")
    largest = int(target.max())
    K = largest + 1 if classes is None else whole("classes", classes, 2)
    if K < 2:
        raise ValueError("y: cross_entropy needs two classes or more; give classes=")
    if largest >= K:
        raise ValueError(f"y: label {largest}, but classes = {K}: labels run from 0 to {K - 1}")
    return features, target.astype(np.int64), K


def _numbers(name: str, x: Any) -> np.ndarray:
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of real numbers, got {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity; remove those samples")
    return array

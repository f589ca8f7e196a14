"""Random-feature ridge regression under covariate shift, in the proportional limit.

Reference: N. Tripuraneni, B. Adlam, J. Pennington, arXiv:2111.08234. Here for any signal
covariance, and with the two unknowns kappa = p/(n tau) and kappa' = phi/x of their x and tau.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from thermolearn.core.activation import Activation, resolve_activation
from thermolearn.core.checks import real
from thermolearn.core.errors import ConvergenceError
from thermolearn.predict.shift.constants import LinearPart, linear_part
from thermolearn.predict.shift.covariances import checked_covariance
from thermolearn.predict.shift.self_consistent import Sizes, solve

ActivationLike = str | Callable[[torch.Tensor], torch.Tensor] | Activation
# a float, or an array where a size or the ridge was one
Number = Any

# What "ridgeless" stands for, in units of the smallest eigenvalue that a ridge competes with: the
# residual variance b of the activation, or a s of a linear one.
RIDGELESS = 1e-9
# n - df2 over n below which rounding decides about the variance
LEAST_FREEDOM = 1e-10


@dataclass(frozen=True, eq=False)
class ShiftErrors:
    """Mean squared error against the noise-free target, and what it is made of.

    Every field is a float, or an array if a size or the ridge was one.

    Attributes
    ----------
    test : float or ndarray
        bias + var_features + var_data; add the label noise for the error against noisy labels.
    bias : float or ndarray
        Squared error of the predictor averaged over features, inputs and label noise.
    var_features : float or ndarray
        Variance over the random features of the predictor averaged over data.
    var_data : float or ndarray
        Variance over training inputs and label noise.
    kappa, kappa_prime : float or ndarray
        Implicit ridges of the features and of the inputs; the same for every test covariance.
    residual : float
        Largest relative residual of the two self-consistent equations.
    """

    test: Number
    bias: Number
    var_features: Number
    var_data: Number
    kappa: Number
    kappa_prime: Number
    residual: float

    @property
    def variance(self) -> Number:
        """var_features + var_data."""
        return self.var_features + self.var_data


@dataclass(frozen=True, eq=False)
class ShiftPrediction(ShiftErrors):
    """`ShiftErrors` on the shifted inputs; ``in_distribution`` holds those without the shift."""

    in_distribution: ShiftErrors


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Errors along widths or sample numbers.

    Attributes
    ----------
    size : ndarray
        The widths or sample numbers.
    axis : str
        ``"width"`` or ``"samples"``.
    prediction : ShiftPrediction
        Of arrays as long as `size`.
    """

    size: np.ndarray
    axis: str
    prediction: ShiftPrediction


@dataclass(frozen=True)
class IdOodLine:
    """Straight line through (error without shift, error with shift) of several widths.

    Attributes
    ----------
    slope, intercept : float
        Of error with shift = slope * error without + intercept, by least squares.
    residual : float
        Largest deviation of a width from the line, in units of the error.
    exact : bool
        Whether the relation is a straight line in theory: no ridge, and every width above n.
    """

    slope: float
    intercept: float
    residual: float
    exact: bool


class RFShiftTheory:
    """Error, bias and variance of random-feature ridge regression on shifted inputs.

    Inputs x ~ N(0, Sigma) in training and N(0, Sigma*) in the test, target y = theta . x + noise
    with E theta theta' = B, features f(x) = sigma(W x / sqrt d) / sqrt p of p neurons with
    standard normal W, and w = (F'F + lambda)^{-1} F'y on n samples. As n, p, d grow in
    proportion, with Lambda = lambda p, kappa and kappa' solve

        p = sum_i l_i/(l_i + kappa') + (b + kappa) d / (a kappa')
        n = p - kappa d / (a kappa') + Lambda / kappa

    where l_i are the eigenvalues of Sigma, a the squared slope of sigma and b its residual
    variance (see `linear_part`) at pre-activations of variance tr Sigma / d.

    Parameters
    ----------
    cov_train : array (d, d) or (d,)
        Sigma, symmetric and positive semi-definite; a vector is a diagonal.
    cov_test : array (d, d) or (d,)
        Sigma*. It need not commute with Sigma.
    signal_cov : array (d, d) or (d,), optional
        B; default the identity over d.
    activation : str, module or callable
        Applied to W x / sqrt d. Its mean at the training variance is subtracted (in the model
        that is predicted, too); it must then vanish at the test variance as well.
    noise : float
        Variance of the noise in the training labels, >= 0.

    Raises
    ------
    ValueError
        A covariance that is not symmetric, positive semi-definite and of one size; an activation
        without slope; or one whose mean is not the same at both variances.

    Notes
    -----
    Leading order: corrections are of relative size 1/d, where d counts the directions that carry
    variance. Their constant is large for nearly linear features without a ridge: tanh on inputs of
    variance 0.01 is predicted at .300 and measured at .388(30), .330(16), .320(12) for d = 50, 100,
    200. With a few dominant directions and a small error the theory fails; `QuenchedRidgeTheory`,
    with the features at hand, does not.
    """

    def __init__(
        self,
        cov_train: ArrayLike,
        cov_test: ArrayLike,
        signal_cov: ArrayLike | None = None,
        activation: ActivationLike = "erf",
        noise: float = 0.0,
    ):
        train = checked_covariance("cov_train", cov_train)
        self.dim = d = len(train)
        test = checked_covariance("cov_test", cov_test, d)
        signal = np.eye(d) / d if signal_cov is None else None
        if signal is None:
            assert signal_cov is not None
            signal = checked_covariance("signal_cov", signal_cov, d, zero=True)
        self.noise = real("noise", noise, least=0)
        self.activation = resolve_activation(activation)
        eigenvalues, basis = np.linalg.eigh(train)
        self.eigenvalues = np.clip(eigenvalues, 0.0, None)
        self._signal = basis.T @ signal @ basis
        self._test = basis.T @ test @ basis
        self.constants = linear_part(self.activation, float(np.trace(train)) / d)
        self.test_constants = linear_part(self.activation, float(np.trace(test)) / d)
        _check_constants(self.activation, self.constants, self.test_constants)

    def predict(
        self, n: ArrayLike, p: ArrayLike, ridge: ArrayLike | None = None, ridgeless: bool = False
    ) -> ShiftPrediction:
        """Errors of n samples, p features and ridge lambda; arrays are broadcast.

        Parameters
        ----------
        n, p : int or array
            Samples and features, at least 1.
        ridge : float or array
            lambda > 0, added to F'F, whose entries are of order one.
        ridgeless : bool
            Instead of a ridge: lambda = 1e-9 b, or 1e-9 a s with a linear activation, so that the
            error no longer depends on it.

        Raises
        ------
        ValueError
            Sizes below 1, a ridge that is not positive, none, or both.
        ConvergenceError
            The equations have no numerically meaningful solution, as at p = n without a ridge,
            where the error is infinite.
        """
        sizes = Sizes.checked(n, p, self._ridge(ridge, ridgeless))
        if ridgeless and self.constants.residue > 0 and (sizes.n == sizes.p).any():
            raise ConvergenceError(
                "p = n without a ridge: the error is infinite; leave this size out, or give a ridge"
            )
        state = solve(self.eigenvalues, self.constants, sizes)
        identity = _errors(self, state, sizes, shifted=False)
        shifted = _errors(self, state, sizes, shifted=True)
        scalar = sizes.scalar

        def plain(x: np.ndarray) -> Number:
            return float(x.reshape(())) if scalar else x.reshape(sizes.shape)

        unknown = {
            "kappa": plain(state.kappa),
            "kappa_prime": plain(state.kappa_prime),
            "residual": state.residual,
        }
        home = ShiftErrors(**{k: plain(v) for k, v in identity.items()}, **unknown)
        away = {k: plain(v) for k, v in shifted.items()}
        return ShiftPrediction(**away, **unknown, in_distribution=home)

    def _ridge(self, ridge: ArrayLike | None, ridgeless: bool) -> ArrayLike:
        if ridgeless:
            if ridge is not None:
                raise ValueError("ridge: give a ridge or ridgeless=True, not both")
            own = self.constants
            return RIDGELESS * (own.residue or own.slope**2 * float(self.eigenvalues.mean()))
        if ridge is None:
            raise ValueError("ridge is missing: give a positive number, or ridgeless=True")
        return ridge

    def learning_curve(
        self,
        widths: ArrayLike | None = None,
        samples: ArrayLike | None = None,
        *,
        n: int | None = None,
        p: int | None = None,
        ridge: float | None = None,
        ridgeless: bool = False,
    ) -> LearningCurve:
        """Errors along `widths` at n samples, or along `samples` at p features.

        Raises
        ------
        ValueError
            Not exactly one of widths (with n) and samples (with p), or as in `predict`.
        """
        if (widths is None) == (samples is None):
            raise ValueError("learning_curve: give widths (with n=...) or samples (with p=...)")
        if widths is not None:
            if n is None or p is not None:
                raise ValueError("learning_curve: widths need the number of samples n, and no p")
            size, axis = np.atleast_1d(np.asarray(widths)), "width"
            prediction = self.predict(n, size, ridge, ridgeless)
        else:
            if p is None or n is not None:
                raise ValueError("learning_curve: samples need the number of features p, and no n")
            size, axis = np.atleast_1d(np.asarray(samples)), "samples"
            prediction = self.predict(size, p, ridge, ridgeless)
        return LearningCurve(size, axis, prediction)

    def id_ood_line(
        self, n: int, widths: ArrayLike, ridge: float | None = None, ridgeless: bool | None = None
    ) -> IdOodLine:
        """Line through the errors without and with shift of several widths at n samples.

        Without a ridge and for p > n, kappa' does not depend on p, and the relation is exactly a
        straight line. A ridge or widths below n bend it: see the residual.

        Parameters
        ----------
        widths : sequence of int
            At least three different ones.
        ridge : float, optional
            Default: ridgeless.

        Raises
        ------
        ValueError
            Fewer than three different widths, or as in `predict`.
        """
        p = np.atleast_1d(np.asarray(widths))
        if p.ndim != 1 or len(np.unique(p)) < 3:
            raise ValueError(f"widths must hold at least three different widths, got {widths!r}")
        ridgeless = ridge is None if ridgeless is None else ridgeless
        found = self.predict(n, p, ridge, ridgeless)
        x, y = np.asarray(found.in_distribution.test), np.asarray(found.test)
        center, height = x.mean(), y.mean()
        spread = float(((x - center) ** 2).sum())
        if spread <= (1e-12 * abs(center)) ** 2:
            raise ValueError("widths: the error does not change along them, there is no line")
        slope = float(((x - center) * (y - height)).sum()) / spread
        intercept = float(height - slope * center)
        residual = float(np.abs(y - slope * x - intercept).max())
        return IdOodLine(slope, intercept, residual, bool(ridgeless and (p > n).all()))


def _check_constants(activation: Activation, train: LinearPart, test: LinearPart) -> None:
    scale = math.sqrt(train.residue + train.slope**2)
    if not abs(train.slope) > 1e-10 * max(scale, 1e-300):
        raise ValueError(
            f"activation {activation.name!r} has no slope on average (an even function, say): its "
            "features carry nothing of a linear target; use one that is not even"
        )
    if abs(test.mean - train.mean) > 1e-9 * scale:
        raise ValueError(
            f"activation {activation.name!r} is not centered at both input variances: its mean is "
            f"{train.mean:.6g} in training and {test.mean:.6g} under the shift, so the features "
            "move as a whole, which the theory leaves out; use an odd activation (erf, tanh), or "
            "scale cov_test to the trace of cov_train"
        )


def _errors(theory: RFShiftTheory, state: Any, sizes: Sizes, shifted: bool) -> dict[str, Any]:
    """bias, var_features, var_data and test, each (configurations,)."""
    ell, noise, d = theory.eigenvalues, theory.noise, theory.dim
    own = theory.constants
    home = _parts(theory, state, own, np.diag(ell))
    away = _parts(theory, state, theory.test_constants, theory._test) if shifted else home
    bias, features, response = away
    lever = state.kappa * d / (own.slope**2 * state.kappa_prime)
    # n - df2, with df2 = p - 2 lever + lever^2 kappa'_lambda
    freedom = (sizes.n - sizes.p) + 2 * lever - lever**2 * state.stiffness
    if not (freedom > LEAST_FREEDOM * sizes.n).all():
        worst = int(np.argmin(freedom / sizes.n))
        raise ConvergenceError(
            f"the variance has no positive denominator (n - df2 = {freedom[worst]:.3g}) at "
            f"n = {sizes.n[worst]:g}, p = {sizes.p[worst]:g}, ridge = {sizes.ridge[worst]:.3g}; "
            "raise the ridge"
        )
    data = (home[0] + home[1] + noise) * response / freedom
    return {
        "test": bias + features + data,
        "bias": bias,
        "var_features": features,
        "var_data": data,
    }


def _parts(
    theory: RFShiftTheory, state: Any, there: LinearPart, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bias, variance of features, and the response of the error to noise in the labels."""
    ell, own, d = theory.eigenvalues, theory.constants, theory.dim
    u = state.kappa_prime[:, None]
    ratio = there.slope / own.slope
    h = 1 / (ell + u)
    shrunk = ell * h
    kept = 1 - ratio * shrunk
    bias = np.einsum("ci,ij,cj->c", kept, theory._signal * test.T, kept, optimize=True)
    power = (np.diag(theory._signal) * shrunk**2).sum(1)
    diagonal = np.diag(test)
    curved = (diagonal * h**2).sum(1)
    spill = there.residue * d / own.slope**2
    u, stiffness = state.kappa_prime, state.stiffness
    features = stiffness * power * (ratio**2 * u**2 * curved + spill)
    lever = state.kappa * d / own.slope**2
    response = ratio**2 * ((diagonal * h).sum(1) - lever * stiffness * curved) + spill * (
        1 / u - lever * stiffness / u**2
    )
    return bias, features, response

"""Energy released per nat: from random to trained parameters, and from one data set to the next."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.temperature.final_energies import curvature_at, energy_at, final_energy
from thermolearn.measure.temperature.initial_energies import (
    Loss,
    checked_data,
    default_init,
    initial_energy,
)
from thermolearn.measure.temperature.initialization import (
    Initialization,
    init_entropy,
    variances,
)

SMALL = 1e-9  # nats per parameter that count as no change of entropy
TYPE1 = ("differential", "quantised", "laplace", "gibbs", "relative")
TYPE2 = ("relative", "laplace", "gibbs")


class ZeroEntropyChangeError(ValueError):
    """The two states have the same entropy under this convention: T = dE/dS is undefined."""


@dataclass(frozen=True, eq=False)
class Transition:
    """Two states of a linear model and the temperature between them.

    Attributes
    ----------
    initial_energy, final_energy : Estimate
        Mean losses E_I and E_F.
    energy_change : Estimate
        dE = E_I - E_F, what is released.
    entropy_change : Estimate
        dS in nats, in the `convention` named.
    temperature : Estimate
        T = dE/dS, loss per nat. Its note is the convention: T is a bookkeeping number.
    convention : str
    """

    initial_energy: Estimate
    final_energy: Estimate
    energy_change: Estimate
    entropy_change: Estimate
    temperature: Estimate
    convention: str


def type1_temperature(
    X: ArrayLike,
    y: ArrayLike,
    loss: Loss = "mse",
    init: Initialization | None = None,
    entropy: Literal["differential", "quantised", "laplace", "gibbs", "relative"] = "differential",
    *,
    eps: float | None = None,
    bath_temperature: float | None = None,
    order: Literal["edgeworth", "gaussian"] = "edgeworth",
    classes: int | None = None,
    trained_energy: float | None = None,
) -> Transition:
    """T = (E_I - E_F)/(S_I - S_F), random weights to trained ones.

    E_I from `initial_energy`, E_F from `final_energy`. The change of entropy is a convention:

    - "differential": S_I the differential entropy of the initial law, S_F = 0;
    - "quantised": S_I less D log eps, S_F = 0;
    - "laplace": S_I differential, S_F = 1/2 log det(2 pi e Sigma), Sigma = T_0 H^{-1} with the
      Hessian H of E at the minimum and the bath temperature T_0;
    - "gibbs": the same where it is exact, that is for mse, whose Gibbs ensemble is Gaussian;
    - "relative": dS = KL(initial law || N(w*, Sigma)), exact for mse.

    For mse, standard normal features and weights and N/D fixed, T tends to
    2/log(2 pi e) = 0.704752 with D ("differential").

    Parameters
    ----------
    X, y, loss, init, order, classes
        As in `initial_energy`.
    entropy : str
    eps : float
        Resolution of "quantised", in the unit of the weights.
    bath_temperature : float
        T_0 > 0 of "laplace", "gibbs" and "relative".
    trained_energy : float
        Loss of a model of your own, in place of the minimum ("differential" and "quantised").

    Raises
    ------
    ValueError, TypeError
        Arguments out of range.
    ZeroEntropyChangeError
        |dS| below 1e-9 nats per parameter (sigma = 0.24197 or a = 1/2, for example).
    NotApplicableError
        A convention that needs a Hessian which the loss does not have or which is singular.

    Notes
    -----
    Zhang, arXiv:2404.13218: T = dE/dS of a type-I transition. Which entropy the paper takes could
    not be seen; "differential" is our default.
    """
    _check_convention(entropy, TYPE1, loss, eps, bath_temperature)
    init = default_init(init)
    X, target, K = checked_data(X, y, loss, classes)
    given = None if loss != "cross_entropy" else K
    start = initial_energy(X, target, loss, init, order, given)
    needs_minimum = entropy not in ("differential", "quantised")
    if trained_energy is not None:
        if needs_minimum:
            raise ValueError(f"trained_energy cannot be combined with entropy={entropy!r}")
        end, weights = Estimate(real("trained_energy", trained_energy)), None
    else:
        state = final_energy(X, target, loss, given)
        end, weights = state.energy, state.weights
    if not needs_minimum or weights is None:
        S = init_entropy(init, X.shape[1], "differential" if eps is None else "quantised", eps, K)
        return _transition(start, end, S, _said(entropy, eps, None), K * X.shape[1])
    T0 = float(bath_temperature or 0)
    precision = _precision(X, loss, weights, end, T0)
    dS = _type1_change(init, X.shape[1], entropy, precision, weights, loss)
    return _transition(start, end, Estimate(dS), _said(entropy, None, T0), len(precision))


def _type1_change(
    init: Initialization, D: int, entropy: str, precision: np.ndarray, w: np.ndarray, loss: str
) -> float:
    if loss == "cross_entropy":
        raise NotApplicableError(
            "the K-class cross-entropy does not change when one vector is added to all classes' "
            "weights: its trained ensemble has no entropy; use 'differential' or 'quantised'"
        )
    S, log_det = float(init_entropy(init, D)), float(np.linalg.slogdet(precision)[1])
    if entropy != "relative":
        return S - 0.5 * (D * math.log(2 * math.pi * math.e) - log_det)
    quadratic = float((np.diag(precision) * variances(init, D)).sum() + w @ precision @ w)
    return -S + 0.5 * (D * math.log(2 * math.pi) - log_det + quadratic)


def type2_temperature(
    data1: tuple[ArrayLike, ArrayLike],
    data2: tuple[ArrayLike, ArrayLike],
    loss: Loss = "mse",
    entropy: Literal["relative", "laplace", "gibbs"] = "relative",
    *,
    bath_temperature: float = 1.0,
    classes: int | None = None,
) -> Transition:
    """T = dE/dS when the data are replaced and the model is trained again.

    dE = E_2(w_1*) - E_2(w_2*), w_k* the minimizer on data k; for mse this is
    delta^T A_2 delta with delta = w_1* - w_2* and A_k = X_k^T X_k / N_k. With the ensembles
    p_k = N(w_k*, Sigma_k), Sigma_k = T_0 H_k^{-1}, H_k the Hessian (2 A_k for mse), dS is

    - "relative": KL(p_1 || p_2). For mse and equal A, T = T_0 exactly, whatever the data;
    - "laplace": S_1 - S_2 = 1/2 log(det H_2/det H_1), independent of T_0, of either sign, and 0
      where the features do not change. "gibbs": the same, for mse only, where it is exact.

    Parameters
    ----------
    data1, data2 : (X, y)
        Of the same features; the numbers of samples may differ.
    loss : "mse", "binary_cross_entropy" or "cross_entropy"
    entropy : str
    bath_temperature : float
        T_0 > 0, in the unit of the loss.
    classes : int
        Of the cross-entropy; default the largest label of both data sets plus 1.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range, or feature numbers that differ.
    ZeroEntropyChangeError
        The entropy does not change.
    NotApplicableError
        mae (no Hessian), linearly dependent features, or separable classes.

    Notes
    -----
    Zhang, arXiv:2404.13218 (type-II transition); the conventions and the identity are derived here.
    """
    T0 = real("bath_temperature", bath_temperature, above=0)
    _check_convention(entropy, TYPE2, loss, None, T0)
    if loss == "cross_entropy" and classes is None:
        classes = max(checked_data(*_pair(d), loss, None)[2] for d in (data1, data2))
    (X1, y1, _), (X2, y2, K) = (checked_data(*_pair(d), loss, classes) for d in (data1, data2))
    if X1.shape[1] != X2.shape[1]:
        raise ValueError(f"data1 has {X1.shape[1]} features, data2 has {X2.shape[1]}")
    given = K if loss == "cross_entropy" else None
    states = [final_energy(X, y, loss, given) for X, y in ((X1, y1), (X2, y2))]
    P1, P2 = (
        _precision(X, loss, s.weights, s.energy, T0) for X, s in zip((X1, X2), states, strict=True)
    )
    start = Estimate(energy_at(X2, y2, loss, states[0].weights), note="E_2 at the minimum of E_1")
    log_ratio = float(np.linalg.slogdet(P2)[1] - np.linalg.slogdet(P1)[1])
    if entropy == "relative":
        delta = _free(states[0].weights - states[1].weights)
        trace = float(np.trace(np.linalg.solve(P1, P2)))
        dS = 0.5 * (trace - len(P1) - log_ratio + float(delta @ P2 @ delta))
    else:
        dS = 0.5 * log_ratio
    return _transition(
        start, states[1].energy, Estimate(dS), _said(entropy, None, T0), len(P1), "type II"
    )


def _pair(data: Any) -> tuple[Any, Any]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError("data1 and data2 must each be a pair (X, y)")
    return data[0], data[1]


def _free(w: np.ndarray) -> np.ndarray:
    """The coordinates of the Hessian: K-class weights in the gauge in which the last is 0."""
    return w if w.ndim == 1 else (w[:, :-1] - w[:, -1:]).T.ravel()


def _precision(
    X: np.ndarray, loss: str, w: np.ndarray, energy: Estimate, bath: float
) -> np.ndarray:
    """H/T_0 of the trained ensemble, positive definite.

    Raises
    ------
    NotApplicableError
    """
    if energy.status == "separable":
        raise NotApplicableError(
            "the classes are separable, or a class has no samples: no minimum is attained, so "
            "there is no trained ensemble; use entropy='differential' or add samples"
        )
    H = curvature_at(X, loss, w)
    if H is None:
        raise NotApplicableError(
            "the mean absolute error has no Hessian; use entropy='differential' or 'quantised'"
        )
    scale = np.sqrt(np.maximum(np.diag(H), np.finfo(float).tiny))  # of the columns, any unit
    if np.linalg.matrix_rank(H / scale / scale[:, None], hermitian=True) < len(H):
        raise NotApplicableError(
            "the features are linearly dependent (or fewer samples than features): the trained "
            "ensemble has no density; drop columns of X"
        )
    return H / bath


def _check_convention(
    entropy: Any, known: tuple[str, ...], loss: Any, eps: float | None, bath: float | None
) -> None:
    if entropy not in known:
        raise ValueError(f"entropy must be one of {', '.join(known)}, got {entropy!r}")
    if (eps is not None) != (entropy == "quantised"):
        raise ValueError("eps, the resolution, goes with entropy='quantised' and only with it")
    if entropy in ("laplace", "gibbs", "relative"):
        real("bath_temperature", bath, above=0)
    elif bath is not None:
        raise ValueError(f"bath_temperature has no part in entropy={entropy!r}; leave it out")
    if entropy == "gibbs" and loss != "mse":
        raise NotApplicableError(
            "the Gibbs ensemble is Gaussian for mse only; entropy='laplace' is its approximation"
        )


def _said(entropy: str, eps: float | None, bath: float | None) -> str:
    return {
        "differential": "differential entropy in the unit of the weights, S_final = 0",
        "quantised": f"entropy at resolution eps = {eps}, S_final = 0",
        "laplace": f"differential entropies, trained ensemble N(w*, T0/H) at T0 = {bath}",
        "gibbs": f"differential entropies, Gibbs ensemble at T0 = {bath}",
        "relative": f"relative entropy to the trained ensemble N(w*, T0/H) at T0 = {bath}",
    }[entropy]


def _transition(
    start: Estimate, end: Estimate, dS: Estimate, said: str, D: int, kind: str = "type I"
) -> Transition:
    """dE and T with their bars; what makes T unusable as its status."""
    S = float(dS)
    if abs(S) <= SMALL * D:
        raise ZeroEntropyChangeError(
            f"the entropy changes by {S:.3g} nats in {D} parameters under this convention "
            f"({said}): T = dE/dS is undefined; use another convention or another unit"
        )
    energy = Estimate(float(start) - float(end), math.hypot(float(start.stderr), float(end.stderr)))
    status = "ok"
    if float(energy) < 0:
        status = "E_final above E_initial"
        warnings.warn(
            f"the final energy {float(end):.6g} is above the initial one {float(start):.6g}: the "
            "model is not trained, energy and temperature are negative",
            stacklevel=3,
        )
    elif S < 0:
        status = "negative entropy change"
    elif end.status != "ok":
        status = end.status
    note = f"{kind}; {said}"
    return Transition(
        start,
        end,
        replace(energy, status=status if float(energy) < 0 else end.status),
        replace(dS, note=said),
        Estimate(float(energy) / S, float(energy.stderr) / abs(S), status=status, note=note),
        said,
    )

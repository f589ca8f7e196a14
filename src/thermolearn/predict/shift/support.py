"""Whether labelled points can speak for new inputs, and where they cannot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thermolearn.predict.shift.residuals import Geometry

# A new input lies outside if it is farther out than this share of the labelled points themselves.
QUANTILE = 0.99
# ... and beyond, with less to learn from, if farther out than this share
BEYOND = 0.9
MOST_OUTSIDE = 0.3  # share of the new inputs that may
MOST_ERROR_OUTSIDE = 0.5  # share of the predicted error that they may carry
LEAST_EFFECTIVE = 15.0  # labelled points, after weighting
LEAST_DISTINCT = 5  # new inputs
OUTSIDE = "outside the support"


@dataclass(frozen=True, eq=False)
class Support:
    """How the new inputs lie to the labelled ones.

    Attributes
    ----------
    inside : bool
        Whether a forecast is given.
    outside : ndarray (new inputs,) of bool
        New inputs that are farther from the labelled points than 99 percent of these are from the
        others, in distance or in the posterior variance of the kernel; False for labelled points
        among them.
    share_outside, error_outside : float
        Share of the new inputs outside, and of the predicted error that falls on them (of the
        predicted one: where errors grow outward the true share is larger).
    share_beyond : float
        Share of the new inputs farther out than 90 percent of the labelled points, in distance or
        in posterior variance, whichever is more; about 0.1 without a shift.
    effective_size : float
        Labelled points that the weighted estimate is worth.
    reasons : tuple of str
        Why no forecast is given.
    """

    inside: bool
    outside: np.ndarray
    share_outside: float
    error_outside: float
    share_beyond: float
    effective_size: float
    reasons: tuple[str, ...]


def outside_points(
    X: np.ndarray, X_new: np.ndarray, pool: Geometry, new: Geometry
) -> tuple[np.ndarray, float]:
    """Which new inputs lie outside what the labelled points show when each is left out.

    And the share of those that lie beyond 90 percent of them (`Support.share_beyond`).
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=2).fit(X)
    near = search.kneighbors(X)[0][:, 1]
    near_new = search.kneighbors(X_new, n_neighbors=1)[0][:, 0]
    ways = ((near, near_new), (pool.spread, new.spread))
    far, uncertain = (there > _limit(own, QUANTILE) for own, there in ways)
    beyond = max(float((there > _limit(own, BEYOND)).mean()) for own, there in ways)
    return far | uncertain, beyond


def _limit(values: np.ndarray, share: float) -> float:
    # beyond rounding
    return float(np.quantile(values, share)) * (1 + 1e-9)


def judge_support(
    X_new: np.ndarray,
    outside: np.ndarray,
    beyond: float,
    predicted: np.ndarray,
    effective: float,
) -> Support:
    """The verdict, with every reason against a forecast."""
    share = float(outside.mean())
    total = float(predicted.sum())
    carried = float(predicted[outside].sum()) / total if total > 0 else 0.0
    reasons = []
    distinct = len(np.unique(X_new, axis=0))
    if distinct < LEAST_DISTINCT:
        reasons.append(
            f"X_new holds {distinct} different inputs only; a mean error needs at least "
            f"{LEAST_DISTINCT}"
        )
    if share > MOST_OUTSIDE:
        reasons.append(
            f"{share:.0%} of the new inputs lie farther from the labelled ones than 99% of these "
            f"from each other (at most {MOST_OUTSIDE:.0%} may): label some of them"
        )
    elif carried > MOST_ERROR_OUTSIDE:
        reasons.append(
            f"{carried:.0%} of the predicted error falls on the {share:.1%} of the new inputs that "
            "lie outside the labelled ones: look at these (support.outside) or label some"
        )
    if effective < LEAST_EFFECTIVE:
        reasons.append(
            f"the labelled points that resemble the new inputs are worth {effective:.1f} points "
            f"(at least {LEAST_EFFECTIVE:.0f}): label some of the new inputs"
        )
    return Support(not reasons, outside, share, carried, beyond, effective, tuple(reasons))

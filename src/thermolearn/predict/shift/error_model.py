"""From the errors of left-out labelled points to those at new inputs."""

from __future__ import annotations

import numpy as np

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.predict.shift.residuals import Geometry

ITERATIONS = 6
DRAWS = 2000


class ErrorModel:
    """E r^2 = A spread + s^2 gain and, for classes, a logistic function of margin / (E r^2)^{1/2}.

    Parameters
    ----------
    pool, new : Geometry
        At left-out labelled points, and at new inputs.
    classes : bool
        Whether the error is the rate of wrong classes.
    """

    def __init__(self, pool: Geometry, new: Geometry, classes: bool):
        self.classes = classes
        self.loss = pool.wrong if classes else pool.square
        self._square = pool.square
        self._pool = np.stack([pool.spread, pool.gain], axis=1)
        self._new = np.stack([new.spread, new.gain], axis=1)
        self._margin, self._margin_new = pool.margin, new.margin

    def in_distribution(self) -> Estimate:
        """Mean error of left-out labelled points."""
        return mean_estimate(self.loss, note="leave-one-out, without a shift")

    def at_new(self, rows: np.ndarray, weightings: np.ndarray) -> np.ndarray:
        """Expected error at every new input, from some labelled points.

        Parameters
        ----------
        rows : ndarray of int
            The labelled points, repeated as they are drawn.
        weightings : ndarray (ways, N)
            Several estimates of the importance weights; their corrections are averaged in the
            logarithm.
        """
        return self._fitted(rows, weightings)[1]

    def at_pool(self, weightings: np.ndarray) -> np.ndarray:
        """Expected error at the labelled points, corrected alike."""
        return self._fitted(np.arange(len(self.loss)), weightings)[0]

    def inflation(self) -> float:
        """Logarithm of the change of the mean error by the geometry alone."""
        own, new = self._before(np.arange(len(self.loss)))
        return float(np.log(max(new.mean(), 1e-300) / max(own.mean(), 1e-300)))

    def amplitudes(self) -> tuple[float, float]:
        """A and s^2 from all labelled points."""
        found = fit_variance(self._pool, self._square)
        return float(found[0]), float(found[1])

    def _fitted(self, rows: np.ndarray, weightings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own, new = self._before(rows)
        loss, factors = self.loss[rows], []
        for weights in weightings:
            w = weights[rows]
            if not self.classes:
                factors.append(max(float(w @ loss), 1e-300) / max(float(w @ own), 1e-300))
                continue
            # counted in effective points, with one pseudo-count: no errors seen is not no errors
            w = w * (w.sum() / max(float((w**2).sum()), 1e-300))
            factors.append((float(w @ loss) + 1) / (float(w @ own) + 1))
        factor = float(np.exp(np.mean(np.log(factors))))
        most = 1.0 if self.classes else np.inf
        return np.minimum(own * factor, most), np.minimum(new * factor, most)

    def _before(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Error at the labelled points `rows` and at the new inputs, before any weighting."""
        amplitude = fit_variance(self._pool[rows], self._square[rows])
        own, new = self._pool[rows] @ amplitude, self._new @ amplitude
        if not self.classes:
            return own, new
        tiny = 1e-12 * max(float(own.mean()), 1e-300)
        score = self._margin[rows] / np.sqrt(own + tiny)
        score_new = self._margin_new / np.sqrt(new + tiny)
        center, scale = float(score.mean()), float(score.std()) or 1.0
        curve = fit_logistic((score - center) / scale, self.loss[rows])
        rate, rate_new = (
            _logistic(curve[0] + curve[1] * (z - center) / scale) for z in (score, score_new)
        )
        return rate, rate_new


def fit_variance(basis: np.ndarray, square: np.ndarray) -> np.ndarray:
    """A, s^2 >= 0 of E r^2 = basis @ (A, s^2): weighted least squares with the fitted variances.

    Iterated with weights 1/(E r^2)^2 the maximum of the Gaussian likelihood of r.
    """
    from scipy.optimize import nnls

    mean = float(square.mean())
    if mean <= 0:
        return np.zeros(2)
    scale = np.maximum(basis.mean(0), 1e-300)
    fitted = np.full(len(square), mean)
    found = np.zeros(2)
    for _ in range(ITERATIONS):
        columns = basis / scale / fitted[:, None]
        found = nnls(columns, square / fitted)[0]
        fitted = np.maximum((basis / scale) @ found, 0.02 * mean)
    return found / scale


def fit_logistic(z: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """(a, b) of P = 1/(1 + exp(-(a + b z))), b <= 0, by Newton's method with a weak prior.

    Half a wrong and half a right point at z = 0 keep it finite when there is no error at all.
    """
    design = np.stack([np.append(np.ones(len(z)), 1.0), np.append(z, 0.0)], axis=1)
    target = np.append(rate, 0.5)
    prior = np.diag([1e-3, 0.25])
    found = np.array([np.log((target.mean() + 1e-3) / (1 - target.mean() + 1e-3)), 0.0])
    for _ in range(50):
        p = _logistic(design @ found)
        gradient = design.T @ (target - p) - prior @ found
        curvature = (design * (p * (1 - p))[:, None]).T @ design + prior
        step = np.linalg.solve(curvature, gradient)
        found = found + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < 1e-9:
            break
    return np.array([found[0], min(found[1], 0.0)])


def _logistic(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def draws_of_mean(
    model: ErrorModel,
    expected: np.ndarray,
    weightings: np.ndarray,
    spread: tuple[float, float],
    design: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws of the mean error once the labels are known.

    The expectation is lognormal, of the standard deviations `spread` below and above its median.
    Given it, single errors are wrong
    classes with their probability, or E r^2 times relative squared errors r^2 / E r^2 drawn from
    the labelled points, in proportion to their weight. Of these as many are drawn as there are
    independent ones: M / `design`.
    """
    normal = rng.normal(size=DRAWS)
    factor = np.exp(np.where(normal < 0, *spread) * normal)
    M = len(expected)
    if model.classes:
        chance = np.minimum(factor[:, None] * expected, 1.0)
        return np.array([(rng.random(M) < row).mean() for row in chance])
    relative = model.loss / np.maximum(model.at_pool(weightings), 1e-300)
    chance = weightings.mean(0) / weightings.mean(0).sum()
    relative = relative / max(float(chance @ relative), 1e-300)
    few = max(1, round(M / design))
    steps = np.cumsum(chance)
    out = np.empty(DRAWS)
    for k in range(DRAWS):
        some = expected[rng.integers(M, size=few)] if few < M else expected
        drawn = np.searchsorted(steps, rng.random(few)).clip(max=len(chance) - 1)
        out[k] = some @ relative[drawn] / max(float(some.sum()), 1e-300)
    return out * factor * expected.mean()

"""A linear classifier of a Gaussian mixture, trained by gradient descent, in high dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.checks import real
from thermolearn.systems.training.sgd_noise.losses import Loss, as_loss
from thermolearn.systems.training.sgd_noise.prior import Prior, as_prior
from thermolearn.systems.training.sgd_noise.schedules import Schedule

if TYPE_CHECKING:
    from thermolearn.systems.training.sgd_noise.result import DMFTResult
    from thermolearn.systems.training.sgd_noise.simulation_result import SimulationResult
    from thermolearn.systems.training.sgd_noise.static import StaticState

LARGEST = 1e6  # |w|^2/d at the start: beyond, rounding eats what labels of order 1 do to it


@dataclass(frozen=True, eq=False)
class GaussianMixturePerceptron:
    """n = alpha d samples x = c v/sqrt(d) + sqrt(Delta) z, |v|^2 = d, z ~ N(0, 1), label y.

    With fields h = x.w/sqrt(d), training minimizes sum_mu l(h_mu, y_mu) + lambda |w|^2/2 over the
    d weights; the loss is the sum over samples, and temperatures are in its unit.

    Attributes
    ----------
    alpha : float
        Samples per weight, > 0.
    Delta : float
        Variance of the noise around the centers, > 0.
    prior : "symmetric" or sequence of (p, c, y)
        Clusters: probability, position, label. "symmetric": c = y = +-1, half each. The labels are
        -1 and 1 for "logistic" and "hinge2".
    loss : "quadratic", "logistic", "hinge2", Loss, or callable (h, y) -> l
        Callables act on torch tensors; ``losses.hinge2(kappa)`` has another margin.
    decision : callable, optional
        h -> score (numpy, elementwise), whose sign is the predicted label; h itself by default.
        The even activation h^2 - 1 of three clusters, say.
    clusters, losses : Prior, Loss
        What prior and loss stand for.

    Raises
    ------
    ValueError, TypeError, NotApplicableError
        alpha or Delta not positive, a decision that is no function of arrays or changes their
        shape; see `as_prior` and `as_loss`.

    References
    ----------
    F. Mignacco, P. Urbani, arXiv:2112.10852; F. Mignacco, F. Krzakala, P. Urbani, L. Zdeborova,
    arXiv:2006.06098 (three clusters).
    """

    alpha: float
    Delta: float
    prior: str | Prior | Sequence[Sequence[float]] = "symmetric"
    loss: str | Loss | Callable[..., Any] = "logistic"
    decision: Callable[[np.ndarray], np.ndarray] = np.asarray
    clusters: Prior = field(init=False, repr=False)
    losses: Loss = field(init=False, repr=False)

    def __post_init__(self) -> None:
        real("alpha", self.alpha, above=0)
        real("Delta", self.Delta, above=0)
        clusters = as_prior(self.prior)
        object.__setattr__(self, "clusters", clusters)
        object.__setattr__(self, "losses", as_loss(self.loss, clusters.labels))
        _check_decision(self.decision)

    def dmft(
        self,
        schedule: Schedule,
        weight_decay: float,
        steps: int,
        n_mc: int | None = None,
        replicas: int = 1,
        start: tuple[float, float] = (1.0, 0.0),
        runs: int = 4,
        seed: int = 0,
        pivot: float | None = None,
        keep: bool = False,
    ) -> DMFTResult:
        """Exact dynamics for d to infinity, marched with Monte Carlo samples of one site.

        Parameters
        ----------
        schedule : GD, SGD or PersistentSGD
        weight_decay : float >= 0
            lambda; the gradient's term is lambda w.
        steps : int >= 1
            Updates T: m, C and R are given at times 0, ..., T.
        n_mc : int, optional
            Samples per run, more than replicas * (steps + 1) and some rows; 10000 by default,
            16000 with two replicas.
        replicas : 1 or 2
            Two replicas share w(0) and the data and have independent batches.
        start : (float, float)
            (R0, m0): w(0) = m0 v + sqrt(R0) N(0, 1), R0 >= 0, R0 + m0^2 <= 1e6.
        runs : int >= 1
            Independent repetitions behind the error bars; 1 gives none.
        seed : int >= 0, below 2^32
        pivot : float in (0, 1), optional
            Gaussian fields with less of their own than this share of their standard deviation get
            nothing of their own; 0.01 by default, 0.001 with two replicas. A distance of replicas
            below some 30 pivot^2 C comes out too small (`flags` says so): take a smaller pivot.
        keep : bool
            Keep the samples of all runs, 2 T^2 n_mc bytes each, so that `DMFTResult.resume` goes
            on from them instead of making them again.

        Raises
        ------
        ValueError
            A bad argument, or n_mc too small.
        DivergedError
            The learning rate is beyond stability.
        """
        from thermolearn.systems.training.sgd_noise.result import march

        return march(
            self,
            schedule,
            weight_decay,
            steps,
            n_mc,
            replicas,
            check_start(start),
            runs,
            seed,
            pivot,
            keep,
        )

    def simulate(
        self,
        d: int,
        schedule: Schedule,
        weight_decay: float,
        steps: int,
        *,
        seeds: int | Sequence[int] = 8,
        replicas: int = 1,
        start: tuple[float, float] = (1.0, 0.0),
        **options: Any,
    ) -> SimulationResult:
        """Training at finite d, once per seed; every argument is that of `simulation.simulate`,
        which says how (response: ``waiting_times``, ``lag``, ``force``; ``precision``)."""
        from thermolearn.systems.training.sgd_noise.simulation import simulate

        return simulate(
            self,
            d,
            schedule,
            weight_decay,
            steps,
            seeds=seeds,
            replicas=replicas,
            start=check_start(start),
            **options,
        )

    def static(self, weight_decay: float) -> StaticState:
        """The minimum of the training loss (convex), where full-batch gradient descent ends.

        Parameters
        ----------
        weight_decay : float >= 0
            0 only where the training set cannot be fitted exactly.

        Raises
        ------
        NotApplicableError
            The loss is not convex, or there is no unique minimum.
        ConvergenceError
            The equations were not solved to 1e-9, or their averages leave an error above 1e-4.
        """
        from thermolearn.systems.training.sgd_noise.static import static

        return static(self, weight_decay)


def check_start(start: tuple[float, float]) -> tuple[float, float]:
    """(R0, m0) as floats.

    Raises
    ------
    ValueError
        No pair of finite numbers, R0 < 0, or R0 + m0^2 above 1e6.
    """
    try:
        pair = () if isinstance(start, str) else tuple(start)
    except TypeError:
        pair = ()
    if len(pair) != 2:
        raise ValueError(f"start must be (R0, m0), got {start!r}")
    R0, m0 = real("R0 in start", pair[0], least=0), real("m0 in start", pair[1])
    if R0 > LARGEST or abs(m0) > LARGEST**0.5 or R0 + m0**2 > LARGEST:
        raise ValueError(
            f"start = (R0, m0) must have R0 + m0^2 of at most {LARGEST:g}, got ({R0:g}, {m0:g}): "
            "weights this large are far from anything that labels of order 1 lead to"
        )
    return R0, m0


def _check_decision(decision: Any) -> None:
    if not callable(decision):
        raise TypeError(f"decision must be a function of the fields h, got {decision!r}")
    h = np.linspace(-2.0, 2.0, 6).reshape(2, 3)
    try:
        score = np.asarray(decision(h.copy()))
        fits = score.shape == h.shape and score.dtype.kind in "fiub"
    except Exception as error:
        raise TypeError(f"decision must take an array of fields h: {error}") from error
    if not fits:
        raise ValueError(
            "decision must return a real score for each field: of an array of shape "
            f"{h.shape} it makes {score.dtype} {score.shape}"
        )

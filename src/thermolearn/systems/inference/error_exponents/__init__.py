"""Error exponents of detectors: Laplace noise shifted or not, and trained networks.

n independent observations x of Laplace noise of scale 1, shifted by `shift` under H1, are averaged
through a score f; the test decides H1 if (1/n) sum f(x_i) > gamma. Two scores with known tails, the
log-likelihood ratio f = |x| - |x - shift| (a clipped line) and the linear f = x, against exact
cumulant generating functions; and networks trained on the same data, on digits or on breast
cancer, against calibration scores (`trained_detector`).

Reference: P. Braca, L. M. Millefiori, A. Aubry, S. Marano, A. De Maio, P. Willett,
arXiv:2207.10939; tails by R. Lugannani and S. Rice, doi:10.2307/1426607.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing
    from thermolearn.systems.inference.error_exponents.networks import TrainedDetector

ABOUT = {
    "title": "Error exponents of a detector",
    "papers": ["arXiv:2207.10939", "doi:10.2307/1426607"],
    "claims": [
        "Both error probabilities of the averaged score decay as exp(-n I), I the Legendre "
        "transform of the cumulant generating function of the scores.",
        "The Lugannani-Rice formula gives the probabilities themselves, prefactor included, to a "
        "fraction of a percent from some ten observations on.",
        "The log-likelihood ratio has the best exponent; a linear score needs 1/efficiency times "
        "as many observations.",
        "A threshold of Gaussian normalization misses its false alarm by the skewness and the "
        "kurtosis of the scores.",
    ],
    "axes": {},
    "size": "n_observations",
    "sizes": (20, 40),
    # Lugannani-Rice is 0.12%, 0.10% and 0.15% above the exact tails of the linear score at n = 20,
    # and less than half of that at 40; of the likelihood ratio below 0.15%, not resolved
    "allowance": {
        "false_alarm_linear": (0.02, 2.0),
        "miss_linear": (0.03, 2.0),
        "cfar_false_alarm": (0.0065, 2.0),
    },
    "contrast": {"shift": 1.1, "threshold": 0.05, "alpha": 0.02},
    "seeds": 24,
    "figures": {"1": "figure", "2": "trained"},
}


@dataclass(frozen=True)
class Params:
    """Laplace noise, the test, and the size of the simulation.

    Attributes
    ----------
    n_observations : int
        n, observations per decision, at least 4.
    shift : float
        Of the noise under H1, in units of its scale, in [0.1, 5].
    threshold : float
        gamma of the log-likelihood ratio, in nats, at most 0.9 shift in size; the linear score has
        its threshold at the same x, (shift + threshold)/2.
    alpha : float
        False alarm aimed at by Gaussian normalization of the linear score, in [1e-4, 0.2].
    draws : int
        Simulated decisions per seed and probability, at least 100.
    scores : int
        Simulated scores per seed behind each exponent, at least 1000.
    """

    n_observations: int = 20
    shift: float = 1.0
    threshold: float = 0.1
    alpha: float = 0.01
    draws: int = 16_000
    scores: int = 20_000

    def __post_init__(self) -> None:
        whole("n_observations", self.n_observations, 4)
        whole("draws", self.draws, 100)
        whole("scores", self.scores, 1000)
        real("shift", self.shift, least=0.1, most=5)
        real("threshold", self.threshold, least=-0.9 * self.shift, most=0.9 * self.shift)
        real("alpha", self.alpha, least=1e-4, most=0.2)


def theory(p: Params) -> dict[str, Estimate]:
    """Exact cumulant generating functions, Lugannani-Rice tails.

    Returns
    -------
    dict of Estimate
        exponent_llr, exponent_linear : I_0 at the threshold, nats per observation.
        efficiency : Chernoff exponent of the linear score over that of the log-likelihood ratio.
        false_alarm_llr, miss_llr, false_alarm_linear, miss_linear : probabilities at n.
        cfar_false_alarm : of the linear score at the threshold of Gaussian normalization.
    """
    from thermolearn.systems.inference.error_exponents.closed_form import predict

    return predict(p)


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Decisions on drawn observations by importance sampling, and exponents of drawn scores.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative.

    Returns
    -------
    dict of Estimate
        The observables of `theory`.
    """
    from thermolearn.systems.inference.error_exponents.decisions import run

    return run(p, seed)


def trained_detector(
    data: str = "laplace",
    calibration: int | None = None,
    hidden: int = 16,
    steps: int | None = None,
    seed: int = 0,
    population: int = 400_000,
    noise: float = 2.0,
) -> TrainedDetector:
    """Train a small tanh network, and calibrate its error exponents on scores of other samples.

    Parameters
    ----------
    data : str
        "laplace": x in R^2 of independent Laplace noise, shifted by 1/2 under H1, 2000 training
        samples per class. "digits_parity", "digits_3_8" and "breast_cancer": the real sets, split
        into training, calibration and test parts.
    calibration : int, optional
        Calibration scores per class ("laplace": 50 000); for real data the split sets it.
    hidden : int
        Units of the one hidden layer.
    steps : int, optional
        Full-batch steps of Adam at learning rate 0.01; default 300, for real data 30.
    seed : int
        Of weights, split and data.
    population : int
        Test scores per class of "laplace".
    noise : float
        Standard deviation of a noise on the standardized inputs of real data, one look at every
        sample; without it single looks decide, and a few hundred scores know nothing of the tails.

    Raises
    ------
    ValueError
        Unknown data, or a number out of range.
    """
    from thermolearn.systems.inference.error_exponents.networks import train_detector

    return train_detector(data, calibration, hidden, steps, seed, population, noise)


def figure(quick: bool = True) -> Drawing:
    """Error rates against observations, and the rate functions of both scores.

    Parameters
    ----------
    quick : bool
        8 seeds and fewer draws, otherwise 24 seeds.
    """
    from thermolearn.systems.inference.error_exponents.figures import known_tails

    return known_tails(quick)


def trained(quick: bool = True) -> Drawing:
    """Error rates of trained networks: calibrated saddle point against tilted Monte Carlo.

    Parameters
    ----------
    quick : bool
        Up to 50 observations, otherwise 200.
    """
    from thermolearn.systems.inference.error_exponents.figures import trained_networks

    return trained_networks(quick)

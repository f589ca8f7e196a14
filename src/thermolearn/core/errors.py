"""The named errors and warnings of the library.

Bad values are ``ValueError``, unsupported objects ``TypeError``; the classes below exist where a
caller may want to tell one failure from another.
"""


class ConvergenceError(RuntimeError):
    """An iteration ended above its tolerance; the message gives the residual and what to change."""


class UnstableEnsembleError(ValueError):
    """The mass makes the Gaussian ensemble unstable: 1 + beta (lambda_min - m) <= 0.

    Attributes
    ----------
    mass, critical_mass : float
        The mass asked for and the limit m_c = lambda_min(G) + 1/beta (without a reference:
        lambda_min(G)) of the least stable sample.
    """

    def __init__(self, mass: float, critical_mass: float, message: str | None = None):
        super().__init__(
            message
            or f"the ensemble is unstable: mass m = {mass:.6g} is not below the critical mass "
            f"m_c = {critical_mass:.6g}; lower the mass or raise the temperature"
        )
        self.mass = mass
        self.critical_mass = critical_mass


class NotApplicableError(TypeError):
    """A quantity is not defined for this model, loss or data; the message says why."""


class DataError(ValueError):
    """A file or data set cannot be used; the message names the file and what to change."""


class SamplerWarning(UserWarning):
    """A Monte Carlo result is under-sampled, stuck or not mixed."""


class SweepError(ValueError):
    """A sweep cannot run as asked: its definition or its store; the message says what to change."""


class ThresholdOutsideSupportError(ValueError):
    """A threshold that the scores do not reach: the sample says nothing about the tail there.

    Attributes
    ----------
    threshold : float
        Asked for.
    support : (float, float)
        Smallest and largest score.
    """

    def __init__(self, threshold: float, support: tuple[float, float], name: str = "scores"):
        low, high = support
        super().__init__(
            f"threshold {threshold:.6g} is not inside the range ({low:.6g}, {high:.6g}) of the "
            f"{name}; an infinite exponent there would be an artifact of the sample. Choose a "
            "threshold inside, or calibrate with more scores"
        )
        self.threshold = threshold
        self.support = support


class DivergedError(RuntimeError):
    """A training run or its theory whose loss or order parameters are no longer finite.

    Attributes
    ----------
    step : int
        The first step at which that was seen.
    """

    def __init__(self, step: int, message: str | None = None):
        super().__init__(
            message or f"diverged at step {step}: the values are no longer finite; lower the step"
        )
        self.step = step

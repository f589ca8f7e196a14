"""Laws of independent, zero-mean initial parameters, and their entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate

NORMAL_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of a normal number of variance 1
UNIFORM_ENTROPY = math.log(2 * math.sqrt(3))  # of a uniform number of variance 1
UNIFORM_KURTOSIS = -1.2  # excess


@dataclass(frozen=True)
class Normal:
    """Every parameter ~ N(0, sigma^2); sigma > 0."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        real("sigma", self.sigma, above=0)


@dataclass(frozen=True)
class Uniform:
    """Every parameter uniform on (-a, a); a > 0."""

    a: float = 1.0

    def __post_init__(self) -> None:
        real("a", self.a, above=0)


@dataclass(frozen=True)
class Mixed:
    """The first `n_uniform` features uniform on (-a, a), the others N(0, sigma^2)."""

    n_uniform: int
    a: float = 1.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        whole("n_uniform", self.n_uniform, 0)
        real("a", self.a, above=0)
        real("sigma", self.sigma, above=0)


Initialization = Normal | Uniform | Mixed


def uniform_count(init: Initialization, D: int) -> int:
    """How many of the D features have uniform weights: the first ones.

    Raises
    ------
    TypeError
        Not one of the three laws.
    ValueError
        A mixed law with more uniform features than there are.
    """
    if isinstance(init, Normal):
        return 0
    if isinstance(init, Uniform):
        return D
    if not isinstance(init, Mixed):
        raise TypeError(
            f"init must be Normal(sigma), Uniform(a) or Mixed(n_uniform, a, sigma), got {init!r}"
        )
    if init.n_uniform > D:
        raise ValueError(f"init: {init.n_uniform} uniform features, but there are {D} in all")
    return init.n_uniform


def variances(init: Initialization, D: int) -> np.ndarray:
    """Variance of the weight of each feature, (D,): sigma^2 if normal, a^2/3 if uniform."""
    m = uniform_count(init, D)
    out = np.empty(D)
    out[:m] = 0.0 if isinstance(init, Normal) else init.a**2 / 3
    out[m:] = 0.0 if isinstance(init, Uniform) else init.sigma**2
    return out


def init_entropy(
    init: Initialization,
    D: int,
    entropy: Literal["differential", "quantised"] = "differential",
    eps: float | None = None,
    classes: int = 1,
) -> Estimate:
    """Entropy of the initial parameters, in nats; entropies of independent ones add.

    Differential: S = D/2 log(2 pi e sigma^2) for N(0, sigma^2), D log(2 a) for U(-a, a). Its value
    depends on the unit of the parameters and is negative for sigma < 0.242 or a < 1/2. Quantised:
    S - D log eps, the entropy of parameters that are told apart to within eps (for an eps small
    against sigma and a).

    Parameters
    ----------
    init : Normal, Uniform or Mixed
    D : int
        Number of features, at least 1.
    entropy : "differential" or "quantised"
    eps : float
        Resolution > 0, in the unit of the parameters; for "quantised" only.
    classes : int
        Sets of D weights (one per class of a K-class model), at least 1.

    Returns
    -------
    Estimate
        Exact; the note names the convention.

    Raises
    ------
    ValueError, TypeError
        Arguments out of range.

    Notes
    -----
    Zhang, arXiv:2404.13218. Which of the conventions the paper uses could not be seen.
    """
    D, classes = whole("D", D, 1), whole("classes", classes, 1)
    m = uniform_count(init, D)
    S = 0.0
    if not isinstance(init, Normal) and m:
        S += m * math.log(2 * init.a)
    if not isinstance(init, Uniform) and m < D:
        S += (D - m) * (NORMAL_ENTROPY + math.log(init.sigma))
    S *= classes
    if entropy == "differential":
        if eps is not None:
            raise ValueError("eps is the resolution of entropy='quantised'; leave it out")
        note = "differential entropy of the initial parameters in their own unit"
    elif entropy == "quantised":
        if eps is None:
            raise ValueError("entropy='quantised' needs eps, the resolution of the parameters")
        eps = real("eps", eps, above=0)
        S -= classes * D * math.log(eps)
        note = f"entropy of the initial parameters, told apart to within eps = {eps:g}"
    else:
        raise ValueError(
            f"entropy of an initialization is 'differential' or 'quantised', got {entropy!r}"
        )
    return Estimate(S, note=note)

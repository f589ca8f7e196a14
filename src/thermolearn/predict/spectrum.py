"""Spectra of kernels: exact on the sphere, empirical on a pool of inputs.

A kernel k and a probability measure mu of inputs have eigenfunctions int k(x, x') f_n(x') dmu(x') =
lambda_n f_n(x), orthonormal under mu; a target is g = sum_n g_n f_n. Learning curves need nothing
else: the eigenvalues, how often each occurs, the trace, and the power g_n^2 of the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import real, whole

# An eigenvalue this far below zero, in units of the largest, is no rounding error.
INDEFINITE = 1e-8
# Tails below this fraction of the trace are rounding.
ROUNDING = 1e-12
LARGEST = 1e100
POINTS = 200  # inputs of a pool at which the eigenfunctions are kept
PANEL_NODES = 64
MOST_PANELS = 512


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a kernel under a probability measure of the inputs.

    Parameters
    ----------
    eigenvalues : array (modes,)
        lambda >= 0; on the sphere one per degree l = 0, 1, ..., on data in descending order.
        Values between -1e-8 of the largest and 0 count as rounding and become 0.
    degeneracies : array (modes,), optional
        How many eigenfunctions share each eigenvalue, > 0; 1 by default.
    trace : float, optional
        int k(x, x) dmu(x), at least sum(degeneracies * eigenvalues), which is the default. What it
        exceeds that sum by is the weight of the modes that are not listed.
    pool : int, optional
        Number of inputs behind an empirical spectrum.
    target_power : array (modes,) or (modes, outputs), optional
        g_n^2 of the target, summed over the eigenfunctions of a degree.
    error : array (modes,), optional
        Numerical error of the eigenvalues.
    dim : int, optional
        Number of input features, for a spectrum on the sphere |x|^2 = dim.
    flags : tuple of str
        What to know before using it.
    eigenfunctions : array (points, modes), optional
        f_n at some of the inputs of a pool: they tell whether the pool has few dimensions.

    Raises
    ------
    ValueError
        Shapes that do not fit, a non-finite number, a negative eigenvalue (the kernel is not
        positive semi-definite), a degeneracy that is not positive, a negative power, a trace
        below the listed eigenvalues by more than 1e-6 of itself or so large that its square
        overflows.
    """

    eigenvalues: np.ndarray
    degeneracies: np.ndarray = field(default_factory=lambda: np.ones(0))
    trace: float = None  # type: ignore[assignment]
    pool: int | None = None
    target_power: np.ndarray | None = None
    error: np.ndarray | None = None
    dim: int | None = None
    flags: tuple[str, ...] = ()
    eigenfunctions: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        eigenvalues = _clipped(_vector("eigenvalues", self.eigenvalues))
        modes = len(eigenvalues)
        given = np.size(self.degeneracies) > 0
        degeneracies = _vector("degeneracies", self.degeneracies) if given else np.ones(modes)
        if len(degeneracies) != modes or not (degeneracies > 0).all():
            raise ValueError(
                f"degeneracies must be {modes} positive numbers, one per eigenvalue, got "
                f"{self.degeneracies!r}"
            )
        listed = float(degeneracies @ eigenvalues)
        trace = listed if self.trace is None else real("trace", self.trace, least=0)
        if listed > trace * (1 + 1e-6):
            raise ValueError(
                f"the listed eigenvalues sum to {listed:.8g}, more than the trace {trace:.8g}: "
                "trace must be the mean of k(x, x) under the same measure of inputs"
            )
        if trace > LARGEST:
            raise ValueError(
                f"the trace is {trace:.3g}: errors would overflow; divide kernel and noise by a "
                "common factor"
            )
        if self.pool is not None:
            whole("pool", self.pool, 1)
        set_ = object.__setattr__
        set_(self, "eigenvalues", eigenvalues)
        set_(self, "degeneracies", degeneracies)
        set_(self, "trace", trace)
        if self.target_power is not None:
            set_(self, "target_power", check_power(self.target_power, modes))
        if self.error is not None:
            error = _vector("error", self.error)
            if len(error) != modes:
                raise ValueError(f"error must hold {modes} numbers, got {len(error)}")
            set_(self, "error", error)
        if self.eigenfunctions is not None:
            array = np.asarray(self.eigenfunctions, dtype=np.float64)
            if array.ndim != 2 or array.shape[1] != modes or len(array) < 2:
                raise ValueError(f"eigenfunctions must be (points >= 2, {modes}): {array.shape}")
            set_(self, "eigenfunctions", array)

    @property
    def rank(self) -> float:
        """Number of listed eigenfunctions with an eigenvalue above 0."""
        return float(self.degeneracies[self.eigenvalues > 0].sum())

    def tail(self, r: int | None = None) -> float:
        """Trace minus the modes up to index r (on the sphere: degree <= r); None: minus all listed.

        The weight of what is left out, never summed explicitly: the trace is exact where a list
        of eigenvalues ends. Below 1e-12 of the trace it is 0.

        Raises
        ------
        ValueError
            r is no index of a mode.
        """
        last = len(self.eigenvalues) - 1
        kept = last if r is None else whole("r", r, 0, last)
        left = self.trace - float(self.degeneracies[: kept + 1] @ self.eigenvalues[: kept + 1])
        return left if left > ROUNDING * self.trace else 0.0


def check_power(power: Any, modes: int) -> np.ndarray:
    """A target power as float64, (modes,) or (modes, outputs), finite and >= 0; else ValueError."""
    array = np.array(_numpy(power), dtype=np.float64)
    if array.ndim not in (1, 2) or len(array) != modes or array.size == 0:
        raise ValueError(
            f"target_power must have shape ({modes},) or ({modes}, outputs), got {array.shape}"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError("target_power must be finite and >= 0: it is the square of a coefficient")
    return array


# -- the sphere ----------------------------------------------------------------------------------
def sphere_spectrum(
    kernel: Callable[[np.ndarray], Any], dim: int, max_degree: int = 60, tol: float = 1e-11
) -> Spectrum:
    """Spectrum of a kernel k(t), t = x.x'/dim, for inputs uniform on the sphere |x|^2 = dim.

    The eigenfunctions of degree l are the hyperspherical harmonics, N(d, l) of them, with
    (Funk and Hecke)

        lambda_l = A_d int_0^pi k(cos u) P_l(cos u) sin(u)^(d-2) du,
        A_d = Gamma(d/2) / (sqrt(pi) Gamma((d-1)/2)),  P_l(1) = 1,

    and sum_l N(d, l) lambda_l = k(1). Gauss-Legendre in the angle, in which kernels of ReLU
    networks are smooth where they are not in t; panels are doubled until the change is below
    `tol`. Eigenvalues within 10 times their error are 0 (the parity zeros of a bias-free two-layer
    ReLU network, and high degrees in high dimensions); the trace keeps their weight. Source:
    O. Cohen, O. Malka, Z. Ringel, arXiv:1906.05301.

    Parameters
    ----------
    kernel : callable
        Elementwise on an array of t in [-1, 1].
    dim : int
        Number of input features d >= 2.
    max_degree : int
        Highest degree listed, >= 0.
    tol : float
        Wanted error of sum_l N(d, l)^(1/2) |error of lambda_l| in units of k(1), > 0.

    Returns
    -------
    Spectrum
        One mode per degree; `.error` is the change on the last doubling plus rounding. Not
        reaching `tol` is flagged.

    Raises
    ------
    ValueError
        dim, max_degree or tol out of range, so many dimensions and degrees that N(d, l) exceeds
        1e300, a kernel that is not finite, or not positive semi-definite: a degree with less than
        -1e-8 of the trace.
    """
    dim, max_degree = whole("dim", dim, 2), whole("max_degree", max_degree, 0)
    real("tol", tol, above=0)
    degeneracies = harmonics(dim, max_degree)
    trace = float(_values(kernel, np.ones(1))[0])
    if not trace >= 0:
        raise ValueError(f"kernel is not positive semi-definite: k(1) = {trace:.6g}")
    panels = max(4, math.ceil((4 * max_degree + 12 * math.sqrt(dim)) / PANEL_NODES))
    new, rounding = _funk_hecke(kernel, dim, max_degree, panels)
    while True:
        panels, old = 2 * panels, new
        new, rounding = _funk_hecke(kernel, dim, max_degree, panels)
        error = np.abs(new - old) + rounding
        spread = float((np.sqrt(degeneracies) * np.abs(new - old)).max())
        if spread <= tol * trace or 2 * panels > MOST_PANELS:
            break
    weight = degeneracies * (new + 10 * error)
    if (weight < -INDEFINITE * trace).any():
        worst = int(weight.argmin())
        raise ValueError(
            f"kernel is not positive semi-definite on the sphere in {dim} dimensions: degree "
            f"{worst} has eigenvalue {new[worst]:.3g}"
        )
    eigenvalues = np.where(new <= 10 * error, 0.0, new)
    flags: tuple[str, ...] = ()
    if spread > tol * trace:
        flags = (
            f"the quadrature on the sphere reached {spread / trace:.1e} of k(1), not {tol:.0e}: "
            "the kernel has a kink or oscillates inside (-1, 1)",
        )
    return Spectrum(eigenvalues, degeneracies, trace, error=error, dim=dim, flags=flags)


def harmonics(dim: int, max_degree: int) -> np.ndarray:
    """N(d, l), the number of hyperspherical harmonics of degree l = 0..max_degree; (degrees,).

    N(d, l) = C(l+d-1, l) - C(l+d-3, l-2), in exact integers (d = 2: 1, 2, 2, ...).

    Raises
    ------
    ValueError
        dim < 2, max_degree < 0, or a number above 1e300.
    """
    dim, max_degree = whole("dim", dim, 2), whole("max_degree", max_degree, 0)
    count = [
        math.comb(i + dim - 1, i) - (math.comb(i + dim - 3, i - 2) if i > 1 else 0)
        for i in range(max_degree + 1)
    ]
    if max(count) > 10**300:
        raise ValueError(
            f"max_degree = {max_degree} in {dim} dimensions has more than 1e300 harmonics; lower it"
        )
    return np.array([float(c) for c in count])


def zonal(t: np.ndarray, dim: int, max_degree: int) -> Iterator[np.ndarray]:
    """P_0(t), P_1(t), ... of the sphere in dim dimensions, P_l(1) = 1, up to max_degree.

    (l+d-2) P_{l+1} = (2l+d-2) t P_l - l P_{l-1}; Legendre for d = 3, Chebyshev for d = 2. By the
    addition theorem sum_m Y_lm(x) Y_lm(x') = N(d, l) P_l(x.x'/d).
    """
    below, here = np.ones_like(t), t
    for degree in range(max_degree + 1):
        if degree > 1:
            i = degree - 1
            below, here = here, ((2 * i + dim - 2) * t * here - i * below) / (i + dim - 2)
        yield below if degree == 0 else here


def _funk_hecke(
    kernel: Callable[[np.ndarray], Any], dim: int, max_degree: int, panels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues by one composite rule, and their rounding errors."""
    node, weight = np.polynomial.legendre.leggauss(PANEL_NODES)
    width = math.pi / panels
    angle = (width * (np.arange(panels)[:, None] + 0.5 * (node + 1))).ravel()
    t = np.cos(angle)
    # log1p keeps the digits near t = 0, where the measure of a high dimension sits
    density = np.exp(0.5 * (dim - 2) * np.log1p(-t * t)) * np.tile(0.5 * width * weight, panels)
    # A_d is one over the sum, to more digits than from Gamma functions
    values = _values(kernel, t) * (density / density.sum())
    eigenvalues = np.empty(max_degree + 1)
    rounding = np.empty(max_degree + 1)
    for degree, polynomial in enumerate(zonal(t, dim, max_degree)):
        product = values * polynomial
        eigenvalues[degree] = product.sum()
        rounding[degree] = (8 + degree) * np.finfo(float).eps * np.abs(product).sum()
    return eigenvalues, rounding


def _values(kernel: Callable[[np.ndarray], Any], t: np.ndarray) -> np.ndarray:
    """k(t) as float64; ValueError if it is not finite or not elementwise."""
    values = np.asarray(_numpy(kernel(t)), dtype=np.float64)
    if values.shape != t.shape or not np.isfinite(values).all():
        raise ValueError(
            "kernel must map an array of t in [-1, 1] to finite numbers of the same shape; got "
            + (f"shape {values.shape}" if values.shape != t.shape else "a non-finite value")
        )
    return values


# -- data ----------------------------------------------------------------------------------------
def empirical_spectrum(K: Any, y: Any = None) -> Spectrum:
    """Spectrum of a kernel on a pool of M inputs, each of probability 1/M.

    K/M = V Lambda V^T; eigenfunctions f_n(x_i) = sqrt(M) V_in, coefficients of the target
    g_n = (1/M) sum_i f_n(x_i) y_i, so that sum_n g_n^2 is the mean of y^2. A learning curve from it
    is that of samples drawn from the pool *with replacement*, its error the mean over the pool: it
    goes to 0 as N comes near M, whatever the data, and says little above N = M/10.

    Parameters
    ----------
    K : array or tensor (M, M)
        Symmetric, positive semi-definite.
    y : array or tensor (M,) or (M, outputs), optional
        Targets; they fill `target_power`, (modes,) or (modes, outputs).

    Returns
    -------
    Spectrum
        M modes in descending order, each of degeneracy 1; trace tr K / M; the eigenfunctions at
        200 inputs (or all, if fewer) drawn from the pool with a fixed seed. Flags tell of modes
        without weight (duplicated inputs, a kernel of low rank) and of constant targets.

    Raises
    ------
    ValueError
        K not square, not symmetric (1e-8 of its largest entry), or not finite; an eigenvalue below
        -1e-8 of the largest; y of another length or not finite.
    """
    from scipy import linalg

    gram = np.asarray(_numpy(K), dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.size == 0:
        raise ValueError(f"K must be a square matrix (M, M), got shape {gram.shape}")
    _check_symmetric(gram)
    m = len(gram)
    targets = None if y is None else _targets(y, m)
    values, vectors = linalg.eigh(gram, check_finite=False, driver="evd")
    values = _clipped(values[::-1] / m)
    rounding = m * np.finfo(float).eps * values[0]
    values[values <= rounding] = 0.0
    flags: list[str] = []
    if (idle := int((values == 0).sum())) > 0:
        flags.append(
            f"{idle} of {m} modes carry no weight: duplicated inputs, or a kernel of low rank"
        )
    power = None
    if targets is not None:
        power = np.square(vectors[:, ::-1].T @ targets) / m
        constant = np.ptp(targets.reshape(m, -1), axis=0) == 0
        if constant.any():
            which = "" if targets.ndim == 1 else f" {np.flatnonzero(constant).tolist()}"
            flags.append(f"the target{which} is constant over the pool")
    points = np.random.default_rng(0).permutation(m)[:POINTS] if m > 1 else None
    return Spectrum(
        values,
        np.ones(m),
        float(values.sum()),
        pool=m,
        target_power=power,
        error=np.full(m, rounding),
        flags=tuple(flags),
        eigenfunctions=None if points is None else math.sqrt(m) * vectors[points, ::-1],
    )


def _check_symmetric(gram: np.ndarray) -> None:
    """ValueError unless finite and symmetric, in blocks of rows: no second matrix in memory."""
    step = 512
    largest = max(float(np.abs(gram[i : i + step]).max()) for i in range(0, len(gram), step))
    if not math.isfinite(largest):
        raise ValueError("K holds a non-finite number")
    for i in range(0, len(gram), step):
        gap = np.abs(gram[i : i + step] - gram[:, i : i + step].T).max()
        if gap > 1e-8 * largest:
            raise ValueError(f"K must be symmetric; K and its transpose differ by {gap:.3g}")


def _targets(y: Any, m: int) -> np.ndarray:
    """Targets as float64 (M,) or (M, outputs); ValueError if they do not fit."""
    targets = np.asarray(_numpy(y), dtype=np.float64)
    if targets.ndim not in (1, 2) or len(targets) != m or targets.size == 0:
        raise ValueError(f"y must have shape ({m},) or ({m}, outputs), got {targets.shape}")
    if not np.isfinite(targets).all():
        raise ValueError("y holds a non-finite number: drop or fill missing targets first")
    return targets


def _clipped(eigenvalues: np.ndarray) -> np.ndarray:
    """Eigenvalues with rounding below zero cut off; ValueError if it is more than rounding."""
    least, largest = float(eigenvalues.min()), float(eigenvalues.max())
    if least < -INDEFINITE * max(largest, 0.0):
        raise ValueError(
            f"not positive semi-definite: the lowest eigenvalue is {least:.3g}, the largest "
            f"{largest:.3g}"
        )
    return np.maximum(eigenvalues, 0.0)


def _vector(name: str, values: ArrayLike) -> np.ndarray:
    array = np.array(_numpy(values), dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a non-empty list of finite numbers, got {values!r}")
    return array


def _numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values

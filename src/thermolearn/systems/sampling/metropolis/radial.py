"""Spectrum of isotropic Gaussian jumps in a radial potential, any dimension."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import interpolate, linalg
from scipy.special import gammaln, hyp0f1, ive

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate
from thermolearn.systems.sampling.metropolis import grids
from thermolearn.systems.sampling.metropolis.continuum import (
    far_rejection,
    shallow,
    sup_rejection,
    tail_continuum,
    with_truncation,
)
from thermolearn.systems.sampling.metropolis.grids import Grid
from thermolearn.systems.sampling.metropolis.jumps import GaussianJump
from thermolearn.systems.sampling.metropolis.potentials import (
    Potential,
    as_potential,
    growth,
)
from thermolearn.systems.sampling.metropolis.verdict import Level, judge, relaxation_time

_CELLS = 320
# widest cell over s; the kernel is smooth, so that a sum over points converges fast
_COARSE = 0.25
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
# beyond it the orders of the Bessel functions leave the doubles
MOST_DIMENSIONS = 300
# of ln z in the table of Bessel functions
_LOG_RANGE = (-20.0, 18.0)


def exact_log_bessel(order: float, z: np.ndarray) -> np.ndarray:
    """ln(I_order(z) e^{-z}) at z > 0, also where the scaled Bessel function underflows."""
    with np.errstate(divide="ignore"):
        out = np.log(ive(order, z))
    small = out < -600
    if small.any():
        z = z[small]
        power = order * np.log(z / 2) - gammaln(order + 1)
        out[small] = power + np.log(hyp0f1(order + 1, z**2 / 4)) - z
    return out


@lru_cache(maxsize=16)
def _bessel_table(order: float) -> interpolate.CubicSpline:
    """`exact_log_bessel` against ln z: a hundred times faster, to 1e-9."""
    t = np.linspace(*_LOG_RANGE, 12_001)
    return interpolate.CubicSpline(t, exact_log_bessel(order, np.exp(t)))


def log_bessel(order: float, z: np.ndarray) -> np.ndarray:
    """ln(I_order(z) e^{-z}) for z >= 0, from a table; a power of z below it."""
    t = np.log(np.maximum(z, 1e-300))
    inside = np.clip(t, *_LOG_RANGE)
    return _bessel_table(order)(inside) + np.where(
        t < inside, order * (t - inside), -(t - inside) / 2
    )


class RadialMetropolisOperator:
    """The chain x -> x + s N(0, 1) in d dimensions, accepted with min(1, e^{-beta dU(\\|x\\|)}).

    The angular sector l (degree of the spherical harmonics) has on r > 0 the kernel
    K_l(r, r') = s^-2 sqrt(r r') e^{-(r - r')^2 / 2 s^2} ive(d/2 - 1 + l, r r'/s^2)
    e^{-beta |U(r) - U(r')|/2} + R(r) delta(r - r'), ive the exponentially scaled Bessel I. The 1 is
    in l = 0 (radial modes: \\|x\\|, the energy); l = 1 holds x itself. Higher sectors relax faster
    in the potentials studied, and are there to check. At d = 1, l = 0, 1 are the even and odd
    sectors of the line and there are no others.

    Parameters
    ----------
    dimension : int
        d, 1 to 300.
    potential : Potential or callable
        U(r) at r >= 0; `Potential.high` is the radius of a ball, `low` is not used.
    jump : GaussianJump
        Standard deviation s of every coordinate of the jump.
    beta : float
        Inverse temperature, > 0.
    grid : Grid, optional
        Cells in r. Default: where r^(d-1) e^{-beta U} is above e^-40 of its maximum, at least 320
        cells, narrower than a sixth of s.

    Raises
    ------
    NotNormalisableError
        The potential does not confine.
    ValueError
        d outside its range, another jump law, beta not positive, U not a number, a jump too
        short for a dense matrix.

    Notes
    -----
    Kernel derived here from the rotation-invariant Gaussian; the problem is that of
    arXiv:2207.10488.
    """

    def __init__(
        self,
        dimension: int,
        potential: Potential | Callable[[np.ndarray], ArrayLike],
        jump: GaussianJump,
        beta: float = 1.0,
        grid: Grid | None = None,
    ) -> None:
        self.dimension = whole("dimension", dimension, 1, MOST_DIMENSIONS)
        if not isinstance(jump, GaussianJump):
            raise ValueError(
                f"jump must be a GaussianJump (isotropic, a product over coordinates), got {jump!r}"
            )
        outer = as_potential(potential)
        self.potential = Potential(lambda r: outer(np.abs(r)), 0.0, outer.high, outer.name)
        self.jump = jump
        self.beta = real("beta", beta, above=0)
        self.grid = self._automatic() if grid is None else grid
        grids.check(self.grid, self._effective(), jump, 1.0, _COARSE)
        if self.grid.low < 0:
            raise ValueError(f"grid.low must be >= 0, a radius; got {self.grid.low:.6g}")
        self._spectra: dict[tuple[int, int], np.ndarray] = {}
        self._rejected: dict[int, np.ndarray] = {}
        self._sup: Estimate | None = None

    def __repr__(self) -> str:
        return f"RadialMetropolisOperator({self.dimension}, {self.potential.name}, {self.jump})"

    def _effective(self) -> Potential:
        """-ln of the density of r: beta U - (d - 1) ln r."""

        def energy(r: np.ndarray) -> np.ndarray:
            return self.beta * self.potential(r) - (self.dimension - 1) * np.log(
                np.maximum(r, 1e-300)
            )

        return Potential(energy, 0.0, self.potential.high, self.potential.name)

    def _automatic(self) -> Grid:
        low, high = grids.ends(self._effective(), 1.0)
        if self.dimension > 1:
            r = np.linspace(0, high, 4001)[1:]
            u = self._effective()(r)
            low = float(max(0.0, r[np.flatnonzero(u < u.min() + grids.DEPTH)[0]] - high / 4000))
        n = max(_CELLS, 4 * math.ceil(1.5 * (high - low) / self.jump.s))
        if n > grids.MOST_CELLS // 2:
            raise ValueError(
                f"jump: s = {self.jump.s:.3g} is too short for radii from {low:.4g} to {high:.4g}; "
                "at such jumps the relaxation is diffusion, 1 - Lambda proportional to s^2"
            )
        return Grid(low, high, n)

    # -- the matrix ---------------------------------------------------------------------------
    def _log_kernel(self, r: np.ndarray, other: np.ndarray, sector: int) -> np.ndarray:
        """ln of s^-2 sqrt(r r') e^{-(r - r')^2 / 2 s^2} ive(...)."""
        s = self.jump.s
        bessel = log_bessel(self.dimension / 2 - 1 + sector, r * other / s**2)
        return 0.5 * np.log(r * other) - 2 * math.log(s) - (r - other) ** 2 / (2 * s**2) + bessel

    def matrix(self, sector: int = 0, n: int | None = None) -> np.ndarray:
        """K_l on the cells (n, n); n: those of the grid (default) or any other number."""
        sector = self._check_sector(sector)
        grid = Grid(self.grid.low, self.grid.high, self.grid.n if n is None else n)
        r = grid.points
        u = self.beta * self.potential(r)
        damping = np.abs(u[:, None] - u[None, :]) / 2 - math.log(grid.step)
        if grid.n not in self._rejected:
            weight = (self.dimension - 1) / 2 * np.log(r) - u / 2
            radial = self._log_kernel(r[:, None], r[None, :], 0) - damping
            accepted = np.exp(radial + weight[None, :] - weight[:, None]).sum(1)
            self._rejected[grid.n] = 1 - accepted
        kernel = np.exp(self._log_kernel(r[:, None], r[None, :], sector) - damping)
        kernel[np.diag_indices_from(kernel)] += self._rejected[grid.n]
        return kernel

    def _check_sector(self, sector: int) -> int:
        most = 1 if self.dimension == 1 else 1000
        return whole("sector", sector, 0, most)

    def _eigenvalues(self, n: int, sector: int) -> np.ndarray:
        if (n, sector) not in self._spectra:
            values = linalg.eigvalsh(self.matrix(sector, n), check_finite=False)
            self._spectra[n, sector] = values[np.argsort(-np.abs(values), kind="stable")]
        return self._spectra[n, sector]

    # -- what is asked ------------------------------------------------------------------------
    def spectrum(self, k: int = 10, sector: int = 0) -> np.ndarray:
        """The k eigenvalues of a sector of largest modulus on the grid, by decreasing modulus.

        Raises
        ------
        ValueError
            k outside 1..n, or sector negative (d = 1: above 1).
        """
        values = self._eigenvalues(self.grid.n, self._check_sector(sector))
        return values[: whole("k", k, 1, len(values))]

    def _level(self, sector: int) -> Level:
        index = 0 if sector else 1
        fine, coarse = self.grid, self.grid.coarser()

        def length(grid: Grid) -> float:
            values, vectors = linalg.eigh(self.matrix(sector, grid.n), check_finite=False)
            vector = vectors[:, np.argsort(-np.abs(values), kind="stable")[index]]
            return grid.step / float((vector**4).sum())

        return Level(
            fine=float(self._eigenvalues(fine.n, sector)[index]),
            coarse=float(self._eigenvalues(coarse.n, sector)[index]),
            ratio=fine.n / coarse.n,
            # a mode of the continuum shrinks with the cells
            bound=lambda: length(fine) > max(4 * fine.step, 0.9 * length(coarse)),
            name=f"l = {sector}",
        )

    def relaxation_eigenvalue(self, sector: int | None = None) -> Estimate:
        """Lambda, of one sector or the largest of l = 0 and 1; as in `MetropolisOperator`."""
        sectors = (0, 1) if sector is None else (self._check_sector(sector),)
        # far out the sphere is flat and the jump across it does not matter: the line's continuum
        tail = tail_continuum(self.potential, self.jump, self.beta, self.grid)
        levels = {s: self._level(s) for s in sectors}
        value = judge(list(levels.values()), self.max_rejection(), tail)
        shape = self.potential, self.jump, self.beta, self.grid
        if value.status == "isolated" and shallow(*shape, float(value)):
            best = max(levels, key=lambda s: levels[s].value)
            more = self.grid.n // 2
            grid = Grid(self.grid.low, self.grid.high + more * self.grid.step, self.grid.n + more)
            wide = RadialMetropolisOperator(
                self.dimension, self.potential, self.jump, self.beta, grid
            )
            return with_truncation(value, abs(wide._level(best).fine - levels[best].fine))
        return value

    def curves(self, quick: bool = False) -> dict[str, float]:
        """Lambda of l = 0 and 1 and the supremum of R ("rejection"); see `MetropolisOperator`."""
        n = self.grid.coarser().n
        out = {}
        for sector in (0, 1):
            quickly = float(abs(self._eigenvalues(n, sector)[1 - sector])) if quick else None
            out[f"l = {sector}"] = self._level(sector).value if quickly is None else quickly
        kind, band = tail_continuum(self.potential, self.jump, self.beta, self.grid)
        tails = {"continuum": band} if kind != "none" else {}
        return out | tails | {"rejection": float(self.max_rejection())}

    def relaxation_time(self, sector: int | None = None) -> Estimate:
        """-1 / ln Lambda, in steps; inf without a gap."""
        return relaxation_time(self.relaxation_eigenvalue(sector))

    def is_localised(self, sector: int | None = None) -> bool:
        """Whether Lambda is the supremum of R rather than an isolated eigenvalue."""
        return self.relaxation_eigenvalue(sector).status == "localised"

    def rejection(self, r: ArrayLike) -> np.ndarray:
        """R(r) = 1 - E min(1, e^{-beta (U(r') - U(r))}), r' the length after the jump.

        Raises
        ------
        ValueError
            A radius that is negative, not finite or beyond the wall.
        """
        r = np.asarray(r, dtype=np.float64)
        if not np.all(np.isfinite(self.potential(r))) or np.any(r < 0):
            raise ValueError("r must be finite, not negative, and inside the wall of the potential")
        flat = np.maximum(np.atleast_1d(r).ravel(), 1e-6 * self.jump.s)
        return 1 - self._accepted(flat, 0).reshape(r.shape)

    def _accepted(self, r: np.ndarray, order: int) -> np.ndarray:
        """E |jump|^order min(1, e^{-beta dU}) from radius r; order 0 or 2."""
        s, d = self.jump.s, self.dimension
        out = np.empty(len(r))
        for i, start in enumerate(r):
            mean = math.sqrt(start**2 + d * s**2)
            low, high = max(0.0, mean - 9.5 * s), min(mean + 9.5 * s, self.potential.high)
            middle = start if low < start < high else (low + high) / 2
            edges = np.append(np.linspace(low, middle, 25)[:-1], np.linspace(middle, high, 25))
            half = np.diff(edges)[:, None] / 2
            end = (edges[:-1, None] + half * (1 + _NODES)).ravel()
            log_w = self._log_kernel(np.full_like(end, start), end, 0)
            log_w += (d - 1) / 2 * np.log(end / start)
            rise = self.beta * (self.potential(end) - float(self.potential(start)))
            value = np.exp(log_w - np.maximum(rise, 0)) * (half * _WEIGHTS).ravel()
            if order == 2:
                # |x' - x|^2 at given lengths: r^2 + r'^2 - 2 r r' <cos>, by the Bessel ratio
                z = start * end / s**2
                cosine = np.exp(log_bessel(d / 2, z) - log_bessel(d / 2 - 1, z))
                value = value * (start**2 + end**2 - 2 * start * end * cosine)
            out[i] = value.sum()
        return out

    def max_rejection(self) -> Estimate:
        """Supremum of R over the radii, r = 0 and the limit far out included."""
        if self._sup is None:
            kind = growth(self.potential, self.grid.high, 1)
            far = far_rejection(self.jump, self.beta, *kind)
            self._sup = sup_rejection(self.rejection, 0.0, self.grid.high, far)[0]
        return self._sup

    def acceptance(self) -> Estimate:
        """Stationary probability that a jump is accepted."""
        return self._stationary(0)

    def esjd(self) -> Estimate:
        """Stationary mean square displacement per step, of all coordinates together."""
        return self._stationary(2)

    def _stationary(self, order: int) -> Estimate:
        averages = []
        for panels in (16, 32):
            edges = np.linspace(self.grid.low, self.grid.high, panels + 1)
            half = np.diff(edges)[:, None] / 2
            r = (edges[:-1, None] + half * (1 + _NODES)).ravel()
            u = self._effective()(r)
            weight = (half * _WEIGHTS).ravel() * np.exp(-(u - u.min()))
            keep = weight > 1e-17 * weight.max()
            averages.append(
                float(weight[keep] @ self._accepted(r[keep], order) / weight[keep].sum())
            )
        return Estimate(averages[1], abs(averages[1] - averages[0]) + 1e-10 * abs(averages[1]))

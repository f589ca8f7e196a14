"""Spectrum of the Metropolis master operator on the line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate
from thermolearn.systems.sampling.metropolis import grids
from thermolearn.systems.sampling.metropolis.accepted import accepted_moment
from thermolearn.systems.sampling.metropolis.binding import binding
from thermolearn.systems.sampling.metropolis.continuum import (
    far_rejection,
    shallow,
    sup_rejection,
    tail_continuum,
    with_truncation,
)
from thermolearn.systems.sampling.metropolis.grids import Grid
from thermolearn.systems.sampling.metropolis.jumps import Jump, cell_average, check_symmetric
from thermolearn.systems.sampling.metropolis.modes import Mode
from thermolearn.systems.sampling.metropolis.potentials import Potential, as_potential, growth
from thermolearn.systems.sampling.metropolis.verdict import Level, judge, relaxation_time

# "even" or "odd"
Parity = str
_SIGN = {"even": 1.0, "odd": -1.0}
# cells of an automatic grid (two parity blocks of half of them); without parity
_CELLS, _CELLS_WHOLE = 800, 600
# points of Gauss-Legendre per panel, panels of the stationary averages
_PANELS = 60


class MetropolisOperator:
    """The chain x -> x + y, y ~ w, accepted with min(1, e^{-beta (U(x + y) - U(x))}).

    With e^{beta U/2} taken out, one step is the self-adjoint operator
    K(x, x') = w(x - x') e^{-beta |U(x) - U(x')|/2} + R(x) delta(x - x'), R the probability of
    rejection. Its top eigenvalue is 1; Lambda, the largest \\|lambda\\| below it, is the rate of
    relaxation: deviations fall as Lambda^n. The values of R are a continuum of the spectrum: where
    its supremum is Lambda, errors localize at the maximum of R.

    Parameters
    ----------
    potential : Potential or callable
        U(x), vectorized.
    jump : Jump
        Symmetric law of the proposed jump (`UniformJump`, `GaussianJump`, ...).
    beta : float
        Inverse temperature, > 0.
    grid : Grid, optional
        Cells on which K is diagonalized. Default: ends where the density is e^-40 of its maximum
        (or the walls) and at least 800 cells (600 without a center of symmetry), narrower than
        a tenth of the jump's scale. The ends come from a scan of U: give a grid where a well far
        out is narrower than a hundredth of its distance from 0.

    Raises
    ------
    NotNormalisableError
        The potential does not confine, on the line or on the grid given.
    ValueError
        beta not positive, U not a number, an asymmetric jump law, a grid beyond the walls, a jump
        too short for a dense matrix.

    Warns
    -----
    UserWarning
        The grid is coarser than a tenth of the jump's scale.

    Notes
    -----
    The kernel is averaged over both cells, R is what makes every row of the chain sum to one; so
    the top eigenvalue is 1 to rounding, and the error of the others is a multiple of the squared
    step that the same operator on half the cells extrapolates away.

    References
    ----------
    Chepelianskii, Majumdar, Schawe, Trizac, arXiv:2207.10488. The extrapolation, the walls by
    missing mass, negative eigenvalues and the continuum of exponential tails are ours.
    """

    def __init__(
        self,
        potential: Potential | Callable[[np.ndarray], ArrayLike],
        jump: Jump,
        beta: float = 1.0,
        grid: Grid | None = None,
    ) -> None:
        self.potential = as_potential(potential)
        self.jump = jump
        self.beta = real("beta", beta, above=0)
        check_symmetric(jump)
        if grid is None:
            grid = grids.automatic(self.potential, jump, self.beta, _CELLS)
            if not self._mirrored(grid):
                grid = grids.automatic(self.potential, jump, self.beta, _CELLS_WHOLE)
        self.grid = grid
        self._u = {grid.n: grids.check(grid, self.potential, jump, self.beta)}
        self.symmetric = self._mirrored(grid)
        self._grids = {grid.n: grid, grid.coarser().n: grid.coarser()}
        self._spectra: dict[tuple[int, Parity | None], np.ndarray] = {}
        self._sup: Estimate | None = None
        self._peak = (math.nan, math.nan)

    def __repr__(self) -> str:
        return f"MetropolisOperator({self.potential.name}, {self.jump}, beta={self.beta:g})"

    # -- the matrix ---------------------------------------------------------------------------
    def _mirrored(self, grid: Grid) -> bool:
        u = self.beta * self.potential(grid.points)
        u = np.minimum(u - u.min(), 1e6)
        return bool(np.all(np.abs(u - u[::-1]) <= 1e-8 * (1 + np.abs(u))))

    def _energies(self, n: int) -> np.ndarray:
        if n not in self._u:
            u = self.beta * self.potential(self._grids[n].points)
            self._u[n] = u - u.min()
        return self._u[n]

    def matrix(self, parity: Parity | None = None, n: int | None = None) -> np.ndarray:
        """K on the cells (n, n), or on the right half of them in one parity sector (n/2, n/2).

        Parameters
        ----------
        parity : None, "even" or "odd"
        n : int, optional
            Cells: those of the grid (default) or of its coarser partner.

        Raises
        ------
        ValueError
            A sector of a potential that has none, or of an odd number of cells.
        """
        grid = self._grids[self.grid.n if n is None else n]
        self._check_parity(parity)
        u, h = self._energies(grid.n), grid.step
        lag = h * cell_average(self.jump, h * np.arange(grid.n), h)
        if parity is None:
            near = linalg.toeplitz(lag)
            mirror = np.zeros_like(near)
        else:
            half = grid.n // 2
            u = u[half:]
            near = linalg.toeplitz(lag[:half])
            mirror = lag[np.add.outer(np.arange(half), np.arange(half)) + 1]
        rise = u[None, :] - u[:, None]
        accept = np.exp(-np.maximum(rise, 0))
        rejected = 1 - ((near + mirror) * accept).sum(1)
        sign = _SIGN[parity] if parity else 0.0
        kernel = (near + sign * mirror) * np.exp(-np.abs(rise) / 2)
        kernel[np.diag_indices_from(kernel)] += rejected
        return kernel

    def _check_parity(self, parity: Parity | None) -> None:
        if parity is None:
            return
        if parity not in _SIGN:
            raise ValueError(f'parity must be None, "even" or "odd", got {parity!r}')
        if not self.symmetric:
            raise ValueError(
                f"parity: {self.potential.name} is not symmetric about the middle of the grid "
                f"{(self.grid.low + self.grid.high) / 2:.6g}; take parity=None"
            )
        if self.grid.n % 2:
            raise ValueError(f"parity needs an even number of cells, grid.n is {self.grid.n}")

    def _sectors(self, parity: Parity | None) -> tuple[Parity | None, ...]:
        """The blocks that make up what is asked for."""
        self._check_parity(parity)
        if parity is None and self.symmetric and self.grid.n % 2 == 0:
            return ("even", "odd")
        return (parity,)

    def _eigenvalues(self, n: int, sector: Parity | None) -> np.ndarray:
        """All eigenvalues of a block, by decreasing modulus."""
        if (n, sector) not in self._spectra:
            values = linalg.eigvalsh(self.matrix(sector, n), check_finite=False)
            self._spectra[n, sector] = values[np.argsort(-np.abs(values), kind="stable")]
        return self._spectra[n, sector]

    # -- what is asked ------------------------------------------------------------------------
    def spectrum(self, k: int = 10, parity: Parity | None = None) -> np.ndarray:
        """The k eigenvalues of largest modulus on the grid, the 1 included, by decreasing modulus.

        Those below the supremum of R stand for the continuum.

        Raises
        ------
        ValueError
            k outside 1..n, or a sector that does not exist.
        """
        parts = [self._eigenvalues(self.grid.n, s) for s in self._sectors(parity)]
        values = np.concatenate(parts)
        k = whole("k", k, 1, len(values))
        return values[np.argsort(-np.abs(values), kind="stable")][:k]

    def _level(self, sector: Parity | None) -> Level:
        """Lambda of a block on the grid and on its coarser partner."""
        index = 0 if sector == "odd" else 1
        fine, coarse = self.grid, self.grid.coarser()
        return Level(
            fine=float(self._eigenvalues(fine.n, sector)[index]),
            coarse=float(self._eigenvalues(coarse.n, sector)[index]),
            ratio=fine.n / coarse.n,
            bound=lambda: self.binding(sector) > 1.002,
            name=sector or "whole",
        )

    def _vector(self, grid: Grid, sector: Parity | None, index: int) -> np.ndarray:
        """Eigenvector of the whole grid (n,), unit Euclidean norm."""
        values, vectors = linalg.eigh(self.matrix(sector, grid.n), check_finite=False)
        vector = vectors[:, np.argsort(-np.abs(values), kind="stable")[index]]
        if sector is None:
            return vector
        return np.concatenate([_SIGN[sector] * vector[::-1], vector]) / math.sqrt(2)

    def binding(self, parity: Parity | None = None, coarse: bool = False) -> float:
        """Strength of the kernel at the supremum of R: a mode is bound above it iff above 1.

        The Birman-Schwinger count of `binding.binding`; without parity the larger of the
        sectors. inf: bound in any case; 0: never (the supremum is far out, or R is constant).
        Very long jumps tend to 1 in the even sector: every jump that is accepted is then a fresh
        draw, whose spectrum is R alone. coarse: on half the cells.
        """
        self.max_rejection()
        grid = self.grid.coarser() if coarse else self.grid
        if math.isnan(self._peak[0]):
            return 0.0
        return max(
            binding(
                self.potential, self.jump, self.beta, grid, self.rejection, self._peak,
                int(_SIGN[sector]) if sector else 0,
            )
            for sector in self._sectors(parity)
        )  # fmt: skip

    def relaxation_eigenvalue(self, parity: Parity | None = None) -> Estimate:
        """Lambda: supremum of \\|spectrum\\| below the eigenvalue 1, of all sectors or of one.

        Returns
        -------
        Estimate
            stderr: error of the discretization, from half the cells. status: "isolated" (an
            eigenvalue above the continuum), "localised" (the supremum of R: errors localize at
            its maximum), "continuum" (tails that grow linearly: waves that run in from afar) or
            "no gap" (slower growth: Lambda = 1, relaxation is not exponential).
        """
        levels = [self._level(s) for s in self._sectors(parity)]
        tail = tail_continuum(self.potential, self.jump, self.beta, self.grid)
        value = judge(levels, self.max_rejection(), tail)
        shape = self.potential, self.jump, self.beta, self.grid
        if value.status == "isolated" and shallow(*shape, float(value)):
            best = max(levels, key=lambda level: level.value)
            wide = self._wider()._level(best.name if best.name in _SIGN else None)
            return with_truncation(value, abs(wide.fine - best.fine))
        return value

    def _wider(self) -> MetropolisOperator:
        """The operator on half as many cells more, of the same width, at the open ends."""
        grid, more = self.grid, self.grid.n // 4
        low = grid.low if math.isfinite(self.potential.low) else grid.low - more * grid.step
        high = grid.high if math.isfinite(self.potential.high) else grid.high + more * grid.step
        n = round((high - low) / grid.step)
        return MetropolisOperator(self.potential, self.jump, self.beta, Grid(low, high, n))

    def curves(self, quick: bool = False) -> dict[str, float]:
        """Lambda of every sector, the supremum of R ("rejection") and of the tails ("continuum").

        quick: on the coarser grid, without extrapolation.
        """
        names = {sector or "whole": sector for sector in self._sectors(None)}
        if quick:
            n = self.grid.coarser().n
            out = {
                name: float(abs(self._eigenvalues(n, sector)[0 if sector == "odd" else 1]))
                for name, sector in names.items()
            }
        else:
            out = {name: self._level(sector).value for name, sector in names.items()}
        kind, band = tail_continuum(self.potential, self.jump, self.beta, self.grid)
        tails = {"continuum": band} if kind != "none" else {}
        return out | tails | {"rejection": float(self.max_rejection())}

    def relaxation_time(self, parity: Parity | None = None) -> Estimate:
        """-1 / ln Lambda, in steps; inf without a gap."""
        return relaxation_time(self.relaxation_eigenvalue(parity))

    def is_localised(self, parity: Parity | None = None) -> bool:
        """Whether Lambda lies within 5e-4 of the supremum of R: errors localize at its maximum.

        Above the transition of the odd sector an even mode may stay bound at a gap that falls
        without closing (harmonic potential, uniform jumps: 4e-5 at a = 3.4); it is as narrow as
        that gap, and counted as localized.
        """
        return self.relaxation_eigenvalue(parity).status == "localised"

    def rejection(self, x: ArrayLike) -> np.ndarray:
        """R(x) = 1 - int w(y) min(1, e^{-beta (U(x + y) - U(x))}) dy, by quadrature.

        Raises
        ------
        ValueError
            A point that is not finite or lies beyond a wall.
        """
        x = np.asarray(x, dtype=np.float64)
        if not (np.all(np.isfinite(x)) and np.all(np.isfinite(self.potential(x)))):
            raise ValueError("x must be finite and between the walls of the potential")
        return 1 - self._moment(np.atleast_1d(x).ravel(), 0).reshape(x.shape)

    def _moment(self, x: np.ndarray, order: int, part: float = 1.0) -> np.ndarray:
        low, high = self.grid.low, self.grid.high
        return accepted_moment(
            x, self.potential, self.jump, self.beta, part * (high - low) / _PANELS, order,
            center=(low + high) / 2, size=high - low,
        )  # fmt: skip

    def max_rejection(self) -> Estimate:
        """Supremum of R over the domain, the limit far out included."""
        if self._sup is None:
            low, high = self.grid.low, self.grid.high
            far = max(
                far_rejection(self.jump, self.beta, *growth(self.potential, end, direction))
                for end, direction in ((low, -1), (high, 1))
            )
            self._sup, where = sup_rejection(self.rejection, low, high, far)
            center = (low + high) / 2
            if abs(where - center) < 0.1 * self.grid.step and self.symmetric:
                where = center
            self._peak = (where, float(self._sup))
            if math.isfinite(where):
                # |x|^k is not smooth at 0: shorter panels tell what the quadrature misses
                change = abs(
                    float(self._moment(np.array([where]), 0, 0.5)[0]) - 1 + float(self._sup)
                )
                self._sup = replace(self._sup, stderr=float(self._sup.stderr) + 2 * change)
        return self._sup

    def acceptance(self) -> Estimate:
        """Stationary probability that a jump is accepted."""
        return self._stationary(0)

    def esjd(self) -> Estimate:
        """Stationary mean square displacement per step, in squared units of x."""
        return self._stationary(2)

    def _stationary(self, order: int) -> Estimate:
        """Stationary mean of an accepted moment; stderr: change from half the panels."""
        coarse, fine = (self._average(order, panels) for panels in (_PANELS // 2, _PANELS))
        return Estimate(fine, abs(fine - coarse) + 1e-12 * abs(fine))

    def _average(self, order: int, panels: int) -> float:
        nodes, weights = np.polynomial.legendre.leggauss(6)
        edges = np.linspace(self.grid.low, self.grid.high, panels + 1)
        half = np.diff(edges)[:, None] / 2
        x = (edges[:-1, None] + half * (1 + nodes)).ravel()
        u = self.beta * self.potential(x)
        weight = (half * weights).ravel() * np.exp(-(u - u.min()))
        return float(weight @ self._moment(x, order) / weight.sum())

    def mode(self, k: int = 1, parity: Parity | None = None) -> Mode:
        """Eigenfunction phi = v e^{beta U/2} of the k-th eigenvalue by modulus, 0 being the 1.

        In the odd sector alone k = 0 is the slowest mode. Far out, where e^{beta U/2} amplifies
        rounding, phi comes from one step of the chain: (lambda - R) phi = int w min(1, ...) phi.

        Raises
        ------
        ValueError
            k outside 0..n - 1, or a sector that does not exist.
        """
        sectors = self._sectors(parity)
        values = [
            (value, sector, i)
            for sector in sectors
            for i, value in enumerate(self._eigenvalues(self.grid.n, sector))
        ]
        k = whole("k", k, 0, len(values) - 1)
        values.sort(key=lambda row: -abs(row[0]))
        eigenvalue, sector, index = values[k]
        v, u = self._vector(self.grid, sector, index), self._energies(self.grid.n)
        phi = v * np.exp(u / 2)
        chain = self.matrix() * np.exp(-np.subtract.outer(u, u).T / 2)
        stay = np.diag(chain)
        known = (chain - np.diag(stay)) @ phi / (eigenvalue - stay)
        phi = np.where(u > 8, known, phi)
        weight = np.exp(-u) / np.exp(-u).sum()
        phi = phi / math.sqrt(float(weight @ phi**2))
        bulk = np.flatnonzero(u < 1)[-1]
        return Mode(float(eigenvalue), self.grid.points, phi * np.sign(phi[bulk]))

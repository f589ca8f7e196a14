"""Dual activations without a closed form: quadrature tabulated by Chebyshev series.

As functions of the angle theta = arccos(correlation) the averages are smooth on [0, pi], also for
kinked activations (as functions of the correlation they are not, at 1), and so they are, unless a
kink lies away from 0, of the two standard deviations: a short Chebyshev series in each replaces n^2
integrals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thermolearn.core.activation import Activation
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.progress import track
from thermolearn.predict.kernels import dual as _dual
from thermolearn.predict.kernels.plane import (
    ACCURACY,
    COARSE,
    SPREAD,
    check,
    line_averages,
    on_grid,
    plane_averages,
    unresolved,
)

RESOLVED = 5e-10  # tail of the series, relative to the least diagonal value
ANGLES, VARIANCES = (17, 33, 65, 129, 257), (8, 12, 18, 26, 36)  # terms that are tried
STEP = 0.25  # grid of the ends of a table, in asinh(sqrt q): blocks of one matrix share a table
KEPT = 8  # tables per activation
SAME = 1e-12  # difference in asinh(sqrt q) of variances that are one up to rounding
MOST_DIRECT = 4096  # pairs of a kinked activation and unlike variances, each by quadrature


@dataclass(frozen=True, eq=False)
class Table:
    """E phi phi and E phi' phi' for variances from low to high, as Chebyshev series.

    Attributes
    ----------
    low, high : float
        Range of asinh(sqrt q).
    bases : Tensor (2, terms, rank)
        Functions of the variance, for the two averages.
    series : Tensor (2, angles, rank, rank)
        Coefficients of T_c(2 theta / pi - 1) and a product of two such functions.
    """

    low: float
    high: float
    bases: tuple[Tensor, Tensor]
    series: tuple[Tensor, Tensor]

    def covers(self, low: float, high: float) -> bool:
        return self.low - SAME <= low and high <= self.high + SAME

    def __call__(self, q1: Tensor, q2: Tensor, theta: Tensor, which: int) -> Tensor:
        """Average number `which` (0: of phi, 1: of phi') at broadcastable variances and angles."""
        first, second = self._functions(q1, which), self._functions(q2, which)
        tau = theta * (2 / math.pi) - 1
        polynomials = torch.ones_like(tau), tau
        total: Tensor | None = None
        for core in self.series[which]:
            left = torch.tensordot(core, first, dims=1)
            product = left[0] * second[0]
            for a, b in zip(left[1:], second[1:], strict=True):
                product = torch.addcmul(product, a, b)
            term = polynomials[0] * product
            total = term if total is None else total.add_(term)
            polynomials = (
                polynomials[1],
                torch.addcmul(-polynomials[0], tau, polynomials[1], value=2),
            )
        assert total is not None
        return total

    def _functions(self, q: Tensor, which: int) -> Tensor:
        basis = self.bases[which]
        x = torch.asinh(q.sqrt())
        width = self.high - self.low
        x = ((2 * x - self.low - self.high) / width).clamp(-1, 1) if width else torch.zeros_like(x)
        rows = [torch.ones_like(x), x]
        for _ in range(2, len(basis)):
            rows.append(2 * x * rows[-1] - rows[-2])
        return torch.tensordot(basis.T, torch.stack(rows[: len(basis)]), dims=1)


def tabulated_averages(
    activation: Activation,
) -> tuple[
    _dual.PairAverage,
    Callable[[Tensor], tuple[Tensor, Tensor]],
    Callable[[Tensor], Tensor],
]:
    """The averages that make a `Dual`; tables are made when first needed and kept."""
    tables: list[Table] = []

    def table_for(low: float, high: float) -> Table:
        for table in tables:
            if table.covers(low, high):
                return table
        if high - low > SAME:
            low = max(math.floor(low / STEP) * STEP, low / 2)  # not 0: accuracy is relative
            high = math.ceil(high / STEP) * STEP
        else:
            low = high
        table = make_table(activation, low, high)
        tables.insert(0, table)
        del tables[KEPT:]
        return table

    def average(pair: _dual.Pair, slope: bool) -> tuple[Tensor, Tensor | None]:
        device = pair.k.device
        pair = _dual.Pair(*(v.cpu() for v in pair))
        theta, _ = _dual.angle(pair.s, pair.gap)
        theta, q1, q2 = torch.broadcast_tensors(theta, pair.q1, pair.q2)
        if not theta.numel():
            return torch.zeros_like(theta), torch.zeros_like(theta) if slope else None
        low, high = _range(pair.q1, pair.q2)
        if any(activation.kinks) and high - low > SAME:
            found = _one_by_one(activation, q1, q2, theta)
        else:
            table = table_for(low, high)
            found = [table(pair.q1, pair.q2, theta, which) for which in range(2 if slope else 1)]
        same = (theta == 0) & (q1 == q2)
        if bool(same.any()):
            for value, exact in zip(found, diagonal(q1[same]), strict=False):
                value[same] = exact
        return found[0].to(device), found[1].to(device) if slope else None

    def diagonal(q: Tensor) -> tuple[Tensor, Tensor]:
        square, slope_square, _ = line_averages(activation, q.cpu())
        return square.to(q.device), slope_square.to(q.device)

    def mean(q: Tensor) -> Tensor:
        return line_averages(activation, q.cpu())[2].to(q.device)

    return average, diagonal, mean


def _range(q1: Tensor, q2: Tensor) -> tuple[float, float]:
    """asinh(sqrt q) of the least and the largest variance."""
    least = min(float(q1.min()), float(q2.min()))
    largest = max(float(q1.max()), float(q2.max()))
    return math.asinh(math.sqrt(least)), math.asinh(math.sqrt(largest))


def _one_by_one(activation: Activation, q1: Tensor, q2: Tensor, theta: Tensor) -> list[Tensor]:
    """Both averages without a table: at theta = 0 a kink away from 0 makes them bend at q1 = q2."""
    if theta.numel() > MOST_DIRECT:
        raise NotApplicableError(
            f"activation {activation.name!r} has kinks away from z = 0 (at {activation.kinks}): "
            f"its averages over {theta.numel()} pairs of different variances are not tabulated; "
            "scale the inputs to one norm, or use an activation that is smooth or bends at 0 only"
        )
    s1, s2, angles = q1.flatten().sqrt(), q2.flatten().sqrt(), theta.flatten()
    fine = plane_averages(activation, s1, s2, angles)[:2]
    probe = slice(None, None, max(1, len(s1) // 8))
    coarse = plane_averages(activation, s1[probe], s2[probe], angles[probe], COARSE)
    one, two = (line_averages(activation, q.flatten()[probe]) for q in (q1, q2))
    for which in range(2):
        scale = (one[which] * two[which]).sqrt() + 1e-300
        check(activation, float(((fine[which][probe] - coarse[which]).abs() / scale).max()), 1.0)
    return [v.reshape(theta.shape) for v in fine]


# -- tables ------------------------------------------------------------------------------------
def make_table(activation: Activation, low: float, high: float) -> Table:
    """The table for asinh(sqrt q) from low to high, refined until its series end.

    Raises
    ------
    NotApplicableError
        A series does not end, or the table misses direct quadrature between its nodes, or two
        quadratures differ, by more than `ACCURACY`.
    """
    several = 3 if high > low else 1
    angles = _terms(activation, ANGLES, 0, lambda n: (low, high, n, several))
    variances = 1
    if high > low:
        variances = _terms(activation, VARIANCES, 1, lambda n: (low, high, 9, n))
    series = [_coefficients(v) for v in _at_nodes(activation, low, high, angles, variances)]
    compressed = [_compress(c) for c in series]
    table = Table(
        low, high,
        (compressed[0][0], compressed[1][0]), (compressed[0][1], compressed[1][1]),
    )  # fmt: skip
    _check_table(activation, table)
    return table


def _terms(
    activation: Activation,
    sizes: Sequence[int],
    axis: int,
    grid: Callable[[int], tuple[float, float, int, int]],
) -> int:
    """How many terms the series need in the angle (axis 0) or a variance (1)."""
    error = math.inf
    for n in sizes:
        values = _at_nodes(activation, *grid(n))
        # the last angle is next to 0: almost the diagonal
        scale = [float(v[-1].diagonal().abs().min()) + 1e-300 for v in values]
        error = max(_tail(_coefficients(v), axis) / d for v, d in zip(values, scale, strict=True))
        if error <= RESOLVED or (n == sizes[-1] and error <= ACCURACY):
            return n
    raise unresolved(activation, error, ("its series in the angle does not end", SPREAD)[axis])


def _nodes(n: int) -> Tensor:
    return torch.cos(math.pi * (torch.arange(n, dtype=torch.double) + 0.5) / n)


def _at_nodes(
    activation: Activation, low: float, high: float, angles: int, variances: int
) -> tuple[Tensor, Tensor]:
    """Both averages at Chebyshev nodes (angles, variances, variances)."""
    x = (low + high) / 2 + (high - low) / 2 * _nodes(variances)
    s, theta = torch.sinh(x), (_nodes(angles) + 1) * (math.pi / 2)
    i, j = torch.triu_indices(variances, variances)
    out = torch.empty(2, angles, variances, variances, dtype=torch.double)
    for here in track(range((angles + 1) // 2), f"averages of {activation.name}"):
        there = angles - 1 - here  # the node at pi - theta
        if any(activation.kinks):
            flat = plane_averages(activation, s[i], s[j], theta[here].expand(len(i)))
            for average, values in enumerate(flat):
                at = out[average % 2, (here, there)[average // 2]]
                at[i, j] = at[j, i] = values
        else:
            found = on_grid(activation, s, float(theta[here]))
            for average, matrix in enumerate(found):
                out[average % 2, (here, there)[average // 2]] = matrix
    return out[0], out[1]


def _coefficients(values: Tensor) -> Tensor:
    """Chebyshev coefficients in all three arguments."""
    for axis in range(3):
        n = values.shape[axis]
        k = torch.arange(n, dtype=torch.double)
        transform = torch.cos(math.pi * k[:, None] * (k + 0.5) / n) * (2 / n)
        transform[0] /= 2
        values = torch.tensordot(transform, values.movedim(axis, 0), dims=1).movedim(0, axis)
    return values


def _tail(series: Tensor, axis: int) -> float:
    """Largest of the last three coefficients in the angle (axis 0) or a variance (1)."""
    return float(series.narrow(axis, series.shape[axis] - 3, 3).abs().max())


def _compress(series: Tensor) -> tuple[Tensor, Tensor]:
    """Basis (terms, rank) and coefficients (angles, rank, rank), short of `RESOLVED` / 100."""
    n = series.shape[1]
    left, sizes, _ = torch.linalg.svd(series.permute(1, 0, 2).reshape(n, -1), full_matrices=False)
    basis = left[:, : max(1, int((sizes > RESOLVED / 100 * sizes[0]).sum()))]
    core = torch.einsum("cab,ar,bs->crs", series, basis, basis)
    needed = torch.nonzero(core.abs().amax((1, 2)) > RESOLVED / 100 * core.abs().max())
    last = int(needed[-1]) + 1 if len(needed) else 1
    return basis, core[:last]


def _check_table(activation: Activation, table: Table) -> None:
    """Between the nodes: the table and a coarser quadrature against direct quadrature."""
    share = torch.tensor([0.0, 0.07, 0.35, 0.61, 0.93, 1.0], dtype=torch.double)
    s = torch.sinh(table.low + (table.high - table.low) * share)
    theta = torch.tensor([1e-4, 0.04, 0.5, 1.4, 2.3, 3.1], dtype=torch.double)
    s1, s2, theta = (v.flatten() for v in torch.meshgrid(s[::2], s[1::2], theta, indexing="ij"))
    direct = plane_averages(activation, s1, s2, theta)
    coarse = plane_averages(activation, s1, s2, theta, COARSE)
    one, two = (line_averages(activation, v**2) for v in (s1, s2))
    for which in range(2):
        # pair by pair: that of two long inputs is no measure of an error between two short ones
        scale = (one[which] * two[which]).sqrt() + 1e-300
        found = table(s1**2, s2**2, theta, which)
        check(activation, float(((direct[which] - coarse[which]).abs() / scale).max()), 1.0)
        miss = float(((direct[which] - found).abs() / scale).max())
        check(activation, miss, 1.0, "its table misses that much between the nodes")

"""Energy and complexity against inverse temperature: Dyson equation and sampled networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito: told apart with any color vision, and in gray by their markers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH, SIGMA_W2, SIGMA_B2, ACTIVATION = 80, 2.25, 0.05, "tanh"


def figure(
    depths: Sequence[int] = (1, 4, 16), quick: bool = True, draws: int | None = None, seed: int = 0
) -> Figure:
    """U and C of random tanh networks of width 80 against beta, for several depths.

    Lines: `wide_limit`. Points: sampled networks by block elimination, mean and standard error
    over draws. Lower panels: their difference in standard errors. One set of draws serves all
    temperatures, so neighboring points move together; the theory is of leading order, and with
    many draws its corrections, of order 1 in U and C whatever the width, show up there.

    Parameters
    ----------
    depths : sequence of int
        Numbers of weight layers, each at least 1; up to six.
    quick : bool
        16 draws and 11 temperatures (seconds), else 64 and 21.
    draws : int, optional
        Networks per depth, at least 2, instead.
    seed : int
        Of the networks; draw k of a depth has seed ``seed + k``.

    Returns
    -------
    matplotlib Figure
        Not shown and not registered with pyplot.

    Raises
    ------
    ValueError
        Depths or draws out of range.
    """
    from matplotlib.figure import Figure

    draws = (16 if quick else 64) if draws is None else draws
    if not 1 <= len(depths) <= len(COLORS) or min(depths) < 1:
        raise ValueError(f"depths must be 1 to {len(COLORS)} integers of at least 1: {depths!r}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2 to have an error bar, got {draws!r}")
    beta = np.logspace(-2, 3, 11 if quick else 21)
    page = Figure(figsize=(10, 6.2), layout="constrained")
    axes = page.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    for depth, color, marker in zip(depths, COLORS, MARKERS, strict=False):
        theory, sampled = _curves(depth, beta, draws, seed)
        _draw(axes, beta, theory, sampled, color, marker, depth)
    _decorate(axes, draws)
    page.suptitle(
        f"Random {ACTIVATION} networks of width {WIDTH} "
        rf"($\sigma_w^2={SIGMA_W2}$, $\sigma_b^2={SIGMA_B2}$, $|x_0|^2=n_0$)"
    )
    return page


def _curves(depth: int, beta: np.ndarray, draws: int, seed: int) -> tuple[Any, Any]:
    """Theory on a fine grid, and sampled Estimates at beta; rows are U and C."""
    import torch

    from thermolearn.measure.canonical.ensemble import CanonicalEnsemble
    from thermolearn.measure.canonical.random_network import sampled_network
    from thermolearn.measure.canonical.wide_networks import wide_limit

    widths = (WIDTH,) * (depth + 1)
    networks = [
        sampled_network(widths, SIGMA_W2, SIGMA_B2, ACTIVATION, seed=seed + k) for k in range(draws)
    ]
    blocks = [torch.cat(layer) for layer in zip(*networks, strict=True)]
    ensemble = CanonicalEnsemble(blocks, beta=1.0)
    ensembles = [ensemble.at(float(b)) for b in beta]
    sampled = [[e.average_loss for e in ensembles], [e.complexity for e in ensembles]]
    grid = np.concatenate([beta, np.geomspace(beta[0], beta[-1], 101)])
    limit = wide_limit(widths, SIGMA_W2, SIGMA_B2, ACTIVATION, grid)
    return (grid, limit.average_loss.value, limit.complexity.value), sampled


def _draw(
    axes: Any, beta: np.ndarray, theory: Any, sampled: Any, color: str, marker: str, depth: int
) -> None:
    grid, *curves = theory
    neurons = WIDTH * (depth + 1)
    label = f"{depth} weight layer{'s' if depth > 1 else ''}, N = {neurons}"
    for column, (curve, points) in enumerate(zip(curves, sampled, strict=True)):
        sign = -1.0 if column else 1.0  # C < 0 on a logarithmic axis
        value = np.array([float(p) for p in points])
        error = np.array([float(p.stderr) for p in points])
        upper, lower = axes[:, column]
        upper.plot(grid[len(beta) :], sign * curve[len(beta) :], color=color, lw=1.6)
        style: dict[str, Any] = {"color": color, "marker": marker, "ms": 5, "ls": "none"}
        upper.errorbar(beta, sign * value, error, mfc="white", capsize=2, label=label, **style)
        # without spread there is no residual: one layer at beta = 1 has U = N/4 in every network
        spread = error > 1e-12 * np.abs(value)
        residual = (value - curve[: len(beta)])[spread] / error[spread]
        lower.plot(beta[spread], residual, **style)


def _decorate(axes: Any, draws: int) -> None:
    (energy, complexity), residuals = axes
    energy.set(yscale="log", xscale="log", ylabel="average loss U (loss units)")
    complexity.set(yscale="log", ylabel="minus complexity, -C (nats)")
    energy.legend(title=f"lines: Dyson equation\npoints: {draws} networks", frameon=False)
    for axis in residuals:
        axis.axhspan(-2, 2, color="0.92", zorder=0)
        axis.axhline(0, color="0.5", lw=0.8, zorder=0)
        axis.set_xlabel(r"inverse temperature $\beta$ (1 / loss)")
        limit = max(4.0, 1.1 * max(abs(v) for v in axis.get_ylim()))
        axis.set_ylim(-limit, limit)
    residuals[0].set_ylabel("networks - theory\n(standard errors)")
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)

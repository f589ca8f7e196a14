"""Figures: Lambda against the jump length, localization, the best jump against dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr

from thermolearn.core.estimate import Estimate, jackknife, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.sampling.metropolis.chain import chains, drawer
from thermolearn.systems.sampling.metropolis.jumps import GaussianJump, UniformJump
from thermolearn.systems.sampling.metropolis.operator import MetropolisOperator
from thermolearn.systems.sampling.metropolis.params import Params
from thermolearn.systems.sampling.metropolis.potentials import harmonic
from thermolearn.systems.sampling.metropolis.radial import RadialMetropolisOperator
from thermolearn.systems.sampling.metropolis.simulation import simulate

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

EDGES = np.linspace(-4.5, 4.5, 46)
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2


def figure(quick: bool = True) -> Drawing:
    """Harmonic potential, d = 1: slowest mode of both parities, rejection at the minimum and
    acceptance against the jump length, for uniform and Gaussian jumps.

    Points: chains without knowledge of the operator, where a mode stands out of the continuum.

    Parameters
    ----------
    quick : bool
        6 seeds of 40 000 walkers per point, else 24 of 200 000.
    """
    from thermolearn.core.drawing import Drawing

    drawing = Drawing("Metropolis chains in a harmonic potential", columns=2, size=(11, 4.2))
    seeds, walkers = (6, 40_000) if quick else (24, 200_000)
    drawing.parameters = {"potential": "harmonic", "beta": 1.0, "walkers": walkers}
    panels = zip(drawing.axes[0], ("uniform", "gaussian"), ("half-width a", "width s"), strict=True)
    for ax, jump, name in panels:
        title = "Gaussian" if jump == "gaussian" else jump
        ax.set(
            xlabel=f"{name} of {title} jumps (standard deviations)",
            ylabel=r"eigenvalue $\Lambda$, probability",
        )
        best = 3.331 if jump == "uniform" else 2.217  # the curves have kinks there
        near = best + np.linspace(-0.3, 0.3, 7)
        lengths = np.union1d(np.linspace(0.4, 6, 15 if quick else 57), near)
        law = UniformJump if jump == "uniform" else GaussianJump
        operators = [MetropolisOperator(harmonic(), law(a)) for a in lengths]
        for color, parity in enumerate(("odd", "even")):
            values = [op.relaxation_eigenvalue(parity) for op in track(operators, f"{jump} jumps")]
            drawing.theory(ax, lengths, values, rf"$\Lambda$, {parity}", color, jump=jump)
        top = [op.max_rejection() for op in operators]
        accepted = [op.acceptance() for op in operators]
        drawing.theory(ax, lengths, top, "largest rejection probability", 2, "--", jump=jump)
        drawing.theory(ax, lengths, accepted, "acceptance", 3, ":", jump=jump)
        tried = np.array([0.6, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0])
        cases = [Params(walkers, jump=jump, length=float(a)) for a in tried]
        found = [[simulate(p, seed) for seed in range(seeds)] for p in cases]
        for color, key in ((0, "odd_eigenvalue"), (1, "even_eigenvalue"), (3, "acceptance")):
            _points(drawing, ax, tried, found, key, color, jump=jump)
        ax.set_ylim(0, 1.02)
    drawing.axes[0, 0].legend(frameon=False, fontsize=8, title="points: chains")
    return drawing


def _points(
    drawing: Drawing,
    ax: Any,
    x: np.ndarray,
    found: list[list[dict[str, Estimate]]],
    key: str,
    color: int,
    of: Callable[[Estimate], Estimate] = lambda value: value,
    **conditions: Any,
) -> None:
    """Means over seeds, of those places where no seed has doubts."""
    clear = np.array([all(s[key].status == "ok" for s in seeds) for seeds in found])
    means = [of(mean_estimate([float(s[key]) for s in seeds])) for seeds in found]
    kept = [m for m, good in zip(means, clear, strict=True) if good]
    if kept:
        drawing.simulation(ax, x[clear], kept, "", color, len(found[0]), **conditions)


def localization(quick: bool = True) -> Drawing:
    """What is left of a start at x = 1.5 after n steps: its width, and its shape.

    Lines: a Gaussian of width 0.5 propagated by the operator, with jumps below (a = 2) and beyond
    (a = 5) the transition. Points: the same from histograms of walkers, as long as the deviation
    stands out of their noise.

    Parameters
    ----------
    quick : bool
        8 seeds of 250 000 walkers, else 32 of 10^6.
    """
    from thermolearn.core.drawing import Drawing

    drawing = Drawing("Deviation from equilibrium after n steps", columns=2, size=(11, 4.2))
    left, right = drawing.axes[0]
    left.set(xlabel="steps n", ylabel="width of the deviation (units of x)", xscale="log")
    right.set(xlabel="x", ylabel=r"$|\delta P_n|$ of norm 1, a = 5")
    seeds, walkers = (8, 250_000) if quick else (32, 1_000_000)
    drawing.parameters = {"potential": "harmonic", "jump": "uniform", "start": 1.5, "blob": 0.5}
    steps = np.arange(1, 81)
    for color, a in enumerate((2.0, 5.0)):
        x, kept = deviations(a, 80)
        label = f"a = {a:g}"
        drawing.theory(left, steps, [width(x, kept[n]) for n in steps], label, color, a=a)
        counted = np.array([_counted(a, 6, walkers, s) for s in track(range(seeds), "walkers")])
        points = jackknife(lambda c: [width(CENTERS, h) for h in c.mean(0)], counted)
        drawing.simulation(left, steps[:6], points, "", color, seeds, a=a, walkers=walkers)
    for color, n in enumerate((5, 20, 80)):
        shape = np.abs(kept[n]) / np.abs(kept[n]).sum() / (x[1] - x[0])
        inside = np.abs(x) < 4
        drawing.theory(right, x[inside], shape[inside], f"n = {n}", color, a=5.0)
    left.legend(frameon=False, title="lines: operator, points: walkers")
    right.legend(frameon=False)
    return drawing


def deviations(a: float, steps: int, start: float = 1.5, blob: float = 0.5) -> tuple:
    """Grid x (N,) and P_n - P (steps + 1, N) of a Gaussian start; harmonic, uniform jumps."""
    operator = MetropolisOperator(harmonic(), UniformJump(a))
    x = operator.grid.points
    root = np.exp(-x * x / 4)
    root /= np.linalg.norm(root)
    matrix = operator.matrix()
    # symmetrized: P_n / sqrt(P); equilibrium is taken out at every step
    y = np.exp(-(((x - start) / blob) ** 2) / 2) / root
    y /= root @ y
    kept = []
    for _ in range(steps + 1):
        y = y - root * (root @ y)
        kept.append(root * y)
        y = matrix @ y
    return x, np.array(kept)


def width(x: np.ndarray, deviation: np.ndarray) -> float:
    """Root mean square of x under the modulus of the deviation."""
    size = np.abs(deviation)
    return float(np.sqrt((size @ (x * x)) / size.sum()))


def _counted(a: float, steps: int, walkers: int, seed: int) -> np.ndarray:
    """P_n - P in bins (steps, bins), from walkers that start as `deviations` does."""
    rng = np.random.default_rng((seed, 1))
    x = 1.5 + 0.5 * rng.standard_normal((walkers, 1))
    chain = chains(lambda y: -y * y / 2, x, drawer(UniformJump(a), 1), rng)
    rest = np.diff(ndtr(EDGES))
    counts = [np.histogram(next(chain).x, EDGES)[0] for _ in range(steps)]
    return np.array(counts) / walkers - rest


def best_jump(quick: bool = True) -> Drawing:
    """Gaussian target and jumps in two and ten dimensions: Lambda of the radial (l = 0) and the
    vector (l = 1) mode, and the acceptance, against ell = s sqrt(d). The best jump is where the two
    modes are equally slow; the bound by rejection at the origin (dashed) is far from it.

    Parameters
    ----------
    quick : bool
        11 lengths and 6 seeds, else 37 and 24.
    """
    from thermolearn.core.drawing import Drawing

    drawing = Drawing("Metropolis chains in a Gaussian target", columns=2, size=(11, 4.2))
    lengths, seeds = np.linspace(1.2, 3.0, 11 if quick else 37), 6 if quick else 24
    tried = np.array([1.3, 1.9, 2.4, 2.9])
    drawing.parameters = {"potential": "harmonic", "jump": "gaussian"}
    for ax, d, walkers, lag in zip(
        drawing.axes[0], (2, 10), (40_000, 12_000), (4, 12), strict=True
    ):
        ax.set(xlabel=rf"$\ell = s\sqrt{{d}}$, d = {d}", ylabel=r"d (1 - $\Lambda$), acceptance")
        jumps = [GaussianJump(ell / d**0.5) for ell in lengths]
        operators = [RadialMetropolisOperator(d, harmonic(), jump) for jump in jumps]
        cases = [
            Params(walkers, "harmonic", "gaussian", ell / d**0.5, 1.0, d, lag) for ell in tried
        ]
        found = [[simulate(p, s) for s in range(seeds)] for p in track(cases, f"d = {d}")]
        for color, (key, sector) in enumerate((("odd_eigenvalue", 1), ("even_eigenvalue", 0))):
            values = [op.relaxation_eigenvalue(sector) for op in track(operators, f"d = {d}")]
            gaps = [d * (1 - v) for v in values]
            drawing.theory(ax, lengths, gaps, rf"$d(1 - \Lambda)$, l = {sector}", color, d=d)
            _points(drawing, ax, tried, found, key, color, lambda v, d=d: d * (1 - v), d=d)
        bound = [d * (1 - op.max_rejection()) for op in operators]
        shown = np.array([float(b) < 0.8 for b in bound])
        kept = [b for b, s in zip(bound, shown, strict=True) if s]
        drawing.theory(ax, lengths[shown], kept, "d (1 - R(0))", 2, "--", d=d)
        accepted = [op.acceptance() for op in operators[::2]]
        drawing.theory(ax, lengths[::2], accepted, "acceptance", 3, ":", d=d)
        _points(drawing, ax, tried, found, "acceptance", 3, d=d)
    drawing.axes[0, 0].legend(frameon=False, fontsize=8, title="points: chains")
    return drawing

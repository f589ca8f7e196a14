"""The canonical ensemble of a random deep network: Dyson equation against sampled networks.

The states of all neurons of a feed-forward net, linearized around the forward pass, have
G = (1 - J)^T (1 - J) and Z = (2 pi)^{N/2} det(1 + beta G)^{-1/2}. In the wide limit its spectrum,
average loss and complexity follow from one scalar equation per layer and slope.

References: V. Vanchurin, arXiv:2004.09280 (the ensemble); O. Ajanki, L. Erdos, T. Krueger,
arXiv:1506.05098 (the matrix Dyson equation). The wide limit of the ensemble is our own
combination of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.activation import resolve_activation
from thermolearn.core.checks import check_variances, check_widths, real, whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.canonical.ensemble import CanonicalEnsemble
from thermolearn.measure.canonical.random_network import sampled_network
from thermolearn.measure.canonical.wide_networks import wide_limit

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

ABOUT = {
    "title": "The canonical ensemble of a random deep network",
    "papers": ["arXiv:2004.09280", "arXiv:1506.05098"],
    "claims": [
        "The average loss U and the complexity C of a wide random network follow from a matrix "
        "Dyson equation before any training, at every temperature.",
        "The spectrum of G, saturated neurons included, follows from the same equation.",
        "Finite networks differ by a correction to U and C that does not grow with the width.",
    ],
    "axes": {"spectral_weight": "eigenvalue"},
    "size": "width",
    "sizes": (40, 80),
    # measured at widths 20, 40 and 80 with up to 4000 networks: width times deviation is constant
    "allowance": {
        "average_loss_per_neuron": (0.065, 1.0),
        "complexity_per_neuron": (0.04, 1.0),
        "spectral_weight": (0.2, 1.0),
    },
    "contrast": {"sigma_w2": 1.5},
    "seeds": 24,
    "figures": {"1": "figure"},
}

# Bins of the eigenvalues of G. No edge at 1, where narrow or dead layers put a point mass.
EDGES = (0.0, 0.1, 0.25, 0.5, 0.8, 1.25, 2.0, 4.0, np.inf)


@dataclass(frozen=True)
class Params:
    """A random feed-forward network with all layers of one width.

    Attributes
    ----------
    width : int
        Neurons per layer, the input included; at least 1. N = width (depth + 1).
    depth : int
        Weight layers, at least 1.
    sigma_w2, sigma_b2 : float
        Weight variance times fan-in, and bias variance; not negative.
    activation : str
        Name of the activation: linear, tanh, relu, erf, sigmoid, gelu, silu, ...
    beta : float
        Inverse temperature, in 1 / (unit of the loss); positive.
    q0 : float
        |x_0|^2 / width of the input; not negative.
    networks : int
        Networks that one seed averages over, at least 1.
    """

    width: int = 40
    depth: int = 3
    sigma_w2: float = 2.25
    sigma_b2: float = 0.05
    activation: str = "tanh"
    beta: float = 0.3
    q0: float = 1.0
    networks: int = 8

    def __post_init__(self) -> None:
        for name in ("width", "depth", "networks"):
            whole(name, getattr(self, name), 1)
        if not isinstance(self.activation, str):
            raise ValueError(f"activation must be a name, got {self.activation!r}")
        real("beta", self.beta, above=0)
        check_variances(self.sigma_w2, self.sigma_b2, self.q0)
        check_widths(self.widths)
        resolve_activation(self.activation)

    @property
    def widths(self) -> tuple[int, ...]:
        """n_0, ..., n_L."""
        return (self.width,) * (self.depth + 1)

    @property
    def n_neurons(self) -> int:
        """N, the input neurons included."""
        return self.width * (self.depth + 1)


def theory(p: Params) -> dict[str, Estimate]:
    """Leading order in the width, from the matrix Dyson equation.

    Parameters
    ----------
    p : Params

    Returns
    -------
    dict of Estimate
        average_loss_per_neuron : U / N, U = 1/2 tr G (1 + beta G)^{-1}, units of the loss.
        complexity_per_neuron : C / N, C = -1/2 log det (G + T), nats.
        spectral_weight : fraction of the eigenvalues of G between neighboring `EDGES`, (8,).

    Raises
    ------
    ValueError
        Variances whose forward pass diverges.
    ConvergenceError
        The Dyson equation did not reach its tolerance.
    """
    limit = wide_limit(p.widths, p.sigma_w2, p.sigma_b2, p.activation, p.beta, p.q0)
    inner = limit.cumulative(EDGES[1:-1])
    below = np.concatenate([[0.0], np.asarray(inner.value), [1.0]])
    error = np.concatenate([[0.0], np.asarray(inner.stderr), [0.0]])
    weight = Estimate(np.diff(below), error[1:] + error[:-1], note=inner.note)
    return {
        "average_loss_per_neuron": limit.average_loss / p.n_neurons,
        "complexity_per_neuron": limit.complexity / p.n_neurons,
        "spectral_weight": weight,
    }


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Mean over `p.networks` sampled networks, each evaluated exactly from singular values.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative; seeds share no network.

    Returns
    -------
    dict of Estimate
        The observables of `theory`; stderr between the networks of this seed (NaN for one).
    """
    first = seed * p.networks
    rows = [_one_network(p, first + k) for k in range(p.networks)]
    return {name: mean_estimate(np.array([row[name] for row in rows])) for name in rows[0]}


def _one_network(p: Params, seed: int) -> dict[str, Any]:
    blocks = sampled_network(p.widths, p.sigma_w2, p.sigma_b2, p.activation, p.q0, seed)
    ensemble = CanonicalEnsemble(blocks, p.beta, method="dense")
    return {
        "average_loss_per_neuron": float(ensemble.average_loss) / p.n_neurons,
        "complexity_per_neuron": float(ensemble.complexity) / p.n_neurons,
        "spectral_weight": np.asarray(ensemble.spectral_weight(EDGES).value),
    }


# -- the headline figure -----------------------------------------------------------------------
FIGURE = {"width": 80, "sigma_w2": 2.25, "sigma_b2": 0.05, "activation": "tanh"}


def figure(
    quick: bool = True, depths: Sequence[int] = (1, 4, 16), draws: int | None = None, seed: int = 0
) -> Drawing:
    """U and C of random tanh networks of width 80 against beta, for several depths.

    Lines: `wide_limit`. Points: sampled networks by block elimination, mean and standard error
    over draws. Lower panels: their difference in standard errors. One set of draws serves all
    temperatures, so neighboring points move together; the theory is of leading order, and with
    many draws its corrections, of order 1 in U and C whatever the width, show up there.

    Parameters
    ----------
    quick : bool
        16 draws and 11 temperatures (seconds), else 64 and 21.
    depths : sequence of int
        Numbers of weight layers, each at least 1; up to six.
    draws : int, optional
        Networks per depth, at least 2, instead.
    seed : int
        Of the networks; draw k of a depth has seed ``seed + k``.

    Raises
    ------
    ValueError
        Depths or draws out of range.
    """
    from thermolearn.core.drawing import Drawing

    draws = (16 if quick else 64) if draws is None else draws
    if not 1 <= len(depths) <= 6 or min(depths) < 1:
        raise ValueError(f"depths must be 1 to 6 integers of at least 1: {depths!r}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2 to have an error bar, got {draws!r}")
    beta = np.logspace(-2, 3, 11 if quick else 21)
    title = (
        f"Random {FIGURE['activation']} networks of width {FIGURE['width']} "
        rf"($\sigma_w^2={FIGURE['sigma_w2']}$, $\sigma_b^2={FIGURE['sigma_b2']}$, $|x_0|^2=n_0$)"
    )
    drawing = Drawing(title, columns=2, rows=2, size=(10, 6.2), sharex=True)
    drawing.parameters = {**FIGURE, "depths": list(depths), "first_seed": seed}
    _prepare(drawing.axes)
    for color, depth in enumerate(depths):
        theory_curves, sampled = _curves(depth, beta, draws, seed)
        _draw(drawing, beta, theory_curves, sampled, color, depth, draws)
    _finish(drawing.axes, draws)
    return drawing


def _curves(depth: int, beta: np.ndarray, draws: int, seed: int) -> tuple[Any, Any]:
    """Theory at beta and on a fine grid, and sampled Estimates at beta; rows are U and C."""
    import torch

    sizes = (FIGURE["width"],) * (depth + 1)
    law = (FIGURE["sigma_w2"], FIGURE["sigma_b2"], FIGURE["activation"])
    networks = [sampled_network(sizes, *law, seed=seed + k) for k in range(draws)]
    blocks = [torch.cat(layer) for layer in zip(*networks, strict=True)]
    ensemble = CanonicalEnsemble(blocks, beta=1.0)
    ensembles = [ensemble.at(float(b)) for b in beta]
    sampled = [[e.average_loss for e in ensembles], [e.complexity for e in ensembles]]
    grid = np.concatenate([beta, np.geomspace(beta[0], beta[-1], 101)])
    limit = wide_limit(sizes, *law, grid)
    return (grid, limit.average_loss.value, limit.complexity.value), sampled


def _draw(
    drawing: Drawing,
    beta: np.ndarray,
    theory_curves: Any,
    sampled: Any,
    color: int,
    depth: int,
    draws: int,
) -> None:
    grid, *curves = theory_curves
    fine = slice(len(beta), None)
    label = f"{depth} weight layer{'s' if depth > 1 else ''}, N = {FIGURE['width'] * (depth + 1)}"
    where = {"depth": depth, "width": FIGURE["width"]}
    for column, (curve, points) in enumerate(zip(curves, sampled, strict=True)):
        sign = -1.0 if column else 1.0  # C < 0 on a logarithmic axis
        value = np.array([float(p) for p in points])
        error = np.array([float(p.stderr) for p in points])
        upper, lower = drawing.axes[:, column]
        drawing.theory(upper, grid[fine], sign * curve[fine], label, color, **where)
        drawing.simulation(upper, beta, (sign * value, error), label, color, draws, **where)
        # without spread there is no residual: one layer at beta = 1 has U = N/4 in every network
        spread = error > 1e-12 * np.abs(value)
        z = (value - curve[: len(beta)])[spread] / error[spread]
        ones = np.ones(len(z))  # a bar is one standard error
        drawing.simulation(lower, beta[spread], (z, ones), label, color, draws, **where)


def _prepare(axes: Any) -> None:
    (energy, complexity), residuals = axes
    energy.get_gridspec().set_height_ratios((3, 1))
    energy.set(yscale="log", xscale="log", ylabel="average loss U (loss units)")
    complexity.set(yscale="log", xscale="log", ylabel="minus complexity, -C (nats)")
    for axis in residuals:
        axis.set_ylabel("networks - theory\n(standard errors)")
    for axis in axes.ravel():
        axis.set_xlabel(r"inverse temperature $\beta$ (1 / loss)")


def _finish(axes: Any, draws: int) -> None:
    (energy, complexity), residuals = axes
    points = energy.containers  # the lines would say everything twice
    energy.legend(
        handles=points, title=f"lines: Dyson equation\npoints: {draws} networks", frameon=False
    )
    for axis in (energy, complexity):
        axis.set_xlabel("")
    residuals[1].set_ylabel("")
    for axis in residuals:
        axis.axhspan(-2, 2, color="0.92", zorder=0)
        axis.axhline(0, color="0.5", lw=0.8, zorder=0)
        limit = max(4.0, 1.1 * max(abs(v) for v in axis.get_ylim()))
        axis.set_ylim(-limit, limit)

"""The headline figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.estimate import mean_estimate
from thermolearn.core.progress import track
from thermolearn.measure.relative_entropy import layer_relative_entropy
from thermolearn.systems.dynamics.relative_entropy.flow import relative_entropy_flow
from thermolearn.systems.dynamics.relative_entropy.params import Params
from thermolearn.systems.dynamics.relative_entropy.simulation import chain, networks

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

PHASES = (("ordered", 1.3), ("critical", 1.76095), ("chaotic", 2.5))


def figure(quick: bool = True) -> Drawing:
    """Ising models under decimation, and random tanh networks along depth in three phases.

    Left: divergence per spin against decimations, lines exact (1d) and truncated (2d), points
    from sampled chains. Middle: the two definitions per neuron against depth. Right: two inputs.

    Parameters
    ----------
    quick : bool
        6 seeds of networks of width 200, else 24 of width 400.
    """
    from thermolearn.core.drawing import Drawing

    drawing = Drawing(
        "Relative entropy along decimation and along depth", columns=3, size=(14, 4.2)
    )
    left, middle, right = drawing.axes[0]
    left.set(xlabel="decimations", ylabel="relative entropy per spin (nats)")
    middle.set(xlabel="layer", ylabel=r"$\frac{1}{2}\ln(q_\ell/q_0)$ per neuron (nats)")
    right.set(xlabel="layer", ylabel="two inputs, per neuron (nats)", yscale="log")
    seeds, width = (6, 200) if quick else (24, 400)
    _ising(drawing, left, seeds)
    for color, (phase, sigma_w2) in enumerate(track(PHASES, "networks")):
        p = Params(width=width, depth=20, sigma_w2=sigma_w2)
        found = [networks(p, seed) for seed in range(seeds)]
        layers = np.arange(1, p.depth + 1)
        for axis, kind in ((middle, "push"), (right, "two_input")):
            net = ("tanh", sigma_w2, p.sigma_b2, p.q0, p.depth)
            line = layer_relative_entropy(*net, kind.replace("_", "-"), p.c0)
            label = rf"{phase}, $\sigma_w^2={sigma_w2:g}$"
            points = mean_estimate(np.stack([f[kind].value for f in found]))
            drawing.theory(axis, layers, np.asarray(line.value)[1:], label, color, width=width)
            drawing.simulation(axis, layers, points, label, color, seeds, width=width)
    left.legend(frameon=False, fontsize=7)
    for axis in (middle, right):  # lines: mean field, points: networks
        axis.legend(handles=axis.containers, frameon=False, fontsize=8)
    return drawing


def _ising(drawing: Drawing, axis: Any, seeds: int) -> None:
    for color, kind in enumerate(("fill", "coupling")):
        flow = relative_entropy_flow("ising1d", 0.7, 6, kind)
        label = f"1d, K = 0.7, {'uniform fill-in' if kind == 'fill' else 'renormalized coupling'}"
        drawing.theory(axis, np.arange(7), flow.divergence, label, color, model="ising1d")
    fills = [chain(0.7, np.random.default_rng([seed, 1]))[1] for seed in range(seeds)]
    points = mean_estimate(np.stack(fills))
    drawing.simulation(axis, np.arange(1, 3), points, "1d, sampled", 0, seeds, model="ising1d")
    for color, K in ((2, 0.3), (3, 0.4)):
        flow = relative_entropy_flow("ising2d", K, 6)
        drawing.theory(
            axis,
            np.arange(7),
            flow.divergence,
            f"2d, K = {K}, truncated flow",
            color,
            linestyle="--",
            model="ising2d",
        )

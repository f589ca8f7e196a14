"""The network drawn as a stack of engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.estimate import format_with_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thermolearn.measure.temperature.heat_flow import HeatFlow

MOST = 24  # layers that can be told apart


def draw_engines(flow: HeatFlow, ax: Axes | None = None, between: Sequence[str] = ()) -> Any:
    """Draw the layers as boxes from input (bottom) to output (top), with Q_l, S_l and T_l.

    The bar in a box is the layer's share of the heat exchanged, |Q_l| / sum |Q|, hatched where
    the layer takes heat up. Conventions stand below.

    Parameters
    ----------
    flow : HeatFlow
        From `layer_heat`.
    ax : matplotlib Axes, optional
        Drawn into; otherwise a figure of its own is made.
    between : sequence of str
        What stands at the arrow above each layer, for example the efficiency of its activation.

    Returns
    -------
    matplotlib Figure
        The figure of `ax`, or the new one.

    Raises
    ------
    ValueError
        More than 24 layers.
    """
    n = len(flow.layers)
    if n > MOST:
        raise ValueError(f"{n} layers do not fit into one drawing; give a flow of at most {MOST}")
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure((6.4, 1.1 + 0.9 * n), layout="constrained").subplots()
    Q, dQ = np.asarray(flow.heat.value), np.broadcast_to(flow.heat.stderr, n)
    S, T = np.asarray(flow.entropy.value), np.asarray(flow.temperature.value)
    share = np.abs(Q) / max(float(np.abs(Q).sum()), 1e-300)
    for k, name in enumerate(flow.layers):
        _box(ax, k, float(share[k]), taken_up=bool(Q[k] < 0))
        heat = format_with_error(float(Q[k]), float(dQ[k]))
        local = f"$T$ = {T[k]:.3g}" if np.isfinite(T[k]) else "no initial entropy"
        text = f"{name}:  $Q$ = {heat},  $S$ = {S[k]:.4g} nats,  {local}"
        ax.text(0.02, k + 0.3, text, va="center", fontsize=9)
        _arrow(ax, k, between[k] if k < len(between) else "", last=k == n - 1)
    total = f"all:  $\\Delta E$ = {float(flow.energy_released):.4g}"
    ax.text(
        0.0, n + 0.25, f"{total},  closure {flow.closure:.1e},  "
        f"$T$ = {float(flow.global_temperature):.3g}", va="bottom", fontsize=9
    )  # fmt: skip
    said = (
        "bar: share of the heat;  $T_l = Q_l/S_l$ (loss per nat);  $S_l$ in scale-free coordinates"
    )
    ax.text(0.0, -0.45, said, va="top", fontsize=8, color="0.35")
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.75, n + 0.6))
    ax.axis("off")
    return ax.figure


def _box(ax: Axes, k: int, share: float, taken_up: bool) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((0, k), 1, 0.6, fill=False, ec="0.3", lw=1.0))
    ax.add_patch(
        Rectangle(
            (0, k), share, 0.6, fc="#56B4E9" if taken_up else "#E69F00", alpha=0.45, lw=0,
            hatch="//" if taken_up else None,
        )
    )  # fmt: skip


def _arrow(ax: Axes, k: int, text: str, last: bool) -> None:
    if not last:
        ax.annotate(
            "", (0.5, k + 1.0), (0.5, k + 0.6), arrowprops={"arrowstyle": "-|>", "color": "0.3"}
        )
    if text:
        ax.text(0.53, k + 0.8, text, va="center", fontsize=8, color="0.25")

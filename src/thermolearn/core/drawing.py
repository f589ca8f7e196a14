"""A figure that knows its numbers: what is drawn is also recorded, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: told apart with any color vision, and in gray by their markers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


class Drawing:
    """A matplotlib figure with theory as lines and simulation as points with error bars.

    Every number drawn is kept in `rows`, so that a figure can be stored with its data. Axis
    labels are taken at the moment of drawing: set them first.

    Parameters
    ----------
    title : str
        Above the panels; empty for none.
    columns, rows : int
        Panels.
    size : (float, float), optional
        Inches; by default 5.2 by 3.8 per panel.
    sharex : bool
        One horizontal axis per column.

    Attributes
    ----------
    figure : matplotlib Figure
        Not registered with pyplot, so that nothing pops up or leaks.
    axes : ndarray (rows, columns) of Axes
    rows : list of dict
        panel, kind ("theory", "simulation" or "map"), curve, x, y, stderr (z for a map), their
        labels, and the conditions given with the call; lower and upper where bars have two ends.
    parameters : dict
        What all curves have in common; stored with the rows.
    """

    def __init__(
        self,
        title: str = "",
        columns: int = 1,
        rows: int = 1,
        size: tuple[float, float] | None = None,
        sharex: bool = False,
    ):
        from matplotlib.figure import Figure

        self.figure = Figure(size or (5.2 * columns, 3.8 * rows), layout="constrained")
        self.axes: Any = self.figure.subplots(
            rows, columns, squeeze=False, sharex="col" if sharex else False
        )
        if title:
            self.figure.suptitle(title)
        for axis in self.axes.ravel():
            axis.spines[["top", "right"]].set_visible(False)
        self.rows: list[dict[str, Any]] = []
        self.parameters: dict[str, Any] = {}

    def theory(
        self,
        ax: Axes,
        x: ArrayLike,
        y: ArrayLike | Sequence[Estimate],
        label: str = "",
        color: int = 0,
        linestyle: str = "-",
        **conditions: Any,
    ) -> None:
        """Draw a line through (x, y) and record it; an error bar of y is recorded, not drawn.

        Raises
        ------
        ValueError
            x and y are not of one length.
        """
        value, stderr = _values_and_errors(y)
        position = _positions(x, value)
        ax.plot(position, value, linestyle, color=COLORS[color % 6], lw=1.6, label=label or None)
        self._record(ax, "theory", label, (position, value, stderr), conditions)

    def simulation(
        self,
        ax: Axes,
        x: ArrayLike,
        y: ArrayLike | Sequence[Estimate] | tuple[ArrayLike, ArrayLike],
        label: str = "",
        color: int = 0,
        seeds: int | None = None,
        interval: tuple[ArrayLike, ArrayLike] | None = None,
        marker: int | None = None,
        **conditions: Any,
    ) -> None:
        """Draw points with one-standard-error bars, or those of an interval, and record them.

        Parameters
        ----------
        y : sequence of Estimate, or (values, standard errors)
        seeds : int, optional
            How many seeds stand behind a point; recorded.
        interval : (lower, upper), optional
            Ends of the bars, drawn instead of the standard errors and recorded with them; for a
            quantity of bounded range, whose error is not symmetric.
        marker : int, optional
            Index into the markers; that of the color by default.

        Raises
        ------
        ValueError
            x, y and the interval are not of one length, or the interval leaves out a value.
        """
        value, stderr = _values_and_errors(y)
        position = _positions(x, value)
        ends = None if interval is None else _ends(interval, value)
        ax.errorbar(
            position,
            value,
            stderr if ends is None else np.array([value - ends[0], ends[1] - value]),
            ls="none",
            marker=MARKERS[(color if marker is None else marker) % 6],
            color=COLORS[color % 6],
            ms=5,
            mfc="white",
            capsize=2,
            label=label or None,
        )
        extra = {} if seeds is None else {"seeds": seeds}
        first = len(self.rows)
        self._record(ax, "simulation", label, (position, value, stderr), extra | conditions)
        if ends is not None:
            for row, lower, upper in zip(self.rows[first:], *ends, strict=True):
                row |= {"lower": float(lower), "upper": float(upper)}

    def map(
        self, ax: Axes, x: ArrayLike, y: ArrayLike, z: ArrayLike, label: str = "", **conditions: Any
    ) -> None:
        """Draw z (len(y), len(x)) as colors with a color bar; missing cells (NaN) stay gray.

        Raises
        ------
        ValueError
            z is not of that shape.
        """
        columns, lines = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        value = np.asarray(z, dtype=np.float64)
        if columns.ndim != 1 or lines.ndim != 1 or value.shape != (len(lines), len(columns)):
            raise ValueError(
                f"z must have the shape (len(y), len(x)), got {value.shape} for x {columns.shape} "
                f"and y {lines.shape}"
            )
        ax.set_facecolor("0.85")
        mesh = ax.pcolormesh(columns, lines, value, shading="nearest", rasterized=True)
        self.figure.colorbar(mesh, ax=ax, label=label)
        grid_x, grid_y = np.meshgrid(columns, lines)
        for cell_x, cell_y, cell in zip(grid_x.flat, grid_y.flat, value.flat, strict=True):
            self.rows.append(
                {
                    **self._place(ax, "map", label),
                    "x": float(cell_x),
                    "y": float(cell_y),
                    "z": float(cell),
                    **conditions,
                }
            )

    def _place(self, ax: Axes, kind: str, label: str) -> dict[str, Any]:
        return {
            "panel": list(self.axes.ravel()).index(ax),
            "kind": kind,
            "curve": label,
            "x_label": ax.get_xlabel(),
            "y_label": ax.get_ylabel(),
        }

    def _record(
        self,
        ax: Axes,
        kind: str,
        label: str,
        points: tuple[np.ndarray, np.ndarray, np.ndarray],
        conditions: dict[str, Any],
    ) -> None:
        place = self._place(ax, kind, label)
        for x, y, stderr in zip(*points, strict=True):
            point = {"x": float(x), "y": float(y), "stderr": float(stderr)}
            self.rows.append({**place, **point, **conditions})


def _positions(x: ArrayLike, value: np.ndarray) -> np.ndarray:
    position = np.asarray(x, dtype=np.float64)
    if position.ndim != 1 or position.shape != value.shape:
        raise ValueError(f"x has shape {position.shape}, y has shape {value.shape}")
    return position


def _ends(interval: tuple[ArrayLike, ArrayLike], value: np.ndarray) -> np.ndarray:
    ends = np.array(
        [np.broadcast_to(np.asarray(e, dtype=np.float64), value.shape) for e in interval]
    )
    if len(ends) != 2 or (ends[0] > value).any() or (ends[1] < value).any():
        raise ValueError("interval must be (lower, upper) with every value between its ends")
    return ends


def _values_and_errors(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors of Estimates, of a pair of arrays, or of plain numbers."""
    if isinstance(y, tuple) and len(y) == 2 and np.ndim(y[0]) == 1:
        value, stderr = (np.asarray(part, dtype=np.float64) for part in y)
        return value, np.broadcast_to(stderr, value.shape)
    if isinstance(y, Estimate):
        value = np.atleast_1d(np.asarray(y.value, dtype=np.float64))
        return value, np.broadcast_to(np.asarray(y.stderr, dtype=np.float64), value.shape)
    items = list(np.asarray(y, dtype=object).ravel()) if isinstance(y, np.ndarray) else list(y)
    value = np.array([float(item) for item in items])
    return value, np.array(
        [float(item.stderr) if isinstance(item, Estimate) else 0.0 for item in items]
    )

"""A drawing records what it draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from thermolearn.core.drawing import COLORS, Drawing
from thermolearn.core.estimate import Estimate


@pytest.fixture
def drawing() -> Drawing:
    drawing = Drawing("Title", columns=2, rows=2)
    for axis in drawing.axes.ravel():
        axis.set(xlabel="time $t$", ylabel="overlap $m$")
    return drawing


def test_panels(drawing: Drawing) -> None:
    assert drawing.axes.shape == (2, 2) and Drawing().axes.shape == (1, 1)
    assert tuple(drawing.figure.get_size_inches()) == (10.4, 7.6)
    assert tuple(Drawing(columns=2, size=(7, 3)).figure.get_size_inches()) == (7, 3)
    suptitle: Any = drawing.figure.get_suptitle()
    assert suptitle == "Title" and Drawing().figure.get_suptitle() == ""
    for number, axis in enumerate(drawing.axes.ravel()):
        drawing.theory(axis, [number], [1.0])
    assert [row["panel"] for row in drawing.rows] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="not in list"):
        drawing.theory(Drawing().axes[0, 0], [0.0], [1.0])


def test_panels_of_a_column_share_their_axis() -> None:
    drawing = Drawing(rows=2, columns=2, sharex=True)
    drawing.axes[0, 0].set_xlim(3, 5)
    assert drawing.axes[1, 0].get_xlim() == (3, 5) != drawing.axes[1, 1].get_xlim()


def test_a_line_is_what_is_recorded(drawing: Drawing) -> None:
    axis = drawing.axes[1, 0]
    drawing.theory(axis, [1, 2, 4], [0.5, 0.25, math.nan], "law", 1, "--", load=0.1, kind_of="a")
    (line,) = axis.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 4])
    np.testing.assert_array_equal(line.get_ydata(), [0.5, 0.25, math.nan])
    assert (line.get_color(), line.get_linestyle(), line.get_label()) == (COLORS[1], "--", "law")
    assert drawing.rows[0] == {
        "panel": 2,
        "kind": "theory",
        "curve": "law",
        "x_label": "time $t$",
        "y_label": "overlap $m$",
        "x": 1.0,
        "y": 0.5,
        "stderr": 0.0,
        "load": 0.1,
        "kind_of": "a",
    }
    assert len(drawing.rows) == 3 and math.isnan(drawing.rows[2]["y"])


def test_labels_are_those_at_the_moment_of_drawing(drawing: Drawing) -> None:
    axis = drawing.axes[0, 0]
    drawing.theory(axis, [0], [1])
    axis.set_ylabel("energy")
    drawing.theory(axis, [0], [1])
    assert [row["y_label"] for row in drawing.rows] == ["overlap $m$", "energy"]


@pytest.mark.parametrize(
    ("y", "stderr"),
    [
        ([Estimate(1.0, 0.1), Estimate(2.0, 0.2)], [0.1, 0.2]),
        ((Estimate(1.0, 0.1), Estimate(2.0, 0.2)), [0.1, 0.2]),
        (Estimate(np.array([1.0, 2.0]), np.array([0.1, 0.2])), [0.1, 0.2]),
        (Estimate(np.array([1.0, 2.0]), 0.3), [0.3, 0.3]),
        (([1.0, 2.0], [0.1, 0.2]), [0.1, 0.2]),
        ((np.array([1.0, 2.0]), 0.4), [0.4, 0.4]),
        (np.array([1.0, 2.0]), [0.0, 0.0]),
        (np.array([Estimate(1.0, 0.1), Estimate(2.0, 0.2)], dtype=object), [0.1, 0.2]),
        ([1, 2], [0.0, 0.0]),
        ((1.0, 2.0), [0.0, 0.0]),
        ([Estimate(1.0, 0.1), 2.0], [0.1, 0.0]),
        ([Estimate(1.0, math.nan), 2.0], [math.nan, 0.0]),
    ],
)
def test_points_of_every_kind(drawing: Drawing, y: Any, stderr: list[float]) -> None:
    axis = drawing.axes[0, 1]
    drawing.simulation(axis, (10, 20), y, "runs", 2, 8, n_spins=100)
    drawing.theory(axis, (10, 20), y)
    for rows, kind in ((drawing.rows[:2], "simulation"), (drawing.rows[2:], "theory")):
        assert [row["kind"] for row in rows] == [kind] * 2
        assert [row["x"] for row in rows] == [10, 20] and [row["y"] for row in rows] == [1, 2]
        np.testing.assert_array_equal([row["stderr"] for row in rows], stderr)
    assert all(row["seeds"] == 8 and row["n_spins"] == 100 for row in drawing.rows[:2])
    assert not {"seeds", "lower", "upper"} & set(drawing.rows[2])
    np.testing.assert_allclose(_bars(axis), np.array([[1, 2]]).T + np.outer(stderr, [-1, 1]))


def test_an_interval_in_place_of_the_standard_error(drawing: Drawing) -> None:
    axis = drawing.axes[0, 0]
    shares = [Estimate(0.5, 0.1), Estimate(1.0, 0.1)]
    drawing.simulation(axis, [1, 2], shares, interval=([0.4, 0.9], [0.6, 1.0]))
    np.testing.assert_allclose(_bars(axis), [[0.4, 0.6], [0.9, 1.0]])
    assert [(row["lower"], row["upper"]) for row in drawing.rows] == [(0.4, 0.6), (0.9, 1.0)]
    assert [row["stderr"] for row in drawing.rows] == [0.1, 0.1]
    for wrong in (([0.6, 0.9], [0.7, 1.0]), ([0.4, 0.9], [0.6, 0.95]), ([0.4] * 3, [1.0] * 3)):
        with pytest.raises(ValueError, match=r"interval|broadcast"):
            drawing.simulation(axis, [1, 2], shares, interval=wrong)
    assert len(drawing.rows) == 2


def test_a_map_in_long_form(drawing: Drawing) -> None:
    axis = drawing.axes[1, 1]
    z = np.array([[1.0, 2.0, 3.0], [4.0, math.nan, 6.0]])
    drawing.map(axis, [10, 20, 30], [0.1, 0.2], z, "overlap", load=0.02)
    assert len(drawing.rows) == 6
    for row in drawing.rows:
        value = z[[0.1, 0.2].index(row["y"]), [10, 20, 30].index(row["x"])]
        np.testing.assert_equal(row["z"], value)
        assert (row["panel"], row["kind"], row["curve"], row["load"]) == (3, "map", "overlap", 0.02)
    mesh: Any = axis.collections[0]
    assert np.ma.getmaskarray(mesh.get_array()).ravel().tolist() == [False] * 4 + [True, False]
    assert mesh.colorbar.ax.get_ylabel() == "overlap"
    assert axis.get_facecolor()[:3] == (0.85, 0.85, 0.85)  # what shows through a missing cell


@pytest.mark.parametrize("y", [[1.0, 2.0], ([1.0, 2.0], [0.1, 0.1]), np.ones((3, 2)), [1.0] * 4])
def test_shapes_that_do_not_match(drawing: Drawing, y: Any) -> None:
    for draw in (drawing.theory, drawing.simulation):
        with pytest.raises(ValueError, match="shape"):
            draw(drawing.axes[0, 0], [1, 2, 3], y)
    assert not drawing.rows and not drawing.axes[0, 0].get_lines()


def test_a_map_of_the_wrong_shape(drawing: Drawing) -> None:
    for z in (np.ones((3, 2)), np.ones(6), np.ones((2, 4))):
        with pytest.raises(ValueError, match=r"z must have the shape"):
            drawing.map(drawing.axes[0, 0], [1, 2, 3], [1, 2], z, "z")
    assert not drawing.rows


def test_nothing_reaches_pyplot() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    Drawing("Title", columns=2)
    assert plt.get_fignums() == before


def _bars(axis: Any) -> np.ndarray:
    """Lower and upper ends of the error bars, shape (points, 2)."""
    (container,) = axis.containers
    (bars,) = container.lines[2]
    # an error bar that is not known is an empty segment
    ends = [part[:, 1] if len(part) else [math.nan] * 2 for part in bars.get_segments()]
    return np.array(ends)


def test_markers_may_differ_where_colors_agree():
    drawing = Drawing()
    ax = drawing.axes[0, 0]
    drawing.simulation(ax, [1.0], ([1.0], [0.1]), color=2)
    drawing.simulation(ax, [2.0], ([1.0], [0.1]), color=2, marker=3)
    points = [container[0] for container in ax.containers]
    assert [p.get_marker() for p in points] == ["^", "D"]
    assert points[0].get_color() == points[1].get_color()
    assert len(drawing.rows) == 2 and "marker" not in drawing.rows[1]

"""SVG plots: well-formed, marks where the data are, nothing outside."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermolearn.report.plots import Trace, plot

SVG = "{http://www.w3.org/2000/svg}"


def draw(traces, **options):
    labels = {"key": "k", "title": "Title", "x_label": "step", "y_label": "loss"}
    svg = plot(traces, **{**labels, **options})
    return None if svg is None else ElementTree.fromstring(svg)


def marks(root, name):
    found = [e for e in root.iter(name) if "mark" in e.get("class", "").split()]
    return found


def coordinates(root):
    """All points of all marks."""
    points = [(float(e.get("cx")), float(e.get("cy"))) for e in marks(root, "circle")]
    for e in marks(root, "path"):
        path = e.get("d")
        numbers = re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)
        points += [(float(a), float(b)) for a, b in numbers]
        points += [(points[-1][0], float(v)) for v in re.findall(r"V(-?[\d.]+)", path)]
    return points


def test_points_lie_where_the_ticks_say():
    root = draw([Trace([0, 5, 10], [0, 1, 2], "a", "points", [0.1, 0.2, 0.1])])
    ticks = {
        e.text: float(e.get("y")) - 4 for e in root.iter("text") if e.get("text-anchor") == "end"
    }
    circles = marks(root, "circle")
    by_text = {c.get("cy"): c for c in circles}
    assert len(circles) == 3
    assert len(by_text) == 3
    zero, two = (next(v for k, v in ticks.items() if k in (str(t), f"{t}.0")) for t in (0, 2))
    assert float(circles[0].get("cy")) == pytest.approx(zero, abs=0.11)
    assert float(circles[1].get("cy")) == pytest.approx((zero + two) / 2, abs=0.11)
    bars = [e for e in marks(root, "path") if "bar" in e.get("class")]
    top, bottom = (float(v) for v in re.findall(r"[ V]([\d.]+)", bars[1].get("d")))
    assert abs(top - bottom) == pytest.approx(0.2 * (zero - two), abs=0.21)


def test_log_axes():
    root = draw([Trace([1, 10, 100], [1e-3, 1e-1, 1e1], "a", "points")], x_log=True, y_log=True)
    y = [float(c.get("cy")) for c in marks(root, "circle")]
    x = [float(c.get("cx")) for c in marks(root, "circle")]
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.2)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)


def test_step_line_band_range_and_rule():
    traces = [
        Trace([0, 1, 2], [3, 4], "steps", "step", color=1),
        Trace([0, 1, 2], [3, math.nan, 4], "gap", "line", [0.1, 0.1, 0.1], color=2),
        Trace([0, 1], [1, 2], "range", "range", high=[2, 3], color=3),
        Trace([], [5], "limit", "rule", color=4),
    ]
    root = draw(traces)
    kinds = [e.get("class") for e in marks(root, "path")]
    assert kinds.count("mark s1 stroke") == 1
    assert kinds.count("mark s2 stroke") == 2  # the line breaks at the missing value
    assert kinds.count("mark s2 area") == 2
    assert kinds.count("mark s3 area") == 1
    assert sum("dash" in e.get("class", "") for e in root.iter("path")) == 2  # and in the legend
    assert {"steps", "gap", "range", "limit"} <= {e.text for e in root.iter("text")}


@pytest.mark.parametrize("kind", ["points", "line"])
def test_bars_and_axis_of_a_share_end_at_one(kind):
    trace = Trace([0, 1, 2], [0.9, 0.95, 0.75], "a", kind, [0.3, 0.3, 0.01])
    free, share = draw([trace]), draw([trace], y_bounds=(0, 1))
    for root, top in ((free, 1.4), (share, 1.0)):
        labels = [float(e.text) for e in root.iter("text") if e.get("text-anchor") == "end"]
        assert max(labels) == top and min(labels) <= 0.6
    grid = [float(e.get("d").split()[1].split("H")[0]) for e in share.iter("path")
            if e.get("class") == "grid" and "H" in e.get("d")]  # fmt: skip
    at_one = min(b for _, b in coordinates(share))
    assert at_one == pytest.approx(min(grid))  # the bars end on the line of 1
    assert "0.95(30)" in " ".join(t.text for t in share.iter("title"))  # and the number stays


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_that_does_not_change(value):
    root = draw([Trace([0, 1], [value, value], "a", "points", [0.2, 0.0])], y_bounds=(0, 1))
    labels = [float(e.text) for e in root.iter("text") if e.get("text-anchor") == "end"]
    assert 0 <= min(labels) < max(labels) <= 1
    flat = draw([Trace([0, 1], [value, value], "a", "points")], y_bounds=(0, 1))
    labels = [float(e.text) for e in flat.iter("text") if e.get("text-anchor") == "end"]
    assert 0 <= min(labels) < max(labels) <= 1


def test_a_value_beyond_the_bounds_is_drawn_where_it_is():
    root = draw([Trace([0, 1], [0.5, 1.5], "a", "points")], y_bounds=(0, 1))
    labels = [float(e.text) for e in root.iter("text") if e.get("text-anchor") == "end"]
    assert max(labels) >= 1.5


def test_accessible_names_and_tooltips():
    root = draw([Trace([1], [2], "a", "points", [0.5])])
    ids = root.get("aria-labelledby").split()
    assert [root.find("title").get("id"), root.find("desc").get("id")] == ids
    assert "loss against step" in root.find("desc").text
    assert "a, 1: 2.00(50)" in [t.text for t in root.iter("title")]


def test_text_is_escaped():
    bad = "</svg><script>alert(1)</script>\"'&"
    svg = plot(
        [Trace([1, 2], [1, 2], bad, "points"), Trace([1], [1], "b")],
        key=bad, title=bad, x_label=bad, y_label=bad,
    )  # fmt: skip
    assert "<script" not in svg
    assert svg.count("</svg>") == 1
    root = ElementTree.fromstring(svg)
    assert root.find("title").text == bad


def test_nothing_to_draw():
    assert draw([]) is None
    assert draw([Trace([1], [math.nan])]) is None
    assert draw([Trace([1], [-1.0])], y_log=True) is None
    assert draw([Trace([], [1.0], kind="rule")]) is None
    assert draw([Trace([0, 1], [1, 2], kind="step")]) is None  # needs one edge more


def test_many_points_are_thinned_evenly_with_both_ends():
    n = 1000
    root = draw([Trace(np.arange(n), np.arange(n), "a", "points")])
    x = [float(c.get("cx")) for c in marks(root, "circle")]
    assert 50 <= len(x) <= 62
    assert np.ptp(np.diff(x)[:-1]) < 0.3
    assert len(str(draw([Trace(np.arange(10**5), np.sin(np.arange(10**5)))]))) < 50_000


def test_legend_entries_do_not_overlap():
    traces = [Trace([1], [k], f"a rather long legend entry {k}", "points") for k in range(5)]
    root = draw(traces, size=(380, 320))
    boxes = [
        (float(e.get("y")), float(e.get("x")), float(e.get("x")) + 7.2 * len(e.text))
        for e in root.iter("text")
        if (e.text or "").startswith("a rather")
    ]
    assert len(boxes) == 5
    for row in {b[0] for b in boxes}:
        inside = sorted(b[1:] for b in boxes if b[0] == row)
        assert all(a[1] <= b[0] for a, b in pairwise(inside))


numbers = st.lists(st.floats(), min_size=1, max_size=8)


@given(
    numbers,
    numbers,
    numbers,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["line", "points", "range"]),
    st.sampled_from([(-math.inf, math.inf), (0, 1)]),
)
@settings(deadline=None)
def test_marks_stay_inside_for_any_numbers(x, y, bar, x_log, y_log, kind, bounds):
    trace = Trace(x, y, "a", kind, [abs(b) for b in bar], high=y if kind == "range" else None)
    if len(bar) < min(len(x), len(y)):
        trace = Trace(x, y, "a", kind, high=y if kind == "range" else None)
    root = draw([trace], x_log=x_log, y_log=y_log, y_bounds=bounds)
    if root is None:
        return
    _, _, width, height = map(float, root.get("viewBox").split())
    for a, b in coordinates(root):
        assert 0 <= a <= width
        assert 0 <= b <= height

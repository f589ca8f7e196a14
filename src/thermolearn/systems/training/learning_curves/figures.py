"""The learning curves with their experiments, and what renormalization does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.predict.select import SphereTask, select_hyperparameters
from thermolearn.predict.simulate import simulate_gp_regression, simulate_truncation
from thermolearn.systems.training.learning_curves.networks import measure_networks
from thermolearn.systems.training.learning_curves.params import Params
from thermolearn.systems.training.learning_curves.theory import curves

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

# A cubic target in eight dimensions
TASK: dict[str, Any] = {"dim": 8, "target_power": (0.0, 0.5, 0.3, 0.2), "label_noise": 0.0}
LINES = {
    "self_consistent": ("self-consistent", 0, "-"),
    "equivalence_kernel": ("equivalence kernel", 1, "--"),
    "subleading": ("with first correction", 2, "--"),
    "renormalized": ("renormalized, degree <= 3", 3, ":"),
    "renormalized_subleading": ("renormalized, first correction", 4, ":"),
}


def figure(quick: bool = True) -> Drawing:
    """Test error against samples: ridge 2 on the left, none and trained networks on the right.

    ReLU tangent kernel of depth 4 on the sphere in 8 dimensions, target power .5, .3, .2 in
    degrees 1, 2, 3.

    Parameters
    ----------
    quick : bool
        30 data sets per point, up to 200 samples, 8 networks of width 256; otherwise 100 data
        sets, up to 400 samples, 20 networks of width 512.
    """
    from thermolearn.core.drawing import Drawing

    sizes = (25, 50, 100, 200) if quick else (25, 50, 100, 200, 400)
    datasets, width, nets = (30, 256, 8) if quick else (100, 512, 20)
    drawing = Drawing("Learning curves of a wide network", columns=2, size=(11, 4.4))
    drawing.parameters = {**TASK, "depth": 4, "activation": "relu", "kernel": "ntk"}
    for axis, noise in zip(drawing.axes[0], (2.0, 0.0), strict=True):
        p = Params(**TASK, noise=noise)
        axis.set(
            xlabel="samples N",
            ylabel="test error (target variance 1)",
            xscale="log",
            yscale="log",
            title=f"ridge {noise:g}",
        )
        _draw_theory(drawing, axis, p, sizes)
        points = [
            simulate_gp_regression(
                p.machine(), p.dim, p.target_power, n, noise, n_datasets=datasets
            ).test_error
            for n in sizes
        ]
        drawing.simulation(axis, sizes, points, "drawn data, GP regression", 0, datasets)
    right = drawing.axes[0, 1]
    small = [n for n in sizes if n <= 100]
    trained = measure_networks(Params(**TASK, noise=0.0), small, width, nets)
    drawing.simulation(
        right, small, [m.test_error for m in trained], f"trained networks, width {width}", 1, nets
    )
    for axis in drawing.axes[0]:
        axis.set_xticks(sizes, [str(n) for n in sizes])
        axis.set_yticks((0.05, 0.1, 0.2, 0.4, 0.8), ("0.05", "0.1", "0.2", "0.4", "0.8"))
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    return drawing


def _draw_theory(drawing: Drawing, axis: Any, p: Params, sizes: tuple[int, ...]) -> None:
    grid = np.unique(np.geomspace(sizes[0], sizes[-1], 40).round()).astype(int)
    found = curves(p, [int(n) for n in grid])
    for name, (label, color, style) in LINES.items():
        y = getattr(found, name)
        if np.isfinite(y).all():
            drawing.theory(axis, grid, y, label, color, style, noise=p.noise)


def renormalization(quick: bool = True) -> Drawing:
    """Regression with the degrees up to r only, against the full kernel on the same data.

    Left: mean-square difference of the predictions, with the noise renormalized and as it was;
    right: test errors, the line that of the full kernel by the self-consistent curve. 200 samples,
    no ridge, the kernel and target of `figure`.

    Parameters
    ----------
    quick : bool
        10 data sets, otherwise 60.
    """
    from thermolearn.core.drawing import Drawing

    degrees, n, datasets = (1, 2, 3, 4, 5, 6, 8), 200, 10 if quick else 60
    p = Params(**TASK, noise=0.0, n_samples=n)
    found = simulate_truncation(
        p.machine(), p.dim, p.target_power, n, 0.0, degrees, n_datasets=datasets
    )
    drawing = Drawing("Unresolved degrees act as noise", columns=2, size=(10, 4))
    drawing.parameters = {**TASK, "depth": 4, "activation": "relu", "kernel": "ntk", "n": n}
    left, right = drawing.axes[0]
    left.set(ylabel="mean-square difference from the full kernel", yscale="log")
    right.set(ylabel="test error (target variance 1)", ylim=(0, 0.6))
    for axis in (left, right):
        axis.set(xlabel="highest degree kept r")
    pairs = {
        "noise renormalized": ("difference", "test_error", 0),
        "noise as it was": ("bare_difference", "bare_test_error", 1),
    }
    for label, (difference, error, color) in pairs.items():
        for axis, name in ((left, difference), (right, error)):
            drawing.simulation(
                axis, degrees, [getattr(t, name) for t in found], label, color, datasets
            )
    full = curves(p, [n]).self_consistent[0]
    drawing.theory(right, degrees, np.full(len(degrees), full), "full kernel, theory", 2)
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    return drawing


def ranking(quick: bool = True) -> Drawing:
    """Predicted against measured test error of 36 networks and ridges, on the same data sets.

    Depth 2, 3, 4, 6, bias variance 0, .3, 1, ridge .01, .3, 3; the target of `figure`, 100
    samples, labels with noise of variance .2. The line is equality.

    Parameters
    ----------
    quick : bool
        20 data sets, otherwise 100.
    """
    from thermolearn.core.drawing import Drawing

    draws = 20 if quick else 100
    task = SphereTask(TASK["dim"], TASK["target_power"], 100, label_noise=0.2)
    ridges = (0.01, 0.3, 3.0)
    selection = select_hyperparameters(
        task, depth=(2, 3, 4, 6), sigma_b2=(0.0, 0.3, 1.0), noise=ridges
    )
    rows = selection.check(None, draws=draws).table()
    drawing = Drawing("36 networks ranked before training", size=(5.6, 4.6))
    drawing.parameters = {**TASK, "label_noise": 0.2, "n": 100, "kernel": "ntk"}
    axis = drawing.axes[0, 0]
    axis.set(xlabel="predicted test error", ylabel="measured test error, kernel regression")
    ends = np.array([rows[0]["predicted"], rows[-1]["predicted"]])
    drawing.theory(axis, ends, ends, "equality", 3)
    for color, noise in enumerate(ridges):
        some = [row for row in rows if row["noise"] == noise]
        x, y, bar = (
            np.array([row[k] for row in some]) for k in ("predicted", "measured", "stderr")
        )
        drawing.simulation(axis, x, (y, bar), f"ridge {noise:g}", color, draws, noise=noise)
    axis.legend(frameon=False)
    return drawing

"""Curvature along a run: what the Probe measures at every snapshot and at the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.measure.curvature.density import SpectralDensity, estimate_density
from thermolearn.measure.curvature.edge import both_ends, samples_of, stability_edge
from thermolearn.measure.curvature.eigenvalues import extreme_eigenvalues
from thermolearn.measure.curvature.hessian import Hessian, vectors_that_fit, window_hessian
from thermolearn.measure.curvature.slices import filter_normalized, slice_along
from thermolearn.measure.curvature.trace import estimate_traces
from thermolearn.measure.objective import trained_parameters
from thermolearn.measure.window import Run, Window

# Parameters times samples of one product, about 0.5 ms per million: what a summary may cost.
WORK = 3e9
LAYERS = 12  # of which a summary gives the largest eigenvalue
POINTS = 101  # of the recorded density
KEPT = 5  # eigenvalues at each end
DIRECTIONS = 8  # of which the rise at half a filter norm is the mean


class Curvature:
    """Curvature of the mean loss over the reference set, in the trained parameters.

    ``sharpness`` and ``lambda_min``: largest and smallest eigenvalue of the Hessian, the error the
    Lanczos residual; ``stability_edge``: the sharpness above which gradient descent with these
    settings diverges on a quadratic (SGD only; Cohen et al., arXiv:2103.00065);
    ``hessian_trace`` with its error over random probes, and ``layer_trace``, the same of each
    layer's diagonal block (names in ``window.names``). On at most 1024 samples, fewer for large
    models; a sequence counts as its length.

    Parameters
    ----------
    products : int
        Products with the Hessian for the traces of one snapshot; fewer for large models.
    """

    name = "curvature"

    def __init__(self, products: int = 12):
        self.products = products

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if nothing is trained or the model does not run."""
        hessian = _hessian(window)
        operator = hessian.operator()
        sharp, lowest = both_ends(
            hessian,
            window.generator("sharpness"),
            operator,
            most=hessian.affordable(64, 0.2 * WORK, least=16),
        )
        seed = window.generator("trace").initial_seed() % 2**31
        products = hessian.affordable(self.products, 0.02 * WORK, least=8)
        trace, layers = estimate_traces(hessian, products, seed, operator)
        window.names[self.name] = list(layers)
        return {
            "sharpness": sharp,
            "stability_edge": stability_edge(window.optimizer),
            "hessian_trace": trace,
            "lambda_min": lowest,
            "layer_trace": Estimate(
                np.array([e.value for e in layers.values()]),
                np.array([e.stderr for e in layers.values()]),
                note=trace.note,
            ),
        }

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """Densities at both ends of the run, eigenvalues and a loss slice at the last snapshot."""
        windows = {"first": run.first, "last": run.last}
        hessians = {when: _hessian(w) for when, w in windows.items()}
        hessian = hessians["last"]
        values: dict[str, Estimate] = {}
        tables: dict[str, Any] = {}
        notes: list[str] = []
        steps = hessian.affordable(240, 0.3 * WORK, least=0) // 4
        steps = min(steps, 60, vectors_that_fit(hessian.size))
        if steps >= 8 or hessian.size <= steps * 4:
            densities = {when: estimate_density(h, 4, steps) for when, h in hessians.items()}
            for when, density in densities.items():
                values[f"mean_eigenvalue_{when}"] = density.moment(1)
                values[f"near_zero_{when}"] = _near_zero(density)
            tables["density"], said = _density_table(densities)
            notes.append(said)
        else:
            notes.append(f"no spectral density: {hessian.note} would take too long or not fit")
        most = hessian.affordable(128, 0.2 * WORK, least=0)
        if most >= 2 * KEPT + 2:
            tables["eigenvalues"], status = _eigenvalue_table(hessian, most)
            notes += [status] if status else []
            tables["layers"] = _layer_table(hessian, most)
        _slices(run.last, values, tables, notes)
        row = {
            "kind": "summary",
            "quantity": self.name,
            "values": {n: e.to_dict() for n, e in values.items()},
            "tables": tables,
            "notes": notes,
        }
        return [row]


def _hessian(window: Window) -> Hessian:
    size = sum(p.numel() for p in trained_parameters(window.model).values())
    return window_hessian(window, samples_of(window.reference[1], size))


def _near_zero(density: SpectralDensity) -> Estimate:
    """Share of the eigenvalues within 1% of the largest |eigenvalue| around zero."""
    scale = 0.01 * max(abs(x) for x in density.range)
    e = density.share(-scale, scale)
    return Estimate(e.value, e.stderr, note=f"|lambda| < 1% of the largest; {density.note}")


def _density_table(densities: dict[str, SpectralDensity]) -> tuple[dict[str, Any], str]:
    """Both densities on one grid, and the words beside it."""
    width = max(d.default_width for d in densities.values())
    ends = np.array([(d.grid(2, width)[0], d.grid(2, width)[-1]) for d in densities.values()])
    x = np.linspace(ends[:, 0].min(), ends[:, 1].max(), POINTS)
    # no grid point may fall between the kernels
    width = max(width, float(x[1] - x[0]))
    found = {when: d.density(x, width) for when, d in densities.items()}
    columns, cells = ["eigenvalue"], [x]
    for when, e in found.items():
        columns += [when, f"{when} stderr"]
        cells += [np.asarray(e.value), np.asarray(e.stderr)]
    rows = [[_plain(v) for v in row] for row in zip(*cells, strict=True)]
    note = densities["last"].note
    said = f"Spectral density: {note}; each eigenvalue is a Gaussian of width {width:.3g}."
    return {"columns": columns, "rows": rows}, said


def _eigenvalue_table(hessian: Hessian, most: int) -> tuple[dict[str, Any], str]:
    found = extreme_eigenvalues(hessian, KEPT, most=most)
    rows = [
        [k + 1, _plain(a), _plain(ea), _plain(b), _plain(eb)]
        for k, (a, ea, b, eb) in enumerate(
            zip(
                np.asarray(found.largest.value),
                np.broadcast_to(found.largest.stderr, np.shape(found.largest.value)),
                np.asarray(found.smallest.value),
                np.broadcast_to(found.smallest.stderr, np.shape(found.largest.value)),
                strict=True,
            )
        )
    ]
    columns = ["rank", "largest", "largest stderr", "smallest", "smallest stderr"]
    status = "" if found.largest.status == "ok" else f"eigenvalues: {found.largest.status}"
    return {"columns": columns, "rows": rows}, status


def _layer_table(hessian: Hessian, most: int) -> dict[str, Any]:
    """Largest and smallest eigenvalue of each diagonal block."""
    rows = []
    share = max(12, most // max(len(hessian.layers), 1))
    for layer in list(hessian.layers)[:LAYERS]:
        found = extreme_eigenvalues(hessian, 1, layer, most=share)
        ends = [(float(e.value[0]), float(np.ravel(e.stderr)[0])) for e in _both(found)]  # type: ignore[index]
        rows.append([layer, hessian.block_size(layer), *(_plain(v) for end in ends for v in end)])
    columns = ["layer", "parameters", "largest", "largest stderr", "smallest", "smallest stderr"]
    return {"columns": columns, "rows": rows}


def _both(found: Any) -> tuple[Estimate, Estimate]:
    return found.largest, found.smallest


def _slices(
    window: Window, values: dict[str, Estimate], tables: dict[str, Any], notes: list[str]
) -> None:
    """Two filter-normalized lines and, if it is cheap, the plane between them."""
    size = sum(p.numel() for p in window.model.parameters())
    forward = size * len(window.reference[0]) / 3  # in units of a product
    try:
        lines = [filter_normalized(window.model, seed) for seed in (0, 1)]
    except ValueError as error:
        notes.append(f"no loss slice: {error}")
        return
    points = 21 if 42 * forward < 0.3 * WORK else 11
    if 2 * points * forward > 0.5 * WORK:
        notes.append("no loss slice: the model is too large for the summary's time")
        return
    found = [slice_along(window, [d], 1.0, points) for d in lines]
    first, second = (np.asarray(s.loss.value) for s in found)
    steps = found[0].steps
    rows = [[_plain(v) for v in row] for row in zip(steps, first, second, strict=True)]
    tables["loss_slice"] = {"columns": ["step", "direction 1", "direction 2"], "rows": rows}
    values["slice_rise"] = _rise(window)
    if 121 * forward < 0.3 * WORK:
        plane = slice_along(window, lines, 1.0, 11)
        heads = ["step", *(f"{v:.1f}" for v in plane.steps)]
        body = np.asarray(plane.loss.value)
        tables["loss_plane"] = {
            "columns": heads,
            "rows": [
                [float(s), *(_plain(v) for v in row)]
                for s, row in zip(plane.steps, body, strict=True)
            ],
        }
    notes.append(
        "Loss slices: random directions, each filter's change as large as the filter at step 1; "
        "biases and gains of normalization stay. They miss the few sharp directions in most cases."
    )


def _rise(window: Window) -> Estimate:
    """Mean of L(theta +- d/2) - L(theta) over random filter-normalized directions."""
    found = []
    for seed in range(DIRECTIONS):
        line = slice_along(window, [filter_normalized(window.model, seed)], 0.5, 3)
        below, center, above = np.asarray(line.loss.value)
        found.append(0.5 * (below + above) - center)
    note = f"mean and spread over {DIRECTIONS} directions at half a filter norm"
    return mean_estimate(np.array(found), note=note)


def _plain(v: Any) -> float | None:
    number = float(v)
    return number if math.isfinite(number) else None

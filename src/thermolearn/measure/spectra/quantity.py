"""Weight spectra along a run: what the Probe measures at every snapshot and at the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from thermolearn.core.estimate import Estimate
from thermolearn.measure.spectra.comparison import (
    SHUFFLES,
    Comparison,
    compare,
    rounding,
    squared_singular_values,
)
from thermolearn.measure.spectra.weights import (
    WeightSpectrum,
    entropy,
    matrices,
    stable_rank,
    weight_spectrum,
)
from thermolearn.measure.window import Run, Window

# Sums of m^2 n over n x m matrices, n >= m: about 20 ms at a snapshot, 3 s for a summary.
WORK_SNAPSHOT, WORK_SUMMARY = 2e8, 1e10
LAYERS = 40


class WeightSpectra:
    """Singular values of every weight matrix beside those of random entries.

    Arrays over the parameters with two axes or more (names in ``window.names``):
    ``edge_ratio``, largest singular value over the Marchenko-Pastur edge, its error the
    Tracy-Widom fluctuation; ``outliers``, how many lie significantly above the edge;
    ``stable_rank`` |W|_F^2/|W|^2; ``spectral_entropy`` of the shares of s^2, in nats. NaN where a
    matrix is too small (fewer than 8 singular values) or beyond the time of a snapshot.
    """

    name = "spectra"

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if no parameter has two axes."""
        found = matrices(window.model)
        window.names[self.name] = list(found)
        rows, affordable = [], _affordable(found, WORK_SNAPSHOT)
        for name, (tensor, transposed) in found.items():
            matrix = (tensor.detach().transpose(0, 1) if transposed else tensor.detach()).flatten(1)
            if name not in affordable or not bool(matrix.isfinite().all()):
                rows.append((math.nan,) * 5)
                continue
            squares = squared_singular_values(matrix.double())
            s = np.sqrt(squares[::-1])
            result = compare(squares, max(matrix.shape), rounding(matrix))
            rows.append((*_over_edge(s, result), stable_rank(s), entropy(s)))
        columns = np.array(rows).T
        left = len(found) - len(affordable)
        note = "NaN: fewer than 8 singular values" + (
            f", and {left} weights beyond the time of a snapshot" if left else ""
        )
        return {
            "edge_ratio": Estimate(columns[0], columns[1], note=note),
            "outliers": Estimate(columns[2], note=note),
            "stable_rank": Estimate(columns[3], note=note),
            "spectral_entropy": Estimate(columns[4], note=note),
        }

    def summarize(self, run: Run) -> list[dict[str, Any]]:
        """The verdict on each matrix at the first and the last snapshot."""
        names = list(matrices(run.last.model))
        chosen, notes = names[:LAYERS], []
        if len(names) > LAYERS:
            notes.append(f"the first {LAYERS} of {len(names)} weights")
        # resamples of the tail cost about 1 ms each
        resamples = max(20, min(100, 1000 // max(len(chosen), 1)))
        last, first = _verdicts(run.last, chosen, resamples), _verdicts(run.first, chosen, 20)
        rows = [_row(name, first[name], last[name]) for name in chosen]
        large = [name for name in chosen if last[name] is None]
        if large:
            notes.append(
                "not finite, or beyond the time of a summary (call weight_spectra): "
                + ", ".join(large[:5])
            )
        counts = [s.verdict for s in last.values() if s is not None]
        shares = {
            f"share_{word}": Estimate(
                sum(v in kinds for v in counts) / len(counts), n_eff=float(len(counts))
            )
            for word, kinds in (("random", ("random",)), ("heavy_tailed", ("heavy-tailed",)))
            if counts
        }
        notes.append(
            "A matrix without structure is called otherwise in about 2% of the cases. Heavy "
            "entries: the entries themselves are heavy-tailed or masked, and in random places "
            "give such a spectrum as well. The verdict is about the singular values, not about "
            "the quality of the model."
        )
        columns = [
            "weight", "rows", "columns", "first", "last", "largest over edge",
            "largest over edge stderr", "outliers", "bulk p", "alpha", "alpha stderr", "alpha p",
        ]  # fmt: skip
        return [
            {
                "kind": "summary",
                "quantity": self.name,
                "values": {n: e.to_dict() for n, e in shares.items()},
                "tables": {"weights": {"columns": columns, "rows": rows}},
                "notes": notes,
            }
        ]


def _affordable(found: dict[str, tuple[Tensor, bool]], work: float) -> set[str]:
    """Names of the weights, the cheapest first, whose decompositions fit into the work."""
    cost = {}
    for name, (tensor, transposed) in found.items():
        rows = tensor.shape[1 if transposed else 0]
        small = min(rows, tensor.numel() // rows)
        cost[name] = float(small) * tensor.numel()
    chosen, spent = set(), 0.0
    for name in sorted(cost, key=lambda n: cost[n]):
        spent += cost[name]
        if spent <= work:
            chosen.add(name)
    return chosen


def _over_edge(s: np.ndarray, found: Comparison) -> tuple[float, float, float]:
    """Largest over edge, its fluctuation, and the number of outliers."""
    if not found.edge > 0:
        return math.nan, math.nan, math.nan
    spread = 1.268 * found.edge_scale / found.edge
    return float(s[0]) / found.edge, spread, float(len(found.outliers))


def _verdicts(window: Window, names: list[str], resamples: int) -> dict[str, WeightSpectrum | None]:
    """Spectra by name, None where the matrix is too large."""
    weights = matrices(window.model)
    chosen = {n: weights[n] for n in names}
    affordable = _affordable(chosen, WORK_SUMMARY)
    shuffled = _affordable(chosen, WORK_SUMMARY / SHUFFLES)
    found: dict[str, WeightSpectrum | None] = {}
    for name in names:
        tensor, transposed = weights[name]
        tensor = tensor.detach().transpose(0, 1) if transposed else tensor.detach()
        finite = name in affordable and bool(tensor.isfinite().all())
        shuffles = SHUFFLES if name in shuffled else 0
        found[name] = (
            weight_spectrum(tensor, resamples=resamples, shuffles=shuffles) if finite else None
        )
    return found


def _row(name: str, first: WeightSpectrum | None, last: WeightSpectrum | None) -> list[Any]:
    if first is None or last is None:
        return [name, *(None,) * 11]
    tail = last.tail
    ratio = last.edge_ratio
    fitted = (tail.alpha.value, tail.alpha.stderr, tail.p_value.value) if tail else (None,) * 3
    cells = [ratio.value, ratio.stderr, len(last.outliers), last.bulk_p, *fitted]
    return [name, *last.shape, first.verdict, last.verdict, *(_plain(v) for v in cells)]


def _plain(v: Any) -> float | None:
    return None if v is None or not math.isfinite(float(v)) else float(v)

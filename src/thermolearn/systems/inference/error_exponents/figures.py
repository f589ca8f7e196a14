"""Figures: known tails, and trained networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from thermolearn.core.drawing import COLORS, Drawing
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.predict.exponents import ErrorExponents, TailProbability
from thermolearn.systems.inference.error_exponents.closed_form import (
    linear_detector,
    llr_detector,
)
from thermolearn.systems.inference.error_exponents.decisions import mean_above, ratio_above
from thermolearn.systems.inference.error_exponents.networks import TrainedDetector

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LN10 = math.log(10)


def known_tails(quick: bool) -> Drawing:
    """See `thermolearn.systems.inference.error_exponents.figure`."""
    from thermolearn.systems.inference.error_exponents import Params

    seeds, draws = (8, 4000) if quick else (24, 20_000)
    p = Params(threshold=0.0)
    drawing = Drawing("Error rates of an averaged score, Laplace noise shifted by 1", columns=2)
    rates, legendre = drawing.axes[0]
    rates.set(xlabel="observations n", ylabel="log10 of false alarm or miss")
    legendre.set(xlabel="threshold gamma (score)", ylabel="rate I (nats per observation)")
    lines, points = np.arange(4, 101, 4), (5, 10, 20, 40, 70, 100)
    detectors = {
        "log-likelihood ratio": (llr_detector(p.shift), 0.0, ratio_above),
        "linear": (linear_detector(p.shift), p.shift / 2, mean_above),
    }
    for color, (label, (detector, gamma, draw)) in enumerate(detectors.items()):
        exact = detector.false_alarm(lines, gamma).log10
        drawing.theory(rates, lines, exact, f"{label}, Lugannani-Rice", color)
        bound = detector.false_alarm(lines, gamma, "chernoff").log10
        drawing.theory(rates, lines, bound, f"{label}, exp(-n I)", color, linestyle=":")
        found = []
        for n in track(points, f"decisions on {label}"):
            rng = np.random.default_rng((n, color))
            at = Params(n_observations=n, shift=p.shift, draws=draws)
            mean = mean_estimate(np.array([float(draw(at, gamma, rng)) for _ in range(seeds)]))
            found.append(_log10(float(mean), float(mean.stderr)))
        drawing.simulation(rates, points, found, "", color, seeds)
        inside = np.linspace(-0.9, 0.9, 61) * p.shift + gamma
        zero, one = detector.rates(inside)
        drawing.theory(legendre, inside, zero.rate, f"{label}, I_0", color)
        drawing.theory(legendre, inside, one.rate, f"{label}, I_1", color, linestyle="--")
    rates.legend(frameon=False, title="points: simulation")
    legendre.legend(frameon=False)
    drawing.parameters = {"shift": p.shift, "draws": draws}
    return drawing


def trained_networks(quick: bool) -> Drawing:
    """See `thermolearn.systems.inference.error_exponents.trained`."""
    from thermolearn.systems.inference.error_exponents import trained_detector

    titles = {
        "laplace": "Laplace noise, 2-16-1",
        "digits_parity": "digits odd or even, noisy",
        "breast_cancer": "breast cancer, noisy",
    }
    points = (1, 2, 5, 10, 20, 50) if quick else (1, 2, 5, 10, 20, 50, 100, 200)
    drawing = Drawing("Trained networks as detectors", columns=3, size=(14, 4.2))
    for ax, (data, title) in zip(drawing.axes[0], titles.items(), strict=True):
        ax.set(xlabel="observations n", ylabel="log10 of false alarm or miss", title=title)
        detector = trained_detector(data, population=200_000 if quick else 2_000_000)
        gamma = 0.0 if data == "laplace" else float(detector.exponents.chernoff_point()[0])
        _draw_detector(drawing, ax, detector, gamma, points)
        ax.legend(frameon=False, title="points: fresh samples")
    return drawing


def _draw_detector(
    drawing: Drawing, ax: Axes, detector: TrainedDetector, gamma: float, points: tuple[int, ...]
) -> None:
    exponents: ErrorExponents = detector.exponents
    lines = np.unique(np.geomspace(1, points[-1], 24).astype(int))
    sides = (exponents.false_alarm, exponents.miss)
    measured = [detector.measure(n, gamma) for n in track(points, f"tilted draws, {detector.data}")]
    for color, (tail, name) in enumerate(zip(sides, ("false alarm", "miss"), strict=True)):
        found = tail(lines, gamma)
        bars = [Estimate(v, e / LN10) for v, e in zip(found.log10, found.log_stderr, strict=True)]
        flagged = sorted({text for text in map(str, found.status) if text != "ok"})
        drawing.theory(ax, lines, bars, f"{name}, calibrated", color, data=detector.data)
        low, high = (found.log10 + s * 1.96 * found.log_stderr / LN10 for s in (-1, 1))
        ax.fill_between(lines, low, high, color=COLORS[color], alpha=0.12, lw=0)
        tested: list[TailProbability] = [pair[color] for pair in measured]
        drawing.simulation(
            ax,
            points,
            [Estimate(float(t.log10), float(t.log_stderr) / LN10) for t in tested],
            "",
            color,
            data=detector.data,
            flags="; ".join(flagged),
        )
    ax.set_ylim(bottom=max(-14.0, ax.get_ylim()[0]))


def _log10(value: float, stderr: float) -> Estimate:
    return Estimate(math.log10(value), stderr / value / LN10)

"""Training against time, temperatures of the noise, distance of replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.schedules import GD, SGD, PersistentSGD, Schedule
from thermolearn.systems.training.sgd_noise.simulation import simulate

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing
    from thermolearn.measure.noise.response import EffectiveTemperature

SEEDS = 16
MANY = 96  # of the replicas: their distance differs by a tenth between data sets
KINDS = (("t_fast", "fast"), ("t_slope", "slope"), ("t_glob", "global"))


def figure(quick: bool = True) -> Drawing:
    """Overlap, norm and training loss against time: GD, SGD and persistent SGD.

    Squared hinge, alpha = 2, Delta = 0.5, lambda = 0.1, eta = 0.2, b = 0.3, tau = 1, from
    R0 = 1, m0 = 0.1. Lines: theory; points: simulation.

    Parameters
    ----------
    quick : bool
        400 weights and 10000 samples of the theory, else 2000 and 40000.
    """
    from thermolearn.core.drawing import Drawing

    d, n_mc, steps = (400, 10_000, 40) if quick else (2000, 40_000, 40)
    model = GaussianMixturePerceptron(2.0, 0.5, loss="hinge2")
    drawing = Drawing("Training on a Gaussian mixture", columns=3, size=(14, 4))
    drawing.parameters = {"alpha": 2.0, "Delta": 0.5, "weight_decay": 0.1, "loss": "hinge2"}
    names = (("overlap m", "m"), ("norm C(t, t)", "C"), ("training loss", "loss"))
    for ax, (label, _) in zip(drawing.axes[0], names, strict=True):
        ax.set(xlabel=r"time $\eta\,\times$ steps", ylabel=label)
    schedules = (
        ("GD", GD(0.2)),
        ("SGD, b = 0.3", SGD(0.2, 0.3)),
        (r"persistent SGD, b = 0.3, $\tau$ = 1", PersistentSGD(0.2, 0.3, 1.0)),
    )
    for color, (label, schedule) in enumerate(track(schedules, "training")):
        theory = model.dmft(schedule, 0.1, steps, n_mc, start=(1.0, 0.1), runs=4)
        found = simulate(model, d, schedule, 0.1, steps, seeds=SEEDS, start=(1.0, 0.1))
        shown = np.arange(color, steps + 1, 4)  # apart, where the curves coincide
        for ax, (_, name) in zip(drawing.axes[0], names, strict=True):
            line, points = (_along(result.estimate(name)) for result in (theory, found))
            drawing.theory(ax, theory.times, line, label, color)
            some = Estimate(np.asarray(points.value)[shown], np.asarray(points.stderr)[shown])
            drawing.simulation(ax, found.times[shown], some, "", color, seeds=SEEDS, dimension=d)
    drawing.axes[0, 0].legend(frameon=False, title="lines: theory, points: simulation")
    return drawing


def _along(e: Estimate) -> Estimate:
    """The diagonal of a matrix; anything else as it is."""
    if np.ndim(e.value) < 2:
        return e
    return Estimate(np.diagonal(e.value), np.diagonal(np.asarray(e.stderr)))


class Setting(NamedTuple):
    """One point of the figure of temperatures."""

    alpha: float = 3.0
    rate: float = 0.1
    b: float = 0.5
    tau: float | None = None

    def schedule(self) -> Schedule:
        """SGD, or persistent SGD where tau is given."""
        if self.tau is None:
            return SGD(self.rate, self.b)
        return PersistentSGD(self.rate, self.b, self.tau)


def temperatures(quick: bool = True) -> Drawing:
    """Fast, slope and global temperature against batch, learning rate, load and persistence.

    Squared hinge, Delta = 1, lambda = 0.5; where it is not varied alpha = 3, eta = 0.1, b = 0.5.
    The last panel is persistent SGD. Crosses: theory, with lines between them; points: simulation,
    16 seeds.

    Parameters
    ----------
    quick : bool
        Three values per panel, 200 weights and times up to 7; else five, 1000 weights and times
        up to 15 (some minutes).
    """
    from thermolearn.core.drawing import Drawing

    drawing = Drawing("Temperature of the noise of SGD", columns=4, size=(18, 4.2))
    drawing.parameters = {"Delta": 1.0, "weight_decay": 0.5, "loss": "hinge2"}
    panels: list[tuple[str, str, list[float]]] = [
        ("batch fraction b", "b", [0.25, 0.4, 0.5, 0.6, 0.75]),
        (r"learning rate $\eta$", "rate", [0.08 if quick else 0.05, 0.08, 0.1, 0.13, 0.17]),
        (r"load $\alpha$", "alpha", [2.0, 2.5, 3.0, 4.0, 5.0]),
        (r"persistence $\tau$", "tau", [0.5, 0.75, 1.0, 1.5, 2.0]),
    ]
    if quick:
        panels = [(label, name, values[::2]) for label, name, values in panels]
    settings = [
        (panel, Setting(**{name: value}))
        for panel, (_, name, values) in enumerate(panels)
        for value in values
    ]
    found: dict[Setting, tuple[EffectiveTemperature, EffectiveTemperature]] = {}
    for setting in track(sorted({s for _, s in settings}, key=str), "temperatures"):
        found[setting] = _both(setting, quick)
    for panel, (label, _, values) in enumerate(panels):
        ax = drawing.axes[0, panel]
        ax.set(xlabel=label, ylabel="temperature", yscale="log")
        _plain_ticks(ax)
        ax.set_title(_kind(panel), fontsize=10)
        here = [found[s] for p, s in settings if p == panel]
        for color, (name, word) in enumerate(KINDS):
            lines, points = ([getattr(e[i], name) for e in here] for i in (0, 1))
            drawing.theory(ax, values, lines, word, color, "x-")
            drawing.simulation(ax, values, points, "", color, seeds=SEEDS)
    drawing.axes[0, 0].legend(frameon=False, title="crosses: theory, points: simulation")
    return drawing


def _kind(panel: int) -> str:
    """What is fixed in a panel of the temperatures, in its title."""
    fixed = ((3, 0.1, None), (3, None, 0.5), (None, 0.1, 0.5), (3, 0.1, 0.5))[panel]
    names = (r"$\alpha$", r"$\eta$", "b")
    values = [f"{n} = {v:g}" for n, v in zip(names, fixed, strict=True) if v is not None]
    return f"{'persistent SGD' if panel == 3 else 'SGD'}: {', '.join(values)}"


def _plain_ticks(ax: Any) -> None:
    """1, 2, 5 of every decade, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _both(setting: Setting, quick: bool) -> tuple[Any, Any]:
    """Temperatures of theory and simulation in a stationary window of time, eta times steps."""
    times, n_mc, d = ((3.0, 3.0, 7.0), 1500, 200) if quick else ((7.0, 4.0, 15.0), 2500, 1000)
    first, lag, steps = (round(time / setting.rate) for time in times)
    model = GaussianMixturePerceptron(setting.alpha, 1.0, loss="hinge2")
    schedule, start = setting.schedule(), (1.0, 0.5)
    theory = model.dmft(schedule, 0.5, steps, n_mc, start=start, runs=4)
    waiting = range(first, steps - lag + 1, 5)
    run = simulate(
        model,
        d,
        schedule,
        0.5,
        steps,
        seeds=SEEDS,
        start=start,
        waiting_times=waiting,
        lag=lag,
    )
    window = (first, steps)
    return theory.effective_temperature(window, lag=lag), run.effective_temperature(window)


def replicas(quick: bool = True) -> Drawing:
    """Distance of two replicas of one start with independent batches, where all samples fit.

    Squared hinge, alpha = Delta = 0.5, no weight decay, eta = 0.2, from R0 = 1, m0 = 0.1. Lines:
    theory; points: simulation, 96 seeds.

    Parameters
    ----------
    quick : bool
        500 weights and 20 steps, else 2000 and 40.
    """
    from thermolearn.core.drawing import Drawing

    d, steps, runs = (500, 20, 4) if quick else (2000, 40, 8)
    model = GaussianMixturePerceptron(0.5, 0.5, loss="hinge2")
    drawing = Drawing("Two replicas with independent batches", columns=2, size=(11, 4.2))
    drawing.parameters = {"alpha": 0.5, "Delta": 0.5, "weight_decay": 0.0, "loss": "hinge2"}
    panels: tuple[tuple[tuple[str, Schedule], ...], ...] = (
        tuple((f"SGD, b = {b:g}", SGD(0.2, b)) for b in (0.6, 0.3, 0.15)),
        (
            ("SGD, b = 0.3", SGD(0.2, 0.3)),
            (r"b = 0.3, $\tau$ = 1", PersistentSGD(0.2, 0.3, 1.0)),
            (r"b = 0.3, $\tau$ = 3", PersistentSGD(0.2, 0.3, 3.0)),
        ),
    )
    for ax in drawing.axes[0]:
        ax.set(xlabel=r"time $\eta\,\times$ steps", ylabel=r"$|w_1 - w_2|^2/d$", yscale="log")
    jobs = [
        (p, c, label, schedule)
        for p, rows in enumerate(panels)
        for c, (label, schedule) in enumerate(rows)
    ]
    known: dict[Schedule, tuple[Any, Any]] = {}
    for panel, color, label, schedule in track(jobs, "replicas"):
        if schedule not in known:
            known[schedule] = (
                model.dmft(schedule, 0.0, steps, replicas=2, start=(1.0, 0.1), runs=runs),
                simulate(model, d, schedule, 0.0, steps, seeds=MANY, replicas=2, start=(1.0, 0.1)),
            )
        theory, found = known[schedule]
        ax, shown = drawing.axes[0, panel], np.arange(2, steps + 1, 3)
        line, points = theory.distance, found.distance
        drawing.theory(ax, theory.times[1:], np.asarray(line.value)[1:], label, color)
        some = np.asarray(points.value)[shown], np.asarray(points.stderr)[shown]
        drawing.simulation(ax, found.times[shown], some, "", color, seeds=MANY, dimension=d)
    for ax in drawing.axes[0]:
        _plain_ticks(ax)
        ax.set_ylim(bottom=ax.get_ylim()[0] / 5)
        ax.legend(frameon=False, title="lines: theory, points: simulation", loc="lower left")
    return drawing

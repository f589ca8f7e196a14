"""From Pavlov's reflex to Hebb's rule: neurons and synapses that relax together.

Fast neurons and slow synapses both obey Langevin equations while patterns are shown, one after
the other. The synapses converge to the Hebb matrix, with a slope and a variance that follow from
the time scales; and a bell that is rung with the food comes to evoke the response to food.

References: E. Agliari, M. Aquaro, A. Barra, A. Fachechi, C. Marullo, arXiv:2204.07954 and
arXiv:2207.00790; the synaptic variance: D. Lotito, M. Aquaro, C. Marullo, arXiv:2405.03823. The
synaptic drift is taken linear; the corrections to slope and variance are our own.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.systems.memory.pavlov.conditioning import Acquisition, ConditioningExperiment
from thermolearn.systems.memory.pavlov.hebb import HebbRun, PavlovHebb
from thermolearn.systems.memory.pavlov.theory import HebbPrediction

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

__all__ = [
    "ABOUT",
    "Acquisition",
    "ConditioningExperiment",
    "HebbPrediction",
    "HebbRun",
    "Params",
    "PavlovHebb",
    "figure",
    "simulate",
    "theory",
]

ABOUT = {
    "title": "From Pavlov's reflex to Hebb's rule",
    "papers": ["arXiv:2204.07954", "arXiv:2207.00790", "arXiv:2405.03823"],
    "claims": [
        "Synapses that slowly follow the activity under K stimuli converge to the Hebb matrix; "
        "to first order the slope is 1 - (1 - 1/K) tau / T_present.",
        "In random order a synapse keeps fluctuating: its variance is "
        "gamma^2 (1 - J_H^2)(1 - e)/(1 + e), e = exp(-T_present / tau_syn).",
        "A bell rung together with the food comes to evoke the response, at a rate that the "
        "time scales fix; rung at another time it does not.",
    ],
    "axes": {"synaptic_variance": "hebb_coupling"},
    "size": "n_neurons",
    "sizes": (30, 60),
    "allowance": {},  # no correction was seen at 30, 60 and 120 neurons
    "contrast": {"T_present": 40.0},
    "seeds": 24,
    "figures": {"1": "figure"},
}


@dataclass(frozen=True)
class Params:
    """A Hebbian network and a reflex circuit; times in units of tau, the neurons' relaxation.

    Attributes
    ----------
    n_neurons : int
        Neurons of the network, and units of each population of the circuit; at least 2, and
        n_neurons (n_neurons - 1) 2^-patterns >= 10, lest a class of synapses be empty.
    patterns : int
        K, random patterns shown to the network, at least 2.
    beta : float
        Inverse temperature of the network's neurons, positive.
    h : float
        Strength of the stimuli of the network; above gamma, and beta h of 3 or more at 30
        neurons, or the theory is flagged: it takes many neurons, or saturated ones.
    gamma : float
        Synaptic gain of the network, positive.
    tau_syn : float
        Relaxation time of the synapses, above 1.
    T_present : float
        Duration of a presentation, a multiple of 0.2, at least 5.
    presentations : int
        Presentations per seed; must outlast the warm-up of 5 tau_syn.
    neuron_noise : float
        Variance of the noise of a single neuron, not negative.
    trials : int
        Paired trials of the circuit (10 on, 10 off), at least 1.
    """

    n_neurons: int = 30
    patterns: int = 4
    beta: float = 2.0
    h: float = 2.0
    gamma: float = 1.0
    tau_syn: float = 200.0
    T_present: float = 20.0
    presentations: int = 600
    neuron_noise: float = 0.0025
    trials: int = 20

    def __post_init__(self) -> None:
        for name, least in (("n_neurons", 2), ("patterns", 2), ("presentations", 1), ("trials", 1)):
            whole(name, getattr(self, name), least)
        if self.n_neurons * (self.n_neurons - 1) < 10 * 2**self.patterns:
            raise ValueError(
                f"patterns = {self.patterns} is too many for n_neurons = {self.n_neurons}: a class "
                "of synapses may be empty"
            )
        real("gamma", self.gamma, above=0)
        real("tau_syn", self.tau_syn, above=1)
        real("T_present", self.T_present, least=5)
        self.network()
        self.circuit()
        kept = self.presentations - 5 * self.tau_syn / self.T_present
        if kept < 2:
            raise ValueError(
                f"presentations = {self.presentations} must exceed the warm-up of 5 tau_syn = "
                f"{5 * self.tau_syn} by at least 2 presentations of T_present = {self.T_present}"
            )

    def network(self) -> PavlovHebb:
        """The Hebbian network."""
        return PavlovHebb(
            N=self.n_neurons,
            K=self.patterns,
            beta=self.beta,
            h=self.h,
            gamma=self.gamma,
            tau_syn=self.tau_syn,
            T_present=self.T_present,
            neuron_noise=self.neuron_noise,
        )

    def circuit(self) -> ConditioningExperiment:
        """The reflex circuit."""
        return ConditioningExperiment(
            tau_syn=self.tau_syn,
            population=self.n_neurons,
            neuron_noise=self.neuron_noise,
        )


def theory(p: Params) -> dict[str, Estimate]:
    """Large networks and populations; see `theory.predict` and `ConditioningExperiment.theory`.

    Returns
    -------
    dict of Estimate
        hebb_slope : slope of the mean synapse on the Hebb matrix.
        synaptic_variance : variance of J_ij over time, per class of |J^H_ij| (ascending).
        acquired_coupling : mean synapse from bell to response after the paired trials.
        bell_response : rate of the response, in [0, 1], to the bell alone after the trials.
    """
    hebb = p.network().theory()
    reflex = p.circuit().theory(trials=p.trials)
    return {
        "hebb_slope": hebb.slope,
        "synaptic_variance": hebb.variance,
        "acquired_coupling": Estimate(reflex.couplings[0, -1]),
        "bell_response": Estimate(reflex.responses[0, -1]),
    }


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Langevin dynamics of one network and one circuit; stderr of a single seed is not known."""
    run = p.network().run(p.presentations * p.T_present, seed)
    _, variance = run.variance_by_coupling()
    reflex = p.circuit().run(trials=p.trials, seeds=seed, tests=False)
    return {
        "hebb_slope": run.slope,
        "synaptic_variance": variance,
        "acquired_coupling": _last(reflex.couplings),
        "bell_response": _last(reflex.responses),
    }


def _last(rows: np.ndarray) -> Estimate:
    return Estimate(rows[0, -1], math.nan)


# -- the headline figure ---------------------------------------------------------------------
def figure(quick: bool = True) -> Drawing:
    """The acquired reflex, and slope and variance of the synapses against the presentation time.

    Left: response to the bell alone over 30 conditioning and 30 extinction trials, bell and food
    paired or unpaired; lines from the equations of large populations. Middle, right: the Hebbian
    network (30 neurons, 4 patterns, tau_syn = 200 tau, steps of 0.2 tau); dashed, the leading
    order in tau / T_present. Quick: 12 seeds, else 64.
    """
    from thermolearn.core.drawing import Drawing

    seeds = 12 if quick else 64
    circuit = ConditioningExperiment(neuron_noise=0.0025)
    drawing = Drawing("From Pavlov's reflex to Hebb's rule", columns=3, size=(14, 4.2))
    drawing.parameters = {"reflex": asdict(circuit), "synapses": asdict(PavlovHebb())}
    _draw_reflex(drawing, drawing.axes[0, 0], circuit, seeds // 2)
    _draw_synapses(drawing, drawing.axes[0, 1], drawing.axes[0, 2], seeds)
    for axis in drawing.axes.ravel():
        axis.legend(frameon=False)
    return drawing


def _draw_reflex(drawing: Drawing, axis: Any, circuit: ConditioningExperiment, seeds: int) -> None:
    axis.set(xlabel="trial", ylabel="response to the bell alone (rate)")
    cases = (("paired, then bell alone", True, 30, 0), ("unpaired", False, 0, 1))
    for label, paired, extinction, color in cases:
        expected = circuit.theory(paired, 30, extinction)
        measured = circuit.run(paired, 30, extinction, seeds=range(seeds))
        shown = slice(None, None, 4)
        drawing.theory(axis, expected.trial, expected.responses[0], f"{label}: theory", color)
        drawing.simulation(
            axis,
            measured.trial[shown],
            [mean_estimate(column) for column in measured.responses.T[shown]],
            f"{label}: 20 units, {seeds} seeds",
            color,
            seeds,
        )
    axis.axvline(30, color="0.8", lw=0.8, zorder=0)
    axis.set_ylim(-0.03, 1.3)


def _draw_synapses(drawing: Drawing, slope_axis: Any, variance_axis: Any, seeds: int) -> None:
    times = np.array([6.0, 10.0, 20.0, 40.0, 80.0])
    grid = np.round(np.geomspace(5, 100, 25) * 5) / 5  # multiples of dt
    runs = [PavlovHebb(T_present=t).run(6000.0, range(seeds)) for t in times]
    lines = [PavlovHebb(T_present=float(t)).theory() for t in grid]
    x_label = r"presentation time $T_p / \tau$"
    slope_axis.set(xlabel=x_label, ylabel="slope of J on the Hebb matrix", xscale="log")
    variance_axis.set(
        xlabel=x_label, ylabel="variance of a synapse over time", xscale="log", yscale="log"
    )
    where: dict[str, Any] = {"N": 30, "K": 4}
    for axis, exact, leading, points in (
        (slope_axis, [e.slope for e in lines], 1 - 0.75 / grid, [r.slope for r in runs]),
        (
            variance_axis,
            [e.mean_variance for e in lines],
            0.75 * np.tanh(grid / 400),
            [r.variance for r in runs],
        ),
    ):
        drawing.theory(axis, grid, exact, "theory", 0, **where)
        drawing.theory(
            axis, grid, leading, r"leading order in $\tau / T_p$", 2, linestyle="--", **where
        )
        drawing.simulation(axis, times, points, f"{seeds} seeds", 0, seeds, **where)

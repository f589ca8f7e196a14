"""The conditioned reflex: a bell that is rung with the food makes the dog salivate.

Three populations of n rate units in [0, 1]: A (hears the bell), B (smells the food), R (salivates).

    tau  dx = [(1 + tanh beta(J x / n + h stimulus - theta)) / 2 - x] dt + sqrt(2 tau T) dW
    tau' dJ_RA = [gamma x_R x_A - J_RA] dt,    J_RB = gamma innate,    all others 0

References: arXiv:2204.07954. The circuit is a minimal version of the reflex, our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.pavlov.parameters import check_step, steps_in, warn
from thermolearn.systems.memory.pavlov.simulation import advance

BELL, FOOD, SILENCE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)
BOTH = (1.0, 1.0, 0.0)
# Of a test, in units of tau: the first part is left out of the mean response.
TEST, SETTLING = 30.0, 10.0


@dataclass(frozen=True, eq=False)
class Acquisition:
    """Response to the bell alone and acquired coupling, after 0, 1, ..., n trials.

    Attributes
    ----------
    trial : ndarray (n + 1,)
        Conditioning trials, then extinction trials.
    responses, couplings : ndarray (S, n + 1)
        Mean x_R under the bell alone (learning off) and mean J_RA, one row per seed.
    conditioning : int
        How many of the trials are conditioning.
    """

    trial: np.ndarray
    responses: np.ndarray
    couplings: np.ndarray
    conditioning: int

    @property
    def response(self) -> Estimate:
        """Mean over seeds, array over trials; stderr between seeds (NaN for one)."""
        return mean_estimate(self.responses)

    @property
    def coupling(self) -> Estimate:
        """Mean over seeds, array over trials; stderr between seeds (NaN for one)."""
        return mean_estimate(self.couplings)


@dataclass(frozen=True)
class ConditioningExperiment:
    """Paired or unpaired presentations of bell and food, and a test with the bell alone.

    A paired trial is bell and food together for T_on, then silence for T_off. An unpaired trial
    has both, one at a time: bell, silence, food, silence. An extinction trial is the bell alone,
    then silence. The test starts from rest: the bell alone for 30 tau with learning off; the
    response is the mean of x_R over its last 20 tau.

    Parameters
    ----------
    beta, h, theta : float
        Inverse temperature of the response, strength of a stimulus, and threshold; positive.
    gamma : float
        Synaptic gain and innate coupling, positive.
    tau, tau_syn : float
        Relaxation times of neurons and synapses, positive.
    T_on, T_off : float
        Durations, multiples of dt.
    population : int
        Units n of each of the three populations, at least 1.
    neuron_noise : float
        T: the noise alone gives a unit the variance T.
    dt : float
        Time step, at most tau / 2; tau / 5 is advised.
    plastic : "reflex" or "all"
        Which synapses learn: only those from the bell to the reflex, or all but the innate ones.
        "all" is a trap: persistent activity bridges the silence, and the unpaired control
        associates as well.

    Raises
    ------
    ValueError
        A parameter out of range, dt > tau / 2 (unstable), or dt not dividing T_on or T_off.

    Warns
    -----
    UserWarning
        Time scales that are not separated: tau_syn <= tau or T_on < 5 tau.

    References
    ----------
    arXiv:2204.07954; the circuit is a minimal version of the reflex.
    """

    beta: float = 3.0
    h: float = 1.5
    theta: float = 0.6
    gamma: float = 2.0
    tau: float = 1.0
    tau_syn: float = 200.0
    T_on: float = 10.0
    T_off: float = 10.0
    population: int = 20
    neuron_noise: float = 0.0
    dt: float = 0.2
    plastic: str = "reflex"

    def __post_init__(self) -> None:
        whole("population", self.population, 1)
        for name in ("beta", "h", "theta", "gamma", "tau", "tau_syn", "T_on", "T_off", "dt"):
            real(name, getattr(self, name), above=0)
        real("neuron_noise", self.neuron_noise, least=0)
        if self.plastic not in ("reflex", "all"):
            raise ValueError(f"plastic must be 'reflex' or 'all', got {self.plastic!r}")
        if self.theta >= self.gamma or self.theta >= self.h:
            raise ValueError(
                f"theta = {self.theta} must be below gamma and h: food must make R respond"
            )
        check_step(self.dt, self.tau, self.tau_syn)
        for name in ("T_on", "T_off"):
            steps_in(getattr(self, name), self.dt, name)
        if self.tau_syn <= self.tau:
            warn(
                f"tau_syn = {self.tau_syn} is not above tau = {self.tau}: the time scales are not "
                "separated, the synapse follows the activity instead of averaging it"
            )
        if self.T_on < 5 * self.tau:
            warn(f"T_on = {self.T_on} is below 5 tau: the units do not settle in a presentation")

    # -- theory --------------------------------------------------------------------------------
    def steady_coupling(self) -> float:
        """J_RA after the silence in the steady cycle of paired trials, for steep neurons.

        gamma (1 - e_w)/(1 - e_w e_r) e^{-(T_off - t_2)/tau'}, e_w = e^{-w/tau'},
        e_r = e^{-(T_on + T_off - w)/tau'}: the product x_R x_A counts as 1 for the time
        w = T_on - t_1 + t_2. With r = theta/(J_RA + gamma), where R crosses its threshold,
        t_1 = tau (1 + (1 - r)/2 - ln(1 - r)) is lost at the beginning, and t_2 = tau (1 - r/2)
        won after the end, while the activities decay. Good to 1% at beta = 3.
        """
        j = self.gamma
        for _ in range(100):  # r depends weakly on J: converges in a few steps
            r = self.theta / (j + self.gamma)
            lost = self.tau * (1 + (1 - r) / 2 - math.log(1 - r))
            won = self.tau * (1 - r / 2)
            w = max(self.T_on - lost + won, 0.0)
            decay = math.exp(-w / self.tau_syn)
            rest = math.exp(-(self.T_on + self.T_off - w) / self.tau_syn)
            silence = math.exp(-(self.T_off - won) / self.tau_syn)
            j = self.gamma * (1 - decay) / (1 - decay * rest) * silence
        return j

    def response_to_bell(self, coupling: float) -> float:
        """x_R = (1 + tanh beta(J_RA x_A + gamma x_B - theta))/2, x_A and x_B settled, n -> inf."""
        x_a, x_b = self._settled(self.h - self.theta), self._settled(-self.theta)
        return self._settled(coupling * x_a + self.gamma * x_b - self.theta)

    def theory(self, paired: bool = True, trials: int = 30, extinction: int = 0) -> Acquisition:
        """Large populations, in which all units and all synapses from A to R are equal.

        Three rates and one synapse, in steps of dt like the simulation; dt -> 0 is the
        continuous time. One row, as if of one seed.

        Raises
        ------
        ValueError
            trials or extinction negative, or plastic = "all" (which has more variables).
        """
        whole("trials", trials, 0)
        whole("extinction", extinction, 0)
        if self.plastic != "reflex":
            raise ValueError("the theory is for plastic='reflex'")
        rest = self._settled(-self.theta)
        state = (rest, rest, self._settled(self.gamma * rest - self.theta), 0.0)
        couplings = [0.0]
        for parts in self._schedule(paired, trials, extinction):
            for stimulus, duration in parts:
                state = self._advance_rates(state, stimulus, duration)
            couplings.append(state[3])
        responses = [self.response_to_bell(c) for c in couplings]
        count = np.arange(len(couplings))
        return Acquisition(count, np.array([responses]), np.array([couplings]), trials)

    def _settled(self, argument: float) -> float:
        return 0.5 * (1.0 + math.tanh(self.beta * argument))

    def _advance_rates(
        self, state: Sequence[float], stimulus: Sequence[float], duration: float
    ) -> tuple[float, float, float, float]:
        x_a, x_b, x_r, j = state
        target_a, target_b = (self._settled(self.h * s - self.theta) for s in stimulus[:2])
        fast, slow = self.dt / self.tau, self.dt / self.tau_syn
        for _ in range(steps_in(duration, self.dt, "duration")):
            target_r = self._settled(j * x_a + self.gamma * x_b - self.theta)
            j += slow * (self.gamma * x_r * x_a - j)
            x_a += fast * (target_a - x_a)
            x_b += fast * (target_b - x_b)
            x_r += fast * (target_r - x_r)
        return x_a, x_b, x_r, j

    # -- simulation ------------------------------------------------------------------------------
    def run(
        self,
        paired: bool = True,
        trials: int = 30,
        extinction: int = 0,
        seeds: int | Sequence[int] = (0,),
        tests: bool = True,
    ) -> Acquisition:
        """Simulate all units; each seed has its own noise (without noise all are equal).

        Parameters
        ----------
        paired : bool
            Bell and food together, or one at a time (the control).
        trials, extinction : int
            Conditioning trials, and extinction trials after them; not negative.
        seeds : int or sequence of int
        tests : bool
            Test after every trial, or (False) after the last only: the other responses are NaN.

        Raises
        ------
        ValueError
            trials or extinction negative, or no seed.
        """
        whole("trials", trials, 0)
        whole("extinction", extinction, 0)
        chosen = [seeds] if isinstance(seeds, (int, np.integer)) else list(seeds)
        if not chosen:
            raise ValueError("seeds must name at least one seed")
        schedule = self._schedule(paired, trials, extinction)
        rows = [
            self._run_one(int(seed), schedule, tests)
            for seed in track(chosen, "conditioning: seeds", len(chosen))
        ]
        responses, couplings = (np.array(part) for part in zip(*rows, strict=True))
        return Acquisition(np.arange(len(schedule) + 1), responses, couplings, trials)

    def _schedule(
        self, paired: bool, trials: int, extinction: int
    ) -> list[list[tuple[tuple[float, ...], float]]]:
        """Trials of (stimulus, duration)."""
        silence = (SILENCE, self.T_off)
        trial = [(BELL, self.T_on), silence, (FOOD, self.T_on), silence]
        if paired:
            trial = [(BOTH, self.T_on), silence]
        return [trial] * trials + [[(BELL, self.T_on), silence]] * extinction

    def _run_one(
        self, seed: int, schedule: list[list[tuple[tuple[float, ...], float]]], tests: bool
    ) -> tuple[list[float], list[float]]:
        rng = np.random.default_rng(seed)
        n = self.population
        a, b, r = (slice(k * n, (k + 1) * n) for k in range(3))
        J = np.zeros((3 * n, 3 * n))
        J[r, b] = self.gamma
        rate = np.zeros_like(J)
        rate[r, a] = self.dt / self.tau_syn
        if self.plastic == "all":
            rate[:] = self.dt / self.tau_syn
            rate[r, b] = 0.0
        rest = self._settled(-self.theta)
        at_rest = np.full(3 * n, rest)
        at_rest[r] = self._settled(self.gamma * rest - self.theta)
        x = at_rest.copy()

        def test() -> float:
            y, frozen = at_rest.copy(), np.zeros_like(rate)
            self._present(J, y, BELL, frozen, round(SETTLING * self.tau / self.dt), rng)
            apart = max(1, round(self.tau / (2 * self.dt)))  # closer readings tell little more
            readings = []
            for _ in range(round((TEST - SETTLING) * self.tau / (apart * self.dt))):
                self._present(J, y, BELL, frozen, apart, rng)
                readings.append(y[r].mean())
            return float(np.mean(readings))

        responses, couplings = [test()], [0.0]
        for number, parts in enumerate(schedule, start=1):
            for stimulus, duration in parts:
                steps = steps_in(duration, self.dt, "duration")
                self._present(J, x, stimulus, rate, steps, rng)
            couplings.append(float(J[r, a].mean()))
            responses.append(test() if tests or number == len(schedule) else math.nan)
        return responses, couplings

    def _present(
        self,
        J: np.ndarray,
        x: np.ndarray,
        stimulus: Sequence[float],
        rate: np.ndarray,
        n_steps: int,
        rng: np.random.Generator,
    ) -> None:
        step = self.dt / self.tau
        bias = self.h * np.repeat(stimulus, self.population) - self.theta
        kick = math.sqrt(2 * self.neuron_noise * step)
        gain = 1.0 / self.population
        advance(J, x, bias, rate, gain, self.beta, self.gamma, 0.0, step, kick, 0.0, n_steps, rng)

"""A network whose synapses find the Hebb rule by themselves, from stimuli shown one by one.

References: E. Agliari, M. Aquaro, A. Barra, A. Fachechi, C. Marullo, arXiv:2204.07954; D. Lotito,
M. Aquaro, C. Marullo, arXiv:2405.03823 (the synaptic variance).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from thermolearn.core.checks import is_signs, real, whole
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate, mean_estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.pavlov.parameters import check_step, steps_in, warn
from thermolearn.systems.memory.pavlov.simulation import advance
from thermolearn.systems.memory.pavlov.theory import HebbPrediction, predict

ORDERS = ("random", "cyclic")
METHODS = ("langevin", "averaged")
# Of the memory of the synapses, e^{-5} of the start is left.
WARMUP = 5.0


@dataclass(frozen=True, eq=False)
class HebbRun:
    """What the synapses did; S seeds, N neurons, K patterns, n presentations.

    Attributes
    ----------
    J_mean, J_var : ndarray (S, N, N)
        Mean and variance over time of the couplings, taken at the ends of the presentations
        after the warm-up. The variance is corrected for the finite window.
    J : ndarray (S, N, N)
        Couplings at the end.
    patterns : ndarray (S, K, N)
    history : dict of ndarray
        "time" (n,), and per seed (S, n): "slope" of J on the Hebb matrix and "deviation"
        |J - J^H| / |J^H|, both without the diagonal, at the end of every presentation.
    """

    J_mean: np.ndarray
    J_var: np.ndarray
    J: np.ndarray
    patterns: np.ndarray
    history: dict[str, np.ndarray] = field(repr=False)

    @property
    def J_hebb(self) -> np.ndarray:
        """J^H_ij = (1/K) sum_mu xi_i^mu xi_j^mu, (S, N, N)."""
        return np.einsum("ski,skj->sij", self.patterns, self.patterns) / self.patterns.shape[1]

    @property
    def slopes(self) -> np.ndarray:
        """Slope through the origin of mean J on J^H over pairs i != j, one per seed."""
        pairs = _pairs(self.J.shape[-1])
        hebb = self.J_hebb[:, *pairs]
        return (self.J_mean[:, *pairs] * hebb).sum(1) / (hebb**2).sum(1)

    @property
    def slope(self) -> Estimate:
        """Mean slope over seeds; stderr between seeds (NaN for one)."""
        return mean_estimate(self.slopes)

    @property
    def correlation(self) -> Estimate:
        """Correlation of mean J and J^H over pairs, mean over seeds."""
        pairs = _pairs(self.J.shape[-1])
        both = zip(self.J_mean[:, *pairs], self.J_hebb[:, *pairs], strict=True)
        return mean_estimate([float(np.corrcoef(a, b)[0, 1]) for a, b in both])

    @property
    def relative_deviation(self) -> Estimate:
        """|J - J^H| / |J^H| at the end, without the diagonal, mean over seeds."""
        return mean_estimate(self.history["deviation"][:, -1])

    @property
    def variance(self) -> Estimate:
        """Variance over time, averaged over pairs i != j; mean over seeds."""
        return mean_estimate(self.J_var[:, *_pairs(self.J.shape[-1])].mean(1))

    def variance_by_coupling(self) -> tuple[np.ndarray, Estimate]:
        """Classes of |J^H| (ascending) and the mean variance of their pairs, over seeds.

        NaN where a seed has no such pair.
        """
        pairs, k = _pairs(self.J.shape[-1]), self.patterns.shape[1]
        levels = np.abs(np.round(self.J_hebb[:, *pairs] * k)).astype(int)
        classes = np.arange(k % 2, k + 1, 2)
        inside = levels[:, None] == classes[:, None]
        counts = inside.sum(2)
        sums = (inside * self.J_var[:, *pairs][:, None]).sum(2)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        return classes / k, mean_estimate(means)


@dataclass(frozen=True)
class PavlovHebb:
    """Fast neurons, slow synapses, and K random patterns presented again and again.

        tau  d sigma_i = [tanh beta((1/N) sum_j J_ij sigma_j + h xi_i^{mu(t)}) - sigma_i] dt
                         + sqrt(2 tau T) dW_i
        tau' d J_ij    = [gamma sigma_i sigma_j - J_ij] dt + s_J sqrt(2 tau') dW_ij

    Nothing Hebbian is imposed on the matrix: for tau << T_present << tau' and a stimulus above
    the internal field, J fluctuates about gamma J^H, J^H_ij = (1/K) sum_mu xi_i^mu xi_j^mu. The
    1/N in the field is essential: without it the internal field exceeds the stimulus and all
    synapses collapse on the first pattern.

    Parameters
    ----------
    N, K : int
        Neurons (at least 2) and patterns (at least 1).
    beta : float
        Inverse temperature of the neurons' response, positive.
    h : float
        Strength of the stimulus, positive.
    gamma : float
        Synaptic gain, not negative.
    tau, tau_syn : float
        Relaxation times of neurons and synapses, positive.
    T_present : float
        Duration of a presentation, a multiple of dt.
    order : {"random", "cyclic"}
        Patterns drawn independently and uniformly, or one after the other.
    noise : float
        s_J: the synaptic noise alone gives J_ij the variance s_J^2.
    neuron_noise : float
        T: the noise alone gives sigma_i the variance T.
    dt : float
        Time step, at most tau / 2; tau / 5 is advised.

    Raises
    ------
    ValueError
        A parameter out of range, dt > tau / 2 (unstable), or dt not dividing T_present.

    Warns
    -----
    UserWarning
        Time scales that are not separated: tau_syn <= tau or T_present < 5 tau.

    References
    ----------
    arXiv:2204.07954. The synaptic drift is taken linear, the small-coupling form of
    -J + tanh(...).
    """

    N: int = 30
    K: int = 4
    beta: float = 2.0
    h: float = 2.0
    gamma: float = 1.0
    tau: float = 1.0
    tau_syn: float = 200.0
    T_present: float = 50.0
    order: str = "random"
    noise: float = 0.0
    neuron_noise: float = 0.0
    dt: float = 0.2

    def __post_init__(self) -> None:
        for name, least in (("N", 2), ("K", 1)):
            whole(name, getattr(self, name), least)
        for name in ("beta", "h", "tau", "tau_syn", "T_present", "dt"):
            real(name, getattr(self, name), above=0)
        for name in ("gamma", "noise", "neuron_noise"):
            real(name, getattr(self, name), least=0)
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {self.order!r}")
        check_step(self.dt, self.tau, self.tau_syn)
        steps_in(self.T_present, self.dt, "T_present")
        if self.tau_syn <= self.tau:
            warn(
                f"tau_syn = {self.tau_syn} is not above tau = {self.tau}: the time scales are not "
                "separated, J will not converge to Hebb"
            )
        if self.T_present < 5 * self.tau:
            warn(
                f"T_present = {self.T_present} is below 5 tau: the neurons do not settle within "
                "a presentation"
            )

    @property
    def steps(self) -> int:
        """Time steps per presentation."""
        return steps_in(self.T_present, self.dt, "T_present")

    def theory(self) -> HebbPrediction:
        """Slope of mean J on J^H, and the variance of J_ij; see `theory.predict`."""
        return predict(
            self.K,
            self.beta,
            self.h,
            self.gamma,
            self.dt / self.tau,
            self.dt / self.tau_syn,
            self.steps,
            self.order,
            self.noise,
            self.neuron_noise,
            self.N,
        )

    def run(
        self,
        t_end: float,
        seeds: int | Sequence[int] = (0,),
        method: str = "langevin",
        warmup: float | None = None,
        patterns: np.ndarray | None = None,
    ) -> HebbRun:
        """Simulate from J = 0; each seed has its own patterns, order of stimuli and noise.

        Parameters
        ----------
        t_end : float
            Duration; rounded to whole presentations, which must leave at least two after the
            warm-up.
        seeds : int or sequence of int
            One run each.
        method : {"langevin", "averaged"}
            Euler-Maruyama, O(N^2) per step; or, for T_present >> tau, the fixed point of the
            neurons in each presentation and the exact recursion of the synapses over it, O(N^2)
            per presentation, with synaptic but without neuronal noise.
        warmup : float, optional
            Time left out of the statistics; 5 tau_syn by default.
        patterns : array (K, N), optional
            Entries +-1, used for all seeds instead of random ones.

        Returns
        -------
        HebbRun

        Raises
        ------
        ValueError
            Arguments out of range.
        ConvergenceError
            "averaged": the neurons found no fixed point.
        """
        first = WARMUP * self.tau_syn if warmup is None else warmup
        presentations = round(t_end / self.T_present)
        kept = presentations - math.ceil(max(first, 0.0) / self.T_present)
        if kept < 2:
            raise ValueError(
                f"t_end = {t_end} leaves {max(kept, 0)} presentations after the warm-up of "
                f"{first}; at least 2 are needed"
            )
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}")
        if method == "averaged" and self.neuron_noise > 0:
            raise ValueError("method 'averaged' has no neuronal noise: set neuron_noise = 0")
        given = None if patterns is None else _checked_patterns(patterns, self.K, self.N)
        chosen = [seeds] if isinstance(seeds, (int, np.integer)) else list(seeds)
        if not chosen:
            raise ValueError("seeds must name at least one seed")
        runs = [
            self._run_one(int(seed), presentations, kept, method, given)
            for seed in track(chosen, "Pavlov: seeds", len(chosen))
        ]
        mean, variance, final, shown, slope, deviation = (
            np.stack(part) for part in zip(*runs, strict=True)
        )
        time = self.T_present * np.arange(1, presentations + 1)
        return HebbRun(
            mean,
            variance,
            final,
            shown,
            {"time": time, "slope": slope, "deviation": deviation},
        )

    def _run_one(
        self, seed: int, presentations: int, kept: int, method: str, given: np.ndarray | None
    ) -> tuple[np.ndarray, ...]:
        streams = np.random.SeedSequence(seed).spawn(3)
        for_patterns, for_order, for_noise = (np.random.default_rng(s) for s in streams)
        xi = given
        if xi is None:
            xi = for_patterns.choice([-1.0, 1.0], (self.K, self.N))
        order = np.arange(presentations) % self.K
        if self.order == "random":
            order = for_order.integers(self.K, size=presentations)
        hebb = xi.T @ xi / self.K
        np.fill_diagonal(hebb, 0.0)
        norm = float((hebb**2).sum())

        J, sigma = np.zeros((self.N, self.N)), np.zeros(self.N)
        mean, square = np.zeros((2, self.N, self.N))
        slope, deviation = np.empty((2, presentations))
        present = self._langevin if method == "langevin" else self._averaged
        for n, mu in enumerate(order):
            present(J, sigma, xi[mu], for_noise)
            along, size = float((J * hebb).sum()), float((J**2).sum() - (J.diagonal() ** 2).sum())
            slope[n] = along / norm
            deviation[n] = math.sqrt(max(size - 2 * along + norm, 0.0) / norm)
            if n >= presentations - kept:
                # Welford's recursion: no cancellation in the variance
                count = n - (presentations - kept) + 1
                change = J - mean
                mean += change / count
                square += change * (J - mean)
        return mean, square / (kept * self._window(kept)), J, xi, slope, deviation

    def _langevin(
        self, J: np.ndarray, sigma: np.ndarray, xi: np.ndarray, rng: np.random.Generator
    ) -> None:
        step = self.dt / self.tau
        advance(
            J,
            sigma,
            self.h * xi,
            np.full_like(J, self.dt / self.tau_syn),
            1.0 / self.N,
            self.beta,
            self.gamma,
            -1.0,
            step,
            math.sqrt(2 * self.neuron_noise * step),
            math.sqrt(2) * self.noise,
            self.steps,
            rng,
        )

    def _averaged(
        self, J: np.ndarray, sigma: np.ndarray, xi: np.ndarray, rng: np.random.Generator
    ) -> None:
        sigma[:] = xi
        for _ in range(1000):
            new = np.tanh(self.beta * (J @ sigma / self.N + self.h * xi))
            residual = np.abs(new - sigma).max()
            sigma[:] = new
            if residual < 1e-12:
                break
        else:
            raise ConvergenceError(
                f"the neurons found no fixed point (residual {residual:.2g}); use "
                "method='langevin', or lower beta or gamma"
            )
        kept = math.exp(-self.T_present / self.tau_syn)
        J *= kept
        J += (1 - kept) * self.gamma * np.outer(sigma, sigma)
        if self.noise > 0:
            draw = np.tril(rng.standard_normal(J.shape))
            spread = self.noise * math.sqrt(1 - kept**2)
            J += spread * (draw + np.tril(draw, -1).T)

    def _window(self, kept: int) -> float:
        """Expected share of the variance that a window of `kept` presentations sees.

        The mean of an autoregression with correlation e^k has the variance
        (Var/n)(1 + 2 sum_k (1 - k/n) e^k), which the sample variance misses. A cyclic order has
        nothing random about it.
        """
        if self.order == "cyclic" and self.noise == 0:
            return 1.0
        e = math.exp(-self.T_present / self.tau_syn)
        k = np.arange(1, kept)
        return 1.0 - (1.0 + 2.0 * ((1 - k / kept) * e**k).sum()) / kept


def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(n, 1)


def _checked_patterns(patterns: np.ndarray, k: int, n: int) -> np.ndarray:
    array = np.array(patterns, dtype=np.float64)
    if array.shape != (k, n) or not is_signs(array):
        raise ValueError(f"patterns must have shape ({k}, {n}) and entries +-1")
    return array

"""The Hopfield network itself: Hebb's couplings, heat-bath dynamics, recall."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import is_signs, real
from thermolearn.systems.memory.glauber import GlauberSampler
from thermolearn.systems.memory.hopfield.theory import hopfield_theory

# An overlap above the remanent one of failed retrieval; the drift that an average may still have.
RECALLED, DRIFT = 0.7, 0.1


def hebb(patterns: ArrayLike) -> np.ndarray:
    """J = (1/N) sum_mu xi^mu xi^mu^T without its diagonal, float32 (N, N).

    Parameters
    ----------
    patterns : array (K, N)
        +-1.

    Raises
    ------
    ValueError
        Entries that are not +-1, or no pattern.
    """
    xi = np.asarray(patterns)
    if xi.ndim != 2 or 0 in xi.shape:
        raise ValueError(f"patterns must have shape (K, N) with K, N >= 1, got {xi.shape}")
    if not is_signs(xi):
        raise ValueError(
            "patterns must consist of -1 and +1; binarize first, e.g. np.sign(x - median)"
        )
    signs = np.ascontiguousarray(xi, dtype=np.float32)
    J = signs.T @ signs
    J /= np.float32(signs.shape[1])
    np.fill_diagonal(J, 0)
    return J


@dataclass(frozen=True)
class Recall:
    """What the dynamics made of cues.

    Attributes
    ----------
    states : int8 (cues, N)
        Final states; at T > 0 the signs of the mean spins.
    overlaps : float64 (cues, K)
        With every stored pattern, of the final states (T = 0) or of the mean spins (T > 0).
    pattern : int (cues,)
        The pattern recalled, the one of largest |overlap|; -1 where that is below 0.7, which is
        more than failed retrieval leaves behind.
    sweeps : int (cues,)
    converged : bool (cues,)
        At T = 0: a fixed point was reached. At T > 0: no overlap changed by more than 0.1 between
        the first and the second half of the sweeps averaged over.
    """

    states: np.ndarray
    overlaps: np.ndarray
    pattern: np.ndarray
    sweeps: np.ndarray
    converged: np.ndarray


class HopfieldNetwork:
    """An associative memory of +-1 patterns with Hebb's couplings.

    Parameters
    ----------
    T : float
        Temperature of the recall, >= 0.
    sweeps : int
        Most sweeps of a recall.
    random_state : int
        Of the order of updates and, at T > 0, of the noise.

    Attributes
    ----------
    patterns_ : int8 (K, N)
    couplings_ : float32 (N, N)
        Zero diagonal.
    load_ : float
        K / N; above 0.138 no random pattern is recalled.

    Examples
    --------
    >>> import numpy as np
    >>> xi = np.random.default_rng(0).choice([-1, 1], size=(5, 200))
    >>> cue = xi[2].copy()
    >>> cue[:40] *= -1
    >>> int(HopfieldNetwork().fit(xi).recall(cue).pattern[0])
    2
    """

    def __init__(self, T: float = 0.0, sweeps: int = 100, random_state: int = 0):
        real("T", T, least=0)
        self.T, self.sweeps, self.random_state = T, sweeps, random_state

    def fit(self, patterns: ArrayLike) -> HopfieldNetwork:
        """Store patterns (K, N) of +-1; returns self.

        Warns
        -----
        UserWarning
            The load is above capacity, or T above the end of retrieval at this load.
        """
        self.couplings_ = hebb(patterns)
        self.patterns_ = np.asarray(patterns, dtype=np.int8)
        self.load_ = len(self.patterns_) / self.patterns_.shape[1]
        state = hopfield_theory(self.load_, self.T)
        if state.branch != "retrieval":
            warnings.warn(
                f"at load K / N = {self.load_:.3g} and T = {self.T:g} large networks recall no "
                "random pattern: store fewer, or lower T",
                UserWarning,
                stacklevel=2,
            )
        return self

    def recall(self, x: ArrayLike, threads: int = 1) -> Recall:
        """Run the dynamics from cues (N,) or (cues, N) of +-1.

        Raises
        ------
        ValueError
            Before `fit`, or cues that are not +-1 or of the wrong length.
        """
        if not hasattr(self, "couplings_"):
            raise ValueError("the network stores nothing yet: call fit(patterns) first")
        cues = np.atleast_2d(np.asarray(x))
        if cues.ndim != 2 or cues.shape[1] != len(self.couplings_) or not is_signs(cues):
            raise ValueError(f"x must be cues of {len(self.couplings_)} spins -1 or +1 each")
        sampler = GlauberSampler(self.couplings_)
        patterns = self.patterns_.T.astype(np.float64) / len(self.couplings_)
        run = sampler.run(cues, self.T, self.sweeps, self.random_state, threads=threads)
        if self.T == 0:
            mean, converged = run.spins.astype(np.float64), run.converged
        else:
            again = (self.random_state, 1)
            more = sampler.run(run.spins, self.T, self.sweeps, again, warmup=0, threads=threads)
            drift = np.abs((run.mean_spins - more.mean_spins) @ patterns)
            mean, converged = (run.mean_spins + more.mean_spins) / 2, drift.max(1) < DRIFT
        overlaps = mean @ patterns
        best = np.abs(overlaps).argmax(1)
        recalled = np.abs(overlaps).max(1) >= RECALLED
        states = np.where(mean > 0, 1, -1).astype(np.int8)
        return Recall(states, overlaps, np.where(recalled, best, -1), run.sweeps, converged)


def sampled_overlaps(
    n_spins: int, load: float, T: float, sweeps: int, seed: int
) -> tuple[float, float, float]:
    """Heat bath from a stored pattern: m, q of the mean spins, and energy per spin, no diagonal.

    q is the average over sites of <s_i>^2, corrected for the finite number of sweeps by splitting
    the run in halves: the product of two independent means.
    """
    rng = np.random.default_rng(seed)
    patterns = rng.choice(np.array([-1, 1], dtype=np.int8), size=(round(load * n_spins), n_spins))
    sampler = GlauberSampler(hebb(patterns))
    warm = sampler.run(patterns[0], T, max(sweeps // 4, 1), seed, warmup=0)
    halves = [sampler.run(warm.spins[0], T, sweeps // 2, (seed, k), warmup=0) for k in (1, 2)]
    first, second = (half.mean_spins[0] for half in halves)
    m = float((first + second) @ patterns[0]) / (2 * n_spins)
    energy = float(np.nanmean([np.nanmean(half.energy) for half in halves]))
    return m, float(first @ second) / n_spins, energy

"""Heat-bath dynamics of a +-1 network with given couplings."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.checks import is_signs, whole
from thermolearn.core.diagnostics import MIN_DRAWS
from thermolearn.core.estimate import Estimate
from thermolearn.core.lattice import glauber_sweeps, largest_and_asymmetry


@dataclass(frozen=True)
class GlauberRun:
    """Chains of heat-bath sweeps; the leading axis of every array is the chain.

    Attributes
    ----------
    spins : int8 (chains, N)
        The final states.
    mean_spins : float64 (chains, N)
        Time averages over the sweeps after the warm-up.
    energy : float64 (chains, sweeps)
        Per spin, after every sweep; NaN after the end of a T = 0 run.
    overlaps : float64 (chains, sweeps, P) or None
        With the patterns asked for, after every sweep; NaN likewise.
    sweeps : int (chains,)
        Sweeps made.
    converged : bool (chains,)
        At T = 0: the last sweep had no flip. At T > 0 always True; whether a chain is
        equilibrated is for `core.diagnostics` to say.
    warmup : int
        Sweeps left out of averages.
    """

    spins: np.ndarray
    mean_spins: np.ndarray
    energy: np.ndarray
    overlaps: np.ndarray | None
    sweeps: np.ndarray
    converged: np.ndarray
    warmup: int

    def mean_energy(self) -> Estimate:
        """Energy per spin over chains and sweeps after the warm-up, with its autocorrelated bar.

        At T = 0 the mean and spread of the final energies over chains.

        Raises
        ------
        ValueError
            Fewer than 50 sweeps after the warm-up at T > 0, or fewer than two chains at T = 0.
        """
        return self._mean(self.energy, "the energy")

    def mean_overlap(self, pattern: int = 0) -> Estimate:
        """Overlap with one of the patterns asked for, as `mean_energy`."""
        if self.overlaps is None:
            raise ValueError("no overlaps were recorded; give observe=patterns to run()")
        return self._mean(self.overlaps[:, :, pattern], "the overlap")

    def _mean(self, trace: np.ndarray, name: str) -> Estimate:
        from thermolearn.core.estimate import mean_estimate
        from thermolearn.core.sampling import chain_mean

        kept = trace[:, self.warmup :]
        if np.isfinite(kept).all() and kept.shape[1] >= MIN_DRAWS:
            if np.ptp(kept) == 0:
                return Estimate(float(kept.flat[0]), 0.0, note="the trace is constant")
            return chain_mean(kept, name)
        if len(trace) < 2:
            raise ValueError(
                f"an error bar needs {MIN_DRAWS} sweeps after the warm-up, or two chains"
            )
        return mean_estimate([float(row[np.isfinite(row)][-1]) for row in trace])


class GlauberSampler:
    """Sequential heat bath for H = -1/2 sigma^T J sigma - field . sigma.

    Fields are updated incrementally: a flip costs one row of J, so that at low temperature a sweep
    costs little more than O(N). Chains run on threads, with the same bits for any number of them.

    Parameters
    ----------
    J : array (N, N)
        Symmetric couplings with zero diagonal. Kept as float32 unless given as float64.
    field : float or array (N,)
        External field.

    Raises
    ------
    ValueError
        J not square, not symmetric (to 1e-6 of its largest entry), not finite, or with a diagonal;
        a field of the wrong length.
    """

    def __init__(self, J: ArrayLike, field: float | ArrayLike = 0.0):
        given = np.asarray(J)
        kind = np.float64 if given.dtype == np.float64 else np.float32
        self.J = np.ascontiguousarray(given, dtype=kind)
        if self.J.ndim != 2 or self.J.shape[0] != self.J.shape[1] or not self.J.size:
            raise ValueError(f"J must be a square matrix, got shape {self.J.shape}")
        largest, asymmetry = largest_and_asymmetry(self.J)
        if not np.isfinite(largest):
            raise ValueError("J holds a NaN or an infinity")
        if np.abs(np.diagonal(self.J)).max() > 0:
            raise ValueError("J has a diagonal; set it to zero: np.fill_diagonal(J, 0)")
        if asymmetry > 1e-6 * largest:
            raise ValueError("J is not symmetric; heat-bath dynamics needs J = J.T")
        n = len(self.J)
        external = np.asarray(field, dtype=kind)
        if external.shape not in ((), (n,)):
            raise ValueError(f"field must be one number or {n}, got shape {external.shape}")
        self.field = np.ascontiguousarray(np.broadcast_to(external, (n,)))
        if not np.isfinite(self.field).all():
            raise ValueError("field holds a NaN or an infinity")

    def run(
        self,
        sigma0: ArrayLike,
        T: float | Sequence[float] | np.ndarray,
        sweeps: int = 200,
        seed: int | Sequence[int] = 0,
        warmup: int | None = None,
        observe: ArrayLike | None = None,
        threads: int = 1,
    ) -> GlauberRun:
        """Run chains from given states.

        Parameters
        ----------
        sigma0 : array (N,) or (chains, N)
            +-1.
        T : float or array (sweeps,)
            Temperature >= 0, or an annealing schedule.
        sweeps : int
            At least 1. At T = 0 a chain ends with its first sweep without a flip.
        seed : int or sequence of int
            Chain c draws from the c-th child of this seed.
        warmup : int, optional
            Sweeps left out of averages; by default a quarter.
        observe : array (P, N), optional
            Patterns whose overlaps with the state are recorded.
        threads : int
            Chains that run at once.

        Raises
        ------
        ValueError
            States that are not +-1 or of the wrong length, T negative, sweeps < 1, warm-up not
            below sweeps, patterns of the wrong length.
        """
        starts, temperatures = self._starts(sigma0), _schedule(T, sweeps)
        skipped = sweeps // 4 if warmup is None else warmup
        if not 0 <= skipped < sweeps:
            raise ValueError(f"warmup must lie in [0, sweeps), got {skipped} of {sweeps}")
        whole("threads", threads, 1)
        patterns = self._patterns(observe)
        children = np.random.SeedSequence(seed).spawn(len(starts))

        def chain(spins: np.ndarray, child: np.random.SeedSequence) -> tuple:
            return glauber_sweeps(
                self.J,
                spins,
                self.field,
                temperatures,
                skipped,
                patterns,
                np.random.default_rng(child),
            )

        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(chain, starts, children))
        made = np.array([r[0] for r in results])
        energy = np.stack([r[1] for r in results]) / len(self.J)
        overlaps = np.stack([r[3] for r in results])
        beyond = np.arange(sweeps) >= made[:, None]
        energy[beyond], overlaps[beyond] = np.nan, np.nan
        cold = temperatures[-1] == 0
        return GlauberRun(
            starts,
            np.stack([r[2] for r in results]),
            energy,
            overlaps if observe is not None else None,
            made,
            made < sweeps if cold else np.ones(len(starts), dtype=bool),
            skipped,
        )

    def _starts(self, sigma0: ArrayLike) -> np.ndarray:
        given = np.atleast_2d(np.asarray(sigma0))
        if given.ndim != 2 or given.shape[1] != len(self.J):
            raise ValueError(f"sigma0 must have {len(self.J)} spins per chain, got {given.shape}")
        if not is_signs(given):
            raise ValueError("sigma0 must consist of -1 and +1")
        return np.array(given, dtype=np.int8, order="C")

    def _patterns(self, observe: ArrayLike | None) -> np.ndarray:
        if observe is None:
            return np.empty((0, len(self.J)), dtype=self.J.dtype)
        patterns = np.atleast_2d(np.asarray(observe, dtype=self.J.dtype))
        if patterns.shape[1] != len(self.J):
            raise ValueError(f"observe must have shape (P, {len(self.J)}), got {patterns.shape}")
        return np.ascontiguousarray(patterns)


def _schedule(T: float | Sequence[float] | np.ndarray, sweeps: int) -> np.ndarray:
    """Temperature of every sweep."""
    whole("sweeps", sweeps, 1)
    values = np.asarray(T, dtype=np.float64)
    if values.shape not in ((), (sweeps,)):
        raise ValueError(f"T must be one number or one per sweep ({sweeps}), got {values.shape}")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("T must be finite and >= 0")
    return np.ascontiguousarray(np.broadcast_to(values, (sweeps,)))

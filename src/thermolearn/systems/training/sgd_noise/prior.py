"""The clusters of a Gaussian mixture: (probability, position c, label y)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thermolearn.core.checks import real, whole

# Probabilities that miss 1 by more are an error, not rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Prior:
    """Law of (c, y): cluster k has probability p_k, center c_k v / sqrt(d) and label y_k.

    Attributes
    ----------
    probabilities : tuple of float
        p_k > 0, sum 1.
    positions : tuple of float
        c_k.
    labels : tuple of float
        y_k.
    """

    probabilities: tuple[float, ...]
    positions: tuple[float, ...]
    labels: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.probabilities)

    def rows(self) -> list[tuple[float, float, float]]:
        """(p, c, y) of the clusters."""
        return list(zip(self.probabilities, self.positions, self.labels, strict=True))

    def quotas(self, n: int) -> np.ndarray:
        """Samples per cluster (K,), n p_k to within 1, by the largest remainders."""
        exact = n * np.array(self.probabilities)
        counts = np.floor(exact + ROUNDING).astype(int)
        order = np.argsort(counts - exact, kind="stable")
        counts[order[: n - counts.sum()]] += 1
        return counts

    def stratified(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions c and labels y (n,) in the exact proportions, cluster by cluster."""
        n = whole("n", n, least=len(self))
        return self._of(np.repeat(np.arange(len(self)), self.quotas(n)))

    def draw(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> tuple:
        """Independent positions c and labels y of that shape."""
        return self._of(rng.choice(len(self), shape, p=np.array(self.probabilities)))

    def _of(self, cluster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.positions)[cluster], np.array(self.labels)[cluster]


def as_prior(prior: str | Prior | Sequence[Sequence[float]]) -> Prior:
    """The prior of a name or a list.

    Parameters
    ----------
    prior : "symmetric", or a sequence of (p, c, y), or Prior
        "symmetric" is [(1/2, 1, 1), (1/2, -1, -1)]. Labels y that a loss cannot use are refused
        by `as_loss`.

    Raises
    ------
    ValueError
        Another name, an entry that is not three finite numbers, p <= 0, or probabilities whose
        sum is not 1.
    """
    if isinstance(prior, Prior):
        rows: Sequence[Sequence[float]] = prior.rows()
    elif isinstance(prior, str):
        if prior != "symmetric":
            raise ValueError(f"prior must be 'symmetric' or a list of (p, c, y), got {prior!r}")
        rows = [(0.5, 1.0, 1.0), (0.5, -1.0, -1.0)]
    else:
        rows = list(prior)
    if not rows or any(isinstance(row, str) or len(row) != 3 for row in rows):
        raise ValueError(f"prior must be 'symmetric' or a list of (p, c, y), got {prior!r}")
    p = [real("p in prior", row[0], above=0) for row in rows]
    c = [real("c in prior", row[1]) for row in rows]
    y = [real("y in prior", row[2]) for row in rows]
    if abs(sum(p) - 1) > ROUNDING:
        raise ValueError(f"the probabilities of prior sum to {sum(p):.10g}, not to 1")
    return Prior(tuple(x / sum(p) for x in p), tuple(c), tuple(y))

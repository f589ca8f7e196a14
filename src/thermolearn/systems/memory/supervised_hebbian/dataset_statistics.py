"""What labeled examples look like to a Hebbian learner: their entropy, and if they make a tree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.systems.memory.archetypes import signs
from thermolearn.systems.memory.supervised_hebbian.examples import check_signs, labeled_examples

# Fewer examples than this in a class do not tell the two parts of the variance apart.
FEW = 4
# A tree of fewer examples than this says nothing; p can reach 0.05 from 19 surrogates on.
LEAST_EXAMPLES, LEAST_SURROGATES = 20, 19
SIGNIFICANT = 0.05
# Standard errors of r^2 above zero, below which rho is not estimated, and is flagged.
NO_SIGNAL, WEAK_SIGNAL = 2.0, 5.0


# -- entropy -----------------------------------------------------------------------------------
def dataset_entropy(X: ArrayLike, y: ArrayLike) -> Estimate:
    """rho = (1 - r^2) / (M r^2) of labeled +-1 examples, without knowing their archetypes.

    r^2 is that of `mean_pair_overlap`, 1 / M is averaged over classes; the bias of the ratio is
    corrected to second order. `supervised_theory_large_m` takes rho.

    Parameters
    ----------
    X : array (n, N)
        +-1.
    y : array (n,)
        Labels; classes may differ in size and count equally.

    Returns
    -------
    Estimate
        NaN with status "no signal" where r^2 is below two standard errors: rho is then not
        bounded from above. "weak signal" below five, or where a single class of fewer than 4
        examples leaves the error unknown: data sets whose r^2 came out small by chance are
        missing here, so that where the true r^2 is near two errors rho is a third too low.

    Raises
    ------
    ValueError
        X and y do not match, entries other than +-1, or a class with a single example.

    References
    ----------
    arXiv:2203.01304 for rho; the estimator from pair overlaps is our own.
    """
    squared = mean_pair_overlap(X, y)
    r2, error = float(squared.value), float(np.nan_to_num(squared.stderr))
    if not r2 > NO_SIGNAL * error:
        note = f"squared quality {squared}: no overlap within classes that can be told from none"
        return Estimate(math.nan, math.nan, status="no signal", note=note)
    share = float(np.mean(1 / np.unique(np.asarray(y), return_counts=True)[1]))
    value = share * (1 - r2) / r2 - share * error**2 / r2**3
    return Estimate(
        value,
        share * float(squared.stderr) / r2**2,
        n_eff=squared.n_eff,
        status="ok" if 0 < error < r2 / WEAK_SIGNAL else "weak signal",
        note="for the class sizes of this data set",
    )


def mean_pair_overlap(X: ArrayLike, y: ArrayLike) -> Estimate:
    """r^2, the mean overlap of two different examples of a class; unbiased, so negative at times.

        r^2 = mean over classes of  (1 / (M (M - 1))) sum_{a != b} eta^a . eta^b / N

    The error is that of leaving out one example at a time, less the part of it that counts pairs
    twice (a U-statistic); features may be correlated. With fewer than 4 examples in a class it is
    the spread between classes instead, whose number is then n_eff; NaN for one class.

    Parameters, errors: see `dataset_entropy`.
    """
    examples, groups, classes = labeled_examples(X, y)
    overlaps, variances = [], []
    for label, rows in zip(classes.tolist(), groups, strict=True):
        if len(rows) < 2:
            raise ValueError(f"class {label!r} has a single example; a pair overlap needs two")
        overlap, variance = _pair_overlap(examples[rows].astype(np.float64))
        overlaps.append(overlap)
        variances.append(variance)
    total, n_eff = float(np.sum(variances)), len(examples)
    if math.isnan(total):
        n_eff = len(groups)
        if n_eff > 1:
            total = n_eff * float(np.var(overlaps, ddof=1))
    error = math.sqrt(total) / len(groups)
    return Estimate(float(np.mean(overlaps)), error, n_eff=float(n_eff))


def _pair_overlap(members: np.ndarray) -> tuple[float, float]:
    """Mean pair overlap G of the rows and the variance of this mean.

    G_ab = r^2 + h_a + h_b + g_ab with independent parts has a mean of variance
    4 var(h) / M + 2 var(g) / (M (M - 1)); leaving out rows estimates
    4 var(h) / M + 4 var(g) / (M (M - 2)).
    """
    M, n = members.shape
    sums = (members @ members.sum(axis=0)) / n - 1  # over b != a
    mean = float(sums.sum()) / (M * (M - 1))
    if M < FEW:
        return mean, math.nan
    h = (sums / (M - 1) - mean) * (M - 1) / (M - 2)
    gram = members.T @ members if n < M else members @ members.T  # the smaller one
    squares = (float((gram**2).sum()) / n**2 - M) / 2  # over pairs
    rest = squares - M * (M - 1) / 2 * mean**2 - (M - 2) * float(h @ h)
    g = max(rest, 0.0) / (M * (M - 3) / 2)
    left_out = 4 * float(h @ h) / (M * (M - 1))
    least = 2 * g / (M * (M - 1))
    return mean, max(left_out - 2 * g / ((M - 1) * (M - 2)), least)


# -- trees -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Control:
    """Cophenetic correlation of surrogates without a tree.

    Attributes
    ----------
    correlation : Estimate
        Mean over surrogates.
    spread : float
        Standard deviation between them.
    p_value : float
        (1 + number of surrogates that reach the data) / (1 + surrogates).
    """

    correlation: Estimate
    spread: float
    p_value: float


@dataclass(frozen=True)
class Ultrametricity:
    """How well a tree represents the distances between examples, beside examples without one.

    Attributes
    ----------
    correlation : Estimate
        Cophenetic correlation: Pearson's, between Hamming distances and the heights at which the
        average-linkage tree joins the two examples. 1 for an ultrametric set. Its error is that of
        a jackknife over ten groups of examples.
    iid : Control
        Independent blurs of one archetype, of the mean pair overlap of the data. Some lie farther
        out than others by chance, which a tree represents well without there being branches.
    shuffled : Control
        Each feature in an order of its own, which keeps the mean of each feature.
    """

    correlation: Estimate
    iid: Control
    shuffled: Control

    @property
    def tree_like(self) -> bool:
        """Whether the data exceed both controls at p <= 0.05."""
        return max(self.iid.p_value, self.shuffled.p_value) <= SIGNIFICANT

    def __str__(self) -> str:
        controls = ", ".join(
            f"{name} {c.correlation.value:.3f} (spread {c.spread:.3f}, p = {c.p_value:.2g})"
            for name, c in (("iid", self.iid), ("shuffled", self.shuffled))
        )
        verdict = "more" if self.tree_like else "not beyond doubt more"
        return (
            f"cophenetic correlation {self.correlation}; without structure: {controls}; "
            f"{verdict} tree-like than noise"
        )


def ultrametricity(X: ArrayLike, surrogates: int = 39, seed: int = 0) -> Ultrametricity:
    """Cophenetic correlation of the examples of a class, and what noise would give.

    Every tree has a correlation well above zero, also one grown on noise (0.6 for 180 examples of
    64 signs), so the number means something only beside controls of the same size; and noise is
    not of one kind, so there are two.

    Parameters
    ----------
    X : array (n, N)
        +-1, at least 20 examples.
    surrogates : int
        Of each kind; at least 19, so that p can reach 0.05.
    seed : int
        Of the surrogates and groups.

    Raises
    ------
    ValueError
        Too few examples or surrogates, entries other than +-1, or all examples equal.

    References
    ----------
    R. R. Sokal, F. J. Rohlf, Taxon 11 (1962) 33; arXiv:2203.01304 for the claim that classes of
    real data are close to ultrametric. The controls are our own.
    """
    examples = np.asarray(X)
    check_signs(examples)
    if len(examples) < LEAST_EXAMPLES:
        raise ValueError(
            f"at least {LEAST_EXAMPLES} examples are needed to tell a tree, got {len(examples)}"
        )
    if surrogates < LEAST_SURROGATES:
        raise ValueError(f"surrogates must be at least {LEAST_SURROGATES}, got {surrogates}")
    if (examples == examples[0]).all():
        raise ValueError("all examples are equal: there is nothing to make a tree of")
    correlation = cophenetic_correlation(examples)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(examples))
    left_out = np.array(
        [
            cophenetic_correlation(np.delete(examples, part, axis=0))
            for part in np.array_split(order, 10)
        ]
    )
    stderr = math.sqrt(0.9 * float(((left_out - left_out.mean()) ** 2).sum()))
    quality = math.sqrt(max(_pair_overlap(examples.astype(np.float64))[0], 0.0))
    iid, shuffled = [], []
    for _ in track(range(surrogates), "Surrogates"):
        # the archetype is a gauge: all +1
        iid.append(cophenetic_correlation(signs(rng, examples.shape, quality)))
        shuffled.append(cophenetic_correlation(rng.permuted(examples, axis=0)))
    return Ultrametricity(
        Estimate(correlation, stderr), _control(iid, correlation), _control(shuffled, correlation)
    )


def cophenetic_correlation(X: np.ndarray) -> float:
    """Correlation of the Hamming distances with the heights of the average-linkage tree.

    1 if all pairs are at the same distance: any tree fits.
    """
    from scipy.cluster.hierarchy import cophenet, linkage
    from scipy.spatial.distance import pdist

    distances = pdist(X, "hamming")
    if np.ptp(distances) == 0:
        return 1.0
    return float(cophenet(linkage(distances, "average"), distances)[0])


def _control(values: list[float], correlation: float) -> Control:
    n = len(values)
    spread = float(np.std(values, ddof=1))
    reached = int(np.sum(np.array(values) >= correlation))
    mean = Estimate(float(np.mean(values)), spread / math.sqrt(n), n_eff=float(n))
    return Control(mean, spread, (1 + reached) / (1 + n))

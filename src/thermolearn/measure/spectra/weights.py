"""Is this weight matrix random? Singular values beside what independent entries would give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.checks import whole
from thermolearn.core.copying import check_measurable, unwrap
from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.core.progress import track
from thermolearn.measure.spectra.comparison import (
    LEVEL,
    SHUFFLES,
    TAILED,
    compare,
    no_structure,
    rounding,
    shuffled,
    squared_singular_values,
)
from thermolearn.measure.spectra.tail import LEAST, PowerLaw, fit_power_law

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, eq=False)
class WeightSpectrum:
    """Singular values of one weight matrix and what they say.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the matrix; `convention` says how it was made.
    singular_values : ndarray (min(shape),)
        Descending. Squares below 1e-16 of the largest are rounding.
    sigma : Estimate
        Standard deviation of the entries of the random part, outliers taken out.
    edge, edge_scale : float
        Where the largest singular value of independent entries of this sigma lies, and the scale
        of its Tracy-Widom fluctuation there.
    outliers : list of (value, p)
        Singular values above that edge, each with the probability that a random matrix of this
        shape has its largest one there; counted at the 0.5% level.
    bulk_distance : float
        Largest distance of the distribution of the rest from the Marchenko-Pastur law.
    bulk_p : float
        Its p-value, calibrated by simulation at finite size (approximate; 1 means >= 0.3).
    excess_kurtosis : Estimate
        Of the entries: 0 for Gaussian, -1.2 for uniform ones; 0 +- stderr is the null of the
        Gaussian.
    verdict : str
        "random": no outlier, and the bulk follows the law; "outliers": the same but for
        outliers, a quarter of the singular values at most;
        "heavy-tailed": not random, and a power law in the tail cannot be ruled out and beats the
        exponential; "other": not random and none of these; "heavy entries": the test does not
        apply, because the entries themselves are heavy-tailed or masked and the same entries in
        random places give such a spectrum as well (or were not tried); "flat": all singular
        values are equal (orthogonal); "too small": fewer than 8 singular values; "zero".
    reason : str
        One sentence.
    tail : PowerLaw, optional
        Of the eigenvalues s^2, where the bulk is not random; None elsewhere: a fit to a random
        bulk means nothing.
    shuffle_p : float
        Exact p-value of the spectrum among those of the same entries in random places, at least
        0.02; NaN where it was not needed or not tried.
    """

    shape: tuple[int, int]
    convention: str
    singular_values: np.ndarray
    sigma: Estimate
    edge: float
    edge_scale: float
    outliers: list[tuple[float, float]]
    bulk_distance: float
    bulk_p: float
    excess_kurtosis: Estimate
    verdict: str
    reason: str
    tail: PowerLaw | None
    shuffle_p: float = math.nan

    @property
    def edge_ratio(self) -> Estimate:
        """Largest singular value over the edge; the error is the Tracy-Widom fluctuation."""
        if not self.edge > 0:
            return Estimate(math.nan, math.nan, status=self.verdict)
        spread = 1.268 * self.edge_scale / self.edge
        return Estimate(float(self.singular_values[0]) / self.edge, spread)

    @property
    def stable_rank(self) -> float:
        """|W|_F^2/|W|^2, between 1 and min(shape)."""
        return stable_rank(self.singular_values)

    @property
    def entropy(self) -> float:
        """-sum p ln p in nats, p the shares of s^2; at most ln min(shape)."""
        return entropy(self.singular_values)


def stable_rank(s: np.ndarray) -> float:
    """Sum of s^2 over the largest."""
    return float((s**2).sum() / s[0] ** 2) if s[0] > 0 else math.nan


def entropy(s: np.ndarray) -> float:
    """Entropy of the shares of s^2, in nats."""
    if not s[0] > 0:
        return math.nan
    p = s**2 / (s**2).sum()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def weight_spectrum(
    weight: Tensor | nn.Module,
    *,
    resamples: int = 200,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> WeightSpectrum:
    """Singular values of a weight against the null hypothesis of independent random entries.

    Parameters
    ----------
    weight : Tensor or Module
        A tensor with two axes or more, or a layer with such a ``weight``. First axis by all
        others: the kernel of a convolution is taken as out x (in k), of a transposed one the axis
        of the outputs comes first; of grouped convolutions the rows of all groups are stacked.
    resamples : int
        For goodness of fit and error of the power law; used only where the bulk is not random.
        0: no goodness of fit, and the verdict "heavy-tailed" is not given.
    shuffles : int
        Most matrices of the same entries in random places that are tried where the entries have
        an excess kurtosis above 0.5 and the laws say "not random"; ended as soon as the answer
        is "no structure". Fewer than 99 cannot show structure, and the verdict of such entries
        is then "heavy entries".
    seed : int
        Of the resamples and shuffles.

    Raises
    ------
    TypeError, ValueError
        Not a tensor or a layer with a weight; fewer than two axes; not real; not finite.

    Notes
    -----
    sigma comes first from the median singular value, which outliers hardly move, then from the sum
    of squares of what lies below the edge; outliers and sigma are repeated until they agree. A
    random matrix of entries with light tails (Gaussian, uniform, signs) is called otherwise in
    about 2% of the cases (4% at 8 x 8).

    Long tails and masks raise the largest singular value and bend the bulk without any structure.
    Above an excess kurtosis of 0.5 the laws are therefore only a first look: what departs from
    them is compared with the same entries in random places, an exact null hypothesis. It is
    structure only if the largest singular value or the distance of the bulk exceeds that of all
    99 shuffles: at most 2% of the matrices without structure that come so far. The test
    sees singular values only. Outliers tell of structure, not of quality, and there is no verdict
    on generalization.

    References
    ----------
    Marchenko, Pastur, Math. USSR Sb. 1 (1967) 457; Johnstone, Ann. Statist. 29 (2001) 295;
    Gavish, Donoho, arXiv:1305.5870 (sigma from the median); Clauset, Shalizi, Newman,
    arXiv:0706.1062 (tail); Besag, Clifford, Biometrika 78 (1991) 301 (shuffles one by one).
    """
    whole("resamples", resamples, least=0)
    whole("shuffles", shuffles, least=0)
    whole("seed", seed, least=0)
    matrix, convention = _as_matrix(weight)
    return _spectrum(matrix, convention, resamples, shuffles, seed)


def weight_spectra(
    model: nn.Module, *, resamples: int = 200, shuffles: int = SHUFFLES, seed: int = 0
) -> dict[str, WeightSpectrum]:
    """`weight_spectrum` of every parameter with two axes or more, by its name.

    Frozen ones too; a tied one once, where it comes first. The model is only read.

    Raises
    ------
    TypeError, ValueError
        Not a module, or a weight that is not real or not finite (its name is in the message).
    NotApplicableError
        No parameter has two axes, or the parameters cannot be read.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    whole("resamples", resamples, least=0)
    whole("shuffles", shuffles, least=0)
    whole("seed", seed, least=0)
    found = {}
    for name, (tensor, transposed) in track(list(matrices(unwrap(model)).items()), "spectra"):
        try:
            matrix, convention = _reshaped(tensor, transposed)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
        found[name] = _spectrum(matrix, convention, resamples, shuffles, seed)
    return found


def matrices(model: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """Parameters with two axes or more by name, and whether the second axis is the outputs'.

    Raises
    ------
    NotApplicableError
        There is none.
    """
    check_measurable(model)
    transposed = {id(module.weight) for module in model.modules() if isinstance(module, TRANSPOSED)}
    found: dict[str, tuple[Tensor, bool]] = {
        name: (p, id(p) in transposed)
        for name, p in model.named_parameters()
        if p.dim() >= 2 and p.numel()
    }
    if not found:
        raise NotApplicableError("the model has no weight with two axes or more")
    return found


def _as_matrix(weight: Any) -> tuple[Tensor, str]:
    if isinstance(weight, nn.Module):
        tensor = getattr(weight, "weight", None)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"weight: {type(weight).__name__} has no tensor called weight")
        return _reshaped(tensor, isinstance(weight, TRANSPOSED))
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor or a layer, got {type(weight).__name__}")
    return _reshaped(weight, False)


def _reshaped(weight: Tensor, transposed: bool) -> tuple[Tensor, str]:
    """The matrix in float64 on its device, and the words for how it was made."""
    tensor = weight.detach()
    if tensor.is_complex() or not tensor.is_floating_point():
        raise ValueError(f"weight must be real, got {tensor.dtype}")
    if tensor.dim() < 2 or not tensor.numel():
        raise ValueError(f"weight needs two axes, got shape {tuple(tensor.shape)}")
    if transposed:
        tensor = tensor.transpose(0, 1)
    convention = "as it is" if tensor.dim() == 2 else "first axis x all others"
    if transposed:
        convention = "outputs x (inputs k)"
    elif tensor.dim() > 2:
        convention = "outputs x (inputs k)" if tensor.dim() <= 5 else convention
    matrix = tensor.flatten(1)
    matrix = (matrix.cpu() if matrix.device.type == "mps" else matrix).double()
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("weight holds a number that is not finite")
    return matrix, convention


def _spectrum(
    matrix: Tensor, convention: str, resamples: int, shuffles: int, seed: int
) -> WeightSpectrum:
    """Everything about one matrix in float64."""
    squares = squared_singular_values(matrix)
    found = compare(squares, max(matrix.shape), rounding(matrix))
    verdict, reason, tail, p = found.verdict, found.reason, None, math.nan
    kurtosis = _kurtosis(matrix)
    if verdict in ("outliers", "other") and float(kurtosis.value) > TAILED:
        p = shuffled(matrix, squares, found, shuffles, seed)
        if p <= LEVEL * 2:
            reason = f"{reason}; the same entries in random places do not give this (p = {p:.2g})"
        else:
            verdict, reason = "heavy entries", no_structure(kurtosis, p)
    if verdict == "other" and len(squares) >= 2 * LEAST:
        try:
            tail = fit_power_law(squares, resamples, seed)
        except ValueError:  # too few distinct eigenvalues
            tail = None
        if tail is not None and tail.heavy:
            verdict = "heavy-tailed"
            reason = (
                f"{reason}; a power law with alpha = {tail.alpha} in the {tail.n_tail} largest "
                f"eigenvalues is not ruled out (p = {tail.p_value}) and beats the exponential"
            )
    return WeightSpectrum(
        (int(matrix.shape[0]), int(matrix.shape[1])),
        convention,
        np.sqrt(squares[::-1]),
        found.sigma,
        found.edge,
        found.edge_scale,
        found.outliers,
        found.distance,
        found.p,
        kurtosis,
        verdict,
        reason,
        tail,
        p,
    )


def _kurtosis(matrix: Tensor) -> Estimate:
    """Excess kurtosis of the entries; stderr is that of Gaussian entries."""
    n = matrix.numel()
    squares = matrix.sub(matrix.mean()).square_()
    second = float(squares.mean())
    if n < 4 or second == 0:
        return Estimate(math.nan, math.nan, status="not defined")
    fourth = float(squares.flatten() @ squares.flatten()) / n
    return Estimate(fourth / second**2 - 3, math.sqrt(24 / n), n_eff=float(n))

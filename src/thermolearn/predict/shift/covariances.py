"""Covariance matrices as they are given, and which of two shifts is harder."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def checked_covariance(
    name: str, given: ArrayLike, dim: int | None = None, zero: bool = False
) -> np.ndarray:
    """The matrix (d, d) in float64; a vector is taken as its diagonal.

    Raises
    ------
    ValueError
        Not finite, not square or of another size, not symmetric, a negative eigenvalue, or (unless
        `zero`) no variance at all.
    """
    try:
        matrix = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers") from error
    if matrix.ndim == 1:
        matrix = np.diag(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"{name} must be a (d, d) matrix or a (d,) diagonal, got {matrix.shape}")
    if dim is not None and len(matrix) != dim:
        raise ValueError(f"{name} has {len(matrix)} dimensions, cov_train has {dim}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} holds a non-finite number; drop or fill missing values first")
    scale = float(np.abs(matrix).max())
    if np.abs(matrix - matrix.T).max() > 1e-10 * scale:
        raise ValueError(f"{name} is not symmetric")
    matrix = 0.5 * (matrix + matrix.T)
    if scale > 0 and np.linalg.eigvalsh(matrix)[0] < -1e-10 * scale * len(matrix):
        raise ValueError(f"{name} has a negative eigenvalue: it is not a covariance")
    if scale == 0 and not zero:
        raise ValueError(f"{name} is zero: the inputs do not vary")
    return matrix


def shift_order(
    cov_train: ArrayLike, cov1: ArrayLike, cov2: ArrayLike, tolerance: float = 1e-9
) -> str:
    """Whether test covariance 1 is an easier shift than test covariance 2.

    With the overlaps r_i = v_i' Sigma* v_i along the eigenvectors v_i of the training covariance,
    shift 1 is easier if r1_i / r2_i does not fall with the eigenvalue: it has more of its
    variance where training has. If all three traces are equal, the bias and the error of a
    random-feature model with an isotropic signal are then not larger. At another trace than that
    of training the slope of the activation changes, and the order may turn round.

    Parameters
    ----------
    cov_train, cov1, cov2 : array (d, d) or (d,)
        Training covariance and the two test covariances.
    tolerance : float
        Relative difference of traces, eigenvalues and ratios that counts as none.

    Returns
    -------
    str
        ``"easier"`` (1 is easier than 2), ``"harder"``, ``"equal"``, or ``"incomparable"``: the
        ratio goes up and down, or the traces of the three covariances are not the same (scale
        both test covariances to the trace of training, or ask `RFShiftTheory` for the errors). The
        order is partial. Among equal eigenvalues of the training covariance overlaps are averaged:
        only their sum counts.

    Raises
    ------
    ValueError
        As for `RFShiftTheory`.

    References
    ----------
    Tripuraneni, Adlam, Pennington, arXiv:2111.08234, definition of shift strength.
    """
    train = checked_covariance("cov_train", cov_train)
    first = checked_covariance("cov1", cov1, len(train))
    second = checked_covariance("cov2", cov2, len(train))
    ell, basis = np.linalg.eigh(train)
    one, two = (
        np.clip(np.einsum("ji,jk,ki->i", basis, c, basis, optimize=True), 0.0, None)
        for c in (first, second)
    )
    traces = np.array([ell.sum(), one.sum(), two.sum()])
    if np.ptp(traces) > tolerance * traces.max():
        return "incomparable"
    edges = np.flatnonzero(np.diff(ell) > tolerance * ell[-1]) + 1
    one, two = (np.array([part.mean() for part in np.split(r, edges)]) for r in (one, two))
    # r1_i r2_j <= r1_j r2_i for all i < j: the ratio rises, also where an overlap vanishes
    low, high = np.triu_indices(len(one), 1)
    cross = one[high] * two[low] - one[low] * two[high]
    floor = tolerance * (one[high] * two[low] + one[low] * two[high]) + 1e-300
    rises, falls = bool((cross > floor).any()), bool((cross < -floor).any())
    if rises and falls:
        return "incomparable"
    return "easier" if rises else "harder" if falls else "equal"

"""A number with its error bar, and the resampling that makes error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Value = float | np.ndarray


SHOWN = 8  # elements of an array that are written out


def summary(x: Any) -> str:
    """A number, a short array in full, or shape and range of a long one."""
    array = np.asarray(x)
    if array.size <= SHOWN or array.dtype.kind not in "fiub":
        return repr(array.tolist())
    finite = array[np.isfinite(array)]
    out = f"<{' x '.join(map(str, array.shape))} from "
    out += f"{finite.min():.6g} to {finite.max():.6g}" if finite.size else "nan"
    lost = array.size - finite.size
    return out + (f", {lost} not finite>" if lost and finite.size else ">")


def _plain(x: Any) -> Value:
    """Float for a scalar, float64 array otherwise; tensors are detached."""
    if hasattr(x, "detach"):
        x = x.detach().cpu().numpy()
    array = np.asarray(x, dtype=np.float64)
    return float(array) if array.ndim == 0 else array


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value with its standard error, effective sample number and validity.

    Parameters
    ----------
    value : float or ndarray
        The number. Arithmetic with plain numbers (``2 * e``, ``e - 1``), ``abs``, ``float(e)`` and
        comparisons act on the value; scaling scales the error bar with it. Two Estimates are never
        subtracted or added with an operator: independent ones go through `combine_independent` or
        `difference`, anything computed from shared samples through `jackknife`.
    stderr : float or ndarray
        Standard error; 0 for exact results, NaN where a single sample gives none.
    n_eff : float, optional
        Effective number of independent samples behind the value.
    status : str
        ``"ok"`` or a word that says why the number must not be used as it stands.
    note : str
        The condition under which the number holds, in one sentence.
    """

    value: Value
    stderr: Value = 0.0
    n_eff: float | None = None
    status: str = "ok"
    note: str = ""

    def __post_init__(self) -> None:
        value, stderr = _plain(self.value), _plain(self.stderr)
        if np.shape(stderr) not in ((), np.shape(value)):
            raise ValueError(
                f"stderr has shape {np.shape(stderr)}, value has shape {np.shape(value)}; "
                "give one error bar, or one per element"
            )
        if np.any(np.asarray(stderr) < 0):
            raise ValueError("stderr is negative")
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "stderr", stderr)

    # -- the value as a number ---------------------------------------------------------------
    def __float__(self) -> float:
        return float(self.value)

    def item(self) -> float:
        """The value as a float (scalars only)."""
        return float(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype=dtype)

    def _scaled(self, factor: Any, shift: Any = 0.0) -> Estimate:
        if isinstance(factor, Estimate) or isinstance(shift, Estimate):
            raise TypeError(
                "two Estimates are not combined by an operator: use difference() or "
                "combine_independent() if they are independent, jackknife() if they share samples"
            )
        return replace(self, value=self.value * factor + shift, stderr=self.stderr * np.abs(factor))

    def __mul__(self, other: Any) -> Estimate:
        return self._scaled(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Estimate:
        if isinstance(other, Estimate):
            return self._scaled(other)
        return self._scaled(1.0 / other)

    def __add__(self, other: Any) -> Estimate:
        return self._scaled(1.0, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Estimate:
        return self._scaled(1.0, other if isinstance(other, Estimate) else -other)

    def __rsub__(self, other: Any) -> Estimate:
        return self._scaled(-1.0, other)

    def __neg__(self) -> Estimate:
        return self._scaled(-1.0)

    def __abs__(self) -> Estimate:
        return replace(self, value=np.abs(self.value))

    def __lt__(self, other: Any) -> Any:
        return self.value < _plain(other)

    def __le__(self, other: Any) -> Any:
        return self.value <= _plain(other)

    def __gt__(self, other: Any) -> Any:
        return self.value > _plain(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= _plain(other)

    # -- text and storage --------------------------------------------------------------------
    def __repr__(self) -> str:
        return (
            f"Estimate(value={summary(self.value)}, stderr={summary(self.stderr)}, "
            f"n_eff={self.n_eff!r}, status={self.status!r}, note={self.note!r})"
        )

    def __str__(self) -> str:
        if isinstance(self.value, np.ndarray):
            return f"Estimate(array of shape {self.value.shape})"
        return format_with_error(self.value, float(self.stderr)) + (
            "" if self.status == "ok" else f" [{self.status}]"
        )

    def __format__(self, spec: str) -> str:
        """The value in a number format; without one, value and error bar as in ``str``."""
        return format(float(self.value), spec) if spec else str(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; non-finite numbers become None (the status says why)."""
        out: dict[str, Any] = {"value": _jsonable(self.value), "stderr": _jsonable(self.stderr)}
        if self.n_eff is not None:
            out["n_eff"] = _jsonable(self.n_eff)
        if self.status != "ok":
            out["status"] = self.status
        if self.note:
            out["note"] = self.note
        return out

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Estimate:
        """Inverse of `to_dict`; None becomes NaN."""
        return cls(
            _from_json(row["value"]),
            _from_json(row.get("stderr", 0.0)),
            None if row.get("n_eff") is None else float(row["n_eff"]),
            row.get("status", "ok"),
            row.get("note", ""),
        )


def _jsonable(x: Any) -> Any:
    array = np.asarray(x, dtype=np.float64)
    if array.ndim == 0:
        return float(array) if math.isfinite(float(array)) else None
    return [_jsonable(v) for v in array]


def _from_json(x: Any) -> Value:
    return _plain(np.array(x, dtype=np.float64)) if x is not None else math.nan


def format_with_error(value: float, stderr: float) -> str:
    """``0.05213(97)``: the error in units of the last digits shown, two digits of error.

    A value that is not finite is "nan", "inf" or "-inf".
    """
    if not math.isfinite(value):
        return f"{value:g}"
    if not math.isfinite(stderr):
        return f"{value:.6g}(?)"
    if stderr <= 0 or stderr < 1e-12 * abs(value):
        return f"{value:.6g}"
    stderr = float(f"{stderr:.1e}")  # .0996 is .10, not .100
    digits = max(0, 1 - math.floor(math.log10(stderr)))
    if digits > 6 or abs(value) >= 1e6:
        return f"{value:.6g} +- {stderr:.2g}"
    scaled = round(stderr * 10**digits)
    return f"{value:.{digits}f}({scaled})" if digits else f"{value:.0f}({stderr:.0f})"


def mean_estimate(
    samples: ArrayLike, axis: int = 0, status: str = "ok", note: str = ""
) -> Estimate:
    """Mean of independent samples with its standard error (ddof = 1; NaN for one sample).

    Raises
    ------
    ValueError
        If there is no sample.
    """
    x = np.asarray(_plain(samples), dtype=np.float64)
    if x.ndim == 0 or x.shape[axis] == 0:
        raise ValueError("mean_estimate needs at least one sample along the axis")
    n = x.shape[axis]
    stderr = x.std(axis, ddof=1) / math.sqrt(n) if n > 1 else np.full(x.mean(axis).shape, np.nan)
    return Estimate(x.mean(axis), stderr, n_eff=float(n), status=status, note=note)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b for *independent* Estimates; the error bars add in quadrature."""
    return Estimate(
        a.value - b.value,
        np.hypot(a.stderr, b.stderr),
        status=a.status if a.status != "ok" else b.status,
    )


def combine_independent(estimates: Sequence[Estimate]) -> Estimate:
    """Inverse-variance mean of independent Estimates of one quantity.

    Raises
    ------
    ValueError
        If there is none, or one has no positive finite error bar.
    """
    if not estimates:
        raise ValueError("combine_independent needs at least one Estimate")
    stderr = np.array([e.stderr for e in estimates], dtype=np.float64)
    if not np.all(np.isfinite(stderr)) or np.any(stderr <= 0):
        raise ValueError("combine_independent needs a positive, finite stderr for every Estimate")
    weight = stderr**-2.0
    value = np.array([e.value for e in estimates])
    bad = [e.status for e in estimates if e.status != "ok"]
    return Estimate(
        (weight * value).sum(0) / weight.sum(0),
        weight.sum(0) ** -0.5,
        status=bad[0] if bad else "ok",
    )


def jackknife(
    statistic: Callable[..., ArrayLike], *samples: ArrayLike, blocks: int | None = None
) -> Estimate:
    """A statistic of shared samples with its block-jackknife error and bias correction.

    theta_J = n theta - (n - 1) mean_k theta_(k),  stderr^2 = (n-1)/n sum_k (theta_(k) - mean)^2,
    theta_(k) the statistic without block k.

    Parameters
    ----------
    statistic : callable
        Takes the arrays (sample axis first), returns a float or an array.
    samples : arrays of one common length
        Samples that belong together share their index.
    blocks : int, optional
        Number of equal blocks (correlated samples: blocks longer than the correlation time).
        Default: the shortest blocks that make at most 200 of them. Samples left over after
        equal blocks are dropped.

    Raises
    ------
    ValueError
        Fewer than two samples or blocks, or lengths that differ.
    """
    arrays = [np.asarray(_plain(s), dtype=np.float64) for s in samples]
    n = len(arrays[0]) if arrays and arrays[0].ndim else 0
    if n < 2 or any(a.ndim == 0 or len(a) != n for a in arrays):
        raise ValueError("jackknife needs at least two samples, and arrays of one common length")
    # the shortest blocks that make at most 200: a remainder of less than one block is dropped
    n_blocks = n // -(-n // 200) if blocks is None else blocks
    if not 2 <= n_blocks <= n:
        raise ValueError(f"blocks must lie between 2 and the number of samples {n}, got {n_blocks}")
    n_used = n - n % n_blocks
    arrays = [a[:n_used] for a in arrays]
    index = np.arange(n_used)
    left_out = np.stack(
        [
            np.asarray(statistic(*(a[~np.isin(index, block)] for a in arrays)), dtype=np.float64)
            for block in np.split(index, n_blocks)
        ]
    )
    whole = np.asarray(statistic(*arrays), dtype=np.float64)
    center = left_out.mean(0)
    stderr = np.sqrt((n_blocks - 1) / n_blocks * ((left_out - center) ** 2).sum(0))
    return Estimate(n_blocks * whole - (n_blocks - 1) * center, stderr, n_eff=float(n_blocks))

"""Losses l(h, y) of a linear classifier with their two derivatives in the field h."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit

from thermolearn.core.checks import real
from thermolearn.core.errors import NotApplicableError

Function = Callable[[Any, Any], np.ndarray]

# Where a callable is tried out: 4001 fields in [-20, 20], a grid that misses the round numbers.
REACH, POINTS = 20.0, 4001


def _no_kinks(y: float) -> tuple[float, ...]:
    return ()


def _known(jumps: Mapping[float, tuple[float, ...]], y: float) -> tuple[float, ...]:
    return jumps.get(y, ())


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss and its derivatives, elementwise on float64 arrays that broadcast.

    Attributes
    ----------
    name : str
    value, first, second : callable (h, y) -> array
        l, l' and l'' in h.
    convex : bool
        In h, for all labels in use.
    kinks : callable y -> tuple of float
        Fields where l'' jumps.
    minimum : float or None
        inf_h l(h, y), the same for all labels, where l approaches it only at infinity (logistic);
        None where a minimum is attained.
    signed : bool
        Whether the loss is of the margin y h, so that the label must have a sign: 0 is none.

    Notes
    -----
    A loss can be pickled if its functions can; those of this module can.
    """

    name: str
    value: Function
    first: Function
    second: Function
    convex: bool
    kinks: Callable[[float], tuple[float, ...]] = _no_kinks
    minimum: float | None = None
    signed: bool = False


# functions of the module, not closures: a closure cannot be pickled
def _square(h: Any, y: Any) -> np.ndarray:
    return 0.5 * (h - y) ** 2


def _square_first(h: Any, y: Any) -> np.ndarray:
    return h - y


def _square_second(h: Any, y: Any) -> np.ndarray:
    return np.ones(np.broadcast(h, y).shape)


def quadratic() -> Loss:
    """l = (h - y)^2/2."""
    return Loss("quadratic", _square, _square_first, _square_second, convex=True)


def _logistic(h: Any, y: Any) -> np.ndarray:
    return np.logaddexp(0.0, -y * h)


def _logistic_first(h: Any, y: Any) -> np.ndarray:
    return -y * expit(-y * h)


def _logistic_second(h: Any, y: Any) -> np.ndarray:
    return y**2 * expit(y * h) * expit(-y * h)


def logistic() -> Loss:
    """l = log(1 + e^{-y h})."""
    return Loss(
        "logistic",
        _logistic,
        _logistic_first,
        _logistic_second,
        convex=True,
        minimum=0.0,
        signed=True,
    )


def _hinge2(kappa: float, h: Any, y: Any) -> np.ndarray:
    return 0.5 * np.maximum(kappa - y * h, 0.0) ** 2


def _hinge2_first(kappa: float, h: Any, y: Any) -> np.ndarray:
    return -y * np.maximum(kappa - y * h, 0.0)


def _hinge2_second(kappa: float, h: Any, y: Any) -> np.ndarray:
    return y**2 * (kappa - y * h > 0)


def _hinge2_kinks(kappa: float, y: float) -> tuple[float, ...]:
    return (kappa / y,) if y else ()


def hinge2(kappa: float = 1.0) -> Loss:
    """l = max(kappa - y h, 0)^2/2, the squared hinge with margin kappa.

    Raises
    ------
    ValueError
        kappa not finite.
    """
    kappa = real("kappa", kappa)
    return Loss(
        f"hinge2 (kappa = {kappa:g})",
        partial(_hinge2, kappa),
        partial(_hinge2_first, kappa),
        partial(_hinge2_second, kappa),
        convex=True,
        kinks=partial(_hinge2_kinks, kappa),
        signed=True,
    )


NAMED: dict[str, Callable[[], Loss]] = {
    "quadratic": quadratic,
    "logistic": logistic,
    "hinge2": hinge2,
}


def as_loss(loss: str | Loss | Callable[..., Any], labels: Sequence[float] = (-1.0, 1.0)) -> Loss:
    """The loss of a name, or of a function of torch tensors.

    Parameters
    ----------
    loss : "quadratic", "logistic", "hinge2" (margin 1), Loss, or callable (h, y) -> l
        A callable acts elementwise on float64 tensors h and y of one shape and is differentiated
        by torch.func; convexity is looked for on [-20, 20].
    labels : sequence of float
        In use. "logistic" and "hinge2" are for -1 and 1; of a signed Loss, ``hinge2(1.0)`` say,
        they may have other sizes, which scale the margin, but not be 0. A callable is tried out
        for them.

    Raises
    ------
    ValueError
        An unknown name; labels of 0 and 1, or others that do not fit the loss; a callable that
        changes the shape, mixes elements or is not finite.
    NotApplicableError
        A callable that torch cannot differentiate.
    TypeError
        Anything else.
    """
    if isinstance(loss, Loss):
        _check_labels(loss, labels, strict=False)
        return loss
    if isinstance(loss, str):
        if loss not in NAMED:
            raise ValueError(
                f"loss must be one of {sorted(NAMED)} or a callable l(h, y), got {loss!r}"
            )
        found = NAMED[loss]()
        _check_labels(found, labels, strict=True)
        return found
    if not callable(loss):
        raise TypeError(f"loss must be a name, a Loss or a callable l(h, y), got {loss!r}")
    return _from_callable(loss, labels)


def _check_labels(loss: Loss, labels: Sequence[float], strict: bool) -> None:
    """Of a label 0 a loss of y h learns nothing, without a word."""
    unfit = {y for y in labels if y == 0 or (strict and abs(y) != 1)}
    if loss.signed and unfit:
        found = ", ".join(f"{y:g}" for y in sorted(set(labels))[:6])
        hint = "; of labels 0 and 1 make 2 * y - 1" if set(labels) <= {0, 1} else ""
        need = "-1 and 1" if strict else "positive and negative, not 0"
        raise ValueError(f"labels of the loss {loss.name} must be {need}, got {found}{hint}")


@dataclass(frozen=True)
class _OfTorch:
    """A function of torch tensors on arrays, or its derivative of that order in h."""

    function: Callable[..., Any]
    order: int

    def __call__(self, h: Any, y: Any) -> np.ndarray:
        import torch

        def total(fields: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.function(fields, labels).sum()

        def slopes(fields: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return torch.func.grad(total)(fields, labels).sum()

        f = (self.function, torch.func.grad(total), torch.func.grad(slopes))[self.order]
        pair = np.broadcast_arrays(np.asarray(h, dtype=float), np.asarray(y, dtype=float))
        # copies: torch does not take read-only views
        return f(*(torch.from_numpy(np.array(a)) for a in pair)).detach().numpy()


def _from_callable(function: Callable[..., Any], labels: Sequence[float]) -> Loss:
    name = getattr(function, "__name__", type(function).__name__)
    grid = np.linspace(-REACH, REACH, POINTS) + 1e-3 / np.pi
    h = np.tile(grid, len(set(labels)))
    y = np.repeat(sorted(set(labels)), POINTS)
    _check_elementwise(function, h, y)
    value, first, second = (_OfTorch(function, order) for order in range(3))
    try:
        curvature = second(h, y)
        finite = all(np.isfinite(a).all() for a in (value(h, y), first(h, y), curvature))
    except RuntimeError as error:
        raise NotApplicableError(
            f"loss {name} cannot be differentiated twice by torch.func: {error}"
        ) from error
    if not finite:
        raise ValueError(f"loss {name} or a derivative is not finite on [-{REACH:g}, {REACH:g}]")
    _check_derivative(name, value, first, h, y)
    _check_derivative(name, first, second, h, y)
    convex = bool(curvature.min() >= -1e-9 * max(1.0, float(np.abs(curvature).max())))
    jumps = {label: _jumps(lambda x, y=label: second(x, y), grid) for label in set(labels)}
    return Loss(name, value, first, second, convex, partial(_known, jumps))


def _jumps(curvature: Callable[[np.ndarray], np.ndarray], grid: np.ndarray) -> tuple[float, ...]:
    """Where a function jumps: the difference over a cell of the grid stays when it shrinks."""
    size = np.abs(np.diff(curvature(grid)))
    cells = np.flatnonzero(size > 1e-6 * max(float(size.max()), 1e-300))
    low, high, size = grid[cells], grid[cells + 1], size[cells]
    for halvings in (6, 40):  # the first ones sort out what is smooth
        for _ in range(halvings if len(low) else 0):
            middle = 0.5 * (low + high)
            left, center, right = (curvature(x) for x in (low, middle, high))
            lower = np.abs(center - left) >= np.abs(right - center)
            low, high = np.where(lower, low, middle), np.where(lower, middle, high)
        jump = np.abs(curvature(high) - curvature(low)) > 0.3 * size
        low, high, size = low[jump], high[jump], size[jump]
    return tuple(float(x) for x in 0.5 * (low + high))


def _check_derivative(
    name: str, f: Function, slope: Function, h: np.ndarray, y: np.ndarray
) -> None:
    """Against differences: a detached or non-differentiable piece has gradient 0 without a word."""
    e = 1e-4
    expected = (f(h + e, y) - f(h - e, y)) / (2 * e)
    miss = np.abs(slope(h, y) - expected) > 1e-4 * (1 + np.abs(expected))
    if miss.mean() > 0.01:  # differences across a kink may miss
        raise NotApplicableError(
            f"loss {name} is not differentiated rightly by torch.func (a detached or constant "
            "piece?): write it with differentiable torch operations"
        )


def _check_elementwise(function: Callable[..., Any], h: np.ndarray, y: np.ndarray) -> None:
    import torch

    some = slice(None, None, max(1, len(h) // 50))
    fields, labels = torch.from_numpy(h[some].copy()), torch.from_numpy(y[some].copy())
    try:
        whole = function(fields, labels)
        single = [function(a, b) for a, b in zip(fields[:, None], labels[:, None], strict=True)]
        if not torch.is_tensor(whole):
            raise TypeError(f"it returns {type(whole).__name__}")
    except (TypeError, RuntimeError, AttributeError) as error:
        raise NotApplicableError(
            "loss must be written for torch tensors h and y of one shape and return a tensor of "
            f"that shape: {error}"
        ) from error
    if whole.shape != fields.shape or whole.dtype != torch.float64:
        raise ValueError(
            f"loss must keep shape and precision: from float64 {tuple(fields.shape)} it makes "
            f"{whole.dtype} {tuple(whole.shape)}"
        )
    if not torch.allclose(whole, torch.cat(single), rtol=1e-9, atol=1e-12, equal_nan=True):
        raise ValueError("loss must act elementwise: the loss of a sample depends on the others")

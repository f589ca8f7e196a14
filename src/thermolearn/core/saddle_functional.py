"""A free-energy functional with its derivatives, checked; Gaussian averages to write it with."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Beyond this many standard deviations the Gaussian carries less than 1e-22 of its mass.
REACH = 10.0
# Agreement asked between autograd and a central difference, relative and absolute.
GRADIENT_RTOL, GRADIENT_ATOL = 1e-4, 1e-7

Interval = tuple[float, float]


class UndefinedStartError(ValueError):
    """f is not finite at a start."""


def gauss_average(
    g: Callable[[torch.Tensor], torch.Tensor], steepness: float = 15.0
) -> torch.Tensor:
    """E g(z) over z ~ N(0, 1) by the trapezoid rule, differentiable in what g depends on.

    The rule has spacing h = pi^2 / (36 steepness) on +-10. A function analytic within a distance d
    of the real axis is integrated to exp(-2 pi d / h): for tanh(beta (m + sqrt(R) z)), whose poles
    are d = pi / (2 beta sqrt(R)) away, to exp(-36 steepness / (beta sqrt(R))), which is 1e-15
    while beta sqrt(R) <= steepness, 1e-8 at twice and 1e-4 at four times the steepness. Kinks and
    jumps are not for this rule: use their closed form (torch.erf).

    Parameters
    ----------
    g : callable
        Maps the nodes z, a float64 tensor (n,), to a tensor (..., n); the last axis is averaged.
    steepness : float
        Largest slope of tanh's argument in z that is to be exact to rounding, in (0, 200].
        The cost is 73 nodes per unit, 1097 by default.

    Raises
    ------
    ValueError
        steepness out of range, or g that does not keep the nodes as its last axis.
    """
    if not 0 < steepness <= 200:
        raise ValueError(f"steepness must lie in (0, 200], got {steepness}")
    z, weight = _trapezoid(float(steepness))
    values = g(z)
    if not isinstance(values, torch.Tensor) or values.ndim == 0 or values.shape[-1] != len(z):
        raise ValueError(
            f"g must return a tensor whose last axis are the {len(z)} nodes it was given"
        )
    return values @ weight.to(values.dtype)


@functools.lru_cache(maxsize=32)
def _trapezoid(steepness: float) -> tuple[torch.Tensor, torch.Tensor]:
    spacing = math.pi**2 / (36 * steepness)
    half = max(math.ceil(REACH / min(spacing, 0.25)), 1)
    z = torch.linspace(-REACH, REACH, 2 * half + 1, dtype=torch.float64)
    weight = torch.exp(-(z**2) / 2)
    return z, weight / weight.sum()


def log2cosh(x: torch.Tensor) -> torch.Tensor:
    """ln(2 cosh x) without overflow, with exact first and second derivatives everywhere.

    (|x| + log1p(exp(-2 |x|)) has curvature 0 at x = 0, and torch.logaddexp(x, -x) curvature NaN
    beyond |x| = 350.)
    """
    return torch.nn.functional.softplus(2 * x, threshold=60.0) - x


# -- the functional ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Jet:
    """Value (), gradient (n,) and Hessian (n, n) of the functional at a point."""

    value: float
    gradient: np.ndarray
    hessian: np.ndarray

    @property
    def finite(self) -> bool:
        return bool(
            math.isfinite(self.value)
            and np.isfinite(self.gradient).all()
            and np.isfinite(self.hessian).all()
        )


@dataclass(frozen=True)
class Functional:
    """f(order parameters; control parameters) with names and domains, checked once.

    Attributes
    ----------
    function : callable
        Called with keywords only.
    names : tuple of str
        The order parameters.
    lower, upper : ndarray (n,)
        Ends of their open domains, possibly infinite.
    control_names : tuple of str
        The control parameters in the signature; those in `required` have no default.
    any_control : bool
        The signature ends in ``**controls``.
    """

    function: Callable[..., torch.Tensor]
    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    control_names: tuple[str, ...]
    required: tuple[str, ...]
    any_control: bool

    @classmethod
    def create(
        cls,
        function: Callable[..., torch.Tensor],
        order_parameters: Mapping[str, Interval | None] | Sequence[str],
    ) -> Functional:
        """Check the names against the signature, and the domains."""
        if not callable(function):
            raise TypeError(f"free_energy must be a function, got {type(function).__name__}")
        if isinstance(order_parameters, str):
            raise TypeError(
                'order_parameters must be a mapping such as {"m": (-1, 1), "q": (0, 1)}'
            )
        domains = (
            dict(order_parameters)
            if isinstance(order_parameters, Mapping)
            else dict.fromkeys(order_parameters)
        )
        if not domains:
            raise ValueError("order_parameters is empty: name at least one")
        ends = [_interval(name, domain) for name, domain in domains.items()]
        arguments = inspect.signature(function).parameters
        kinds = {p.kind for p in arguments.values()}
        if inspect.Parameter.POSITIONAL_ONLY in kinds or inspect.Parameter.VAR_POSITIONAL in kinds:
            raise TypeError(
                "free_energy is called with keywords: its signature must not hold "
                "positional-only arguments or *args"
            )
        named = {k: p for k, p in arguments.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
        any_control = inspect.Parameter.VAR_KEYWORD in kinds
        missing = [name for name in domains if name not in named]
        if missing and not any_control:
            raise ValueError(
                f"order parameters {missing} are not arguments of free_energy, which takes "
                f"{list(named)}"
            )
        controls = {k: p for k, p in named.items() if k not in domains}
        required = tuple(k for k, p in controls.items() if p.default is inspect.Parameter.empty)
        lower, upper = (np.array(side, dtype=np.float64) for side in zip(*ends, strict=True))
        return cls(function, tuple(domains), lower, upper, tuple(controls), required, any_control)

    def check_controls(self, controls: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers as floats, arrays as float64 tensors; named errors for what does not fit."""
        unknown = [k for k in controls if k not in self.control_names and not self.any_control]
        clash = [k for k in controls if k in self.names]
        if unknown or clash:
            raise ValueError(
                f"{(clash or unknown)[0]!r} is not a control parameter of the free energy; "
                f"they are {list(self.control_names)}"
            )
        missing = [k for k in self.required if k not in controls]
        if missing:
            raise ValueError(f"control parameters {missing} have no value: give {missing[0]}=...")
        return {name: _control(name, value) for name, value in controls.items()}

    def inside(self, x: np.ndarray) -> bool:
        return bool(np.all(x > self.lower) and np.all(x < self.upper))

    def scale(self, x: np.ndarray) -> np.ndarray:
        """Typical size of each order parameter: the width of its domain, else max(1, |x|)."""
        width = self.upper - self.lower
        return np.where(np.isfinite(width), width, np.maximum(1.0, np.abs(x)))

    def random_starts(self, n: int, seed: int, controls: Mapping[str, Any]) -> list[np.ndarray]:
        """The first n of 8 n Sobol points at which f is finite."""
        if n == 0:
            return []
        candidates = iter(sobol_points(self, 8 * n, seed))
        with torch.no_grad():
            finite = (
                x for x in candidates if math.isfinite(self.evaluate(torch.tensor(x), controls))
            )
            return list(itertools.islice(finite, n))

    def evaluate(
        self, y: torch.Tensor, controls: Mapping[str, Any], parameter: str | None = None
    ) -> torch.Tensor:
        """f as a checked 0-d tensor; with a `parameter`, the last element of y is its value."""
        arguments = {
            name: torch.as_tensor(v, dtype=torch.float64) if isinstance(v, float) else v
            for name, v in controls.items()
        }
        arguments |= dict(zip(self.names, y.unbind(), strict=False))
        if parameter is not None:
            arguments[parameter] = y[-1]
        try:
            f = self.function(**arguments)
        except RuntimeError as error:
            if "numpy()" not in str(error):
                raise
            raise TypeError(
                "free_energy calls a numpy function, which cuts the derivative: use that of torch"
            ) from error
        if not isinstance(f, torch.Tensor):
            raise TypeError(
                f"free_energy returned {type(f).__name__}: return a torch tensor made by torch "
                "operations on the arguments"
            )
        if f.ndim != 0:
            raise ValueError(f"free_energy returned shape {tuple(f.shape)}: return a scalar")
        if f.dtype != torch.float64:
            raise TypeError(
                f"free_energy returned {f.dtype}: make the constants inside it torch.float64"
            )
        return f

    def jet(self, y: np.ndarray, controls: Mapping[str, Any], parameter: str | None = None) -> Jet:
        """Value, gradient and Hessian in y = (order parameters[, parameter]).

        Reverse mode twice: for a few variables ten times faster than torch.func.hessian.
        """
        variables = torch.tensor(y, dtype=torch.float64, requires_grad=True)
        n = len(y)
        with torch.enable_grad():
            f = self.evaluate(variables, controls, parameter)
            if not f.requires_grad:
                raise TypeError(
                    "free_energy does not depend on its order parameters through torch operations "
                    "(math and numpy functions cut the derivative)"
                )
            (gradient,) = torch.autograd.grad(f, variables, create_graph=True)
            hessian = torch.zeros((n, n), dtype=torch.float64)
            if gradient.requires_grad:
                hessian = _second_derivatives(gradient, variables)
        h = hessian.detach().numpy()
        return Jet(f.detach().item(), gradient.detach().numpy().copy(), (h + h.T) / 2)

    def check_gradient(
        self, y: np.ndarray, controls: Mapping[str, Any], parameter: str | None = None
    ) -> None:
        """Compare autograd with central differences: a cut graph gives a silently wrong zero.

        Raises
        ------
        ValueError
            They differ: an operation inside free_energy is not torch's, or f has a kink there.
        """
        names = [*self.names, *([] if parameter is None else [parameter])]
        jet = self.jet(y, controls, parameter)
        bounds = np.full(len(y), np.inf)
        n = len(self.names)
        bounds[:n] = np.minimum(y[:n] - self.lower, self.upper - y[:n])
        for i, name in enumerate(names):
            step = min(1e-5 * max(1.0, abs(y[i])), bounds[i] / 4)
            shift = np.zeros(len(y))
            shift[i] = step
            f = [
                float(self.evaluate(torch.tensor(y + s * shift), controls, parameter))
                for s in (-2, -1, 1, 2)
            ]
            slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)
            rounding = 1e-14 * max(1.0, abs(jet.value)) / step
            allowed = GRADIENT_ATOL + GRADIENT_RTOL * abs(slope) + rounding
            if math.isfinite(slope) and abs(slope - jet.gradient[i]) > allowed:
                raise ValueError(
                    f"the derivative of free_energy in {name!r} is {jet.gradient[i]:.6g} by "
                    f"autograd, {slope:.6g} by differences: use torch operations (not math or "
                    "numpy) throughout, and no kinks"
                )


def _second_derivatives(gradient: torch.Tensor, variables: torch.Tensor) -> torch.Tensor:
    """Backward through the gradient for all rows at once, else one by one."""
    eye = torch.eye(len(gradient), dtype=torch.float64)
    options: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
    try:
        return torch.autograd.grad(gradient, variables, eye, is_grads_batched=True, **options)[0]
    except RuntimeError:  # an operation of the user's without a batching rule
        rows = [torch.autograd.grad(gradient, variables, row, **options)[0] for row in eye]
        return torch.stack(rows)


def sobol_points(functional: Functional, n: int, seed: int) -> np.ndarray:
    """Quasi-random points (n, d) in the domain."""
    sampler = torch.quasirandom.SobolEngine(len(functional.names), scramble=True, seed=seed)
    unit = np.clip(sampler.draw(n, dtype=torch.float64).numpy(), 1e-6, 1 - 1e-6)
    points = np.empty_like(unit)
    for i, (lo, hi) in enumerate(zip(functional.lower, functional.upper, strict=True)):
        u = unit[:, i]
        if math.isfinite(lo) and math.isfinite(hi):
            points[:, i] = lo + (hi - lo) * u
        elif math.isfinite(lo):
            points[:, i] = lo + u / (1 - u)
        elif math.isfinite(hi):
            points[:, i] = hi - u / (1 - u)
        else:
            points[:, i] = np.log(u / (1 - u))
    return points


def check_parameter(functional: Functional, parameter: str, controls: Mapping[str, Any]) -> None:
    """ValueError unless `parameter` names a control parameter that is one number."""
    if parameter in functional.names or parameter not in controls:
        raise ValueError(f"{parameter!r} is not a control parameter; they are {sorted(controls)}")
    if not isinstance(controls[parameter], float):
        raise ValueError(f"the control parameter {parameter!r} is an array: only numbers vary")


def _interval(name: str, domain: Any) -> Interval:
    if domain is None:
        return -math.inf, math.inf
    try:
        lo, hi = (float(end) for end in domain)
    except (TypeError, ValueError):
        raise ValueError(
            f"the domain of {name!r} must be (lo, hi) or None, got {domain!r}"
        ) from None
    if not lo < hi:
        raise ValueError(f"the domain of {name!r} must have lo < hi, got {domain!r}")
    return lo, hi


def _control(name: str, value: Any) -> Any:
    if isinstance(value, str | bytes) or value is None:
        raise TypeError(f"the control parameter {name!r} must be a number, got {value!r}")
    if np.ndim(value):
        tensor = torch.as_tensor(np.asarray(value, dtype=np.float64))
        if not torch.isfinite(tensor).all():
            raise ValueError(f"the control parameter {name!r} holds a non-finite number")
        return tensor
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"the control parameter {name!r} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"the control parameter {name!r} must be finite, got {value}")
    return number

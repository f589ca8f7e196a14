"""Before training: the learning curve of a network's kernel on a data set, and what checks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn.core.checks import real
from thermolearn.core.copying import private_copy, untouched
from thermolearn.core.json_ready import json_ready
from thermolearn.models import build

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing
    from thermolearn.core.estimate import Estimate
    from thermolearn.data import Dataset
    from thermolearn.predict.kernels.of_module import ModuleKernel
    from thermolearn.predict.pool import LeaveOneOut, Measured, PoolCurve
    from thermolearn.predict.shift import ShiftForecast

KINDS = ("ntk", "nngp")
LARGEST_POOL = 10_000  # rows whose Gram matrix is decomposed: 0.8 GB, and some ten minutes
INITIAL = 64  # random networks whose initial output is averaged over
LARGE = 0.25  # of the error: an initial output that adds more is said in the status
NARROW = 10  # times the depth: below this width a network is not described by its kernel
OFF = 0.25  # relative difference beyond which, if significant, a network does not follow its kernel
REPEATED = 0.01  # share of rows that repeat another's inputs, above which the status says so
TESTED = 10  # rows that a measurement needs to be left with


@dataclass(frozen=True, eq=False)
class Forecast:
    """What is predicted of kernel regression with a network's kernel, and what was measured.

    Attributes
    ----------
    data, model : str
        Name of the data set, and description of the network.
    kernel : ModuleKernel
    ridge : float
        Absolute: what stands on the diagonal of the Gram matrix.
    curve : PoolCurve
        Of one network, its random initial output included; for "nngp" of the posterior mean.
    average : PoolCurve
        Of the average over networks, or of f - f0: the kernel machine. For "nngp" the same curve.
    at_pool : LeaveOneOut
        The kernel machine's error at the size of the pool, which no theory enters.
    measured : tuple of Measured
        Empty unless asked for: the kernel machine, and the network itself trained.
    shift : ShiftForecast or None
        The error to expect on unlabelled inputs, after training on the whole pool.
    status : tuple of str
        Per size: "ok", or what limits the prediction there, for the network at hand.
    notes : tuple of str
        The same in sentences.
    settings : dict
        The arguments of `forecast`.
    """

    data: str
    model: str
    kernel: ModuleKernel
    ridge: float
    curve: PoolCurve
    average: PoolCurve
    at_pool: LeaveOneOut
    measured: tuple[Measured, ...] = ()
    shift: ShiftForecast | None = None
    status: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready; numbers that are not finite become None.

        ``PoolCurve.from_dict(row["curve"])`` is the curve again, ``row["average"]`` likewise.
        """
        from thermolearn import __version__

        row: dict[str, Any] = {"schema": 1, "thermolearn": __version__, "data": self.data}
        row |= {"model": self.model, "settings": self.settings, "kernel": str(self.kernel)}
        row |= {"ridge": self.ridge, "curve": self.curve.to_dict()}
        row |= {"average": self.average.to_dict(), "status": self.status, "notes": self.notes}
        row["leave_one_out"] = {
            "test_error": _pair(self.at_pool.test_error),
            "error_rate": _pair(self.at_pool.error_rate),
        }
        row["measured"] = [
            {
                "name": points.name, "n": points.n, "draws": points.draws,
                "test_error": _pair(points.test_error), "error_rate": _pair(points.error_rate),
                "spread": points.spread, "status": points.status, "flags": points.flags,
            }
            for points in self.measured
        ]  # fmt: skip
        if self.shift is not None:
            row["shift"] = {
                "value": _pair(self.shift.value), "interval": self.shift.interval,
                "level": self.shift.level, "without_shift": _pair(self.shift.in_distribution),
                "ess": self.shift.ess, "status": self.shift.status, "notes": self.shift.notes,
            }  # fmt: skip
        return json_ready(row)

    def figure(self) -> Drawing:
        """The predicted curve with its band, the one of the average over networks, and the measured
        points; of a classifier the error rate."""
        quantity = "error_rate" if self.curve.error_rate is not None else "error"
        drawing = self.curve.figure(self.measured, quantity, f"{self.data}, {self.model}")
        if self.average is not self.curve:
            average = self.average.error_curve if quantity == "error" else self.average.rate_curve
            assert average is not None
            shown = np.isfinite(average.value) & (average.value > 0)
            shown &= (average.n >= TESTED) & (average.n <= max(self.curve.n.max(), self.curve.pool))
            ax = drawing.axes[0, 0]
            drawing.theory(
                ax, average.n[shown], average.value[shown], "average over networks", 1, "-."
            )
            ax.legend(frameon=False)
        return drawing


def forecast(
    dataset: Dataset,
    model: str,
    n: Sequence[int],
    *,
    kind: str = "ntk",
    ridge: float = 1e-3,
    activation: str = "relu",
    sigma_w2: float = 1 / 3,
    confidence: float = 0.9,
    validate: bool = False,
    draws: int = 5,
    unlabelled: Tensor | None = None,
    seed: int = 0,
) -> Forecast:
    """Predict how the error of a network falls with the number of rows, from its kernel.

    The network is not trained: its wide limit is kernel regression, whose error after n rows is
    predicted from all rows of the data set (see `thermolearn.predict.pool.pool_curve`). The
    network's own error is another one the farther it is from that limit; `validate` measures it.

    Parameters
    ----------
    dataset : Dataset
        All rows of its training split are the pool; see `thermolearn.data.load_pool`.
    model : str
        As for `thermolearn.models.build`.
    n : sequence of int >= 1
        Training sizes. Beyond the pool the curve is extrapolated, or refused.
    kind : "ntk" or "nngp"
        Gradient descent on all parameters, or Bayesian inference with the prior of the network.
    ridge : float >= 0
        In units of the mean k(x, x) over the pool; 0 trains to the end.
    activation, sigma_w2
        Of the ``mlp`` and ``cnn``; 1/3 is what torch's own initialization has. Large ones give a
        large initial output. A model of one's own keeps its own variances.
    confidence : float in (0, 1)
        Of the band.
    validate : bool
        Train the kernel machine, and the network with the same ridge on the distance to its initial
        weights, on random rows of the pool, test them on the others.
    draws : int >= 2
        Trainings of the network per size; the kernel machine takes four times as many.
    unlabelled : Tensor, optional
        New inputs, scaled as those of the data set: the error to expect on them.
    seed : int >= 0

    Raises
    ------
    ValueError
        An option out of range, more than 10000 rows, or rows that cannot be used.
    NotApplicableError
        A layer of the model has no kernel; it is named.
    """
    from thermolearn.predict.kernels.of_module import kernel_of
    from thermolearn.predict.pool import leave_one_out, pool_curve

    if kind not in KINDS:
        raise ValueError(f"kind must be {' or '.join(KINDS)}, got {kind!r}")
    real("ridge", ridge, least=0.0)
    x, y = dataset.x_train.double(), dataset.y_train.numpy()
    if len(x) > LARGEST_POOL:
        raise ValueError(
            f"{dataset.name} has {len(x)} rows; the Gram matrix is made for {LARGEST_POOL} at "
            "most. Give a random part of them"
        )

    def make(number: int) -> nn.Module:
        return build(
            model, dataset.n_inputs, _outputs(dataset), dataset.input_shape, number, activation,
            sigma_w2,
        )  # fmt: skip

    network = make(seed)
    _check_outputs(network, x, _outputs(dataset))
    known = {"sigma_w2": sigma_w2, "sigma_b2": 0.0} if _ours(model) else {}
    kernel = kernel_of(network, kind, **known)  # type: ignore[arg-type]
    gram = kernel.gram(x).numpy()
    absolute = ridge * float(gram.diagonal().mean())
    options: dict[str, Any] = {"confidence": confidence, "seed": seed}
    average = curve = pool_curve(gram, y, n, absolute, dataset.task, **options)
    if kind == "ntk":
        prior = kernel_of(network, "nngp", **known).gram(x).numpy()  # type: ignore[arg-type]
        options["initial"] = _initial_functions(prior, seed)
        curve = pool_curve(gram, y, n, absolute, dataset.task, **options)
    measured = ()
    if validate:
        measured = _validate(make, dataset, gram, absolute, kind, _testable(n, len(x)), draws, seed)
    status, notes = _limits(x, kernel, curve, average, measured)
    return Forecast(
        dataset.name, _words(model, activation), kernel, absolute, curve, average,
        leave_one_out(gram, y, absolute, dataset.task), measured,
        None if unlabelled is None else _shift(dataset, kernel, absolute, unlabelled, seed),
        status, notes,
        {
            "kind": kind, "ridge": ridge, "activation": activation, "sigma_w2": sigma_w2,
            "confidence": confidence, "draws": draws, "seed": seed, "rows": len(x),
            "scaling": dataset.standardization.rule,
        },
    )  # fmt: skip


def _check_outputs(model: nn.Module, x: Tensor, wanted: int) -> None:
    parameter = next(iter(model.parameters()), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    with untouched(), torch.no_grad():
        out = private_copy(model)(x[:1].to(dtype))
    found = out.flatten(1).shape[1] if isinstance(out, Tensor) and out.ndim else 0
    if found != wanted:
        raise ValueError(
            f"the model has {found} outputs for one row; these data need {wanted} (one per class "
            "or target, and one for two classes)"
        )


def _limits(
    x: Tensor, kernel: ModuleKernel, curve: PoolCurve, average: PoolCurve,
    measured: Sequence[Measured],
) -> tuple[tuple[str, ...], tuple[str, ...]]:  # fmt: skip
    """Status per size and notes: what the curve of the kernel leaves out for this network."""
    words = [[] if text == "ok" else [text] for text in curve.status]
    notes: list[str] = []
    repeated = len(x) - len(x.unique(dim=0))
    if repeated > REPEATED * len(x):
        for word in words:
            word.append("repeated rows: too optimistic")
    if repeated:
        notes.append(
            f"{repeated} rows repeat the inputs of another and are taken for independent samples; "
            "if the copies come from one source, the predicted error is too small"
        )
    hidden = [row for row in kernel.layers[:-1] if row.width < NARROW * len(kernel.layers)]
    if hidden and kernel.kind == "ntk":
        least = min(hidden, key=lambda row: row.width)
        for word in words:
            word.append("narrow network")
        notes.append(
            f"layer {least.name!r} has {least.width} neurons at a depth of {len(kernel.layers)}: "
            "the network is far from its kernel, and --validate tells what it does"
        )
    added = curve.test_error / average.test_error - 1
    if np.nanmax(added, initial=0.0) > LARGE:
        notes.append(
            f"the random initial output of one network adds up to {np.nanmax(added):.0%} to the "
            "error; smaller initial weights, an average over networks or f - f0 do without it"
        )
    notes += _disagreements(curve, average, measured)
    for points in measured:
        notes += [f"{points.name}: {flag}" for flag in points.flags]
    return tuple("; ".join(word) or "ok" for word in words), tuple(notes)


def _disagreements(curve: PoolCurve, average: PoolCurve, measured: Sequence[Measured]) -> list[str]:
    """Sentences on where what was measured is not what was predicted."""
    found = []
    at = {int(size): k for k, size in enumerate(curve.n)}
    for points in measured:
        predicted = average if points.name == "kernel machine" else curve
        values, errors = np.asarray(points.test_error.value), np.asarray(points.test_error.stderr)
        for size, value, error in zip(points.n, values, errors, strict=True):
            k = at.get(int(size))
            if k is None or not np.isfinite(value):
                continue
            wanted = predicted.test_error[k]
            spread = np.hypot(error, np.nan_to_num(predicted.stderr[k]))
            if abs(value - wanted) > max(2 * spread, OFF * wanted):
                found.append(
                    f"the {points.name} does not follow the prediction at {size:.0f} rows: error "
                    f"{value:.3g} measured, {wanted:.3g} predicted"
                )
    return found


def _outputs(dataset: Dataset) -> int:
    """Two classes are one output, of -1 and +1."""
    return 1 if len(dataset.classes) == 2 else dataset.n_outputs


def _ours(model: str) -> bool:
    """Whether `build` makes the model itself, with variances that are known exactly."""
    return model.startswith(("mlp:", "cnn:"))


def _words(model: str, activation: str) -> str:
    return f"{model}, {activation}" if _ours(model) else model


def _testable(n: Sequence[int], pool: int) -> list[int]:
    """Sizes that leave rows to test on; where none does, a tenth, a quarter, half of the pool."""
    sizes = sorted({size for size in n if size <= pool - TESTED})
    return sizes or sorted({max(2, pool // part) for part in (10, 4, 2)})


def _validate(
    make: Any, dataset: Dataset, gram: np.ndarray, ridge: float, kind: str, sizes: list[int],
    draws: int, seed: int,
) -> tuple[Measured, ...]:  # fmt: skip
    from thermolearn.predict.pool import measure_kernel_machine, measure_networks

    x, y = dataset.x_train, dataset.y_train.numpy()
    points = measure_kernel_machine(gram, y, sizes, ridge, 4 * draws, seed, dataset.task)
    if kind == "nngp":  # a posterior mean, which no single training gives
        return (points,)
    trained = measure_networks(
        make, x, y, sizes, draws, seed, dataset.task, name="trained network", ridge=ridge
    )
    return (points, trained)


def _shift(
    dataset: Dataset, kernel: ModuleKernel, ridge: float, unlabelled: Tensor, seed: int
) -> ShiftForecast:
    from thermolearn.predict.shift import expected_error

    return expected_error(
        dataset.x_train.double().numpy(), dataset.y_train.numpy(), unlabelled.double().numpy(),
        kernel=kernel, ridge=ridge, seed=seed, task=dataset.task,
    )  # fmt: skip


def _initial_functions(prior: np.ndarray, seed: int) -> np.ndarray:
    """Initial outputs of random networks on the pool, (rows, networks), of covariance NNGP."""
    jitter = 1e-10 * float(prior.diagonal().mean())
    root = np.linalg.cholesky(prior + jitter * np.eye(len(prior)))
    return root @ np.random.default_rng([seed, 2]).standard_normal((len(prior), INITIAL))


def _pair(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "stderr": estimate.stderr, "status": estimate.status}

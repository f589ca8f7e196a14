"""Before training: the learning curve of a network's kernel on a data set, and what checks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from thermolearn.core.checks import real
from thermolearn.models import build

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing
    from thermolearn.data import Dataset
    from thermolearn.predict.kernels.of_module import ModuleKernel
    from thermolearn.predict.pool import LeaveOneOut, Measured, PoolCurve
    from thermolearn.predict.shift import ShiftForecast

KINDS = ("ntk", "nngp")
LARGEST_POOL = 10_000  # rows whose Gram matrix is decomposed: 0.8 GB, and some ten minutes
INITIAL = 64  # random networks whose initial output is averaged over
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
    at_pool : LeaveOneOut
        The error at the size of the pool, which no theory enters.
    measured : tuple of Measured
        Empty unless asked for: the kernel machine, and the network itself trained.
    shift : ShiftForecast or None
        The error to expect on unlabelled inputs, after training on the whole pool.
    initial : ndarray (sizes,) or None
        What the random initial output of one network adds to `curve.test_error`, as a fraction of
        the target's variance: training corrects it on the training rows only. NaN beyond the pool,
        None for "nngp".
    notes : tuple of str
    """

    data: str
    model: str
    kernel: ModuleKernel
    ridge: float
    curve: PoolCurve
    at_pool: LeaveOneOut
    measured: tuple[Measured, ...] = ()
    shift: ShiftForecast | None = None
    initial: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def figure(self) -> Drawing:
        """The predicted curve with its band, and the measured points; of a classifier the error
        rate. In regression also the error of one network, with its initial output."""
        quantity = "error_rate" if self.curve.error_rate is not None else "error"
        drawing = self.curve.figure(self.measured, quantity, f"{self.data}, {self.model}")
        if quantity == "error" and self.initial is not None:
            ax, order = drawing.axes[0, 0], np.argsort(self.curve.n)
            one = (self.curve.test_error + self.initial)[order]
            known = np.isfinite(one)
            drawing.theory(
                ax, self.curve.n[order][known], one[known], "predicted, one network", 2, "-."
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
    activation: str = "tanh",
    sigma_w2: float = 1.0,
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
    ridge : float > 0
        In units of the mean k(x, x) over the pool.
    activation, sigma_w2
        Of the ``mlp`` and ``cnn``. A model of one's own keeps its own variances.
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
    real("ridge", ridge, above=0.0)
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

    known = {"sigma_w2": sigma_w2, "sigma_b2": 0.0} if _ours(model) else {}
    kernel = kernel_of(make(seed), kind, **known)  # type: ignore[arg-type]
    gram = kernel.gram(x).numpy()
    absolute = ridge * float(gram.diagonal().mean())
    curve = pool_curve(gram, y, n, absolute, dataset.task, confidence=confidence, seed=seed)
    measured = ()
    if validate:
        measured = _validate(make, dataset, gram, absolute, kind, _testable(n, len(x)), draws, seed)
    return Forecast(
        dataset.name, _words(model, activation), kernel, absolute, curve,
        leave_one_out(gram, y, absolute, dataset.task), measured,
        None if unlabelled is None else _shift(dataset, kernel, absolute, unlabelled, seed),
        None if kind == "nngp" else _initial(
            kernel_of(make(seed), "nngp", **known).gram(x).numpy(),  # type: ignore[arg-type]
            gram, _outputs(dataset), n, absolute, seed,
        ),
        _duplicates(x),
    )  # fmt: skip


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


def _initial(
    nngp: np.ndarray, gram: np.ndarray, outputs: int, n: Sequence[int], ridge: float, seed: int
) -> np.ndarray:
    """Error of kernel regression on the initial outputs of networks, per unit of the target.

    Training takes f to f0 + k(x, X) (K + ridge)^{-1} (y - f0(X)): beside the regression of y stands
    the error of the regression of f0, whose sign and size are independent of y. Its average over
    networks is a sum over independent targets of the covariance of f0.
    """
    from thermolearn.predict.pool import raw_error

    jitter = 1e-10 * float(nngp.diagonal().mean())
    root = np.linalg.cholesky(nngp + jitter * np.eye(len(nngp)))
    draws = root @ np.random.default_rng([seed, 2]).standard_normal((len(nngp), INITIAL))
    return raw_error(gram, draws, n, ridge) * outputs


def _duplicates(x: Tensor) -> tuple[str, ...]:
    repeated = len(x) - len(x.unique(dim=0))
    if not repeated:
        return ()
    return (
        f"{repeated} rows repeat the inputs of another; they count as independent samples, which "
        "makes the predicted error too small if the copies come from one source",
    )

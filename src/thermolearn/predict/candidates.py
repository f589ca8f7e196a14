"""What a selection chooses from, what it is for, and the experiment that checks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thermolearn.core.checks import real, whole

if TYPE_CHECKING:
    from thermolearn.predict.kernels.fully_connected import NNGP, NTK

MAX_DEGREE = 60


@dataclass(frozen=True)
class Configuration:
    """A fully connected network and a ridge.

    Attributes
    ----------
    depth : int
        Weight layers, at least 1.
    activation : str
    sigma_w2, sigma_b2 : float
        Weight variance times fan-in, > 0, and bias variance, >= 0.
    noise : float
        Ridge >= 0 on the diagonal of the Gram matrix, not divided by the number of samples.
    kernel : str
        "ntk" (trained by gradient descent) or "nngp" (Bayesian).
    """

    depth: int = 3
    activation: str = "relu"
    sigma_w2: float = 2.0
    sigma_b2: float = 0.1
    noise: float = 0.0
    kernel: str = "ntk"

    def __post_init__(self) -> None:
        whole("depth", self.depth, 1)
        real("sigma_w2", self.sigma_w2, above=0)
        real("sigma_b2", self.sigma_b2, least=0)
        real("noise", self.noise, least=0)
        if self.kernel not in ("ntk", "nngp"):
            raise ValueError(f'kernel must be "ntk" or "nngp", got {self.kernel!r}')
        self.machine()

    def machine(self) -> NNGP | NTK:
        """The kernel; ValueError for an unknown activation."""
        from thermolearn.predict.kernels.fully_connected import NNGP, NTK

        kind = NTK if self.kernel == "ntk" else NNGP
        return kind(self.depth, self.activation, self.sigma_w2, self.sigma_b2)


@dataclass(frozen=True)
class SphereTask:
    """A target of known power per degree, inputs uniform on the sphere |x|^2 = dim.

    Attributes
    ----------
    dim : int
        At least 2.
    target_power : tuple of float
        Power in degree 0, 1, ...; not negative, not all zero.
    n : int
        Samples, at least 1.
    label_noise : float
        Variance, >= 0.
    """

    dim: int
    target_power: tuple[float, ...]
    n: int
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        from thermolearn.predict.sphere import check_target_power

        whole("dim", self.dim, 2)
        whole("n", self.n, 1)
        real("label_noise", self.label_noise, least=0)
        power = check_target_power(self.target_power)
        if len(power) > MAX_DEGREE:
            raise ValueError(f"target_power must end below degree {MAX_DEGREE}")
        object.__setattr__(self, "target_power", tuple(float(p) for p in power))


@dataclass(frozen=True, eq=False)
class PoolTask:
    """Labeled data; a training set is n such samples.

    Attributes
    ----------
    X : ndarray (M, features)
        M >= 20, as the network would see them: no scaling is applied.
    y : ndarray (M,) or (M, outputs)
        Targets, or class labels; centered, and errors are in units of their variance.
    n : int
        Samples to train on, at least 1. Beyond M the error is extrapolated, and cannot be checked.
    kind : str
        "regression" or "classification" (classes are coded -1 and 1, or one-hot).
    """

    X: np.ndarray
    y: np.ndarray
    n: int
    kind: str = "regression"

    def __post_init__(self) -> None:
        from thermolearn.predict.pool import prepare_target

        whole("n", self.n, 1)
        object.__setattr__(self, "X", _inputs(self.X))
        samples = len(prepare_target(self.y, self.kind).values)
        if samples != len(self.X):
            raise ValueError(f"X has {len(self.X)} samples and y has {samples}")


def _inputs(X: Any) -> np.ndarray:
    if hasattr(X, "detach"):
        X = X.detach().cpu().numpy()
    try:
        array = np.array(X, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("X must be numbers; encode categories as one-hot columns") from error
    if array.ndim != 2 or not array.size:
        raise ValueError(f"X must have shape (M, features), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("X has missing or infinite values: drop or fill those rows first")
    return array


# -- experiments -----------------------------------------------------------------------------------
def measure_on_sphere(c: Configuration, task: SphereTask, draws: int, seed: int) -> np.ndarray:
    """Test errors of kernel regression (draws,) on drawn data sets, by exact integrals."""
    from thermolearn.predict.simulate import simulate_gp_regression

    return simulate_gp_regression(
        c.machine(), task.dim, task.target_power, task.n, c.noise, task.label_noise,
        n_datasets=draws, seed=seed,
    ).errors  # fmt: skip


def measure_on_pool(c: Configuration, task: PoolTask, draws: int, seed: int) -> np.ndarray:
    """Test errors (draws,) off the training samples, which are drawn from the pool.

    Raises
    ------
    ValueError
        The pool has no more than n samples.
    """
    from scipy.linalg import cho_factor, cho_solve

    from thermolearn.predict.pool import prepare_target
    from thermolearn.predict.simulate import JITTER

    if task.n >= len(task.X):
        raise ValueError(
            f"n = {task.n} cannot be checked on a pool of {len(task.X)}: no samples are left"
        )
    gram = np.asarray(c.machine().gram(task.X), dtype=np.float64)
    y = prepare_target(task.y, task.kind).values
    ridge = c.noise if c.noise > 0 else JITTER * float(np.diag(gram).mean())
    errors = np.empty(draws)
    for k in range(draws):
        order = np.random.default_rng((2110_03922, seed, k)).permutation(len(gram))
        train, rest = order[: task.n], order[task.n :]
        matrix = gram[np.ix_(train, train)]
        matrix[np.diag_indices_from(matrix)] += ridge
        alpha = cho_solve(cho_factor(matrix, lower=True), y[train])
        errors[k] = ((gram[np.ix_(rest, train)] @ alpha - y[rest]) ** 2).sum(1).mean()
    return errors

"""The restricted Boltzmann machine as a scikit-learn estimator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from thermolearn.core.errors import DataError, SamplerWarning
from thermolearn.systems.memory.rbm import (
    hopfield_form,
    trainer,
    trajectory,
    units,
)
from thermolearn.systems.memory.rbm.machine import FittedMachine
from thermolearn.systems.memory.rbm.trainer import Run, Settings
from thermolearn.systems.memory.rbm.units import Weights


class RBM(FittedMachine, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Restricted Boltzmann machine with Ising, Bernoulli or Gaussian units.

    p(v, h) = exp(a . v + b . h + v W h) / Z, over {-1, 1} (Ising), {0, 1} (Bernoulli), or with a
    standard normal measure (Gaussian: conditional means a + W h, variance 1). Trained by
    stochastic ascent on the mean log-likelihood with the centered gradient. The log-likelihood is
    monitored at checkpoints, exactly or by annealed importance sampling, and persistent chains
    that fall behind the machine are told.

    Parameters
    ----------
    n_hidden : int
        Hidden units.
    visible, hidden : {"bernoulli", "ising", "gaussian"}
        Kinds of units; not both Gaussian. Gaussian visible units expect standardized data.
    method : {"pcd", "cd", "pt", "exact"}
        Where the model's statistics come from: persistent chains (a good default), chains started
        at the data (fast, biased), parallel tempering (multimodal data), enumeration (small
        machines).
    k : int
        Gibbs sweeps per gradient.
    learning_rate : float
    schedule : {"linear", "constant"}
        Learning rate falling to 0 over the run, or fixed. PCD profits from the fall.
    n_epochs : int
    batch_size : int, optional
        At most the number of samples; by default min(100, n_samples).
    n_chains : int, optional
        Persistent chains; by default the batch size.
    n_replicas : int
        Inverse temperatures of "pt".
    centered : bool
    weight_decay : float
        W shrinks by learning_rate * weight_decay per step.
    init_std : float
        Standard deviation of the initial W.
    dtype : {"float32", "float64"}
        Of training; ln Z is always taken in float64.
    monitor : {"auto", "exact", "ais"} or None
        Log-likelihood at the checkpoints; "auto" enumerates up to 12 units of the smaller layer.
    n_checkpoints : int
        Spaced evenly in the logarithm of the step. Where the monitor enumerates it looks at 20
        steps at least, and a look that finds the chains behind is added to the history.
    trajectory : path, optional
        Folder that receives every checkpoint as a safetensors file.
    random_state : int

    Attributes
    ----------
    weights_ : Weights
        W (n_visible, n_hidden), a, b as tensors.
    history_ : list of Checkpoint
    status_ : str
        ``"chains behind"`` once that has happened, ``"interrupted"`` (by Ctrl-C: the steps done
        are kept, and `resume` goes on), ``"not monitored"`` if nobody looked at the last step,
        ``"not told"`` if its likelihood could not be trusted (see `Checkpoint`), else ``"ok"``.
    n_steps_ : int
        Gradient steps done.

    References
    ----------
    G. Hinton, Neural Comput. 14 (2002) 1771; T. Tieleman, ICML 2008; J. Melchior, A. Fischer,
    L. Wiskott, arXiv:1311.1354 (centering); G. Desjardins et al., AISTATS 2010 (tempering);
    A. Decelle, C. Furtlehner, arXiv:2011.11307 (review). A PCD step here advances the chains by
    v | h then h | v, keeping h between steps, which saves one matrix product.
    """

    def __init__(
        self,
        n_hidden: int = 64,
        visible: str = "bernoulli",
        hidden: str = "bernoulli",
        *,
        method: str = "pcd",
        k: int = 1,
        learning_rate: float = 0.05,
        schedule: str = "linear",
        n_epochs: int = 100,
        batch_size: int | None = None,
        n_chains: int | None = None,
        n_replicas: int = 6,
        centered: bool = True,
        weight_decay: float = 0.0,
        init_std: float = 0.01,
        dtype: str = "float32",
        monitor: str | None = "auto",
        n_checkpoints: int = 20,
        trajectory: str | Path | None = None,
        random_state: int = 0,
    ):
        self.n_hidden = n_hidden
        self.visible = visible
        self.hidden = hidden
        self.method = method
        self.k = k
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.n_chains = n_chains
        self.n_replicas = n_replicas
        self.centered = centered
        self.weight_decay = weight_decay
        self.init_std = init_std
        self.dtype = dtype
        self.monitor = monitor
        self.n_checkpoints = n_checkpoints
        self.trajectory = trajectory
        self.random_state = random_state

    # -- training --------------------------------------------------------------------------------
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Train from scratch on X (n_samples, n_visible); y is ignored.

        Raises
        ------
        ValueError
            Data outside the units' domain, a batch larger than the data, a parameter out of range.
        ConvergenceError
            The weights have left the finite numbers.

        Warns
        -----
        SamplerWarning
            The persistent chains have fallen behind, or the run was interrupted.
        """
        data = self._data(X, reset=True)
        self._run = trainer.start(
            data.double().mean(0),
            self._checked_n_hidden(),
            self.visible,
            self.hidden,
            self._settings(len(data)),
        )
        return self._train(data)

    def resume(self, X: ArrayLike) -> Self:
        """Go on from the last step to `n_epochs`, bit for bit as if the run had never stopped.

        X must be the data of the run. A larger `n_epochs` prolongs it, other parameters of the
        training keep the values they started with.
        """
        run = self._fitted()
        data = self._data(X, reset=False)
        if run.settings.batch_size > len(data):
            raise ValueError(
                f"the run uses batches of {run.settings.batch_size}, X has {len(data)} samples; "
                "give the data it was trained on"
            )
        settings = self._settings(len(data))
        run.settings = Settings(**{**vars(run.settings), "n_epochs": settings.n_epochs})
        return self._train(data)

    def partial_fit(self, X: ArrayLike, y: Any = None) -> Self:
        """One gradient step on X as one batch, at the full learning rate; y is ignored."""
        first = not hasattr(self, "_run")
        data = self._data(X, reset=first)
        if first:
            self._run = trainer.start(
                data.double().mean(0),
                self._checked_n_hidden(),
                self.visible,
                self.hidden,
                self._settings(len(data)),
            )
        self._run.update(data, self.learning_rate)
        return self

    def _train(self, data: Tensor) -> Self:
        def saved(run: Run) -> None:
            if self.trajectory is not None:
                trajectory.save(
                    trajectory.checkpoint_path(self.trajectory, run.step), run, self._plain_params()
                )

        trainer.train(self._run, data, saved)
        if self._run.interrupted:
            saved(self._run)
            warnings.warn(
                f"interrupted after step {self._run.step}: the machine is fitted as far as that; "
                "resume(X) goes on",
                SamplerWarning,
                stacklevel=3,
            )
        return self

    def _settings(self, n_samples: int) -> Settings:
        batch = min(100, n_samples) if self.batch_size is None else self.batch_size
        settings = Settings(
            method=self.method,
            k=self.k,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            n_epochs=self.n_epochs,
            batch_size=batch,
            n_chains=batch if self.n_chains is None else self.n_chains,
            n_replicas=self.n_replicas,
            centered=self.centered,
            weight_decay=self.weight_decay,
            init_std=self.init_std,
            dtype=self.dtype,
            monitor=self.monitor,
            n_checkpoints=self.n_checkpoints,
            seed=self.random_state,
        )
        if batch > n_samples:
            raise ValueError(f"batch_size = {batch} is larger than n_samples={n_samples}")
        return settings

    def _checked_n_hidden(self) -> int:
        if isinstance(self.n_hidden, bool) or not isinstance(self.n_hidden, (int, np.integer)):
            raise TypeError(f"n_hidden must be an integer, got {self.n_hidden!r}")
        if self.n_hidden < 1:
            raise ValueError(f"n_hidden must be at least 1, got {self.n_hidden}")
        units.check_kinds(self.visible, self.hidden)
        return int(self.n_hidden)

    def _data(self, X: ArrayLike, reset: bool) -> Tensor:
        if self.dtype not in trainer.DTYPES:
            raise ValueError(
                f"dtype must be one of {', '.join(trainer.DTYPES)}, got {self.dtype!r}"
            )
        checked: Any = validate_data(
            self, cast(Any, X), reset=reset, dtype=np.dtype(self.dtype), order="C"
        )
        array = np.asarray(checked)
        units.check_domain(self.visible, array)
        return torch.from_numpy(array)

    def _fitted(self) -> Run:
        check_is_fitted(self, "_run")
        return self._run

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_run")

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Means of the hidden units given X, shape (n_samples, n_hidden)."""
        # here and not in the base class: scikit-learn's set_output wraps a class's own methods
        w = self.weights_
        field = w.hidden_field(self._data(X, reset=False).to(w.W.dtype))
        return units.mean(w.hidden, field).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # the output has the dtype of the training
        tags.input_tags.positive_only = self.visible == "bernoulli"
        return tags

    # -- files -----------------------------------------------------------------------------------
    def _plain_params(self) -> dict[str, Any]:
        params = self.get_params()
        if params["trajectory"] is not None:
            params["trajectory"] = str(params["trajectory"])
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in params.items()}

    def save(self, path: str | Path) -> None:
        """Write machine, chains, random stream, history and parameters as safetensors."""
        trajectory.save(path, self._fitted(), self._plain_params())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The machine in a file, or in the last checkpoint of a folder; `resume` continues it.

        Raises
        ------
        DataError
            No such file, not one of this format, or a damaged one.
        """
        run, params = trajectory.load(path)
        unknown = params.keys() - cls().get_params().keys()
        if unknown:
            raise DataError(f"{path} holds unknown parameters: {', '.join(sorted(unknown))}")
        return cls(**params)._with_run(run)

    def _with_run(self, run: Run) -> Self:
        self._run = run
        self.n_features_in_ = run.weights.n_visible
        return self

    # -- machines that were not trained ----------------------------------------------------------
    @classmethod
    def from_weights(
        cls,
        W: ArrayLike,
        a: ArrayLike | None = None,
        b: ArrayLike | None = None,
        visible: str = "bernoulli",
        hidden: str = "bernoulli",
        **params: Any,
    ) -> Self:
        """The machine with given W (n_visible, n_hidden), a and b (0 by default), in float64.

        `params` are those of the constructor. Training it further goes through `partial_fit`.
        """
        coupling = _float64(W)
        if coupling.ndim != 2 or 0 in coupling.shape:
            raise ValueError(
                f"W must have shape (n_visible, n_hidden), got {tuple(coupling.shape)}"
            )
        fields = [
            coupling.new_zeros(n) if x is None else _float64(x)
            for x, n in zip((a, b), coupling.shape, strict=True)
        ]
        w = Weights(coupling, fields[0], fields[1], visible, hidden)
        params = {"dtype": "float64", **params}
        rbm = cls(coupling.shape[1], visible, hidden, **params)
        dtype = trainer.DTYPES.get(rbm.dtype, torch.float64)
        w = Weights(w.W.to(dtype), w.a.to(dtype), w.b.to(dtype), visible, hidden)
        run = trainer.resumed(w, units.mean(visible, w.a), rbm._settings(rbm.batch_size or 100))
        return rbm._with_run(run)

    @classmethod
    def from_hebb(
        cls, eta: ArrayLike, beta: float = 1.0, quality: float | None = None, **params: Any
    ) -> Self:
        """The machine whose visible layer is a Hopfield network at inverse temperature beta.

        One Gaussian hidden unit per example, W_i,mu a = sqrt(beta / (N M R)) eta^{mu a}_i, so that
        the sum over h is exactly exp(-beta H), H = -1/2 v J v with
        J = sum_{mu a} eta^{mu a} eta^{mu a T} / (N M R), diagonal included.

        Parameters
        ----------
        eta : array (K, N) of patterns or (K, M, N) of M examples of each, entries -1 and 1
        beta : float
            > 0.
        quality : float, optional
            r in (0, 1]: R = r^2 + (1 - r^2) / M; R = 1 by default.

        References
        ----------
        E. Agliari, F. Alemanno, A. Barra, G. De Marzo, arXiv:2109.00454.
        """
        W = hopfield_form.hebbian_weights(eta, beta, quality)
        return cls.from_weights(W, visible="ising", hidden="gaussian", **params)


def _float64(x: ArrayLike) -> Tensor:
    """A float64 copy of an array or tensor."""
    if isinstance(x, Tensor):
        return x.detach().cpu().double().clone()
    return torch.from_numpy(np.array(x, dtype=np.float64))

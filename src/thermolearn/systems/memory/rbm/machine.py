"""What can be asked of a fitted machine: draws, energies, likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.rbm import hopfield_form, likelihood, sampling, units
from thermolearn.systems.memory.rbm.hopfield_form import HopfieldForm
from thermolearn.systems.memory.rbm.monitor import Checkpoint
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.partition import Bounds
from thermolearn.systems.memory.rbm.trainer import Run
from thermolearn.systems.memory.rbm.units import Weights


class FittedMachine:
    """The half of `RBM` that does not train: it reads the weights of a run."""

    n_replicas: int

    def _fitted(self) -> Run:
        raise NotImplementedError

    def _data(self, X: ArrayLike, reset: bool) -> Tensor:
        raise NotImplementedError

    # -- the fitted machine ----------------------------------------------------------------------
    @property
    def weights_(self) -> Weights:
        """The parameters as tensors."""
        return self._fitted().weights

    @property
    def components_(self) -> np.ndarray:
        """W^T (n_hidden, n_visible), as in scikit-learn's BernoulliRBM."""
        return self.weights_.W.numpy().T

    @property
    def intercept_visible_(self) -> np.ndarray:
        """a (n_visible,)."""
        return self.weights_.a.numpy()

    @property
    def intercept_hidden_(self) -> np.ndarray:
        """b (n_hidden,)."""
        return self.weights_.b.numpy()

    @property
    def history_(self) -> list[Checkpoint]:
        """Checkpoints of the run so far."""
        return self._fitted().history

    @property
    def status_(self) -> str:
        """``"ok"``, ``"chains behind"``, ``"interrupted"``, ``"not monitored"``, ``"not told"``."""
        return self._fitted().status

    @property
    def n_steps_(self) -> int:
        """Gradient steps done."""
        return self._fitted().step

    @property
    def _n_features_out(self) -> int:
        return self.weights_.n_hidden

    def free_energy(self, v: ArrayLike) -> np.ndarray:
        """F(v) = -a.v - sum_k ln Z_k(b + v W), nats; p(v) = exp(-F(v)) / Z. float64, (n_samples,).

        Gaussian visible units add v^2 / 2 + ln(2 pi) / 2 each, so that p is a density.
        """
        w = self.weights_
        return w.double().free_energy(self._data(v, reset=False).double()).numpy()

    def gibbs(self, v: ArrayLike, k: int = 1, seed: int = 0) -> np.ndarray:
        """Visible states after k sweeps (h given v, v given h) from v; k >= 1."""
        w = self.weights_
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        data = self._data(v, reset=False).to(w.W.dtype)
        return sampling.gibbs(w, data, k, Noise(seed))[0].numpy()

    def sample(self, n: int, method: str = "auto", sweeps: int = 1000, seed: int = 0) -> np.ndarray:
        """n visible states of the machine.

        Parameters
        ----------
        n : int
        method : {"auto", "exact", "gibbs", "pt"}
            "exact": independent draws by enumeration (smaller layer of at most 20 units; "auto"
            up to 16). "gibbs": n chains from the machine without couplings. "pt" (the "auto" of
            larger machines): the same with `n_replicas` inverse temperatures, which mix between
            modes.
        sweeps : int
            Of "gibbs" and "pt".
        seed : int
        """
        return likelihood.draw(self.weights_, n, method, sweeps, self.n_replicas, seed).numpy()

    # -- likelihood ------------------------------------------------------------------------------
    def log_partition(
        self,
        method: str = "auto",
        n_betas: int = 1000,
        n_chains: int = 500,
        seed: int = 0,
        layer: str | None = None,
    ) -> Estimate:
        """ln Z in nats: exact, or by annealed importance sampling with its error.

        Parameters
        ----------
        method : {"auto", "exact", "ais"}
            "exact" enumerates the smaller discrete layer (at most 25 units), "auto" does so up to
            16 units and anneals above.
        n_betas, n_chains : int
            Of the annealing; its error falls as 1 / sqrt(n_betas n_chains).
        seed : int
        layer : {"visible", "hidden"}, optional
            The layer to enumerate.

        Raises
        ------
        ValueError
            Too many units for "exact".

        Warns
        -----
        SamplerWarning
            Effective samples below 10% of the chains.
        """
        return likelihood.log_partition(
            self.weights_, method, n_betas, n_chains, seed, layer, self._start_field()
        )

    def log_partition_bounds(
        self, n_betas: int = 1000, n_chains: int = 500, seed: int = 0, sweeps: int = 1000
    ) -> Bounds:
        """Stochastic lower and upper bounds on ln Z by annealing forward and in reverse.

        The reverse run starts from draws of the machine: exact ones up to 20 units of the smaller
        layer, else from parallel tempering of `sweeps` sweeps, in which case the upper bound has
        status ``"approximate start"``: it holds if the chains have equilibrated.

        References
        ----------
        Y. Burda, R. Grosse, R. Salakhutdinov, arXiv:1412.8566.
        """
        return likelihood.log_partition_bounds(
            self.weights_, n_betas, n_chains, seed, sweeps, self.n_replicas, self._start_field()
        )

    def log_likelihood(self, X: ArrayLike, log_partition: Estimate | None = None) -> Estimate:
        """Mean ln p(x) over X in nats per sample; the error bar is that of ln Z.

        Parameters
        ----------
        X : array (n_samples, n_visible)
        log_partition : Estimate, optional
            ln Z if it is known; by default `log_partition()`.
        """
        data = self._data(X, reset=False).double()
        log_z = self.log_partition() if log_partition is None else log_partition
        return likelihood.mean_log_likelihood(self.weights_.double(), data, log_z)

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log-likelihood in nats per sample, as a number; see `log_likelihood`."""
        return float(self.log_likelihood(X))

    def pseudo_likelihood(self, X: ArrayLike) -> float:
        """Mean of sum_i ln p(x_i | all other x), nats per sample. This is NOT the likelihood.

        It sees single flips only and rates a machine with wrong weights between its modes as
        good. Discrete visible units.

        Raises
        ------
        ValueError
            Gaussian visible units.
        """
        return likelihood.pseudo_likelihood(
            self.weights_.double(), self._data(X, reset=False).double()
        )

    def _start_field(self) -> Tensor:
        run = self._fitted()
        return units.field_of_mean(run.weights.visible, run.sampler.visible_offset.double())

    def to_hopfield(self, beta: float = 1.0) -> HopfieldForm:
        """Couplings and field of the visible layer of a machine with Gaussian hidden units.

        p(v) ~ exp(beta (1/2 v J v + field . v)), J = W W^T / beta with its diagonal, which only
        adds a constant for Ising units and is to be zeroed in a spin-flip simulation.

        Raises
        ------
        NotApplicableError
            Hidden units that are not Gaussian have interactions of every order.
        """
        return hopfield_form.hopfield_form(self.weights_.double(), beta)

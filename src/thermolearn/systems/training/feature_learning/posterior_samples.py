"""Draws of networks and what is computed from them: kernels, predictions, diagnostics.

Every number is a mean over draws, with a standard error between chains.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.diagnostics import MIN_DRAWS, split_rhat
from thermolearn.core.errors import SamplerWarning
from thermolearn.core.estimate import Estimate, jackknife, mean_estimate
from thermolearn.core.sampling import chain_mean
from thermolearn.systems.training.feature_learning.collapsed import Posterior, as_columns
from thermolearn.systems.training.feature_learning.networks import BayesianCNN, BayesianFCN

BATCH = 2**21  # numbers of one batch of features
DISAGREE = 2**0.5  # split R-hat: means of the chains scatter as much as draws within them
BIAS = (
    "plain Langevin steps: a bias of the order of the step ({step:.3g}) is not in the error bars; "
    "halve the step to see it"
)


class PredictiveVariance(NamedTuple):
    """Variance of f at test inputs, each (m,): total = conditional + kernel.

    conditional: of the readout given the hidden weights, averaged; kernel: of the mean given the
    hidden weights, from their fluctuation.
    """

    total: Estimate
    conditional: Estimate
    kernel: Estimate


class TestErrors(NamedTuple):
    """Of the posterior mean on test data; the last one of a single network.

    alpha: f . y / y . y; mse: mean square of f - y, the predictor averaged first;
    relative_mse: over the variance of the test labels; single_mse: expected mean square error of
    one sampled network, mse plus the mean predictive variance.
    """

    __test__ = False  # no test class of pytest

    alpha: Estimate
    mse: Estimate
    relative_mse: Estimate
    single_mse: Estimate


@dataclass(frozen=True, eq=False)
class PosteriorSamples:
    """Networks drawn by `sample_posterior`.

    Attributes
    ----------
    net : BayesianFCN or BayesianCNN
    density : Posterior
        With the training data.
    x : Tensor (draws, chains, n_weights)
        Whitened weights.
    energies : ndarray (draws, chains)
        Minus log density in whitened weights, up to a constant.
    acceptance, step : float
        Mean acceptance (1 for plain Langevin steps) and the step in use.
    method : str
    interrupted : bool
        Ctrl-C ended it early.
    """

    net: BayesianFCN | BayesianCNN
    density: Posterior = field(repr=False)
    x: Tensor = field(repr=False)
    energies: np.ndarray = field(repr=False)
    acceptance: float
    step: float
    method: str
    interrupted: bool = False
    _tests: dict[bytes, Any] = field(default_factory=dict, repr=False)

    @property
    def draws(self) -> int:
        """Kept draws per chain."""
        return self.x.shape[0]

    @property
    def chains(self) -> int:
        """Number of chains."""
        return self.x.shape[1]

    @property
    def inputs(self) -> np.ndarray:
        """The training inputs, (n, P, S), or (n, d) of a fully connected network."""
        density = self.density
        x = density.x.reshape(density.size, density.patches, density.n).permute(2, 1, 0).numpy()
        return x[:, 0] if isinstance(self.net, BayesianFCN) else x

    # -- what was learned ------------------------------------------------------------------------
    @cached_property
    def input_covariance(self) -> Estimate:
        """Sigma = < sum_c w_c w_c^T / C > of the first layer, (S, S)."""
        return self._mean(self._training["sigma"])

    @cached_property
    def relative_input_covariance(self) -> Estimate:
        """Sigma in units of the prior's sigma_w2 / S: the identity if nothing is learned."""
        return self.input_covariance * (self.density.size / self.net.sigma_w2)

    @cached_property
    def kernels(self) -> tuple[Estimate, ...]:
        """K^l = < sum_i h_i h_i^T / N_l > of the hidden layers from the second, each (n, n)."""
        return tuple(self._mean(k) for k in self._training["kernels"])

    @cached_property
    def output_kernel(self) -> Estimate:
        """< Q >, Q = sigma_a2 / (N P) F^T F of the features, (n, n)."""
        return self._mean(self._training["output"])

    def alignment(self, layer: int = -1) -> Estimate:
        """y^T K y / |y|^2 of a hidden layer's kernel, a number that grows with what is learned.

        Parameters
        ----------
        layer : int
            Index into `kernels`; a network with one hidden layer has none, use `output_kernel`.

        Raises
        ------
        ValueError
            There is no such kernel, or all labels are 0.
        """
        kernels = self._training["kernels"]
        if not -len(kernels) <= layer < len(kernels):
            raise ValueError(
                f"layer must name one of the {len(kernels)} kernels behind the first hidden layer, "
                f"got {layer}"
            )
        y = self.density.y.numpy()
        if not y.any():
            raise ValueError("y is 0 for all samples: no kernel is aligned with it")
        return self._mean(np.einsum("cmn,m,n->c", kernels[layer], y, y) / (y @ y))

    @property
    def sigma_by_chain(self) -> np.ndarray:
        """Sigma of every chain, (chains, S, S)."""
        return self._training["sigma"]

    @property
    def kernels_by_chain(self) -> list[np.ndarray]:
        """`kernels` of every chain, each (chains, n, n)."""
        return self._training["kernels"]

    # -- predictions -----------------------------------------------------------------------------
    def predict(self, X: Any) -> Estimate:
        """Posterior mean of f at test inputs, (m,): the readout averaged given the hidden weights
        (Rao-Blackwell), then the mean over draws."""
        return self._mean(self._test(X)["mean"])

    def prediction_by_chain(self, X: Any) -> np.ndarray:
        """`predict` of every chain, (chains, m)."""
        return self._test(X)["mean"]

    def predictive_variance(self, X: Any) -> PredictiveVariance:
        """Posterior variance of f at test inputs, split; without the noise of a label."""
        mean, square, own = (self._test(X)[key] for key in ("mean", "square", "variance"))

        def kernel(m: np.ndarray, s: np.ndarray) -> np.ndarray:
            return s.mean(0) - m.mean(0) ** 2

        return PredictiveVariance(
            self.over_chains(lambda m, s, v: kernel(m, s) + v.mean(0), mean, square, own),
            self._mean(own),
            self.over_chains(kernel, mean, square),
        )

    def mean_predictive_variance(self, X: Any) -> Estimate:
        """The total predictive variance, averaged over the test inputs."""
        mean, square, own = (self._test(X)[key] for key in ("mean", "square", "variance"))
        return self.over_chains(
            lambda m, s, v: (s.mean(0) - m.mean(0) ** 2 + v.mean(0)).mean(), mean, square, own
        )

    def direct(self, X: Any) -> Estimate:
        """Mean output of the sampled networks at test inputs, readout as sampled, (m,).

        Raises
        ------
        ValueError
            The readout was integrated out.
        """
        if self.density.collapsed:
            raise ValueError("the readout was not sampled; use predict, or collapsed=False")
        return self._mean(self._test(X)["direct"])

    def test(self, X: Any, y: Any) -> TestErrors:
        """Errors of the posterior mean on test data.

        Parameters
        ----------
        X : array as the training inputs, m of them
        y : array (m,)
            Not all equal.

        Raises
        ------
        ValueError
            Shapes, or NaN, or labels that are all equal.
        """
        _, labels, _ = self.net.data(X, y, 1.0)
        spread = float(labels.var())
        if spread == 0:
            raise ValueError("y must not be all equal: the error is measured in its variance")
        found = self._test(X)
        mean, square, own = found["mean"], found["square"], found["variance"]
        alpha = self._mean(mean @ labels / (labels @ labels))
        mse = self.over_chains(lambda m: ((m.mean(0) - labels) ** 2).mean(), mean)
        single = self._mean((square + own - 2 * mean * labels + labels**2).mean(1))
        return TestErrors(alpha, mse, mse / spread, single)

    # -- mixing ----------------------------------------------------------------------------------
    @cached_property
    def traces(self) -> dict[str, np.ndarray]:
        """Scalars of every draw, each (draws, chains).

        energy; alignment: y^T Q y / |y|^2 (0 for labels that are all 0); learned: variance of the
        first weights along the top eigenvector of Sigma, times S / sigma_w2.
        """
        sigma = self._training["sigma"].mean(0)
        top = torch.as_tensor(np.linalg.eigh(sigma)[1][:, -1].copy())
        first = self.x[:, :, : self.density.shapes[0][0] * self.density.size]
        along = first.unflatten(-1, self.density.shapes[0]) @ top
        return {
            "energy": self.energies,
            "alignment": self._training["alignment"],
            "learned": along.square().mean(-1).numpy(),
        }

    @cached_property
    def scalars(self) -> dict[str, Estimate]:
        """Means of the traces with errors from their autocorrelation; status as `chain_mean`."""
        if self.draws < MIN_DRAWS:
            note = f"{self.draws} draws per chain cannot show their correlations; draw {MIN_DRAWS}"
            return {
                name: Estimate(trace.mean(), math.nan, status="under-sampled", note=note)
                for name, trace in self.traces.items()
            }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SamplerWarning)  # one warning, by the caller
            return {name: chain_mean(trace.T, name) for name, trace in self.traces.items()}

    @property
    def rhat(self) -> dict[str, float]:
        """Split R-hat of the traces (NaN with fewer than 50 draws)."""
        short = self.draws < MIN_DRAWS
        return {k: math.nan if short else split_rhat(v.T) for k, v in self.traces.items()}

    @property
    def ess(self) -> dict[str, float]:
        """Effective number of independent draws of the traces (NaN with fewer than 50 draws)."""
        return {k: math.nan if e.n_eff is None else e.n_eff for k, e in self.scalars.items()}

    @cached_property
    def _findings(self) -> dict[str, list[str]]:
        """What is wrong with the chains: notes by status, the worst status first."""
        found: dict[str, list[str]] = {"stuck": [], "not mixed": [], "under-sampled": []}
        if self.acceptance < 0.01:
            found["stuck"].append(
                f"acceptance {self.acceptance:.2%}: lower the step, or warm up longer"
            )
        frozen = int((np.ptp(self.energies, axis=0) == 0).sum()) if self.draws > 1 else 0
        if frozen:
            found["not mixed"].append(
                f"{frozen} of {self.chains} chains never moved: warm up longer, lower the step, or "
                "use method='hmc'"
            )
        rhat = {name: value for name, value in self.rhat.items() if value > DISAGREE}
        if rhat:
            listed = ", ".join(f"{name} {value:.2f}" for name, value in rhat.items())
            found["not mixed"].append(
                f"the chains disagree (split R-hat: {listed}): they sit in different places, which "
                "more draws cure slowly; warm up longer, take more steps between draws, raise the "
                "noise, or take more chains"
            )
        for estimate in self.scalars.values():
            if estimate.status in found:
                found[estimate.status].append(estimate.note)
        return found

    @property
    def status(self) -> str:
        """ "ok", or the worst of "stuck" (acceptance below 1%), "not mixed" (chains that disagree
        or never move), "under-sampled"."""
        return next((status for status, notes in self._findings.items() if notes), "ok")

    @property
    def note(self) -> str:
        """Why the status is what it is; for plain Langevin steps also the bias that they have."""
        found = [note for notes in self._findings.values() for note in notes[:1]]
        if len(self._findings["not mixed"]) > 1:
            found.insert(found.index(self._findings["not mixed"][0]) + 1,
                         self._findings["not mixed"][1])  # fmt: skip
        if self.method == "ula":
            found.append(BIAS.format(step=self.step))
        if self.interrupted:
            found.append("interrupted; what was drawn until then")
        return "; ".join(found)

    def save(self, path: str | Path) -> None:
        """Write to an npz file that `load_samples` reads; see `storage.save_samples`."""
        from thermolearn.systems.training.feature_learning.storage import save_samples

        save_samples(self, path)

    # -- passes over the draws -------------------------------------------------------------------
    @cached_property
    def _training(self) -> dict[str, Any]:
        """Per chain: Sigma, K of the layers behind, Q; per draw: y^T Q y / |y|^2."""
        density, y = self.density, self.density.y
        power = (y @ y).clamp(min=torch.finfo(y.dtype).tiny)  # labels of 0 are aligned with nothing
        totals: dict[str, Any] = {"sigma": 0.0, "output": 0.0}
        kernels: list[Any] = [0.0] * (len(density.shapes) - 1)
        alignment = []
        for x in self.batches(density.n * density.patches):
            flat, lead = x.flatten(0, 1), x.shape[:2]
            w = density.weights(flat)[0]
            totals["sigma"] += _chain_sum(w.mT @ w / w.shape[1], lead)
            pre = density.preactivations(flat)
            for number, h in enumerate(pre[1:]):
                kernels[number] += _chain_sum(h.mT @ h / h.shape[1], lead)
            features = density.phi(pre[-1])[0].reshape(len(flat), density.p, -1)
            totals["output"] += _chain_sum(density.g * features.mT @ features, lead)
            strength = density.g * (features @ y).square().sum(-1) / power
            alignment.append(strength.unflatten(0, lead))
        return {
            "sigma": totals["sigma"] / self.draws,
            "output": totals["output"] / self.draws,
            "kernels": [k / self.draws for k in kernels],
            "alignment": torch.cat(alignment).numpy(),
        }

    def _test(self, X: Any) -> dict[str, np.ndarray]:
        """Per chain at test inputs (chains, m): mean, mean square and variance of f given the
        hidden weights, and the mean output of sampled readouts. Kept for the last test set."""
        inputs = self.net.inputs(X)
        key = inputs.tobytes()
        if key not in self._tests:
            columns, density = as_columns(inputs), self.density
            totals: dict[str, Any] = dict.fromkeys(("mean", "square", "variance", "direct"), 0.0)
            for x in self.batches(columns.shape[1] + density.n * density.patches):
                flat, lead = x.flatten(0, 1), x.shape[:2]
                mean, variance = density.predict(flat, columns)
                totals["mean"] += _chain_sum(mean, lead)
                totals["square"] += _chain_sum(mean.square(), lead)
                totals["variance"] += _chain_sum(variance, lead)
                if not density.collapsed:
                    totals["direct"] += _chain_sum(density.outputs(flat, columns), lead)
            self._tests.clear()
            self._tests[key] = {name: total / self.draws for name, total in totals.items()}
        return self._tests[key]

    def batches(self, columns: int) -> tuple[Tensor, ...]:
        """The draws in blocks whose features fit into the cache."""
        wide = max(units for units, _ in self.density.shapes)
        return self.x.split(max(1, BATCH // (self.chains * wide * columns)))

    def _mean(self, per_chain: np.ndarray) -> Estimate:
        return mean_estimate(per_chain, status=self.status, note=self.note)

    def over_chains(self, statistic: Any, *per_chain: np.ndarray) -> Estimate:
        """Over chains; a single chain gives the plain value without an error bar."""
        if self.chains < 2:
            value = np.asarray(statistic(*per_chain))
            return Estimate(value, np.full(value.shape, np.nan), 1.0, self.status, self.note)
        found = jackknife(statistic, *per_chain, blocks=self.chains)
        return Estimate(found.value, found.stderr, found.n_eff, self.status, self.note)


def _chain_sum(values: Tensor, lead: torch.Size) -> np.ndarray:
    """Sum over draws of values (draws * chains, ...), per chain."""
    return values.unflatten(0, lead).sum(0).numpy()

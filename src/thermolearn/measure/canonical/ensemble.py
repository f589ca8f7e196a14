"""The canonical ensemble of the states of all neurons, in Gaussian approximation.

V. Vanchurin, "Towards a theory of machine learning", arXiv:2004.09280. Maximizing the entropy at
given average bulk loss gives p(x) ~ pi(x) exp(-beta H(x)); with the states linearized around
the forward pass, G = (1 - J)^T (1 - J) and A = (1 - beta m) + beta G,

    log Z = (N/2) log 2 pi - 1/2 log det A.

Writing tau = T - m (no reference: tau = -m) and L(tau) = log det(G + tau), log det A =
N log beta + L, and every state function is linear in L and its derivatives. The relative entropy
-KL(p|pi) is the S of the first law; the differential (Shannon) entropy is another quantity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.errors import ConvergenceError, UnstableEnsembleError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.canonical import backends, block
from thermolearn.measure.canonical.jacobian import (
    JacobianBlocks,
    device_of,
    sizes_of,
    validated_jacobian,
)
from thermolearn.measure.canonical.operators import BlockOperator, SegmentOperator
from thermolearn.measure.canonical.system import REFERENCES

METHODS = ("auto", "block", "dense", "slq")
LOG_2PI = math.log(2 * math.pi)
WIDEST_BLOCK = 6000  # beyond it a pivot block costs more than Lanczos on the whole network
HOT = 3e-6  # below this beta lambda, series: N T/2 and (T^2/2) L' agree to all but a few digits
REMEMBERED = 6  # shifts whose log det is kept
INVERSE_BETA = 10.0  # colder feed-forward ensembles take Lanczos on the inverse


class CanonicalEnsemble:
    """State functions of the ensemble at one temperature.

    Parameters
    ----------
    J : JacobianBlocks or list of Tensor (B, n_l, n_{l-1}), Tensor (B, N, N), or SegmentOperator
        The Jacobian at the fixed point: blocks of a feed-forward net, a dense (recurrent) matrix,
        or matrix-free products.
    beta : float
        Inverse temperature, > 0.
    mass : float
        m of V = -(m/2)|x - x_ref|^2; stable below m_c = lambda_min(G) + 1/beta.
    method : "auto", "block", "dense" or "slq"
        Exact block elimination O(sum n^3); exact singular values O(N^3); stochastic Lanczos
        quadrature with error bars. "auto" goes by size.
    reference : "fixed-point", "origin" or "flat"
    per_sample : bool
        Return one value per sample (stderr: numerical, 0 if exact) instead of the batch mean
        (stderr: spread over samples).
    fixed_point : Tensor (B, N), optional
        x*, needed for reference "origin" with plain blocks or a dense matrix.
    steps, probes, seed : int
        Of Lanczos quadrature.

    Raises
    ------
    ValueError
        beta <= 0, empty batch, NaN, shapes that do not chain, unknown options, too much memory.
    UnstableEnsembleError
        1 + beta (lambda_min - m) <= 0 for a sample (raised by the first state function).
    """

    def __init__(
        self,
        J: Any,
        beta: float,
        mass: float = 0.0,
        method: str = "auto",
        reference: str = "fixed-point",
        *,
        per_sample: bool = False,
        fixed_point: Tensor | None = None,
        steps: int = 30,
        probes: int = 20,
        seed: int = 0,
    ):
        if not (isinstance(beta, (int, float)) and math.isfinite(beta) and beta > 0):
            raise ValueError(f"beta must be positive and finite, got {beta!r}")
        if not math.isfinite(mass):
            raise ValueError(f"mass must be finite, got {mass!r}")
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}")
        if reference not in REFERENCES:
            raise ValueError(f"reference must be one of {REFERENCES}, got {reference!r}")
        self.beta, self.mass, self.reference = float(beta), float(mass), reference
        self.per_sample = per_sample
        self._slq = (steps, probes, seed)
        self._jacobian = validated_jacobian(J)
        if fixed_point is None:
            fixed_point = getattr(J, "fixed_point", None)
        self.fixed_point = fixed_point
        if reference == "origin" and fixed_point is None:
            raise ValueError("reference='origin' needs fixed_point=x* of shape (B, N)")
        self.layered = not isinstance(self._jacobian, Tensor)
        self.batch, self.neurons = sizes_of(self._jacobian)
        self._place: dict[str, Any] = {"dtype": torch.float64, "device": device_of(self._jacobian)}
        self.method = self._choose(method)
        if reference == "origin" and self.method == "slq":
            raise ValueError("reference='origin' needs method 'block' or 'dense'")
        self._cache: dict[str, Any] = {}

    @classmethod
    def fit(
        cls, J: Any, average_loss: float, *, start: float | None = None, **options: Any
    ) -> CanonicalEnsemble:
        """The ensemble whose average loss (batch mean) is given: beta from U.

        U(beta) decreases strictly, from (tr G - m N)/2 at beta -> 0 to 0 at beta -> infinity.
        `start` is a guess of beta, e.g. that of the previous snapshot.

        Raises
        ------
        ValueError
            "no positive temperature gives this loss", with both limits.
        """
        from thermolearn.measure.canonical.fit import fit_beta

        return fit_beta(cls, J, average_loss, options, start)

    def at(self, beta: float) -> CanonicalEnsemble:
        """The same network at another temperature, sharing all decompositions."""
        if not (math.isfinite(beta) and beta > 0):
            raise ValueError(f"beta must be positive and finite, got {beta!r}")
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, "beta": float(beta)}
        return other

    # -- back end --------------------------------------------------------------------------------

    def _choose(self, method: str) -> str:
        matrix = self._jacobian
        if isinstance(matrix, Tensor):
            if method == "block":
                raise ValueError(
                    "method='block' is for feed-forward blocks; a dense J takes 'dense' or 'slq'"
                )
            if method == "auto":
                dense_bytes = 3 * self.batch * self.neurons**2 * 8
                return "dense" if dense_bytes <= backends.DENSE_LIMIT else "slq"
            return method
        if isinstance(matrix, SegmentOperator):
            if method in ("block", "dense"):
                raise ValueError(f"method={method!r} needs the blocks: use jacobian_blocks(x)")
            return "slq"
        if method == "dense":
            backends.check_dense_memory(self.batch, self.neurons)
        if method == "auto":
            return "block" if max(matrix.widths[1:-1], default=0) <= WIDEST_BLOCK else "slq"
        return method

    def _backend(self) -> Any:
        """The decomposition, made once for all temperatures.

        Lanczos on the inverse for cold feed-forward ensembles, and for a negative shift: the
        smallest eigenvalues of G, which then decide, are the first to converge there.
        """
        return self._decomposition(self._on_inverse())

    def _on_inverse(self) -> bool:
        cold = self.beta > INVERSE_BETA or self.tau < 0
        return self.method == "slq" and self.layered and cold

    def _key(self, inverse: bool) -> str:
        return f"{self.method}-{inverse}"

    def _decomposition(self, inverse: bool) -> Any:
        key = self._key(inverse)
        if key not in self._cache:
            self._cache[key] = self._make_backend(inverse)
        return self._cache[key]

    def _make_backend(self, inverse: bool) -> Any:
        matrix = self._jacobian
        if isinstance(matrix, JacobianBlocks) and len(matrix) == 0:
            # one clamped segment: no neuron drives another, G is the identity
            return backends.DenseSpectrum(
                torch.zeros(self.batch, self.neurons, self.neurons, **self._place)
            )
        if self.method == "block" and isinstance(matrix, JacobianBlocks):
            return block.BlockElimination(matrix)
        if self.method == "dense":
            return backends.DenseSpectrum(self.dense_jacobian())
        operator: Any = matrix
        if isinstance(matrix, Tensor):
            operator = backends.DenseOperator(matrix)
        elif not isinstance(matrix, SegmentOperator):
            operator = BlockOperator(matrix, matrix.widths)
        return backends.LanczosSpectrum(operator, inverse, *self._slq)

    def dense_jacobian(self) -> Tensor:
        """J as (B, N, N)."""
        if isinstance(self._jacobian, Tensor):
            return self._jacobian
        if isinstance(self._jacobian, SegmentOperator):
            raise ValueError("a matrix-free J has no dense form: use jacobian_blocks(x)")
        backends.check_dense_memory(self.batch, self.neurons)
        return backends.dense_matrix(self._jacobian, self._jacobian.widths)

    @property
    def tau(self) -> float:
        """T - m with a reference measure, -m without: the shift of G."""
        return (0.0 if self.reference == "flat" else 1 / self.beta) - self.mass

    def _log_det(self, order: int) -> list[Tensor]:
        """L, L', L'' up to the order asked for, at tau; the last few shifts are remembered."""
        backend, memory = self._backend(), self._cache.setdefault("log_det", {})
        key = (id(backend), self.tau)
        if len(memory.get(key, ())) <= order:
            try:
                memory[key] = backend.log_det(self.tau, order)
            except block.NotPositiveDefiniteError as error:
                if self.tau > 0:  # G >= 0: it cannot be unstable
                    raise ConvergenceError(
                        "the elimination lost positive definiteness to rounding: the Jacobian's "
                        "entries are too large for float64; use method='dense'"
                    ) from error
                raise UnstableEnsembleError(self.mass, self.critical_mass) from error
            while len(memory) > REMEMBERED:
                del memory[next(iter(memory))]
        return memory[key][: order + 1]

    def _reduce(self, function: Callable[[CanonicalEnsemble], Tensor], what: str) -> Estimate:
        """Batch mean (or per-sample values) of a function of the ensemble, (B,) or (B, P)."""
        values = function(self)
        note = f"{what}; {self.method}, {self.batch} samples"
        error, shift = torch.zeros(values.shape[0]), torch.zeros(values.shape[0])
        if values.ndim == 2:
            note += f", {values.shape[1]} probes"
            error = values.std(1) / math.sqrt(values.shape[1])
            shift = self._truncation(function, values)
        sample, bars, moved = (_numpy(t) for t in (per_sample(values), error, shift))
        if self.per_sample:
            return _with_truncation(sample, bars, np.abs(moved), note)
        if len(sample) == 1:
            note += "; one sample has no spread"
            stderr = bars[0] if not self._backend().exact else math.nan
            return _with_truncation(sample[0], stderr, abs(moved[0]), note, 1.0)
        count = len(sample)
        stderr = sample.std(ddof=1) / math.sqrt(count)
        return _with_truncation(sample.mean(), stderr, abs(moved.mean()), note, float(count))

    def _truncation(
        self, function: Callable[[CanonicalEnsemble], Tensor], values: Tensor
    ) -> Tensor:
        """Change of a function since half the Lanczos steps, per sample; inf if it had no value."""
        backend = self._backend()
        if backend.half is None:
            return torch.zeros_like(values[:, 0])
        if backend.unresolved(self.tau):
            return torch.full_like(values[:, 0], math.inf)
        twin = self.at(self.beta)
        twin._cache = {self._key(self._on_inverse()): backend.half}
        try:
            return per_sample(values - function(twin))
        except UnstableEnsembleError:
            return torch.full_like(values[:, 0], math.inf)

    def _hot_moments(self) -> tuple[Tensor, Tensor] | None:
        """sum g_i and sum g_i^2, g = lambda - m, if beta is so small that series are sharper."""
        if self.beta > HOT:
            return None
        trace, square = self._backend().traces()
        n, m = self.neurons, self.mass
        second = square - 2 * m * trace + n * m**2
        if self.beta * float((second / n).max()) ** 0.5 > HOT:
            return None
        return trace - n * m, second

    # -- state functions -------------------------------------------------------------------------

    def _origin_terms(self, order: int) -> list[Tensor]:
        """Q(tau) = tau b^T (tau + M M^T)^{-1} b and tau-derivatives; zero unless centered at 0."""
        if self.reference != "origin":
            return [torch.zeros(self.batch, **self._place)] * (order + 1)
        from thermolearn.measure.canonical.origin import origin_terms

        return origin_terms(self, order)

    @property
    def log_partition(self) -> Estimate:
        """log Z = (N/2) log 2 pi - (N/2) log beta - L/2 (origin: - (beta/2) Q)."""
        return self._reduce(lambda e: e._log_partition(), "log Z, nats")

    def _log_partition(self) -> Tensor:
        n = self.neurons
        (log_det,) = self._log_det(0)
        shift = 0.5 * self.beta * self._origin_terms(0)[0]
        return _add(0.5 * n * (LOG_2PI - math.log(self.beta)) - 0.5 * log_det, -shift)

    @property
    def free_energy(self) -> Estimate:
        """F = -T log Z, in units of the loss."""
        return self._reduce(lambda e: -e._log_partition() / e.beta, "F = -T log Z, loss units")

    @property
    def average_loss(self) -> Estimate:
        """U = -d log Z/d beta = N T/2 - (T^2/2) L' (flat: N T/2), in units of the loss."""
        return self._reduce(lambda e: e._average_loss(), "U, loss units")

    def _average_loss(self) -> Tensor:
        t = 1 / self.beta
        if self.reference == "flat":
            return torch.full_like(self._log_det(0)[0], 0.5 * self.neurons * t)
        q = self._origin_terms(1)
        moments = self._hot_moments()
        if moments is not None:
            first, second = moments
            return _add(0.5 * (first - self.beta * second), 0.5 * (q[0] - t * q[1]))
        slope = self._log_det(1)[1]
        return _add(0.5 * self.neurons * t - 0.5 * t**2 * slope, 0.5 * (q[0] - t * q[1]))

    @property
    def heat_capacity(self) -> Estimate:
        """C_V = dU/dT = N/2 - T L' - (T^2/2) L'' = beta^2 Var H; between 0 and N/2 for m = 0."""
        return self._reduce(lambda e: e._heat_capacity(), "C_V, nats")

    def _heat_capacity(self) -> Tensor:
        t = 1 / self.beta
        if self.reference == "flat":
            return torch.full_like(self._log_det(0)[0], 0.5 * self.neurons)
        bend_q = self._origin_terms(2)[2]
        moments = self._hot_moments()
        if moments is not None:
            return _add(0.5 * self.beta**2 * moments[1], -0.5 * t * bend_q)
        _, slope, bend = self._log_det(2)
        return _add(0.5 * self.neurons - t * slope - 0.5 * t**2 * bend, -0.5 * t * bend_q)

    @property
    def energy_variance(self) -> Estimate:
        """Var H = T^2 C_V under the ensemble, squared loss units."""
        return self._reduce(lambda e: e._heat_capacity() / e.beta**2, "Var H, loss units squared")

    @property
    def complexity(self) -> Estimate:
        """C(T; b, w) = -1/2 sum log(lambda_i + tau), nats; log Z(b, w) of the cold limit.

        The differential entropy splits exactly as S_0(T) + C. The sign with which the source
        attaches C to the first law is a convention; this one is C = +log Z(b, w).
        """
        return self._reduce(
            lambda e: -0.5 * e._log_det(0)[0], "C = -1/2 sum log(lambda - m + T), nats"
        )

    @property
    def thermodynamic_entropy(self) -> float:
        """S_0(T) = (N/2)(1 + log 2 pi T), nats: the part that only knows the temperature."""
        return 0.5 * self.neurons * (1 + LOG_2PI - math.log(self.beta))

    @property
    def total_entropy(self) -> Estimate:
        """Total Shannon entropy = thermodynamic entropy + complexity (the differential entropy)."""
        return self.entropy("differential")

    def entropy(self, kind: str = "relative") -> Estimate:
        """Entropy in nats; the two kinds are different functions.

        "relative": -KL(p|pi) = beta U + log Z - (N/2) log 2 pi <= 0, the S of dU = T dS + dW
        (without a reference: beta U + log Z). "differential": the Shannon entropy
        (N/2)(1 + log 2 pi) - 1/2 log det A = S_0(T) + C, which does not obey that identity.
        """
        if kind == "relative":
            return self._reduce(lambda e: e._relative_entropy(), "S = -KL(p|reference), nats")
        if kind == "differential":
            return self._reduce(
                lambda e: e.thermodynamic_entropy - 0.5 * e._log_det(0)[0],
                "differential entropy, nats",
            )
        raise ValueError(f"kind must be 'relative' or 'differential', got {kind!r}")

    def _relative_entropy(self) -> Tensor:
        value = self.beta * self._average_loss() + self._log_partition()
        return value if self.reference == "flat" else value - 0.5 * self.neurons * LOG_2PI

    # -- spectrum and stability ------------------------------------------------------------------

    def spectrum(self) -> Tensor:
        """Eigenvalues of G, ascending, shape (B, N) (exact; squares of singular values)."""
        if self._cache.get("eigenvalues") is None:
            if isinstance(self._jacobian, JacobianBlocks) and len(self._jacobian) == 0:
                return torch.ones(self.batch, self.neurons, **self._place)
            backend = self._cache.get("dense-False")
            if backend is None:
                backend = backends.DenseSpectrum(self.dense_jacobian())
            self._cache["eigenvalues"] = backend.eigenvalues
        return self._cache["eigenvalues"]

    def spectral_weight(self, edges: Sequence[float]) -> Estimate:
        """Fraction of the eigenvalues of G in each bin between `edges`, batch mean with error."""
        bounds = torch.as_tensor(edges, dtype=torch.float64)
        if bounds.ndim != 1 or len(bounds) < 2 or bool((bounds.diff() <= 0).any()):
            raise ValueError("edges must be an increasing sequence of at least two numbers")
        if self.method == "slq":
            backend = self._backend()
            nodes, weights = backend.eigenvalue_nodes(), backend.weights
        else:
            nodes = self.spectrum().unsqueeze(1)
            weights = torch.full_like(nodes, 1 / self.neurons)
        inside = (nodes.unsqueeze(-1) >= bounds[:-1]) & (nodes.unsqueeze(-1) < bounds[1:])
        fraction = (weights.unsqueeze(-1) * inside).sum(-2)
        sample = _numpy(fraction.mean(1))  # probes of one sample are not further samples
        n = len(sample)
        spread = sample.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.full(sample.shape[1], np.nan)
        return Estimate(sample.mean(0), spread, n)

    @property
    def lambda_min(self) -> float:
        """Smallest eigenvalue of G over all samples.

        Lanczos: the smallest node, for feed-forward nets on the inverse, where it converges
        first; for a dense J it is an upper bound.
        """
        if self.method == "slq":
            backend = self._decomposition(self.layered)
            nodes = backend.eigenvalue_nodes()[backend.weights > 1e-12]
            return float(nodes.min())
        if self._cache.get("lambda_min") is None:
            self._cache["lambda_min"] = _smallest_eigenvalue(self)
        return self._cache["lambda_min"]

    @property
    def lambda_max(self) -> float:
        """Largest eigenvalue of G over all samples (Lanczos: from the quadrature nodes)."""
        if self.method == "slq":
            backend = self._backend()
            return float(backend.eigenvalue_nodes()[backend.weights > 1e-12].max())
        return float(self.spectrum().max())

    @property
    def critical_mass(self) -> float:
        """m_c = lambda_min(G) + T (without a reference: lambda_min): the stability limit."""
        return self.lambda_min + (0.0 if self.reference == "flat" else 1 / self.beta)

    # -- learning efficiency ---------------------------------------------------------------------

    def laplacian(self, kind: str = "edges") -> Estimate:
        """Laplacian of F over the connections at fixed slopes f'; see `laplacian.edge_laplacian`.

        "edges" is the total over all existing connections of element-wise segments. The Laplacian
        over parameters ("weights") differs under weight sharing and includes f'': ask the network,
        `NeuronSystem.free_energy_laplacian`.
        """
        if kind != "edges":
            raise ValueError(
                f"kind must be 'edges', got {kind!r}; the Laplacian over parameters is "
                "NeuronSystem.free_energy_laplacian(x, beta, probes)"
            )
        from thermolearn.measure.canonical.laplacian import edge_laplacian

        return self._reduce(edge_laplacian, "sum over edges of d2F/dw2 at fixed slopes")


def per_sample(values: Tensor) -> Tensor:
    """(B,) from (B,) or, with a probe axis, (B, P)."""
    return values if values.ndim == 1 else values.mean(1)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().numpy()


def _with_truncation(
    value: Any, stderr: Any, truncation: Any, note: str, n_eff: float | None = None
) -> Estimate:
    """Statistical and truncation error together; flagged if truncation rules and matters."""
    if not np.all(np.isfinite(truncation)):
        return Estimate(value, np.full(np.shape(value), np.nan), n_eff, "not converged", note)
    matters = np.any((truncation > 3 * np.nan_to_num(stderr)) & (truncation > 1e-3 * np.abs(value)))
    if matters:
        note += "; Lanczos has not converged: raise steps, or use method 'block' or 'dense'"
    return Estimate(
        value, np.hypot(stderr, truncation), n_eff, "not converged" if matters else "ok", note
    )


def _add(values: Tensor, extra: Tensor) -> Tensor:
    """(B,) or (B, P) plus (B,)."""
    return values + (extra if values.ndim == 1 else extra.unsqueeze(-1))


def _smallest_eigenvalue(ensemble: CanonicalEnsemble, accuracy: float = 1e-10) -> float:
    """lambda_min(G): exact singular values if small, else bisection on positive definiteness."""
    if ensemble.method == "dense" or ensemble.neurons <= 400:
        return float(ensemble.spectrum().min())
    backend = ensemble._backend()
    low, high = 0.0, 1.0  # feed-forward: det G = 1 puts lambda_min in (0, 1]
    while high - low > accuracy * high and high > 1e-14:
        middle = 0.5 * (low + high)
        try:
            backend.log_det(-middle)
            low = middle
        except block.NotPositiveDefiniteError:
            high = middle
    return 0.5 * (low + high)

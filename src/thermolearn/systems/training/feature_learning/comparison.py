"""Equations of state and Gaussian process against the sampler, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thermolearn.core.estimate import Estimate
from thermolearn.systems.training.feature_learning.equations import Solution
from thermolearn.systems.training.feature_learning.posterior_samples import PosteriorSamples

SIGMAS = 4.0


@dataclass(frozen=True, eq=False)
class Row:
    """One quantity: Gaussian process (infinite width), equations of state, sampler."""

    name: str
    gp: float
    eos: float
    sampler: Estimate

    @property
    def eos_is_worse(self) -> bool:
        """Whether the theory is further from the sampler than the plain Gaussian process, by more
        than 4 standard errors of the sampler."""
        center = float(self.sampler)
        excess = abs(self.eos - center) - abs(self.gp - center)
        return bool(excess > SIGMAS * float(self.sampler.stderr))


@dataclass(frozen=True, eq=False)
class FeatureComparison:
    """What `compare` found; ``str()`` of it is a table and the statement.

    Attributes
    ----------
    rows : tuple of Row
        learned variance: largest eigenvalue of Sigma S / sigma_w2; alignment: y^T K y / |y|^2 of
        the last hidden kernel (only behind the first layer); alpha, relative mse: on the test data;
        variance: mean predictive variance.
    gp_distance, eos_distance : Estimate
        Relative rms distance of the predictor from the sampler's, |f - f_s| / |f_s| at test
        inputs, the sampler's own noise subtracted.
    kernel_shift_captured : Estimate
        <dK_theory, dK_sampler> / |dK_sampler|^2 for the shifts from infinite width of the kernel
        (of Sigma with one hidden layer): 1 is all.
    direction_overlap : Estimate
        |v . v_s| of the top eigenvectors of Sigma.
    """

    rows: tuple[Row, ...]
    gp_distance: Estimate
    eos_distance: Estimate
    kernel_shift_captured: Estimate
    direction_overlap: Estimate
    status: str = "ok"
    flags: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {[row.name for row in self.rows]}")

    @property
    def worse(self) -> tuple[str, ...]:
        """What the equations of state get worse than the plain Gaussian process."""
        names = [row.name for row in self.rows if row.eos_is_worse]
        error = np.hypot(float(self.gp_distance.stderr), float(self.eos_distance.stderr))
        if float(self.eos_distance) - float(self.gp_distance) > SIGMAS * error:
            names.insert(0, "predictor")
        return tuple(names)

    @property
    def statement(self) -> str:
        """In words: what the theory gains over the Gaussian process, and where it loses."""
        near, far = float(self.eos_distance), float(self.gp_distance)
        error = float(self.eos_distance.stderr)
        if self.status != "ok":
            return f"The sampler is {self.status}: nothing can be said yet."
        if "predictor" in self.worse:
            head = f"The equations of state are WORSE than the plain Gaussian process ({near:.3g} "
            head += f"against {far:.3g} from the sampler): use the Gaussian process, or the sampler"
        elif far - near > SIGMAS * np.hypot(error, float(self.gp_distance.stderr)):
            share = 1 - near / far
            head = f"The equations of state remove {share:.0%} of the Gaussian process' error "
            head += f"(relative rms {far:.3g} to {near:.3g})"
        else:
            head = "The equations of state and the Gaussian process are equally far from the "
            head += f"sampler ({near:.3g} and {far:.3g})"
        rest = [name for name in self.worse if name != "predictor"]
        return head + (f"; worse than the Gaussian process in {', '.join(rest)}." if rest else ".")

    def __str__(self) -> str:
        lines = [f"{'':18s}{'GP':>10s}{'EoS':>10s}  sampler"]
        lines += [f"{r.name:18s}{r.gp:10.4f}{r.eos:10.4f}  {r.sampler}" for r in self.rows]
        gp, eos = float(self.gp_distance), str(self.eos_distance)
        lines.append(f"{'relative rms':18s}{gp:10.4f}  {eos} (EoS), from the sampler's predictor")
        lines.append(f"kernel shift captured {self.kernel_shift_captured}")
        lines.append(f"overlap of the learned directions {self.direction_overlap}")
        return "\n".join([*lines, *self.flags, self.statement])


def compare(solution: Solution, samples: PosteriorSamples, X: Any, y: Any) -> FeatureComparison:
    """Hold the equations of state, and the process of infinite width, against the sampler.

    Parameters
    ----------
    solution : Solution
        ``net.equations_of_state(X, y, noise).solve()``
    samples : PosteriorSamples
        Of the same network, data and noise.
    X, y : arrays (m, ...) and (m,)
        Test data.

    Raises
    ------
    ValueError
        Different networks, data or noise; bad test data.
    """
    _check_same(solution, samples)
    net, density = solution.net, samples.density
    gp = net.gp(samples.inputs, density.y.numpy(), density.noise)
    labels = net.data(X, y, 1.0)[1]
    test = samples.test(X, y)
    f = np.asarray(gp.predict(X)), np.asarray(solution.predict(X))
    alpha = [float(p @ labels / (labels @ labels)) for p in f]
    mse = [float(((p - labels) ** 2).mean() / labels.var()) for p in f]
    variances = [float(np.mean(v.predictive_variance(X))) for v in (gp, solution)]
    sigma = np.asarray(solution.relative_input_covariance)
    rows = [
        Row("learned variance", 1.0, float(np.linalg.eigvalsh(sigma)[-1]), _top(samples)),
        Row("alpha", alpha[0], alpha[1], test.alpha),
        Row("relative mse", mse[0], mse[1], test.relative_mse),
        Row("variance", variances[0], variances[1], samples.mean_predictive_variance(X)),
    ]
    if samples.kernels:
        prior = replace(solution, covariances=solution.problem.at_prior()).kernels[-1]
        target, adapted = density.y.numpy(), solution.kernels[-1]
        strength = [float(target @ K @ target / (target @ target)) for K in (prior, adapted)]
        rows.insert(1, Row("alignment", strength[0], strength[1], samples.alignment()))
        shift = _captured(adapted, prior, samples, samples.kernels_by_chain[-1])
    else:
        shift = _captured(sigma, np.eye(len(sigma)), samples, _relative(samples))
    distances = [_distance(p, samples, X) for p in f]
    return FeatureComparison(
        tuple(rows),
        *distances,
        kernel_shift_captured=shift,
        direction_overlap=_overlap(sigma, samples),
        status=samples.status,
        flags=tuple(solution.flags),
    )


def _check_same(solution: Solution, samples: PosteriorSamples) -> None:
    problem, density = solution.problem, samples.density
    if not problem.y.any():
        raise ValueError("the training labels y are all 0, as is every predictor: none is better")
    if solution.net != samples.net:
        raise ValueError(f"samples are of {samples.net}, the solution is of {solution.net}")
    same = len(problem.y) == density.n and np.allclose(problem.y, density.y.numpy())
    here, there = (
        np.asarray(solution.predict(samples.inputs)),
        problem.y - problem.noise * (solution.discrepancy),
    )
    if not same or problem.noise != density.noise or not np.allclose(here, there, atol=1e-6):
        raise ValueError("samples and solution must have the same training data and noise")


def _relative(samples: PosteriorSamples) -> np.ndarray:
    return samples.sigma_by_chain * (samples.density.size / samples.net.sigma_w2)


def _top(samples: PosteriorSamples) -> Estimate:
    return samples.over_chains(lambda s: np.linalg.eigvalsh(s.mean(0))[-1], _relative(samples))


def _distance(f: np.ndarray, samples: PosteriorSamples, X: Any) -> Estimate:
    """|f - f_s| / |f_s|; the jackknife takes the sampler's own noise out of the square."""

    def square(mean: np.ndarray) -> float:
        center = mean.mean(0)
        return float(((f - center) ** 2).sum() / (center**2).sum())

    found = samples.over_chains(square, samples.prediction_by_chain(X))
    value = np.sqrt(max(float(found), 0.0))
    # where nothing is left of the square, its error bounds the distance
    error = float(found.stderr) / (2 * value) if value > 0 else np.sqrt(float(found.stderr))
    return replace(found, value=value, stderr=error)


def _captured(
    theory: np.ndarray, prior: np.ndarray, samples: PosteriorSamples, by_chain: np.ndarray
) -> Estimate:
    def share(kernels: np.ndarray) -> float:
        shift = kernels.mean(0) - prior
        return float(((theory - prior) * shift).sum() / (shift**2).sum())

    return samples.over_chains(share, by_chain)


def _overlap(sigma: np.ndarray, samples: PosteriorSamples) -> Estimate:
    top = np.linalg.eigh(sigma)[1][:, -1]

    def overlap(by_chain: np.ndarray) -> float:
        return float(abs(top @ np.linalg.eigh(by_chain.mean(0))[1][:, -1]))

    return samples.over_chains(overlap, samples.sigma_by_chain)

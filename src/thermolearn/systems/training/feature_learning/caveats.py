"""What a user must know before using a solution of the equations of state: its flags.

Criteria are ratios that do not change with the units of labels and inputs: y -> c y, sigma_a2 ->
c^2 sigma_a2, noise -> c^2 noise is one posterior, and so is any split of sigma_w2 sigma_a2 for a
homogeneous activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from thermolearn.core.errors import ConvergenceError
from thermolearn.systems.training.feature_learning.linear import linear_network_exact
from thermolearn.systems.training.feature_learning.self_check import (
    BETTER,
    WORSE,
    fresh_inputs,
    self_checks,
)

if TYPE_CHECKING:
    from thermolearn.systems.training.feature_learning.equations import Solution

STANDARD = 0.2  # prior variance of an output over the labels' mean square: standard scaling
SAME_ENERGY = 1e-6  # free energies closer than this, relative, belong to one minimum
SAME_FIT = 1e-3  # predictors closer than this, relative: their order does not matter
ROUNDING = 1e-6  # of a relative error: the solver, the quadrature
DRAWS, LEAST_DRAWS = 2000, 400
COST = 2e7  # numbers in the check that a solution makes of itself: about 0.3 s
UNCONTROLLED = (
    "saddle point not controlled: outputs of the prior have {ratio:.2g} times the labels' mean "
    "square, which is near standard scaling, and the last hidden layer has {width} units for {n} "
    "samples, so that O(1/width) corrections are as large as the effect; compare with the sampler"
)
FRESH_INPUTS = "fresh inputs (Gaussian, of the training inputs' mean and covariance)"
TRAINING_INPUTS = "the training inputs"


class Caveats(NamedTuple):
    """All flags, and those of them that are warnings."""

    flags: tuple[str, ...]
    warnings: tuple[str, ...]


def caveats(found: Solution) -> Caveats:
    """Several minima, a saddle point that is not controlled, a predictor worse than the GP's."""
    net, n = found.net, len(found.X)
    ratio = _scaling(found)
    quiet, loud = _minima(found.energies), []
    if ratio >= STANDARD and net.layers[-1] < n:
        text = UNCONTROLLED.format(ratio=ratio, width=net.layers[-1], n=n)
        loud.append(text + (", or call self_check()" if len(net.layers) == 1 else ""))
    against = _against_the_gp(found, ratio)
    (loud if against.startswith(f"worse than the plain Gaussian process at {FRESH_INPUTS}")
     else quiet).extend([against] if against else [])  # fmt: skip
    return Caveats((*quiet, *loud), tuple(loud))


def _scaling(found: Solution) -> float:
    """E f^2 of the prior over the labels' mean square, both over the training inputs."""
    problem = found.problem
    power = float(problem.y @ problem.y)
    prior = float(np.trace(problem.output_kernel(problem.at_prior()[-1])))
    return prior / power if power > 0 else np.inf


def _minima(energies: dict[str, float]) -> list[str]:
    low, high = min(energies.values()), max(energies.values())
    if high - low <= SAME_ENERGY * max(1.0, abs(low)):
        return []
    listed = ", ".join(f"{name} {value:.6f}" for name, value in energies.items())
    return [
        f"more than one minimum of the free energy ({listed}): the lower one is kept; learning "
        "may set in discontinuously here"
    ]


def _against_the_gp(found: Solution, ratio: float) -> str:
    """Is the predictor worse than the plain Gaussian process, or was that not checked?

    Linear networks: exactly. One hidden layer near standard scaling: by importance sampling, if
    that costs a fraction of a second. In mean-field scaling the process was worse wherever that
    could be told.
    """
    net, n = found.net, len(found.X)
    if not found.problem.y.any():
        return ""  # both predictors are 0, which is exact
    sets = [found.X, fresh_inputs(found.X)]
    inputs = np.concatenate(sets)
    fits = np.stack([found.predict_checked(inputs), found.gp.predict_checked(inputs)])
    if np.linalg.norm(fits[0] - fits[1]) <= SAME_FIT * np.linalg.norm(fits[0]):
        return ""
    if found.problem.averages.linear and net.input_shape[0] == 1:
        return _exactly(found, inputs[:, 0], fits)
    if ratio < STANDARD:
        return ""
    if len(net.layers) > 1:
        return _unchecked("no check knows more than one hidden layer; compare with the sampler")
    patches, _ = net.input_shape
    cost = len(inputs) * (patches * found.problem.widths[0] + n)
    draws = min(DRAWS, int(COST / cost))
    if draws < LEAST_DRAWS:
        return _unchecked("that takes seconds at this size; call self_check()")
    checks = self_checks(found, sets, draws)
    if not checks[0].settled:
        return _unchecked(
            f"{checks[0].n_eff:.0f} effective samples of {draws} are too few; compare with the "
            "sampler"
        )
    return _worse([check.verdict for check in checks],
                  [f"{c.error} against {c.gp_error}" for c in checks],
                  f"{checks[0].n_eff:.0f} effective samples")  # fmt: skip


def _exactly(found: Solution, inputs: np.ndarray, fits: np.ndarray) -> str:
    net, problem, n = found.net, found.problem, len(found.X)
    try:
        exact = linear_network_exact(
            found.X[:, 0], problem.y, net.layers, problem.noise, net.sigma_w2, net.sigma_a2
        ).predict(inputs)
    except ConvergenceError:
        return _unchecked("the quadrature of the exact linear network does not converge here")
    verdicts, texts = [], []
    for part in (slice(None, n), slice(n, None)):
        size = max(float(np.linalg.norm(exact[part])), np.finfo(float).tiny)
        eos, gp = (float(np.linalg.norm(f[part] - exact[part])) / size for f in fits)
        verdicts.append(WORSE if eos > gp + ROUNDING else BETTER)
        texts.append(f"{eos:.2g} against {gp:.2g}")
    return _worse(verdicts, texts, "exact linear network")


def _worse(verdicts: list[str], texts: list[str], how: str) -> str:
    """The flag, from verdicts and relative errors at the training inputs and at fresh ones."""
    training, fresh = (verdict == WORSE for verdict in verdicts)
    if fresh:
        also = "also" if training else "not"
        head = f"at {FRESH_INPUTS}: relative error {texts[1]}; {also} at {TRAINING_INPUTS}: "
        return f"worse than the plain Gaussian process {head}{texts[0]} ({how})"
    if training:
        link = "not" if verdicts[1] == BETTER else "perhaps"
        head = f"at {TRAINING_INPUTS}, {link} at {FRESH_INPUTS}: relative error {texts[0]} there"
        return f"worse than the plain Gaussian process {head}, {texts[1]} here ({how})"
    return ""


def _unchecked(why: str) -> str:
    return f"not checked against the plain Gaussian process: {why}"

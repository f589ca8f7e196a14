"""What the states say once per run: trust in the Gaussian, spectrum of G, thermal robustness."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from torch import Tensor

from thermolearn.core.errors import NotApplicableError, SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.measure.canonical.ensemble import CanonicalEnsemble
from thermolearn.measure.canonical.robustness import thermal_robustness
from thermolearn.measure.canonical.rows import FIXED_BETAS, Row, values_row
from thermolearn.measure.canonical.states import sample_states

TRUST_SAMPLES, TRUST_NEURONS = 16, 2000
TRUST_DRAWS, TRUST_ELEMENTS = (200, 4000), 1e7  # draws per sample; draws x samples x neurons
HMC_SAMPLES, HMC_NEURONS = 4, 300
COARSE = 0.01  # relative resolution of U above which agreement says nothing


def _clean_ensemble(point: Any, samples: int) -> tuple[Tensor, CanonicalEnsemble]:
    x = point.x[:samples]
    return x, CanonicalEnsemble(point.system.jacobian_blocks(x), point.ensemble.beta)


def trust(run: Any, first: Any, last: Any) -> Row:
    """The average loss without the Gaussian approximation, at fitted and at fixed temperature.

    Importance-sampled noisy forward passes; where their effective sample size is too small, HMC.
    """
    if last.ensemble.neurons > TRUST_NEURONS:
        raise NotApplicableError(
            f"{last.ensemble.neurons} neurons: sampling the states is left out above "
            f"{TRUST_NEURONS}; call sample_states yourself"
        )
    cases = [(run.first.step, first, first.ensemble.beta, "first"),
             (run.last.step, last, last.ensemble.beta, "last"),
             *((run.last.step, last, b, f"beta_{b:.0f}_last") for b in FIXED_BETAS)]  # fmt: skip
    rows, notes, values = [], [], {}
    for step, point, beta, name in cases:
        approx, exact, method, ess = _exact_loss(point, beta, run.last.seed)
        deviation = (approx - float(exact)) / float(exact)
        verdict = _verdict(deviation, exact)
        rows.append(
            [step, beta, method, approx, float(exact), float(exact.stderr), deviation, ess, verdict]
        )
        values.update(
            values_row(
                **{
                    f"average_loss_gaussian_{name}": approx,
                    f"average_loss_exact_{name}": exact,
                    f"ess_{name}": ess,
                }
            )
        )
        notes.append(
            f"Step {step}, beta = {beta:.4g}: Gaussian U = {approx:.6g}, exact {exact} by "
            f"{method} ({100 * deviation:+.2g}%): {verdict}."
        )
    columns = ["step", "beta", "method", "gaussian", "exact", "stderr", "relative deviation", "ESS",
               "verdict"]  # fmt: skip
    rows = [[None if isinstance(v, float) and not math.isfinite(v) else v for v in r] for r in rows]
    return {
        "values": values,
        "tables": {"trust": {"columns": columns, "rows": rows}},
        "notes": notes,
    }


def _exact_loss(point: Any, beta: float, seed: int) -> tuple[float, Estimate, str, float]:
    """Gaussian and sampled U on the same samples, the method, and its effective sample size."""
    x, gauss = _clean_ensemble(point, TRUST_SAMPLES)
    fewest, most = TRUST_DRAWS
    n = min(max(int(TRUST_ELEMENTS / (gauss.neurons * len(x))), fewest), most)
    draws = sample_states(point.system, x, beta, n, keep_states=False, seed=seed)
    method, exact, ess = "importance", draws.average_loss, float(draws.ess.min())
    if draws.status != "ok" and gauss.neurons <= HMC_NEURONS:
        x, gauss = _clean_ensemble(point, HMC_SAMPLES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SamplerWarning)  # the status says it
            chains = sample_states(
                point.system, x, beta, 300, "hmc", keep_states=False, chains=8, seed=seed
            )
            method, exact, ess = "HMC", chains.average_loss, float(chains.ess.sum())
    return float(gauss.at(beta)._average_loss().mean()), exact, method, ess


def _verdict(deviation: float, exact: Estimate) -> str:
    """Whether the Gaussian number may be used: 4 standard errors or a permille, if resolved."""
    allowed = max(4 * float(exact.stderr) / abs(float(exact)), 1e-3)
    if exact.status != "ok":
        return f"cannot tell: {exact.status}"
    if not abs(deviation) <= allowed:
        return "do not trust"
    return "trust" if allowed <= COARSE else f"cannot tell below {100 * allowed:.1g}%"


def spectrum(first: Any, last: Any) -> Row:
    """Fractions of the eigenvalues of G in logarithmic bins, first and last snapshot."""
    values: dict[str, Any] = {}
    ensembles = {"first": _spectral(first), "last": _spectral(last)}
    for name, ensemble in ensembles.items():
        lowest = ensemble.lambda_min
        limit = lowest + 1 / ensemble.beta
        values.update(
            values_row(
                **{
                    f"lambda_min_{name}": Estimate(lowest, note="smallest over the samples used"),
                    f"critical_mass_{name}": Estimate(limit, note="m_c = lambda_min + T"),
                }
            )
        )
    low = 0.5 * min(e.lambda_min for e in ensembles.values())
    high = 2 * max(e.lambda_max for e in ensembles.values())
    edges = np.geomspace(low, high, 33)
    pair = [e.spectral_weight(edges.tolist()) for e in ensembles.values()]
    rows = [
        list(row)
        for row in zip(
            edges, edges[1:], *(_bins(e, name) for e in pair for name in ("value", "stderr")),
            strict=False,
        )
    ]  # fmt: skip
    columns = ["from", "to", "first", "first stderr", "last", "last stderr"]
    rows = [[float(v) if math.isfinite(float(v)) else None for v in row] for row in rows]
    return {
        "values": values,
        "tables": {"spectrum": {"columns": columns, "rows": rows}},
        "notes": [
            "det G = 1 exactly for a feed-forward net, so eigenvalues lie on both sides of 1."
        ],
    }


def _spectral(point: Any) -> CanonicalEnsemble:
    """The ensemble on as many samples as exact eigenvalues are affordable for."""
    if point.ensemble.method == "slq":
        return point.ensemble
    if point.ensemble.neurons > 3000:
        raise NotApplicableError("too many neurons for exact eigenvalues")
    return _clean_ensemble(point, 32 if point.ensemble.neurons <= 500 else 4)[1]


def _bins(estimate: Estimate, name: str) -> np.ndarray:
    """Values or error bars of an Estimate, one per bin."""
    return np.broadcast_to(np.asarray(getattr(estimate, name)), np.shape(estimate.value))


def robustness(last: Any) -> Row:
    """Accuracy under the ensemble's own noise against temperature."""
    if last.labels is None:
        raise NotApplicableError("thermal robustness is an accuracy: it needs class labels")
    betas = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, last.ensemble.beta, math.inf]
    betas = sorted(set(betas))
    accuracy = thermal_robustness(last.system, last.x, last.labels, betas)
    rows = [
        [None if math.isinf(b) else b, None if math.isinf(b) else 1 / b, float(a), float(a.stderr),
         "clean" if math.isinf(b) else "fitted" if b == last.ensemble.beta else ""]
        for b, a in zip(betas, accuracy, strict=True)
    ]  # fmt: skip
    columns = ["beta", "temperature", "accuracy", "stderr", "which"]
    fitted = accuracy[betas.index(last.ensemble.beta)]
    clean = accuracy[-1]
    return {
        "values": values_row(accuracy_clean=clean, accuracy_at_fitted_beta=fitted),
        "tables": {"robustness": {"columns": columns, "rows": rows}},
        "notes": [
            f"With noise of the fitted temperature on every neuron, inputs included, the accuracy "
            f"on the reference set is {fitted} against {clean} without noise."
        ],
    }

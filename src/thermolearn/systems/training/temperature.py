"""Temperature of a linear learning machine: energy released by training, per nat of disorder.

Random weights w are replaced by trained ones; the energy is the mean loss of the scores z = X w,
E_I at random and E_F at the minimum, the disorder the entropy S_I of the random weights, and
T = (E_I - E_F)/S_I. When the data are replaced instead, T = dE/dS with the relative entropy of the
two trained Gibbs ensembles.

Data: features N(0, 1), y = x . t + noise with |t| = 1. Reference: D. Zhang, arXiv:2404.13218, for
the temperature; the closed forms are our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate, mean_estimate

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing
    from thermolearn.measure.temperature.heat_flow import HeatFlow

ABOUT = {
    "title": "Temperature of a linear learning machine",
    "papers": ["arXiv:2404.13218"],
    "claims": [
        "For squared error the temperature of training follows from the variance and the entropy "
        "of the initial weights; for standard normal features and weights it tends to "
        "2/log(2 pi e) = 0.7048 with the number of features, whatever the labels.",
        "The mean absolute error and the cross-entropies of random weights have closed or "
        "one-dimensional forms; uniform weights need an Edgeworth correction.",
        "When labels are replaced, energy released over relative entropy of the two Gibbs "
        "ensembles is the temperature of those ensembles, exactly.",
    ],
    "axes": {},
    "size": "n_features",
    "sizes": (40, 80),
    # the length of a sample's feature vector fluctuates about sqrt(D): measured with 400 seeds at
    # 10 and 40 features, D times the deviation is -0.06 for the binary energy, -0.3 for 5 classes
    "allowance": {"binary_initial_energy": (0.1, 1.0), "classes_initial_energy": (0.4, 1.0)},
    "contrast": {"sigma": 1.1, "half_width": 1.7, "score_scale": 2.3, "bath_temperature": 0.04},
    "seeds": 24,
    "figures": {"1": "figure", "2": "engines"},
}


@dataclass(frozen=True)
class Params:
    """A linear model, its data and the laws of its initial weights.

    Attributes
    ----------
    n_features : int
        D, at least 2.
    samples_per_feature : int
        N / D, at least 2.
    sigma : float
        Standard deviation of normal weights in the squared-error part, > 0; its entropy must not
        vanish (sigma = 0.24197).
    half_width : float
        a of uniform weights U(-a, a) in the squared-error part, > 0; not 1/2.
    score_scale : float
        Standard deviation of the scores in the other parts: weights have variance score_scale^2/D;
        > 0 and at most 20.
    noise : float
        Standard deviation of the noise of the targets, > 0.
    classes : int
        Classes of the K-class cross-entropy, from 2 to 20.
    bath_temperature : float
        Temperature of the Gibbs ensembles when labels are replaced, > 0, in units of the loss.
    draws : int
        Draws of weights per seed, at least 20; of each Gibbs ensemble four times as many, and at
        least 3 D + 10.
    """

    n_features: int = 40
    samples_per_feature: int = 4
    sigma: float = 1.0
    half_width: float = 1.5
    score_scale: float = 2.0
    noise: float = 0.5
    classes: int = 5
    bath_temperature: float = 0.03
    draws: int = 400

    def __post_init__(self) -> None:
        whole("n_features", self.n_features, 2)
        whole("samples_per_feature", self.samples_per_feature, 2)
        whole("classes", self.classes, 2, 20)
        whole("draws", self.draws, 20)
        for name in ("sigma", "half_width", "noise", "bath_temperature"):
            real(name, getattr(self, name), above=0)
        real("score_scale", self.score_scale, above=0, most=20)
        if abs(math.log(2 * math.pi * math.e * self.sigma**2)) < 1e-9:
            raise ValueError("sigma: normal weights of this width have no entropy, T is undefined")
        if abs(math.log(2 * self.half_width)) < 1e-9:
            raise ValueError("half_width: weights on (-1/2, 1/2) have no entropy, T is undefined")

    @property
    def n_samples(self) -> int:
        """N."""
        return self.n_features * self.samples_per_feature


OBSERVABLES = (
    "temperature_normal",
    "temperature_uniform",
    "mae_initial_energy",
    "mae_initial_energy_uniform",
    "binary_initial_energy",
    "classes_initial_energy",
    "temperature_new_labels",
)


# -- theory ------------------------------------------------------------------------------------
def theory(p: Params) -> dict[str, Estimate]:
    """Averages over data; squared error at every D, MAE to order 1/D, the others to leading order.

    Returns
    -------
    dict of Estimate
        temperature_normal, temperature_uniform : T of squared error, (1 + noise^2 D/N + v D)/S_I
            with v the variance of a weight and S_I their differential entropy; loss per nat.
        mae_initial_energy : E |y - z|, to order 1/D: sqrt(2/pi) V^{1/2} (1 - s^4/(4 D V^2))
            - s^2/(D V (2 pi V)^{1/2}), V = 1 + noise^2 + s^2, s the score scale; ``_uniform``:
            and the Edgeworth term of uniform weights.
        binary_initial_energy : E log(1 + e^{s g}).
        classes_initial_energy : E log sum_k e^{s g_k}, K classes.
        temperature_new_labels : T_0, the temperature of the Gibbs ensembles.
    """
    from thermolearn.measure.temperature.gaussian_losses import logsumexp_mean, softplus_mean
    from thermolearn.measure.temperature.initialization import Normal, Uniform, init_entropy

    D, s = p.n_features, p.score_scale
    labels = 1 + p.noise**2 / p.samples_per_feature  # mean |P_X y|^2 / N
    normal = (labels + p.sigma**2 * D) / float(init_entropy(Normal(p.sigma), D))
    uniform = (labels + p.half_width**2 / 3 * D) / float(init_entropy(Uniform(p.half_width), D))
    total = 1 + p.noise**2 + s**2
    bell = 1 / math.sqrt(2 * math.pi * total)
    # the variance s^2 |x|^2/D of a score fluctuates, and is larger where (x . t)^2 is
    mae = 2 * total * bell * (1 - s**4 / (4 * D * total**2)) - s**2 * bell / (D * total)
    # kappa4/12 <p''(y)>, kappa4 = -1.2 (s^2/D)^2 sum x^4 = -3.6 s^4/D, y - z of variance `total`
    edgeworth = 0.3 * s**4 * bell / (D * total)
    binary = [float(softplus_mean(np.array([s]), n)[0]) for n in (16, 12)]
    classes = [logsumexp_mean(s, p.classes, step)[0] for step in (0.25, 0.125)]
    found = (
        Estimate(normal),
        Estimate(uniform),
        Estimate(mae, note="to order 1/D"),
        Estimate(mae + edgeworth, note="to order 1/D, Edgeworth term included"),
        Estimate(binary[0], abs(binary[0] - binary[1]), note="leading order in D"),
        Estimate(classes[0], abs(classes[0] - classes[1]), note="leading order in D"),
        Estimate(p.bath_temperature, note="exact, an identity"),
    )
    return dict(zip(OBSERVABLES, found, strict=True))


# -- simulation --------------------------------------------------------------------------------
def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Losses of drawn weights, trained linear models and sampled Gibbs ensembles, one data set.

    The Gibbs ensemble of squared error is sampled by training on targets with Gaussian noise of
    variance N T_0/2 (perturb and optimize: exact for a linear model); its relative entropy is
    that of Gaussians fitted to the draws.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative; fixes the data and all draws.

    Returns
    -------
    dict of Estimate
        The observables of `theory`; stderr over the draws of this one data set where it is known.
    """
    rng = np.random.default_rng((2404_13218, p.n_features, seed))
    D, N = p.n_features, p.n_samples
    X = rng.normal(size=(N, D))
    teacher = rng.normal(size=D)
    teacher /= np.linalg.norm(teacher)
    y = X @ teacher + p.noise * rng.normal(size=N)
    labels = rng.choice([-1.0, 1.0], N), rng.integers(p.classes, size=N)
    a = p.half_width
    disorder = 0.5 * math.log(2 * math.pi * math.e * p.sigma**2), math.log(2 * a)
    found = [
        _trained(X, y, p.sigma * rng.normal(size=(D, p.draws)), disorder[0]),
        _trained(X, y, a * rng.uniform(-1, 1, (D, p.draws)), disorder[1]),
    ]
    scale = p.score_scale / math.sqrt(D)
    w = scale * rng.normal(size=(D, p.draws))
    u = scale * math.sqrt(3) * rng.uniform(-1, 1, (D, p.draws))
    many = scale * rng.normal(size=(p.classes, D, max(20, p.draws // p.classes)))
    z = np.einsum("nd,kdm->knm", X, many, optimize=True)
    picked = np.take_along_axis(z, labels[1][None, :, None], 0)[0]
    top = z.max(0)
    losses = (
        np.abs(y[:, None] - X @ w),
        np.abs(y[:, None] - X @ u),
        np.logaddexp(0.0, -labels[0][:, None] * (X @ w)),
        np.log(np.exp(z - top).sum(0)) + top - picked,
    )
    found += [mean_estimate(part.mean(0)) for part in losses]
    found.append(_new_labels(p, X, y, rng))
    return dict(zip(OBSERVABLES, found, strict=True))


def _trained(X: np.ndarray, y: np.ndarray, w: np.ndarray, entropy: float) -> Estimate:
    """(E_I - E_F)/S_I of squared error; `entropy` per weight, w (D, draws)."""
    start = ((y[:, None] - X @ w) ** 2).mean(0)
    end = ((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).mean()
    return mean_estimate((start - end) / (entropy * X.shape[1]))


def _new_labels(p: Params, X: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Energy released over relative entropy when the targets are drawn anew."""
    D, N = p.n_features, p.n_samples
    teacher = rng.normal(size=D)
    fresh = X @ (teacher / np.linalg.norm(teacher)) + p.noise * rng.normal(size=N)
    m = max(4 * p.draws, 3 * D + 10)
    shaken = math.sqrt(N * p.bath_temperature / 2)
    samples = [
        np.linalg.lstsq(X, t[:, None] + shaken * rng.normal(size=(N, m)), rcond=None)[0].T
        for t in (y, fresh)
    ]
    old, new = (np.linalg.lstsq(X, t, rcond=None)[0] for t in (y, fresh))
    released = ((fresh - X @ old) ** 2).mean() - ((fresh - X @ new) ** 2).mean()
    # one covariance for both, from all draws: an inverse Wishart mean is off by this factor
    pooled = np.concatenate([part - part.mean(0) for part in samples])
    freedom = 2 * m - 2
    covariance = pooled.T @ pooled / freedom
    apart = samples[0].mean(0) - samples[1].mean(0)
    mahalanobis = float(apart @ np.linalg.solve(covariance, apart)) * (freedom - D - 1) / freedom
    # the means of m draws are themselves apart by chance: D (1/m + 1/m) on average
    relative = 0.5 * (mahalanobis - 2 * D / m)
    return Estimate(float(released) / relative, math.nan)


# -- figures -----------------------------------------------------------------------------------
def figure(quick: bool = True, seeds: int | None = None) -> Drawing:
    """Left: T of squared error against D, its limit dashed. Right: E_I against the score scale.

    Parameters
    ----------
    quick : bool
        6 seeds per point, otherwise 24.
    seeds : int, optional
        Instead, at least 2.
    """
    from thermolearn.core.drawing import Drawing

    seeds = (6 if quick else 24) if seeds is None else whole("seeds", seeds, 2)
    drawing = Drawing(
        "Energy released per nat, and energy before training", columns=2, size=(10, 4)
    )
    drawing.parameters = {"ratio": 4, "sigma": 1.0, "half_width": 1.5, "noise": 0.5}
    left, right = drawing.axes[0]
    left.set(xlabel="features D (N = 4 D samples)", ylabel="T = dE/dS (loss per nat)", xscale="log")
    right.set(xlabel="standard deviation of the scores s", ylabel="E_I (loss)")
    sizes, scales = (5, 10, 20, 40, 80), (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
    by_size = [_both(Params(n_features=n, draws=200), seeds) for n in sizes]
    by_scale = [_both(Params(score_scale=s, draws=200), seeds) for s in scales]
    curves = {
        left: (sizes, by_size, {
            "temperature_normal": "N(0, 1)", "temperature_uniform": "U(-1.5, 1.5)",
        }),
        right: (scales, by_scale, {
            "mae_initial_energy": "MAE, normal", "mae_initial_energy_uniform": "MAE, uniform",
            "binary_initial_energy": "cross-entropy", "classes_initial_energy": "5 classes",
        }),
    }  # fmt: skip
    for axis, (x, results, names) in curves.items():
        for color, (name, label) in enumerate(names.items()):
            drawing.theory(axis, x, [t[name] for t, _ in results], label, color)
            drawing.simulation(axis, x, [s[name] for _, s in results], "", color, seeds)
        axis.legend(frameon=False, title="lines: theory, points: draws")
    for color, variance, entropy in ((0, 1.0, 1.418939), (1, 0.75, math.log(3))):
        left.axhline(variance / entropy, ls=":", color=("#0072B2", "#D55E00")[color], lw=1)
    return drawing


def _both(p: Params, seeds: int) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    runs = [simulate(p, k) for k in range(seeds)]
    mean = {n: mean_estimate(np.array([float(r[n]) for r in runs])) for n in OBSERVABLES}
    return theory(p), mean


def engines(quick: bool = True) -> Drawing:
    """A trained tanh network as a stack of engines, and its heat per layer along the run.

    Digits (8 x 8 images), 64-32-10 without biases, normal fan-in initialization, full-batch
    gradient descent of the cross-entropy at learning rate 0.2.

    Parameters
    ----------
    quick : bool
        300 steps, otherwise 1500.
    """
    from thermolearn.core.drawing import Drawing
    from thermolearn.measure.temperature import activation_efficiency
    from thermolearn.measure.temperature.engines_figure import draw_engines

    flow, scale = _digits_flow(300 if quick else 1500)
    drawing = Drawing("A network as a stack of engines", columns=2, size=(11, 3.8))
    stack, history = drawing.axes[0]
    eta = float(activation_efficiency("tanh", scale))
    draw_engines(flow, stack, [f"tanh, class II: $\\eta$({scale:.2f}) = {eta:.3f}"])
    history.set(xlabel="optimizer step", ylabel="cumulative heat (loss)", xscale="symlog")
    steps = np.unique(np.geomspace(1, len(flow.energy) - 1, 24).astype(int))
    for k, name in enumerate(flow.layers):
        heat = flow.cumulative[steps, k]
        bars = np.full(len(steps), float(np.asarray(flow.heat.stderr)[k]))
        drawing.simulation(history, steps, (heat, bars), f"layer {name}", k, 1)
    drawing.theory(
        history, steps, flow.energy[0] - flow.energy[steps], "energy released", 3, linestyle="--"
    )
    history.legend(frameon=False)
    return drawing


def _digits_flow(steps: int) -> tuple[HeatFlow, float]:
    """Heat flow of the network of `engines`, and the scale of its pre-activations at the start."""
    import torch
    from sklearn.datasets import load_digits

    from thermolearn.measure.temperature import layer_heat

    x, y = (torch.from_numpy(np.asarray(part)) for part in load_digits(return_X_y=True))
    x = x.double() / 16
    model = torch.nn.Sequential(
        torch.nn.utils.skip_init(torch.nn.Linear, 64, 32, bias=False, dtype=torch.float64),
        torch.nn.Tanh(),
        torch.nn.utils.skip_init(torch.nn.Linear, 32, 10, bias=False, dtype=torch.float64),
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / p.shape[1] ** 0.5)
        scale = float(model[0](x).square().mean().sqrt())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    flow = layer_heat(model, torch.nn.CrossEntropyLoss(), (x, y), optimizer, steps)
    return replace(flow, layers=["0: Linear", "2: Linear"]), scale

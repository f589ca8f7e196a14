"""Covariate shift: random-feature ridge regression tested on inputs of another covariance.

Inputs x ~ N(0, Sigma) in training, with eigenvalues l_i proportional to i^{-a} and of mean 1, and
x ~ N(0, Sigma*) in the test, with eigenvalues proportional to i^{-a*} in the same basis. Targets
theta . x + noise with E theta theta' = 1/d. Features sigma(W x / sqrt d) / sqrt p, ridge lambda.

The solver is `thermolearn.predict.shift.RFShiftTheory`. Reference: Tripuraneni, Adlam, Pennington,
arXiv:2111.08234.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from thermolearn.core.activation import ACTIVATIONS, Activation
from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate, mean_estimate

if TYPE_CHECKING:
    from thermolearn.core.drawing import Drawing

ABOUT = {
    "title": "Covariate shift in random-feature regression",
    "papers": ["arXiv:2111.08234"],
    "claims": [
        "The error under a shift of the input covariance has a closed form; moving variance to the "
        "weak directions of training makes the shift harder, moving it to the strong ones easier.",
        "A wider model is more robust: errors with and without the shift, and their difference, "
        "fall with the width.",
        "Without a ridge and with more features than samples, the error under the shift is a "
        "linear function of the error without it along the width.",
    ],
    "axes": {},
    "size": "input_dim",
    "sizes": (60, 120),
    "allowance": {},
    "contrast": {"test_exponent": 1.0, "noise": 0.2},
    "seeds": 24,
    "figures": {"1": "figure", "2": "line"},
}

ODD = ("erf", "tanh", "hardtanh", "linear")


@dataclass(frozen=True)
class Params:
    """Random-feature regression and a shift of its inputs.

    Attributes
    ----------
    input_dim : int
        d, at least 10.
    samples_per_dim : float
        n / d, > 0; n is at least 1.
    narrow, wide : float
        p / d of the two models, > 0.
    ridge : float
        lambda > 0, beside F'F whose entries are of order one.
    noise : float
        Variance of the label noise, >= 0; errors are against labels without noise.
    train_exponent, test_exponent : float
        a and a*, in [0, 3]; a* below a is a harder shift, above it an easier one.
    test_scale : float
        Mean eigenvalue of the test covariance, > 0; that of training is 1.
    activation : str
        "erf", "tanh", "hardtanh" or "linear": odd, so that no mean appears with the scale.
    draws : int
        Data sets, teachers and feature draws averaged per seed, at least 1.
    """

    input_dim: int = 60
    samples_per_dim: float = 1.5
    narrow: float = 0.5
    wide: float = 4.5
    ridge: float = 1e-2
    noise: float = 0.1
    train_exponent: float = 0.5
    test_exponent: float = 0.0
    test_scale: float = 1.0
    activation: str = "erf"
    draws: int = 10

    def __post_init__(self) -> None:
        whole("input_dim", self.input_dim, 10)
        whole("draws", self.draws, 1)
        for name in ("samples_per_dim", "narrow", "wide", "ridge", "test_scale"):
            real(name, getattr(self, name), above=0)
        real("noise", self.noise, least=0)
        for name in ("train_exponent", "test_exponent"):
            real(name, getattr(self, name), least=0, most=3)
        if self.activation not in ODD:
            raise ValueError(f"activation must be one of {', '.join(ODD)}, got {self.activation!r}")

    @property
    def n_samples(self) -> int:
        """n."""
        return max(1, round(self.samples_per_dim * self.input_dim))

    @property
    def widths(self) -> tuple[int, int]:
        """p of the narrow and of the wide model."""
        return tuple(max(1, round(x * self.input_dim)) for x in (self.narrow, self.wide))  # type: ignore[return-value]

    @property
    def spectra(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of the training and of the test covariance."""
        index = np.arange(1, self.input_dim + 1, dtype=np.float64)
        train, test = index**-self.train_exponent, index**-self.test_exponent
        return train / train.mean(), self.test_scale * test / test.mean()

    @property
    def function(self) -> Activation:
        """The activation with its kinks."""
        return Activation(self.activation, *ACTIVATIONS[self.activation])


OBSERVABLES = ("error", "error_shifted", "error_wide", "error_shifted_wide")


def theory(p: Params) -> dict[str, Estimate]:
    """Mean squared errors to leading order in d; stderr is the numerical error.

    Returns
    -------
    dict of Estimate
        error, error_shifted : without and with the shift, narrow model.
        error_wide, error_shifted_wide : the same of the wide model.
    """
    from thermolearn.predict.shift.random_features import RFShiftTheory

    train, test = p.spectra
    solver = RFShiftTheory(train, test, activation=p.function, noise=p.noise)
    found = solver.predict(p.n_samples, np.array(p.widths), p.ridge)
    home, away = np.asarray(found.in_distribution.test), np.asarray(found.test)
    values = (home[0], away[0], home[1], away[1])
    error = max(10 * found.residual, 1e-12)
    return {
        name: Estimate(float(v), error * float(v), note="leading order in d, n, p")
        for name, v in zip(OBSERVABLES, values, strict=True)
    }


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    """Random-feature regression, drawn and solved; means over `draws`.

    Parameters
    ----------
    p : Params
    seed : int
        Not negative; fixes teachers, features and data.

    Returns
    -------
    dict of Estimate
        The observables of `theory`, with the standard error over the draws of this seed.
    """
    from thermolearn.predict.shift.simulation import one_draw

    train, test = p.spectra
    d, n = p.input_dim, p.n_samples
    roots = np.diag(np.sqrt(train)), np.diag(np.sqrt(test)), np.eye(d) / math.sqrt(d)
    found = [
        [
            # an odd activation has mean 0; test points are many, so that they add little noise
            one_draw(roots, p.function, 0.0, (n, width, 8 * d), p.ridge, p.noise, number)
            for number in range(seed * p.draws, (seed + 1) * p.draws)
        ]
        for width in p.widths
    ]
    errors = np.array(found)  # (width, draw, with or without shift)
    values = (errors[0, :, 0], errors[0, :, 1], errors[1, :, 0], errors[1, :, 1])
    return {name: mean_estimate(v) for name, v in zip(OBSERVABLES, values, strict=True)}


# -- figures -------------------------------------------------------------------------------------
SHIFTS = {"none": 0.5, "easier (a* = 1)": 1.0, "harder (a* = 0)": 0.0}


def figure(quick: bool = True) -> Drawing:
    """Double descent: error against width without a shift, under an easier and a harder one.

    Left with a small ridge, right with a large one.

    Parameters
    ----------
    quick : bool
        d = 60 and 8 seeds per point, otherwise d = 200 and 24.
    """
    from thermolearn.core.drawing import Drawing
    from thermolearn.predict.shift.random_features import RFShiftTheory

    d, seeds = (60, 8) if quick else (200, 24)
    base = Params(input_dim=d, draws=1)
    drawing = Drawing("Error along the width, n = 1.5 d samples", columns=2, size=(10, 4))
    drawing.parameters = {
        "input_dim": d,
        "samples_per_dim": 1.5,
        "noise": 0.1,
        "train_exponent": 0.5,
    }
    dense = np.unique(np.round(np.geomspace(0.15, 9, 60) * d)).astype(int)
    ratios = (0.25, 0.75, 1.5, 3.0, 6.0)
    for axis, ridge in zip(drawing.axes[0], (1e-3, 1e-1), strict=True):
        axis.set(xlabel="features over samples p/n", ylabel="mean squared error")
        axis.set(xscale="log", yscale="log", title=f"ridge {ridge:g}")
        for color, (label, exponent) in enumerate(SHIFTS.items()):
            p = replace(base, ridge=ridge, test_exponent=exponent)
            solver = RFShiftTheory(*p.spectra, activation=p.function, noise=p.noise)
            line = solver.predict(p.n_samples, dense, ridge).test
            drawing.theory(axis, dense / p.n_samples, line, label, color, ridge=ridge)
            points = [_shifted(replace(p, wide=ratio), seeds) for ratio in ratios]
            x = [round(ratio * d) / p.n_samples for ratio in ratios]
            drawing.simulation(axis, x, points, "", color, seeds, ridge=ridge)
        axis.legend(frameon=False, title="shift; points: simulation")
    return drawing


def _shifted(p: Params, seeds: int) -> Estimate:
    samples = [float(simulate(p, k)["error_shifted_wide"]) for k in range(seeds)]
    return mean_estimate(np.array(samples))


def line(quick: bool = True) -> Drawing:
    """Error with against error without the shift along widths p > n, nearly without a ridge.

    Parameters
    ----------
    quick : bool
        d = 60 and 12 seeds per point, otherwise d = 200 and 24.
    """
    from thermolearn.core.drawing import Drawing
    from thermolearn.predict.shift.random_features import RFShiftTheory

    d, seeds = (60, 12) if quick else (200, 24)
    base = Params(input_dim=d, draws=2, ridge=1e-7)
    ratios = np.array([2.1, 2.7, 4.0, 8.0])
    drawing = Drawing("Errors with and without the shift are on a line", size=(5.6, 4.2))
    drawing.parameters = {"input_dim": d, "samples_per_dim": 1.5, "noise": 0.1, "ridge": 1e-7}
    axis = drawing.axes[0, 0]
    axis.set(xlabel="error without the shift", ylabel="error with the shift")
    widths = np.round(np.geomspace(2.0, 30, 20) * d).astype(int)
    for color, (label, exponent) in enumerate(list(SHIFTS.items())[1:]):
        p = replace(base, test_exponent=exponent)
        solver = RFShiftTheory(*p.spectra, activation=p.function, noise=p.noise)
        found = solver.predict(p.n_samples, widths, p.ridge)
        drawing.theory(axis, found.in_distribution.test, found.test, label, color)
        for ratio in ratios:
            runs = [simulate(replace(p, wide=float(ratio)), k) for k in range(seeds)]
            home, away = (
                mean_estimate(np.array([float(r[name]) for r in runs]))
                for name in ("error_wide", "error_shifted_wide")
            )
            drawing.simulation(
                axis, [float(home)], [away], "", color, seeds, width=round(ratio * d), shift=label
            )
    axis.legend(frameon=False, title="shift; points: simulation")
    return drawing

"""Learning curves of infinitely wide networks: four orders of the theory, drawn data, real nets.

Regression with a network's kernel on N inputs drawn from the sphere, its test error averaged over
data sets. The self-consistent curve predicts it; beside it stand the equivalence kernel, its
first correction and the renormalized kernel (`curves`), and trained networks of finite width
(`measure_networks`).

References: O. Cohen, O. Malka, Z. Ringel, arXiv:1906.05301; B. Bordelon, A. Canatar, C. Pehlevan,
arXiv:2002.02561; J. Simon, M. Dickens, D. Karkada, M. DeWeese, arXiv:2110.03922.
"""

from __future__ import annotations

from thermolearn.systems.training.learning_curves.figures import figure, ranking, renormalization
from thermolearn.systems.training.learning_curves.networks import (
    MeasuredNetworks,
    measure_networks,
)
from thermolearn.systems.training.learning_curves.params import Params
from thermolearn.systems.training.learning_curves.simulation import simulate
from thermolearn.systems.training.learning_curves.theory import Curves, curves, theory

__all__ = [
    "ABOUT",
    "Curves",
    "MeasuredNetworks",
    "Params",
    "curves",
    "figure",
    "measure_networks",
    "ranking",
    "renormalization",
    "simulate",
    "theory",
]

ABOUT = {
    "title": "Learning curves of wide networks",
    "papers": ["arXiv:1906.05301", "arXiv:2002.02561", "arXiv:2110.03922"],
    "claims": [
        "The test error, the train error, the learned fraction of each degree, the posterior "
        "variance and the evidence of regression with a network's kernel follow from the kernel's "
        "spectrum and the target's power in it, by one self-consistent ridge.",
        "The equivalence kernel alone is far too optimistic unless the noise is large; its first "
        "correction is the first-order expansion of the self-consistent curve.",
        "Degrees that the data cannot resolve act as noise of known variance: the kernel without "
        "them, with that noise added, makes the same predictions.",
    ],
    "axes": {"learnability": "degree with power in the target"},
    "size": "n_samples",
    "sizes": (100, 200),
    # N times the deviation with 2500 to 6000 data sets at 25, 50, 100 and 200 samples: -0.23,
    # -0.19, -0.17, -0.03 and -0.024, -0.020, -0.017, -0.004; nothing in the others
    "allowance": {
        "predictive_variance": (0.2, 1.0),
        "log_evidence_per_sample": (0.025, 1.0),
    },
    "contrast": {"depth": 3},
    "seeds": 24,
    "figures": {"1": "figure", "2": "renormalization", "3": "ranking"},
}

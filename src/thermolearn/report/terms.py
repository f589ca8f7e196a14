"""How training numbers are shown, and the record that says it.

Formulas are short HTML (entities and sub/superscripts); they are ours, never text from a run.
"""

from __future__ import annotations

from dataclasses import dataclass

VANCHURIN = "Vanchurin, arXiv:2004.09280"
DERIVED = "derived from the ensemble of Vanchurin, arXiv:2004.09280"
LOSS, NATS = "loss", "nats"


@dataclass(frozen=True)
class Term:
    """How a value is shown. `symbol` and `formula` are HTML, the rest is text."""

    label: str
    symbol: str
    unit: str
    meaning: str
    formula: str = ""
    source: str = ""


LEARNING: dict[str, Term] = {
    "reference_loss": Term(
        "Training loss",
        "",
        LOSS,
        "The loss function of the training, averaged over the reference samples.",
        "L = mean over samples of &ell;(f(x), y)",
        "the user's loss function",
    ),
    "boundary_loss": Term(
        "Boundary loss",
        "H<sub>&part;</sub>",
        LOSS,
        "Half the squared distance between output and target, per sample; the energy that fixes "
        "the temperature.",
        "H<sub>&part;</sub> = &frac12; |y &minus; x<sub>out</sub>|&sup2;",
        VANCHURIN,
    ),
    "accuracy": Term(
        "Accuracy, reference samples",
        "",
        "",
        "Share of the reference samples whose largest output is the right class.",
    ),
    "validation_loss": Term(
        "Validation loss",
        "",
        LOSS,
        "The loss function of the training on samples that were not trained on.",
    ),
    "validation_accuracy": Term(
        "Accuracy, validation samples",
        "",
        "",
        "Share of the validation samples whose largest output is the right class.",
    ),
}

NOISE: dict[str, Term] = {
    "gradient_norm_squared": Term(
        "Squared gradient",
        "|g|&sup2;",
        "loss\u00b2",
        "Squared norm of the mean gradient, without the bias of the noise.",
        "|g|&sup2; = |mean g|&sup2; &minus; tr &Sigma;/n",
        "McCandlish et al., arXiv:1812.06162",
    ),
    "noise_trace": Term(
        "Gradient noise",
        "tr &Sigma;",
        "loss\u00b2",
        "Summed variance of the gradient of a single sample.",
        "tr &Sigma;",
        "McCandlish et al., arXiv:1812.06162",
    ),
    "noise_scale": Term(
        "Noise scale",
        "B<sub>noise</sub>",
        "samples",
        "Batch size at which the noise of a step is as large as the gradient itself.",
        "B<sub>noise</sub> = tr &Sigma;/|g|&sup2;",
        "McCandlish et al., arXiv:1812.06162",
    ),
    "batch_size": Term("Batch size", "B", "samples", "Samples per optimizer step."),
    "sharpness": Term(
        "Sharpness",
        "&lambda;<sub>max</sub>",
        LOSS,
        "Largest curvature of the training loss.",
        "largest eigenvalue of the Hessian",
        "Cohen et al., arXiv:2103.00065",
    ),
    "stability_edge": Term(
        "Stability edge",
        "2/&eta;",
        LOSS,
        "Curvature above which plain gradient descent of this learning rate overshoots.",
        "2/&eta;",
        "Cohen et al., arXiv:2103.00065",
    ),
}

LAYERS: dict[str, Term] = {
    "weight_norm": Term(
        "Weight norm",
        "|w|",
        "",
        "Euclidean norm of the layer's parameters.",
    ),
    "gradient_norm": Term(
        "Gradient norm",
        "|g|",
        LOSS,
        "Euclidean norm of the layer's gradient.",
    ),
    "update_ratio": Term(
        "Update ratio",
        "|&Delta;w|/|w|",
        "",
        "Change of the parameters since the snapshot before, relative to their norm.",
    ),
    "dead_fraction": Term(
        "Dead units",
        "",
        "",
        "Share of the units that never fire on the reference samples.",
    ),
    "saturated_fraction": Term(
        "Saturated units",
        "",
        "",
        "Share of the activations on the flat part of their curve.",
    ),
}

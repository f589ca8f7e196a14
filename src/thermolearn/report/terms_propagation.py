"""How the numbers of signal propagation are shown."""

from __future__ import annotations

from thermolearn.report.terms import Term

SCHOENHOLZ = "Schoenholz et al., arXiv:1611.01232"
POOLE = "Poole et al., arXiv:1606.05340"

PROPAGATION: dict[str, Term] = {
    "propagation.variance": Term(
        "Pre-activation variance",
        "q<sub>l</sub>",
        "",
        "Mean square of what the layer puts out before the activation, over samples and units.",
        "q<sub>l</sub> = mean of z<sub>l</sub>&sup2;",
        POOLE,
    ),
    "propagation.correlation": Term(
        "Correlation between samples",
        "c<sub>l</sub>",
        "",
        "Mean cosine between the pre-activations of two samples; near 1 the layer cannot tell "
        "them apart.",
        "c<sub>l</sub> = mean of z(x)&middot;z(x&prime;)/(|z(x)| |z(x&prime;)|)",
        POOLE,
    ),
    "propagation.gradient_gain": Term(
        "Gradient gain",
        "&chi;<sub>l</sub>",
        "",
        "Squared gradient at this layer over that at the next one, summed over the samples; "
        "1 neither vanishes nor explodes.",
        "|&part;L/&part;z<sub>l</sub>|&sup2; / |&part;L/&part;z<sub>l+1</sub>|&sup2;",
        SCHOENHOLZ,
    ),
    "propagation.mean_log_gain": Term(
        "Gradient growth per layer",
        "&lang;ln &chi;&rang;",
        "per layer",
        "Mean of the logarithm of the gradient gain; below 0 gradients shrink towards the input, "
        "above 0 they grow. Depth times it is the whole growth in e-folds.",
        "ln(|&part;L/&part;z<sub>1</sub>|&sup2;/|&part;L/&part;z<sub>L</sub>|&sup2;)/(L &minus; 1)",
        SCHOENHOLZ,
    ),
    "propagation.dead_fraction": Term(
        "Dead units",
        "",
        "",
        "Share of the units behind the layer that are zero on every reference sample.",
    ),
    "propagation.saturated_fraction": Term(
        "Saturated units",
        "",
        "",
        "Share of the activations behind the layer on the flat part of their curve.",
    ),
}

"""How the numbers of relative entropy along depth are shown."""

from __future__ import annotations

from thermolearn.report.terms import NATS, Term

ERDMENGER = "Erdmenger, Grosvenor, Jefferson, arXiv:2107.06898"

RELATIVE_ENTROPY: dict[str, Term] = {
    "relative_entropy.push": Term(
        "Log ratio of scales against the first layer",
        "D<sub>&ell;</sub><sup>push</sup>",
        NATS,
        "Per neuron; what comparing densities along the forward pass gives. Negative where the "
        "layer is narrower than the first: it is no divergence.",
        "D<sub>&ell;</sub> = &frac12; ln(q<sub>&ell;</sub> / q<sub>0</sub>)",
        ERDMENGER,
    ),
    "relative_entropy.gaussian": Term(
        "Relative entropy against the first layer",
        "D<sub>&ell;</sub>",
        NATS,
        "Kullback-Leibler divergence per neuron of the first layer's Gaussian from this layer's, "
        "pooled over units and samples.",
        "D<sub>&ell;</sub> = &frac12; [q<sub>0</sub>/q<sub>&ell;</sub> &minus; 1 &minus; "
        "ln(q<sub>0</sub>/q<sub>&ell;</sub>) + (&mu;<sub>&ell;</sub> &minus; "
        "&mu;<sub>0</sub>)&sup2;/q<sub>&ell;</sub>]",
        ERDMENGER,
    ),
    "relative_entropy.two_input": Term(
        "Relative entropy of two inputs",
        "D<sub>&ell;</sub><sup>(2)</sup>",
        NATS,
        "The same for the joint distribution of two samples with their average covariance; it "
        "grows where layers make different samples alike.",
        "D<sub>&ell;</sub> = &frac12; [tr(&Sigma;<sub>&ell;</sub><sup>&minus;1</sup>"
        "&Sigma;<sub>0</sub>) &minus; 2 + ln(|&Sigma;<sub>&ell;</sub>|/|&Sigma;<sub>0</sub>|)]",
        ERDMENGER,
    ),
    "relative_entropy.variance": Term(
        "Pre-activation variance",
        "q<sub>&ell;</sub>",
        "",
        "Variance of the layer's output before the activation, pooled over units and samples.",
        "q<sub>&ell;</sub> = mean of (z<sub>&ell;</sub> &minus; &mu;<sub>&ell;</sub>)&sup2;",
        "Poole et al., arXiv:1606.05340",
    ),
}

"""How the curvature of the loss is shown."""

from __future__ import annotations

from thermolearn.report.terms import LOSS, Term

LI = "Li et al., arXiv:1712.09913"
SLQ = "Ubaru, Chen, Saad, SIAM J. Matrix Anal. Appl. 38 (2017) 1075"
XTRACE = "Epperly, Tropp, Webber, arXiv:2301.07825"

CURVATURE: dict[str, Term] = {
    "curvature.hessian_trace": Term(
        "Trace of the Hessian",
        "tr H",
        LOSS,
        "Sum of the curvatures of the training loss over all trained parameters; the error, of "
        "which two hold 95%, comes from the random probes.",
        "tr H = &Sigma; &lambda;<sub>i</sub>",
        XTRACE,
    ),
    "curvature.layer_trace": Term(
        "Trace per layer",
        "tr H<sub>&ell;&ell;</sub>",
        LOSS,
        "The same for each layer's own parameters; the layers add up to the whole.",
        "tr H<sub>&ell;&ell;</sub>",
        XTRACE,
    ),
    "curvature.lambda_min": Term(
        "Smallest eigenvalue",
        "&lambda;<sub>min</sub>",
        LOSS,
        "Negative: a direction in which the training loss is curved downward.",
        "smallest eigenvalue of the Hessian",
        "Golub and Van Loan, Matrix Computations, chapter 10",
    ),
    "curvature.mean_eigenvalue": Term(
        "Mean eigenvalue",
        "tr H/P",
        LOSS,
        "Trace over the number of trained parameters, by the quadrature of the density.",
        "tr H/P",
        SLQ,
    ),
    "curvature.near_zero": Term(
        "Flat directions",
        "",
        "",
        "Share of the eigenvalues below 1% of the largest one in size.",
        "share with |&lambda;| &lt; 0.01 max |&lambda;|",
        SLQ,
    ),
    "curvature.slice_rise": Term(
        "Rise of the loss slice",
        "",
        LOSS,
        "How much the loss rises when every filter is moved by half its size at random, on average "
        "over eight directions; the error is their spread.",
        "mean of L(&theta; &plusmn; d/2) &minus; L(&theta;)",
        LI,
    ),
}

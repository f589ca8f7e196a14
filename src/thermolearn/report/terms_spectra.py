"""How the spectra of the weights are shown."""

from __future__ import annotations

from thermolearn.report.terms import NATS, Term

MARCHENKO = "Marchenko and Pastur, Math. USSR Sb. 1 (1967) 457"
JOHNSTONE = "Johnstone, Ann. Statist. 29 (2001) 295"

SPECTRA: dict[str, Term] = {
    "spectra.edge_ratio": Term(
        "Largest singular value over the random edge",
        "s<sub>1</sub>/s<sub>+</sub>",
        "",
        "Above 1 by more than its fluctuation: something that random entries do not explain.",
        "s<sub>+</sub> = &sigma; (&radic;n + &radic;m)",
        JOHNSTONE,
    ),
    "spectra.outliers": Term(
        "Outliers",
        "",
        "",
        "Singular values above the edge, each at the 0.5% level.",
        "",
        JOHNSTONE,
    ),
    "spectra.stable_rank": Term(
        "Stable rank",
        "",
        "",
        "How many directions of the largest size would hold the whole weight.",
        "|W|<sub>F</sub>&sup2;/s<sub>1</sub>&sup2;",
        "Rudelson and Vershynin, J. ACM 54 (2007) 21",
    ),
    "spectra.spectral_entropy": Term(
        "Entropy of the squared singular values",
        "",
        NATS,
        "Largest, ln m, when all m singular values are equal.",
        "&minus;&Sigma; p ln p, p = s&sup2;/&Sigma;s&sup2;",
        "Roy and Vetterli, EUSIPCO (2007) 606",
    ),
    "spectra.share_random": Term(
        "Weights that look random",
        "",
        "",
        "Weights, of those tested, whose singular values independent random entries explain.",
        "",
        MARCHENKO,
    ),
    "spectra.share_heavy_tailed": Term(
        "Weights with a power-law tail",
        "",
        "",
        "Weights, of those tested, that are not random and whose tail a power law describes; no "
        "statement about quality.",
        "",
        "Clauset, Shalizi, Newman, arXiv:0706.1062",
    ),
}

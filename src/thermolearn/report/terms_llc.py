"""How the numbers of the local learning coefficient are shown."""

from __future__ import annotations

from thermolearn.report.terms import Term

LAU = "Lau et al., arXiv:2308.12108; Watanabe, arXiv:1208.6338"
OWN = "derived from the localized posterior of Lau et al., arXiv:2308.12108"
AWAY = "w &minus; w*"

LLC: dict[str, Term] = {
    "llc.learning_coefficient": Term(
        "Local learning coefficient",
        "&lambda;",
        "",
        "Effective half number of parameters around the last snapshot, on the reference samples; "
        "free of the localization to first order, or at this localization where that changes "
        "the value by more than a quarter.",
        "&lambda; = n&beta; (&lang;L&rang; &minus; L(w*)), &beta; = 1/ln n",
        LAU,
    ),
    "llc.uncorrected": Term(
        "At the localization used, nothing subtracted",
        "&lambda;<sub>&gamma;</sub>",
        "",
        "The same without the correction, as it is usually quoted. Where the localization "
        "changes the value by more than a quarter nothing is subtracted, and the two are equal.",
        "n&beta; (&lang;L&rang;<sub>&gamma;</sub> &minus; L(w*))",
        LAU,
    ),
    "llc.regular_value": Term(
        "Value of a regular model",
        "P/2",
        "",
        "Half the number of trained parameters: the largest that a minimum can have.",
        "P/2",
        LAU,
    ),
    "llc.localization": Term(
        "Localization",
        "&gamma;",
        "",
        "Strength of the quadratic term that keeps the chains near the last snapshot.",
        f"density &prop; exp(&minus;n&beta; L(w) &minus; &frac12; &gamma; |{AWAY}|&sup2;)",
        LAU,
    ),
    "llc.localization_shift": Term(
        "Effect of the localization",
        "",
        "",
        "What the localization adds, to first order; it is subtracted where it is small.",
        f"&minus;&frac12; &gamma; Cov(n&beta; L, |{AWAY}|&sup2;)",
        OWN,
    ),
    "llc.held_directions": Term(
        "Directions held by the localization",
        "",
        "",
        "How many of the parameters' directions the localization confines, not the loss. Each may "
        "add up to 1/2 to the coefficient as the localization goes to 0.",
        f"&gamma; &lang;|{AWAY}|&sup2;&rang;",
        OWN,
    ),
    "llc.gradient_shift": Term(
        "Effect of the gradient",
        "",
        "",
        "What the gradient at the last snapshot adds because that is no exact minimum; it is not "
        "subtracted.",
        f"&frac12; n&beta; &nabla;L(w*) &middot; &lang;{AWAY}&rang;",
        OWN,
    ),
    "llc.equipartition": Term(
        "Equipartition",
        "",
        "",
        "1 where the chains fill the density that they are drawn from, for any loss.",
        f"&lang;({AWAY}) &middot; &nabla;U&rang;/P, "
        f"U = n&beta; L + &frac12; &gamma; |{AWAY}|&sup2;",
        OWN,
    ),
    "llc.rhat": Term(
        "Split R-hat",
        "R&#770;",
        "",
        "Disagreement of the chains; 1 where they agree.",
        "",
        "Vehtari et al., arXiv:1903.08008",
    ),
    "llc.ess": Term(
        "Effective number of draws",
        "",
        "",
        "Independent draws with the same error of the mean.",
        "N/(2 &tau;<sub>int</sub>)",
        "Vehtari et al., arXiv:1903.08008",
    ),
}

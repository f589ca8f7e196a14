"""The learning coefficient of one minimum, and the comparison of two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from thermolearn.core.estimate import Estimate, difference

USABLE = ("ok", "localized")


@dataclass(frozen=True, eq=False)
class LearningCoefficient:
    """Local learning coefficient lambda = n beta (<L>_w - L(w*)) with its error bar and verdict.

    Attributes
    ----------
    value, stderr : float
        Free of the step and, to first order, of the localization; at the localization that was
        used where it changes the value by more than a quarter.
    status : str
        ``"ok"``; ``"localized"``: the localization changes the value by more than a quarter, or
        holds so many directions that they might, it is the coefficient at this localization;
        ``"under-sampled"``: too few draws for the error bar, for R-hat (1.05) or to see
        equipartition (5%); ``"not converged"``: chains disagree, hardly any move is accepted,
        equipartition fails, or the value depends on the step; ``"not a critical point"``: the
        gradient at w* matters; ``"left the basin"``: the chains found lower losses; ``"invalid"``:
        negative, a saddle, not finite, or below the rounding of the loss.
    note : str
        What led to the status, or the bias that is left in a value that is ok.
    uncorrected : float
        n beta (<L> - L(w*)) at the localization used (MALA), or at the smaller step (SGLD).
    localization : float
        gamma. ``localization_shift`` (Estimate): what the localization adds at first order,
        subtracted in value unless it is "localized".
    held_directions : Estimate
        gamma <|w - w*|^2>: how many directions the localization holds, not the loss. Each may
        hide up to 1/2 of the value.
    depth : float
        Nats by which the lowest point met in a descent from the draws lies below w*, beyond what
        the gradient at w* explains; 0 or less at a minimum.
    step : float
        The (larger) step. ``step_shift`` (Estimate): what the step adds, subtracted in value;
        0 for MALA.
    gradient_shift : Estimate
        What the gradient at w* adds, n beta grad L . <w - w*>/2, exact for a quadratic loss.
    equipartition : Estimate
        <(w - w*) . grad U>/d, U = n beta L + gamma/2 |w - w*|^2: 1 in equilibrium, for any loss.
    rhat, ess, tau : float
        Split R-hat, effective sample size and autocorrelation time (in steps) of the energy.
    rhat_threshold : float
        What R-hat may be: 1.01 with the scatter of stationary chains of this length, at most 1.05.
    acceptance : float or None
        Of the MALA moves.
    n_beta, dimension, initial_loss : float, int, float
        n beta, number of parameters, L(w*).
    settings : dict
        What must agree for a comparison; plain values.
    energies : ndarray (C, T)
        n beta (L - L(w*)) of each chain (SGLD: the chains at the larger step come first).
    distances : ndarray (C, T)
        |w - w*| of each chain.
    """

    value: float
    stderr: float
    status: str
    note: str
    uncorrected: float
    localization: float
    localization_shift: Estimate
    step: float
    step_shift: Estimate
    held_directions: Estimate
    depth: float
    gradient_shift: Estimate
    equipartition: Estimate
    rhat: float
    rhat_threshold: float
    ess: float
    tau: float
    acceptance: float | None
    n_beta: float
    dimension: int
    initial_loss: float
    settings: dict[str, Any]
    energies: np.ndarray = field(repr=False)
    distances: np.ndarray = field(repr=False)

    def to_estimate(self) -> Estimate:
        """Value, error bar, status and the condition under which the number holds."""
        note = self.note or (
            f"n beta = {self.n_beta:.4g}, localization {self.localization:.3g}, "
            f"R-hat {self.rhat:.3f} (at most {self.rhat_threshold:.3f})"
        )
        return Estimate(self.value, self.stderr, self.ess, self.status, note)

    def plot(self) -> Any:
        """Figure: the energy of every chain and its distance from w* along the draws."""
        import matplotlib.pyplot as plt

        figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(6.4, 4.8))
        top.plot(self.energies.T, lw=0.5, alpha=0.6)
        top.axhline(self.value, color="black", label=f"lambda = {self.to_estimate()}")
        top.set_ylabel("n beta (L - L*)")
        top.legend(loc="upper right")
        bottom.plot(self.distances.T, lw=0.5, alpha=0.6)
        bottom.set_ylabel("|w - w*|")
        bottom.set_xlabel("draw")
        return figure


def compare(a: LearningCoefficient, b: LearningCoefficient) -> Estimate:
    """lambda(b) - lambda(a) of two minima of one architecture, sampled at equal settings.

    Raises
    ------
    ValueError
        Settings differ (architecture, loss, data, n beta, localization, method, batch size), or
        one of the two is not usable; the message says which.
    """
    for name, result in (("a", a), ("b", b)):
        if result.status not in USABLE:
            raise ValueError(f"{name} is {result.status}, so there is nothing to compare")
    keys = [*dict.fromkeys([*a.settings, *b.settings])]
    differ = [k for k in keys if a.settings.get(k) != b.settings.get(k)]
    if differ:
        hint = (
            "; the localization was chosen for each: pass localization= of one to the other"
            if "localization" in differ
            else ""
        )
        raise ValueError(
            "learning coefficients compare only within one architecture at equal settings; "
            f"these differ in {', '.join(differ)}{hint}"
        )
    return difference(b.to_estimate(), a.to_estimate())

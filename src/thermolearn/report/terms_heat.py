"""How the heat and the temperatures of the layers are shown."""

from __future__ import annotations

from thermolearn.report.terms import LOSS, NATS, Term

ZHANG = "after Zhang, arXiv:2404.13218; the formula is ours"
PER_NAT = "loss per nat"

HEAT: dict[str, Term] = {
    "heat.heat": Term(
        "Heat of the layers",
        "Q<sub>l</sub>",
        LOSS,
        "Minus the work of the loss's gradient on each layer's parameters since the last snapshot.",
        "Q<sub>l</sub> = &minus;&int; g<sub>l</sub> &middot; dw<sub>l</sub>, straight between "
        "snapshots",
        ZHANG,
    ),
    "heat.cumulative_heat": Term(
        "Cumulative heat of the layers",
        "&Sigma;Q<sub>l</sub>",
        LOSS,
        "Heat of each layer since the first snapshot.",
        "sum of Q<sub>l</sub> over the snapshots",
        ZHANG,
    ),
    "heat.heat_total": Term(
        "Heat of all layers",
        "&Sigma;Q",
        LOSS,
        "Sum over layers and snapshots; it restates the fall of the loss, up to the closure.",
        "&Sigma;<sub>l</sub> Q<sub>l</sub>",
        ZHANG,
    ),
    "heat.energy_released": Term(
        "Energy released",
        "&Delta;E",
        LOSS,
        "How far the loss on the reference samples has fallen.",
        "&Delta;E = E<sub>start</sub> &minus; E<sub>end</sub>",
        ZHANG,
    ),
    "heat.closure": Term(
        "Closure of the heat",
        "&Sigma;Q &minus; &Delta;E",
        LOSS,
        "What the quadrature between two snapshots leaves over; an error, not physics.",
        "&Sigma;<sub>l</sub> Q<sub>l</sub> &minus; &Delta;E",
        ZHANG,
    ),
    "heat.cumulative_closure": Term(
        "Closure of the heat since the first snapshot",
        "",
        LOSS,
        "Sum of the closures of all snapshots so far.",
        "&Sigma;<sub>l</sub> Q<sub>l</sub> &minus; &Delta;E",
        ZHANG,
    ),
    "heat.run_closure": Term(
        "Closure of the heat over the run",
        "&Sigma;Q &minus; &Delta;E",
        LOSS,
        "What the quadrature between snapshots leaves over; an error, not physics.",
        "&Sigma;<sub>l</sub> Q<sub>l</sub> &minus; &Delta;E",
        ZHANG,
    ),
    "heat.heat_buffers": Term(
        "Energy that went with running statistics",
        "",
        LOSS,
        "Fall of the loss because buffers (as in batch normalization) moved, at fixed parameters.",
        "E(w, buffers before) &minus; E(w, buffers now)",
        ZHANG,
    ),
    "heat.initial_entropy": Term(
        "Entropy of the initialization, scale-free",
        "S",
        NATS,
        "Entropy of the initial parameters, each tensor in units of its standard deviation.",
        "&frac12; log 2&pi;e per normal, log 2&radic;3 per uniform parameter; "
        "S<sub>final</sub> = 0",
        ZHANG,
    ),
    "heat.initial_entropy_raw": Term(
        "Entropy of the initialization, raw",
        "",
        NATS,
        "The same in the parameters' own unit: negative for small weights, and another number in "
        "another unit.",
        "&frac12; log 2&pi;e&sigma;&sup2; or log 2a per parameter",
        ZHANG,
    ),
    "heat.global_temperature": Term(
        "Temperature of the training, scale-free",
        "T = &Delta;E/S",
        PER_NAT,
        "Energy released per nat of the initial disorder; a bookkeeping number, not the "
        "temperature of the optimizer's noise.",
        "T = &Sigma;<sub>l</sub> Q<sub>l</sub> / &Sigma;<sub>l</sub> S<sub>l</sub>",
        ZHANG,
    ),
    "heat.parameters_counted": Term(
        "Parameters behind the entropy",
        "D",
        "",
        "Trained parameters that do not start as constants or at a few distinct values.",
    ),
}

"""How the numbers of the canonical ensemble are shown."""

from __future__ import annotations

from thermolearn.report.terms import DERIVED, LOSS, NATS, VANCHURIN, Term

D = "d<sub>i</sub>"
SUM = "&Sigma;<sub>i</sub>"

ENERGY: dict[str, Term] = {
    "beta": Term(
        "Inverse temperature",
        "&beta;",
        "1/loss",
        "Fitted so that the ensemble's average loss equals the training loss, unless it was given.",
        "mean over samples of U(&beta;) = training loss",
        VANCHURIN,
    ),
    "temperature": Term(
        "Temperature",
        "T",
        LOSS,
        "Size of the squared noise that, added at every neuron, would cost as much as the loss.",
        "T = 1/&beta; (k<sub>B</sub> = 1)",
        VANCHURIN,
    ),
    "average_loss": Term(
        "Average loss",
        "U",
        LOSS,
        "Mean bulk loss of all neurons under the ensemble, per sample.",
        f"U = &minus;&part; log Z/&part;&beta; = &frac12; {SUM} g<sub>i</sub>/{D}, "
        f"g<sub>i</sub> = &lambda;<sub>i</sub> &minus; m, {D} = 1 + &beta; g<sub>i</sub>",
        VANCHURIN,
    ),
    "boundary_loss_fitted": Term(
        "Boundary loss that fixes \u03b2",
        "H<sub>&part;</sub>",
        LOSS,
        "Half the squared distance between output and target on the samples of the ensemble.",
        "&frac12; |y &minus; x<sub>out</sub>|&sup2;",
        VANCHURIN,
    ),
    "energy_variance": Term(
        "Energy variance",
        "Var H",
        "loss\u00b2",
        "Spread of the bulk loss under the ensemble (not of the loss over the data).",
        f"Var H = &frac12; {SUM} (g<sub>i</sub>/{D})&sup2;",
        DERIVED,
    ),
    "heat_capacity": Term(
        "Heat capacity",
        "C<sub>V</sub>",
        NATS,
        "How much the average loss rises with temperature; N/2 at most when m = 0.",
        "C<sub>V</sub> = dU/dT = &beta;&sup2; Var H",
        DERIVED,
    ),
    "equipartition_ratio": Term(
        "Equipartition ratio",
        "2&beta;U/N",
        "",
        "Near 1, the average loss is N T/2 and the temperature says nothing that the loss does "
        "not say.",
        "2&beta;U/N",
        DERIVED,
    ),
    "loss_n_eff": Term(
        "Effective number of terms in the data's loss",
        "N<sub>eff</sub>",
        "",
        "Degrees of freedom that the spread of the loss over samples looks like; far below N, the "
        "ensemble is not the distribution of the data.",
        "N<sub>eff</sub> = 2 mean&sup2;/variance of the per-sample loss",
        DERIVED,
    ),
    "lambda_min": Term(
        "Smallest eigenvalue of G",
        "&lambda;<sub>min</sub>",
        "",
        "The softest direction of the neurons' states; 1 at most in a feed-forward net.",
        "G = (1 &minus; J)<sup>T</sup>(1 &minus; J), J = f&prime;w",
        VANCHURIN,
    ),
    "critical_mass": Term(
        "Critical mass",
        "m<sub>c</sub>",
        "",
        "A mass m above this makes the ensemble unstable.",
        "m<sub>c</sub> = &lambda;<sub>min</sub> + T",
        DERIVED,
    ),
}

ENTROPY: dict[str, Term] = {
    "log_partition": Term(
        "Log partition function",
        "log Z",
        NATS,
        "Generates all state functions.",
        f"log Z = (N/2) log 2&pi; &minus; &frac12; {SUM} log {D}",
        VANCHURIN,
    ),
    "free_energy": Term(
        "Free energy",
        "F",
        LOSS,
        "Average loss less temperature times relative entropy (up to the reference's constant).",
        "F = &minus;T log Z",
        VANCHURIN,
    ),
    "entropy_relative": Term(
        "Relative entropy",
        "S<sub>rel</sub>",
        NATS,
        "Minus the distance of the ensemble from its reference, never positive; the entropy of "
        "the first law.",
        "S<sub>rel</sub> = &beta;U + log Z &minus; (N/2) log 2&pi; = &minus;KL(p &#8741; &pi;)",
        DERIVED,
    ),
    "entropy_differential": Term(
        "Differential entropy",
        "S<sub>diff</sub>",
        NATS,
        "Shannon entropy of the states' density; depends on the unit of the states and may be "
        "negative.",
        f"S<sub>diff</sub> = (N/2)(1 + log 2&pi;) &minus; &frac12; {SUM} log {D}",
        DERIVED,
    ),
    "thermodynamic_entropy": Term(
        "Thermodynamic entropy",
        "S<sub>0</sub>",
        NATS,
        "The part of the differential entropy that knows only the temperature and N.",
        "S<sub>0</sub> = (N/2)(1 + log 2&pi;T)",
        VANCHURIN,
    ),
    "complexity": Term(
        "Complexity",
        "C",
        NATS,
        "The part of the differential entropy that knows the weights; the sign is the one of "
        "log Z(b, w).",
        "C = &minus;&frac12; &Sigma;<sub>i</sub> log(&lambda;<sub>i</sub> &minus; m + T)",
        DERIVED,
    ),
    "total_entropy": Term(
        "Total Shannon entropy",
        "S<sub>0</sub> + C",
        NATS,
        "Thermodynamic entropy plus complexity; equals the differential entropy.",
        "S<sub>diff</sub> = S<sub>0</sub>(T) + C(T)",
        VANCHURIN,
    ),
}

LAWS: dict[str, Term] = {
    "energy_change": Term(
        "Change of the average loss",
        "dU",
        LOSS,
        "Average loss at this snapshot less that at the one before.",
        "dU = Q + W",
        VANCHURIN,
    ),
    "heat": Term(
        "Heat",
        "Q",
        LOSS,
        "The part of dU that comes with a change of entropy.",
        "Q = T<sub>log</sub> dS<sub>rel</sub>, T<sub>log</sub> = (T<sub>2</sub> &minus; "
        "T<sub>1</sub>)/log(T<sub>2</sub>/T<sub>1</sub>)",
        DERIVED,
    ),
    "work": Term(
        "Work",
        "W",
        LOSS,
        "The part of dU that comes with a change of weights and biases at fixed temperature.",
        "W = &int; (&part;F/&part;q)<sub>&beta;</sub> dq, q = (b, w)",
        DERIVED,
    ),
    "closure_residual": Term(
        "Closure",
        "dU &minus; Q &minus; W",
        LOSS,
        "What the first law leaves over; an error of the step between snapshots, not physics.",
        "dU &minus; Q &minus; W",
        DERIVED,
    ),
    "complexity_change": Term(
        "Change of complexity",
        "dC",
        NATS,
        "Complexity at this snapshot less that at the one before.",
    ),
    "first_law_closure": Term(
        "Closure of the first law",
        "",
        "",
        "Sum of what the first law leaves over, as a share of the change of the average loss.",
        "|&Sigma;(dU &minus; Q &minus; W)| / |&Sigma; dU|",
        DERIVED,
    ),
    "largest_window_residual": Term(
        "Largest closure of a window",
        "",
        "",
        "The worst window's dU - Q - W as a share of the change over the whole run.",
        "max |dU &minus; Q &minus; W| / |&Sigma; dU|",
        DERIVED,
    ),
    "complexity_share": Term(
        "Share of work",
        "&Sigma;W/&Sigma;dU",
        "",
        "How much of the change of the average loss is work, that is, goes with the complexity.",
        "&Sigma;W/&Sigma;dU",
        DERIVED,
    ),
    "second_law_fitted": Term(
        "Windows where entropy fell, fitted \u03b2",
        "",
        "",
        "Share of the windows in which the differential entropy fell, temperature fitted.",
        "share of dS<sub>diff</sub> &lt; 0",
        VANCHURIN,
    ),
    "second_law_beta_1": Term(
        "Windows where entropy fell, \u03b2 = 1",
        "",
        "",
        "The same at a fixed temperature: only the weights change.",
        "share of dS<sub>diff</sub> &lt; 0 at &beta; = 1",
        DERIVED,
    ),
    "second_law_beta_100": Term(
        "Windows where entropy fell, \u03b2 = 100",
        "",
        "",
        "The same at a fixed, lower temperature: only the weights change.",
        "share of dS<sub>diff</sub> &lt; 0 at &beta; = 100",
        DERIVED,
    ),
    "factorization_defect": Term(
        "Factorization defect, per neuron",
        "",
        NATS,
        "How far Z is from a product of a temperature part and a weight part.",
        "[log Z(&beta;<sub>1</sub>,q<sub>1</sub>) + log Z(&beta;<sub>2</sub>,q<sub>2</sub>) "
        "&minus; log Z(&beta;<sub>1</sub>,q<sub>2</sub>) &minus; "
        "log Z(&beta;<sub>2</sub>,q<sub>1</sub>)] / N",
        VANCHURIN,
    ),
}

TRUST: dict[str, Term] = {
    "average_loss_exact": Term(
        "Average loss, sampled",
        "U",
        LOSS,
        "The average loss without the Gaussian approximation, from weighted noisy forward passes "
        "or, where these are too few, from Hamiltonian Monte Carlo.",
        "x<sub>l</sub> = f(W<sub>l</sub>x<sub>l&minus;1</sub> + b<sub>l</sub>) + &radic;T "
        "&xi;<sub>l</sub>, weights exp(&minus;&frac12;|x &minus; x*|&sup2;)",
        DERIVED,
    ),
    "average_loss_gaussian": Term(
        "Average loss, Gaussian",
        "U",
        LOSS,
        "The same number from the Gaussian ensemble on the same samples.",
        f"U = &frac12; {SUM} g<sub>i</sub>/{D}",
        VANCHURIN,
    ),
    "ess": Term(
        "Effective sample size",
        "ESS",
        "samples",
        "Number of equally weighted draws that the weighted ones are worth.",
        "(&Sigma;w)&sup2;/&Sigma;w&sup2;",
        "Kish, Survey Sampling (1965)",
    ),
}

REST: dict[str, Term] = {
    "edges_per_edge": Term(
        "Efficiency per edge, fixed slopes",
        "",
        "loss per edge",
        "Curvature of the free energy in the connections, averaged over the connections.",
        "&Sigma;<sub>ij</sub> &part;&sup2;F/&part;w<sub>ij</sub>&sup2; at fixed f&prime;, "
        "divided by the number of edges",
        DERIVED,
    ),
    "edges_total": Term(
        "Efficiency, sum over edges, fixed slopes",
        "&Delta;F",
        LOSS,
        "Curvature of the free energy in the connections, summed over the connections.",
        "&Sigma;<sub>ij</sub> f&prime;<sub>i</sub>&sup2; {(A<sup>&minus;1</sup>)<sub>jj</sub> "
        "[1 &minus; &beta;(MA<sup>&minus;1</sup>M<sup>T</sup>)<sub>ii</sub>] &minus; "
        "&beta; (MA<sup>&minus;1</sup>)<sub>ij</sub>&sup2;}",
        DERIVED,
    ),
    "weights_per_parameter": Term(
        "Efficiency per weight, with shared weights and f\u2033",
        "",
        "loss per weight",
        "Curvature of the free energy in the trainable weights (no biases), averaged over them.",
        "tr &part;&sup2;F/&part;w&sup2; (Hutchinson), divided by the number of weights",
        DERIVED,
    ),
    "weights_total": Term(
        "Efficiency, sum over weights, with shared weights and f\u2033",
        "&Delta;F",
        LOSS,
        "Curvature of the free energy in the trainable weights (no biases), summed over them.",
        "tr &part;&sup2;F/&part;w&sup2; (Hutchinson)",
        DERIVED,
    ),
    "entropy_destruction": Term(
        "Entropy destruction, fitted \u03b2",
        "&gamma; &lang;&Delta;F&rang;",
        "nats per step",
        "Rate at which descent of the free energy would compress a cloud of weights.",
        "learning rate &times; tr &part;&sup2;F/&part;w&sup2;",
        VANCHURIN,
    ),
    "accuracy_clean": Term(
        "Accuracy without noise",
        "",
        "",
        "Share of the reference samples that the network gets right.",
    ),
    "accuracy_at_fitted_beta": Term(
        "Accuracy at the fitted temperature",
        "",
        "",
        "The same with noise of the fitted temperature added at every neuron.",
        "x<sub>l</sub> = f(W<sub>l</sub>x<sub>l&minus;1</sub> + b<sub>l</sub>) + &radic;T "
        "&xi;<sub>l</sub>",
        DERIVED,
    ),
    "sigma_w2": Term(
        "Weight variance times fan-in",
        "&sigma;<sub>w</sub>&sup2;",
        "",
        "Measured on the first snapshot; the theory's first parameter.",
        "w ~ N(0, &sigma;<sub>w</sub>&sup2;/fan-in)",
        "Poole et al., arXiv:1606.05340",
    ),
    "sigma_b2": Term(
        "Bias variance",
        "&sigma;<sub>b</sub>&sup2;",
        "",
        "Measured on the first snapshot; the theory's second parameter.",
        "b ~ N(0, &sigma;<sub>b</sub>&sup2;)",
        "Poole et al., arXiv:1606.05340",
    ),
    "q0": Term(
        "Mean squared input",
        "q<sub>0</sub>",
        "",
        "Mean square of an input component over the samples.",
        "|x|&sup2;/n<sub>0</sub>",
    ),
    "largest_relative_deviation_of_U": Term(
        "Largest relative deviation of U",
        "",
        "",
        "Between network and theory over the temperatures of the plot.",
        "max |U<sub>network</sub> &minus; U<sub>theory</sub>| / U<sub>theory</sub>",
    ),
}

"""Restricted Boltzmann machines: trainer, ln Z with its error, and the theory of random ones."""

from __future__ import annotations

from thermolearn.systems.memory.rbm.data import bars_and_stripes
from thermolearn.systems.memory.rbm.estimator import RBM
from thermolearn.systems.memory.rbm.figure import figure
from thermolearn.systems.memory.rbm.hopfield_form import HopfieldForm
from thermolearn.systems.memory.rbm.monitor import Checkpoint
from thermolearn.systems.memory.rbm.partition import Annealing, Bounds
from thermolearn.systems.memory.rbm.simulation import random_machine, simulate
from thermolearn.systems.memory.rbm.theory import (
    Params,
    TwoLayerState,
    theory,
    two_layer_theory,
)
from thermolearn.systems.memory.rbm.trajectory import checkpoints
from thermolearn.systems.memory.rbm.units import Weights

ABOUT = {
    "title": "The restricted Boltzmann machine: training, partition function, random couplings",
    "papers": [
        "arXiv:1012.1261",
        "arXiv:2011.11307",
        "arXiv:1311.1354",
        "arXiv:1412.8566",
        "doi:10.1162/089976602760128018",
        "doi:10.1145/1390156.1390290",
        "doi:10.1145/1390156.1390266",
    ],
    "claims": [
        "The free energy, energy and overlaps of a machine with random couplings and uniform "
        "fields follow from two coupled equations for the overlaps of its layers; annealing and "
        "Gibbs sampling of finite machines find the same numbers.",
        "Trained on bars and stripes, persistent chains come closer to the likelihood that the "
        "exact gradient reaches than chains started at the data.",
    ],
    "axes": {},
    "size": "n_spins",
    "sizes": (300, 600),
    "allowance": {"energy": (0.2, 1.0), "log_partition": (0.08, 1.0)},
    "contrast": {"coupling": 0.9},
    "seeds": 24,
    "figures": {"1": "figure"},
}

__all__ = [
    "ABOUT",
    "RBM",
    "Annealing",
    "Bounds",
    "Checkpoint",
    "HopfieldForm",
    "Params",
    "TwoLayerState",
    "Weights",
    "bars_and_stripes",
    "checkpoints",
    "figure",
    "random_machine",
    "simulate",
    "theory",
    "two_layer_theory",
]

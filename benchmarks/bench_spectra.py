"""Weight spectra of an untrained 784-512-512-300-100 network beside bare singular values.

Ours: `measure.spectra.weight_spectra`, verdict included (law, edge, kurtosis, entropy). No power
law is fitted to a random matrix, so that no resampling is timed here; the second part times a
network whose weights are planted power laws, with 200 resamples per weight, and is only recorded.

    OMP_NUM_THREADS=1 python benchmarks/bench_spectra.py [--require 1.2]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import Any

import torch
from common import ratio, save, seconds, side_by_side
from torch import nn

from thermolearn.measure.spectra import weight_spectra

SIZES = (784, 512, 512, 300, 100)


def network(seed: int) -> nn.Sequential:
    """Linear and ReLU layers as torch initializes them."""
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for a, b in itertools.pairwise(SIZES):
            layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plant_power_laws(model: nn.Module, alpha: float, seed: int) -> None:
    """Give every weight eigenvalues with density x^-alpha."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.dim() == 2:
            u, s, v = torch.linalg.svd(p.detach(), full_matrices=False)
            drawn = torch.rand(len(s), generator=generator) ** (-0.5 / (alpha - 1))
            with torch.no_grad():
                p.copy_(u @ torch.diag(drawn.sort(descending=True).values) @ v)


def svdvals(model: nn.Module) -> None:
    """Singular values and nothing else."""
    for p in model.parameters():
        if p.dim() == 2:
            torch.linalg.svdvals(p.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--require", type=float, help="fail above this multiple of bare svdvals")
    options = parser.parse_args()
    model = network(seed=0)
    calls = {"svdvals": lambda: svdvals(model), "spectra": lambda: weight_spectra(model)}
    times = side_by_side(calls, options.rounds)
    multiple = ratio(times["spectra"], times["svdvals"])
    verdicts = {name: s.verdict for name, s in weight_spectra(model).items()}
    plant_power_laws(model, 2.5, seed=1)
    result: dict[str, Any] = {
        "seconds": times,
        "multiple_of_svdvals": multiple,
        "verdicts": verdicts,
        "power_law_seconds_with_200_resamples": seconds(lambda: weight_spectra(model)),
        "power_law": {
            name: [s.verdict, str(s.tail.alpha if s.tail else None)]
            for name, s in weight_spectra(model).items()
        },
    }
    save("spectra", result)
    if options.require and multiple["median"] > options.require:
        sys.exit(f"{multiple['median']:.2f} times svdvals is above {options.require:g}")


if __name__ == "__main__":
    main()

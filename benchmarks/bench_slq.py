"""A convolutional network on 32x32x3 with about 10 000 neurons: Lanczos quadrature within 4 GiB.

Matrix-free: no Jacobian block is ever stored. The peak of resident memory is read before the exact
value is computed by block elimination, in the same process, as the truth to compare with.

    OMP_NUM_THREADS=1 python benchmarks/bench_slq.py [--no-exact]
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from common import peak_memory_gib, save, seconds
from torch import nn

from thermolearn.measure.canonical import CanonicalEnsemble, NeuronSystem

LIMIT_GIB = 4.0


def conv_net(seed: int) -> nn.Sequential:
    """32x32x3 -> 4x32x32 -> 8x16x16 -> 16x8x8 -> 10, tanh, weights ~ N(0, 1.5 / fan_in)."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    ).double()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("weight"):
                value.normal_(0.0, (1.5 / value[0].numel()) ** 0.5, generator=generator)
            else:
                value.zero_()
    return model.eval()


def quadrature(system: NeuronSystem, x: torch.Tensor, betas: list[float]) -> dict[str, Any]:
    """Numbers with error bars and seconds at each temperature."""
    rows = {}
    operator = system.jacobian_operator(x)
    for beta in betas:
        ensemble = CanonicalEnsemble(operator, beta=beta, method="slq")
        spent = seconds(lambda e=ensemble: (e.log_partition, e.average_loss))
        rows[f"{beta:g}"] = {
            "seconds": spent,
            "log_partition": ensemble.log_partition.to_dict(),
            "average_loss": ensemble.average_loss.to_dict(),
        }
    return rows


def exact(system: NeuronSystem, x: torch.Tensor, betas: list[float]) -> dict[str, Any]:
    """The same by block elimination."""
    spent, rows = 0.0, {}
    blocks = system.jacobian_blocks(x)
    for beta in betas:
        ensemble = CanonicalEnsemble(blocks, beta=beta, method="block")
        spent = seconds(lambda e=ensemble: e.log_partition)
        rows[f"{beta:g}"] = {
            "seconds_log_partition": spent,
            "log_partition": ensemble.log_partition.item(),
            "average_loss": ensemble.average_loss.item(),
        }
    return rows


def deviations(found: dict[str, Any], truth: dict[str, Any]) -> dict[str, dict[str, float]]:
    """(SLQ - exact) in standard errors; a single sample has only the error of its probes."""
    return {
        beta: {
            name: (found[beta][name]["value"] - truth[beta][name]) / found[beta][name]["stderr"]
            for name in ("log_partition", "average_loss")
            if found[beta][name]["stderr"]
        }
        for beta in found
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-exact", action="store_true", help="skip the exact values (minutes)")
    options = parser.parse_args()
    betas = [1.0, 100.0]
    system = NeuronSystem(conv_net(seed=0))
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64, generator=generator)
    found = quadrature(system, x, betas)
    memory = peak_memory_gib()
    neurons = sum(system.widths(x))
    result: dict[str, Any] = {"neurons": neurons, "peak_memory_gib": memory, "slq": found}
    if not options.no_exact:
        result["exact"] = exact(system, x, betas)
        result["deviation_in_standard_errors"] = deviations(found, result["exact"])
    save("slq", result)
    if memory > LIMIT_GIB:
        sys.exit(f"peak memory {memory:.2f} GiB is above {LIMIT_GIB:g} GiB")


if __name__ == "__main__":
    main()

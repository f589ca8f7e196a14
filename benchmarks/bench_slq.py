"""Stochastic Lanczos quadrature: the canonical ensemble within 4 GiB, Hessian by curvlinops.

Ensemble: a convolutional network on 32x32x3 with about 10 000 neurons, matrix-free: no Jacobian
block is ever stored. The peak of resident memory is read before the exact value is computed by
block elimination, in the same process, as the truth to compare with.

Hessian: tanh network 64-64-64-10 on all 1797 digits after 60 steps of Adam, float32, 4 probes of 60
Lanczos steps, `measure.curvature.spectral_density` and curvlinops in turn. Ours includes the copy
of the model, the check of the loss and the density on 1024 points; curvlinops' includes finding the
ends of the spectrum.

    OMP_NUM_THREADS=1 python benchmarks/bench_slq.py [--no-exact] [--only hessian] [--require 3]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import torch
from common import peak_memory_gib, ratio, save, seconds, side_by_side
from torch import nn
from torch.nn import functional as F

from thermolearn.measure.canonical import CanonicalEnsemble, NeuronSystem
from thermolearn.measure.curvature import hessian_trace, spectral_density, top_eigenvalues

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


def digits_net() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """64-64-64-10, tanh, float32, 60 full-batch steps of Adam at 0.01 on all digits over 16."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
        model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, x, y


def hessian(rounds: int) -> dict[str, Any]:
    """The density of the Hessian by both libraries in turn, and what they find."""
    from curvlinops import HessianLinearOperator
    from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

    warnings.simplefilter("ignore")
    model, x, y = digits_net()
    loss, kept = nn.CrossEntropyLoss(), {}

    def ours(dtype: torch.dtype) -> None:
        found = spectral_density(model, loss, (x, y), 4, 60, dtype=dtype)
        found.density(found.grid(1024))
        kept["density"] = found

    def theirs() -> None:
        operator = HessianLinearOperator(
            model, loss, list(model.parameters()), [(x, y)], check_deterministic=False
        )
        lanczos_approximate_spectrum(operator, 60, num_points=1024, num_repeats=4)

    calls = {
        "curvlinops": theirs,
        "thermolearn_float32": lambda: ours(torch.float32),
        "thermolearn_float64": lambda: ours(torch.float64),
    }
    times = side_by_side(calls, rounds)
    trace = hessian_trace(model, loss, (x, y), 20)
    top = top_eigenvalues(model, loss, (x, y), 2)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": times,
        "speedup_float32": ratio(times["curvlinops"], times["thermolearn_float32"]),
        "speedup_float64": ratio(times["curvlinops"], times["thermolearn_float64"]),
        "trace_by_density": kept["density"].trace.to_dict(),
        "trace_xtrace_20_products": trace.to_dict(),
        "trace_exact": EXACT_TRACE,
        "largest_eigenvalues": top.largest.to_dict(),
    }


EXACT_TRACE = 8.9906  # sum over all 8970 columns of the Hessian


def ensemble(with_exact: bool) -> dict[str, Any]:
    """The canonical ensemble of a convolutional network."""
    betas = [1.0, 100.0]
    system = NeuronSystem(conv_net(seed=0))
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64, generator=generator)
    found = quadrature(system, x, betas)
    memory = peak_memory_gib()
    neurons = sum(system.widths(x))
    result: dict[str, Any] = {"neurons": neurons, "peak_memory_gib": memory, "slq": found}
    if with_exact:
        result["exact"] = exact(system, x, betas)
        result["deviation_in_standard_errors"] = deviations(found, result["exact"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-exact", action="store_true", help="skip the exact values (minutes)")
    parser.add_argument("--only", choices=("ensemble", "hessian"), help="one of the two parts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--require", type=float, help="fail below this speed-up over curvlinops")
    options = parser.parse_args()
    if options.only != "ensemble":
        found = hessian(options.rounds)
        save("slq_hessian", found)
        speedup = found["speedup_float32"]["median"]
        if options.require and speedup < options.require:
            sys.exit(f"speed-up over curvlinops {speedup:.2f} is below {options.require:g}")
    if options.only != "hessian":
        result = ensemble(not options.no_exact)
        save("slq", result)
        memory = result["peak_memory_gib"]
        if memory > LIMIT_GIB:
            sys.exit(f"peak memory {memory:.2f} GiB is above {LIMIT_GIB:g} GiB")


if __name__ == "__main__":
    main()

"""Empirical tangent kernel, trace over 10 outputs: MLP 64-256-256-10, n = 300, against Jacobians.

The Jacobians of all samples by `torch.func` (vmap of jacrev), then one product; ours with the
private copy and all its checks; in turn, in CPU seconds of the process (so that a neighbor on the
machine counts less), one thread, float32. nngeometry is no dependency; where it cannot be
imported, its time is left out:
    pip install --no-deps nngeometry==0.4

    OMP_NUM_THREADS=1 python benchmarks/bench_empirical_ntk.py [--require 20]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from common import cpu_seconds, matmul_rate, ratio, save
from torch import Tensor, nn

from thermolearn.predict.kernels.empirical import empirical_ntk

WIDTHS, SAMPLES = (64, 256, 256, 10), 300
TOLERANCE = 1e-5  # of the numbers, relative to the largest
RECORDED = "0.70 to 0.78 s beside 2.4 to 2.8 s of Jacobians were recorded for nngeometry elsewhere"


def network() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(WIDTHS[0], WIDTHS[1]), nn.ReLU(), nn.Linear(WIDTHS[1], WIDTHS[2]), nn.ReLU(),
            nn.Linear(WIDTHS[2], WIDTHS[3]),
        )  # fmt: skip
        return model, torch.randn(SAMPLES, WIDTHS[0])


def jacobians(model: nn.Module, x: Tensor) -> Tensor:
    """The kernel the plain way: n x outputs x parameters numbers, then one product."""
    values = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (sample[None],))[0]

    found = torch.func.vmap(torch.func.jacrev(outputs), (None, 0))(values, x)
    rows = torch.cat([g.flatten(2) for g in found.values()], 2).flatten(1)
    return rows @ rows.T


def peer(model: nn.Module, x: Tensor) -> Callable[[], Any] | str:
    """nngeometry's Gram matrix of the Jacobian, or why there is none."""
    try:
        from nngeometry import GramMatrix  # type: ignore[import-not-found]
        from torch.utils.data import DataLoader, TensorDataset
    except Exception as error:  # an import may fail in any way
        return f"nngeometry is not importable ({type(error).__name__}: {error}); {RECORDED}"
    loader = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=len(x))
    return lambda: GramMatrix(model, loader).data.diagonal(0, 0, 2).sum(-1)


def run(rounds: int) -> dict[str, Any]:
    model, x = network()
    calls: dict[str, Callable[[], Any]] = {
        "jacobians": lambda: jacobians(model, x),
        "thermolearn_float32": lambda: empirical_ntk(model, x, dtype=torch.float32),
        "thermolearn_float64": lambda: empirical_ntk(model, x),
    }
    found = peer(model, x)
    if not isinstance(found, str):
        calls["nngeometry"] = found
    values = {name: call().double() for name, call in calls.items()}
    plain = values.pop("jacobians")
    times = cpu_seconds(calls, rounds)
    result: dict[str, Any] = {
        "what": f"MLP {'-'.join(map(str, WIDTHS))}, {SAMPLES} samples, trace over outputs",
        "matmul_gflops_float64": round(matmul_rate(), 1),
        "cpu_seconds": times,
        "speedup_float32": ratio(times["jacobians"], times["thermolearn_float32"]),
        "speedup_float64": ratio(times["jacobians"], times["thermolearn_float64"]),
        "difference": {k: float((v - plain).abs().max() / plain.max()) for k, v in values.items()},
    }
    if isinstance(found, str):
        result["nngeometry"] = found
    else:
        result["speedup_over_nngeometry"] = ratio(times["nngeometry"], times["thermolearn_float32"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--require", type=float, default=0.0, help="least speed-up over Jacobians")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = run(options.rounds)
    save("empirical_ntk", result)
    failures = []
    if result["speedup_float32"]["median"] < options.require:
        failures.append(
            f"{result['speedup_float32']['median']:.1f} times torch.func, "
            f"{options.require:g} required"
        )
    if max(result["difference"].values()) > TOLERANCE:
        failures.append(f"the numbers differ by more than {TOLERANCE:g}")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()

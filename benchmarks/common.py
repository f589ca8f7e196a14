"""What every benchmark shares: side-by-side timing, the machine's rate in this run, the record."""

from __future__ import annotations

import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import thermolearn

RESULTS = Path(__file__).resolve().parent / "results"


def matmul_rate(n: int = 1024, repeats: int = 5) -> float:
    """Best float64 matrix-multiplication rate in GFLOP/s, the yardstick of this run."""
    a = torch.rand(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    best = min(seconds(lambda: a @ a) for _ in range(repeats))
    return 2e-9 * n**3 / best


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def side_by_side(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in turn, A B C A B C ..., so that a drifting machine meets all alike."""
    for call in calls.values():
        call()  # warm up: thread pools, caches, lazy imports
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Median, smallest and largest of the ratios round by round."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def random_tanh_net(widths: list[int], seed: int, sigma_w2: float = 1.5) -> nn.Sequential:
    """Tanh network with a linear output, weights ~ N(0, sigma_w2 / fan_in), biases 0, float64."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.Linear(fan_in, fan_out, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.normal_(0.0, (sigma_w2 / fan_in) ** 0.5, generator=generator)
            linear.bias.zero_()
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()


def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    names = ("torch", "numpy", "scipy")
    return {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "matmul_gflops": round(matmul_rate(), 1),
        "thermolearn": thermolearn.__version__,  # that of an editable installation may be old
        **{name: version(name).split("+")[0] for name in names},
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Print the result and write it to benchmarks/results/NAME.json."""
    result = {"environment": environment(), **result}
    text = json.dumps(result, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


def cpu_seconds(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call in turn, after one to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if k:
                times[name].append(time.process_time() - start)
    return times

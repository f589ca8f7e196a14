"""What the probe costs on the demo: the same training with and without it, in turn.

The loop of `make demo` (digits, 64-32-32-10 tanh, squared loss, SGD) is written out here. For each
cadence: "with_over_without" is the relative difference of the CPU times of the loop with and
without a probe (single-threaded; CPU time, so that other processes do not count), as the median
over paired rounds with its standard error, against the mean of two runs without, whose difference
is the noise; and "booked", the share that the probe's own clock puts down. The clock does not see
what the probe's code and memory evict from the processor's caches, nor the calls into it, so that
on steps as short as these (a quarter of a millisecond) it says less. "deferred" is the evaluation
after training.

    OMP_NUM_THREADS=1 python benchmarks/bench_probe.py [--every 20 50] [--require 0.05]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from typing import Any

import torch
from common import save
from sklearn.datasets import load_digits
from torch import nn

import thermolearn


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    x = x - x.mean(0)
    y = nn.functional.one_hot(torch.tensor(data.target), 10).float()
    return (x / x.std())[:1297], y[:1297]


def squared(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def train(epochs: int, every: int | None) -> tuple[float, Any, torch.Tensor]:
    """CPU seconds of the loop, the probe (None without) and all final parameters."""
    x, y = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    probe = None
    if every:
        reference = (x[:256], y[:256])
        probe = thermolearn.Probe(model, squared, optimizer, reference=reference, every=every)
    order = torch.Generator().manual_seed(1)
    start = time.process_time()
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=order).split(32):
            xb, yb = x[index], y[index]
            optimizer.zero_grad()
            loss = squared(model(xb), yb)
            loss.backward()
            optimizer.step()
            if probe is not None:
                probe.step(xb, yb, loss)
    spent = time.process_time() - start
    return spent, probe, torch.cat([p.detach().flatten() for p in model.parameters()])


def share(times: list[float], plain: list[float]) -> dict[str, float]:
    """times / plain - 1, round by round: median, its standard error (from the median deviation)."""
    each = [a / b - 1 for a, b in zip(times, plain, strict=True)]
    median = statistics.median(each)
    spread = 1.4826 * statistics.median(abs(x - median) for x in each)
    return {
        "median": round(median, 4),
        "stderr": round(1.2533 * spread / len(each) ** 0.5, 4),
        "of_the_fastest": round(min(times) / min(plain) - 1, 4),
    }


def booked(probe: thermolearn.Probe) -> float:
    """Share of the rest of the training time that the probe's own clock puts down."""
    recorder = probe._recorder
    return recorder.cost_s / (recorder.training_s - recorder.cost_s)


def measure(epochs: int, cadences: list[int], rounds: int) -> dict[str, Any]:
    """Paired rounds, each in another order: times, booked shares, whether the bits agree."""
    names: list[Any] = ["without", "again", *cadences]
    times: dict[Any, list[float]] = {name: [] for name in names}
    books: dict[int, list[float]] = {every: [] for every in cadences}
    order, unchanged, probe = random.Random(0), True, None
    for _ in range(rounds):
        final = {}
        for name in order.sample(names, len(names)):
            every = name if name in books else None
            spent, used, final[name] = train(epochs, every)
            times[name].append(spent)
            if used is not None:
                books[name].append(booked(used))
                used.close()
                probe = used
        unchanged &= all(torch.equal(final["without"], f) for f in final.values())
    return {"times": times, "books": books, "unchanged": unchanged, "probe": probe}


def deferred_seconds(probe: thermolearn.Probe) -> float:
    start = time.perf_counter()
    probe.flush()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--every", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--skip-deferred", action="store_true", help="do not evaluate snapshots")
    parser.add_argument("--require", type=float, help="fail if a share is surely above this")
    options = parser.parse_args()
    for every in (None, *options.every):
        train(2, every)  # warm up
    runs = measure(options.epochs, options.every, options.rounds)
    times = runs["times"]
    base = [(a + b) / 2 for a, b in zip(times["without"], times["again"], strict=True)]
    shares = {every: share(times[every], base) for every in options.every}
    result: dict[str, Any] = {
        "epochs": options.epochs,
        "rounds": options.rounds,
        "training_seconds": statistics.median(base),
        "cadences": {
            f"every {every}": {
                "with_over_without": shares[every],
                "booked": round(statistics.median(runs["books"][every]), 4),
            }
            for every in options.every
        },
        "noise": share(times["again"], times["without"]),
        "parameters_bitwise_equal": runs["unchanged"],
    }
    if not options.skip_deferred:
        probe = runs["probe"]
        result["deferred_seconds"] = deferred_seconds(probe)
        result["the_probe_says"] = [row for row in probe.rows if row["kind"] == "cost"][-1]
    save("probe", result)
    if not runs["unchanged"]:
        sys.exit("the parameters differ with and without the probe")
    for every, found in shares.items():
        if options.require and found["median"] - 2 * found["stderr"] > options.require:
            sys.exit(f"every {every}: {found['median']:.1%}, {options.require:.0%} allowed")


if __name__ == "__main__":
    main()

"""Persistent contrastive divergence at 784 x 200, batch = chains = 500, side by side.

"plain torch" is the textbook loop with torch.bernoulli, once as it is and once with the centered
gradient; "rbms" is the package of that name (DsysDML), centered, on the CPU, if it is installed
(`pip install --no-deps rbms==0.5.0 h5py`); "scikit-learn" is BernoulliRBM, whose gradient is not
centered and whose k is 1. All train on the same bits, in float32.

    OMP_NUM_THREADS=1 python benchmarks/bench_rbm.py [--require 1]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from common import matmul_rate, ratio, save, seconds, side_by_side
from torch import Tensor

from thermolearn.systems.memory.rbm import RBM

N_VISIBLE, N_HIDDEN, BATCH, SAMPLES, RATE = 784, 200, 500, 5000, 0.01
Step = Callable[[Tensor], Any]


def data() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(SAMPLES, N_VISIBLE, generator=generator) < 0.2).float()


def thermolearn_step(X: Tensor, k: int) -> Step:
    rbm = RBM(N_HIDDEN, k=k, learning_rate=RATE, n_chains=BATCH, batch_size=BATCH)
    rbm.partial_fit(X[:BATCH].numpy())
    run = rbm._run  # the step of `fit` itself, without the validation of partial_fit
    return lambda batch: run.update(batch, RATE)


def plain_step(X: Tensor, k: int, centered: bool) -> Step:
    W = 0.01 * torch.randn(N_VISIBLE, N_HIDDEN)
    a, b = torch.logit(X.mean(0).clamp(0.01, 0.99)), torch.zeros(N_HIDDEN)
    mu, chain = X.mean(0), [(torch.rand(BATCH, N_VISIBLE) < 0.2).float()]

    def step(x: Tensor) -> None:
        h_data = torch.sigmoid(x @ W + b)
        v = chain[0]
        for _ in range(k):
            h = torch.bernoulli(torch.sigmoid(v @ W + b))
            v = torch.bernoulli(torch.sigmoid(h @ W.T + a))
        chain[0] = v
        h_model = torch.sigmoid(v @ W + b)
        da, db = x.mean(0) - v.mean(0), h_data.mean(0) - h_model.mean(0)
        if centered:
            lam = h_data.mean(0)
            dW = ((x - mu).T @ (h_data - lam) - (v - mu).T @ (h_model - lam)) / BATCH
            da, db = da - dW @ lam, db - mu @ dW
        else:
            dW = (x.T @ h_data - v.T @ h_model) / BATCH
        W.add_(dW, alpha=RATE)
        a.add_(da, alpha=RATE)
        b.add_(db, alpha=RATE)

    return step


def rbms_step(X: Tensor, k: int) -> Step | None:
    """fit_batch_pcd of the package with plain SGD, as its own training loop calls them."""
    try:
        from rbms.bernoulli_bernoulli.classes import BBRBM
        from rbms.training.pcd import fit_batch_pcd
    except ImportError:
        return None
    mean = X.mean(0).clamp(0.01, 0.99)
    params = BBRBM(
        1e-4 * torch.randn(N_VISIBLE, N_HIDDEN), torch.logit(mean), torch.zeros(N_HIDDEN)
    )
    params.init_grad()
    optimizer = torch.optim.SGD(params.parameters(), lr=RATE, maximize=True)
    chains, ones = [params.init_chains(BATCH)], torch.ones(BATCH, 1)

    def step(x: Tensor) -> None:
        with torch.no_grad():
            optimizer.zero_grad(set_to_none=False)
            chains[0], _ = fit_batch_pcd((x, ones), chains[0], params, k, 1.0, centered=True)
            optimizer.step()

    return step


def sklearn_step(X: Tensor) -> Step:
    from sklearn.neural_network import BernoulliRBM

    rbm = BernoulliRBM(N_HIDDEN, learning_rate=RATE, batch_size=BATCH, random_state=0)
    rbm.partial_fit(X[:BATCH].numpy())
    return lambda batch: rbm.partial_fit(batch.numpy())


def compare(X: Tensor, k: int, steps: int, rounds: int) -> dict[str, Any]:
    found: dict[str, Step | None] = {
        "thermolearn": thermolearn_step(X, k),
        "plain torch": plain_step(X, k, centered=False),
        "plain torch, centered": plain_step(X, k, centered=True),
        "rbms": rbms_step(X, k),
        "scikit-learn": sklearn_step(X) if k == 1 else None,
    }
    made = {name: step for name, step in found.items() if step is not None}
    batches = X.split(BATCH)

    def many(step: Step) -> Callable[[], None]:
        def call() -> None:
            for i in range(steps):
                step(batches[i % len(batches)])

        return call

    times = side_by_side({name: many(step) for name, step in made.items()}, rounds)
    mine = times["thermolearn"]
    best = min(mine) / steps
    # what the algorithm needs: k sweeps of two products, h given the data, two in the gradient
    flop = 2 * BATCH * N_VISIBLE * N_HIDDEN * (2 * k + 3)
    return {
        "k": k,
        "steps_per_second": {n: steps / statistics.median(t) for n, t in times.items()},
        "times_faster": {
            f"than {n}": ratio(t, mine) for n, t in times.items() if n != "thermolearn"
        },
        "gflops_of_matrix_products": flop / best * 1e-9,
        "not installed": [name for name in ("rbms",) if found[name] is None],
    }


def float32_rate(n: int = 1024) -> float:
    """Best float32 matrix-multiplication rate in GFLOP/s."""
    a = torch.rand(n, n)
    return 2e-9 * n**3 / min(seconds(lambda: a @ a) for _ in range(5))


def run(steps: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    X = data()
    return {
        "visible": N_VISIBLE,
        "hidden": N_HIDDEN,
        "batch": BATCH,
        "float64_matmul_gflops": matmul_rate(),
        "float32_matmul_gflops": float32_rate(),
        "runs": [compare(X, 1, steps, rounds), compare(X, 10, max(1, steps // 5), rounds)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--require", type=float, help="fail below this ratio to every other at k = 1"
    )
    options = parser.parse_args()
    result = run(options.steps, options.rounds)
    save("rbm", result)
    worst = min(row["median"] for row in result["runs"][0]["times_faster"].values())
    if options.require and worst < options.require:
        sys.exit(f"{worst:.2f} times faster than the fastest other, {options.require:g} required")


if __name__ == "__main__":
    main()

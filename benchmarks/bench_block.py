"""Block elimination against dense methods on 784-4x128-10: same numbers, ratio of times in one run.

The dense sides are written out here, from the formulas, and use nothing of the library:
A = 1 + beta M^T M of size N = 1306 per sample, log Z = (N/2) log 2 pi - log det(A)/2,
U = (T/2)(N - tr A^{-1}). All start from the Jacobian blocks. "dense Cholesky" forms A and
factorizes it, which is what a general J needs; "Cholesky, A given" is the factorization alone, the
least that any dense method costs.

    OMP_NUM_THREADS=1 python benchmarks/bench_block.py [--require 20]
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from common import random_tanh_net, ratio, save, side_by_side
from torch import Tensor

from thermolearn.measure.canonical import CanonicalEnsemble, NeuronSystem

WIDTHS = [784, 128, 128, 128, 128, 10]


def dense_m(blocks: list[Tensor]) -> Tensor:
    """M = 1 - J, shape (B, N, N), from the blocks J_l of shape (B, n_l, n_{l-1})."""
    widths = [blocks[0].shape[-1], *(block.shape[-2] for block in blocks)]
    m = torch.eye(sum(widths), dtype=torch.float64).repeat(blocks[0].shape[0], 1, 1)
    start = 0
    for block in blocks:
        rows, columns = block.shape[-2:]
        m[:, start + columns : start + columns + rows, start : start + columns] = -block
        start += columns
    return m


def dense_a(blocks: list[Tensor], beta: float) -> Tensor:
    m = dense_m(blocks)
    return torch.eye(m.shape[-1], dtype=torch.float64) + beta * m.mT @ m


def cholesky(a: Tensor) -> float:
    """Mean log Z of given A by batched Cholesky."""
    log_det = 2 * torch.linalg.cholesky(a).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return float((0.5 * a.shape[-1] * math.log(2 * math.pi) - 0.5 * log_det).mean())


def dense_cholesky_and_loss(blocks: list[Tensor], beta: float) -> tuple[float, float]:
    """Mean log Z and mean U by batched Cholesky and the inverse from the same factor."""
    factor = torch.linalg.cholesky(dense_a(blocks, beta))
    n = factor.shape[-1]
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    trace = torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1).sum(-1)
    log_z = 0.5 * n * math.log(2 * math.pi) - 0.5 * log_det
    return float(log_z.mean()), float((0.5 / beta * (n - trace)).mean())


def scipy_cholesky(blocks: list[Tensor], beta: float) -> float:
    """Mean log Z by LAPACK's Cholesky, one sample after the other."""
    total = 0.0
    for a in dense_a(blocks, beta).numpy():
        factor = scipy.linalg.cholesky(a, lower=True, check_finite=False)
        total += 0.5 * len(a) * math.log(2 * math.pi) - np.log(np.diagonal(factor)).sum()
    return total / blocks[0].shape[0]


def sparse_lu(blocks: list[Tensor], beta: float) -> float:
    """Mean log Z by scipy's sparse LU (SuperLU), which finds the block structure by itself."""
    total = 0.0
    for m in dense_m(blocks).numpy():
        sparse = scipy.sparse.csc_array(m)
        a = scipy.sparse.csc_array(scipy.sparse.eye_array(len(m)) + beta * (sparse.T @ sparse))
        lu = scipy.sparse.linalg.splu(a)
        log_det = np.log(np.abs(lu.U.diagonal())).sum() + np.log(np.abs(lu.L.diagonal())).sum()
        total += 0.5 * len(m) * math.log(2 * math.pi) - 0.5 * log_det
    return total / blocks[0].shape[0]


def run(samples: int, beta: float, rounds: int) -> dict[str, object]:
    model = random_tanh_net(WIDTHS, seed=0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, WIDTHS[0], dtype=torch.float64, generator=generator)
    blocks = NeuronSystem(model).jacobian_blocks(x)

    def block() -> float:
        return CanonicalEnsemble(blocks, beta=beta, method="block").log_partition.item()

    def block_and_loss() -> tuple[float, float]:
        ensemble = CanonicalEnsemble(blocks, beta=beta, method="block")
        return ensemble.log_partition.item(), ensemble.average_loss.item()

    given = dense_a(blocks, beta)
    calls = {
        "block": block,
        "dense Cholesky": lambda: cholesky(dense_a(blocks, beta)),
        "Cholesky, A given": lambda: cholesky(given),
        "block, with U": block_and_loss,
        "dense Cholesky, with U": lambda: dense_cholesky_and_loss(blocks, beta),
        "scipy Cholesky": lambda: scipy_cholesky(blocks, beta),
        "scipy sparse LU": lambda: sparse_lu(blocks, beta),
    }
    numbers = {name: np.atleast_1d(call()) for name, call in calls.items()}
    exact = numbers["dense Cholesky, with U"]
    difference = {
        name: float(np.max(np.abs(value / exact[: len(value)] - 1)))
        for name, value in numbers.items()
    }
    times = side_by_side(calls, rounds)
    return {
        "widths": WIDTHS,
        "neurons": sum(WIDTHS),
        "samples": samples,
        "beta": beta,
        "log_partition": float(exact[0]),
        "average_loss": float(exact[1]),
        "relative_difference": difference,
        "seconds_per_sample": {k: statistics.median(v) / samples for k, v in times.items()},
        "times_faster": {
            "than dense Cholesky": ratio(times["dense Cholesky"], times["block"]),
            "than dense Cholesky, with U": ratio(
                times["dense Cholesky, with U"], times["block, with U"]
            ),
            "than Cholesky, A given": ratio(times["Cholesky, A given"], times["block"]),
            "than scipy Cholesky": ratio(times["scipy Cholesky"], times["block"]),
            "than scipy sparse LU": ratio(times["scipy sparse LU"], times["block"]),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beta", type=float, default=50.0)
    parser.add_argument("--require", type=float, help="fail below this ratio to dense Cholesky")
    options = parser.parse_args()
    result = run(options.samples, options.beta, options.rounds)
    save("block", result)
    worst = max(result["relative_difference"].values())
    if worst > 1e-10:
        sys.exit(f"the methods differ by {worst:.1e} relative, more than 1e-10")
    measured = result["times_faster"]["than dense Cholesky"]["median"]
    if options.require and measured < options.require:
        sys.exit(f"{measured:.1f} times faster than dense Cholesky, {options.require:g} required")


if __name__ == "__main__":
    main()

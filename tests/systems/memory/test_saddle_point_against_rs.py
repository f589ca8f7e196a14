"""The solver of the memory family against saddle points of the functional it was derived from."""

import math

import numpy as np
import pytest
import torch

from thermolearn.core.saddle_point import SaddlePoint, gauss_average, log2cosh
from thermolearn.systems.memory.replica_symmetric import RSAssociative, binomial_chi

SHARP = ([1.0], [1.0])


def written_down(modes, chi, scale, delta):
    """f(n, q, R) per spin: Amit, Gutfreund, Sompolinsky (1985) with modes, blur and disorder."""
    values, weights = (torch.as_tensor(np.asarray(side, dtype=np.float64)) for side in chi)

    def f(n, q, R, *, T):
        C = (1 - q) / T
        out = scale * n**2 / 2 + R * C / 2 - delta * (1 - q**2) / (4 * T)
        for w, strength in modes:
            left = 1 - strength * C
            out = out + w / 2 * (T * torch.log(left) - strength * q / left)
        field = gauss_average(
            lambda z: log2cosh((scale * n * values[:, None] + torch.sqrt(R) * z) / T), steepness=25
        )
        return out - T * (field @ weights)

    def replicon(n, q, R, *, T):
        C = (1 - q) / T
        slope = delta + sum(w * s**2 / (1 - s * C) ** 2 for w, s in modes)
        field = gauss_average(
            lambda z: torch.cosh((scale * n * values[:, None] + torch.sqrt(R) * z) / T) ** -4,
            steepness=25,
        )
        return 1 - slope / T**2 * (field @ weights)

    domains = {"n": (-1.5, 1.5), "q": (0, 1), "R": (0, math.inf)}
    return SaddlePoint(f, domains, conjugate=[("q", "R")], replicon=replicon)


def unsupervised(r, M):
    R2 = r**2 + (1 - r**2) / M
    return [(0.02, 1.0), (0.02 * (M - 1), (1 - r**2) / (M * R2))], binomial_chi(M, r), 1 / R2


CASES = [
    ("hopfield", [(0.05, 1.0)], SHARP, 1.0, 0.0, 0.4, "retrieval"),
    ("hopfield, warm", [(0.03, 1.0)], SHARP, 1.0, 0.0, 0.6, "retrieval"),
    ("hopfield, glass", [(0.05, 1.0)], SHARP, 1.0, 0.0, 0.4, "spin_glass"),
    ("hopfield, hot glass", [(0.1, 1.0)], SHARP, 1.0, 0.0, 1.2, "spin_glass"),
    ("disorder", [(0.03, 1.0)], SHARP, 1.0, 0.1, 0.3, "retrieval"),
    ("disorder, glass", [(0.02, 1.0)], SHARP, 1.0, 0.2, 0.5, "spin_glass"),
    ("decimated", [(0.02, 1.0), (0.01, 0.2), (0.01, -0.3)], SHARP, 1.0, 0.1, 0.3, "retrieval"),
    ("examples", *unsupervised(0.4, 40), 0.0, 0.2, "retrieval"),
    ("few examples", *unsupervised(0.6, 9), 0.0, 0.3, "retrieval"),
    ("few, glass", *unsupervised(0.6, 9), 0.05, 0.5, "spin_glass"),
    ("negative", [(0.05, 1.0), (0.05, -0.5)], SHARP, 1.3, 0.05, 0.5, "retrieval"),
]


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_the_special_solver_finds_a_saddle_point_of_the_functional(case):
    _, modes, chi, scale, delta, T, branch = case
    special = RSAssociative(modes, chi, scale, delta).solve(T, branch)
    assert (special.n > 0.1) == (branch == "retrieval"), "choose a point where the branch exists"
    # from a start moved by a few percent, not from the answer
    start = {"n": 0.99 * special.n, "q": 1 - 1.02 * (1 - special.q), "R": 1.03 * special.R}
    state = written_down(modes, chi, scale, delta).solve(start, T=T)
    assert float(state.n) == pytest.approx(special.n, abs=1e-9)
    assert float(state.q) == pytest.approx(special.q, abs=1e-9)
    assert float(state.R) == pytest.approx(special.R, rel=1e-8)
    assert float(state.f) == pytest.approx(special.f, abs=1e-11)
    entropy = -state.derivative("T")
    assert float(entropy) == pytest.approx(special.entropy, abs=1e-8)
    assert float(state.f) + T * float(entropy) == pytest.approx(special.u, abs=1e-8)
    assert state.replicon == pytest.approx(special.replicon, abs=1e-8)
    assert state.stable and state.index == 1


def test_the_comparison_would_notice_a_wrong_term():
    modes, T = [(0.05, 1.0)], 0.4
    special = RSAssociative(modes).solve(T)
    other = written_down([(0.0505, 1.0)], SHARP, 1.0, 0.0)
    state = other.solve({"n": special.n, "q": special.q, "R": special.R}, T=T)
    assert abs(float(state.f) - special.f) > 1e-5


def test_the_special_solver_takes_the_largest_overlap_of_all_branches():
    for modes, delta, T in [([(0.05, 1.0)], 0.0, 0.4), ([(0.03, 1.0)], 0.05, 0.3)]:
        branches = written_down(modes, SHARP, 1.0, delta).branches(T=T)
        retrieval = RSAssociative(modes, delta=delta).solve(T)
        assert max(float(s.n) for s in branches) == pytest.approx(retrieval.n, abs=1e-9)
        glass = RSAssociative(modes, delta=delta).solve(T, "spin_glass")
        lowest = min(branches, key=lambda s: abs(float(s.n)))
        assert float(lowest.f) == pytest.approx(glass.f, abs=1e-11)
        assert all(abs(float(s.n)) > 0.1 or abs(float(s.f) - glass.f) < 1e-9 for s in branches)

"""Block elimination against dense linear algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import naive_m, random_blocks

from thermolearn.measure.canonical import block

WIDTHS = [[5, 7, 6, 4], [1, 1], [3, 9, 2], [20, 4, 4, 3], [3, 4, 20], [2, 1, 5, 1, 2]]


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("tau", [1e-6, 0.03, 1.0, 50.0])
def test_log_det_and_derivatives_equal_dense(widths, tau):
    blocks = random_blocks(widths, scale=1.5)
    eigenvalues = torch.linalg.svdvals(naive_m(blocks)) ** 2 + tau
    expected = [eigenvalues.log().sum(-1), (1 / eigenvalues).sum(-1), -(eigenvalues**-2).sum(-1)]
    found = block.BlockElimination(blocks).log_det(tau, 2)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("widths", WIDTHS)
def test_both_directions_and_per_neuron_shifts(widths):
    blocks = random_blocks(widths)
    generator = torch.Generator().manual_seed(1)
    shifts = [torch.rand(3, n, generator=generator, dtype=torch.float64) for n in widths]
    m, diagonal = naive_m(blocks), torch.diag_embed(torch.cat(shifts, -1))
    forward = block.log_det(blocks, shifts)
    torch.testing.assert_close(forward, torch.logdet(m @ m.mT + diagonal), rtol=1e-11, atol=1e-11)
    backward = block.log_det(block.reversed_blocks(blocks), shifts[::-1])
    torch.testing.assert_close(backward, torch.logdet(m.mT @ m + diagonal), rtol=1e-11, atol=1e-11)


def test_quadratic_form_equals_dense_solve():
    blocks = random_blocks([4, 6, 3, 2])
    shifts = [torch.full((1, 1), 0.3, dtype=torch.float64)] * 4
    m = naive_m(blocks)
    b = torch.randn(3, 15, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix = m @ m.mT + 0.3 * torch.eye(15, dtype=torch.float64)
    expected = (b * torch.linalg.solve(matrix, b)).sum(-1)
    torch.testing.assert_close(block.quadratic_form(blocks, shifts, b), expected)


def test_gradients_of_all_orders():
    blocks = [b.requires_grad_(True) for b in random_blocks([2, 3, 2], batch=1)]
    shift = torch.full((1, 1), 0.4, dtype=torch.float64, requires_grad=True)

    def function(shift, *blocks):
        return block.log_det(blocks, [shift] * 3)

    assert torch.autograd.gradcheck(function, (shift, *blocks))
    assert torch.autograd.gradgradcheck(function, (shift, *blocks))


def test_below_the_smallest_eigenvalue_is_refused_and_above_is_not():
    blocks = random_blocks([4, 5, 3], batch=1)
    lowest = float(torch.linalg.svdvals(naive_m(blocks)).min() ** 2)
    elimination = block.BlockElimination(blocks)
    elimination.log_det(-0.999 * lowest)
    with pytest.raises(block.NotPositiveDefiniteError):
        elimination.log_det(-1.001 * lowest)


def test_cold_limit_keeps_its_digits():
    # L(tau) -> tau tr G^{-1} - tau^2 tr G^{-2}/2: tiny beside the N log terms it replaces
    blocks = random_blocks([30, 20, 10])
    inverse = 1 / torch.linalg.svdvals(naive_m(blocks)) ** 2
    tau = 1e-7
    expected = tau * inverse.sum(-1) - 0.5 * tau**2 * (inverse**2).sum(-1)
    (found,) = block.BlockElimination(blocks).log_det(tau)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-13)


def test_traces():
    for widths in WIDTHS:
        blocks = random_blocks(widths)
        g = naive_m(blocks).mT @ naive_m(blocks)
        first, second = block.BlockElimination(blocks).traces()
        torch.testing.assert_close(first, g.diagonal(dim1=-2, dim2=-1).sum(-1))
        torch.testing.assert_close(second, (g * g).sum((-2, -1)))


def test_cheaper_direction_starts_at_the_wide_end():
    assert block.widths_of(block.cheaper_direction(random_blocks([50, 5, 5])))[0] == 50
    assert block.widths_of(block.cheaper_direction(random_blocks([5, 5, 50])))[0] == 50


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.floats(-4, 3),
    st.integers(0, 1000),
)
def test_feed_forward_determinant_is_one(widths, log_tau, seed):
    blocks = random_blocks(widths, batch=2, seed=seed, scale=2.0)
    (at_zero,) = block.BlockElimination(blocks).log_det(0.0)
    assert at_zero.abs().max() < 1e-9  # det G = 1: J is nilpotent
    value, slope, bend = block.BlockElimination(blocks).log_det(10**log_tau, 2)
    assert (value > -1e-12).all() and (slope > 0).all() and (bend < 0).all()

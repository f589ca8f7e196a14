"""First and second law, factorization, and the data's own degrees of freedom."""

import math

import numpy as np
import pytest
import torch
from networks import random_blocks, sinnet
from scipy import stats

from thermolearn.measure.canonical import (
    CanonicalEnsemble,
    JacobianBlocks,
    NeuronSystem,
    Septuple,
    effective_degrees,
    factorization_defect,
    first_law,
    second_law,
)
from thermolearn.measure.canonical.laws import free_energy_gradient, mean_temperature


def line(parts, beta=10.0):
    """Straight line in J between two sinnets, at one temperature."""
    ends = []
    for scale in (0.5, 1.5):
        model, x = sinnet([5, 7, 6, 4], scale)
        ends.append(NeuronSystem(model).jacobian_blocks(x))
    a, b = ends
    return [
        CanonicalEnsemble(
            JacobianBlocks(
                [p + (q - p) * k / parts for p, q in zip(a, b, strict=True)],
                a.widths,
                a.fixed_point,
            ),
            beta,
        )
        for k in range(parts + 1)
    ]


def test_reference_numbers_of_the_first_law():
    law, coarse = first_law(line(100)), first_law(line(10))
    assert float(law.energy_change) == pytest.approx(-0.029729029, rel=1e-7)
    assert float(law.heat) == pytest.approx(-0.074336458, rel=1e-7)
    assert float(law.work) == pytest.approx(0.0446072, rel=1e-6)
    assert abs(float(law.residual)) < 1e-6
    ratio = float(coarse.residual) / float(law.residual)
    assert ratio == pytest.approx(100, abs=5)  # second order in the step


def test_work_gradient_equals_finite_differences():
    blocks = random_blocks([3, 4, 2], batch=2)
    gradient = free_energy_gradient(CanonicalEnsemble(blocks, 5.0))
    h = 1e-5
    for layer, (i, j) in ((0, (2, 1)), (1, (0, 3))):
        moved = [b.clone() for b in blocks]
        values = []
        for sign in (1, -1):
            moved[layer][:, i, j] = blocks[layer][:, i, j] + sign * h
            values.append(CanonicalEnsemble(moved, 5.0, per_sample=True).free_energy.value)
        slope = (values[0] - values[1]) / (2 * h)
        np.testing.assert_allclose(gradient[layer][:, i, j].numpy(), slope, rtol=1e-7)


def test_pure_heating_is_pure_heat():
    blocks = random_blocks([4, 5, 3], batch=3)
    path = [CanonicalEnsemble(blocks, beta) for beta in np.geomspace(5, 50, 200)]
    law = first_law(path)
    assert float(law.work) == 0
    assert float(law.heat) == pytest.approx(float(law.energy_change), rel=1e-5)


def test_log_mean_is_exact_for_equipartition_and_trapezoid_is_not():
    # cold: U = N T / 2, S = (N/2) ln T
    blocks = random_blocks([4, 5, 3], batch=2, scale=0.3)
    path = [CanonicalEnsemble(blocks, beta) for beta in (1e5, 8e5)]
    assert first_law(path, "logmean").closure < 1e-3
    assert first_law(path, "trapezoid").closure > 0.3
    assert mean_temperature(2.0, 2.0, "logmean") == 2.0
    assert mean_temperature(1.0, math.e, "logmean") == pytest.approx(math.e - 1)


def test_second_law_signs():
    path = line(5)
    law = second_law([e.at(b) for e, b in zip(path, np.geomspace(10, 100, 6), strict=True)])
    assert law.fitted.shape == (5,) and set(law.fixed) == {1.0, 100.0}
    # at fixed beta S_diff = N/2 + log Z: it moves against the free energy
    for beta in (1.0, 100.0):
        free = np.diff([float(e.at(beta).free_energy) for e in path])
        np.testing.assert_allclose(law.fixed[beta], -beta * free, rtol=1e-9)
    cooling = [path[0].at(b) for b in (1.0, 10.0, 100.0)]
    assert float(second_law(cooling).falling()) == 1.0


def test_factorization_holds_in_the_cold():
    path = line(1)
    hot = factorization_defect(path[0], path[1], 0.1, 1.0)
    cold = factorization_defect(path[0], path[1], 1e5, 1e6)
    assert abs(float(hot)) > 1e-3 and abs(float(cold)) < 1e-5
    assert abs(float(factorization_defect(path[0], path[1], 3.0, 3.0))) < 1e-14


def test_effective_degrees_of_chi_square_losses():
    # a loss that is a sum of k squared Gaussians has 2 mean^2/var = k
    sample = stats.chi2(7).rvs(4000, random_state=np.random.default_rng(0)) / 30
    found = effective_degrees(sample)
    assert abs(float(found) - 7) < 4 * found.stderr
    assert found.stderr < 0.5
    assert effective_degrees(np.ones(5)).status == "constant"
    with pytest.raises(ValueError):
        effective_degrees(np.ones(2))


def test_bad_paths():
    blocks = random_blocks([3, 4, 2])
    e = CanonicalEnsemble(blocks, 1.0)
    with pytest.raises(ValueError, match="two checkpoints"):
        first_law([e])
    with pytest.raises(ValueError, match="two checkpoints"):
        second_law([e])
    with pytest.raises(ValueError, match="different sample sets"):
        first_law([e, CanonicalEnsemble(random_blocks([3, 4, 2], batch=2), 1.0)])
    model, x = sinnet([3, 4, 2], 1.0)
    system = NeuronSystem(model)
    here, there = (CanonicalEnsemble(system.jacobian_blocks(x + s), 1.0) for s in (0, 1))
    with pytest.raises(ValueError, match="different sample sets"):
        first_law([here, there])
    with pytest.raises(ValueError, match="reference or mass"):
        first_law([e, CanonicalEnsemble(blocks, 1.0, -0.5)])
    with pytest.raises(ValueError, match="rule"):
        first_law([e, e.at(2.0)], "simpson")
    w = Septuple(torch.zeros(2, 2), torch.zeros(2), torch.tanh, [], [])
    dense = CanonicalEnsemble(w.jacobian(torch.zeros(1, 2)), 1.0)
    with pytest.raises(ValueError, match="feed-forward"):
        free_energy_gradient(dense)

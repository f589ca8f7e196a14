"""One effective temperature: the instrument on simulated training against mean-field theory."""

import math

import pytest
import torch

from thermolearn.core.estimate import mean_estimate
from thermolearn.measure.noise import effective_temperature
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.schedules import SGD, PersistentSGD
from thermolearn.systems.training.sgd_noise.simulation import dynamics

# arXiv:2112.10852's setting: squared hinge, two clusters, Delta = 1
MODEL = GaussianMixturePerceptron(3.0, 1.0, loss="hinge2")


def virial(run, burn_in, steps):
    """<w.g>/d over the steps, error between replicas (data sets)."""
    generator, state = torch.Generator().manual_seed(5), run.start
    total = torch.zeros(len(state), dtype=torch.float64)
    for t in range(burn_in + steps):
        w = run.position(state)
        state = run.step(state, run.draw(generator), 0.0)
        if t >= burn_in:
            total += (w * (w - run.position(state))).mean(1) / run.rate / steps
    return mean_estimate(total.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "fast_is_hotter"),
    [(SGD(0.1, 0.5), True), (PersistentSGD(0.1, 0.5, 1.0), False)],
)
def test_virial_and_response_as_the_theory_predicts(schedule, fast_is_hotter):
    """d = 200, eight data sets: predicted within 4 standard errors and 3% for finite d."""
    result = MODEL.dmft(schedule, 0.5, 120, 1500, start=(1.0, 0.5), runs=4)
    predicted = result.effective_temperature((60, 120), lag=40)
    run = dynamics(MODEL, 200, schedule, 0.5, replicas=8, start=(1.0, 0.5))
    found = effective_temperature(run, lag=40, origins=6, burn_in=60)
    for name in ("t_fast", "t_glob", "t_slope", "plateau"):
        theory, measured = getattr(predicted, name), getattr(found, name)
        bar = math.hypot(float(theory.stderr), float(measured.stderr))
        assert abs(theory.item() - measured.item()) < 4 * bar + 0.03 * theory.item(), name
    by_virial = virial(run, 60, 240)
    bar = math.hypot(float(by_virial.stderr), float(predicted.t_fast.stderr))
    assert abs(by_virial.item() - predicted.t_fast.item()) < 4 * bar + 0.03 * by_virial.item()
    assert bar < 0.05 * by_virial.item()
    assert (found.t_fast > found.t_glob) is fast_is_hotter

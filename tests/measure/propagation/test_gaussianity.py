"""Distances to Gaussian over initializations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.propagation.gaussian_pair import GaussianPreactivation
from thermolearn.measure.propagation.gaussianity import (
    RandomNetworks,
    ks_distance,
    ks_gaussianity,
)

ONE = torch.ones(1)


def test_the_distance_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for z in (rng.standard_normal(500), rng.random(300) - 0.2, np.round(rng.standard_normal(200))):
        assert ks_distance(z)[0] == pytest.approx(kstest(z, "norm").statistic, abs=1e-12)


def test_the_null_quantiles():
    """Of Gaussian samples about 5 in 100 sets lie above, with the scale known and fitted."""
    rng = np.random.default_rng(1)
    z = rng.standard_normal((2000, 400))
    known = np.array([ks_distance(row)[0] for row in z]) * 20
    fitted = [ks_distance(row / np.sqrt((row**2).mean()))[0] for row in z]
    spread = 4 * (0.05 * 0.95 / 2000) ** 0.5
    # at 400 samples the exact level of the asymptotic quantile is a little below
    assert abs((known > 1.358).mean() - 0.048) < spread
    assert abs((np.array(fitted) * 20 > 1.333).mean() - 0.048) < spread


def networks(name, width, depth=6):
    if name == "pair":
        return RandomNetworks(GaussianPreactivation(2.5), width, depth)
    pairs = {"tanh": ("tanh", 1.46, 0.013), "relu": ("relu", 2.0, 0.0)}
    activation, sigma_w2, sigma_b2 = pairs[name]
    return RandomNetworks(activation, width, depth, sigma_w2, sigma_b2)


def distances(name, width, n, seed=0):
    found = ks_gaussianity(networks(name, width), ONE, n, standardize=True, seed=seed)
    return found, np.asarray(found.distance.value)[1:], np.asarray(found.distance.stderr)[1:]


# Layers 2..6 of 10^5 networks, divided by their standard deviation.
REFERENCE = {
    ("pair", 1): (0.0022, 0.0038, 0.0023, 0.0037, 0.0022),
    ("tanh", 1): (0.064, 0.094, 0.109, 0.112, 0.112),
    ("relu", 1): (0.256, 0.378, 0.439, 0.469, 0.485),
    ("pair", 3): (0.0021, 0.0094, 0.0157, 0.0170, 0.0174),
    ("tanh", 3): (0.019, 0.030, 0.040, 0.042, 0.045),
    ("relu", 3): (0.112, 0.191, 0.252, 0.299, 0.333),
    ("pair", 10): (0.0029, 0.0031, 0.0069, 0.0051, 0.0047),
    ("tanh", 10): (0.006, 0.008, 0.012, 0.013, 0.014),
    ("relu", 10): (0.036, 0.068, 0.094, 0.119, 0.139),
}


def check_reference(name, width, n):
    _, value, stderr = distances(name, width, n)
    expected = np.array(REFERENCE[name, width])
    # a distance of Gaussian samples is .87 / sqrt(n), not 0; both numbers have an error bar
    floor = 0.87 / n**0.5
    assert (np.abs(value - expected) < 4 * np.hypot(stderr, 0.5 / 1e5**0.5) + floor).all(), value


@pytest.mark.parametrize(("name", "width"), [k for k in REFERENCE if k[1] <= 3])
def test_distances_against_depth(name, width):
    check_reference(name, width, 20_000)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), list(REFERENCE))
def test_distances_against_depth_and_width_in_full(name, width):
    check_reference(name, width, 100_000)


def test_at_width_one_the_pair_is_gaussian_at_every_depth():
    found = ks_gaussianity(networks("pair", 1), ONE, 100_000, seed=3)
    assert found.gaussian.all(), found
    assert abs(np.asarray(found.std.value) - 1).max() < 4 * np.asarray(found.std.stderr).max()


def test_at_width_three_a_small_deviation_is_left():
    """Significant from the third layer on, though smaller than that of tanh; none in the second."""
    found = ks_gaussianity(networks("pair", 3), ONE, 100_000, seed=3)
    value = np.asarray(found.distance.value)
    assert value[1] < found.null and value[2] > found.null
    assert 0.02 < value[5] < 0.03
    assert np.asarray(found.std.value)[5] == pytest.approx(0.970, abs=0.01)


def test_a_factory_gives_what_batches_give():
    def factory(generator):
        model = nn.Sequential(
            nn.Linear(1, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)
        ).double()
        for layer, scale in ((model[0], 1.0), (model[2], (2 / 3) ** 0.5)):
            nn.init.normal_(layer.weight, 0, scale, generator=generator)
        return model

    one = ks_gaussianity(factory, ONE, 1500, seed=2)
    assert one.layers == ["0", "2"] and one.n_init == 1500
    many = ks_gaussianity(RandomNetworks("relu", 3, 2, 2.0), ONE, 50_000)
    bar = 4 * np.hypot(one.distance.stderr, many.distance.stderr)
    assert (np.abs(np.asarray(one.distance.value) - many.distance.value) < bar).all()
    assert "1500 networks" in str(one)


def test_convolutions_are_read_at_their_center():
    def factory(generator):
        conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        nn.init.normal_(conv.weight, 0, 1 / 3, generator=generator)
        return conv

    found = ks_gaussianity(factory, torch.ones(1, 1, 5, 5), 400)
    assert found.gaussian.all()


def test_nothing_outside_is_touched():
    state = torch.get_rng_state()

    def factory(generator):
        return nn.Linear(2, 2)  # draws from the global generator; that is put back

    ks_gaussianity(factory, torch.ones(2), 100)
    assert torch.equal(state, torch.get_rng_state())


def test_bad_input():
    nets = networks("pair", 2)
    with pytest.raises(ValueError, match="at least 100"):
        ks_gaussianity(nets, ONE, 99)
    with pytest.raises(ValueError, match="n_init"):
        ks_gaussianity(nets, ONE, 100.0)
    with pytest.raises(ValueError, match="x must be"):
        ks_gaussianity(nets, torch.tensor([float("nan")]), 100)
    with pytest.raises(ValueError, match="one input"):
        ks_gaussianity(nets, torch.ones(3, 2), 100)
    with pytest.raises(TypeError, match="model_factory"):
        ks_gaussianity(nn.Linear(1, 1), ONE, 100)
    with pytest.raises(TypeError, match="return"):
        ks_gaussianity(lambda generator: 3, ONE, 100)
    with pytest.raises(NotApplicableError, match="no Linear"):
        ks_gaussianity(lambda generator: nn.Tanh(), ONE, 100)
    with pytest.raises(ValueError, match="width"):
        RandomNetworks("tanh", 0, 2)
    with pytest.raises(ValueError, match="sigma_w2"):
        RandomNetworks("tanh", 2, 2, 0.0)
    with pytest.raises(ValueError, match="law of the weights"):
        RandomNetworks(GaussianPreactivation(3.0), 2, 2, 2.0)

"""Chains that do not move, do not agree or carry a bias: what the samples say of themselves."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf

from thermolearn.core.errors import SamplerWarning
from thermolearn.systems.training.feature_learning import (
    BayesianFCN,
    Params,
    sample_posterior,
    simulate,
)

data = np.random.default_rng(1)
X = data.normal(size=(40, 8))
Y = erf(X[:, 0])


@pytest.mark.parametrize("seed", [6, 15])
def test_no_chain_of_a_narrow_network_is_left_frozen(seed: int) -> None:
    # with steps of one length in the warm-up one of 16 chains never moved
    found = simulate(Params(channels=10), seed)
    assert {e.status for e in found.values()} == {"ok"}
    assert float(found["train_alpha"].stderr) < 0.01


def test_a_frozen_chain_of_the_simulation_is_flagged() -> None:
    found = simulate(Params(channels=10, chains=8, warm_up=10, draws=5, noise=1e-4), 0)
    assert {e.status for e in found.values()} == {"not mixed"}
    assert "chains accepted less than 5%" in found["train_alpha"].note


def test_a_frozen_chain_of_the_sampler_is_flagged() -> None:
    net = BayesianFCN([20], 8, 1.0, 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        s = sample_posterior(net, X, Y, 0.02, chains=4, draws=50, n_warmup=20, steps=5)
        x, energies = s.x.clone(), s.energies.copy()
        x[:, 2], energies[:, 2] = x[0, 2], energies[0, 2]
        frozen = replace(s, x=x, energies=energies)
        assert frozen.status == "not mixed" and "1 of 4 chains never moved" in frozen.note
        assert frozen.predict(X).status == "not mixed"


def test_chains_far_apart_are_not_mixed_even_if_short() -> None:
    with pytest.warns(SamplerWarning, match="chains disagree"):
        s = sample_posterior(BayesianFCN([1], 8), X, Y, 1e-6, draws=50, n_warmup=20, steps=6)
    assert max(s.rhat.values()) > 2 and s.status == "not mixed"
    for words in ("split R-hat", "warm up longer", "tau_int"):  # that, and too few draws
        assert words in s.note


def test_plain_langevin_steps_always_name_their_bias() -> None:
    few, options = X[:6, :2], {"chains": 8, "draws": 80, "n_warmup": 20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        s = sample_posterior(BayesianFCN([4], 2), few, Y[:6], 0.5, "ula", **options)
        exact = sample_posterior(BayesianFCN([4], 2), few, Y[:6], 0.5, "mala", **options)
    assert s.status == "ok" and "bias of the order of the step" in s.note
    assert "bias of the order of the step" in s.predict(few).note
    assert "bias" not in exact.note

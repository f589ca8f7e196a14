"""Deep networks train on the critical line and not off it: the benchmark's demands, three seeds."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "trainability.py"


@pytest.fixture(scope="module")
def trainability():
    spec = importlib.util.spec_from_file_location("trainability", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["trainability"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["trainability"]


def test_the_batched_network_is_the_network(trainability):
    protocol = trainability.GELU
    models = [trainability.network(protocol, protocol.rows[2], seed)[0] for seed in (0, 1)]
    x = trainability.digits()[0][:5]
    assert x.square().mean(1) == pytest.approx(torch.ones(5), rel=1e-5)
    out = trainability.forward(trainability.stacked(models), x.expand(2, -1, -1), torch.nn.GELU())
    for model, got in zip(models, out, strict=True):
        assert got.detach().numpy() == pytest.approx(model(x).detach().numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TANH", "GELU"])
def test_the_demands_of_the_protocol(trainability, name):
    results = trainability.train(trainability.demanded(getattr(trainability, name)), seeds=3)
    assert len(results) == 3 * len({r["label"] for r in results})
    for r in results:
        assert r["passed"], f"{r['label']}, seed {r['seed']}: {r['test']:.3f}, not {r['wanted']}"
    if name == "GELU":  # the critical point used is the unstable one, and is known to be
        assert {round(r["variance_slope"], 3) for r in results if r["chi"] > 0.99} == {1.067}

"""The recommended learning rate beside a grid: the recorded table, and part of it again."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks" / "learning_rates.py"
    spec = importlib.util.spec_from_file_location("benchmark_learning_rates", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def recomputed(row, regression):
    """Gap and hit from the recorded losses of every seed."""
    pairs = list(zip(row["final"], row["grid_best"], strict=True))
    gap = sum(a / b if regression else a - b for a, b in pairs) / len(pairs)
    return gap, gap <= (1.05 if regression else 0.05)


def test_a_false_hit_is_seen():
    row = {"final": [0.30, 0.20], "grid_best": [0.20, 0.20], "hit": True, "gap": 0.0}
    assert recomputed(row, regression=False) == (pytest.approx(0.05), True)
    assert recomputed(row, regression=True) == (pytest.approx(1.25), False)


def test_the_recorded_table_keeps_its_promise():
    text = (ROOT / "benchmarks" / "results" / "learning_rates.json").read_text(encoding="utf-8")
    found = json.loads(text)
    rows = found["configurations"]
    assert len(rows) == 15
    for row in rows:
        gap, hit = recomputed(row, row["configuration"].startswith("diabetes"))
        assert row["gap"] == pytest.approx(gap, rel=2e-3, abs=1e-5)
        assert row["hit"] == hit
        assert row["cost"] < 1 / 3
    assert found["hits"] == sum(row["hit"] for row in rows) >= 10
    table = (ROOT / "docs" / "learning_rate_table.md").read_text(encoding="utf-8")
    for row in [*rows, *found["held_out"]]:
        (line,) = [part for part in table.splitlines() if f"| {row['configuration']} |" in part]
        assert ("| yes |" in line) == row["hit"]  # misses included
    assert f"{found['hits']} of 15" in table


@pytest.mark.slow
def test_small_data_sets_again(benchmark):
    # one training seed; digits and breast_cancer are the longer ones, left to the benchmark
    outcomes = [
        benchmark.outcome(c, 1) for c in benchmark.configurations(("wine", "diabetes", "iris"))
    ]
    assert all(o.cost < 1 / 3 for o in outcomes)
    assert sum(o.hit for o in outcomes) >= 6, [o.row() for o in outcomes]


@pytest.mark.slow
def test_a_held_out_configuration_again(benchmark):
    found = benchmark.outcome(benchmark.held_out()[1], 1)
    assert found.cost < 1 / 3
    assert found.hit, found.row()

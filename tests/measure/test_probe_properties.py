"""Bad input, and properties that hold for every cadence, batch size and value."""

import json
import math
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from thermolearn.core.estimate import Estimate
from thermolearn.measure.checkpoint import decode, encode
from thermolearn.measure.learning import Learning
from thermolearn.measure.probe import Probe
from thermolearn.measure.reference import check_pair, draw, sha256_of
from thermolearn.measure.run_log import RunLog, check_writable, finite, table

X, Y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
quick = settings(max_examples=30, deadline=None)


def joined(lists):
    return list(chain.from_iterable(lists))


def parts():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1)


def probe_with(**changes):
    model, loss_fn, optimizer = parts()
    arguments = {
        "model": model, "loss_fn": loss_fn, "optimizer": optimizer, "reference": (X, Y),
        "quantities": [Learning()], **changes,
    }  # fmt: skip
    return Probe(**arguments)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": print}, TypeError),
        ({"loss_fn": 3}, TypeError),
        ({"optimizer": 3}, TypeError),
        ({"optimizer": torch.optim.SGD(nn.Linear(3, 2).parameters(), 0.1)}, ValueError),
        ({"every": 0}, ValueError),
        ({"every": 2.5}, TypeError),
        ({"every": True}, TypeError),
        ({"reference_size": 0}, ValueError),
        ({"memory_limit": -1}, ValueError),
        ({"budget": 0}, ValueError),
        ({"budget": 1.5}, ValueError),
        ({"budget": math.nan}, ValueError),
        ({"budget": "much"}, ValueError),
        ({"seed": None}, TypeError),
        ({"energy": "quartic"}, ValueError),
        ({"info": {"data": {1, 2}}}, TypeError),
        ({"info": 3}, TypeError),
        ({"reference": X}, TypeError),
        ({"reference": (X, "y")}, TypeError),
        ({"reference": (X[:0], Y[:0])}, ValueError),
        ({"reference": (X, Y[:5])}, ValueError),
        ({"reference": (X * math.nan, Y)}, ValueError),
        ({"reference": (torch.tensor(1.0), Y)}, ValueError),
        ({"validation": (X, Y[:5])}, ValueError),
        ({"quantities": [3]}, TypeError),
        ({"quantities": [Learning(), Learning()]}, ValueError),
    ],
)
def test_bad_arguments_are_named(changes, error):
    (name,) = changes
    with pytest.raises(error, match=name):
        probe_with(**changes)


def test_unknown_accumulators_are_named():
    class Wrong(Learning):
        accumulators = ("phlogiston",)

    with pytest.raises(ValueError, match="phlogiston"):
        probe_with(quantities=[Wrong()])


def test_a_refused_probe_leaves_no_hooks(tmp_path):
    model, loss_fn, optimizer = parts()
    for changes in ({"every": 0}, {"info": 3}, {"log": tmp_path / "no" / "run.jsonl"}):
        with pytest.raises((TypeError, ValueError, OSError)):
            Probe(model, loss_fn, optimizer, quantities=[Learning()], **changes)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


@quick
@given(every=st.integers(1, 12), steps=st.integers(0, 25), micro=st.integers(1, 3))
def test_snapshots_lie_on_the_cadence_and_every_loss_is_logged_once(every, steps, micro):
    model, loss_fn, optimizer = parts()
    probe = Probe(model, loss_fn, optimizer, (X, Y), every, quantities=[Learning()])
    for k in range(steps * micro):
        loss = loss_fn(model(X), Y)
        loss.backward()
        if (k + 1) % micro == 0:
            optimizer.step()
            optimizer.zero_grad()
        probe.step(X, Y, loss)
    probe.flush()
    found = [r["step"] for r in probe.rows if r["kind"] == "snapshot"]
    assert found == sorted({*range(0, steps + 1, every), steps})
    logged = joined(r["step"] for r in probe.rows if r["kind"] == "losses")
    assert logged == [k // micro + 1 for k in range(steps * micro)]
    probe.close()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@quick
@given(item=plain)
def test_checkpoint_round_trip(item):
    assert decode(encode(item)) == item


def test_checkpoint_of_arrays_and_estimates(tmp_path):
    item = {
        ("a", 1): np.arange(6.0).reshape(2, 3),
        "e": Estimate(np.array([1.0, np.nan]), 0.5, 3.0, "odd", "note"),
        "t": torch.ones(2, requires_grad=True),
        "n": np.float64(2.5),
    }
    torch.save(encode(item), tmp_path / "x.pt")
    back = decode(torch.load(tmp_path / "x.pt", weights_only=True))
    assert back["n"] == 2.5 and torch.equal(back["t"], item["t"].detach())
    np.testing.assert_array_equal(back["a", 1], item["a", 1])
    np.testing.assert_array_equal(back["e"].value, item["e"].value)
    assert (back["e"].status, back["e"].n_eff, back["e"].note) == ("odd", 3.0, "note")
    with pytest.raises(TypeError, match="object cannot be kept"):
        encode([object()])


@quick
@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_rows_are_strict_json(value):
    row = finite({"kind": "x", "a": [value, {"b": Estimate(value)}], "t": (1, value)})
    again = json.loads(json.dumps(row, allow_nan=False))
    assert again == row
    assert (again["a"][0] is None) == (not math.isfinite(value))


@settings(quick, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=st.lists(st.sampled_from(["losses", "cost", "flag", "summary"]), max_size=12))
def test_the_file_always_holds_the_rows(tmp_path, kinds):
    path = tmp_path / "run.jsonl"
    path.unlink(missing_ok=True)
    log = RunLog(path)
    assert not path.exists()
    for k, kind in enumerate(kinds):
        log.append({"kind": kind, "quantity": "q", "text": str(k), "n": k})
        assert [json.loads(line) for line in path.read_text().splitlines()] == log.rows
    for kind in ("cost", "summary"):
        assert sum(r["kind"] == kind for r in log.rows) == (kind in kinds)
        if kind in kinds:  # the newest
            last = len(kinds) - 1 - kinds[::-1].index(kind)
            assert [r["n"] for r in log.rows if r["kind"] == kind] == [last]
    assert not list(tmp_path.glob("*.partial"))


def test_check_writable_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "new.html")
    assert list(tmp_path.iterdir()) == []
    kept = tmp_path / "kept.html"
    kept.write_text("x")
    check_writable(kept)
    assert kept.read_text() == "x"
    with pytest.raises(NotADirectoryError, match="existing folder"):
        check_writable(kept / "below.html")


@quick
@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_draw(n, size, seed):
    x, y = torch.arange(n), torch.arange(n) * 2
    before = torch.get_rng_state()
    a, b = draw((x, y), size, seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(a) == min(n, size) and torch.equal(b, 2 * a)
    assert a.tolist() == sorted(set(a.tolist()))
    assert sha256_of((a, b)) == sha256_of(draw((x, y), size, seed))
    assert a.data_ptr() != x.data_ptr()


def test_hash_sees_type_shape_and_order():
    x = torch.arange(6.0)
    pairs = [(x, x), (x.double(), x), (x.reshape(2, 3), x), (x.flip(0), x), (x, x.flip(0))]
    assert len({sha256_of(p) for p in pairs}) == len(pairs)


def test_arrays_and_lists_are_taken_as_tensors():
    x, y = check_pair("reference", (np.ones((3, 2)), [0, 1, 0]))
    assert x.dtype == torch.float64 and y.tolist() == [0, 1, 0]


def test_table_of_odd_rows():
    rows = [
        {"kind": "snapshot", "step": 0, "quantity": "q", "values": {"a": {"value": None}}},
        {"kind": "unknown"},
        {"kind": "flag", "step": 3, "text": "something"},
    ]
    assert "something" in table(rows) and "nan" in table(rows)

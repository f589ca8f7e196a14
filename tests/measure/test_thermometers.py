"""The table of temperatures on runs whose temperature is known exactly."""

import math

import pytest
import torch
from torch import nn

from thermolearn import Estimate, Probe
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.noise import (
    GradientNoise,
    Langevin,
    OnlineLeastSquares,
    Virial,
    effective_temperature,
)
from thermolearn.measure.thermometers import (
    BOOKKEEPING,
    NOISE,
    STATE,
    Thermometers,
    agreement,
    thermometers,
)

EXACT = OnlineLeastSquares(dimension=20, batch_size=4, learning_rate=0.05)


def squared(output, target):
    return 0.5 * (output - target).square().sum(1).mean()


def online_run(steps=8000, every=10, seed=0, optimizer=None, start=0.0):
    """SGD on fresh samples of y = N(0, 1), x ~ N(0, 1): OnlineLeastSquares as a real run."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(20, 1, bias=False)
    nn.init.constant_(model.weight, start)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=EXACT.learning_rate)
    else:
        optimizer = optimizer(model.parameters())
    x, y = torch.randn(256, 20, generator=generator), torch.randn(256, 1, generator=generator)
    quantities = [GradientNoise(), Virial(), Thermometers()]
    probe = Probe(model, squared, optimizer, (x, y), every, quantities=quantities)
    for _ in range(steps):
        xb, yb = torch.randn(4, 20, generator=generator), torch.randn(4, 1, generator=generator)
        optimizer.zero_grad()
        loss = squared(model(xb), yb)
        loss.backward()
        optimizer.step()
        probe.step(xb, yb, loss)
    probe.flush()
    return probe.rows


@pytest.fixture(scope="module")
def rows():
    return online_run()


def by_key(readings):
    return {r.key: r for r in readings}


def test_online_least_squares_is_read_by_every_thermometer_of_the_noise(rows):
    found = by_key(thermometers(rows))
    assert set(found) == {"virial", "virial_updates", "leading_order"}
    for key in ("virial", "virial_updates"):
        value = found[key].value
        assert value.status == "ok"
        assert abs(float(value) - EXACT.temperature) < 4 * float(value.stderr)
        assert float(value.stderr) < 0.12 * EXACT.temperature
    # to leading order in lr: tr Sigma/d = s2 + (d + 1) T, and 1/(1 - lr/2) is missing
    d, rate = EXACT.dimension, EXACT.learning_rate
    leading = rate / (2 * EXACT.batch_size) * (1 + (d + 1) * EXACT.temperature)
    value = found["leading_order"].value
    assert abs(float(value) - leading) < 4 * float(value.stderr)
    assert float(value.stderr) < 0.15 * leading  # 256 reference samples


def test_response_gives_the_same_temperature():
    response = effective_temperature(EXACT.dynamics(100), lag=60, origins=10)
    found = by_key(thermometers([], response))
    fast = found["t_fast"].value
    assert abs(float(fast) - EXACT.temperature) < 4 * float(fast.stderr)
    assert all(r.kind == NOISE for r in found.values())


def test_langevin_has_one_temperature_on_all_lags():
    langevin = Langevin(temperature=0.3, curvature=1.5, learning_rate=0.1)
    response = effective_temperature(langevin.dynamics(200, 50), lag=40, origins=10)
    for key in ("t_fast", "t_slope", "t_glob"):
        value = by_key(thermometers([], response))[key].value
        assert value.status == "ok"
        assert abs(float(value) - 0.3 / (1 - 0.075)) < 4 * float(value.stderr)


def test_the_summary_says_that_they_agree(rows):
    summary = next(r for r in rows if r["kind"] == "summary" and r["quantity"] == "temperatures")
    table = summary["tables"]["temperatures"]
    assert [r[0] for r in table["rows"]][:2] == [
        "virial, from the gradient", "virial, from the updates",
    ]  # fmt: skip
    updates, noise = summary["notes"][:2]
    assert updates.startswith("Virial, from the updates agrees with the virial temperature")
    assert float(updates.split("above ")[1].split("%")[0]) < 1  # what is common cancels
    # 256 reference samples resolve no difference of 50%, and it is said
    assert "cannot be told" in noise and 50 < float(noise.split("below ")[1].split("%")[0]) < 100
    virial = by_key(thermometers(rows))["virial"]
    assert float(virial.value.stderr) < 0.06 * float(virial.value)
    assert virial.taken == "steps 2680 to 8000"


def test_a_drifting_run_has_no_temperature():
    rows = online_run(
        steps=600, every=25, start=3.0, optimizer=lambda p: torch.optim.SGD(p, lr=1e-3)
    )
    readings = thermometers(rows)
    assert by_key(readings)["virial"].value.status == "not stationary"
    assert "drift" in agreement(readings)[0]


def test_adam_has_no_temperature():
    rows = online_run(steps=600, every=25, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    readings = thermometers(rows)
    virial = by_key(readings)["virial"].value
    assert math.isnan(float(virial)) and virial.status == "not applicable"
    assert "not SGD" in agreement(readings)[0]


def reading_rows(**values):
    places = {"virial": "temperature", "virial_updates": "temperature_from_updates"}
    row = {places[k]: e.to_dict() for k, e in values.items()}
    return [{"kind": "summary", "quantity": "virial", "values": row}]


def test_a_disagreement_is_seen():
    rows = reading_rows(virial=Estimate(1.0, 0.01), virial_updates=Estimate(1.1, 0.01))
    assert "differs from" in agreement(thermometers(rows))[0]
    rows = reading_rows(virial=Estimate(1.0, 0.01), virial_updates=Estimate(1.02, 0.01))
    assert "agrees with" in agreement(thermometers(rows))[0]
    rows = reading_rows(virial=Estimate(1.0, 0.2), virial_updates=Estimate(1.02, 0.2))
    (said,) = agreement(thermometers(rows))
    assert "cannot be told" in said and "160% would not have been seen" in said
    rows = reading_rows(virial=Estimate(1.0, 0.2), virial_updates=Estimate(9.0, 0.2))
    assert "differs from" in agreement(thermometers(rows))[0]
    rows = reading_rows(virial=Estimate(1.0, 0.01), virial_updates=Estimate(1.0, math.nan))
    assert "without an error bar" in agreement(thermometers(rows))[0]


@pytest.mark.parametrize(
    ("status", "words"), [("under-sampled", "too short to tell"), ("cycle", "without noise")]
)
def test_why_there_is_no_temperature_to_compare(status, words):
    rows = reading_rows(virial=Estimate(1.0, 0.1, status=status))
    assert words in agreement(thermometers(rows))[0]
    assert thermometers(rows)[0].taken == "last part of the run"


def test_kinds_are_not_compared():
    values = {"temperature": Estimate(2.0, 0.1).to_dict()}
    rows = [
        {"kind": "snapshot", "quantity": "canonical", "step": 0, "values": values},
        {
            "kind": "summary",
            "quantity": "heat",
            "values": {"global_temperature": Estimate(5.0, 0.1).to_dict()},
        },
    ]
    readings = thermometers(rows)
    assert [r.kind for r in readings] == [STATE, BOOKKEEPING]
    assert agreement(readings) == ["No temperature of the noise was measured."]
    assert thermometers([]) == []


def test_a_run_without_any_temperature_is_not_applicable():
    class Empty:
        rows = ()

    with pytest.raises(NotApplicableError, match="no quantity"):
        Thermometers().summarize(Empty())

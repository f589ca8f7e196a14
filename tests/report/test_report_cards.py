"""Each card on both sides of its thresholds, and the sentence made from them."""

import math

import numpy as np
import pytest
from make_rows import _row, est, full, header, only_header, transformer

from thermolearn.report import cards
from thermolearn.report.evidence import T99, Z99, trend, z99, z_score
from thermolearn.report.reader import view
from thermolearn.report.verdict import verdict

Z95_OF_3 = 2.7131  # one-sided 99%/3, from tables


def snapshots(quantity, values, names=None):
    """A run with one snapshot of `quantity` per dict, a hundred steps apart."""
    rest = {"names": names} if names else {}
    return view([header(), *(_row(100 * k, quantity, v, **rest) for k, v in enumerate(values))])


def losses(values):
    steps = list(range(1, len(values) + 1))
    row = {"kind": "losses", "step": steps, "value": list(values), "samples": [1] * len(steps)}
    return view([header(), row])


def reference(*pairs):
    return snapshots("learning", [{"reference_loss": est(*p)} for p in pairs])


def test_quantiles():
    assert z99() == pytest.approx(Z99, abs=1e-3)
    assert z99(3) == pytest.approx(Z95_OF_3, abs=1e-3)
    assert z_score(1, 0) == math.inf
    assert z_score(1, math.nan) == 0
    from scipy import stats

    assert pytest.approx(stats.norm.ppf(0.99), abs=1e-3) == Z99
    assert pytest.approx(stats.t.ppf(0.99, 8), abs=1e-3) == T99


# hypot(.03, .04) = .05, so that 2.326 standard errors are .1163
@pytest.mark.parametrize(
    ("last", "status"),
    [
        (0.8836, "good"),
        (0.8838, "unknown"),
        (1.0662, "unknown"),
        (1.0664, "warn"),
        (1.1162, "warn"),
        (1.1164, "bad"),
    ],
)
def test_learning_needs_a_significant_change(last, status):
    assert cards.learning(reference((1.0, 0.03), (last, 0.04))).status == status


def test_learning_by_less_than_five_percent_for_sure():
    assert cards.learning(reference((1.0, 0.003), (0.97, 0.004))).status == "warn"
    assert cards.learning(reference((1.0, 0.003), (0.93, 0.004))).status == "good"


def test_learning_then_rising_again():
    high = 0.5 + 0.05 * Z95_OF_3
    for last, status in ((high - 0.001, "good"), (high + 0.001, "warn")):
        run = reference((2.0, 0.03), (0.5, 0.03), (last, 0.04))
        assert cards.learning(run).status == status


def test_learning_with_a_loss_that_is_not_a_number():
    card = cards.learning(losses([1.0, 0.5, None, None]))
    assert card.status == "bad"
    assert "step 3" in card.number
    assert cards.learning(losses([None, None])).number == "since step 1"
    assert cards.learning(losses([1.0, None, 0.5])).status == "unknown"


def test_learning_without_error_bars_cannot_tell():
    assert cards.learning(reference((1.0, None), (0.1, 0.1))).status == "unknown"
    assert cards.learning(reference((1.0, 0.1))).status == "unknown"
    run = snapshots("learning", [{"boundary_loss": est(v, 0.01)} for v in (1.0, 0.5)])
    assert cards.learning(run).status == "good"


def line(change, noise, n=400):
    """Losses flat for three quarters, then a line with block noise of alternating sign."""
    quarter = n // 4
    tail = 1 + change * (np.arange(quarter) / (quarter - 1) - 0.5)
    tail += noise * np.where((np.arange(quarter) // (quarter // 10)) % 2, 1, -1)
    return losses([*np.ones(n - quarter), *tail])


def test_trend_is_the_least_squares_line():
    x = np.arange(100.0)
    change, error = trend(x, 2 + 0.01 * x)
    assert change == pytest.approx(0.99 / (2 + 0.01 * 49.5), rel=1e-12)
    assert error == pytest.approx(0, abs=1e-9)
    rng = np.random.default_rng(0)
    found = np.array([trend(x, 1 + 0.1 * rng.normal(size=100)) for _ in range(2000)])
    z = found[:, 0] / found[:, 1]
    share = (z > T99).mean()
    assert abs(share - 0.01) < 4 * math.sqrt(0.01 / 2000)
    assert trend(x[:19], x[:19]) is None


@pytest.mark.parametrize(
    ("change", "noise", "status"),
    [
        (-0.10, 0.001, "warn"),
        (0.10, 0.001, "bad"),
        (-0.019, 0.0, "good"),
        (0.019, 0.0, "good"),
        (-0.021, 0.0, "warn"),
        (0.021, 0.0, "bad"),
        (0.0, 0.001, "good"),
        (0.0, 0.1, "unknown"),
    ],
)
def test_moving(change, noise, status):
    assert cards.moving(line(change, noise)).status == status


def test_moving_needs_eighty_losses():
    assert cards.moving(losses(np.linspace(2, 1, 79))).status == "unknown"
    assert cards.moving(losses(np.linspace(2, 1, 80))).status == "warn"


def noise(**values):
    """Sharpness and its edge are recorded under "curvature", the noise under "gradient_noise"."""
    curved = {"stability_edge": est(40.0)}
    if "sharpness" in values:
        curved["sharpness"] = values.pop("sharpness")
    rows = [
        _row(0, "gradient_noise", {"batch_size": est(10.0), **values}),
        _row(0, "curvature", curved),
    ]
    return view([header(), *rows])


def test_older_files_hold_the_sharpness_beside_the_noise():
    values = {"batch_size": est(10.0), "stability_edge": est(40.0), "sharpness": est(90.0, 1.0)}
    assert cards.noise_or_curvature(snapshots("gradient_noise", [values])).status == "bad"


@pytest.mark.parametrize(
    ("sharpness", "status"),
    [(37.6, "good"), (37.7, "unknown"), (42.3, "unknown"), (42.4, "warn"), (82.4, "bad")],
)
def test_curvature(sharpness, status):
    quiet = est(10.0, 0.1)
    run = noise(sharpness=est(sharpness, 1.0), noise_scale=quiet)
    assert cards.noise_or_curvature(run).status == status


def test_one_of_the_two_is_not_enough_to_say_neither():
    for values in ({"sharpness": est(1.0, 0.1)}, {"noise_scale": est(10.0, 0.1)}):
        card = cards.noise_or_curvature(noise(**values))
        assert card.status == "unknown" and "has no number" in card.why


@pytest.mark.parametrize(
    ("scale", "status"), [(76.7, "good"), (76.8, "unknown"), (123.2, "unknown"), (123.3, "warn")]
)
def test_noise(scale, status):
    run = noise(noise_scale=est(scale, 10.0), sharpness=est(1.0, 0.1))
    card = cards.noise_or_curvature(run)
    assert card.status == status
    assert card.answer == {"warn": "Noise-limited", "good": "Neither limits it"}.get(
        status, "Cannot tell"
    )


def test_noise_when_the_gradient_is_not_resolved():
    """|g|^2 = 0(1), tr = 300(10): noise scale above 276.74/2.326 = 119 samples, 11.9 batches."""
    values = {"gradient_norm_squared": est(0.0, 1.0), "noise_trace": est(300.0, 10.0)}
    scale = est(None, None, status="under-sampled")
    card = cards.noise_or_curvature(noise(noise_scale=scale, **values))
    assert (card.status, card.number) == ("warn", "> 12 \u00d7 batch")
    values["noise_trace"] = est(200.0, 10.0)
    assert cards.noise_or_curvature(noise(noise_scale=scale, **values)).status == "unknown"


def test_curvature_that_did_not_converge_is_not_used():
    run = noise(sharpness=est(400.0, 1.0, status="not converged"))
    assert cards.noise_or_curvature(run).status == "unknown"
    assert cards.noise_or_curvature(view(only_header())).status == "unknown"


def layer_run(**values):
    return snapshots("layers", [values], names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("share", "status"),
    [(0.0728, "good"), (0.0730, "unknown"), (0.127, "unknown"), (0.1272, "warn"), (0.528, "bad")],
)
def test_dead_layers_over_three_layers(share, status):
    run = layer_run(dead_fraction=est([0.0, share, 0.01], 0.01))
    card = cards.layers(run)
    assert card.status == status
    assert status == "good" or "b" in card.why


def test_saturated_layers():
    assert cards.layers(layer_run(saturated_fraction=est([0.51, 0, 0], 0.0))).status == "warn"
    assert cards.layers(layer_run(saturated_fraction=est([0.91, 0, 0], 0.0))).status == "bad"


def test_no_red_without_an_error_bar():
    assert cards.layers(layer_run(dead_fraction=est([0.9, 0.0, 0.0], None))).status == "unknown"


def test_a_layer_that_stands_still():
    dead = est([0.0, 0.0, None])
    run = layer_run(dead_fraction=dead, update_ratio=est([0.1, 0.0, 0.1]))
    assert cards.layers(run).status == "warn"
    assert "b" in cards.layers(run).advice
    run = layer_run(dead_fraction=dead, update_ratio=est([0.0, 0.0, 0.0]))
    assert cards.layers(run).status == "bad"
    assert "nothing moves" in cards.layers(run).answer
    assert cards.layers(layer_run(dead_fraction=est([None] * 3, None))).status == "unknown"


def gap(*pairs, errors=(0.03, 0.04)):
    return snapshots(
        "learning",
        [
            {"reference_loss": est(r, errors[0]), "validation_loss": est(v, errors[1])}
            for r, v in pairs
        ],
    )


# share = 1 - r, error = hypot(.04 r, .03) at v = 1
@pytest.mark.parametrize(
    ("r", "status"), [(0.4195, "warn"), (0.4205, "unknown"), (0.588, "unknown"), (0.59, "good")]
)
def test_gap_share(r, status):
    assert cards.data_or_model(gap((2.0, 2.0), (r, 1.0))).status == status


def test_overfitting():
    """0.4 -> v: significant above 0.4 + 2.713 * .04 * sqrt 2 = 0.5535."""
    for v, status in ((0.553, "unknown"), (0.554, "bad")):
        run = gap((2.0, 2.0), (0.3, 0.4), (0.26, v))
        assert cards.data_or_model(run).status == status
    assert cards.data_or_model(gap((0.1, 2.0), (0.3, 0.4), (0.26, 0.6))).status != "bad"


def test_without_validation():
    assert cards.data_or_model(reference((1.0, 0.1))).status == "unknown"
    assert "validation=(x, y)" in cards.data_or_model(view(only_header())).why


# -- the sentence -----------------------------------------------------------------------------
def test_verdicts():
    sentence = verdict(cards.all_cards(view(full()))).sentence
    assert sentence.startswith("Trains normally. One thing to change: let the learning rate decay")
    empty = verdict(cards.all_cards(view([])))
    assert empty.status == "unknown"
    assert empty.sentence.startswith("Nothing to change; could not be told: whether it learns")
    assert "trains normally" not in empty.sentence.lower()
    broken = verdict(cards.all_cards(losses([1.0] * 90 + [None])))
    assert broken.status == "bad"
    assert broken.sentence.startswith("It does not train. Change first: lower the learning rate")
    assert verdict(cards.all_cards(view(transformer()))).status == "warn"


def test_verdict_when_all_is_well():
    keys = ("learning", "moving", "noise", "layers", "data")
    well = [cards.Card(k, "?", "good", "a", "n", "w") for k in keys]
    assert verdict(well).sentence == "Trains normally. Nothing to change."
    well[1] = cards.Card("moving", "?", "unknown", "a", "n", "w")
    assert verdict(well).sentence == (
        "Trains normally. Nothing to change; could not be told: whether it still moves."
    )
    well[1] = cards.Card("moving", "?", "bad", "a", "n", "w", "stop")
    assert verdict(well).sentence == "The loss is rising. Change first: stop."
    well[0] = cards.Card("learning", "?", "warn", "a", "n", "w", "look")
    well[1] = cards.Card("moving", "?", "good", "a", "n", "w")
    assert verdict(well).sentence == "Does not train as it should. Change first: look."


def test_old_snapshots_do_not_speak_for_the_end_of_the_run():
    rows = [r for r in full() if r["kind"] != "snapshot" or r["step"] <= 50]
    by_key = {c.key: c for c in cards.all_cards(view(rows))}
    for key in ("learning", "layers", "noise", "data"):
        assert by_key[key].status == "unknown" and "went on to step" in by_key[key].why


def propagation(mean, stderr=0.05, layers=20):
    gain = est([0.5] * layers + [None], [0.01] * (layers + 1))
    return {"mean_log_gain": est(mean, stderr), "gradient_gain": gain}


def hardly_learning(*more):
    flat = [
        _row(100 * k, "learning", {"reference_loss": est(v, 0.001)})
        for k, v in enumerate((1.0, 0.999))
    ]
    return view([header(), *flat, *more])


# 20 layers: ln(1e4) = 9.2 in all, with 2.326 standard errors of 1.0 on top
@pytest.mark.parametrize(
    ("mean", "lost"), [(-0.58, True), (-0.57, False), (0.58, True), (-0.1, False)]
)
def test_a_gradient_that_is_lost_asks_for_another_initialization(mean, lost):
    card = cards.learning(hardly_learning(_row(0, "propagation", propagation(mean))))
    assert card.status == "warn"
    assert ("initialize" in card.advice) is lost
    assert ("squared gradient" in card.why) is lost


def test_the_initialization_is_judged_at_the_first_snapshot():
    rows = [_row(k, "propagation", propagation(m)) for k, m in ((0, -0.1), (10, -2.0))]
    assert "initialize" not in cards.learning(hardly_learning(*rows)).advice
    assert "initialize" not in cards.learning(hardly_learning()).advice


def settled(**virial):
    steps = list(range(1, 401))
    losses = {"kind": "losses", "step": steps, "value": [1.0] * 400, "samples": [1] * 400}
    summary = {"kind": "summary", "quantity": "virial", "values": virial}
    return view([header(), losses, *([summary] if virial else [])])


@pytest.mark.parametrize(
    ("drift", "words"),
    [(0.41, "grows over"), (-0.41, "shrinks over"), (0.39, "No drift"), (None, "")],
)
def test_the_drift_of_the_parameters_is_said_beside_that_of_the_loss(drift, words):
    values = {} if drift is None else {
        "drift": est(drift, 0.1), "steps": est(300.0), "half_rate_update_squared": est(2.0, 0.1),
        "smallest_drift_seen": est(0.2),
    }  # fmt: skip
    card = cards.moving(settled(**values))
    assert card.status == "good"  # it decides nothing
    assert words in card.why
    assert ("parameters" in card.why) is bool(words)


def test_a_run_of_a_few_steps_is_not_said_not_to_learn():
    rows = [
        _row(k, "learning", {"reference_loss": est(v, 0.01)}) for k, v in ((0, 1.0), (49, 0.999))
    ]
    card = cards.learning(view([header(), *rows]))
    assert card.status == "unknown" and "49 steps only" in card.why
    rows[1] = _row(50, "learning", {"reference_loss": est(0.999, 0.01)})
    assert cards.learning(view([header(), *rows])).status == "warn"

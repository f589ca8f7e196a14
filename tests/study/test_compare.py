"""compare: its verdict is right as often as it says, and never kinder than the numbers."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from thermolearn.core.estimate import Estimate
from thermolearn.study.compare import Comparison, compare, judge
from thermolearn.study.observable import judge_observable, threshold
from thermolearn.study.seeds import run_seeds


def sampled(values, status="ok"):
    return [Estimate(v, status=status) for v in values]


# -- statistics ----------------------------------------------------------------------------------
def test_threshold_is_student_t_at_the_probability_of_four_sigma():
    p = 2 * stats.norm.sf(4)
    assert p == pytest.approx(6.334e-5, rel=1e-3)
    for n in (2, 4, 24, 1000):
        assert 2 * stats.t.sf(threshold(n), n - 1) == pytest.approx(p, rel=1e-9)
    assert threshold(24) == pytest.approx(4.877, abs=0.001)
    assert threshold(10**6) == pytest.approx(4, abs=1e-4)
    # Sidak: k independent elements together are above it with the same probability
    each = 2 * stats.t.sf(threshold(24, 50), 23)
    assert 1 - (1 - each) ** 50 == pytest.approx(p, rel=1e-6)


def test_a_true_theory_is_rejected_as_often_as_stated(monkeypatch):
    # at 1.5 sigma instead of 4, lest ten million runs be needed; few seeds, so that t matters
    monkeypatch.setattr("thermolearn.study.observable.SIGMAS", 1.5)
    threshold.cache_clear()
    stated = 2 * stats.norm.sf(1.5)
    generator = np.random.default_rng(0)
    runs = 3000
    for shape in ((), (7,)):
        draws = generator.normal(2.0, 0.3, size=(runs, 4, *shape))
        rejected = sum(
            judge_observable("x", Estimate(np.full(shape, 2.0)), sampled(draw)).verdict
            == "DISAGREES"
            for draw in draws
        )
        assert abs(rejected / runs - stated) < 4 * math.sqrt(stated * (1 - stated) / runs)
    threshold.cache_clear()


def test_a_wrong_theory_is_caught_at_detectable():
    # by half of the repetitions if it is wrong by `detectable`, by nearly all at twice that
    generator = np.random.default_rng(1)
    n, sigma, allowance, runs = 24, 1.0, 0.7, 400
    at_once = threshold(n) * sigma / math.sqrt(n) + allowance
    for factor, low, high in ((0.5, 0.0, 0.02), (1.0, 0.4, 0.6), (2.0, 0.99, 1.0)):
        rows = [
            judge_observable(
                "x", Estimate(0.0), sampled(generator.normal(factor * at_once, sigma, n)), allowance
            )
            for _ in range(runs)
        ]
        assert low <= np.mean([row.verdict == "DISAGREES" for row in rows]) <= high
        assert np.mean([row.detectable for row in rows]) == pytest.approx(at_once, rel=0.02)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_verdict_turns_exactly_at_detectable(sign):
    values = np.random.default_rng(2).normal(5, 0.4, 10)
    for error in (0.0, 0.15):
        row = judge_observable("x", Estimate(5.0, error), sampled(values), 0.1)
        for factor, verdict in ((0.999, "agrees"), (1.001, "DISAGREES")):
            shifted = Estimate(values.mean() + sign * factor * row.detectable, error)
            assert judge_observable("x", shifted, sampled(values), 0.1).verdict == verdict


def test_the_numbers_of_a_row():
    values = np.array([1.0, 2.0, 3.0, 6.0])
    row = judge_observable("x", Estimate(2.0, 0.5), sampled(values), 0.25)
    stderr = values.std(ddof=1) / 2
    both = math.hypot(stderr, 0.5)
    assert (row.simulation, row.stderr, row.theory_stderr) == (3.0, pytest.approx(stderr), 0.5)
    assert row.z == pytest.approx(1 / both)
    assert row.detectable == pytest.approx(threshold(4) * both + 0.25)


def test_an_array_is_judged_by_its_worst_element():
    generator = np.random.default_rng(3)
    values = generator.normal(0, [1, 1, 1, 0.01], size=(30, 4))
    theory = np.zeros(4)
    row = judge_observable("x", Estimate(theory), sampled(values), scale=10.0)
    assert row.verdict == "agrees"
    # the largest of what could go unseen, not that of the element that fits worst
    assert row.detectable == pytest.approx(
        threshold(30, 4) * values.std(0, ddof=1).max() / math.sqrt(30)
    )
    theory[3] = 0.05
    row = judge_observable("x", Estimate(theory), sampled(values), axis="layer")
    assert (row.verdict, row.element, row.elements) == ("DISAGREES", (3,), 4)
    assert row.label == "x[layer 3]"
    grid = judge_observable("x", Estimate(theory.reshape(2, 2)), sampled(values.reshape(-1, 2, 2)))
    assert (grid.element, grid.z) == ((1, 1), row.z)


def test_the_point_on_the_axis_is_named():
    values = np.random.default_rng(3).normal(1.0, 0.1, (30, 3))
    theory = Estimate(np.array([1.0, 1.0, 2.0]))
    row = judge_observable("x", theory, sampled(values), axis="lag", points=(0.5, 1.0, 3.0))
    assert (row.element, row.point, row.label) == ((2,), 3.0, "x[lag 3]")
    assert judge_observable("x", theory, sampled(values), axis="lag").label == "x[lag 2]"
    with pytest.raises(ValueError, match=r"x of shape .3,. has 2 points"):
        judge_observable("x", theory, sampled(values), points=(0.5, 1.0))


def test_agreement_that_stands_on_the_allowance_is_said(coin, monkeypatch):
    text = "within the allowance for finite size"
    assert text not in str(compare("coin", seeds=8))
    values = np.random.default_rng(3).normal(1.0, 0.01, 30)
    row = judge_observable("x", Estimate(1.05), sampled(values), 0.1)
    assert row.verdict == "agrees" and row.by_allowance and abs(row.z) > row.threshold
    assert not judge_observable("x", Estimate(1.0), sampled(values), 0.1).by_allowance
    result = dataclasses.replace(compare("coin", seeds=8), rows=(row,))
    lines = str(result).splitlines()
    assert lines[-2:] == [f"x: {text}; |z| alone is too large", "Theory and simulation agree."]


# -- what cannot be told -------------------------------------------------------------------------
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("theory", "samples", "reason"),
    [
        (
            Estimate(0.5),
            sampled([0.96, 0.98]),
            "2 seeds need 1.01e.04 standard errors; .* at least 7",
        ),
        (Estimate(0.97), sampled([0.96, 0.97, 0.98, 0.97, 0.97, 0.96]), "6 seeds need 12.3"),
        (Estimate(0.0, 1e6), "5 +- 0.1", "the error of the theory is too large"),
        (Estimate(0.5), "0.9 +- 5", "about .* seeds are needed"),
        (Estimate(0.5), [Estimate(0.9, 10.0)] * 24, "seeds are needed"),
        (Estimate(0.0), "0 +- 0.01", "or a scale in ABOUT"),
        (
            Estimate(np.zeros(3)),
            sampled(np.zeros((24, 3)) + np.arange(24)[:, None] - 11.5),
            "scale",
        ),
        (Estimate(0.5), sampled([0.5]), "one seed has no error bar"),
        (Estimate(0.02), sampled([0.0] * 24), "no spread between seeds"),
    ],
)
def test_what_could_not_have_been_seen_is_not_agreement(theory, samples, reason):
    if isinstance(samples, str):
        center, sigma = map(float, samples.split(" +- "))
        samples = sampled(np.random.default_rng(0).normal(center, sigma, 24))
    row = judge_observable("m", theory, samples)
    assert row.verdict == "cannot tell"
    assert re.search(reason, row.note), row.note


def test_a_large_allowance_is_no_agreement():
    values = sampled(np.random.default_rng(0).normal(0.9, 0.01, 24))
    row = judge_observable("m", Estimate(0.5), values, 0.6)
    assert row.verdict == "cannot tell" and "allowance is too large" in row.note
    for allowance in (math.inf, math.nan, -0.1):
        with pytest.raises(ValueError, match="allowance of m must be finite"):
            judge_observable("m", Estimate(0.5), values, allowance)


def test_half_of_the_scale_is_the_limit():
    values = np.random.default_rng(1).normal(0.0, 1.0, 24)
    unseen = judge_observable("m", Estimate(0.0), sampled(values)).detectable
    for factor, verdict in ((1.99, "cannot tell"), (2.01, "agrees")):
        row = judge_observable("m", Estimate(0.0), sampled(values), scale=factor * unseen)
        assert row.verdict == verdict


def test_without_spread_only_an_exact_number_disagrees():
    assert judge_observable("x", Estimate(0.3), sampled([0.1 + 0.2] * 9)).verdict == "agrees"
    rounding = 0.31 * (1 + 2e-15 * (np.arange(9) % 3 - 1))
    for values in ([0.31] * 9, rounding):
        row = judge_observable("x", Estimate(0.3), sampled(values))
        assert row.verdict == "cannot tell" and "no spread between seeds" in row.note
        assert row.detectable == math.inf
        row = judge_observable("x", Estimate(0.3), sampled(values), exact=True)
        assert (row.verdict, row.z, row.note) == ("DISAGREES", math.inf, "no spread between seeds")
        assert judge_observable("x", Estimate(0.3), sampled(values), 0.02).verdict == "agrees"
    few = judge_observable("x", Estimate(0.3), sampled([0.3, 0.3]), exact=True)
    assert few.verdict == "agrees"
    # the error bar of the seeds themselves, where they have one
    known = [Estimate(0.31, 0.01)] * 4
    assert judge_observable("x", Estimate(0.3), known).z == pytest.approx(2)
    # an array with a bin that is always empty is judged by the others
    bins = np.random.default_rng(0).normal([1.0, 0.0], [0.1, 0.0], (24, 2))
    assert judge_observable("x", Estimate([1.0, 0.0]), sampled(bins)).verdict == "agrees"
    assert judge_observable("x", Estimate([1.0, 1e-4]), sampled(bins)).verdict == "cannot tell"
    assert judge_observable("x", Estimate([2.0, 1e-4]), sampled(bins)).verdict == "DISAGREES"


def test_false_alarms_of_laws_that_are_not_gaussian():
    # rare events: without one in 24 seeds nothing is told, instead of a disagreement
    generator = np.random.default_rng(2)
    runs = [
        judge_observable("x", Estimate(0.02), sampled(1.0 * (generator.random(24) < 0.02)))
        for _ in range(500)
    ]
    assert {row.verdict for row in runs} == {"cannot tell"}
    # a lognormal law with sigma = 1: 1.2e-2 instead of 6e-5, as the documentation says
    draws = np.exp(generator.normal(size=(4000, 24)))
    runs = [judge_observable("x", Estimate(math.exp(0.5)), sampled(draw)) for draw in draws]
    assert 0.006 < np.mean([row.verdict == "DISAGREES" for row in runs]) < 0.018


def test_skewed_seeds_are_noted():
    values = np.full(24, 1.0)
    values[3] = 1.2
    row = judge_observable("x", Estimate(1.0), sampled(values))
    assert row.verdict == "agrees" and "skewness +4.6" in row.note
    values = np.random.default_rng(0).normal(1, 0.1, 24)
    assert judge_observable("x", Estimate(1.0), sampled(values)).note == ""


def test_nothing_to_judge(coin):
    with pytest.raises(ValueError, match="x is an array without elements"):
        judge_observable("x", Estimate(np.zeros(0)), sampled(np.zeros((4, 0))))
    with pytest.raises(ValueError, match="x has no samples"):
        judge_observable("x", Estimate(0.0), [])
    empty = judge(coin, coin.Params(), {}, [{}] * 8)
    assert not empty.agrees and not empty.disagrees and "nothing to compare" in empty.verdict


def test_scale_and_exact_are_read_from_about(coin, monkeypatch):
    near = {"bias": 0.5}
    assert compare("coin", near)["mean"].verdict == "agrees"
    monkeypatch.delitem(coin.ABOUT, "scale")
    assert compare("coin", near)["mean"].verdict == "cannot tell"
    right = coin.simulate
    constant = {"mean": Estimate(0.41)}
    monkeypatch.setattr(coin, "simulate", lambda p, seed: {**right(p, seed), **constant})
    assert compare("coin")["mean"].verdict == "cannot tell"
    monkeypatch.setitem(coin.ABOUT, "exact", ["mean"])
    assert compare("coin")["mean"].verdict == "DISAGREES"


@pytest.mark.parametrize(
    ("theory", "simulation", "reason"),
    [
        (Estimate(0.0, status="unstable", note="T < 0"), Estimate(0.0), "theory: unstable .T < 0."),
        (Estimate(0.0), Estimate(0.0, status="stuck"), "simulation: stuck in 5 seeds"),
        (Estimate(math.nan), Estimate(0.0), "not finite"),
        (Estimate(0.0, math.nan), Estimate(0.0), "not finite"),
        (Estimate(0.0), Estimate(math.inf), "not finite"),
        (Estimate([0.0, math.nan]), Estimate([0.0, 0.0]), "not finite"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_doubtful_number_never_agrees(theory, simulation, reason):
    row = judge_observable("x", theory, [simulation] * 5)
    assert row.verdict == "cannot tell"
    assert re.search(reason, row.note)


def test_a_single_nan_among_the_seeds_is_enough():
    values = [*np.random.default_rng(0).normal(size=9), math.nan]
    assert judge_observable("x", Estimate(0.0), sampled(values)).verdict == "cannot tell"


# -- whole systems -------------------------------------------------------------------------------
def test_a_true_system_agrees_and_a_wrong_one_does_not(coin, monkeypatch):
    result = compare("coin", {"bias": 0.4})
    assert result.agrees and not result.disagrees
    assert result.params["bias"] == 0.4 and result.seeds == 24
    assert [row.observable for row in result.rows] == ["mean", "square", "shares"]
    assert result["square"].allowance == pytest.approx(1 / 400)
    right = coin.theory
    monkeypatch.setattr(coin, "theory", lambda p: {**right(p), "mean": right(p)["mean"] + 0.07})
    wrong = compare("toy.coin")
    assert wrong.disagrees and not wrong.agrees
    assert [row.verdict for row in wrong.rows] == ["DISAGREES", "agrees", "agrees"]
    assert "disagree in mean" in wrong.verdict


def test_table(coin):
    text = str(compare("coin", seeds=8))
    head, rule, *rows = text.splitlines()[3:8]
    columns = ["observable", "theory", "simulation", "z", "allowance", "detectable", "verdict"]
    assert head.split() == columns
    assert set(rule) == {"-"} and len(rows) == 3
    assert rows[2].startswith("shares[face ") and rows[2].endswith("agrees")
    assert text.splitlines()[-1] == "Theory and simulation agree."


def test_a_failed_seed_is_named_and_leaves_the_verdict_open(coin):
    result = compare("coin", {"fail_at": 3})
    assert not result.agrees and not result.disagrees
    assert [failure.seed for failure in result.failures] == [3]
    assert {row.verdict for row in result.rows} == {"cannot tell"}
    assert "seed 3 failed: RuntimeError: the coin rolled away" in str(result)
    assert "cannot be told" in result.verdict


def test_a_status_leaves_the_verdict_open(coin):
    result = compare("coin", {"status": "not mixed"})
    assert [row.verdict for row in result.rows] == ["cannot tell", "agrees", "agrees"]
    assert not result.agrees


def test_when_every_seed_fails_the_error_is_raised(coin, monkeypatch):
    def simulate(p, seed):
        raise KeyError("no such pattern")

    monkeypatch.setattr(coin, "simulate", simulate)
    with pytest.raises(RuntimeError, match=r"toy\.coin failed in every seed: KeyError"):
        compare("coin")


def test_ctrl_c_goes_through(coin, monkeypatch):
    def simulate(p, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(coin, "simulate", simulate)
    with pytest.raises(KeyboardInterrupt):
        compare("coin")


def test_different_observables_are_an_error(coin, monkeypatch):
    monkeypatch.setattr(coin, "theory", lambda p: {"mean": Estimate(0.0)})
    with pytest.raises(ValueError, match="only one of them has shares, square"):
        compare("coin")
    three = {"mean": Estimate(0.0), "square": Estimate(0.0), "shares": Estimate([0.0] * 3)}
    monkeypatch.setattr(coin, "theory", lambda p: three)
    with pytest.raises(ValueError, match="shares has shape"):
        compare("coin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 1}, "seeds must be an integer of at least 2"),
        ({"seeds": True}, "seeds must be"),
        ({"jobs": 0}, "jobs must be"),
        ({"params": {"bais": 0.1}}, "no parameter 'bais'; did you mean bias"),
        ({"params": {"bias": "0.1"}}, "must be float"),
        ({"params": {"bias": 2.0}}, r"bias must lie in \(0, 1\)"),
    ],
)
def test_bad_input(coin, arguments, message):
    with pytest.raises(ValueError, match=message):
        compare("coin", **arguments)


def test_saved_and_loaded(coin, tmp_path: Path):
    result = compare("coin", {"fail_at": 0, "faces": ["a"]})
    path = result.save(tmp_path / "comparison.json")
    again = Comparison.load(path)
    assert str(again.rows) == str(result.rows) and again.failures == result.failures
    assert again.params["faces"] == ["a"] and again.verdict == result.verdict
    assert result.to_rows()[0]["observable"] == "mean"
    row = judge_observable("x", Estimate(math.nan), sampled([1.0, 2.0]))
    odd = Comparison("a", "b", {}, 2, (row,))
    odd.save(path)
    assert json.loads(path.read_text())["rows"][0]["theory"] is None
    assert str(Comparison.load(path).rows) == str(odd.rows)
    path.write_text("[]")
    with pytest.raises(ValueError, match="does not hold a comparison"):
        Comparison.load(path)


def test_workers_give_the_same_bits(coin, tmp_path, monkeypatch):
    # a module of one's own, found by the workers through the path that they inherit
    own = tmp_path / "own_coin.py"
    own.write_text(Path(coin.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    code = (
        "import own_coin, thermolearn\n"
        "a = thermolearn.compare(own_coin, seeds=4)\n"
        "b = thermolearn.compare(own_coin, {'fail_at': None}, seeds=4, jobs=2)\n"
        "assert a == b and a.system == 'own_coin', (a, b)\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_run_seeds_keeps_the_order(coin):
    samples, failures = run_seeds(coin.__name__, coin.Params(fail_at=1), 4)
    assert [f.seed for f in failures] == [1] and len(samples) == 3
    alone = coin.simulate(coin.Params(), 2)
    assert float(samples[1]["mean"]) == float(alone["mean"])


@pytest.mark.parametrize(
    ("part", "replacement", "message"),
    [
        ("theory", lambda p: None, "theory of .* must return a dict, not NoneType"),
        ("theory", lambda p: {"heads": 0.5}, "theory of .* 'heads' is float"),
        ("simulate", lambda p, seed: {"heads": 0.5}, "simulate of .* 'heads' is float"),
    ],
)
def test_what_a_system_returns_is_checked(coin, monkeypatch, part, replacement, message):
    monkeypatch.setattr(coin, part, replacement)
    with pytest.raises(TypeError, match=message):
        compare(coin, seeds=8)


def test_names_that_are_none_are_refused(coin, monkeypatch):
    with pytest.raises(TypeError, match="name or a module"):
        compare(3)  # type: ignore[arg-type]
    monkeypatch.setitem(coin.ABOUT["allowance"], "no_such_observable", (1.0, 1.0))
    with pytest.raises(ValueError, match="names no observable"):
        compare(coin, seeds=8)

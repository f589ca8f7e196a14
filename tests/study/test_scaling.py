"""Finite-size scaling: the Curie-Weiss magnet, enumerated, and laws with known noise."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import thermolearn
from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate
from thermolearn.study.collapse import _drift, binder_cumulant, crossing, data_collapse
from thermolearn.study.scaling import finite_size_scaling


def curie_weiss(n, temperature):
    """Magnetizations of n spins with energy -n m^2 / 2, and their probabilities, by enumeration."""
    k = np.arange(n + 1)
    m = (2 * k - n) / n
    log_p = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    log_p = log_p + n * m**2 / (2 * temperature)
    p = np.exp(log_p - log_p.max())
    return m, p / p.sum()


def moment(n, temperature, power):
    m, p = curie_weiss(n, temperature)
    return float((p * np.abs(m) ** power).sum())


def binder(n, temperature):
    return 1 - moment(n, temperature, 4) / (3 * moment(n, temperature, 2) ** 2)


def law(sizes, limit, amplitude, exponent, stderr, seed=None):
    rows = []
    generator = np.random.default_rng(seed)
    for n in sizes:
        y = limit + amplitude * n**-exponent
        rows.append({"size": n, "value": y + stderr * generator.normal(), "stderr": stderr})
    return rows


# -- limit and exponent --------------------------------------------------------------------------
def test_an_exact_law_is_found_exactly():
    rows = [
        {"size": n, "value": 2.0 - 3.0 * n**-0.7, "stderr": 1e-6} for n in (50, 100, 200, 400, 800)
    ]
    fit = finite_size_scaling(rows)
    assert float(fit.limit) == pytest.approx(2.0, abs=1e-7)
    assert float(fit.amplitude) == pytest.approx(-3.0, rel=1e-5)
    assert float(fit.exponent) == pytest.approx(0.7, rel=1e-6)
    assert fit.chi2 < 1e-6 and fit.dof == 2 and fit.status == "ok"
    assert fit.held_out.size == 800 and abs(fit.held_out.z) < 1e-2
    assert float(fit.predict(1e6)) == pytest.approx(2 - 3 * 1e6**-0.7, abs=1e-7)
    assert "held out N = 800" in str(fit)


def test_curie_weiss_at_the_critical_temperature():
    # <|m|> ~ N^(-1/4)
    sizes = (500, 1000, 2000, 4000, 8000)
    error = 2e-4
    rows = [{"size": n, "value": moment(n, 1.0, 1), "stderr": error} for n in sizes]
    fit = finite_size_scaling(rows)
    assert fit.status == "ok"
    assert abs(float(fit.exponent) - 0.25) < 4 * fit.exponent.stderr < 0.06
    assert abs(float(fit.limit)) < 4 * fit.limit.stderr
    given = finite_size_scaling(rows, exponent=0.25)
    assert given.exponent.stderr == 0 and given.dof == 3
    assert abs(float(given.limit)) < 4 * given.limit.stderr < 4e-3
    # <x^2>^(1/2) = (sqrt(12) Gamma(3/4) / Gamma(1/4))^(1/2), <|x|> = 12^(1/4) Gamma(1/2)/Gamma(1/4)
    exact = 12**0.25 * math.gamma(0.5) / math.gamma(0.25)
    assert float(given.amplitude) == pytest.approx(exact, rel=0.01)


def test_curie_weiss_above_the_critical_temperature():
    # N <m^2> = 1/a + (1/a^2 - 1/a^3)/N + O(1/N^2), a = 1 - beta: with u = N m^2 the weight is
    # exp(-a u/2 + u/(2N) - u^2/(12N)), the terms from Stirling's formula
    a = 0.5
    sizes = (400, 800, 1600, 3200)
    rows = [{"size": n, "value": n * moment(n, 1 / (1 - a), 2), "stderr": 2e-5} for n in sizes]
    fit = finite_size_scaling(rows)
    assert fit.status == "ok"
    assert abs(float(fit.limit) - 1 / a) < 4 * fit.limit.stderr < 4e-4
    assert abs(float(fit.exponent) - 1) < 4 * fit.exponent.stderr < 0.1
    given = finite_size_scaling(rows, exponent=1.0)
    assert float(given.amplitude) == pytest.approx(1 / a**2 - 1 / a**3, rel=0.02)


@pytest.mark.parametrize("exponent", [None, 0.5])
def test_the_error_bars_cover_the_truth(exponent):
    sizes, runs = (50, 100, 200, 400, 800, 1600), 200
    inside = {"limit": 0, "exponent": 0, "held out": 0}
    p_values = []
    for seed in range(runs):
        fit = finite_size_scaling(
            law(sizes, 1.0, 4.0, 0.5, 0.004, seed), exponent, n_bootstrap=100, seed=seed
        )
        inside["limit"] += abs(float(fit.limit) - 1.0) < fit.limit.stderr
        inside["exponent"] += abs(float(fit.exponent) - 0.5) < fit.exponent.stderr
        inside["held out"] += abs(fit.held_out.z) < 1
        p_values.append(fit.p_value)
    if exponent is not None:
        del inside["exponent"]
    share = 0.6827
    # 0.03: the error bars themselves are bootstrapped, and the law is not linear in the exponent
    for name, count in inside.items():
        excess = count / runs - share
        if name == "limit":  # its bar holds the shift without the smallest size as well
            excess -= 0.11
        assert abs(excess) < 4 * math.sqrt(share * (1 - share) / runs) + 0.03, name
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_three_sizes_are_enough_but_untested():
    fit = finite_size_scaling(law((100, 200, 400), 1.0, 2.0, 1.0, 1e-4, 0))
    assert fit.dof == 0 and fit.held_out is None and math.isnan(fit.p_value)
    assert math.isnan(fit.systematic) and "moves by" not in str(fit)
    assert fit.status == "ok" and "not tested" in fit.note


def test_two_powers_are_not_one():
    sizes = (10, 20, 40, 80, 160)
    rows = [{"size": n, "value": 1 + 3 / n - 40 / n**2, "stderr": 1e-4} for n in sizes]
    fit = finite_size_scaling(rows)
    assert fit.status == "poor fit" == fit.limit.status and fit.p_value < 1e-3
    assert "smallest sizes" in fit.note and "poor fit" in str(fit)


def test_what_chi2_cannot_see_is_in_the_error_of_the_limit():
    # two powers pass for one: the shift makes the bar longer, though not as long as it should be
    generator = np.random.default_rng(0)
    distance, statistical = [], []
    for seed in range(40):
        rows = [
            {"size": n, "value": 1 + n**-0.5 + 20 / n + 1e-3 * generator.normal(), "stderr": 1e-3}
            for n in (200, 400, 800, 1600, 3200)
        ]
        fit = finite_size_scaling(rows, n_bootstrap=100, seed=seed)
        assert fit.status == "ok" and "one power of N is assumed" in fit.note
        assert "moves by" in str(fit) and "without the smallest size" in fit.limit.note
        without = finite_size_scaling(rows[1:], n_bootstrap=100).limit
        assert fit.systematic == pytest.approx(abs(float(fit.limit) - float(without)), rel=1e-6)
        statistical.append(math.sqrt(fit.limit.stderr**2 - fit.systematic**2))
        distance.append(abs(float(fit.limit) - 1))
        assert fit.predict(1e12).stderr == pytest.approx(fit.limit.stderr, rel=0.2)
        distance[-1] /= fit.limit.stderr
        statistical[-1] = distance[-1] * fit.limit.stderr / statistical[-1]
    assert np.median(distance) < 2.5 < 3 < np.median(statistical)


def test_the_bar_of_the_limit_does_not_depend_on_the_redraws():
    rows = law((200, 400, 800, 1600, 3200), 1.0, 5.0, 0.7, 5e-3, 7)
    bars = [finite_size_scaling(rows, seed=seed).exponent.stderr for seed in range(6)]
    assert np.std(bars) / np.mean(bars) < 0.03


def test_a_wrong_largest_size_is_noticed():
    rows = law((100, 200, 400, 800, 1600), 1.0, 2.0, 0.5, 1e-3, 1)
    rows[-1]["value"] += 0.02
    fit = finite_size_scaling(rows)
    assert abs(fit.held_out.z) > 4 or fit.status != "ok"


@pytest.mark.parametrize("amplitude", [0.0, 0.001])
def test_without_size_dependence_the_exponent_is_undetermined(amplitude):
    fit = finite_size_scaling(law((100, 200, 400, 800), 1.0, amplitude, 1.0, 0.01, 3))
    assert fit.status == "undetermined" and "give the exponent" in fit.note
    given = finite_size_scaling(law((100, 200, 400, 800), 1.0, amplitude, 1.0, 0.01, 3), 1.0)
    assert given.status == "ok" and abs(float(given.limit) - 1) < 4 * given.limit.stderr


def test_tables_estimates_and_column_names():
    rows = law((100, 200, 400, 800), 1.0, 2.0, 0.5, 1e-3, 5)
    fit = thermolearn.finite_size_scaling(rows)
    table = pd.DataFrame(rows)[::-1].rename(columns={"size": "n_spins", "value": "overlap"})
    assert finite_size_scaling(table, size="n_spins", value="overlap").limit.value == float(
        fit.limit
    )
    estimates = [{"size": r["size"], "value": Estimate(r["value"], r["stderr"])} for r in rows]
    assert float(finite_size_scaling(estimates).limit) == float(fit.limit)


def test_same_seed_same_bars():
    rows = law((100, 200, 400, 800), 1.0, 2.0, 0.5, 1e-3, 5)
    a, b, c = (finite_size_scaling(rows, seed=seed).exponent for seed in (1, 1, 2))
    assert a.stderr == b.stderr != c.stderr and a.value == c.value


GOOD = law((100, 200, 400), 1.0, 2.0, 0.5, 1e-3, 0)


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([], {}, "no rows"),
        (GOOD[:2], {}, "at least three sizes"),
        ([*GOOD[:2], GOOD[0]], {}, "at least three sizes"),
        ([*GOOD, {"size": 3, "value": 1.0}], {}, "row 3 has no column 'stderr'"),
        ([*GOOD, {"size": 0, "value": 1.0, "stderr": 0.1}], {}, "'size' must be positive"),
        ([*GOOD, {"size": 3, "value": 1.0, "stderr": 0.0}], {}, "numerical error"),
        ([*GOOD, {"size": 3, "value": math.nan, "stderr": 0.1}], {}, "not finite"),
        ([*GOOD, {"size": 3, "value": 1, "stderr": 1, "status": "stuck"}], {}, "status 'stuck'"),
        ([*GOOD, {"size": 3, "value": Estimate(1.0, 0.1, status="bad")}], {}, "status 'bad'"),
        (GOOD, {"exponent": -1.0}, "exponent must be positive"),
        (GOOD, {"n_bootstrap": 3}, "n_bootstrap must be"),
    ],
)
def test_bad_input(rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        finite_size_scaling(rows, **arguments)


# -- Binder cumulants ----------------------------------------------------------------------------
def test_binder_cumulant_of_known_distributions():
    generator = np.random.default_rng(0)
    signs = binder_cumulant(generator.choice([-0.3, 0.3], size=50))
    assert float(signs) == pytest.approx(2 / 3) and signs.stderr < 1e-12
    gauss = binder_cumulant(generator.normal(size=20_000))
    assert abs(float(gauss)) < 4 * gauss.stderr < 0.05
    # at the critical temperature of the Curie-Weiss magnet, N -> infinity
    exact = 1 - math.gamma(0.25) ** 2 / (12 * math.gamma(0.75) ** 2)
    assert exact == pytest.approx(0.2705, abs=1e-4)
    assert binder(10**5, 1.0) == pytest.approx(exact, abs=2e-3)
    m, p = curie_weiss(2000, 1.0)
    sampled = binder_cumulant(generator.choice(m, p=p, size=20_000))
    assert abs(float(sampled) - binder(2000, 1.0)) < 4 * sampled.stderr < 0.05


@pytest.mark.parametrize("n", [200, 2000])
def test_binder_bias_and_error_bar(n):
    generator = np.random.default_rng(1)
    many = [binder_cumulant(generator.normal(size=n)) for _ in range(2000)]
    values = np.array([float(b) for b in many])
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 4 * spread / math.sqrt(2000)
    assert math.sqrt(np.mean([b.stderr**2 for b in many])) == pytest.approx(spread, rel=0.1)
    assert np.mean([b.stderr for b in many]) == pytest.approx(spread, rel=0.15)


def test_binder_is_the_jackknife():
    m = np.random.default_rng(3).normal(0.5, 1, 60)

    def plain(x):
        return 1 - (x**4).mean() / (3 * (x**2).mean() ** 2)

    from thermolearn.core.estimate import jackknife

    found, wanted = binder_cumulant(m), jackknife(plain, m)
    assert float(found) == pytest.approx(float(wanted), abs=1e-12)
    assert found.stderr == pytest.approx(wanted.stderr, rel=1e-12)


@pytest.mark.parametrize(
    "samples", [[1.0, 2.0], [[1.0, 2.0]], [0.0] * 3, [0.0, 0.0, 1.0], [1.0, 1.0, math.nan]]
)
def test_binder_bad_input(samples):
    with pytest.raises(ValueError):
        binder_cumulant(samples)


def curves(sizes, temperatures, stderr, seed):
    generator = np.random.default_rng(seed)
    return [
        {"size": n, "x": t, "value": binder(n, t) + stderr * generator.normal(), "stderr": stderr}
        for n in sizes
        for t in temperatures
    ]


def test_binder_curves_cross_at_the_critical_temperature():
    from scipy import optimize

    exact = optimize.brentq(lambda t: binder(1000, t) - binder(2000, t), 0.9, 1.1)
    found = crossing(curves((1000, 2000), np.linspace(0.97, 1.03, 13), 0.003, 0))
    assert found.status == "ok" and found.sizes == (1000, 2000)
    assert abs(float(found.x) - exact) < 4 * found.x.stderr < 0.01
    assert abs(float(found.value) - binder(1000, exact)) < 4 * found.value.stderr < 0.05


def test_crossing_refuses_and_flags():
    with pytest.raises(ValueError, match="do not cross"):
        crossing(curves((1000, 2000), np.linspace(1.05, 1.1, 8), 1e-4, 0))
    with pytest.raises(ValueError, match="exactly two sizes"):
        crossing(curves((1000, 2000, 4000), np.linspace(0.97, 1.03, 8), 1e-4, 0))
    with pytest.raises(ValueError, match="common to both"):
        crossing(curves((1000, 2000), (0.99, 1.0, 1.01), 1e-4, 0))
    noisy = curves((1000, 2000), np.linspace(0.999, 1.001, 8), 0.02, 4)
    try:
        assert crossing(noisy).status == "undetermined"
    except ValueError as error:
        assert "do not cross" in str(error)


# -- data collapse -------------------------------------------------------------------------------
TEMPERATURES = np.linspace(0.94, 1.06, 17)
SIZES = (500, 1000, 2000, 4000)


def test_curie_weiss_collapses_with_the_exponent_one_half():
    found = data_collapse(curves(SIZES, TEMPERATURES, 0.008, 0), n_bootstrap=20)
    assert found.status == "ok" and 0.5 < found.quality < 1.6
    assert abs(float(found.x_c) - 1.0) < 4 * found.x_c.stderr < 0.02
    assert abs(float(found.inverse_nu) - 0.5) < 4 * found.inverse_nu.stderr < 0.2
    assert found.held_out_quality < 2.5
    u, v = found.scaled(100, [0.9, 1.0], [0.1, 0.2])
    assert u == pytest.approx(
        (np.array([0.9, 1.0]) - float(found.x_c)) * 100 ** float(found.inverse_nu)
    )
    assert v == pytest.approx([0.1, 0.2])


@pytest.mark.slow
def test_the_magnetization_needs_its_own_exponent():
    generator = np.random.default_rng(2)
    rows = [
        {"size": n, "x": t, "value": moment(n, t, 1) + 1e-3 * generator.normal(), "stderr": 1e-3}
        for n in SIZES
        for t in TEMPERATURES
    ]
    found = data_collapse(rows, kappa=None, n_bootstrap=20)
    for estimate, exact in ((found.x_c, 1.0), (found.inverse_nu, 0.5), (found.kappa, 0.25)):
        assert abs(float(estimate) - exact) < 4 * estimate.stderr + 0.02
    assert data_collapse(rows, kappa=0.0, n_bootstrap=20).status != "ok"


def drifting(stderr, seed):
    """Curves whose x_c(N) = 0.5 + 2 N^-0.7; they collapse well, onto an x_c 0.015 away."""
    generator = np.random.default_rng(seed)
    return [
        {
            "size": n,
            "x": x,
            "value": 0.4
            - 0.25 * math.tanh(0.3 * (x - 0.5 - 2 / n**0.7) * n**0.5)
            + stderr * generator.normal(),
            "stderr": stderr,
        }
        for n in (100, 200, 400, 800)
        for x in np.linspace(0.35, 0.65, 19)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stderr", [0.001, 0.003])
def test_a_drifting_transition_is_flagged_or_lengthens_the_error(stderr):
    # 14 bootstrap errors at 0.003, where the drift itself is hardly significant
    found = [data_collapse(drifting(stderr, seed), n_bootstrap=20) for seed in range(3)]
    for one in found:
        assert one.x_c.stderr >= abs(one.shifts[0]) > 0
    distance = [abs(float(one.x_c) - 0.5) / one.x_c.stderr for one in found]
    assert np.median(distance) < 6
    if stderr < 0.002:
        assert all(one.status != "ok" for one in found)


def test_a_significant_shift_is_called_a_drift():
    error = np.array([1e-3, 1e-2])
    status, note = _drift(np.array([5e-3, 1e-2]), error, "ok", "")
    assert status == "drifting" and "x_c moves by +0.005, 5.0 standard errors" in note
    assert _drift(np.array([2.9e-3, 1e-2]), error, "ok", "") == ("ok", "")
    assert _drift(np.array([5e-3, 1e-2]), error, "poor collapse", "x") == ("poor collapse", "x")


def test_curves_that_do_not_collapse_are_flagged():
    rows = curves(SIZES, TEMPERATURES, 0.004, 0)
    for row in rows:
        row["value"] += 0.1 * math.log(row["size"])
    assert data_collapse(rows, n_bootstrap=20).status != "ok"


def test_collapse_bad_input():
    rows = curves(SIZES, TEMPERATURES, 0.01, 0)
    with pytest.raises(ValueError, match="three sizes with four points"):
        data_collapse([row for row in rows if row["size"] < 2000])
    with pytest.raises(ValueError, match="n_bootstrap"):
        data_collapse(rows, n_bootstrap=2)
    apart = [{**row, "x": row["x"] + row["size"]} for row in rows]
    with pytest.raises(ConvergenceError, match="overlap"):
        data_collapse(apart)

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from thermolearn.core.estimate import (
    Estimate,
    combine_independent,
    difference,
    format_with_error,
    jackknife,
    mean_estimate,
)

numbers = st.floats(-1e6, 1e6)
errors = st.floats(0, 1e6)
factors = st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3)


@given(value=numbers, stderr=errors, factor=factors, shift=numbers)
def test_arithmetic_with_numbers(value, stderr, factor, shift):
    e = Estimate(value, stderr, n_eff=7.0, status="odd", note="why")
    for got, exact, error in (
        (e * factor, value * factor, stderr * abs(factor)),
        (factor * e, value * factor, stderr * abs(factor)),
        (e / factor, value / factor, stderr / abs(factor)),
        (e + shift, value + shift, stderr),
        (shift + e, value + shift, stderr),
        (e - shift, value - shift, stderr),
        (shift - e, shift - value, stderr),
        (-e, -value, stderr),
        (abs(e), abs(value), stderr),
    ):
        assert float(got) == pytest.approx(exact, rel=1e-12, abs=1e-9)
        assert got.stderr == pytest.approx(error, rel=1e-12)
        assert (got.n_eff, got.status, got.note) == (7.0, "odd", "why")


@given(value=numbers, other=numbers)
def test_comparisons_and_conversions_act_on_the_value(value, other):
    e = Estimate(value, 0.1)
    assert (e < other, e <= other, e > other, e >= other) == (
        value < other, value <= other, value > other, value >= other
    )  # fmt: skip
    assert float(e) == e.item() == float(np.asarray(e)) == value


@given(
    value=arrays(np.float64, array_shapes(max_dims=3, max_side=4), elements=numbers),
    factor=factors,
)
def test_arithmetic_of_arrays(value, factor):
    e = Estimate(value, np.abs(value) / 2)
    assert np.allclose((e * factor).stderr, np.abs(value * factor) / 2)
    assert np.allclose((1 - e).value, 1 - value)
    assert np.array_equal(np.asarray(e), value)
    assert Estimate(value, 0.5).stderr == 0.5  # one error bar for all elements


@pytest.mark.parametrize(
    "operation",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a / b,
    ],
)
def test_two_estimates_are_never_combined_by_an_operator(operation):
    with pytest.raises(TypeError, match="difference"):
        operation(Estimate(1.0, 0.1), Estimate(2.0, 0.1))


any_float = st.floats(allow_nan=True, allow_infinity=True)


@given(
    value=st.one_of(any_float, arrays(np.float64, array_shapes(max_dims=2), elements=any_float)),
    stderr=st.one_of(errors, st.just(math.nan)),
    n_eff=st.one_of(st.none(), st.floats(1, 1e9)),
    status=st.sampled_from(["ok", "under-sampled"]),
    note=st.text(max_size=20),
)
def test_dictionary_round_trip_through_json(value, stderr, n_eff, status, note):
    e = Estimate(value, stderr, n_eff, status, note)
    text = json.dumps(e.to_dict(), allow_nan=False)
    back = Estimate.from_dict(json.loads(text))
    expected = np.where(np.isfinite(value), value, math.nan)
    assert np.shape(back.value) == np.shape(e.value)
    assert np.array_equal(np.asarray(back.value), expected, equal_nan=True)
    assert np.array_equal(back.stderr, e.stderr, equal_nan=True)
    assert (back.n_eff, back.status, back.note) == (n_eff, status, note)
    assert json.dumps(back.to_dict()) == text


def test_tensors_and_scalars_become_plain_numbers():
    e = Estimate(torch.tensor(2.0, requires_grad=True), torch.tensor(0.5))
    assert type(e.value) is float and type(e.stderr) is float
    assert Estimate(torch.ones(3)).value.dtype == np.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Estimate(1.0, -0.1), "negative"),
        (lambda: Estimate(np.ones(3), np.ones(2)), "stderr has shape"),
        (lambda: Estimate(1.0, np.ones(2)), "stderr has shape"),
        (lambda: mean_estimate([]), "at least one sample"),
        (lambda: mean_estimate(1.0), "at least one sample"),
        (lambda: combine_independent([]), "at least one"),
        (lambda: combine_independent([Estimate(1.0, 0.0)]), "positive, finite"),
        (lambda: combine_independent([Estimate(1.0, math.nan)]), "positive, finite"),
        (lambda: jackknife(np.mean, [1.0]), "two samples"),
        (lambda: jackknife(np.mean, 1.0), "two samples"),
        (lambda: jackknife(lambda a, b: 0.0, [1.0, 2.0], [1.0]), "common length"),
        (lambda: jackknife(np.mean, [1.0, 2.0], blocks=1), "between 2 and"),
        (lambda: jackknife(np.mean, [1.0, 2.0], blocks=3), "between 2 and"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(samples=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30))
def test_mean_estimate(samples):
    e = mean_estimate(samples)
    assert float(e) == pytest.approx(np.mean(samples), abs=1e-9)
    assert e.stderr == pytest.approx(np.std(samples, ddof=1) / math.sqrt(len(samples)))
    assert e.n_eff == len(samples)


def test_mean_estimate_of_one_sample_and_along_an_axis():
    assert math.isnan(mean_estimate([3.0]).stderr)
    x = np.random.default_rng(0).standard_normal((4, 9))
    e = mean_estimate(x, axis=1, status="odd", note="why")
    assert e.value.shape == e.stderr.shape == (4,) and (e.status, e.note) == ("odd", "why")
    assert np.allclose(e.stderr, x.std(1, ddof=1) / 3)
    assert np.isnan(mean_estimate(x[:, :1], axis=1).stderr).all()


@given(samples=st.lists(st.floats(-100, 100), min_size=2, max_size=25))
def test_jackknife_of_a_mean_is_the_mean_with_its_standard_error(samples):
    e = jackknife(np.mean, samples)
    assert float(e) == pytest.approx(np.mean(samples), abs=1e-9)
    assert e.stderr == pytest.approx(mean_estimate(samples).stderr, abs=1e-9)


@given(samples=st.lists(st.floats(-100, 100), min_size=3, max_size=25))
def test_jackknife_makes_the_variance_unbiased(samples):
    """The bias of the plug-in variance is exactly -s^2/n, so the corrected value is s^2."""
    e = jackknife(np.var, samples)
    assert float(e) == pytest.approx(np.var(samples, ddof=1), rel=1e-9, abs=1e-9)


def test_jackknife_of_a_ratio_against_the_delta_method():
    rng = np.random.default_rng(1)
    n = 2000
    y = 3 + rng.standard_normal(n)
    x = 2 * y + rng.standard_normal(n)
    e = jackknife(lambda a, b: a.mean() / b.mean(), x, y, blocks=n)
    r = x.mean() / y.mean()
    residual = x - r * y
    delta = residual.std(ddof=1) / y.mean() / math.sqrt(n)
    bias = -(residual * (y - y.mean())).mean() / y.mean() ** 2 / (n - 1)
    assert e.stderr == pytest.approx(delta, rel=0.01)
    assert float(e) - r == pytest.approx(-bias, rel=0.05)
    # as if independent, the bar would be several times too large
    independent = r * math.hypot(x.std() / x.mean(), y.std() / y.mean()) / math.sqrt(n)
    assert independent > 1.5 * e.stderr


def test_jackknife_error_bars_cover_the_truth():
    z = []
    for seed in range(400):
        x = np.random.default_rng(seed).exponential(size=60)
        e = jackknife(np.var, x)
        z.append((float(e) - 1) / e.stderr)
    # heavy-tailed statistic of few samples: the bar is somewhat short, never by much
    assert 0.75 < np.mean(np.abs(z) < 2) < 0.98


def test_jackknife_blocks_see_correlations():
    x = np.repeat(np.random.default_rng(0).standard_normal(200), 10)
    assert jackknife(np.mean, x, blocks=200).stderr == pytest.approx(
        x.std() / math.sqrt(200), rel=0.02
    )
    assert jackknife(np.mean, x, blocks=2000).stderr < 0.4 * x.std() / math.sqrt(200)


@pytest.mark.parametrize("n", [200, 201, 256, 300, 399, 1000, 1001])
def test_jackknife_uses_nearly_all_samples(n):
    x = np.random.default_rng(n).standard_normal(n)
    e = jackknife(np.mean, x)
    size = math.ceil(n / 200)
    assert float(e) == pytest.approx(x[: n - n % size].mean(), abs=1e-12)
    assert e.n_eff == n // size <= 200


def test_jackknife_of_an_array_statistic():
    x = np.random.default_rng(0).standard_normal((30, 3))
    e = jackknife(lambda a: a.mean(0), x)
    assert np.allclose(e.value, x.mean(0)) and np.allclose(e.stderr, mean_estimate(x).stderr)


def test_difference_and_combination():
    d = difference(Estimate(3.0, 0.3), Estimate(1.0, 0.4, status="odd"))
    assert (float(d), d.stderr, d.status) == (2.0, pytest.approx(0.5), "odd")
    c = combine_independent([Estimate(1.0, 1.0), Estimate(2.0, 0.5)])
    assert float(c) == pytest.approx(1.8) and c.stderr == pytest.approx(math.sqrt(0.2))
    assert combine_independent([Estimate(1.0, 1.0, status="odd")]).status == "odd"


@given(
    values=st.lists(st.tuples(numbers, st.floats(0.01, 100)), min_size=1, max_size=6),
)
def test_a_combination_is_a_mean_and_never_less_certain(values):
    c = combine_independent([Estimate(v, s) for v, s in values])
    low, high = min(v for v, _ in values), max(v for v, _ in values)
    assert low - 1e-6 <= float(c) <= high + 1e-6
    assert c.stderr <= min(s for _, s in values) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.052131, 0.00097, "0.05213(97)"),
        (123.4, 5.6, "123.4(56)"),
        (1234.0, 56.0, "1234(56)"),
        (-1.5, 0.0, "-1.5"),
        (1.5, math.nan, "1.5(?)"),
        (math.nan, 0.1, "nan"),
        (1e7, 1.0, "1e+07 +- 1"),
        (1.0, 0.0996, "1.00(10)"),
        (1.0, 0.996, "1.0(10)"),
    ],
)
def test_text(value, stderr, text):
    assert format_with_error(value, stderr) == text


def test_text_of_an_estimate():
    assert str(Estimate(1.0, 0.1, status="odd")) == "1.00(10) [odd]"
    assert str(Estimate(np.ones((2, 3)))) == "Estimate(array of shape (2, 3))"


@given(value=st.floats(-1e5, 1e5), stderr=st.floats(1e-5, 1e4))
def test_text_can_be_read_back(value, stderr):
    text = format_with_error(value, stderr)
    if "(" in text:
        shown, error = text[:-1].split("(")
        unit = 10.0 ** -len(shown.partition(".")[2])
        assert abs(float(shown) - value) <= 0.51 * unit
        assert float(error) * unit == pytest.approx(stderr, rel=0.051)


def test_format_takes_number_formats():
    e = Estimate(0.05213, 0.00097)
    assert f"{e:.3f}" == "0.052" and f"{e}" == str(e) == "0.05213(97)"


def test_the_representation_of_a_large_array_is_short():
    text = repr(Estimate(np.linspace(-1, 2.5, 400).reshape(20, 20), np.full((20, 20), 0.1)))
    assert "20 x 20 from -1 to 2.5" in text and "from 0.1 to 0.1" in text and len(text) < 150
    gaps = np.linspace(0.0, 1.0, 30)
    gaps[3] = np.nan
    assert "30 from 0 to 1, 1 not finite" in repr(Estimate(gaps))
    assert "30 from nan" in repr(Estimate(gaps * np.nan))
    plain = "Estimate(value=1.5, stderr=0.25, n_eff=None, status='ok', note='')"
    assert repr(Estimate(1.5, 0.25)) == plain
    assert "value=[1.0, 2.0]" in repr(Estimate(np.array([1.0, 2.0])))

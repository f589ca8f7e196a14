"""Weight spectra: the law and its edge, false alarms, planted structure, power laws."""

import itertools
import math

import numpy as np
import pytest
import torch
from networks import numbers
from scipy import stats
from scipy.integrate import quad
from torch import nn
from torch.nn import functional as F

from thermolearn.core.errors import NotApplicableError
from thermolearn.data import load
from thermolearn.measure.probe import Probe
from thermolearn.measure.setting import window_of
from thermolearn.measure.spectra import (
    WeightSpectra,
    comparison,
    fit_power_law,
    marchenko_pastur,
    tail,
    weight_spectra,
    weight_spectrum,
)
from thermolearn.measure.spectra.weights import compare


# -- the law -------------------------------------------------------------------------------------
@pytest.mark.parametrize("q", [0.1, 0.5, 1.0])
def test_distribution_is_the_integral_of_the_density(q):
    a, b = marchenko_pastur.edges(q)
    for t in (0.2, 0.5, 0.9):
        x = a + t * (b - a)
        area = quad(lambda u: float(marchenko_pastur.density(np.array(u), q)), a, x)[0]
        assert math.isclose(area, float(marchenko_pastur.cdf(np.array(x), q)), abs_tol=1e-8)
    assert math.isclose(
        float(marchenko_pastur.cdf(np.array(marchenko_pastur.median(q)), q)), 0.5, abs_tol=1e-9
    )
    ends = marchenko_pastur.cdf(np.array([a - 1, a, b, b + 1]), q)
    np.testing.assert_allclose(ends, [0, 0, 1, 1], atol=1e-12)


def test_the_law_is_that_of_a_large_random_matrix():
    w = np.random.default_rng(0).normal(size=(300, 600))
    x = np.linalg.svd(w, compute_uv=False) ** 2 / 600
    for t in (0.2, 0.6, 1.5, 2.5):
        assert abs((x < t).mean() - float(marchenko_pastur.cdf(np.array(t), 0.5))) < 0.01


def test_quantiles_of_tracy_widom():
    """Tables: 0.9793 (5%), 2.0234 (1%); mean -1.2065, standard deviation 1.2680."""
    assert math.isclose(marchenko_pastur.tracy_widom_quantile(0.05), 0.9793, abs_tol=0.01)
    assert math.isclose(marchenko_pastur.tracy_widom_quantile(0.01), 2.0234, abs_tol=0.02)
    assert math.isclose(float(marchenko_pastur.tracy_widom_tail(0.9793)), 0.05, abs_tol=5e-4)


def test_the_largest_singular_value_follows_tracy_widom():
    rng, n, m = np.random.default_rng(1), 60, 40
    center, scale = marchenko_pastur.largest(n, m)
    z = np.array(
        [(np.linalg.norm(rng.normal(size=(n, m)), 2) ** 2 - center) / scale for _ in range(600)]
    )
    assert abs(z.mean() + 1.2065) < 4 * 1.268 / math.sqrt(600) + 0.03
    assert abs(z.std() / 1.268 - 1) < 0.12
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match="q must"):
            marchenko_pastur.edges(bad)


# -- false alarms --------------------------------------------------------------------------------
SHAPES = [(8, 8), (10, 64), (32, 64), (64, 64), (30, 300), (100, 120)]
ENTRIES = {
    "normal": lambda rng, size: rng.normal(size=size),
    "uniform": lambda rng, size: rng.uniform(-0.1, 0.1, size=size),
    "sign": lambda rng, size: rng.choice([-1.0, 1.0], size=size),
}


@pytest.mark.parametrize("entries", list(ENTRIES))
def test_random_matrices_are_called_random(entries):
    """Gaussian 8 x 8 matrices 4%, all others 1 to 2% otherwise (thousands of each)."""
    rng, alarms = np.random.default_rng(2), []
    for shape in SHAPES:
        tries = 150 if shape[0] > 10 else 800
        draws = (ENTRIES[entries](rng, shape) for _ in range(tries))
        verdicts = [compare(np.linalg.eigvalsh(w @ w.T), shape[1]).verdict for w in draws]
        alarms.append(sum(v != "random" for v in verdicts) / tries)
    assert alarms[0] <= 0.05 and max(alarms[1:]) <= 0.03 and np.mean(alarms) <= 0.02, alarms


def masked(rng, size, kept):
    return rng.normal(size=size) * (rng.random(size) < kept)


HEAVY = {
    "laplace": lambda rng, size: rng.laplace(size=size),
    "student": lambda rng, size: rng.standard_t(3, size=size),
    "half masked": lambda rng, size: masked(rng, size, 0.5),
    "pruned": lambda rng, size: masked(rng, size, 0.1),
}


@pytest.mark.parametrize("entries", list(HEAVY))
def test_heavy_tailed_or_masked_entries_are_not_called_structure(entries):
    """The laws alone call 10 to 20% (Laplace, half masked) or most of them structured."""
    rng, tries = np.random.default_rng(20), 120
    alarms, law = 0, 0
    for k in range(tries):
        w = HEAVY[entries](rng, ((16, 27), (64, 64))[k % 2])
        s = weight_spectrum(torch.tensor(w), resamples=0, seed=k)
        law += compare(np.linalg.eigvalsh(w @ w.T), w.shape[1]).verdict != "random"
        alarms += s.verdict not in ("random", "heavy entries")
        if s.verdict == "heavy entries":
            assert "the entries themselves are heavy-tailed" in s.reason and s.tail is None
            assert s.shuffle_p > 0.02 and s.excess_kurtosis.item() > 0.5
    assert alarms <= 0.02 * tries + 3 * math.sqrt(0.02 * 0.98 * tries), alarms
    assert law >= 0.05 * tries, law  # what this test is about


@pytest.mark.parametrize("entries", ["laplace", "half masked"])
def test_structure_in_heavy_tailed_or_masked_entries_is_found(entries):
    rng, found = np.random.default_rng(21), []
    for k in range(10):
        noise = HEAVY[entries](rng, (64, 64))
        u, v = (x / np.linalg.norm(x) for x in rng.normal(size=(2, 64)))
        w = noise / noise.std() + 3 * 8 * np.outer(u, v)  # three times the threshold
        found.append(weight_spectrum(torch.tensor(w), resamples=0, seed=k).verdict)
    assert sum(v in ("outliers", "other") for v in found) >= 9, found


def test_without_shuffles_heavy_entries_are_not_judged():
    w = torch.tensor(np.random.default_rng(22).standard_t(3, (64, 64)))
    s = weight_spectrum(w, shuffles=0)
    assert s.verdict == "heavy entries" and math.isnan(s.shuffle_p) and "shuffles" in s.reason


def test_the_p_of_shuffles_is_exact():
    """Of matrices without structure at most a share p has a p-value of p or less."""
    rng, p = np.random.default_rng(23), []
    for k in range(200):
        w = torch.tensor(rng.standard_t(3, (8, 12)))
        squares = comparison.squared_singular_values(w)
        p.append(comparison.shuffled(w, squares, compare(squares, 12), 99, k))
    for level in (0.02, 0.1, 0.5):
        share = np.mean(np.array(p) <= level)
        assert share <= level + 4 * math.sqrt(level * (1 - level) / 200), level


@pytest.mark.slow
def test_large_random_matrices_are_called_random():
    rng, alarms = np.random.default_rng(3), 0
    for k in range(200):
        w = ENTRIES["normal" if k % 2 else "uniform"](rng, (200, 200 + 3 * (k % 50)))
        alarms += compare(np.linalg.eigvalsh(w @ w.T), w.shape[1]).verdict != "random"
    assert alarms / 200 <= 0.05


def untrained(sizes=(784, 512, 512, 300, 100)):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])


def test_an_untrained_network_is_random_and_gets_no_exponent():
    """weightwatcher reports alpha = 34.9, 8.3, 5.2, 3.8 for such layers."""
    for name, s in weight_spectra(untrained()).items():
        assert s.verdict == "random" and s.tail is None, (name, s.reason)
        assert abs(s.edge_ratio.item() - 1) < 4 * s.edge_ratio.stderr
        rows, columns = s.shape
        assert abs(s.sigma.item() - 1 / math.sqrt(3 * columns)) < 4 * s.sigma.stderr
        assert abs(s.excess_kurtosis.item() + 1.2) < 4 * s.excess_kurtosis.stderr
        assert 1 < s.stable_rank < rows and 0 < s.entropy < math.log(rows)


# -- singular values -----------------------------------------------------------------------------
def test_singular_values_are_those_of_the_decomposition():
    w = numbers(20, 50)
    found = weight_spectrum(w)
    np.testing.assert_allclose(found.singular_values, torch.linalg.svdvals(w), rtol=1e-10)
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(
            weight_spectrum(scale * w).singular_values, scale * found.singular_values, rtol=1e-9
        )
    s = torch.linalg.svdvals(w)
    assert math.isclose(found.stable_rank, float((w**2).sum() / s[0] ** 2), rel_tol=1e-10)


def test_convolutions_are_taken_as_outputs_by_inputs_and_kernel():
    conv = nn.Conv2d(4, 12, 3).double()
    found = weight_spectrum(conv)
    assert found.shape == (12, 36) and found.convention == "outputs x (inputs k)"
    np.testing.assert_allclose(
        found.singular_values, torch.linalg.svdvals(conv.weight.detach().reshape(12, 36))
    )
    assert weight_spectrum(nn.ConvTranspose2d(4, 12, 3)).shape == (12, 36)
    assert weight_spectrum(nn.Embedding(50, 9)).shape == (50, 9)
    tied = nn.Sequential(nn.Linear(9, 9), nn.BatchNorm1d(9), nn.Linear(9, 9))
    tied[2].weight = tied[0].weight
    assert list(weight_spectra(tied)) == ["0.weight"]


# -- planted structure ---------------------------------------------------------------------------
def planted(rng, strengths, shape=(100, 150)):
    """Noise of unit variance plus rank-one spikes in units of the BBP threshold (nm)^(1/4)."""
    n, m = shape
    w = rng.normal(size=shape)
    for strength in strengths:
        u, v = rng.normal(size=n), rng.normal(size=m)
        w += strength * (n * m) ** 0.25 * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    return w


def test_spikes_above_the_threshold_are_found_where_they_should_be():
    """Benaych-Georges, Nadakuditi: s^2 = (theta^2 + n)(theta^2 + m)/theta^2."""
    rng, counts, places = np.random.default_rng(4), [], []
    theta2 = 2.5**2 * math.sqrt(100 * 150)
    for _ in range(40):
        s = weight_spectrum(torch.tensor(planted(rng, [2.5])))
        assert s.verdict in ("outliers", "other")
        counts.append((s.verdict, len(s.outliers)))
        places.append(s.outliers[0][0])
        assert s.outliers[0][1] < 1e-3 and abs(s.sigma.item() - 1) < 0.03
    assert counts.count(("outliers", 1)) >= 36
    truth = math.sqrt((theta2 + 100) * (theta2 + 150) / theta2)
    assert abs(np.mean(places) / truth - 1) < 0.01


def test_spikes_below_the_threshold_cannot_be_seen():
    rng = np.random.default_rng(5)
    found = [weight_spectrum(torch.tensor(planted(rng, [0.5]))).verdict for _ in range(40)]
    assert found.count("random") >= 36


def test_three_spikes_and_a_mean():
    rng = np.random.default_rng(6)
    s = weight_spectrum(torch.tensor(planted(rng, [3.0, 4.0, 5.0])))
    assert s.verdict == "outliers" and len(s.outliers) == 3
    shifted = rng.normal(size=(80, 80)) + 1.0  # a mean is a direction of its own
    assert weight_spectrum(torch.tensor(shifted)).verdict == "outliers"


def heavy(rng, alpha, m=200, n=300):
    """Haar singular vectors, eigenvalues from p(x) = (alpha - 1) x^-alpha, x > 1."""
    u, v = (np.linalg.qr(rng.normal(size=(k, m)))[0] for k in (m, n))
    s = np.sqrt(rng.random(m) ** (-1 / (alpha - 1)))
    return torch.tensor(u @ np.diag(s) @ v.T)


def test_a_planted_power_law_is_called_heavy_tailed():
    rng, z, verdicts = np.random.default_rng(7), [], []
    for _ in range(15):
        s = weight_spectrum(heavy(rng, 2.5), resamples=40)
        verdicts.append(s.verdict)
        z.append((s.tail.alpha.item() - 2.5) / s.tail.alpha.stderr)
    assert verdicts.count("heavy-tailed") >= 12
    assert abs(np.mean(z)) < 1 and np.abs(z).max() < 5 and np.std(z) < 2


def test_without_resamples_no_power_law_is_claimed():
    s = weight_spectrum(heavy(np.random.default_rng(8), 2.5), resamples=0)
    assert s.verdict == "other" and math.isnan(s.tail.p_value.item())


def test_neither_random_nor_heavy_tailed():
    """Rows of different size: the bulk is no Marchenko-Pastur law, and there is no tail."""
    rng = np.random.default_rng(9)
    w = rng.normal(size=(100, 150)) * np.repeat([0.2, 1.0], 50)[:, None]
    s = weight_spectrum(torch.tensor(w), resamples=50)
    assert s.verdict == "other" and "50 of 100" in s.reason and s.tail is not None
    smooth = rng.normal(size=(100, 150)) * np.linspace(0.3, 1.0, 100)[:, None]
    s = weight_spectrum(torch.tensor(smooth), resamples=50)
    assert s.verdict == "other" and s.bulk_p < 0.01


@pytest.mark.parametrize("shape", [(16, 27), (64, 64), (32, 200)])
def test_orthogonal_matrices_are_flat_in_every_precision(shape):
    q = torch.linalg.qr(numbers(max(shape), min(shape)))[0]
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        rounded = q.to(dtype)
        assert weight_spectrum(rounded).verdict == weight_spectrum(rounded.mT).verdict == "flat"
        # as a float64 copy holds it
        assert weight_spectrum(rounded.double()).verdict == "flat"
    thin = numbers(8, 200_000)  # random, though its singular values differ by 1%
    assert weight_spectrum(thin.bfloat16()).verdict == "random"


def test_orthogonal_small_and_zero():
    q = torch.linalg.qr(numbers(30, 30))[0]
    assert weight_spectrum(q).verdict == "flat" and weight_spectrum(q).tail is None
    assert weight_spectrum(numbers(5, 50)).verdict == "too small"
    zero = weight_spectrum(torch.zeros(20, 20))
    assert zero.verdict == "zero" and math.isnan(zero.stable_rank) and math.isnan(zero.entropy)


def test_a_trained_layer_has_outliers():
    data = load("digits")
    x, y = data.x_train, data.y_train
    model = untrained((64, 64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    assert weight_spectrum(model[0]).verdict == "random"
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x.float()), y.long()).backward()
        optimizer.step()
    s = weight_spectrum(model[0], resamples=20)
    assert s.verdict != "random" and len(s.outliers) >= 2
    assert s.edge_ratio.item() - 1 > 10 * s.edge_ratio.stderr


# -- power laws ----------------------------------------------------------------------------------
def test_exponent_of_a_pure_power_law():
    rng, z = np.random.default_rng(10), []
    for _ in range(20):
        fit = fit_power_law(rng.random(300) ** (-1 / 1.2), 30)
        z.append((fit.alpha.item() - 2.2) / fit.alpha.stderr)
    assert abs(np.mean(z)) < 4 / math.sqrt(20) + 0.3 and np.abs(z).max() < 5


def test_goodness_of_fit_tells_a_power_law_from_an_exponential():
    rng = np.random.default_rng(11)
    good = [fit_power_law(rng.random(300) ** (-1 / 1.5), 40).p_value.item() for _ in range(10)]
    assert np.mean([p >= 0.1 for p in good]) > 0.7
    fit = fit_power_law(1 + rng.exponential(size=1000), 40)
    assert not fit.heavy


def test_likelihood_ratios():
    rng = np.random.default_rng(12)
    power = fit_power_law(rng.random(2000) ** (-1 / 1.5))
    assert power.versus["exponential"][0] > 0 and power.versus["exponential"][1] < 0.01
    normal = fit_power_law(np.exp(rng.normal(size=3000)))
    assert normal.n_tail < 3000


def test_against_powerlaw():
    """The reference implementation at the same start of the tail, and its own start."""
    powerlaw = pytest.importorskip("powerlaw")
    x = np.random.default_rng(13).random(150) ** (-1 / 1.4)
    x[:40] = np.random.default_rng(14).random(40)  # a body below the tail
    ours = fit_power_law(x)
    fixed = powerlaw.Fit(x, xmin=ours.xmin, verbose=False)
    assert math.isclose(ours.alpha.item(), fixed.power_law.alpha, rel_tol=1e-9)
    assert math.isclose(ours.alpha.stderr, fixed.power_law.sigma, rel_tol=1e-9)
    assert abs(ours.distance - fixed.power_law.D) <= 1 / ours.n_tail + 1e-12
    ratio, p = fixed.distribution_compare("power_law", "exponential")
    assert math.isclose(ours.versus["exponential"][0], ratio, rel_tol=1e-6)
    assert math.isclose(ours.versus["exponential"][1], p, rel_tol=1e-3)
    # log-normal numbers: a power law is nearly a limit of it, where its fit is ill-defined
    y = np.sort(np.exp(np.random.default_rng(15).normal(0, 0.7, 400)))
    body = powerlaw.Fit(y, xmin=y[80], verbose=False)
    ratio, p = body.distribution_compare("power_law", "lognormal")
    found = tail._against_lognormal(y[80:], body.power_law.alpha)
    assert math.isclose(found[0], ratio, rel_tol=0.02) and math.isclose(found[1], p, rel_tol=0.2)
    free = powerlaw.Fit(x, verbose=False)
    assert abs(free.power_law.alpha - ours.alpha.item()) < 3 * ours.alpha.stderr


# -- bad input -----------------------------------------------------------------------------------
def test_bad_input():
    for weight, error, words in (
        ("w", TypeError, "tensor or a layer"),
        (nn.Tanh(), TypeError, "no tensor called weight"),
        (torch.ones(5), ValueError, "two axes"),
        (torch.ones(5, 5, dtype=torch.int64), ValueError, "real"),
        (torch.ones(5, 5, dtype=torch.complex64), ValueError, "real"),
        (torch.full((9, 9), math.nan), ValueError, "not finite"),
        (nn.LayerNorm(5), ValueError, "two axes"),
    ):
        with pytest.raises(error, match=words):
            weight_spectrum(weight)
    with pytest.raises(ValueError, match="resamples"):
        weight_spectrum(torch.ones(9, 9), resamples=-1)
    with pytest.raises(TypeError, match="model"):
        weight_spectra(torch.ones(9, 9))
    for model in (nn.Tanh(), nn.LayerNorm(4)):
        with pytest.raises(NotApplicableError, match="two axes"):
            weight_spectra(model)
    bad = untrained((9, 9))
    with torch.no_grad():
        bad[0].weight[0, 0] = math.inf
    with pytest.raises(ValueError, match=r"0\.weight: weight holds"):
        weight_spectra(bad)
    for values, words in (
        ([1.0] * 50, "distinct"),
        (np.arange(5.0), "distinct"),
        (np.full(50, np.nan), "finite"),
        (-np.arange(50.0), "negative"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_power_law(values)


def test_same_seed_same_bits_and_nothing_changed():
    w, model = heavy(np.random.default_rng(15), 2.5), nn.Linear(300, 200).double()
    model.requires_grad_(False)
    state = torch.get_rng_state()
    with torch.no_grad():
        model.weight.copy_(w)
    a, b = (weight_spectra(model, resamples=10)["weight"] for _ in range(2))
    assert a.tail.alpha.stderr == b.tail.alpha.stderr
    assert torch.equal(model.weight, w) and torch.equal(state, torch.get_rng_state())


# -- the quantity --------------------------------------------------------------------------------
def test_measure_and_the_limit_of_its_cost(monkeypatch):
    from thermolearn.measure.spectra import quantity

    model = untrained((40, 30, 20, 4))
    window = window_of(model, nn.MSELoss(), (numbers(6, 40).float(), numbers(6, 4).float()))
    values = WeightSpectra().measure(window)
    spectra = weight_spectra(model)
    assert window.names["spectra"] == list(spectra) == ["0.weight", "1.weight", "2.weight"]
    for k, s in enumerate(spectra.values()):
        assert math.isclose(values["stable_rank"].value[k], s.stable_rank, rel_tol=1e-9)
        assert math.isclose(values["spectral_entropy"].value[k], s.entropy, rel_tol=1e-9)
    assert math.isclose(values["edge_ratio"].value[0], spectra["0.weight"].edge_ratio.item())
    assert math.isnan(values["edge_ratio"].value[2])
    monkeypatch.setattr(quantity, "WORK_SNAPSHOT", 20 * 600 + 4 * 80.0)
    values = WeightSpectra().measure(window)
    assert np.isnan(values["stable_rank"].value).tolist() == [True, False, False]
    assert "1 weights beyond" in values["stable_rank"].note


def test_a_run_with_a_summary():
    model, x, y = untrained((30, 30, 4)), numbers(40, 30).float(), torch.arange(40) % 4
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    probe = Probe(model, F.cross_entropy, optimizer, (x, y), 10, quantities=[WeightSpectra()])
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    (row,) = [r for r in probe.rows if r["kind"] == "summary"]
    table = row["tables"]["weights"]
    first = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert first["first"] == "random" and first["last"] != "random" and first["outliers"] >= 1
    assert dict(zip(table["columns"], table["rows"][1], strict=True))["last"] == "too small"
    assert not [r for r in probe.rows if r["kind"] in ("error", "not_applicable")]


def test_log_normal_eigenvalues_are_not_random():
    rng = np.random.default_rng(16)
    u, v = (np.linalg.qr(rng.normal(size=(k, 100)))[0] for k in (100, 120))
    w = u @ np.diag(np.exp(stats.norm.rvs(size=100, random_state=1))) @ v.T
    assert weight_spectrum(torch.tensor(w), resamples=20).verdict != "random"

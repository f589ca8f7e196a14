"""State functions: published numbers, naive sums, identities, limits, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import naive_m, naive_state_functions, random_blocks, sinnet

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.canonical import CanonicalEnsemble, NeuronSystem, UnstableEnsembleError

SCALARS = ("log_partition", "free_energy", "average_loss", "energy_variance", "heat_capacity",
           "complexity")  # fmt: skip


@pytest.fixture(scope="module")
def sin_blocks():
    model, x = sinnet([5, 7, 6, 4], 1.5)
    return NeuronSystem(model).jacobian_blocks(x)


# beta, m, log det A, U, C_V, S_rel, S_diff, C, edge Laplacian
PUBLISHED = [
    (10.0, 0.0, 53.80857960, 0.963788831, 8.59229156, -17.26640149, 4.31235793, -1.57585378,
     1.06762575),
    (10.0, 0.02, 53.25044385, 0.956974891, 8.50661912, -17.05547302, 4.59142580, -1.29678590,
     0.935009084),
]  # fmt: skip


@pytest.mark.parametrize("method", ["block", "dense"])
@pytest.mark.parametrize("row", PUBLISHED)
def test_reference_numbers(sin_blocks, method, row):
    beta, mass, log_det, u, c_v, s_rel, s_diff, complexity, laplacian = row
    e = CanonicalEnsemble(sin_blocks, beta, mass, method)
    log_z = 0.5 * 22 * math.log(2 * math.pi) - 0.5 * log_det
    found = [e.log_partition, e.average_loss, e.heat_capacity, e.entropy(),
             e.entropy("differential"), e.complexity, e.laplacian()]  # fmt: skip
    expected = [log_z, u, c_v, s_rel, s_diff, complexity, laplacian]
    for a, b in zip(found, expected, strict=True):
        assert float(a) == pytest.approx(b, rel=1e-6)


def test_reference_spectrum_cold_limit_and_fit(sin_blocks):
    e = CanonicalEnsemble(sin_blocks, 1000.0)
    assert float(e.average_loss) == pytest.approx(0.010981331, rel=1e-6)
    assert float(e.laplacian()) == pytest.approx(1.89414999e-4, rel=1e-6)
    eigenvalues = e.spectrum()[0]
    assert float(eigenvalues.min()) == pytest.approx(0.0981493497, rel=1e-7)
    assert float(eigenvalues.max()) == pytest.approx(8.39473261, rel=1e-7)
    assert float(eigenvalues.sum()) == pytest.approx(36.6472893, rel=1e-7)
    assert float((1 / eigenvalues).sum()) == pytest.approx(37.5114709, rel=1e-7)
    assert abs(float(eigenvalues.log().sum())) < 1e-10
    for target, beta in ((0.05, 218.31721), (1.0, 9.5940049)):
        fitted = CanonicalEnsemble.fit(sin_blocks, average_loss=target)
        assert fitted.beta == pytest.approx(beta, rel=1e-6)
        assert float(fitted.average_loss) == pytest.approx(target, rel=1e-9)


def test_reference_numbers_relu():
    model, x = sinnet([4, 6, 3], 2.0, torch.nn.ReLU)
    e = CanonicalEnsemble(NeuronSystem(model).jacobian_blocks(x), 1.0)
    log_det = 13 * math.log(2 * math.pi) - 2 * float(e.log_partition)
    assert log_det == pytest.approx(10.99596447, rel=1e-6)
    assert float(e.average_loss) == pytest.approx(3.25440199, rel=1e-6)
    assert float(e.entropy("differential")) == pytest.approx(12.94821870, rel=1e-6)
    assert float(e.laplacian()) == pytest.approx(5.47566274, rel=1e-6)


@pytest.mark.parametrize("beta", [0.01, 1.0, 40.0, 1e4])
@pytest.mark.parametrize("mass", [-0.5, 0.0, 0.001])
@pytest.mark.parametrize("widths", [[5, 7, 6, 4], [30, 4, 3], [2, 12]])
def test_block_equals_dense_equals_definitions(widths, beta, mass):
    blocks = random_blocks(widths)
    expected = naive_state_functions(blocks, beta, mass)
    made = [CanonicalEnsemble(blocks, beta, mass, m, per_sample=True) for m in ("block", "dense")]
    for name in SCALARS:
        a, b = (getattr(e, name).value for e in made)
        scale = np.abs(b).max() + 1e-300
        assert np.abs(a - b).max() / scale < 1e-10, name
        np.testing.assert_allclose(b, expected[name].numpy(), rtol=1e-7, atol=1e-9, err_msg=name)
    for kind in ("relative", "differential"):
        np.testing.assert_allclose(
            made[0].entropy(kind).value, expected[kind].numpy(), rtol=1e-8, atol=1e-8
        )


def test_batch_mean_and_its_error_bar():
    blocks = random_blocks([4, 5, 3], batch=7)
    each = CanonicalEnsemble(blocks, 3.0, per_sample=True).average_loss
    mean = CanonicalEnsemble(blocks, 3.0).average_loss
    assert each.value.shape == (7,) and np.all(each.stderr == 0)
    assert float(mean) == pytest.approx(each.value.mean())
    assert mean.stderr == pytest.approx(each.value.std(ddof=1) / math.sqrt(7))
    assert math.isnan(CanonicalEnsemble([b[:1] for b in blocks], 3.0).average_loss.stderr)


@pytest.mark.parametrize("reference", ["fixed-point", "origin", "flat"])
@pytest.mark.parametrize("method", ["block", "dense"])
def test_thermodynamic_identities_by_finite_differences(reference, method):
    model, x = sinnet([4, 5, 3], 1.2)
    blocks = NeuronSystem(model).jacobian_blocks(x)
    mass = -0.1

    def at(beta):
        return CanonicalEnsemble(blocks, beta, mass, method, reference)

    beta, h = 4.0, 1e-4
    u = -(float(at(beta + h).log_partition) - float(at(beta - h).log_partition)) / (2 * h)
    assert float(at(beta).average_loss) == pytest.approx(u, rel=1e-7)
    var = -(float(at(beta + h).average_loss) - float(at(beta - h).average_loss)) / (2 * h)
    assert float(at(beta).energy_variance) == pytest.approx(var, rel=1e-7)
    assert float(at(beta).heat_capacity) == pytest.approx(beta**2 * var, rel=1e-7)
    assert float(at(beta).free_energy) == pytest.approx(-float(at(beta).log_partition) / beta)
    # Gibbs: T dS = dU at fixed weights, for the entropy of the first law only
    ds = float(at(beta + h).entropy()) - float(at(beta - h).entropy())
    du = float(at(beta + h).average_loss) - float(at(beta - h).average_loss)
    assert ds / beta == pytest.approx(du, rel=1e-6)
    if reference != "flat":
        d_diff = float(at(beta + h).entropy("differential")) - float(
            at(beta - h).entropy("differential")
        )
        assert abs(d_diff / beta - du) > 0.1 * abs(du)


def test_the_two_entropies_and_the_split(sin_blocks):
    e = CanonicalEnsemble(sin_blocks, 10.0)
    s_rel, s_diff = float(e.entropy("relative")), float(e.entropy("differential"))
    eigenvalues = e.spectrum()
    fluctuation = 0.5 * float((1 / (1 + 10 * eigenvalues)).sum())
    assert s_diff == pytest.approx(s_rel + 11 * math.log(2 * math.pi) + fluctuation, rel=1e-10)
    assert s_diff == pytest.approx(e.thermodynamic_entropy + float(e.complexity), rel=1e-12)
    assert float(e.total_entropy) == s_diff
    assert s_rel <= 0
    flat = CanonicalEnsemble(sin_blocks, 10.0, -0.3, reference="flat")
    assert float(flat.entropy("relative")) == pytest.approx(float(flat.entropy("differential")))


def test_flat_feed_forward_ensemble_is_trivial(sin_blocks):
    e = CanonicalEnsemble(sin_blocks, 7.0, reference="flat")
    assert float(e.average_loss) == pytest.approx(22 / 14, rel=1e-14)
    assert float(e.log_partition) == pytest.approx(11 * math.log(2 * math.pi / 7), rel=1e-12)
    assert abs(float(e.complexity)) < 1e-10


def test_origin_reference_against_three_dimensional_quadrature():
    # f(z) = z, recurrent w, beta = 2, m = .2: the exponent integrated on a grid
    w = torch.tensor([[0.1, 0.4, 0.0], [-0.3, 0.2, 0.5], [0.2, 0.0, -0.1]], dtype=torch.float64)
    b = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    beta, mass = 2.0, 0.2
    grid = torch.linspace(-9, 9, 121, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid, grid)
    h = 0.5 * ((x - x @ w.T - b) ** 2).sum(1) - 0.5 * mass * (x**2).sum(1)
    log_z = torch.logsumexp(-beta * h - 0.5 * (x**2).sum(1), 0) + 3 * math.log(18 / 120)
    fixed = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - w, b)[None]
    e = CanonicalEnsemble(w[None], beta, mass, reference="origin", fixed_point=fixed)
    assert float(e.log_partition) == pytest.approx(float(log_z), abs=1e-10)


def test_dense_recurrent_matrix_and_its_determinant():
    generator = torch.Generator().manual_seed(0)
    j = 2 * torch.randn(2, 40, 40, generator=generator, dtype=torch.float64) / 40**0.5
    e = CanonicalEnsemble(j, 3.0)
    assert e.method == "dense"
    m = torch.eye(40, dtype=torch.float64) - j
    expected = -0.5 * torch.logdet(m.mT @ m + torch.eye(40, dtype=torch.float64) / 3)
    assert float(e.complexity) == pytest.approx(float(expected.mean()))
    with pytest.raises(ValueError, match="feed-forward blocks"):
        CanonicalEnsemble(j, 3.0, method="block")
    with pytest.raises(NotApplicableError):
        e.laplacian()


# -- Lanczos quadrature ---------------------------------------------------------------------------


@pytest.mark.parametrize(("beta", "inverse"), [(2.0, False), (300.0, True)])
def test_lanczos_error_bars_cover_the_exact_value(beta, inverse):
    blocks = random_blocks([30, 25, 20, 10], batch=1, scale=1.3)
    exact = CanonicalEnsemble(blocks, beta, method="block")
    z = []
    for seed in range(60):
        e = CanonicalEnsemble(blocks, beta, method="slq", probes=10, steps=40, seed=seed)
        z.append((float(e.complexity) - float(exact.complexity)) / e.complexity.stderr)
        assert e._backend().inverse is inverse
    z = np.array(z)
    # Student's t with 9 degrees: standard deviation 1.134
    assert abs(z.mean()) < 4 * 1.134 / math.sqrt(60)
    assert 0.7 < z.std(ddof=1) < 1.7


def test_cold_lanczos_is_sharper_on_the_inverse():
    blocks = random_blocks([30, 25, 20, 10], batch=1)
    cold = CanonicalEnsemble(blocks, 1000.0, method="slq", probes=20)
    hot = CanonicalEnsemble(blocks, 9.99, method="slq", probes=20)
    assert cold.complexity.stderr < 0.05 * hot.complexity.stderr
    exact = float(CanonicalEnsemble(blocks, 1000.0).complexity)
    assert abs(float(cold.complexity) - exact) < 4 * cold.complexity.stderr


def test_matrix_free_ensemble_equals_blocks_with_the_same_probes():
    model, x = sinnet([5, 7, 6, 4], 1.5)
    system = NeuronSystem(model)
    free = CanonicalEnsemble(system.jacobian_operator(x), 50.0)
    same = CanonicalEnsemble(system.jacobian_blocks(x), 50.0, method="slq")
    assert free.method == "slq"
    assert float(free.complexity) == pytest.approx(float(same.complexity), rel=1e-9)
    assert float(free.lambda_min) == pytest.approx(0.0981493497, rel=1e-6)
    with pytest.raises(ValueError, match="jacobian_blocks"):
        CanonicalEnsemble(system.jacobian_operator(x), 50.0, method="block")


def test_fit_by_lanczos_is_close_to_the_exact_fit():
    blocks = random_blocks([30, 25, 20, 10], batch=2)
    exact = CanonicalEnsemble.fit(blocks, average_loss=0.1)
    found = CanonicalEnsemble.fit(blocks, average_loss=0.1, method="slq", probes=40)
    assert found.beta == pytest.approx(exact.beta, rel=2e-3)


def test_spectral_weight_sums_to_one_for_all_methods():
    blocks = random_blocks([10, 8, 6], batch=4)
    edges = [0.0, 0.1, 0.5, 1.0, 2.0, 100.0]
    counts = (torch.linalg.svdvals(naive_m(blocks)) ** 2).flatten()
    expected = torch.histogram(counts, torch.tensor(edges, dtype=torch.float64)).hist / len(counts)
    exact = CanonicalEnsemble(blocks, 1.0, method="block").spectral_weight(edges)
    np.testing.assert_allclose(exact.value, expected.numpy(), atol=1e-12)
    found = CanonicalEnsemble(blocks, 1.0, method="slq", probes=400).spectral_weight(edges)
    assert found.value.sum() == pytest.approx(1.0, abs=1e-9)


def test_lanczos_spectral_weight_bar_is_that_of_the_samples():
    # sets of 4 like networks: the scatter between sets is what the bar of one set must say
    edges = [0.0, 0.5, 1.0, 2.0, 100.0]
    found = [
        CanonicalEnsemble(
            random_blocks([10, 8, 6], batch=4, seed=seed), 1.0, method="slq", probes=20
        ).spectral_weight(edges)
        for seed in range(40)
    ]
    scatter = np.std([f.value for f in found], axis=0, ddof=1)
    np.testing.assert_allclose(np.mean([f.stderr for f in found], 0), scatter, rtol=0.35)


def test_lanczos_above_the_critical_mass_is_unstable_too():
    blocks = random_blocks([60] * 6, batch=1, scale=1.5)
    limit = CanonicalEnsemble(blocks, 5.0).critical_mass
    assert CanonicalEnsemble(blocks, 5.0, method="slq").critical_mass == pytest.approx(limit, 1e-3)
    for mass in (1.02 * limit, 1.5 * limit):
        with pytest.raises(UnstableEnsembleError):
            _ = CanonicalEnsemble(blocks, 5.0, mass, "slq").average_loss
    near = CanonicalEnsemble(blocks, 5.0, 0.99 * limit, "slq", probes=60).average_loss
    assert near.status == "not converged"  # a hundredth from the pole
    below = CanonicalEnsemble(blocks, 5.0, 0.9 * limit, "slq", probes=60, steps=40).average_loss
    exact = float(CanonicalEnsemble(blocks, 5.0, 0.9 * limit).average_loss)
    assert below.status == "ok" and abs(float(below) - exact) < 4 * below.stderr


def test_unconverged_lanczos_is_flagged_and_more_steps_cure_it():
    generator = torch.Generator().manual_seed(0)
    j = 1.2 * torch.randn(2, 150, 150, generator=generator, dtype=torch.float64) / 150**0.5
    exact = float(CanonicalEnsemble(j, 1e5, method="dense").average_loss)
    for beta in (1e3, 1e5):
        few = CanonicalEnsemble(j, beta, method="slq", steps=20).average_loss
        assert few.status == "not converged"
    many = CanonicalEnsemble(j, 1e5, method="slq", steps=150).average_loss
    assert many.status == "ok" and abs(float(many) - exact) < 4 * many.stderr


# -- stability and fit --------------------------------------------------------------------


def test_instability_limit_is_named(sin_blocks):
    beta = 10.0
    limit = 0.0981493497 + 1 / beta
    assert CanonicalEnsemble(sin_blocks, beta).critical_mass == pytest.approx(limit, rel=1e-6)
    near = [float(CanonicalEnsemble(sin_blocks, beta, f * limit).heat_capacity)
            for f in (0.99, 0.999, 0.9999)]  # fmt: skip
    # C_V ~ (1 - m/m_c)^-2
    assert near[1] / near[0] == pytest.approx(100, rel=0.1)
    assert near[2] / near[1] == pytest.approx(100, rel=0.02)
    with pytest.raises(UnstableEnsembleError, match=r"m_c = 0\.198149") as caught:
        _ = CanonicalEnsemble(sin_blocks, beta, 1.001 * limit).average_loss
    assert caught.value.critical_mass == pytest.approx(limit, rel=1e-6)
    for method in ("dense", "slq"):
        with pytest.raises(UnstableEnsembleError):
            _ = CanonicalEnsemble(sin_blocks, beta, 1.001 * limit, method).log_partition


def test_smallest_eigenvalue_of_a_larger_net_by_bisection():
    blocks = random_blocks([200, 150, 100], batch=2, scale=1.5)
    e = CanonicalEnsemble(blocks, 1.0, method="block")
    exact = float((torch.linalg.svdvals(naive_m(blocks)) ** 2).min())
    assert e.lambda_min == pytest.approx(exact, rel=1e-7)


@pytest.mark.parametrize("target", [-1.0, 0.0, 18.4, 1e9])
def test_no_positive_temperature(sin_blocks, target):
    with pytest.raises(ValueError, match=r"no positive temperature.*18\.3236"):
        CanonicalEnsemble.fit(sin_blocks, average_loss=target)


def test_fit_near_its_limits(sin_blocks):
    for target in (18.3, 1e-9):
        e = CanonicalEnsemble.fit(sin_blocks, average_loss=target)
        assert float(e.average_loss) == pytest.approx(target, rel=1e-8)
    flat = CanonicalEnsemble.fit(sin_blocks, average_loss=0.5, reference="flat")
    assert flat.beta == pytest.approx(22)
    massive = CanonicalEnsemble.fit(sin_blocks, average_loss=-1.0, mass=0.12)
    assert float(massive.average_loss) == pytest.approx(-1.0, rel=1e-8)


@pytest.mark.parametrize("method", ["block", "dense", "slq"])
def test_hot_limit_keeps_its_digits(method):
    blocks = random_blocks([6, 5, 4], batch=1)
    m = naive_m(blocks)
    g = torch.linalg.eigvalsh(m.mT @ m)[0] + 0.2
    for beta in (1e-12, 1e-7, 1e-5, 1e-3):
        e = CanonicalEnsemble(blocks, beta, -0.2, method, probes=20, steps=15)
        u, c_v = (g / (1 + beta * g)).sum() / 2, ((beta * g / (1 + beta * g)) ** 2).sum() / 2
        if method == "slq":
            assert abs(float(e.average_loss) - float(u)) < 4 * e.average_loss.stderr
        else:
            assert float(e.average_loss) == pytest.approx(float(u), rel=1e-9)
            assert float(e.heat_capacity) == pytest.approx(float(c_v), rel=2e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=4),
    st.floats(-3, 5),
    st.integers(0, 10_000),
    st.floats(0.1, 3),
)
def test_properties_of_the_state_functions(widths, log_beta, seed, scale):
    blocks = random_blocks(widths, batch=2, seed=seed, scale=scale)
    beta = 10**log_beta
    e = CanonicalEnsemble(blocks, beta)
    n = sum(widths)
    assert -1e-9 <= float(e.heat_capacity) <= n / 2 + 1e-9
    assert float(e.entropy("relative")) <= 1e-9
    assert 0 < float(e.average_loss) <= n / (2 * beta) * (1 + 1e-12)
    assert float(e.average_loss) > float(e.at(2 * beta).average_loss)
    inverse = float((1 / (torch.linalg.svdvals(naive_m(blocks)) ** 2)).sum(-1).mean())
    cold = float(e.at(1e9).complexity)
    assert cold == pytest.approx(-0.5e-9 * inverse, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"beta": 0.0}, ValueError, "beta"),
        ({"beta": -1.0}, ValueError, "beta"),
        ({"beta": math.nan}, ValueError, "beta"),
        ({"beta": math.inf}, ValueError, "beta"),
        ({"mass": math.nan}, ValueError, "mass"),
        ({"method": "fast"}, ValueError, "method must be one of"),
        ({"reference": "here"}, ValueError, "reference must be one of"),
        ({"J": []}, ValueError, "J must be"),
        ({"J": [torch.ones(1, 2, 3), torch.ones(1, 2, 5)]}, ValueError, "does not chain"),
        ({"J": [torch.ones(0, 2, 3)]}, ValueError, "empty"),
        ({"J": [torch.full((1, 2, 3), math.nan)]}, ValueError, "NaN"),
        ({"J": torch.ones(1, 2, 3)}, ValueError, r"\(B, N, N\)"),
        ({"reference": "origin"}, ValueError, "fixed_point"),
    ],
)
def test_bad_arguments(arguments, error, words):
    arguments = {"J": random_blocks([3, 2]), "beta": 1.0, **arguments}
    if arguments["reference"] == "origin" if "reference" in arguments else False:
        arguments["J"] = torch.zeros(1, 2, 2)
    with pytest.raises(error, match=words):
        CanonicalEnsemble(**arguments)


def test_dense_memory_limit_suggests_the_other_methods():
    wide = [torch.zeros(1, 30_000, 1)]
    with pytest.raises(ValueError, match="'block' or 'slq'"):
        CanonicalEnsemble(wide, 1.0, method="dense")


def test_one_clamped_segment_has_no_couplings():
    model, x = sinnet([3, 2], 1.0)
    blocks = NeuronSystem(model, inputs="clamped").jacobian_blocks(x)
    e = CanonicalEnsemble(blocks, 4.0)
    assert float(e.average_loss) == pytest.approx(0.5 * 2 / (1 + 4))

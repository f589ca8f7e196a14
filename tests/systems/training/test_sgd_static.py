"""The end of gradient descent: published numbers, finite d by scikit-learn, limits, bad input."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog, minimize, minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from thermolearn.core.errors import ConvergenceError, NotApplicableError
from thermolearn.systems.training.sgd_noise.fresh import separability
from thermolearn.systems.training.sgd_noise.losses import Loss, as_loss, hinge2
from thermolearn.systems.training.sgd_noise.model import GaussianMixturePerceptron
from thermolearn.systems.training.sgd_noise.static import prox


def test_ridge_has_the_published_values():
    state = GaussianMixturePerceptron(2, 0.5, loss="quadratic").static(0.1)
    for name, value in (("m", 0.630087), ("C", 0.778657), ("chi", 1.483315)):
        e = getattr(state, name)
        assert abs(e.value - value) < 1e-5 and e.stderr < 1e-9


def test_ridge_is_the_marchenko_pastur_law():
    """chi = (1/d) tr (A + lambda)^-1, and least squares without weight decay by hand."""
    alpha, Delta, decay = 3.0, 0.7, 0.2
    b = decay + Delta * (alpha - 1)
    chi = (-b + np.sqrt(b**2 + 4 * Delta * decay)) / (2 * Delta * decay)
    model = GaussianMixturePerceptron(alpha, Delta, loss="quadratic")
    assert model.static(decay).chi.value == pytest.approx(chi, rel=1e-10)
    # m = 1/(1 + Delta), excess variance (1 - m)/(alpha - 1)
    plain = model.static(0.0)
    m = 1 / (1 + Delta)
    assert plain.m.value == pytest.approx(m, rel=1e-9)
    assert plain.C.value == pytest.approx(m**2 + (1 - m) / (Delta * (alpha - 1)), rel=1e-9)
    assert plain.chi.value == pytest.approx(1 / (Delta * (alpha - 1)), rel=1e-9)


MINIMIZERS = {
    "quadratic": lambda lam: Ridge(alpha=lam, fit_intercept=False),
    "logistic": lambda lam: LogisticRegression(
        C=1 / lam, fit_intercept=False, tol=1e-8, max_iter=1000
    ),
    "hinge2": lambda lam: LinearSVC(
        loss="squared_hinge", dual=True, C=0.5 / lam, fit_intercept=False, tol=1e-7, max_iter=50_000
    ),
}


@pytest.mark.parametrize("loss", MINIMIZERS)
def test_scikit_learn_finds_the_same_minimum(loss):
    alpha, Delta, decay, d = 2.0, 0.5, 0.3, 300
    model = GaussianMixturePerceptron(alpha, Delta, [(0.7, 1, 1), (0.3, -1, -1)], loss)
    state = model.static(decay)
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        c, y = model.clusters.stratified(int(alpha * d))
        x = c[:, None] / np.sqrt(d) + np.sqrt(Delta) * rng.standard_normal((len(c), d))
        fit = MINIMIZERS[loss](decay).fit(x / np.sqrt(d), y)
        w = np.ravel(fit.coef_)
        h = x @ w / np.sqrt(d)
        wrong = float(np.mean(np.sign(h) != y))
        found.append([w.mean(), w @ w / d, model.losses.value(h, y).mean(), wrong])
    mean, stderr = np.mean(found, 0), np.std(found, 0, ddof=1) / np.sqrt(len(found))
    exact = [float(getattr(state, k)) for k in ("m", "C", "loss", "error")]
    assert (np.abs(mean - exact) < 4 * stderr + 1.5 / d * np.abs(exact)).all(), (mean, exact)


def test_squared_hinge_has_the_values_of_a_large_minimization():
    """From a solution of the equations of its own and minimization at d = 2000."""
    state = GaussianMixturePerceptron(2.0, 0.5, loss="hinge2").static(0.1)
    for name, value in (("m", 0.959479), ("C", 1.614960), ("chi", 3.445315)):
        e = getattr(state, name)
        assert abs(e.value - value) < 1e-6 and e.stderr < 1e-8, name


def test_wide_fields_are_averaged_as_well():
    """Fields of standard deviation 100, at whose scale the prox bends sharply: the equations of
    the state by a plain sum over a fine grid."""
    alpha, Delta, decay = 2.0, 1e4, 0.01
    model = GaussianMixturePerceptron(alpha, Delta, loss="logistic")
    state = model.static(decay)
    m, C, chi = (float(getattr(state, k)) for k in ("m", "C", "chi"))
    assert state.C.stderr < 1e-8 * C
    # both clusters are alike
    z = np.linspace(-9, 9, 400_001)
    weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    omega, V = m + np.sqrt(Delta * C) * z, Delta * chi
    h = prox(model.losses, omega, 1.0, V)
    g, second = (omega - h) / V, expit(h) * expit(-h)
    a = decay + alpha * Delta * (weight @ (second / (1 + V * second)))
    assert chi == pytest.approx(1 / a, rel=1e-6)
    assert m == pytest.approx(-alpha * (weight @ g) / a, rel=1e-6)
    assert pytest.approx(m**2 + alpha * Delta * (weight @ g**2) / a**2, rel=1e-6) == C


def test_averages_that_are_not_exact_are_refused():
    """A loss that bends within a thousandth of a field, of which nothing is known."""
    sharp = Loss(
        "sharp",
        lambda h, y: np.logaddexp(0, -1e5 * (y * h - 0.3)) / 1e5,
        lambda h, y: -y * expit(-1e5 * (y * h - 0.3)),
        lambda h, y: 1e5 * expit(1e5 * (y * h - 0.3)) * expit(-1e5 * (y * h - 0.3)),
        True,
    )
    with pytest.raises(ConvergenceError, match=r"uncertain|not converge"):
        GaussianMixturePerceptron(3.0, 1.0, loss=sharp).static(0.1)


def test_labels_that_are_not_signs_and_uneven_clusters():
    """Against a direct minimization, with a margin of its own and three clusters."""
    rows = [(0.25, 1.0, 2.0), (0.25, -0.5, -1.0), (0.5, 0.0, 1.0)]
    model = GaussianMixturePerceptron(1.5, 0.8, rows, hinge2(0.4))
    state, d = model.static(0.2), 400
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        c, y = model.clusters.stratified(600)
        x = (c[:, None] / np.sqrt(d) + np.sqrt(0.8) * rng.standard_normal((600, d))) / np.sqrt(d)

        def cost(w, x=x, y=y):
            h = x @ w
            g = x.T @ model.losses.first(h, y) + 0.2 * w
            return model.losses.value(h, y).sum() + 0.1 * w @ w, g

        w = minimize(cost, np.zeros(d), jac=True, method="L-BFGS-B", tol=1e-11).x
        found.append([w.mean(), w @ w / d, model.losses.value(x @ w, y).mean()])
    mean, stderr = np.mean(found, 0), np.std(found, 0, ddof=1) / np.sqrt(8)
    exact = [float(state.m), float(state.C), float(state.loss)]
    assert (np.abs(mean - exact) < 4 * stderr + 1.5 / d).all(), (mean, exact)


def test_a_callable_has_the_state_of_the_loss_it_is():
    """Also where l'' jumps, which the quadrature has to know."""

    def margin(h, y):
        return torch.clamp(1 - y * h, min=0) ** 2 / 2

    a = GaussianMixturePerceptron(1.2, 0.8, loss="hinge2").static(0.4)
    b = GaussianMixturePerceptron(1.2, 0.8, loss=margin).static(0.4)
    for quantity in ("m", "C", "chi", "loss", "error", "test_loss", "test_error"):
        assert float(getattr(b, quantity)) == pytest.approx(float(getattr(a, quantity)), rel=1e-8)


@pytest.mark.parametrize("name", ["quadratic", "logistic", "hinge2"])
@pytest.mark.parametrize("V", [1e-6, 0.3, 20.0, 1e6])
def test_the_prox_solves_its_equation(name, V):
    loss, omega = as_loss(name), np.linspace(-50, 50, 20_001)
    for y in (-1.0, 1.0):
        h = prox(loss, omega, y, V)
        miss = h + V * loss.first(h, y) - omega
        assert np.abs(miss).max() < 1e-12 * (50 + V)
        assert (np.diff(h) >= 0).all()


def test_test_error_is_that_of_fresh_samples():
    state = GaussianMixturePerceptron(2, 0.5, loss="logistic").static(0.1)
    from scipy.special import ndtr

    exact = ndtr(-state.m.value / np.sqrt(0.5 * state.C.value))
    assert state.test_error.value == pytest.approx(exact, rel=1e-12)
    assert state.error.value < state.test_error.value and state.loss.value < state.test_loss.value


def test_separability_at_large_noise_is_that_of_random_labels():
    assert separability(GaussianMixturePerceptron(1, 1e6)) == pytest.approx(2, abs=1e-3)
    even = GaussianMixturePerceptron(1, 0.5, [(0.5, 0, 1), (0.5, 0, -1)])
    assert separability(even) == pytest.approx(2, abs=1e-9)


def test_separability_by_linear_programming():
    limit = separability(GaussianMixturePerceptron(1, 1.0))  # 3.70
    d, separated = 80, []
    for alpha in (0.7 * limit, 1.35 * limit):
        for seed in range(4):
            rng = np.random.default_rng(seed)
            n = round(alpha * d)
            x = 1 / np.sqrt(d) + rng.standard_normal((n, d))
            found = linprog(np.zeros(d), A_ub=-x, b_ub=-np.ones(n), bounds=(None, None))
            separated.append(found.status == 0)
    assert separated == [True] * 4 + [False] * 4


def test_weak_weight_decay_tends_to_the_largest_margin():
    """Least |w|^2/d = C of margin 1: min_m alpha <(1 - m - sqrt(C) z)_+^2> = C - m^2 (Gordon)."""
    alpha, z = 1.5, np.linspace(-12, 12, 200_001)
    weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()

    def short(C):
        def at(m):
            return alpha * (weight @ np.maximum(1 - m - np.sqrt(C) * z, 0) ** 2) - C + m**2

        return minimize_scalar(at, bounds=(0, np.sqrt(C)), method="bounded").fun

    C = brentq(short, 1.0, 20.0, xtol=1e-8)
    state = GaussianMixturePerceptron(alpha, 1.0, loss="hinge2").static(1e-6)
    assert state.C.value == pytest.approx(C, rel=1e-4)
    assert state.error.value < 1e-8


# -- bad input ---------------------------------------------------------------------------------
def test_a_loss_that_is_not_convex_has_no_unique_end():
    model = GaussianMixturePerceptron(2, 0.3, loss=lambda h, y: torch.cos(h - y))
    with pytest.raises(NotApplicableError, match="not convex"):
        model.static(0.1)


@pytest.mark.parametrize(("loss", "alpha"), [("logistic", 3.0), ("hinge2", 3.0), ("quadratic", 1)])
def test_without_weight_decay_separable_data_have_no_stationary_state(loss, alpha):
    with pytest.raises(NotApplicableError, match="weight_decay"):
        GaussianMixturePerceptron(alpha, 1.0, loss=loss).static(0.0)


def test_without_weight_decay_there_is_one_beyond_the_separability():
    state = GaussianMixturePerceptron(5.0, 1.0, loss="logistic").static(0.0)
    assert state.error.value > 0 and np.isfinite(state.C.value)


def test_bad_weight_decay_and_a_loss_without_a_finite_minimum():
    with pytest.raises(ValueError, match="weight_decay"):
        GaussianMixturePerceptron(2, 1).static(-0.1)
    slope = Loss("linear", lambda h, y: -y * h, lambda h, y: -y + 0 * h, lambda h, y: 0 * h, True)
    model = GaussianMixturePerceptron(2, 1, loss=slope)
    with pytest.raises((ConvergenceError, NotApplicableError), match="weight_decay"):
        model.static(0.0)

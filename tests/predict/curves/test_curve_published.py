"""Deterministic numbers of the theory on the sphere, to the digits known from another program."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from reference_kernels import erf_nngp, relu

from thermolearn.predict.curves import learning_curve
from thermolearn.predict.spectrum import Spectrum, sphere_spectrum

TARGET = {1: 0.5, 2: 0.3, 3: 0.2}
SC, EK, SL = "self-consistent", "equivalence-kernel", "subleading"
RG3, RS3 = ("renormalized", 3), ("renormalized-subleading", 3)
NAN = float("nan")
# ReLU NTK, depth 4, sigma_w2 = 2, sigma_b2 = 0, d = 8: noise, N, SC, EK, SL, RG3, RS3, kappa
MAIN = [
    (0, 25, 0.5873, NAN, NAN, 0.3098, 0.6220, 0.17449),
    (0, 50, 0.4123, NAN, NAN, 0.2170, 0.4057, 0.07262),
    (0, 100, 0.2622, NAN, NAN, 0.1424, 0.2460, 0.02990),
    (0, 200, 0.1461, NAN, NAN, 0.0836, 0.1343, 0.01236),
    (0, 400, 0.0658, NAN, NAN, 0.0411, 0.0611, 0.00518),
    (2, 25, 0.6367, 0.3379, 0.7583, 0.4379, 0.6638, 0.26999),
    (2, 50, 0.4704, 0.2402, 0.5278, 0.3243, 0.4752, 0.12094),
    (2, 100, 0.3252, 0.1609, 0.3480, 0.2290, 0.3214, 0.05405),
    (2, 200, 0.2079, 0.0979, 0.2162, 0.1519, 0.2033, 0.02428),
    (2, 400, 0.1195, 0.0508, 0.1180, 0.0909, 0.1167, 0.01104),
    (20, 50, 0.6993, 0.6291, 0.7072, 0.6446, 0.7028, 0.50631),
    (20, 200, 0.4185, 0.3732, 0.4202, 0.3863, 0.4186, 0.12021),
    (20, 800, 0.2058, 0.1845, 0.2060, 0.1933, 0.2056, 0.02870),
]


@pytest.fixture(scope="module")
def ntk() -> Spectrum:
    return sphere_spectrum(relu(4), 8)


@pytest.mark.parametrize(("noise", "n", "sc", "ek", "sl", "rg", "rs", "kappa"), MAIN)
def test_main_table(
    ntk: Spectrum,
    noise: float,
    n: int,
    sc: float,
    ek: float,
    sl: float,
    rg: float,
    rs: float,
    kappa: float,
) -> None:
    curve = learning_curve(ntk, TARGET, n, noise)
    assert curve.kappa[0] == pytest.approx(kappa, abs=5e-6)
    for order, printed in ((SC, sc), (EK, ek), (SL, sl), (RG3, rg), (RS3, rs)):
        if np.isnan(printed):
            with pytest.raises(ValueError, match="noise > 0"):
                learning_curve(ntk, TARGET, n, noise, order=order)
        else:
            value = learning_curve(ntk, TARGET, n, noise, order=order).test_error[0]
            assert value == pytest.approx(printed, abs=5e-5)


def test_learned_fractions_and_train_error(ntk: Spectrum) -> None:
    learned = learning_curve(ntk, TARGET, 200, 0).learnability[0]
    np.testing.assert_allclose(learned[1:4], [0.9538, 0.7632, 0.3011], atol=5e-5)
    assert learning_curve(ntk, TARGET, 200, 2).train_error[0] == pytest.approx(0.03526, abs=5e-6)


def test_loop_ratios(ntk: Spectrum) -> None:
    two = learning_curve(ntk, TARGET, [25, 50, 100, 200, 400], 2.0).loop_ratio
    np.testing.assert_allclose(two, [1.85, 1.59, 1.37, 1.18, 1.03], atol=0.005)
    twenty = learning_curve(ntk, TARGET, [50, 200, 800], 20.0).loop_ratio
    np.testing.assert_allclose(twenty, [0.26, 0.19, 0.14], atol=0.0051)


def test_conservation_law(ntk: Spectrum) -> None:
    n = np.geomspace(1, 1e6, 60)
    for noise in (0.0, 1e-6, 2.0, 1e4):
        curve = learning_curve(ntk, TARGET, n, noise)
        law = curve.learnability @ ntk.degeneracies + (noise + ntk.tail()) / curve.kappa
        np.testing.assert_allclose(law, n, rtol=1e-9)
        # and the posterior variance is the other form of it
        np.testing.assert_allclose(curve.predictive_variance, n * curve.kappa - noise, atol=1e-9)


@pytest.mark.parametrize(
    ("scale", "first", "second"),
    [
        (10, 0.8693, -0.699),
        (1e2, 0.9323, -0.687),
        (1e3, 0.9385, -0.684),
        (1e4, 0.9392, -0.684),
    ],
)
def test_subleading_is_the_first_order_of_the_self_consistent_curve(
    ntk: Spectrum, scale: float, first: float, second: float
) -> None:
    sc, ek, sl = (
        learning_curve(ntk, TARGET, 10 * scale, scale, order=order).test_error[0]
        for order in (SC, EK, SL)
    )
    assert scale * (sc - ek) == pytest.approx(first, abs=6e-5)
    assert scale**2 * (sc - sl) == pytest.approx(second, abs=6e-4)


@pytest.mark.parametrize(
    "name",
    ["train_error", "predictive_variance", "log_evidence", "log_det", "quadratic", "kappa", "bias"],
)
def test_every_subleading_quantity_is_a_first_order(ntk: Spectrum, name: str) -> None:
    """The gap to the self-consistent value is one order smaller than the correction itself."""
    gaps = []
    for scale in (1e3, 1e4):
        sc, ek, sl = (
            getattr(
                learning_curve(ntk, TARGET, 10 * scale, scale, label_noise=0.1, order=order), name
            )[0]
            for order in (SC, EK, SL)
        )
        gaps.append(abs(sc - sl) / abs(sc - ek))
    assert gaps[0] < 0.01
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.1)


def test_free_energy() -> None:
    spec = sphere_spectrum(relu(4, ntk=False), 8)
    curve = learning_curve(spec, TARGET, 200, 0.1, label_noise=0.1)
    assert curve.log_det[0] == pytest.approx(-206.96, abs=0.005)
    assert curve.quadratic[0] == pytest.approx(239.64, abs=0.005)
    evidence = -0.5 * (-206.9606 + 239.6409 + 200 * np.log(2 * np.pi))
    assert curve.log_evidence[0] == pytest.approx(evidence, abs=1e-3)


def test_erf_kernel_with_label_noise() -> None:
    spec = sphere_spectrum(erf_nngp(3, 1.5, 0.2), 8)
    for order, printed in (
        (SC, [0.4928, 0.2143, 0.1074]),
        (EK, [0.2826, 0.1020, 0.0454]),
        (SL, [0.5286, 0.2131, 0.1017]),
    ):
        curve = learning_curve(spec, TARGET, [50, 200, 400], 0.1, label_noise=0.1, order=order)
        np.testing.assert_allclose(curve.test_error, printed, atol=5e-5)


def test_twenty_dimensions() -> None:
    spec = sphere_spectrum(relu(4, sigma_b2=0.1), 20)
    curve = learning_curve(spec, {0: 0.25, 1: 0.5, 2: 0.25}, [50, 200, 800], 0.0)
    np.testing.assert_allclose(curve.test_error, [0.3926, 0.1770, 0.03945], atol=5e-5)


def test_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[3] / "docs" / "learning_curves.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, object] = {}
    for block in blocks[:2]:
        exec(compile(block, page.name, "exec"), names)
    said = re.findall(r"print\(.*\)  # (\[[^\]]*\])", "".join(blocks[:2]))
    assert len(said) == 3
    assert capsys.readouterr().out.splitlines() == said

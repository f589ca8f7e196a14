"""Losses, boundary losses and accuracies against closed forms."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn
from torch.nn import functional as F

from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.learning import (
    Learning,
    accuracy_estimate,
    boundary_losses,
    class_axis,
    correct_fractions,
    counted_targets,
    loss_estimate,
    sample_losses,
)
from thermolearn.measure.reference import infer_energy


def test_mean_loss_and_its_error_are_those_of_the_samples():
    out, y = numbers(40, 3), numbers(40, 3, seed=1)
    per_sample = ((out - y) ** 2).mean(1)
    e = loss_estimate(nn.MSELoss(), out, y)
    assert math.isclose(e.item(), float(per_sample.mean()), rel_tol=1e-14)
    assert math.isclose(float(e.stderr), float(per_sample.std()) / math.sqrt(40), rel_tol=1e-12)
    assert e.n_eff == 40


def test_sum_reduction_scales_value_and_error():
    out, y = numbers(40, 3), numbers(40, 3, seed=1)
    mean = loss_estimate(lambda o, t: ((o - t) ** 2).sum(1).mean(), out, y)
    total = loss_estimate(lambda o, t: ((o - t) ** 2).sum(), out, y)
    assert math.isclose(total.item(), 40 * mean.item(), rel_tol=1e-12)
    assert math.isclose(float(total.stderr), 40 * float(mean.stderr), rel_tol=1e-12)


def test_unreduced_loss_is_averaged():
    out, y = numbers(40, 3), numbers(40, 3, seed=1)
    e = loss_estimate(nn.MSELoss(reduction="none"), out, y)
    assert math.isclose(e.item(), F.mse_loss(out, y).item(), rel_tol=1e-14)


def test_class_weights_couple_the_samples_and_take_the_error_bar_away():
    out, y = numbers(40, 3), torch.arange(40) % 3
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64))
    assert sample_losses(weighted, out, y)[2] == "other"
    e = loss_estimate(weighted, out, y)
    assert math.isclose(e.item(), weighted(out, y).item(), rel_tol=1e-14)
    assert math.isnan(float(e.stderr)) and "no error bar" in e.note


def test_a_loss_that_vmap_cannot_take_gives_the_same_numbers():
    out, y = numbers(12, 3), numbers(12, 3, seed=1)

    def stubborn(o, t):
        return F.mse_loss(o, t) if float(o.detach().sum()) > -1e9 else 0 * o.sum()

    plain, _, _ = sample_losses(F.mse_loss, out, y)
    slow, _, reduction = sample_losses(stubborn, out, y)
    assert reduction == "mean"
    torch.testing.assert_close(plain, slow, rtol=1e-14, atol=0)


def test_non_finite_loss_says_so():
    out = numbers(4, 2)
    out[0] = torch.nan
    assert loss_estimate(nn.MSELoss(), out, numbers(4, 2)).status == "not finite"


def test_loss_that_does_not_take_the_targets_is_named():
    with pytest.raises(NotApplicableError, match="does not take the outputs"):
        sample_losses(nn.CrossEntropyLoss(), numbers(4, 2), torch.tensor([0, 1, 2, 3]))


def test_boundary_losses_squared():
    out, y = numbers(5, 3), numbers(5, 3, seed=1)
    expected = [
        0.5 * float(sum((a - b) ** 2 for a, b in zip(*p, strict=True)))
        for p in zip(out, y, strict=True)
    ]
    np.testing.assert_allclose(boundary_losses(out, y, "squared"), expected, rtol=1e-14)
    one = boundary_losses(out[:, 0], y[:, 0], "squared")
    np.testing.assert_allclose(one, 0.5 * (out[:, 0] - y[:, 0]) ** 2)
    with pytest.raises(NotApplicableError, match="output's shape"):
        boundary_losses(out, y[:, :1], "squared")


def test_boundary_losses_cross_entropy_by_hand():
    out = torch.log(torch.tensor([[1.0, 2.0, 1.0]], dtype=torch.float64))  # softmax 1/4 1/2 1/4
    value = boundary_losses(out, torch.tensor([1]), "cross-entropy")
    assert math.isclose(float(value), 0.5 * (1 / 16 + 1 / 4 + 1 / 16), rel_tol=1e-14)
    # a target given as probabilities, here the network's own
    soft = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64)
    assert float(boundary_losses(out, soft, "cross-entropy")) < 1e-30
    with pytest.raises(NotApplicableError, match="3 outputs"):
        boundary_losses(out, torch.tensor([3]), "cross-entropy")


def test_sequences_sum_over_positions_in_both_orders_of_the_axes():
    out, y = numbers(4, 5, 7), torch.arange(20).reshape(4, 5) % 7
    last = boundary_losses(out, y, "cross-entropy")
    second = boundary_losses(out.movedim(2, 1), y, "cross-entropy")
    torch.testing.assert_close(last, second)
    each = boundary_losses(out.reshape(20, 7), y.reshape(20), "cross-entropy")
    torch.testing.assert_close(last, each.reshape(4, 5).sum(1))


def test_class_axis():
    assert class_axis(numbers(4, 3), torch.zeros(4, dtype=torch.long)) == 1
    assert class_axis(numbers(4, 5, 7), torch.zeros(4, 5, dtype=torch.long)) == 2
    assert class_axis(numbers(4, 7, 5), torch.zeros(4, 5, dtype=torch.long)) == 1
    with pytest.raises(NotApplicableError, match="no classes"):
        class_axis(numbers(4, 7), torch.zeros(4, 7, dtype=torch.long))


def test_accuracy_of_classes_one_hot_and_binary():
    out = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    y = torch.tensor([0, 1, 1, 1])
    expected = [1.0, 1.0, 0.0, 1.0]
    assert correct_fractions(nn.CrossEntropyLoss(), out, y).tolist() == expected
    assert correct_fractions(nn.MSELoss(), out, F.one_hot(y).float()).tolist() == expected
    logits, labels = out[:, 1] - out[:, 0], y.float()
    assert correct_fractions(nn.BCEWithLogitsLoss(), logits, labels).tolist() == expected
    assert correct_fractions(nn.BCELoss(), torch.sigmoid(logits), labels).tolist() == expected


def test_no_accuracy_for_regression():
    assert correct_fractions(nn.MSELoss(), numbers(4, 2), numbers(4, 2)) is None
    assert correct_fractions(nn.MSELoss(), numbers(4), torch.ones(4).double()) is None
    assert correct_fractions(nn.MSELoss(), numbers(4, 2), torch.ones(4, 2).double()) is None


def test_nan_outputs_are_no_predictions():
    out = torch.full((4, 2), torch.nan)
    correct = correct_fractions(nn.CrossEntropyLoss(), out, torch.zeros(4, dtype=torch.long))
    assert accuracy_estimate(correct).status == "not finite"


@pytest.mark.parametrize("p", [0.0, 0.3, 0.95, 1.0])
def test_accuracy_error_covers_the_truth(p):
    """The standardised error has unit variance for a real binomial, and never vanishes."""
    rng = np.random.default_rng(1)
    estimates = [
        accuracy_estimate(torch.tensor((rng.random(200) < p).astype(float))) for _ in range(400)
    ]
    assert all(e.stderr > 0 for e in estimates)
    if 0 < p < 1:
        z = np.array([(e.item() - p) / e.stderr for e in estimates])
        assert abs(z.std() - 1) < 4 / math.sqrt(800) + 0.03
    else:
        assert all(math.isclose(e.stderr, 0.5 / 201) for e in estimates)


def test_accuracy_of_tokens_takes_sequences_as_the_independent_units():
    # all tokens of a sequence are right or wrong together: 10 samples, not 1000
    whole = (torch.arange(10) < 6).double()
    nearly = whole.clone()
    nearly[0] = 0.99
    e = accuracy_estimate(nearly)
    assert math.isclose(float(e.stderr), float(nearly.std()) / math.sqrt(10))
    assert 0.8 < float(e.stderr) / float(accuracy_estimate(whole).stderr) < 1.2


def rule(loss_fn, out, y, energy=None):
    return infer_energy(loss_fn, out, y, energy)[0]


def test_energy_rule():
    out, y, c = numbers(6, 3), numbers(6, 3), torch.zeros(6, dtype=torch.long)
    assert rule(nn.MSELoss(), out, y) == rule(F.mse_loss, out, y) == "squared"
    assert rule(nn.CrossEntropyLoss(), out, c) == rule(F.cross_entropy, out, c) == "cross-entropy"
    assert rule(nn.NLLLoss(), out, c) == "cross-entropy"
    assert rule(lambda o, t: 0, out, c) == "cross-entropy"
    assert rule(lambda o, t: 0, out, y) == "squared"
    assert rule(lambda o, t: 0, out, y[:, :2]) is None
    assert rule(lambda o, t: 0, out, c, "squared") == "squared"
    assert rule(nn.BCEWithLogitsLoss(), out, y) is None
    energy, why = infer_energy(nn.MSELoss(), numbers(6, 1), numbers(6), None)
    assert energy is None and "broadcast" in why


def test_energy_rule_sees_through_subclasses_and_partials():
    from functools import partial

    class Mine(nn.CrossEntropyLoss):
        pass

    out, c = numbers(6, 3), torch.zeros(6, dtype=torch.long)
    assert infer_energy(Mine(), out, c, None) == ("cross-entropy", "CrossEntropyLoss on logits")
    assert infer_energy(partial(F.cross_entropy, label_smoothing=0.1), out, c, None)[0] == (
        "cross-entropy"
    )


def test_measure_puts_them_together():
    model = nn.Linear(4, 3).double()
    x, y = numbers(20, 4), torch.arange(20) % 3
    window = SimpleNamespace(
        model=model,
        outputs=model(x).detach(),
        reference=(x, y),
        validation=(x[:7], y[:7]),
        loss_fn=nn.CrossEntropyLoss(),
        energy="cross-entropy",
    )
    values = Learning().measure(window)
    assert set(values) == {
        "reference_loss", "boundary_loss", "accuracy", "validation_loss", "validation_accuracy"
    }  # fmt: skip
    expected = F.cross_entropy(model(x[:7]), y[:7]).item()
    assert math.isclose(values["validation_loss"].item(), expected, rel_tol=1e-12)


def measured(loss_fn, outputs, targets, validation=None):
    window = SimpleNamespace(
        model=nn.Identity(),
        outputs=outputs,
        reference=(None, targets),
        validation=validation,
        loss_fn=loss_fn,
        energy="cross-entropy",
    )
    return Learning().measure(window)


def by_position(o, t):
    return F.cross_entropy(o.flatten(0, 1), t.flatten())


def next_token(o, t):
    return F.cross_entropy(o[:, :-1].flatten(0, 1), t[:, 1:].flatten())


def with_holes(n=30, length=6, classes=5, seed=2):
    """Sequences that end at different places, one of them before it begins."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n, length), generator=generator)
    ends = torch.randint(2, length + 1, (n, 1), generator=generator)
    ends[0] = 0
    return numbers(n, length, classes), torch.where(torch.arange(length) < ends, y, -100)


@pytest.mark.parametrize("loss_fn", [by_position, next_token], ids=["same", "next token"])
def test_ignored_targets_do_not_count(loss_fn):
    out, y = with_holes()
    v = measured(loss_fn, out, y, validation=(out, y))
    shift = loss_fn is next_token
    # one list of the counted positions, and which sample they belong to
    kept = [
        (i, out[i, t], int(y[i, t + shift]))
        for i in range(30)
        for t in range(6 - shift)
        if y[i, t + shift] != -100
    ]
    assert v["reference_loss"].item() == pytest.approx(loss_fn(out, y).item(), rel=1e-12)
    right = [int(o.argmax()) == c for _, o, c in kept]
    assert v["accuracy"].item() == pytest.approx(np.mean(right), rel=1e-12)
    assert v["validation_accuracy"].to_dict() == v["accuracy"].to_dict()
    parts = np.zeros(30)
    for i, o, c in kept:
        parts[i] += 0.5 * float((F.one_hot(torch.tensor(c), 5) - o.softmax(0)).square().sum())
    samples = sorted({i for i, _, _ in kept})
    assert samples == list(range(1, 30))
    assert v["boundary_loss"].item() == pytest.approx(parts[samples].mean(), rel=1e-12)
    assert v["reference_loss"].n_eff == v["accuracy"].n_eff == v["boundary_loss"].n_eff == 29
    # the error of the ratio is that of leaving one sample out
    cost = np.array([float(F.cross_entropy(o, torch.tensor(c))) for _, o, c in kept])
    owner = np.array([i for i, _, _ in kept])
    without = np.array([cost[owner != i].mean() for i in samples])
    jackknife = math.sqrt(28 / 29 * ((without - without.mean()) ** 2).sum())
    assert float(v["reference_loss"].stderr) == pytest.approx(jackknife, rel=0.1)


def test_the_error_of_a_loss_with_ignored_targets_covers_the_truth():
    """Over data drawn anew the loss scatters by its error bar."""
    estimates = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        out = torch.randn(40, 4, 3, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 3, (40, 4), generator=generator)
        y[torch.rand(40, 4, generator=generator) < 0.5] = -100
        estimates.append(loss_estimate(by_position, out, y))
    scatter = np.std([e.item() for e in estimates], ddof=1)
    bar = np.mean([float(e.stderr) for e in estimates])
    assert abs(bar / scatter - 1) < 4 / math.sqrt(2 * 200)


def test_what_is_ignored_is_tried_out():
    out, y = with_holes()
    assert torch.equal(counted_targets(by_position, out, y)[1], y != -100)
    targets, counted = counted_targets(next_token, out, y)
    assert torch.equal(counted[:, :-1], y[:, 1:] != -100) and not counted[:, -1].any()
    assert torch.equal(targets[:, :-1], y[:, 1:])
    # classes of single samples, with another index
    o, c = numbers(12, 3), torch.arange(12) % 3
    skips = nn.CrossEntropyLoss(ignore_index=2)
    assert torch.equal(counted_targets(skips, o, c)[1], c != 2)
    assert measured(skips, o, c)["accuracy"].n_eff == 8
    assert counted_targets(nn.CrossEntropyLoss(), o, c)[1] is None
    whole = counted_targets(next_token, out[1:], y[1:].clamp(min=0))[1]
    assert whole[:, :-1].all() and not whole[:, -1].any()

    def counts_all(o, t):  # -100 is a class like another to it
        return F.cross_entropy(o.flatten(0, 1), t.flatten() % 5)

    assert counted_targets(counts_all, out, y)[1] is None
    with pytest.raises(NotApplicableError, match="run from -100"):
        measured(counts_all, out, y)
    with pytest.raises(NotApplicableError, match="ignores every target"):
        measured(by_position, out, torch.full_like(y, -100))


def test_the_accuracy_of_a_language_model_is_that_of_the_next_token():
    y = torch.arange(24).reshape(4, 6) % 5
    out = F.one_hot(y.roll(-1, 1), 5).double() * 3  # knows what comes next
    assert measured(next_token, out, y)["accuracy"].item() == 1.0
    copies = F.one_hot(y, 5).double() * 3
    assert measured(next_token, copies, y)["accuracy"].item() == 0.0
    assert measured(by_position, copies, y)["accuracy"].item() == 1.0

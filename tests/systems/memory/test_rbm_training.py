"""Training: likelihood reached, chains that fall behind, interruption, continuation."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from thermolearn.core.errors import ConvergenceError, DataError, SamplerWarning
from thermolearn.core.estimate import Estimate
from thermolearn.systems.memory.rbm import (
    RBM,
    bars_and_stripes,
    checkpoints,
    enumeration,
    gradient,
    monitor,
    partition,
    trainer,
)
from thermolearn.systems.memory.rbm.noise import Noise

X = bars_and_stripes(4, copies=20)
SHORT = {"n_hidden": 10, "learning_rate": 0.2, "n_epochs": 150, "batch_size": 60}
LONG = {"n_hidden": 10, "n_epochs": 800, "batch_size": 60, "n_chains": 200, "init_std": 0.1}
SMALL = {"n_hidden": 6, "learning_rate": 0.1, "n_epochs": 6, "batch_size": 100, "n_checkpoints": 4}


def trained(method: str, seed: int) -> RBM:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplerWarning)  # short runs are not flagged
        return RBM(**SHORT, method=method, random_state=seed).fit(X)


def test_bars_and_stripes() -> None:
    assert bars_and_stripes(4).shape == (30, 16)
    assert len(np.unique(X, axis=0)) == 30
    assert len(X) == 600


# -- the likelihood reached ---------------------------------------------------------------------
def test_pcd_learns_bars_and_stripes_and_beats_cd() -> None:
    pcd = [trained("pcd", s) for s in range(2)]
    cd = [trained("cd", s) for s in range(2)]
    score = {m: np.mean([r.score(X) for r in rs]) for m, rs in (("pcd", pcd), ("cd", cd))}
    assert score["pcd"] > -5.1
    assert score["pcd"] > score["cd"] - 0.05
    assert all(r.status_ == "ok" for r in (*pcd, *cd))
    assert all(c.chain_gap.status == "no chains" for c in cd[0].history_)
    assert pcd[0].score(X) < -math.log(30)


@pytest.mark.slow
def test_methods_reach_their_known_likelihoods() -> None:
    """Two-seed means known from an independent code; seeds scatter by about 0.25 each."""
    known = {"cd": (-5.13, 4), "pcd": (-4.79, 4), "pt": (-4.77, 2), "exact": (-4.80, 2)}
    for method, (expected, n) in known.items():
        runs = [trained(method, s).score(X) for s in range(n)]
        assert np.mean(runs) == pytest.approx(expected, abs=4 * 0.25 * math.sqrt(1 / n + 1 / 2))


@pytest.mark.slow
def test_exact_gradient_nearly_reaches_the_bound() -> None:
    settings = {**LONG, "n_epochs": 500, "monitor": None}
    rbm = RBM(**settings, learning_rate=0.5, method="exact").fit(X)
    assert -3.5 < rbm.score(X) < -math.log(30)


# -- chains that fall behind --------------------------------------------------------------------
def test_collapse_of_pcd_is_told() -> None:
    with pytest.warns(SamplerWarning, match=r"fallen behind.*Lower\s+learning_rate \(now 0.5\)"):
        rbm = RBM(**LONG, learning_rate=0.5).fit(X)
    assert rbm.status_ == "chains behind"
    first = next(c for c in rbm.history_ if c.status == "chains behind")
    assert first.chain_gap.value > 5 * first.chain_gap.stderr
    assert min(float(c.log_likelihood) for c in rbm.history_) < -6
    # the number that most people watch does not see it
    healthy = trained("pcd", 0)
    assert rbm.pseudo_likelihood(X) > healthy.pseudo_likelihood(X) - 0.5
    assert rbm.score(X) < healthy.score(X) - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize("seed", range(3))
def test_collapse_is_told_at_every_seed_and_not_where_there_is_none(
    schedule: str, seed: int
) -> None:
    with pytest.warns(SamplerWarning, match="fallen behind"):
        RBM(**LONG, learning_rate=0.5, schedule=schedule, random_state=seed).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplerWarning)
        slow = RBM(**LONG, learning_rate=0.05, schedule=schedule, random_state=seed).fit(X)
    assert slow.status_ == "ok"
    assert -4.3 < slow.score(X) < -3.7


@pytest.mark.slow
def test_collapse_is_seen_by_annealing_too() -> None:
    with pytest.warns(SamplerWarning, match="fallen behind"):
        rbm = RBM(**LONG, learning_rate=0.5, monitor="ais").fit(X)
    assert rbm.status_ == "chains behind"


@pytest.mark.parametrize("monitored", ["exact", "ais"])
def test_collapse_is_told_with_a_single_checkpoint(monitored: str) -> None:
    """By the likelihood between the checkpoints, or by the gap alone."""
    with pytest.warns(SamplerWarning, match="fallen behind") as told:
        rbm = RBM(**LONG, learning_rate=0.5, n_checkpoints=1, monitor=monitored).fit(X)
    assert rbm.status_ == "chains behind"
    assert len(told) == 1
    assert rbm.history_[-1].step == rbm.n_steps_
    assert len(rbm.history_) <= 3  # the first step, the first bad look, the last step


def estimate(value: float, stderr: float = 0.0) -> Estimate:
    return Estimate(value, stderr)


@pytest.mark.parametrize(
    ("gap", "lost", "expected"),
    [
        (estimate(2.9, 0.2), 0.0, "ok"),
        (estimate(3.1, 0.2), 0.0, "chains behind"),
        (estimate(3.1, 0.7), 5.0, "ok"),  # below 5 standard errors
        (estimate(1.1, 0.2), 1.1, "chains behind"),
        (estimate(1.1, 0.2), 0.9, "ok"),
        (estimate(0.9, 0.1), 9.0, "ok"),
        (estimate(math.nan, math.nan), 9.0, "ok"),  # no chains
    ],
)
def test_when_chains_are_behind(gap: Estimate, lost: float, expected: str) -> None:
    assert monitor._status(estimate(-5.0 - lost), gap, estimate(-5.0)) == expected
    if lost == 0:
        assert monitor._status(estimate(-5.0), gap, None) == expected
    assert monitor._status(Estimate(-5.0, 0.1, status="low-ess"), gap, None) == "not told"


def test_running_best_takes_trusted_numbers_only() -> None:
    best = monitor.better(estimate(-6.0), None)
    assert monitor.better(estimate(-7.0), best) is best
    assert monitor.better(Estimate(-3.0, 0.1, status="low-ess"), best) is best
    higher = estimate(-5.0)
    assert monitor.better(higher, best) is higher


def test_gap_of_few_chains_is_not_sure() -> None:
    """Two chains that lie close together by chance do not have a small error bar."""
    w = RBM.from_weights(np.random.default_rng(0).normal(0, 1, (16, 5))).weights_
    fresh = enumeration.exact_samples(w, 1000, Noise(0))
    share = torch.full((1000,), 1e-3, dtype=torch.float64)
    high = fresh[w.free_energy(fresh).argmax()]
    gap = monitor._gap(w, torch.stack([high, high]), fresh, share, "ok")
    assert float(gap.stderr) > 0.6 * float(w.free_energy(fresh).std())


def test_ok_is_said_only_of_what_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    rbm = RBM(**SMALL, monitor=None).fit(X)
    assert rbm.status_ == "not monitored"
    assert RBM(**SMALL).partial_fit(X).status_ == "not monitored"
    rbm = RBM(**SMALL).fit(X)
    assert rbm.status_ == "ok"
    assert rbm.partial_fit(X).status_ == "not monitored"
    monkeypatch.setattr(partition, "LEAST_ESS", 2.0)
    rbm = RBM(**SMALL, monitor="ais").fit(X)
    assert {c.status for c in rbm.history_} == {"not told"}
    assert rbm.status_ == "not told"


def test_monitors_agree() -> None:
    exact = RBM(**SHORT, monitor="exact", n_checkpoints=6).fit(X)
    annealed = RBM(**SHORT, monitor="ais", n_checkpoints=6).fit(X)
    assert torch.equal(exact.weights_.W, annealed.weights_.W)  # looking does not touch the run
    for a, b in zip(exact.history_, annealed.history_, strict=True):
        difference = float(a.log_likelihood) - float(b.log_likelihood)
        assert abs(difference) < 4 * float(b.log_likelihood.stderr) + 0.02
    assert RBM(**SMALL, monitor=None).fit(X).history_ == []


# -- saving, continuing, interrupting -----------------------------------------------------------
def state(rbm: RBM) -> dict[str, torch.Tensor]:
    w = rbm.weights_
    return {"W": w.W, "a": w.a, "b": w.b, **rbm._run.sampler.state()}


def assert_same(one: RBM, other: RBM) -> None:
    mine, theirs = state(one), state(other)
    assert mine.keys() == theirs.keys()
    for name, x in mine.items():
        assert torch.equal(x, theirs[name]), name
    assert one.n_steps_ == other.n_steps_
    assert str(one._run.best) == str(other._run.best) != "None"
    rows = [[str(c.to_dict()) for c in r.history_] for r in (one, other)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("method", ["cd", "pcd", "pt", "exact"])
@pytest.mark.parametrize("hidden", ["bernoulli", "ising"])
def test_continued_from_any_checkpoint_bit_for_bit(
    method: str, hidden: str, tmp_path: Path
) -> None:
    whole = RBM(**SMALL, method=method, hidden=hidden, trajectory=tmp_path).fit(X)
    files = checkpoints(tmp_path)
    assert [int(f.stem.split("-")[1]) for f in files] == [c.step for c in whole.history_]
    assert not list(tmp_path.glob(".*"))
    half = RBM.load(files[-2])
    assert 1 < half.n_steps_ < whole.n_steps_
    assert half.get_params() == {**whole.get_params(), "trajectory": str(tmp_path)}
    assert_same(half.resume(X), whole)
    assert_same(RBM.load(tmp_path), whole)


def test_same_seed_same_bits_and_other_seed_other_bits() -> None:
    one, two = RBM(**SMALL).fit(X), RBM(**SMALL).fit(X)
    assert_same(one, two)
    assert not torch.equal(one.weights_.W, RBM(**SMALL, random_state=1).fit(X).weights_.W)


def test_ctrl_c_keeps_the_steps_done(tmp_path: Path) -> None:
    settings = {**SMALL, "n_epochs": 100_000, "n_checkpoints": 5, "trajectory": tmp_path}
    rbm = RBM(**settings)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.warns(SamplerWarning, match="interrupted after step"):
        rbm.fit(X)
    assert rbm.status_ == "interrupted"
    assert rbm.n_steps_ > 10
    assert rbm.transform(X).shape == (600, 6)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # the last file is the interrupted state, and going on repeats nothing
    again = RBM.load(tmp_path)
    assert_same(again, rbm)
    assert again.status_ == "interrupted"


def test_interrupted_run_ends_like_an_undisturbed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = RBM(**SMALL).fit(X)
    plain = trainer.Run.update
    stop = {"at": 17}

    def update(self: trainer.Run, batch: torch.Tensor, learning_rate: float) -> None:
        plain(self, batch, learning_rate)
        if self.step == stop["at"]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(trainer.Run, "update", update)
    with pytest.warns(SamplerWarning, match="interrupted after step 17"):
        part = RBM(**SMALL).fit(X)
    assert part.n_steps_ == 17
    assert_same(part.resume(X), whole)
    assert part.status_ == "ok"


def test_files_that_are_not_runs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        RBM.load(tmp_path / "no.safetensors")
    with pytest.raises(DataError, match="no step-"):
        RBM.load(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"garbage")
    with pytest.raises(DataError, match="not a readable"):
        RBM.load(tmp_path / "x.safetensors")
    save_file({"W": torch.ones(1)}, tmp_path / "y.safetensors")
    with pytest.raises(DataError, match="format"):
        RBM.load(tmp_path / "y.safetensors")


def tampered(**changes: Any) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name, value in changes.items():
            if isinstance(value, torch.Tensor):
                tensors[name] = value
            elif name in tensors:
                del tensors[name]
            else:
                header[name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        tampered(W=torch.ones(16, 5)),
        tampered(W=torch.full((16, 6), math.nan)),
        tampered(W=torch.ones(16, 6, dtype=torch.float64)),
        tampered(a=None),
        tampered(noise=None),
        tampered(extra=torch.ones(3)),
        tampered(chain_v=torch.full((100, 16), 0.5)),
        tampered(chain_v=torch.ones(1, 16)),
        tampered(chain_h=torch.ones(100, 1)),
        tampered(hidden_offset=torch.ones(1)),
        tampered(visible="potts"),
        tampered(step="many"),
        tampered(step=-1),
        tampered(history=[{}]),
        tampered(history=3),
        tampered(settings={}),
        tampered(params=None),
        tampered(params={"n_hiden": 3}),
        lambda header, _: header["settings"].update(n_chains=10**15),
        lambda header, _: header["settings"].update(learning_rate=math.nan),
        lambda header, _: header.pop("best"),
    ],
)
def test_tampered_files_are_refused(
    change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None], tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    RBM(**{**SMALL, "n_epochs": 1}).fit(X).save(file)
    RBM.load(file)
    with safe_open(file, framework="pt") as old:
        header = json.loads(old.metadata()["thermolearn"])
        tensors = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118
    change(header, tensors)
    save_file(tensors, file, metadata={"thermolearn": json.dumps(header)})
    with pytest.raises(DataError, match=r"run\.safetensors"):
        RBM.load(file)


def test_divergence_is_an_error() -> None:
    data = np.random.default_rng(0).normal(0, 1e3, (100, 5))
    with pytest.raises((ConvergenceError, ValueError), match=r"learning_rate|not finite"):
        RBM(4, "gaussian", "bernoulli", learning_rate=1e30, n_epochs=20, monitor=None).fit(data)


def test_weight_decay_shrinks_the_weights() -> None:
    free, held = (RBM(**SHORT, monitor=None, weight_decay=d).fit(X) for d in (0.0, 0.05))
    assert held.weights_.W.norm() < 0.8 * free.weights_.W.norm()


def test_chains_of_another_number_than_the_batch() -> None:
    rbm = RBM(**SHORT, n_chains=150, monitor=None).fit(X)
    assert rbm._run.sampler.chain_v.shape == (150, 16)
    assert rbm.score(X) > -5.5
    assert gradient.METHODS == ("cd", "pcd", "pt", "exact")


@pytest.mark.slow
def test_gaussian_hidden_machine_finds_the_subspace_of_the_archetypes() -> None:
    """N = 200, K = 4 archetypes, r = 0.5, M = 80 examples: overlap near the principal components'.

    The examples come with both signs: otherwise the visible field takes their mean, which is one
    of the four directions, out of W.
    """
    n, k, r, m = 200, 4, 0.5, 80
    settings = {"learning_rate": 0.02, "n_epochs": 156, "batch_size": 100, "n_chains": 200}
    overlaps = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        xi = rng.choice([-1.0, 1.0], (k, n))
        examples = xi[:, None] * np.where(rng.random((k, m, n)) < (1 + r) / 2, 1.0, -1.0)
        data = np.concatenate([examples.reshape(-1, n), -examples.reshape(-1, n)])
        rbm = RBM(k, "ising", "gaussian", monitor=None, random_state=seed, **settings).fit(data)
        q, _ = np.linalg.qr(rbm.weights_.W.double().numpy())
        overlaps.append(np.mean(((xi @ q) ** 2).sum(1)) / n)
    gamma, ell = n / (k * m), n * r**2 / (k * (1 - r**2))
    assert (1 - gamma / ell**2) / (1 + gamma / ell) == pytest.approx(0.961, abs=1e-3)
    assert np.mean(overlaps) == pytest.approx(0.953, abs=0.02)  # of an independent code

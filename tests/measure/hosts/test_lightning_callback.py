"""The callback in real Trainers of Lightning, on the digits."""

import json
import os
import signal
import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from thermolearn.core.estimate import Estimate
from thermolearn.measure.layers import Layers
from thermolearn.measure.learning import Learning

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]
N = 320  # samples; 10 batches of 32
QUANTITIES = (Learning, Layers)


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    return pytest.importorskip(request.param)


@pytest.fixture
def new():
    """The package under its present name only, for what does not depend on the name."""
    return pytest.importorskip("lightning.pytorch")


@pytest.fixture(scope="module")
def pair():
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x[:N], dtype=torch.float32) / 16, torch.tensor(y[:N])


def make_module(pl, seen=None, **attributes):
    class Digits(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(64, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 10)
            )
            self.seen = seen

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, k):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            if self.seen is not None:
                self.seen.append((loss.item(), len(batch[0])))
            return loss

        def validation_step(self, batch, k):
            self(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    for name, value in attributes.items():
        setattr(Digits, name, value)
    torch.manual_seed(0)
    return Digits()


def loader(pair, size=32):
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*pair),
        size,
        shuffle=True,
        generator=torch.Generator().manual_seed(3),
    )


def make_trainer(pl, folder, callbacks, **settings):
    settings = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, **settings}
    return pl.Trainer(
        accelerator="cpu", devices=1, callbacks=callbacks, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip


def make_callback(reference=None, every=5, **settings):
    from thermolearn.measure.hosts.lightning import ProbeCallback

    settings.setdefault("quantities", [q() for q in QUANTITIES])
    return ProbeCallback(nn.CrossEntropyLoss(), reference, every, reference_size=50, **settings)


def fit(pl, folder, pair, callback=None, module=None, seen=None, **settings):
    module = module or make_module(pl, seen)
    callbacks = [] if callback is None else [callback]
    trainer = make_trainer(pl, folder, callbacks, **settings)
    torch.manual_seed(1)
    trainer.fit(module, loader(pair), loader(pair))
    return module, trainer


def rows(callback, kind):
    return [r for r in callback.probe.rows if r["kind"] == kind]


def losses(callback):
    found = rows(callback, "losses")
    return [[x for r in found for x in r[key]] for key in ("step", "value", "samples")]


def newest(callback):
    found = [r for r in rows(callback, "snapshot") if r["quantity"] == "learning"]
    return found[-1]["values"]


def steps(callback):
    return [r["step"] for r in rows(callback, "snapshot") if r["quantity"] == "learning"]


def test_the_fit_is_bitwise_the_same_and_both_files_are_there(pl, tmp_path, pair):
    seen = []
    without, trainer = fit(pl, tmp_path, pair, precision="32-true")
    callback = make_callback()
    observed, again = fit(pl, tmp_path, pair, callback, seen=seen)
    state = torch.get_rng_state()
    for a, b in zip(without.parameters(), observed.parameters(), strict=True):
        assert torch.equal(a, b) and a.grad is b.grad is None
    moments = [t.optimizers[0].state_dict()["state"] for t in (trainer, again)]
    for k in moments[0]:
        assert torch.equal(moments[0][k]["momentum_buffer"], moments[1][k]["momentum_buffer"])
    fit(pl, tmp_path, pair)
    assert torch.equal(state, torch.get_rng_state())  # dropout drew from it

    assert "<html" in (tmp_path / "report.html").read_text()
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == callback.probe.rows
    assert steps(callback) == [0, 5, 10, 15, 20] and not rows(callback, "flag")
    assert rows(callback, "unchanged")[0]["ok"]
    # the losses are those of training_step, and neither validation nor its sanity check counts
    at, value, samples = losses(callback)
    assert at == list(range(1, 21)) and samples == [32.0] * 20
    assert list(zip(value, samples, strict=True)) == seen


def test_the_numbers_are_those_of_the_module(new, tmp_path, pair):
    callback = make_callback(pair, model="net")
    module, _ = fit(new, tmp_path, pair, callback)
    last = newest(callback)
    reference = callback.probe._session.reference
    module.eval().double()
    with torch.no_grad():
        truth = F.cross_entropy(module(reference[0].double()), reference[1]).item()
    assert last["reference_loss"]["value"] == pytest.approx(truth, rel=1e-9)
    assert rows(callback, "header")[0]["model"]["name"] == "Sequential"


def test_accumulated_gradients_and_mixed_precision(new, tmp_path, pair):
    seen = []
    callback = make_callback(every=2)
    settings = {"accumulate_grad_batches": 4, "precision": "bf16-mixed", "gradient_clip_val": 0.5}
    observed, _ = fit(new, tmp_path, pair, callback, seen=seen, **settings)
    without, _ = fit(new, tmp_path, pair, **settings)
    for a, b in zip(without.parameters(), observed.parameters(), strict=True):
        assert torch.equal(a, b)
    at, value, _ = losses(callback)
    assert at == [1] * 4 + [2] * 4 + [3] * 2 + [4] * 4 + [5] * 4 + [6] * 2
    assert value == pytest.approx([loss for loss, _ in seen], rel=1e-2)  # bfloat16
    assert steps(callback) == [0, 2, 4, 6] and not rows(callback, "flag")


def comparable(callback):
    return [
        {k: v for k, v in r.items() if k != "created"}
        for r in callback.probe.rows
        if r["kind"] not in ("cost", "unchanged")
    ]


def test_a_resumed_fit_has_the_rows_of_the_uninterrupted_one(new, tmp_path, pair):
    folders = [tmp_path / name for name in ("whole", "first", "second")]
    for folder in folders:
        folder.mkdir()

    class Keep(new.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 10:
                trainer.save_checkpoint(folders[1] / "ten.ckpt")

    def go(folder, callback, **settings):
        module = make_module(new)
        module.net[2].p = 0.0  # the checkpoint does not carry the state of the generator
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*pair), 32)
        callbacks = [callback, Keep()] if folder == folders[1] else [callback]
        make_trainer(new, folder, callbacks).fit(module, data, **settings)
        return module

    whole, first, second = (make_callback(pair) for _ in range(3))
    a = go(folders[0], whole)
    go(folders[1], first)
    b = go(folders[2], second, ckpt_path=folders[1] / "ten.ckpt")
    assert torch.equal(a.net[0].weight, b.net[0].weight)
    assert comparable(second) == comparable(whole)
    assert [json.loads(x) for x in (folders[2] / "run.jsonl").open()] == second.probe.rows


def test_a_checkpoint_without_the_probe_is_said(new, tmp_path, pair):
    _, trainer = fit(new, tmp_path, pair, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "bare.ckpt")
    callback = make_callback(pair)
    again = make_trainer(new, tmp_path, [callback])
    again.fit(make_module(new), loader(pair), ckpt_path=tmp_path / "bare.ckpt")
    assert "went on from step 10" in rows(callback, "flag")[0]["text"]


def test_two_optimizers_by_hand(new, tmp_path, pair):
    def configure(self):
        return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.net[0], self.net[3])]

    def training_step(self, batch, k):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        first, second = self.optimizers()
        first.zero_grad(), second.zero_grad()
        self.manual_backward(loss)
        first.step()
        if k % 2:
            second.step()
        return {"loss": loss}

    def module(step):
        out = make_module(new, configure_optimizers=configure, training_step=step)
        out.automatic_optimization = False
        return out

    with pytest.raises(ValueError, match="2 optimizers: say with optimizer=0"):
        fit(new, tmp_path, pair, make_callback(), module(training_step))
    with pytest.raises(ValueError, match="optimizer=2"):
        fit(new, tmp_path, pair, make_callback(optimizer=2), module(training_step))
    both = [make_callback(optimizer=k, folder=tmp_path / str(k)) for k in (0, 1)]
    assert both[0].state_key != both[1].state_key
    make_trainer(new, tmp_path, both).fit(module(training_step), loader(pair))
    assert [steps(c)[-1] for c in both] == [20, 10]
    assert [len(losses(c)[0]) for c in both] == [20, 20]

    silent = make_callback(pair, optimizer=0)
    without_loss = module(lambda self, batch, k: training_step(self, batch, k) and None)
    fit(new, tmp_path, pair, silent, without_loss)
    assert "returned no loss" in rows(silent, "flag")[0]["text"]
    assert len(rows(silent, "flag")) == 1 and steps(silent)[-1] == 20


def test_fast_dev_run_measures_and_writes_nothing(new, tmp_path, pair):
    written = []

    class Sink:
        def write(self, row):
            written.append(row)

        def close(self):
            pass

    callback = make_callback(pair, sinks=[Sink()], folder=tmp_path / "out")
    fit(new, tmp_path, pair, callback, fast_dev_run=True)
    assert steps(callback) == [0, 1] and not written and not (tmp_path / "out").exists()


class Broken:
    name = "broken"

    def measure(self, window):
        raise RuntimeError("cannot be measured")


def test_no_exception_of_measuring_reaches_the_fit(new, tmp_path, pair):
    callback = make_callback(quantities=[Broken(), Learning()], batch=lambda b: 1 / 0)
    module, trainer = fit(new, tmp_path, pair, callback)
    assert trainer.state.finished and module is not None
    # the reference set would have come from the batches
    assert any("batch=" in r["text"] for r in rows(callback, "flag"))
    callback = make_callback(pair, quantities=[Broken(), Learning()], budget=0.9)
    fit(new, tmp_path, pair, callback)
    assert any("cannot be measured" in r["text"] for r in rows(callback, "flag"))


class Slow:
    """Interrupts the measuring at its second snapshot."""

    name = "slow"

    def measure(self, window):
        if window.step:
            os.kill(os.getpid(), signal.SIGINT)
        return {"x": Estimate(1.0)}


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_ctrl_c_keeps_what_is_finished(new, tmp_path, pair, twice):
    class Stop(new.Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 12:
                os.kill(os.getpid(), signal.SIGINT)

    callback = make_callback(pair, quantities=[Slow() if twice else Learning()])
    trainer = make_trainer(new, tmp_path, [Stop(), callback])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            trainer.fit(make_module(new), loader(pair))
    finally:
        signal.signal(signal.SIGINT, before)
    text = (tmp_path / "report.html").read_text()
    assert "training was ended by Ctrl-C" in text
    found = [json.loads(x) for x in (tmp_path / "run.jsonl").open()]
    measured = [r["step"] for r in found if r["kind"] == "snapshot"]
    assert measured == ([0] if twice else [0, 5, 10, 12])
    assert ("measuring was ended by Ctrl-C: measured to step 0" in text) is twice


def test_ctrl_c_while_measuring_at_the_end_is_passed_on(new, tmp_path, pair):
    callback = make_callback(pair, quantities=[Learning(), Slow()])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            fit(new, tmp_path, pair, callback)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "measured to step 5" in (tmp_path / "report.html").read_text()


def test_an_error_of_the_training_is_passed_on_and_reported(new, tmp_path, pair):
    def training_step(self, batch, k):
        if k == 7:
            raise OverflowError("mine")
        return F.cross_entropy(self(batch[0]), batch[1])

    callback = make_callback(pair)
    with pytest.raises(OverflowError, match="mine"):
        fit(new, tmp_path, pair, callback, make_module(new, training_step=training_step))
    assert steps(callback) == [0, 5, 7]
    assert "ended by OverflowError" in rows(callback, "flag")[0]["text"]


def test_bad_arguments_are_named(new, tmp_path, pair):
    with pytest.raises(TypeError, match="colour is no setting of Probe"):
        make_callback(colour="red")
    with pytest.raises(TypeError, match="log is no setting"):
        make_callback(log="a.jsonl")
    with pytest.raises(ValueError, match="no submodule 'body'; there are net"):
        fit(new, tmp_path, pair, make_callback(model="body"))
    with pytest.raises(ValueError, match="every must be positive"):
        fit(new, tmp_path, pair, make_callback(every=0))


def test_a_second_fit_goes_on(new, tmp_path, pair):
    callback = make_callback(pair)
    module = make_module(new)
    trainer = make_trainer(new, tmp_path, [callback], max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader(pair))
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, loader(pair))
    assert steps(callback)[-1] == 20 and steps(callback) == sorted(set(steps(callback)))
    assert [json.loads(line) for line in (tmp_path / "run.jsonl").open()] == callback.probe.rows
    assert not (tmp_path / "run-2.jsonl").exists()


def in_file(path):
    return [json.loads(line) for line in path.open()]


def test_a_callback_used_again_writes_other_files(new, tmp_path, pair):
    from thermolearn.measure.sinks import JSONL

    out = tmp_path / "out"
    callback = make_callback(pair, folder=out, sinks=[JSONL(tmp_path / "copy.jsonl")])
    fit(new, tmp_path, pair, callback)
    first, report = callback.probe.rows, (out / "report.html").read_text()
    with pytest.warns(RuntimeWarning, match=r"this one is in run-2\.jsonl"):
        fit(new, tmp_path, pair, callback, max_epochs=1)
    second = callback.probe.rows
    assert in_file(out / "run.jsonl") == in_file(tmp_path / "copy.jsonl") == first
    assert in_file(out / "run-2.jsonl") == in_file(tmp_path / "copy-2.jsonl") == second
    assert (out / "report.html").read_text() == report and (out / "report-2.html").is_file()
    assert steps(callback)[-1] == 10


def test_two_callbacks_do_not_share_a_folder(new, tmp_path, pair):
    callbacks = [make_callback(pair), make_callback(pair, model="net")]
    with pytest.raises(ValueError, match="another ProbeCallback writes into"):
        make_trainer(new, tmp_path, callbacks).fit(make_module(new), loader(pair))

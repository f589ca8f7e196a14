"""The callback in real Trainers of transformers, on tiny models of random weights."""

import json
import os
import signal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thermolearn.measure.layers import Layers
from thermolearn.measure.learning import Learning

pytestmark = pytest.mark.hosts
CLASSES, TOKENS, WORDS = 3, 8, 12


@pytest.fixture(scope="module")
def hf():
    before = dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    yield pytest.importorskip("transformers")
    os.environ.clear()
    os.environ.update(before)


def pair(n=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, WORDS, (n, TOKENS), generator=generator)
    return x, x[:, :3].sum(1) % CLASSES


def rows_of(x, y):
    return [{"input_ids": a, "labels": b} for a, b in zip(x, y, strict=True)]


def bert(hf):
    torch.manual_seed(0)
    return hf.BertForSequenceClassification(
        hf.BertConfig(
            vocab_size=WORDS, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=TOKENS, num_labels=CLASSES,
        )
    )  # fmt: skip


def gpt(hf):
    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(
            vocab_size=WORDS, n_positions=TOKENS, n_embd=12, n_layer=1, n_head=2,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def make_callback(loss_fn=None, reference=None, every=5, **settings):
    from thermolearn.measure.hosts.transformers import ProbeCallback

    settings.setdefault("quantities", [Learning(), Layers()])
    loss_fn = loss_fn or nn.CrossEntropyLoss()
    return ProbeCallback(loss_fn, reference, every, reference_size=40, **settings)


def make_trainer(hf, folder, model, data, callback=None, **settings):
    compute = settings.pop("compute_loss_func", None)
    evaluate = settings.pop("eval_dataset", None)
    given = {
        "max_steps": 15, "per_device_train_batch_size": 8, "logging_steps": 1, "report_to": [],
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "learning_rate": 1e-2,
    }  # fmt: skip
    arguments = hf.TrainingArguments(os.fspath(folder), **{**given, **settings})
    trainer = hf.Trainer(
        model, arguments, train_dataset=data, eval_dataset=evaluate, compute_loss_func=compute,
        callbacks=[] if callback is None else [callback],
    )  # fmt: skip
    trainer.remove_callback(hf.PrinterCallback)
    return trainer


def rows(callback, kind):
    return [r for r in callback.probe.rows if r["kind"] == kind]


def flags(callback):
    return [r["text"] for r in rows(callback, "flag")]


def losses(callback):
    found = rows(callback, "losses")
    return [[x for r in found for x in r[key]] for key in ("step", "value", "samples")]


def newest(callback):
    found = [r for r in rows(callback, "snapshot") if r["quantity"] == "learning"]
    return found[-1]["values"]


def steps(callback):
    return [r["step"] for r in rows(callback, "snapshot") if r["quantity"] == "learning"]


def logged(trainer):
    return [r["loss"] for r in trainer.state.log_history if "loss" in r]


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(u, v) for u, v in pairs)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["float32", "bfloat16"])
def test_training_is_bitwise_the_same_and_both_files_are_there(hf, tmp_path, precision):
    models, states = [bert(hf), bert(hf)], []
    callback = make_callback()
    for model, c in zip(models, (None, callback), strict=True):
        trainer = make_trainer(hf, tmp_path, model, rows_of(*pair()), c, **precision)
        trainer.train()
        states.append((torch.get_rng_state(), trainer.optimizer.state_dict()["state"]))
    assert same(*models) and not same(models[0], bert(hf))
    assert torch.equal(states[0][0], states[1][0])  # dropout drew from it
    for k, state in states[0][1].items():
        assert torch.equal(state["exp_avg"], states[1][1][k]["exp_avg"])
    assert not models[1]._forward_hooks
    assert "<html" in (tmp_path / "report.html").read_text()
    assert [json.loads(x) for x in (tmp_path / "run.jsonl").open()] == callback.probe.rows
    assert steps(callback) == [0, 5, 10, 15] and flags(callback) == []
    assert rows(callback, "unchanged")[0]["ok"]
    at, value, samples = losses(callback)
    assert at == list(range(1, 16)) and samples == [8.0] * 15
    assert value == pytest.approx(logged(trainer), rel=1e-6)
    assert rows(callback, "header")[0]["info"]["model"] == "BertForSequenceClassification"


def test_the_numbers_are_those_of_the_model(hf, tmp_path):
    model, callback = bert(hf), make_callback(reference=pair(40, seed=1))
    make_trainer(hf, tmp_path, model, rows_of(*pair()), callback).train()
    last = newest(callback)
    x, y = pair(40, seed=1)
    model.eval().double()
    with torch.no_grad():
        logits = model(input_ids=x, attention_mask=torch.ones_like(x)).logits
    assert last["reference_loss"]["value"] == pytest.approx(F.cross_entropy(logits, y).item())
    accuracy = (logits.argmax(-1) == y).double().mean().item()
    assert last["accuracy"]["value"] == pytest.approx(accuracy)


def test_a_language_model_with_accumulated_gradients(hf, tmp_path):
    from thermolearn.measure.hosts.transformers import next_token_loss

    x, _ = pair()
    model, callback = gpt(hf), make_callback(next_token_loss, (x[:40], x[:40]))
    data = rows_of(x, x)
    trainer = make_trainer(
        hf, tmp_path, model, data, callback, gradient_accumulation_steps=3, max_steps=10
    )
    trainer.train()
    at, value, samples = losses(callback)
    assert at == list(range(1, 11)) and samples[:5] == [24.0] * 5
    assert value == pytest.approx(logged(trainer), rel=1e-5)
    # the Trainer divides by 8 labels per text, of which the model predicts 7
    own, theirs = (float(flags(callback)[0].split(k)[1].split(",")[0].split(":")[0])
                   for k in ("same outputs is ", "first step is "))  # fmt: skip
    assert "before the shift" in flags(callback)[0]
    assert theirs / own == pytest.approx(7 / 8, rel=2e-3)
    last = newest(callback)["reference_loss"]["value"]
    model.eval().double()
    with torch.no_grad():
        truth = model(input_ids=x[:40], labels=x[:40]).loss.item()
        some = torch.where(x == 3, -100, x)
        left_out = model(input_ids=x, labels=some)
    assert next_token_loss(left_out.logits, some).item() == pytest.approx(left_out.loss.item())
    assert last == pytest.approx(truth, rel=1e-6)


def test_a_trainer_that_sums_its_micro_batches_is_flagged(hf, tmp_path):
    """The classifier ignores num_items_in_batch, and its Trainer does not divide either."""
    callback = make_callback()
    data = rows_of(*pair())
    trainer = make_trainer(
        hf, tmp_path, bert(hf), data, callback, gradient_accumulation_steps=3, max_steps=5
    )
    trainer.train()
    assert losses(callback)[1] == pytest.approx(logged(trainer), rel=1e-5)
    first = rows(callback, "snapshot")[0]["values"]["reference_loss"]["value"]
    if losses(callback)[1][0] < 2 * first:
        pytest.skip("this version of transformers divides")
    assert "sums its 3 micro-batches" in flags(callback)[0]


def test_another_loss_than_the_models_is_flagged(hf, tmp_path):
    callback = make_callback(nn.CrossEntropyLoss(label_smoothing=0.4, reduction="sum"))
    make_trainer(hf, tmp_path, bert(hf), rows_of(*pair()), callback).train()
    assert "loss_fn is another one" in flags(callback)[0]


def test_without_a_loss_from_the_model_the_trainers_log_is_taken(hf, tmp_path):
    callback = make_callback(reference=pair(40))
    trainer = make_trainer(
        hf, tmp_path, bert(hf), rows_of(*pair()), callback, logging_steps=5,
        compute_loss_func=lambda out, y, **_: F.cross_entropy(out.logits, y),
    )  # fmt: skip
    trainer.train()
    at, value, samples = losses(callback)
    assert at == [5, 10, 15] and samples == [40.0] * 3
    assert value == pytest.approx(logged(trainer))
    assert len(flags(callback)) == 1 and "returned no loss" in flags(callback)[0]


def test_padding_is_masked(hf):
    from thermolearn.measure.hosts.transformers import Logits

    model = bert(hf).eval()
    x, _ = pair(6)
    x[:, 5:] = 0
    mask = (x != 0).long()
    with torch.no_grad():
        masked, bare = Logits(model, pad=0)(x), Logits(model)(x)
        assert torch.equal(masked, model(input_ids=x, attention_mask=mask).logits)
        assert torch.equal(bare, model(input_ids=x).logits) and not torch.equal(masked, bare)
        fixed = Logits(model, fixed={"return_dict": False})
        assert torch.equal(fixed(x), bare)
        with pytest.raises(TypeError, match="BertModel returns no logits"):
            Logits(model.bert)(x)


def test_micro_batches_of_different_lengths_count_but_need_a_reference(hf, tmp_path):
    data = rows_of(*pair())
    for k, row in enumerate(data):
        row["input_ids"] = row["input_ids"][: 4 + k // 8 % 4]

    class InOrder(hf.Trainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(data)

    for reference in (None, pair(40)):
        callback = make_callback(reference=reference)
        plain = make_trainer(
            hf, tmp_path, bert(hf), data, gradient_accumulation_steps=2, max_steps=7
        )
        trainer = InOrder(plain.model, plain.args, train_dataset=data, callbacks=[callback])
        trainer.train()
        if reference is None:
            reasons = [r["reason"] for r in rows(callback, "not_applicable")]
            assert reasons and all("give reference=(x, y)" in r for r in reasons)
        else:
            assert steps(callback) == [0, 5, 7] and losses(callback)[2] == [16.0] * 7


def comparable(callback):
    return [
        {k: v for k, v in r.items() if k != "created"}
        for r in callback.probe.rows
        if r["kind"] not in ("cost", "unchanged")
    ]


def test_a_resumed_training_has_the_rows_of_the_uninterrupted_one(hf, tmp_path):
    data, reference = rows_of(*pair()), pair(40)

    def train(name, resume=None, output="one", **settings):
        callback = make_callback(reference=reference, folder=tmp_path / name, **settings)
        trainer = make_trainer(
            hf, tmp_path / output, bert(hf), data, callback, max_steps=15,
            save_strategy="steps", save_steps=7,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model, callback

    a, whole = train("whole")
    seven = tmp_path / "one" / "checkpoint-7"
    assert (seven / "thermolearn.pt").is_file()
    b, again = train("again", os.fspath(seven))
    assert same(a, b)
    assert comparable(again) == comparable(whole)
    _, elsewhere = train("else", os.fspath(seven), "two", resume_from=seven)
    assert comparable(elsewhere) == comparable(whole)
    _, lost = train("lost", os.fspath(seven), "three")
    assert "went on from step 7" in flags(lost)[0] and "resume_from=" in flags(lost)[0]


def test_the_last_snapshot_is_that_of_the_last_step_not_of_the_best(hf, tmp_path):
    """load_best_model_at_end puts other weights into the model before on_train_end."""
    best, callback = bert(hf), make_callback(reference=pair(40))
    data = rows_of(*pair())
    last = {}

    class Remember(hf.TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            last.update({k: v.clone() for k, v in model.state_dict().items()})

    trainer = make_trainer(
        hf, tmp_path, best, data, callback, eval_dataset=rows_of(*pair(16, seed=5)),
        load_best_model_at_end=True, eval_strategy="steps", eval_steps=4, save_strategy="steps",
        save_steps=4, learning_rate=0.5, greater_is_better=False, metric_for_best_model="loss",
        max_steps=14,
    )  # fmt: skip
    trainer.add_callback(Remember())
    trainer.train()
    assert steps(callback)[-1] == 14
    held = callback.probe._recorder.kept[-1].load()
    assert any(not torch.equal(best.state_dict()[k], v) for k, v in last.items())
    assert all(torch.equal(held[f"model.{k}"], v) for k, v in last.items())
    # evaluation is not training
    assert losses(callback)[0] == list(range(1, 15))


def test_finish_after_ctrl_c(hf, tmp_path):
    class Stop(hf.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                os.kill(os.getpid(), signal.SIGINT)

    callback = make_callback()
    trainer = make_trainer(hf, tmp_path, bert(hf), rows_of(*pair()), callback)
    trainer.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        try:
            trainer.train()
        finally:
            callback.finish()
    callback.finish()  # a second time nothing happens
    assert steps(callback) == [0, 5, 7] and (tmp_path / "report.html").is_file()
    assert not trainer.model._forward_hooks


def test_no_exception_of_measuring_reaches_the_training(hf, tmp_path):
    class Broken:
        name = "broken"

        def measure(self, window):
            raise RuntimeError("cannot be measured")

    callback = make_callback(quantities=[Broken(), Learning()], inputs="pixel_values")
    trainer = make_trainer(hf, tmp_path, bert(hf), rows_of(*pair()), callback)
    assert trainer.train().global_step == 15
    assert any("not tensors" in r["reason"] for r in rows(callback, "not_applicable"))
    callback = make_callback(quantities=[Broken(), Learning()], budget=0.9, reference=pair(40))
    make_trainer(hf, tmp_path, bert(hf), rows_of(*pair()), callback).train()
    assert any("cannot be measured" in text for text in flags(callback))


def test_bad_arguments_are_named(hf, tmp_path):
    with pytest.raises(TypeError, match="colour is no setting of Probe"):
        make_callback(colour="red")
    trainer = make_trainer(hf, tmp_path, bert(hf), rows_of(*pair()), make_callback(every=0))
    with pytest.raises(ValueError, match="every must be positive"):
        trainer.train()


def in_file(path):
    return [json.loads(line) for line in path.open()]


def test_a_second_training_writes_other_files(hf, tmp_path):
    callback = make_callback(reference=pair(40))
    trainer = make_trainer(hf, tmp_path, bert(hf), rows_of(*pair()), callback)
    trainer.train()
    first, report = callback.probe.rows, (tmp_path / "report.html").read_text()
    with pytest.warns(RuntimeWarning, match=r"this one is in run-2\.jsonl"):
        trainer.train()
    assert in_file(tmp_path / "run.jsonl") == first and steps(callback) == [0, 5, 10, 15]
    assert in_file(tmp_path / "run-2.jsonl") == callback.probe.rows
    assert (tmp_path / "report.html").read_text() == report
    assert (tmp_path / "report-2.html").is_file()


def test_a_training_that_ended_without_a_word_is_closed(hf, tmp_path):
    class Stop(hf.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise OverflowError("mine")

    callback, stop = make_callback(reference=pair(40)), Stop()
    trainer = make_trainer(hf, tmp_path, bert(hf), rows_of(*pair()), callback)
    trainer.add_callback(stop)
    with pytest.raises(OverflowError):
        trainer.train()
    held = callback.probe._recorder.optimizer
    assert held._optimizer_step_post_hooks
    trainer.remove_callback(stop)
    with pytest.warns(RuntimeWarning, match="ended without a word: 1 snapshots"):
        trainer.train()
    assert steps(callback) == [0, 5, 10, 15] and not (tmp_path / "run-2.jsonl").exists()
    assert not held._optimizer_step_post_hooks


def test_labels_that_the_loss_ignores_do_not_count(hf, tmp_path):
    from thermolearn.measure.hosts.transformers import next_token_loss

    x, _ = pair()
    y = torch.where(torch.arange(TOKENS) < 3, -100, x)  # a prompt
    y[::2, 6:] = -100  # and padding
    model, callback = gpt(hf), make_callback(next_token_loss, (x[:40], y[:40]))
    make_trainer(hf, tmp_path, model, rows_of(x, y), callback).train()
    assert steps(callback) == [0, 5, 10, 15] and not rows(callback, "not_applicable")
    last = newest(callback)
    model.eval().double()
    with torch.no_grad():
        out = model(input_ids=x[:40], labels=y[:40])
    assert last["reference_loss"]["value"] == pytest.approx(out.loss.item(), rel=1e-6)
    assert last["reference_loss"]["stderr"] > 0
    later, kept = y[:40, 1:], y[:40, 1:] != -100
    right = (out.logits[:, :-1].argmax(-1) == later)[kept].double().mean().item()
    assert last["accuracy"]["value"] == pytest.approx(right)

"""`thermolearn watch`, on files that grow, break and are replaced."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
import torch
import typer
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from thermolearn.cli_watch import Growing, Tail, clean, render, sparkline, watch
from thermolearn.core.errors import DataError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.layers import Layers
from thermolearn.measure.learning import Learning
from thermolearn.measure.probe import Probe

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(watch)
COMMAND = [
    sys.executable, "-c", "import typer; from thermolearn.cli_watch import watch; typer.run(watch)"
]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = nn.CrossEntropyLoss()
    probe = Probe(model, loss_fn, optimizer, (x, y), 5, quantities=[Learning(), Layers()])
    for _ in range(20):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        probe.step(x, y, loss)
    probe.flush()
    return probe.rows


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def shown(rows):
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(rows))
    return console.export_text()


def test_once_prints_values_errors_verdicts_and_the_loss(tmp_path, rows):
    path = tmp_path / "run.jsonl"
    path.write_text(lines(rows))
    for arguments in ([str(path), "--once"], [str(path)]):  # the output is no terminal
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "140"})
        assert result.exit_code == 0
        text = result.output
        assert "Sequential" in text and "SGD" in text and "run unchanged" in text
        assert "trained to step 20, measured to step 20" in text
        last = [r for r in rows if r.get("quantity") == "learning"][-1]["values"]
        value = last["reference_loss"]["value"]
        (line,) = [x for x in text.splitlines() if "reference_loss" in x]
        assert f"{value:.3f}"[:5] in line and "(" in line and " 20 " in line
        assert "Is it learning?" in text and "minibatch loss" in text
        assert "weight_norm" in text and " ... " in text


def test_any_beginning_of_a_run_can_be_shown(rows):
    for k in range(len(rows) + 1):
        assert "Traceback" not in shown(rows[:k])
    assert "no header yet" in shown([])


def test_statuses_and_remarks_are_shown(rows):
    doubtful = {"a": Estimate(2.0, 0.1, status="under-sampled").to_dict()}
    row = {"kind": "snapshot", "step": 25, "quantity": "q", "values": doubtful}
    many = [{"kind": "flag", "step": k, "text": f"remark {k}"} for k in range(9)]
    text = shown([*rows, row, *many, {"kind": "unchanged", "ok": False}])
    assert "2.00(10)" in text and "under-sampled" in text
    assert "flag, step 8: remark 8" in text and "remark 2" not in text
    assert "(3 remarks before)" in text and "RUN CHANGED" in text


def test_texts_from_outside_cannot_act_on_the_terminal(rows):
    evil = "a\x1b[2J[red]b[/nonsense]\nc\x07\u202e"
    values = {evil: Estimate(1.0).to_dict()}
    header = {**rows[0], "model": {"name": evil}, "optimizer": {"name": evil}}
    text = shown([
        header,
        {"kind": "snapshot", "step": 1, "quantity": evil, "values": values},
        {"kind": "snapshot", "step": 1, "quantity": "layers", "names": [evil], "values": {}},
        {"kind": "flag", "step": 1, "text": evil},
        {"kind": "not_applicable", "quantity": evil, "reason": evil},
    ])  # fmt: skip
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert r"a\x1b[2J[red]b[/nonsense]\nc\x07\u202e" in text
    assert clean("x" * 500) == "x" * 97 + "..." and clean("5\u202f%") == "5 %"


def test_the_sparkline():
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "\u2581\u2581"
    assert sparkline([0.0, 7.0]) == "\u2581\u2588"
    assert sparkline([0.0, float("nan"), 1.0]) == "\u2581\u00b7\u2588"
    assert sparkline([float("inf")] * 3) == "\u00b7" * 3
    assert sparkline([1e308, -1e308, 1e308]) == "\u2588\u2581\u2588"
    assert sparkline([1e308] * 200, width=2) == "\u2581\u2581"
    assert sparkline([0.0, 5e-324]) == "\u2581\u2588"
    long = sparkline(range(1000), width=8)
    assert long == "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"


def test_tail_follows_a_file_that_grows_and_is_replaced(tmp_path, rows):
    path, text = tmp_path / "run.jsonl", lines(rows).encode()
    tail = Tail(path)
    assert not tail.poll() and tail.rows == []
    path.write_bytes(b"")
    assert tail.poll() and not tail.poll()
    with path.open("ab") as file:
        for k in range(0, len(text), 997):  # cut anywhere, also within characters
            file.write(text[k : k + 997])
            file.flush()
            assert tail.poll()
            whole = text[: k + 997].count(b"\n")
            assert tail.rows == rows[:whole]
    assert tail.rows == rows and not tail.poll()
    other = tmp_path / "other"
    other.write_text(lines(rows[:3]))
    other.replace(path)
    assert tail.poll() and tail.rows == rows[:3]
    with path.open("r+") as file:  # longer, in place: the same file by its number
        file.write(lines(reversed(rows)))
    assert tail.poll() and tail.rows == rows[::-1]
    path.write_text(lines(rows[:1]))  # shorter, in place
    assert tail.poll() and tail.rows == rows[:1]
    path.unlink()
    assert not tail.poll() and tail.rows == rows[:1]


def test_broken_lines_are_left_out_and_other_files_refused(tmp_path, rows):
    path = tmp_path / "run.jsonl"
    path.write_text(lines(rows[:2]) + 'not json\n[1]\n{"step": 1}\n' + lines(rows[2:])[:-5])
    tail = Tail(path)
    assert tail.poll() and tail.rows == rows[:-1]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"not a run\.jsonl"):
        Tail(path).poll()
    path.write_bytes(b"PK\x03\x04\xff\xfe\n" * 4)
    with pytest.raises(DataError, match=r"not a run\.jsonl"):
        Tail(path).poll()


@pytest.mark.parametrize(
    ("name", "says"),
    [("none.jsonl", "no file"), (".", "is a directory"), ("other.jsonl", "schema 99")],
)
def test_errors_are_one_line(tmp_path, rows, name, says):
    (tmp_path / "other.jsonl").write_text(lines([{**rows[0], "schema": 99}]))
    result = CliRunner().invoke(app, [str(tmp_path / name), "--once"])
    assert result.exit_code == 2 and says in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_block_that_cannot_be_drawn_leaves_the_others_alone(rows, monkeypatch):
    strange = json.loads(json.dumps(rows))
    for row in strange:
        if row.get("quantity") == "layers":
            for value in row["values"].values():
                value.update(value=[[1.0, 2.0], [3.0, 4.0]], stderr=[[0, 0], [0, 0]])
        if row["kind"] == "losses":
            row["value"][:2] = [1e308, -1e308]
    text = shown(strange)
    assert "Sequential" in text and "minibatch loss" in text and "reference_loss" in text

    def broken(run):
        raise ZeroDivisionError("none of yours")

    monkeypatch.setattr("thermolearn.report.cards.all_cards", broken)
    text = shown(rows)
    assert "(cannot be shown: cards: ZeroDivisionError: none of yours)" in text
    assert "reference_loss" in text


def test_rows_that_come_later_are_joined_to_those_before(rows):
    from thermolearn.report.reader import view

    more = [
        {**r, "step": [s + 20 for s in r["step"]] if r["kind"] == "losses" else r["step"] + 25}
        for r in rows
        if r["kind"] in ("losses", "snapshot")
    ]
    other = {"kind": "summary", "quantity": "q", "values": {"z": Estimate(2.0).to_dict()}}
    remarks = [{"kind": "flag", "step": 7, "text": "a"},
               {"kind": "not_applicable", "quantity": "q", "reason": "b"}]  # fmt: skip
    every = [*rows, *more, other, *remarks, rows[3]]
    growing, grown = Growing(), []
    for k in range(len(every) + 1):  # the last one repeats a step
        grown += every[len(grown) : k]
        run, whole = growing.view(grown), view(every[:k])
        for name in ("header", "not_applicable", "flags", "cost", "unchanged", "missing"):
            assert getattr(run, name) == getattr(whole, name), name
        assert repr(run.losses) == repr(whole.losses) and repr(run.samples) == repr(whole.samples)
        assert repr(run.snapshots) == repr(whole.snapshots)
        assert repr(run.summaries) == repr(whole.summaries) and run.restates == whole.restates
    assert repr(growing.view(rows)) == repr(view(rows))  # another list


def test_only_new_rows_are_read_again(rows, monkeypatch):
    import thermolearn.report.reader as reader

    read, view = [], reader.view
    monkeypatch.setattr(reader, "view", lambda rows: (read.append(len(rows)), view(rows))[1])
    growing, grown = Growing(), list(rows)
    growing.view(grown)
    grown += [{**r, "step": 99} for r in rows if r["kind"] == "snapshot"][:1]
    growing.view(grown)
    assert read == [len(rows), 1]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_ordinary_file_is_refused(tmp_path, kind):
    path = "/dev/zero"
    if kind == "pipe":
        path = str(tmp_path / "pipe")
        os.mkfifo(path)
    result = CliRunner().invoke(app, [path, "--once"])
    assert result.exit_code == 2 and "no ordinary file" in result.output


def read_until(master, wanted, seconds=30):
    """What the terminal shows until it shows `wanted`."""
    out, end = "", time.monotonic() + seconds
    while wanted not in out and time.monotonic() < end:
        if select.select([master], [], [], 0.5)[0]:
            out += os.read(master, 65536).decode(errors="replace")
    assert wanted in out
    return out


def test_in_a_terminal_it_waits_follows_and_ends_with_ctrl_c(tmp_path, rows):
    path = tmp_path / "run.jsonl"
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "60"}
    process = subprocess.Popen(
        [*COMMAND, str(path), "--interval", "0.05"],
        stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True,
    )  # fmt: skip
    os.close(slave)
    try:
        read_until(master, "waiting for")
        path.write_text(lines(rows[:3]) + lines(rows[3:4])[:20])
        read_until(master, "Sequential")
        path.write_text(lines(rows))
        read_until(master, "measured to step 20")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)

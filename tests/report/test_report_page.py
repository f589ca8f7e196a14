"""The whole page as text: what it says, what it escapes, where it is written."""

import html
import json
import os
import re
import subprocess
import sys

import make_rows
import pytest

from thermolearn.core.errors import DataError
from thermolearn.report import check_path, read_rows, render, write_report
from thermolearn.report.glossary import GLOSSARY, lookup

MAKERS = (make_rows.full, make_rows.transformer, make_rows.only_header, make_rows.hostile, list)


def visible(page):
    """Text of the page without tags and style."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


@pytest.fixture(scope="module")
def page():
    return render(make_rows.full())


def test_first_screen(page):
    text = visible(page)
    for said in (
        "Trains normally. One thing to change",
        "3466 parameters",
        "digits, classification, 1297 train, 500 test",
        "SGD, lr 0.05",
        "30 epochs, 1230 steps",
        "2.66 % of the training time in the loop, 18.4 s afterwards",
        "Run unchanged, bit by bit: parameters",
        "Is it learning?",
        "Is it still moving?",
        "Noise or curvature?",
        "Dead or stuck layers?",
        "More data or a bigger model?",
    ):
        assert said in text


def test_all_sections_in_order_and_closed(page):
    order = ["temperature", "entropy", "laws", "trust", "spectrum", "efficiency", "robustness"]
    found = re.findall(r'<details class="section" id="([\w-]+)"', page)
    assert found == ["training", "noise", "curvature", *order, "wide-limit"]
    assert not re.search(r"<details[^>]*\bopen\b", page)


def test_two_entropies_are_never_in_one_list(page):
    lists = page.split('<div class="values"')
    assert not [v for v in lists if "Relative entropy" in v.split("</details>\n</div>")[0]
                and "Differential entropy" in v.split("</details>\n</div>")[0]]  # fmt: skip


def test_what_restates_the_loss_is_marked_at_its_number(page):
    rows = re.findall(r'<details class="q"><summary.*?</summary>', page, flags=re.S)
    marked = [r for r in rows if "restates the loss" in r]
    assert {re.search(r'class="label">([^<]+?) <', r)[1] for r in marked} == {
        "Temperature", "Average loss", "Thermodynamic entropy", "Differential entropy",
    }  # fmt: skip
    assert "r\u00b2 &gt; 0.9999 against the loss" in page


def test_footer(page):
    text = visible(page)
    assert "heat per layer: layers of equal width only" in text
    assert "thermolearn measure --data digits --model mlp:32,32 --epochs 30 --seed 0" in text
    assert "arXiv:2004.09280" in text
    assert "step 8: the minibatch loss is not finite" in text


def test_every_known_name_has_a_meaning_and_its_label():
    for name, term in GLOSSARY.items():
        assert term.label, name
        assert term.meaning.endswith("."), name
        opened = re.findall(r"<(\w+)>", term.formula + term.symbol)
        assert sorted(opened) == sorted(re.findall(r"</(\w+)>", term.formula + term.symbol)), name
        assert set(opened) <= {"sub", "sup"}, name
    assert lookup("edges_per_edge_beta_1_last").label == (
        "Efficiency per edge, fixed slopes, \u03b2\u00a0=\u00a01, last snapshot"
    )
    assert lookup("made_up").label == "made up"


def test_unknown_names_are_shown():
    rows = [make_rows.header(), make_rows._row(1, "novel", {"strange_number": make_rows.est(4.25)})]
    text = visible(render(rows))
    assert "Also recorded: novel" in text
    assert "strange number" in text
    assert "4.25" in text


def test_a_column_of_error_bars_is_put_behind_its_numbers(page):
    text = visible(page)
    assert "beta temperature accuracy which 1 1 0.155(35)" in text
    assert "beta U theory U network C theory C network" in text


def test_without_canonical_the_reason_stands_in_the_place_of_the_physics():
    text = visible(render(make_rows.transformer()))
    physics = text[text.index(" Physics ") :]
    assert "Nothing of the canonical ensemble was measured" in physics
    assert "canonical: outputs of shape (16, 64, 65)" in physics
    assert "Missing from this file: the cost of measuring" in text
    assert "Seed not recorded" in text


def test_only_a_header():
    text = visible(render(make_rows.only_header()))
    assert "Missing from this file: the minibatch losses; the snapshots" in text
    assert "could not be told: whether it learns" in text


@pytest.mark.parametrize("make", MAKERS)
def test_one_small_self_contained_page(make):
    page = render(make())
    assert page.startswith("<!doctype html>")
    assert len(page.encode()) < 500_000
    assert not re.search(r"<(script|iframe|object|embed|form|img|video|audio|base)\b", page, re.I)
    assert not re.search(
        r"\b(src|srcset|action|formaction|xlink:href)\s*=\s*[\"']", visible_tags(page)
    )
    assert set(re.findall(r'href="([^"]*)"', page)) <= {"data:,"}
    assert "@import" not in page
    assert "url(" not in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def visible_tags(page):
    return " ".join(re.findall(r"<[^>]+>", page))


def test_hostile_text_stays_text():
    page = render(make_rows.hostile())
    assert not re.search(r"<\w+(?:\s+[\w:-]+(?:=\"[^\"]*\")?)*\s+on\w+\s*=", page)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("</svg>") == page.count("<svg")
    assert page.count("</style>") == 1
    assert page.count("</title>") == page.count("<title")
    assert "alert(1)" in page  # it is shown, as text
    assert "{{ 7 * 7 }} {% raw %}" in visible(page)
    page.encode("utf-8")
    assert "\x1b" not in page
    assert "\x00" not in page


def test_a_very_long_run_stays_small():
    rows = make_rows.full(snapshots=800, steps=8000)
    for row in rows:
        if row.get("quantity") == "layers" and row["kind"] == "snapshot":
            row["names"] = [f"layer {k}" for k in range(900)]
            row["values"]["weight_norm"] = make_rows.est([1.0] * 900)
    rows += [{"kind": "flag", "step": k, "text": "x" * 5000} for k in range(2000)]
    rows += [make_rows._row(1, f"q{k}", {f"v{j}": make_rows.est(1.0) for j in range(300)})
             for k in range(50)]  # fmt: skip
    page = render(rows)
    assert len(page.encode()) < 1_000_000
    assert "840 more rows" in page
    assert len(render(make_rows.full(snapshots=800, steps=8000)).encode()) < 500_000


def test_rendering_twice_gives_the_same_page():
    assert render(make_rows.full()) == render(make_rows.full())


# -- writing ------------------------------------------------------------------------------------
def test_write_report(tmp_path):
    source = tmp_path / "run.jsonl"
    source.write_text("".join(json.dumps(r) + "\n" for r in make_rows.full(5, 50)))
    target = tmp_path / "report.html"
    target.write_text("old")
    assert write_report(read_rows(source), target) == target
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {p.name for p in tmp_path.iterdir()} == {"run.jsonl", "report.html"}


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    target.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(DataError, match="No space left"):
        write_report([], target)
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen([sys.executable, "-c", f"print(len(open({str(pipe)!r}).read()))"],
                              stdout=subprocess.PIPE)  # fmt: skip
    write_report([], pipe)
    out, _ = reader.communicate(timeout=60)
    assert int(out) > 1000
    assert pipe.is_fifo()


def test_paths_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        check_path(tmp_path)
    with pytest.raises(DataError, match="create the folder"):
        check_path(tmp_path / "none" / "report.html")
    with pytest.raises(DataError, match="cannot write the report"):
        write_report([], tmp_path / "none" / "report.html")


def test_the_report_needs_neither_torch_nor_scipy():
    code = (
        "import sys; import thermolearn.report as r; r.render([]);"
        "print([m for m in ('torch', 'scipy', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

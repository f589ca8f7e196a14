"""run.jsonl in every state of repair, and the view of a run."""

import json

import make_rows
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thermolearn.core.errors import DataError
from thermolearn.report import read_rows, render
from thermolearn.report.reader import as_estimate, view


def write(path, rows, tail=""):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + tail, encoding="utf-8")
    return path


def flags(rows):
    return [r["text"] for r in rows if r["kind"] == "flag"]


def test_rows_come_back_as_written(tmp_path):
    rows = make_rows.full(6, 120)
    assert read_rows(write(tmp_path / "run.jsonl", rows)) == rows


def test_truncated_last_line_is_flagged_and_the_rest_kept(tmp_path):
    rows = make_rows.full(6, 120)
    path = write(tmp_path / "run.jsonl", rows, tail='{"kind": "snapshot", "step": 1')
    read = read_rows(path)
    assert read[:-1] == rows
    assert "cut off" in flags(read)[-1]


def test_every_truncation_of_a_file_is_survived(tmp_path):
    text = write(tmp_path / "run.jsonl", make_rows.full(3, 20)).read_bytes()
    path = tmp_path / "part.jsonl"
    for end in np.linspace(0, len(text), 40).astype(int):
        path.write_bytes(text[:end])
        if 0 < end < 8:
            continue  # not enough of a line to know what it was
        assert "<!doctype html>" in render(read_rows(path))


def test_broken_line_in_the_middle_is_flagged(tmp_path):
    rows = make_rows.full(3, 20)
    path = write(tmp_path / "run.jsonl", rows[:2], tail='{"kind": "lo{"kind":\n')
    with path.open("a") as file:
        file.writelines(json.dumps(r) + "\n" for r in rows[2:])
    read = read_rows(path)
    assert read[:-1] == rows
    assert "line 3" in flags(read)[-1]


def test_empty_file_is_reported(tmp_path):
    path = write(tmp_path / "run.jsonl", [])
    assert "empty" in flags(read_rows(path))[0]
    page = render(read_rows(path))
    assert "Missing from this file: the header" in page
    assert "the file is empty" in page


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x80\x02}q\x00", "not a text file"),
        (b"step,loss\n1,2\n", "not a run.jsonl"),
        (b'{"a": 1}\n[1]\n', "not a run.jsonl"),
        (b'{"kind": "header", "schema": 2, "library": "9.9"}\n', "this version reads schema 1"),
        (b'{"kind": "header"}\n', "schema None"),
    ],
)
def test_what_is_no_run_is_an_error_that_says_what_to_do(tmp_path, content, says):
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path)


def test_render_refuses_another_schema():
    with pytest.raises(DataError, match="schema 7"):
        render([make_rows.header(schema=7)])


def test_unknown_kinds_and_stray_rows_do_not_matter():
    rows = make_rows.full(4, 40)
    stray = [{"kind": "future", "x": 1}, {"kind": "snapshot"}, {"kind": "losses", "step": 3}]
    assert render(rows + stray + ["text", None]) == render(rows)


def test_view_of_a_run():
    run = view(make_rows.full(31, 1230))
    reference = run.series("learning", "reference_loss")
    assert len(reference) == 31
    assert reference.value[0] == pytest.approx(0.512)
    assert len(run.losses) == 1230
    assert np.isnan(run.losses.value[7])
    assert run.samples == 1230 * 32
    assert run.last("layers", "dead_fraction").value[:2].tolist() == [0, 0]
    assert set(run.restates) == {
        "temperature", "average_loss", "thermodynamic_entropy", "entropy_differential",
    }  # fmt: skip
    assert run.missing == []


def test_of_a_resumed_run_the_last_row_of_a_step_and_the_first_header_count():
    rows = [make_rows.header(seed=1)]
    for value in (1.0, 2.0):
        rows.append(make_rows._row(5, "learning", {"reference_loss": make_rows.est(value)}))
        rows.append({"kind": "losses", "step": [5], "value": [value], "samples": [1]})
    run = view([*rows, make_rows.header(seed=2)])
    assert run.series("learning", "reference_loss").value.tolist() == [2.0]
    assert run.losses.value.tolist() == [2.0]
    assert run.header["seed"] == 1
    assert "2 header rows" in run.flags[-1][1]


def test_estimates_that_cannot_be_read_are_nan():
    for bad in ("text", {"value": "x"}, {"value": [1, [2]]}, {}, None, {"value": {"a": 1}}):
        assert np.isnan(as_estimate(bad).value)
    assert as_estimate(3).value == 3
    assert np.isnan(as_estimate(3).stderr)
    assert as_estimate({"value": [1, None], "stderr": [0.1, None]}).value[0] == 1
    assert np.isnan(as_estimate({"value": 1, "stderr": -1}).stderr)
    assert np.isnan(as_estimate({"value": [1, 2], "stderr": [1, 2, 3]}).stderr)


simple = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
json_value = (
    simple | st.lists(simple, max_size=3) | st.dictionaries(st.text(max_size=4), simple, max_size=2)
)
any_row = st.tuples(
    st.sampled_from(["losses", "snapshot", "summary", "flag", "cost", "unchanged", "x"]),
    st.sampled_from(["step", "quantity", "values", "names", "value", "samples", "tables", "notes"]),
    st.sampled_from(
        ["step", "quantity", "values", "text", "reason", "training_s", "ok", "checked"]
    ),
    json_value,
    json_value,
).map(lambda r: {"step": 1, "quantity": "learning", "kind": r[0], r[1]: r[3], r[2]: r[4]})
HEAD = ["model", "data", "optimizer", "reference", "loss", "segmentation", "conventions", "info"]


@given(st.lists(any_row, max_size=5), st.sampled_from(HEAD), json_value)
@settings(deadline=None, max_examples=60)
def test_any_json_gives_a_page(rows, field, value):
    head = {"kind": "header", "schema": 1, "created": value, "every": value, field: value}
    assert render([head, *rows]).rstrip().endswith("</html>")


quantity_row = st.builds(
    lambda step, quantity, name, value, stderr: make_rows._row(
        step, quantity, {name: {"value": value, "stderr": stderr}}
    ),
    st.integers(0, 50),
    st.sampled_from(["learning", "canonical", "laws", "layers", "gradient_noise", "curvature"]),
    st.sampled_from([
        "reference_loss", "validation_loss", "beta", "temperature", "equipartition_ratio", "heat",
        "dead_fraction", "update_ratio", "noise_scale", "batch_size", "sharpness", "stability_edge",
    ]),
    st.floats(allow_nan=True) | st.lists(st.floats(), max_size=3) | st.none(),
    st.floats(min_value=0) | st.none(),
)  # fmt: skip


@given(st.lists(quantity_row, max_size=12))
@settings(deadline=None, max_examples=60)
def test_any_numbers_give_a_page(rows):
    assert render([make_rows.header(), *rows]).rstrip().endswith("</html>")

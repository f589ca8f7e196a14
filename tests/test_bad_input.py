"""Whatever is in a file, only a DataError that names the file may come out."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from thermolearn.core.errors import DataError
from thermolearn.data import load
from thermolearn.models import build, load_weights

NUMBERS = np.random.default_rng(0).normal(size=(24, 3)).round(3)


def csv_text(cells):
    return "a,b,y\n" + "\n".join(",".join(map(str, row)) for row in cells) + "\n"


def saved(write):
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


WHOLE = {
    "npz": saved(lambda f: np.savez_compressed(f, x=NUMBERS[:, :2], y=NUMBERS[:, 2])),
    "parquet": saved(
        lambda f: parquet.write_table(pa.table({k: NUMBERS[:, i] for i, k in enumerate("aby")}), f)
    ),
    "csv": csv_text(NUMBERS).encode(),
}


def load_bytes(content, extension, target="y"):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file.{extension}"
        path.write_bytes(content)
        try:
            return load(path, target=target)
        except DataError as error:
            assert "file." in str(error)
            raise


@given(content=st.binary(max_size=300), extension=st.sampled_from(list(WHOLE)))
@settings(max_examples=60, deadline=None)
def test_random_bytes(content, extension):
    with pytest.raises(DataError):
        load_bytes(content, extension)


@given(content=st.binary(max_size=200), extension=st.sampled_from(["pt", "safetensors"]))
@settings(max_examples=60, deadline=None)
def test_random_bytes_as_weights(content, extension):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"w.{extension}"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"w\."):
            load_weights(build("mlp:2", 2, 2), path)


@given(data=st.data(), extension=st.sampled_from(list(WHOLE)))
@settings(max_examples=60, deadline=None)
def test_truncated_file(data, extension):
    whole = WHOLE[extension]
    # a .csv that lost its last rows is still a table
    end = data.draw(st.integers(0, len(whole) - 1 if extension != "csv" else 60))
    with pytest.raises(DataError):
        load_bytes(whole[:end], extension)


@given(data=st.data(), extension=st.sampled_from(list(WHOLE)))
@settings(max_examples=90, deadline=None)
def test_changed_byte_gives_data_or_a_data_error(data, extension):
    content = bytearray(WHOLE[extension])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        dataset = load_bytes(bytes(content), extension)
    except DataError:
        return
    # whatever the byte meant, what is loaded is whole
    assert len(dataset.x_train) == len(dataset.y_train) > 0
    assert bool(dataset.x_train.isfinite().all())


@given(row=st.integers(0, 23), cells=st.integers(1, 6).filter(lambda n: n != 3))
@settings(max_examples=25, deadline=None)
def test_ragged_row_is_named(row, cells):
    lines = [list(r) for r in NUMBERS]
    lines[row] = [1.0] * cells
    with pytest.raises(DataError, match=rf"(?i)row #{row + 2}\b"):
        load_bytes(csv_text(lines).encode(), "csv")


@given(
    row=st.integers(0, 23),
    column=st.integers(0, 2),
    bad=st.sampled_from(["nan", "NaN", "", "inf", "-inf", "NA"]),
)
@settings(max_examples=40, deadline=None)
def test_place_of_a_non_finite_value_is_named(row, column, bad):
    cells = NUMBERS.astype(object)
    cells[row, column] = bad
    with pytest.raises(DataError, match=rf"column '{'aby'[column]}' is .* at row {row + 2} "):
        load_bytes(csv_text(cells).encode(), "csv")
    value = {"inf": np.inf, "-inf": -np.inf}.get(bad, np.nan)
    array = NUMBERS.copy()
    array[row, column] = value
    content = saved(lambda f: np.savez(f, x=array[:, :2], y=array[:, 2]))
    with pytest.raises(DataError, match=rf"column '{'xxy'[column]}' is .* at row {row} "):
        load_bytes(content, "npz")
    table = pa.table({k: array[:, i] for i, k in enumerate("aby")})
    content = saved(lambda f: parquet.write_table(table, f))
    with pytest.raises(DataError, match=rf"column '{'aby'[column]}' is .* at row {row} "):
        load_bytes(content, "parquet")


@given(
    row=st.integers(0, 23),
    column=st.sampled_from([1, 2]),
    text=st.sampled_from(["abc", "1.2.3", "12,5"]),
)
@settings(max_examples=15, deadline=None)
def test_cell_that_is_no_number_is_named(row, column, text):
    cells, name = NUMBERS.astype(object), "aby"[column]
    cells[row, column] = f'"{text}"'
    with pytest.raises(DataError, match=rf"'{name}' holds numbers, but '{text}' at row {row + 2} "):
        load_bytes(csv_text(cells).encode(), "csv")


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        ("", "y", "is empty"),
        ("a,b,y\n", "y", "no rows"),
        ("1,2,3\n4,5,6\n", "3", "add a header line"),
        ("a;b;y\n1;2;3\n", "y", "separate columns by commas"),
        ("a,a,y\n1,2,3\n", "y", "two columns are called 'a'"),
        (",a,y\n1,2,3\n", "y", "column 1 has no name"),
        (csv_text(NUMBERS), None, "the columns are a, b, y"),
        (csv_text(NUMBERS), "z", "no column 'z'; the columns are a, b, y"),
        (csv_text(NUMBERS[:4]), "y", "has 4 rows; at least 10"),
        ("a,y\n" + "1,2\n2,2\n" * 10, "y", "one class only"),
        ("a,y\n" + "1,2.5\n2,2.5\n" * 10, "y", "2.5 in every row"),
        ("a,y\n" + "1,2.5\n1,3.5\n" * 10, "y", "every feature .* is constant"),
        ("a,y\n" + "1e308,2.5\n-1e308,3.5\n" * 10, "y", "'a' .* too large"),
        ("a,y\n" + "2020-01-01,2.5\n" * 10, "y", "type date32"),
        ("a,y\n" + "\n".join(f"w{i},{i}.5" for i in range(30)), "y", "30 distinct values"),
        ("a,y\n" + "\n".join(f"{i},w{i}" for i in range(30)), "y", "not a class label"),
    ],
)
def test_unusable_table(content, target, message):
    with pytest.raises(DataError, match=message):
        load_bytes(content.encode(), "csv", target)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": NUMBERS}, "no array x or X; its arrays are z"),
        ({"x": NUMBERS}, "no target array 'y'; its arrays are x"),
        ({"x": NUMBERS, "y": NUMBERS[:5, 0]}, "24 rows but y has 5"),
        ({"x": NUMBERS[:, 0], "y": NUMBERS[:, 0]}, r"x has shape \(24,\)"),
        ({"x": NUMBERS, "y": NUMBERS[None]}, "y has shape"),
        ({"x": NUMBERS * 1j, "y": NUMBERS[:, 0]}, "complex128"),
        ({"x": NUMBERS.astype(object), "y": NUMBERS[:, 0]}, "Python objects are never opened"),
        ({"x": np.empty((0, 3)), "y": np.empty(0)}, r"shape \(0, 3\)"),
    ],
)
def test_unusable_arrays(arrays, message):
    with pytest.raises(DataError, match=message):
        load_bytes(saved(lambda f: np.savez(f, **arrays)), "npz")


def test_names_and_extensions(tmp_path):
    with pytest.raises(DataError, match=r"shipped are digits, breast_cancer, wine"):
        load("digit")
    with pytest.raises(DataError, match="is a directory"):
        load(tmp_path)
    (tmp_path / "t.xls").write_text("a")
    with pytest.raises(DataError, match=r"unknown extension '\.xls'; files may be \.csv"):
        load(tmp_path / "t.xls")
    with pytest.raises(DataError, match="fixed target"):
        load("iris", target="species")
    with pytest.raises(DataError, match="not a usable path"):
        load("a" * 5000 + ".csv")


@pytest.mark.parametrize(
    "option", [{"task": "cluster"}, {"test_fraction": 0.0}, {"test_fraction": 1.0}, {"seed": -1},
               {"test_fraction": float("nan")}],
)  # fmt: skip
def test_bad_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        load("iris", **option)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_fraction_that_leaves_nothing(fraction):
    with pytest.raises(DataError, match="nearer to 1/4"):
        load("iris", test_fraction=fraction)

"""Data sets: splits, scaling, the rule for the task, and files against what was written."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from sklearn import datasets

from thermolearn.core.errors import DataError
from thermolearn.data import SHIPPED, infer_task, load, load_pool, load_unlabelled


def write_csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(*rng.normal(size=2).round(4), i % 3) for i in range(30)]
    return write_csv(tmp_path / "t.csv", "a,b,kind", rows), np.array(rows)


@pytest.mark.parametrize(
    ("name", "rows", "inputs", "classes"),
    [("digits", 1797, 64, 10), ("breast_cancer", 569, 30, 2), ("wine", 178, 13, 3),
     ("diabetes", 442, 10, 0), ("iris", 150, 4, 3)],
)  # fmt: skip
def test_shipped(name, rows, inputs, classes):
    data = load(name)
    assert len(data.x_train) + len(data.x_test) == rows
    assert (data.n_inputs, len(data.classes)) == (inputs, classes)
    assert data.x_train.dtype == data.x_test.dtype == torch.float32
    assert data.y_train.dtype == (torch.int64 if classes else torch.float32)
    assert data.y_train.shape[1:] == (() if classes else (1,))
    assert data.n_outputs == (classes or 1)
    assert len(data.feature_names) == inputs
    assert data.rule.startswith(data.task)


def test_every_shipped_name_is_tested():
    assert set(SHIPPED) == {"digits", "breast_cancer", "wine", "diabetes", "iris"}


def test_digits_are_centered_per_pixel_and_divided_by_one_number():
    data = load("digits", seed=3)
    assert (len(data.x_train), len(data.x_test)) == (1297, 500)
    assert data.image_shape == (1, 8, 8) and data.x_train.shape == (1297, 64)
    assert torch.allclose(data.x_train.mean(0), torch.zeros(64), atol=1e-6)
    assert float(data.x_train.double().square().mean()) == pytest.approx(1, abs=1e-6)
    assert data.standardization.scale.ndim == 0
    x = torch.cat([data.x_train, data.x_test]).double().numpy()
    back = x * data.standardization.scale + data.standardization.center
    whole = np.sort(datasets.load_digits().data / 16, axis=0)
    assert np.allclose(np.sort(back, axis=0), whole, atol=1e-6)


def test_scaling_uses_the_training_rows_only():
    data = load("wine", seed=1)
    x = data.x_train.double()
    assert torch.allclose(x.mean(0), torch.zeros(13).double(), atol=1e-6)
    assert torch.allclose(x.std(0, correction=0), torch.ones(13).double(), atol=1e-6)
    assert not torch.allclose(data.x_test.mean(0), torch.zeros(13), atol=1e-3)


def test_regression_target_is_standardized_and_can_be_restored():
    data = load("diabetes")
    s = data.standardization
    assert float(data.y_train.mean()) == pytest.approx(0, abs=1e-6)
    y = torch.cat([data.y_train, data.y_test]).double().numpy() * s.target_scale + s.target_center
    assert np.allclose(np.sort(y[:, 0]), np.sort(datasets.load_diabetes().target), atol=1e-3)


def test_split_is_in_proportion_reproducible_and_depends_on_the_seed():
    a, b, c = load("iris", seed=0), load("iris", seed=0), load("iris", seed=1)
    assert torch.equal(a.x_train, b.x_train) and not torch.equal(a.x_train, c.x_train)
    counts = torch.bincount(a.y_test)
    assert counts.max() - counts.min() <= 1
    assert len(load("iris", test_fraction=0.4).x_test) == 60


def test_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    load("iris", seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(legacy, np.random.get_state()[1])


@pytest.mark.parametrize(
    ("y", "task", "why"),
    [
        (["a", "b", "a"], "classification", "is text"),
        ([0, 1, 0, 1.0], "classification", "holds 2 distinct integers"),
        ([0, 1, 0, 1, 2], "regression", "seen only once"),
        ([0.5, 1, 0.5, 1], "regression", "not made of integers"),
        (list(range(21)) * 2, "regression", "more than 20"),
        (list(range(20)) * 2, "classification", "20 distinct"),
        ([[1, 2], [3, 4]], "regression", "2 columns"),
    ],
)
def test_rule_for_the_task(y, task, why):
    found, sentence = infer_task(np.array(y), "t")
    assert found == task and why in sentence and sentence.startswith(task)


def test_task_asked_for_wins_if_it_can_be_done():
    y = np.array([0.0, 1, 0, 1])
    assert infer_task(y, "t", "regression") == ("regression", "regression, as asked for")
    with pytest.raises(DataError, match="text"):
        infer_task(np.array(["a", "b"]), "t", "regression")
    with pytest.raises(DataError, match="one class per row"):
        infer_task(y / 3, "t", "classification")


def test_csv_parquet_and_npz_hold_the_same_data(table, tmp_path):
    path, rows = table
    parquet.write_table(
        pa.table({"a": rows[:, 0], "b": rows[:, 1], "kind": rows[:, 2].astype(int)}),
        tmp_path / "t.parquet",
    )
    np.savez(tmp_path / "t.npz", X=rows[:, :2], y=rows[:, 2].astype(int))
    csv = load(path, target="kind")
    for other in (
        load(tmp_path / "t.parquet", target="kind"),
        load(tmp_path / "t.npz"),
    ):
        assert other.task == csv.task == "classification"
        for name in ("x_train", "y_train", "x_test", "y_test"):
            assert torch.equal(getattr(csv, name), getattr(other, name))
    assert csv.classes == ("0", "1", "2") and csv.feature_names == ("a", "b")


def test_files_without_standardization_keep_their_numbers(table):
    path, rows = table
    data = load(path, target="kind", standardize=False)
    x = np.concatenate([data.x_train, data.x_test])
    assert np.array_equal(np.sort(x, 0), np.sort(rows[:, :2].astype(np.float32), 0))


def test_text_column_becomes_one_column_per_text(tmp_path):
    rows = [("xyz"[i % 3], i * 0.5) for i in range(12)]
    data = load(write_csv(tmp_path / "t.csv", "c,y", rows), target="y", standardize=False)
    assert data.feature_names == ("c=x", "c=y", "c=z")
    assert torch.equal(data.x_train.sum(1), torch.ones(len(data.x_train)))
    assert "'c'" in data.notes[0]


def test_constant_features_are_dropped_with_a_note(tmp_path):
    rows = [(i, 7, i * 0.5) for i in range(12)]
    data = load(write_csv(tmp_path / "t.csv", "a,b,y", rows), target="y")
    assert data.feature_names == ("a",)
    assert data.notes == ("dropped 1 constant feature(s): b",)


def test_npz_images_keep_their_shape(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3, 6, 5))
    np.savez(tmp_path / "i.npz", x=x, y=np.arange(20) % 2)
    data = load(tmp_path / "i.npz")
    assert data.x_train.shape[1:] == data.image_shape == data.input_shape == (3, 6, 5)
    assert data.n_inputs == 90 and data.feature_names == ()


def test_types_are_inferred_from_every_row(tmp_path):
    # more than a megabyte of integers before the first fraction
    rows = [(i % 7, 1000000 + i) for i in range(120_000)] + [(0, 0.5)]
    data = load(write_csv(tmp_path / "t.csv", "a,y", rows), target="y")
    assert data.task == "regression"


def test_a_pool_holds_every_row():
    data = load_pool("wine")
    assert len(data.x_train) == 178 and len(data.x_test) == 0
    assert torch.allclose(data.x_train.mean(0), torch.zeros(13), atol=1e-5)
    assert data.standardization.rule.endswith("(of all rows)")
    with pytest.raises(ValueError, match="task must be one of"):
        load_pool("wine", task="ranking")


# -- inputs without labels --------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """A table with a text column and a constant one, and the data set read from it."""
    rng = np.random.default_rng(1)
    colors = np.array(["red", "blue", "green"])
    rows = [(round(rng.normal(5, 2), 4), colors[i % 3], 7, i % 2) for i in range(60)]
    path = write_csv(tmp_path / "mixed.csv", "a,color,same,y", rows)
    return rows, load(path, target="y")


def test_unlabelled_rows_are_scaled_like_the_labelled(mixed, tmp_path):
    rows, data = mixed
    assert data.feature_names == ("a", "color=blue", "color=green", "color=red")
    # other order, with a column that is not wanted, and without the constant one
    path = write_csv(tmp_path / "new.csv", "id,color,a", [(k, r[1], r[0]) for k, r in
                                                         enumerate(rows)])  # fmt: skip
    x = load_unlabelled(path, data).double().numpy()
    raw = np.array([[r[0], r[1] == "blue", r[1] == "green", r[1] == "red"] for r in rows], float)
    constants = data.standardization
    assert np.allclose(x, (raw - constants.center) / constants.scale, atol=1e-6)
    assert load_unlabelled(tmp_path / "mixed.csv", data).shape == (60, 4)


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [("a,colour", (1.0, "red"), "lacks 3 of the 4 features: color=blue"),
     ("color", ("red",), "one column only"),
     ("a,color", (1.0, "black"), "'black' at row 2 .* does not know"),
     ("a,color", ("x", "red"), "'a' is text, but it was a number"),
     ("a,color", (1.0, 3), "'color' holds numbers, but it was text"),
     ("a,color", ("", "red"), "'a' is missing or NaN")],
)  # fmt: skip
def test_unlabelled_tables_that_cannot_be_used(mixed, tmp_path, header, row, said):
    _, data = mixed
    with pytest.raises(DataError, match=said):
        load_unlabelled(write_csv(tmp_path / "new.csv", header, [row] * 3), data)


def test_unlabelled_arrays(tmp_path):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 5))
    x[:, 2] = 1.0
    np.savez(tmp_path / "pool.npz", x=x, y=rng.normal(size=40))
    data = load(tmp_path / "pool.npz")
    assert data.feature_names == ("x[0]", "x[1]", "x[3]", "x[4]")
    np.savez(tmp_path / "new.npz", x=x[:7])
    new = load_unlabelled(tmp_path / "new.npz", data).double().numpy()
    constants = data.standardization
    assert np.allclose(new, (x[:7, [0, 1, 3, 4]] - constants.center) / constants.scale, atol=1e-6)
    np.savez(tmp_path / "few.npz", x=x[:7, :3])
    with pytest.raises(DataError, match=r"one row has shape \(3,\)"):
        load_unlabelled(tmp_path / "few.npz", data)
    with pytest.raises(DataError, match="no file"):
        load_unlabelled(tmp_path / "none.csv", data)
    with pytest.raises(DataError, match="unknown extension"):
        load_unlabelled(write_csv(tmp_path / "new.txt", "a", [(1,)]), data)

"""Definitions of sweeps: what they mean, and that what is wrong is named before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import toy_sweep
from hypothesis import given
from hypothesis import strategies as st

from thermolearn.core.errors import SweepError
from thermolearn.study.grid import Grid, read_definition


def toy(**kwargs) -> Grid:
    return Grid(toy_sweep, **kwargs)


def test_product_and_zip_and_constants_make_the_cells() -> None:
    grid = toy(
        product={"load": [0.1, 0.2], "widths": [[1, 2], [3]]},
        zip={"n_spins": [10, 20, 30], "pause": [0.1, 0.2, 0.3]},
        fixed={"kind": "stuck"},
        seeds=3,
    )
    assert grid.shape == (2, 2, 3) and list(grid.dims) == ["load", "widths", "zip"]
    assert len(grid.cells) == 12
    cell = grid.cells[np.ravel_multi_index((1, 0, 2), grid.shape)]
    assert cell == toy_sweep.Params(0.2, 30, (1, 2), "stuck", 0.3)
    assert list(grid.seed_range) == [0, 1, 2]
    assert grid.definition["zip"] == {"n_spins": [10, 20, 30], "pause": [0.1, 0.2, 0.3]}


def test_without_swept_parameters_there_is_one_cell() -> None:
    assert toy(fixed={"load": 0.5}, seeds=0).cells == (toy_sweep.Params(0.5),)
    assert toy().shape == ()


def test_one_zipped_parameter_has_its_own_dimension() -> None:
    assert list(toy(zip={"load": [0.1, 0.2]}).dims) == ["load"]


def test_ranges() -> None:
    grid = toy(product={"load": {"start": 0.1, "stop": 0.5, "num": 5}})
    assert grid.dims["load"]["load"] == (0.1, 0.2, 0.3, 0.4, 0.5)
    grid = toy(product={"n_spins": {"start": 100, "stop": 1600, "num": 5, "scale": "log"}})
    assert grid.dims["n_spins"]["n_spins"] == (100, 200, 400, 800, 1600)
    assert toy(product={"load": {"start": 0.3, "stop": 0.3, "num": 1}}).shape == (1,)
    assert toy(product={"load": np.array([0, 1])}).cells[1].load == 1.0


@given(
    st.floats(1e-3, 1), st.floats(1e-3, 1), st.integers(2, 30), st.sampled_from(["linear", "log"])
)
def test_ranges_hold_their_ends_and_grow(a: float, b: float, num: int, scale: str) -> None:
    a, b = min(a, b), max(a, b) + 1e-3
    values = Grid(
        toy_sweep, product={"pause": {"start": a, "stop": b, "num": num, "scale": scale}}
    ).dims["pause"]["pause"]
    assert len(values) == num
    assert values[0] == pytest.approx(a, rel=1e-11) and values[-1] == pytest.approx(b, rel=1e-11)
    assert list(values) == sorted(set(values))


def test_a_whole_number_serves_as_a_float_and_gives_the_same_cell() -> None:
    (cell,) = toy(product={"load": [1]}).cells
    assert type(cell.load) is float


def test_seed_ranges() -> None:
    assert list(toy(seeds={"start": 8, "stop": 10}).seed_range) == [8, 9]
    assert toy(seeds=range(2, 4)).seed_range == range(2, 4)


BAD = {
    "unknown name": ({"product": {"laod": [0.1]}}, "laod.*did you mean load"),
    "unknown constant": ({"fixed": {"spins": 3}}, "spins"),
    "two places": ({"product": {"load": [0.1]}, "fixed": {"load": 0.1}}, "product and in fixed"),
    "wrong type": ({"product": {"n_spins": [10.5]}}, "n_spins must be int, got 10.5"),
    "text": ({"product": {"load": ["0.1"]}}, "load must be float, got '0.1'"),
    "bool": ({"product": {"load": [True]}}, "load must be float"),
    "element of a tuple": ({"product": {"widths": [[1, "a"]]}}, "widths must be tuple"),
    "no values": ({"product": {"load": []}}, "load has no values"),
    "constant among lists": ({"product": {"load": 0.1}}, "a constant belongs in fixed"),
    "word among lists": ({"product": {"kind": "plain"}}, "kind = 'plain'"),
    "lengths": ({"zip": {"load": [0.1], "n_spins": [1, 2]}}, "load has 1, n_spins has 2"),
    "list among constants": ({"fixed": {"load": [0.1]}}, "load must be float"),
    "refused": ({"product": {"load": [0.5, -1]}}, "cell load = -1.0: load must lie"),
    "twice": ({"product": {"load": [0.1, 0.1]}}, "load = 0.1 is there twice"),
    "range key": ({"product": {"load": {"strat": 0, "stop": 1, "num": 2}}}, "did you mean start"),
    "range part": ({"product": {"load": {"start": 0, "num": 2}}}, "lacks 'stop'"),
    "range none": ({"product": {"load": {"start": 0, "stop": 1, "num": 0}}}, "at least 1"),
    "range of one": (
        {"product": {"load": {"start": 0.3, "stop": 1, "num": 1}}},
        "both of its ends are included",
    ),
    "range num": ({"product": {"load": {"start": 0, "stop": 1, "num": 2.5}}}, "num of load"),
    "range log": (
        {"product": {"load": {"start": 0, "stop": 1, "num": 2, "scale": "log"}}},
        "must be positive",
    ),
    "range scale": (
        {"product": {"load": {"start": 0, "stop": 1, "num": 2, "scale": "lin"}}},
        "linear",
    ),
    "range of whole": ({"product": {"n_spins": {"start": 1, "stop": 2, "num": 3}}}, "gives 1.5"),
    "range infinite": (
        {"product": {"load": {"start": 0, "stop": float("inf"), "num": 3}}},
        "finite",
    ),
    "seeds": ({"seeds": 2.5}, "seeds"),
    "seeds true": ({"seeds": True}, "seeds"),
    "seeds negative": ({"seeds": -1}, "negative"),
    "seeds backwards": ({"seeds": {"start": 3, "stop": 3}}, "start < stop"),
    "section": ({"product": [1]}, "product must map"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_grid_is_named(case: str) -> None:
    arguments, message = BAD[case]
    with pytest.raises(SweepError, match=message):
        toy(**arguments)


def test_the_system_must_exist_and_keep_the_contract() -> None:
    with pytest.raises(SweepError, match=r"no system 'no_such_family\.hopfeld'"):
        Grid("no_such_family.hopfeld")
    with pytest.raises(SweepError, match="breaks the contract"):
        Grid(ModuleType("empty"))
    with pytest.raises(SweepError, match="a name or a module"):
        Grid(3)  # type: ignore[arg-type]


def test_a_module_of_ones_own_by_name() -> None:
    assert Grid("toy_sweep").module is sys.modules["toy_sweep"]


GOOD_FILE = """
[sweep]
system = "toy_sweep"
seeds = 4
[product]
load = {start = 0.1, stop = 0.3, num = 3}
widths = [[1, 2], [3]]
[zip]
n_spins = [10, 20]
pause = [0.0, 0.1]
[fixed]
kind = "plain"
[submitit]
timeout_min = 5
"""


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(GOOD_FILE)
    grid, options = read_definition(path)
    assert grid.shape == (3, 2, 2) and len(grid.seed_range) == 4
    assert options == {"timeout_min": 5}


BAD_FILE = {
    "section": ("[prodcut]\nload = [1]", "unknown section 'prodcut'; did you mean product"),
    "key outside": ('system = "toy_sweep"', "'system'.*sections"),
    "key of sweep": ('[sweep]\nsystem = "toy_sweep"\nsseds = 3', "'sseds'.*did you mean seeds"),
    "no system": ("[product]\nload = [0.1]", "name the system"),
    "system not text": ("[sweep]\nsystem = 3", "name the system"),
    "no such system": ('[sweep]\nsystem = "toy_sweeep_x"', "no system 'toy_sweeep_x'"),
    "empty section": ('[sweep]\nsystem = "toy_sweep"\n[product]', r"section \[product\] is empty"),
    "section as value": ("product = 3", "product must be a section"),
    "no TOML": ("[sweep\nsystem", "is not a TOML file"),
    "unknown name": ('[sweep]\nsystem = "toy_sweep"\n[product]\nloda = [1.0]', "did you mean load"),
    "a date": ('[sweep]\nsystem = "toy_sweep"\n[fixed]\nload = 2020-01-01', "load must be float"),
}


@pytest.mark.parametrize("case", BAD_FILE)
def test_a_wrong_file_is_named(case: str, tmp_path: Path) -> None:
    text, message = BAD_FILE[case]
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(SweepError, match=message) as caught:
        read_definition(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="cannot be read"):
        read_definition(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SweepError, match="not a TOML file"):
        read_definition(tmp_path / "x.toml")

"""The catalogue is read from sources, names are forgiving, parameters survive as text."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import thermolearn.systems as systems
from thermolearn.study.contract import (
    bare_paper,
    catalogue,
    find,
    find_by_paper,
    load,
    make_params,
    params_from_text,
    params_to_text,
)


def add(folder: Path, path: str, text: str) -> None:
    file = folder / "more_systems" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


# -- finding -------------------------------------------------------------------------------------
def test_modules_and_packages_are_found_without_importing_them(tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "__path__", [str(tmp_path / "more_systems")])
    explodes = "raise RuntimeError('imported')\n"
    add(tmp_path, "a/one.py", explodes + "ABOUT = {'title': 'One', 'papers': ['arXiv:2109.00454']}")
    add(tmp_path, "a/two/__init__.py", explodes + "ABOUT: dict = {'title': 'Two'}\n")
    add(tmp_path, "a/two/theory.py", "x = 1\n")
    add(tmp_path, "a/engine.py", "ABOUTS = {}\n")
    add(tmp_path, "b/two.py", "ABOUT = {}\n")
    entries = catalogue()
    assert list(entries) == ["a.one", "a.two", "b.two"]
    assert entries["a.one"].title == "One" and entries["b.two"].title == "b.two"
    assert entries["a.two"].module == "thermolearn.systems.a.two"
    assert find("ONE").name == "a.one" and find("a.two").path.name == "__init__.py"
    with pytest.raises(ValueError, match=r"short for several systems: a\.two, b\.two"):
        find("two")
    with pytest.raises(ValueError, match=r"no system 'onne'.*; did you mean a\.one\?"):
        find("onne")
    with pytest.raises(ValueError, match=r"known: a\.one, a\.two, b\.two"):
        find("zzzzzz")
    assert not [name for name in sys.modules if name.startswith("thermolearn.systems.a")]


def test_sources_and_their_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "__path__", [str(tmp_path / "more_systems")])
    add(tmp_path, "a/one.py", "ABOUT = {}\n")
    add(tmp_path, "a/two/__init__.py", "ABOUT = {}\n")
    add(tmp_path, "a/two/theory.py", "x = 1\n")
    add(tmp_path, "a/engine.py", "x = 1\n")
    one, two = catalogue().values()
    assert [path.name for path in one.sources] == ["engine.py", "one.py"]
    assert [path.name for path in two.sources] == ["engine.py", "__init__.py", "theory.py"]
    before = one.source_hash(), two.source_hash()
    add(tmp_path, "a/two/theory.py", "x = 2\n")
    assert one.source_hash() == before[0] and two.source_hash() != before[1]
    add(tmp_path, "a/engine.py", "x = 2\n")
    assert one.source_hash() != before[0]


@pytest.mark.parametrize("text", ["ABOUT = dict(a=1)\n", "ABOUT = {'a': f()}\n", "ABOUT = [1]\n"])
def test_an_about_that_cannot_be_read_is_an_error(tmp_path, monkeypatch, text):
    monkeypatch.setattr(systems, "__path__", [str(tmp_path / "more_systems")])
    add(tmp_path, "a/one.py", text)
    with pytest.raises(ValueError, match=r"one\.py: ABOUT must be a dict of literals"):
        catalogue()
    add(tmp_path, "a/one.py", "ABOUT = {\n")
    with pytest.raises(ValueError, match=r"one\.py: line 1"):
        catalogue()


def test_papers(coin):
    for name in ("2109.00454", "arXiv:2109.00454v2", "https://arxiv.org/abs/2109.00454"):
        assert "toy.coin" in [entry.name for entry in find_by_paper(name)]
    with pytest.raises(ValueError, match=r"did you mean.* arXiv:2109\.00454"):
        find_by_paper("2109.00455")
    assert bare_paper("doi:10.1103/PhysRevLett.55.1530") == "10.1103/physrevlett.55.1530"
    for name in ("https://doi.org/10.1103/X", "http://dx.doi.org/10.1103/x"):
        assert bare_paper(name) == "10.1103/x"
    for name in ("arXiv:math/0403022v2", "https://www.arxiv.org/abs/math/0403022v10"):
        assert bare_paper(name) == "math/0403022"
    assert bare_paper("https://www.arxiv.org/abs/2109.00454v1") == "2109.00454"
    assert bare_paper("arXiv:cond-mat.dis-nn/0403022v1") == "cond-mat.dis-nn/0403022"


# -- the contract --------------------------------------------------------------------------------
def test_a_good_system_loads(coin):
    assert load("coin") is load(find("toy.coin")) is load(coin) is coin


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: delattr(m, "theory"), "theory is not a function"),
        (lambda m: delattr(m, "Params"), "Params is not a frozen dataclass"),
        (lambda m: delattr(m, "ABOUT"), "no dict ABOUT"),
        (lambda m: m.ABOUT.pop("claims"), "ABOUT has no 'claims'"),
        (lambda m: m.ABOUT.update(colour="red"), "unknown key 'colour'"),
        (lambda m: m.ABOUT.update(title=3), "ABOUT.'title'. must be a sentence"),
        (lambda m: m.ABOUT.update(figures={"1": "plot"}), "the figure 'plot' is not a function"),
        (lambda m: m.ABOUT.update(papers=["2109.00454"]), "paper '2109.00454' is not like"),
        (lambda m: m.ABOUT.update(sizes=(800, 400)), "two growing positive integers"),
        (lambda m: m.ABOUT.update(sizes=(300, 800)), "not the default of n_flips"),
        (lambda m: m.ABOUT.update(size="n"), "ABOUT names 'n', which is no field"),
        (lambda m: m.ABOUT.update(contrast={"bais": 1}), "ABOUT names 'bais'"),
        (lambda m: m.ABOUT.update(allowance={"mean": 0.1}), "allowance of 'mean'"),
        (lambda m: m.ABOUT.update(seeds=6), "at least 7"),
        (lambda m: m.ABOUT.update(sizes=(400, 599)), "1.5 times or more apart"),
        *(
            (lambda m, law=law: m.ABOUT.update(allowance={"mean": law}), "finite, c >= 0 and gamma")
            for law in [
                (math.inf, 1.0),
                (math.nan, 1.0),
                (1.0, math.nan),
                (-1.0, 1.0),
                (1e9, 0.0),
                (True, 1.0),
                ("1", 1.0),
                (1.0,),
            ]
        ),
        (lambda m: m.ABOUT.update(scale={"mean": 0.0}), "scale of 'mean' must be positive"),
        (lambda m: m.ABOUT.update(exact="mean"), "ABOUT.'exact'. must be a list"),
        (lambda m: m.ABOUT.update(points={"shares": "1, 2"}), "points of 'shares' must be a tuple"),
    ],
)
def test_a_broken_system_says_in_what(coin, change, message):
    change(coin)
    with pytest.raises(TypeError, match=f"toy.coin breaks the contract.*{message}"):
        load("coin")


def test_params_that_can_change_are_refused(coin):
    @dataclass
    class Params:
        n_flips: int = 400

    coin.Params = Params
    with pytest.raises(TypeError, match="frozen dataclass"):
        load("coin")


# -- parameters ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Params:
    load: float = 0.1
    n: int = 10
    quick: bool = True
    kind: str = "a"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, str] = (1.0, "x")
    limit: float | None = None


@pytest.fixture
def module():
    made = ModuleType("made")
    made.Params = Params  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    "given",
    [
        Params(),
        Params(load=1e-300, n=-3, quick=False, kind="b c", sizes=(), pair=(2.5, "y"), limit=0.1),
        Params(load=0.1 + 0.2, sizes=(7,)),
    ],
)
def test_parameters_survive_as_text(module, given):
    assert params_from_text(module, params_to_text(given)) == given


def test_text_is_read_by_the_type_of_the_field(module):
    texts = {"load": "3", "n": "4", "quick": "no", "sizes": "3, 4", "limit": "none"}
    assert params_from_text(module, texts) == Params(3.0, 4, False, sizes=(3, 4))


@pytest.mark.parametrize(
    ("name", "text"),
    [("load", "x"), ("n", "2.5"), ("quick", "perhaps"), ("sizes", "1,x"), ("pair", "1"), ("n", "")],
)
def test_bad_text_names_the_parameter(module, name, text):
    with pytest.raises(ValueError, match=f"parameter {name!r} of made must be"):
        params_from_text(module, {name: text})


@pytest.mark.parametrize(
    ("name", "value"),
    [("load", "0.1"), ("load", True), ("n", 2.0), ("n", True), ("quick", 1), ("kind", 3)],
)
def test_values_are_not_converted(module, name, value):
    with pytest.raises(ValueError, match=f"parameter {name!r}"):
        make_params(module, {name: value})


def test_what_toml_cannot_say_is_understood(module):
    assert make_params(module, {"load": 3, "sizes": [1, 2], "pair": [1, "z"]}) == Params(
        load=3.0, pair=(1.0, "z")
    )
    with pytest.raises(ValueError, match="made has no parameter 'laod'; did you mean load"):
        make_params(module, {"laod": 1})

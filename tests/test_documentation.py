"""The code of the tutorial runs as it is printed, only for fewer epochs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def code_blocks(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"^```python[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(code_blocks("docs/tutorial.md"))
    short = code.replace("range(20)", "range(2)")
    assert short != code
    names: dict[str, object] = {}
    exec(compile(short, "tutorial.md", "exec"), names)
    assert (tmp_path / "run.jsonl").stat().st_size > 1000
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert names["fitted"].average_loss.item() == pytest.approx(0.05, rel=1e-6)
    assert float(names["temperature"].value) > 0
    assert names["temperature"].status == "ok"
    assert "temperature" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_the_ten_lines_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=generator)
    y = torch.randn(64, 2, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    names = {
        "model": model,
        "loss_fn": torch.nn.MSELoss(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05),
        "loader": list(zip(x.split(8), y.split(8), strict=True)) * 10,
        "x_ref": x,
        "y_ref": y,
    }
    (block,) = code_blocks(name)
    exec(compile(block, name, "exec"), names)
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_sweeps_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thermolearn.study.sweep import make_plan

    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    definition = re.findall(r"^```toml[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    Path("capacity.toml").write_text(definition, encoding="utf-8")
    plan = make_plan(Path("capacity.toml"), store=Path("capacity.store"))
    assert plan.total == 15 * 3 * (8 + 1)
    code = "\n".join(code_blocks("docs/sweeps.md"))
    short = code.replace("seeds=8", "seeds=2").replace("jobs=4", "jobs=1")
    assert short != code
    names: dict[str, Any] = {}
    exec(compile(short, "sweeps.md", "exec"), names)
    assert dict(names["data"].sizes) == {"load": 3, "seed": 2}
    assert (names["data"]["status"] == "ok").all()


def test_the_system_of_the_page_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module, use = code_blocks("docs/your_own_system.md")
    (tmp_path / "free_spins.py").write_text(module, encoding="utf-8")
    names: dict[str, Any] = {}
    exec(compile(use, "your_own_system.md", "exec"), names)
    comparison = names["thermolearn"].compare("free_spins")
    assert comparison.agrees
    import free_spins  # type: ignore[import-not-found]

    assert len(free_spins.figure().rows) == 18


PAGES = {  # what must be there after the page's code
    "curvature": (), "gaussian_preactivations": (), "learning_rate": (), "llc": (), "noise": (),
    "relative_entropy": (), "spectra": (), "temperature": ("engines.png",), "temperatures": (),
    "exponents": (), "kernels": (), "learning_curves": (), "real_data": ("wine.json", "wine.png"),
    "shift": (), "dmft": (), "feature_learning": (), "metropolis": (), "one_temperature": (),
    "sgd_noise": (),
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_the_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(code_blocks(f"docs/{page}.md"))
    assert code
    exec(compile(code, f"{page}.md", "exec"), {})
    assert {p.name for p in tmp_path.iterdir()} >= set(PAGES[page])

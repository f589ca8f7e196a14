"""Models from text; weights from files that may be damaged, foreign or hostile."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from thermolearn.core.errors import DataError
from thermolearn.models import build, initialize, load_weights


def test_mlp_is_the_plain_sequential():
    model = build("mlp:5,4", 3, 2, seed=1)
    plain = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    plain.load_state_dict(model.state_dict())
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), plain(x))
    assert torch.equal(build("mlp:5", 6, 2)(x.new_zeros(2, 3, 2)), torch.zeros(2, 2))


def test_initialization_has_the_stated_variance():
    model = build("mlp:400,300", 200, 10, sigma_w2=1.7)
    for layer in (m for m in model if isinstance(m, nn.Linear)):
        n, variance = layer.weight.numel(), 1.7 / layer.in_features
        measured = float(layer.weight.detach().double().square().mean())
        assert abs(measured - variance) < 4 * variance * (2 / n) ** 0.5
        assert not layer.bias.any()
    conv = initialize(nn.Conv2d(50, 60, 3))
    measured = float(conv.weight.detach().double().square().mean()) * 450
    assert abs(measured - 1) < 4 * (2 / conv.weight.numel()) ** 0.5


@pytest.mark.parametrize("rows", [True, False])
def test_cnn_takes_rows_and_images(rows):
    model = build("cnn:3,4", 64, 10, (1, 8, 8))
    x = torch.ones(5, 64) if rows else torch.ones(5, 1, 8, 8)
    assert model(x).shape == (5, 10)
    assert build("cnn:3,4,5,6", 2 * 5 * 9, 2, (2, 5, 9))(torch.ones(1, 2, 5, 9)).shape == (1, 2)


def test_seed_fixes_the_model_and_global_generator_is_left_alone():
    before = torch.get_rng_state()
    a, b, c = (build("mlp:4", 3, 2, seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a[1].weight, b[1].weight) and not torch.equal(a[1].weight, c[1].weight)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "tl_user_models.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def both(n_inputs, n_outputs): return nn.Linear(n_inputs, n_outputs)\n"
        "def neither(): return nn.Linear(2, 2)\n"
        "def one(n_outputs, width=3): return nn.Linear(width, n_outputs)\n"
        "def needs(depth): return nn.Linear(2, depth)\n"
        "def wrong(): return 3\n"
        "class Nest:\n    net = nn.Linear(1, 1)\n"
        "number = 4\n"
    )
    (tmp_path / "tl_user_broken.py").write_text("import nonexistent_module_tl\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    return "tl_user_models"


def test_callable_gets_what_it_takes(user_module):
    assert build(f"{user_module}:both", 4, 3).weight.shape == (3, 4)
    assert build(f"{user_module}:neither", 4, 3).weight.shape == (2, 2)
    assert build(f"{user_module}:one", 4, 3).weight.shape == (3, 3)
    assert build(f"{user_module}:Nest.net", 4, 3).weight.shape == (1, 1)
    a, b = (build(f"{user_module}:both", 4, 3, seed=2) for _ in range(2))
    assert torch.equal(a.weight, b.weight)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [("needs", "missing 1 required"), ("wrong", "returned a int"), ("number", "is a int"),
     ("absent", "there is no 'absent'")],
)  # fmt: skip
def test_callable_that_cannot_be_used(user_module, attribute, message):
    with pytest.raises(ValueError, match=message):
        build(f"{user_module}:{attribute}", 4, 3)


def test_module_that_cannot_be_imported(user_module):
    with pytest.raises(ValueError, match="nonexistent_module_tl"):
        build("tl_user_broken:f", 4, 3)
    with pytest.raises(ValueError, match="current directory"):
        build("tl_no_such_module:f", 4, 3)


@pytest.mark.parametrize(
    "spec", ["", ":", "x", "a b:c", "mlp", "mlp:", "mlp:3,", "mlp:0", "cnn:-3"]
)
def test_bad_description(spec):
    with pytest.raises(ValueError, match="mlp:64,64"):
        build(spec, 4, 3)


def test_bad_options():
    with pytest.raises(ValueError, match="activation must be one of tanh"):
        build("mlp:3", 4, 3, activation="tan")
    with pytest.raises(ValueError, match="needs images"):
        build("cnn:3", 4, 3)
    with pytest.raises(ValueError, match="sigma_w2"):
        build("mlp:3", 4, 3, sigma_w2=float("nan"))


# -- weights ----------------------------------------------------------------------------------


@pytest.fixture
def net():
    return build("mlp:4", 3, 2, seed=1)


@pytest.mark.parametrize("form", ["safetensors", "state_dict", "nested", "model"])
def test_weights_come_back(net, tmp_path, form):
    path, state = tmp_path / "w.pt", net.state_dict()
    if form == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(state, path)
    else:
        keys = {"nested": "state_dict", "model": "model"}
        torch.save({keys[form]: state, "epoch": 3} if form in keys else state, path)
    other = load_weights(build("mlp:4", 3, 2, seed=9), path)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), other.state_dict().values(),
                                                 strict=True))  # fmt: skip


def test_weights_that_do_not_fit_are_listed(net, tmp_path):
    state = net.state_dict()
    state["extra"] = state.pop("0.bias")
    state["2.weight"] = torch.zeros(5, 4)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(DataError) as caught:
        load_weights(net, tmp_path / "w.pt")
    for part in ("missing: 0.bias", "unexpected: extra", "2.weight (file (5, 4), model (2, 4))"):
        assert part in str(caught.value)


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("save", ["pickle", "torch"])
def test_code_in_a_weights_file_is_refused_and_not_run(net, tmp_path, save):
    victim, path = tmp_path / "executed", tmp_path / "w.pt"
    content = {"0.weight": _Hostile(str(victim))}
    if save == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(DataError, match=r"nothing of it was run.*state_dict"):
        load_weights(net, path)
    assert not victim.exists()
    torch.load(path, weights_only=False) if save == "torch" else pickle.loads(path.read_bytes())
    assert victim.exists()  # the trap is live


def test_whole_pickled_model_is_refused(net, tmp_path):
    torch.save(net, tmp_path / "w.pt")
    with pytest.raises(DataError, match="state_dict"):
        load_weights(net, tmp_path / "w.pt")


def test_other_unusable_weights(net, tmp_path):
    state = {k: torch.full_like(v, float("nan")) for k, v in net.state_dict().items()}
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(DataError, match="not finite"):
        load_weights(net, tmp_path / "nan.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match="does not hold a state_dict"):
        load_weights(net, tmp_path / "list.pt")
    with pytest.raises(DataError, match="no weights file"):
        load_weights(net, tmp_path / "absent.pt")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for name in ("junk.pt", "junk.safetensors"):
        (tmp_path / name).write_bytes(b"\x80\x02junk" * 9)
        with pytest.raises(DataError):
            load_weights(net, tmp_path / name)
    torch.save(net.state_dict(), tmp_path / "cut.pt")
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError):
        load_weights(net, tmp_path / "cut.pt")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())

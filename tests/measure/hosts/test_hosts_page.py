"""The code of docs/hosts.md runs as it is printed."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytestmark = [pytest.mark.hosts, pytest.mark.filterwarnings("ignore")]
PAGE = Path(__file__).resolve().parents[3] / "docs" / "hosts.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pl = pytest.importorskip("lightning.pytorch")
    hf = pytest.importorskip("transformers")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    torch.manual_seed(0)
    x, y = torch.randn(64, 5), torch.arange(64) % 3
    ids = torch.randint(0, 9, (64, 6))
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, k):
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.TensorDataset(x, y)
    config = hf.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=6, num_labels=3,
    )  # fmt: skip
    names = [
        {
            "module": Module(),
            "loader": torch.utils.data.DataLoader(data, 8),
            "x_ref": x,
            "y_ref": y,
        },
        {
            "Trainer": hf.Trainer,
            "model": hf.BertForSequenceClassification(config),
            "arguments": hf.TrainingArguments(
                "out", max_steps=3, report_to=[], use_cpu=True, disable_tqdm=True
            ),
            "data": [{"input_ids": a, "labels": b} for a, b in zip(ids, y, strict=True)],
            "input_ids": ids,
            "labels": y,
        },
        {
            "model": network,
            "loss_fn": nn.CrossEntropyLoss(),
            "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
        },
    ]
    for block, given in zip(blocks, names, strict=True):
        exec(compile(block, "hosts.md", "exec"), given)
    assert "reference_loss" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("report.html"))) == 2
    names[2]["probe"].close()

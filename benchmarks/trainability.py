"""Trainability of deep networks on and off the critical line: digits, three seeds, a table.

    OMP_NUM_THREADS=1 python benchmarks/trainability.py [--seeds N] [--docs]

Protocol: width 100, digits split 1300/497, every image of unit mean square, batches of 64, SGD
with momentum 0.9, gradient norm clipped at 5.
Tanh, depth 10 and 40: 15 epochs, learning rate 5e-3 (2e-3 for sigma_w2 > 2), sigma_b2 = 0.013.
ReLU and GELU, depth 30: 12 epochs, learning rate 2e-3. All networks of one protocol train
together, as one batched matrix product per layer; each has its own initialization, batches,
clipping and rate.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.progress import track
from thermolearn.measure.propagation import Recommendation, apply_init_

ROOT = Path(__file__).resolve().parent
DOCS = ROOT.parent / "docs" / "propagation.md"
WIDTH, TRAIN, BATCH, MOMENTUM, CLIP = 100, 1300, 64, 0.9, 5.0
MARKS = ("<!-- trainability -->", "<!-- end of trainability -->")


@dataclass(frozen=True)
class Row:
    """One initialization: options of `apply_init_`, the learning rate and what is demanded."""

    label: str
    options: dict[str, Any]
    rate: float
    wanted: str = ""
    passed: Callable[[float], bool] | None = None


@dataclass(frozen=True)
class Protocol:
    """One activation at one depth."""

    activation: type[nn.Module]
    depth: int
    epochs: int
    rows: tuple[Row, ...]


def _tanh(sigma_w2: float, passed: Callable[[float], bool] | None = None) -> Row:
    options = {"sigma_w2": sigma_w2, "sigma_b2": 0.013}
    rate = 5e-3 if sigma_w2 <= 2 else 2e-3
    return Row(f"sigma_w2 = {sigma_w2:g}", options, rate, "below 0.2" if passed else "", passed)


def _below(limit: float) -> Callable[[float], bool]:
    return lambda accuracy: accuracy < limit


def _at_least(limit: float) -> Callable[[float], bool]:
    return lambda accuracy: accuracy >= limit


CRITICAL = Row("critical", {"sigma_b2": 0.013}, 5e-3, "at least 0.92", _at_least(0.92))
SHALLOW = Protocol(
    nn.Tanh, 10, 15, (_tanh(0.5), _tanh(1.0), Row("critical", {"sigma_b2": 0.013}, 5e-3),
                      _tanh(2.5), _tanh(4.0)),
)  # fmt: skip
TANH = Protocol(
    nn.Tanh, 40, 15, (_tanh(0.5, _below(0.2)), _tanh(1.0), CRITICAL, _tanh(2.5),
                      _tanh(4.0, _below(0.2))),
)  # fmt: skip
RELU = Protocol(
    nn.ReLU,
    30,
    12,
    tuple(
        Row(label, {"sigma_w2": w2, "sigma_b2": 0.0}, 2e-3)
        for w2, label in ((1.0, "sigma_w2 = 1"), (2.0, "He (critical)"), (4.0, "sigma_w2 = 4"))
    ),
)
GELU = Protocol(
    nn.GELU,
    30,
    12,
    (
        Row("sigma_w2 = 1", {"sigma_w2": 1.0, "sigma_b2": 0.0}, 2e-3),
        Row("He, (2, 0)", {"sigma_w2": 2.0, "sigma_b2": 0.0}, 2e-3, "below 0.6", _below(0.6)),
        Row("critical, q* = 1, inputs rescaled to it", {"q": 1.0}, 2e-3, "at least 0.8",
            _at_least(0.8)),
    ),
)  # fmt: skip


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1300 training and 497 test images, every one of unit mean square."""
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    inputs = torch.from_numpy(x).float()[order]
    inputs = inputs / inputs.square().mean(1, keepdim=True).sqrt()
    labels = torch.from_numpy(y)[order]
    return inputs[:TRAIN], labels[:TRAIN], inputs[TRAIN:], labels[TRAIN:]


def network(protocol: Protocol, row: Row, seed: int) -> tuple[nn.Sequential, Recommendation | None]:
    """A deep network with the row's initialization; the first layer has the same pair.

    Without a recommendation where the pair has no finite fixed point.
    """
    layers: list[nn.Module] = []
    for k in range(protocol.depth - 1):
        layers += [nn.Linear(WIDTH if k else 64, WIDTH), protocol.activation()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    try:
        return model, apply_init_(model, seed=seed, input_mean_square=None, **row.options)
    except ConvergenceError:
        generator = torch.Generator().manual_seed(seed)
        for m in model:
            if isinstance(m, nn.Linear):
                std = (row.options["sigma_w2"] / m.in_features) ** 0.5
                nn.init.normal_(m.weight, 0.0, std, generator)
                nn.init.normal_(m.bias, 0.0, row.options["sigma_b2"] ** 0.5, generator)
        return model, None


def pair_numbers(row: Row, plan: Recommendation | None) -> dict[str, float]:
    """The pair and what the theory says of it; NaN where it has no fixed point."""
    names = ("sigma_w2", "sigma_b2", "q", "variance_slope", "chi", "xi_c")
    if plan is None:
        return {n: float(row.options.get(n, "nan")) for n in names}
    return {n: float(getattr(plan, n)) for n in names}


def stacked(models: list[nn.Sequential]) -> list[Tensor]:
    """Weights (networks, in, out) and biases (networks, 1, out) of every layer."""
    parameters = []
    for layers in zip(*(list(m) for m in models), strict=True):
        if isinstance(layers[0], nn.Linear):
            parameters.append(torch.stack([m.weight.detach().T for m in layers]))
            parameters.append(torch.stack([m.bias.detach()[None] for m in layers]))
    return [p.clone().requires_grad_() for p in parameters]


def forward(parameters: list[Tensor], x: Tensor, activation: nn.Module) -> Tensor:
    """Outputs (networks, samples, classes)."""
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        if weight is not parameters[0]:
            x = activation(x)
        x = torch.baddbmm(bias, x, weight)
    return x


def train(protocol: Protocol, seeds: int) -> list[dict[str, Any]]:
    """Final accuracies of every row and seed."""
    x, y, x_test, y_test = digits()
    rows = [(row, seed) for row in protocol.rows for seed in range(seeds)]
    made = [network(protocol, row, seed) for row, seed in rows]
    # what the first layer must see to start at q*; the pairs off the line are not helped
    scale = torch.tensor(
        [r.input_mean_square**0.5 if r is not None and "q" in row.options else 1.0
         for (row, _), (_, r) in zip(rows, made, strict=True)]
    )[:, None, None]  # fmt: skip
    rate = torch.tensor([row.rate for row, _ in rows])[:, None, None]
    generators = [torch.Generator().manual_seed(1000 + seed) for _, seed in rows]
    parameters = stacked([m for m, _ in made])
    activation = protocol.activation()
    velocity = [torch.zeros_like(p) for p in parameters]
    for _ in track(range(protocol.epochs), f"training {activation}"):
        order = torch.stack([torch.randperm(TRAIN, generator=g) for g in generators])
        for batch in order.split(BATCH, dim=1):
            out = forward(parameters, x[batch] * scale, activation)
            losses = F.cross_entropy(out.flatten(0, 1), y[batch].flatten(), reduction="none")
            gradients = torch.autograd.grad(losses.sum() / batch.shape[1], parameters)
            norm = sum(g.square().sum((1, 2)) for g in gradients).sqrt()  # type: ignore[union-attr]
            shrink = (CLIP / (norm + 1e-6)).clamp(max=1.0)[:, None, None]
            with torch.no_grad():
                for p, v, g in zip(parameters, velocity, gradients, strict=True):
                    v.mul_(MOMENTUM).add_(shrink * g)
                    p.sub_(rate * v)

    def accuracy(inputs: Tensor, labels: Tensor) -> list[float]:
        with torch.no_grad():
            out = forward(parameters, inputs * scale.expand(-1, *inputs.shape), activation)
        return (out.argmax(2) == labels).double().mean(1).tolist()

    both = zip(accuracy(x, y), accuracy(x_test, y_test), strict=True)
    return [
        {
            "activation": activation.__class__.__name__,
            "depth": protocol.depth,
            "label": row.label,
            "seed": seed,
            **pair_numbers(row, plan),
            "train": a,
            "test": b,
            "wanted": row.wanted,
            "passed": None if row.passed is None else row.passed(b),
        }
        for (row, seed), (_, plan), (a, b) in zip(rows, made, both, strict=True)
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, one line per initialization; misses are marked."""
    lines = [
        "| network | initialization | sigma_w2 | sigma_b2 | q* | V'(q*) | chi_1 | xi_c | "
        "test accuracy, by seed | wanted | met by |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label in dict.fromkeys((r["activation"], r["depth"], r["label"]) for r in results):
        group = [r for r in results if (r["activation"], r["depth"], r["label"]) == label]
        r = group[0]
        seeds = ", ".join(f"{g['test']:.3f}" for g in group)
        met = f"{sum(bool(g['passed']) for g in group)} of {len(group)}" if r["wanted"] else ""
        lines.append(
            f"| {r['activation']}, depth {r['depth']} | {r['label']} | {r['sigma_w2']:.5g} | "
            f"{r['sigma_b2']:.5g} | {r['q']:.4g} | {r['variance_slope']:.4g} | {r['chi']:.4g} | "
            f"{r['xi_c']:.4g} | {seeds} | {r['wanted']} | {met} |"
        )
    return "\n".join(lines)


def demanded(protocol: Protocol) -> Protocol:
    """Only the rows of which something is demanded."""
    return replace(protocol, rows=tuple(r for r in protocol.rows if r.passed is not None))


def run(seeds: int = 3) -> list[dict[str, Any]]:
    """All rows of all protocols."""
    return [r for protocol in (SHALLOW, TANH, RELU, GELU) for r in train(protocol, seeds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--docs", action="store_true", help="write the table into the docs page")
    options = parser.parse_args()
    start = time.perf_counter()
    results = run(options.seeds)
    seconds = time.perf_counter() - start
    text = table(results)
    print(text)
    print(f"{seconds:.0f} s")
    rows = [{k: None if v != v or v == float("inf") else v for k, v in r.items()} for r in results]
    record = {"seconds": seconds, "torch": torch.__version__, "rows": rows}
    path = ROOT / "results" / "trainability.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        page = DOCS.read_text(encoding="utf-8")
        before, rest = page.split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        DOCS.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

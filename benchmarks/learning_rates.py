"""How good is the recommended learning rate? Beside a grid of twelve, on fifteen configurations.

Five data sets (digits, breast_cancer, wine, diabetes, iris) times three architectures with an
optimizer each, and three configurations of synthetic data, which no constant of the search was
chosen on either. For every training seed (initial weights and order of the batches) the whole
training is run at twelve learning rates, 10^-4.5 to 10^1 in half decades, and at the recommended
one, found from the same initial weights with other orders. The final loss is the mean loss of the
whole training split after the last of `EPOCHS` epochs: cross-entropy in nats, or the mean squared
error of the standardized target.

gap: final loss at the recommended rate minus (regression: divided by) the smallest of the grid's,
seed by seed, so that the grid picks its best with hindsight; mean and standard error over the
seeds. Hit: gap at most 0.05 nat, or ratio at most 1.05. cost: optimizer steps of the search over
those of the grid, twelve whole trainings; "strict" is beside a grid that stops every training
whose loss is not finite.

    OMP_NUM_THREADS=1 python benchmarks/learning_rates.py [--seeds 3] [--table docs/...md]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thermolearn import data
from thermolearn.core.progress import track
from thermolearn.measure.learning_rate import RecommendedRate, recommend_lr

ROOT = Path(__file__).resolve().parent.parent
DATA = ("digits", "breast_cancer", "wine", "diabetes", "iris")
GRID = tuple(float(r) for r in 10 ** np.linspace(-4.5, 1.0, 12))
EPOCHS, BATCH = 40, 32
NATS, RATIO = 0.05, 1.05  # what counts as a hit
Pair = tuple[Tensor, Tensor]
Maker = Callable[[Any], torch.optim.Optimizer]


class Residual(nn.Module):
    """x + W2 gelu(W1 x)."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def mlp(activation: type[nn.Module], *widths: int) -> Callable[[int, int], nn.Module]:
    """(inputs, outputs) -> a network of those hidden widths."""

    def build(n_inputs: int, n_outputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(n_inputs, width), activation()]
            n_inputs = width
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(n_inputs, n_outputs))

    return build


def residual(n_inputs: int, n_outputs: int) -> nn.Module:
    blocks = [Residual(48) for _ in range(3)]
    return nn.Sequential(nn.Linear(n_inputs, 48), *blocks, nn.Linear(48, n_outputs))


def normalized(n_inputs: int, n_outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(n_inputs, 40), nn.BatchNorm1d(40), nn.SiLU(), nn.Linear(40, n_outputs)
    )


@dataclass(frozen=True, eq=False)
class Configuration:
    """A training, except for its learning rate. `start` is where the search begins."""

    name: str
    pair: Pair
    n_outputs: int
    build: Callable[[int, int], nn.Module]
    optimizer: Maker
    start: float
    loss: Any
    regression: bool
    batch: int = BATCH
    epochs: int = EPOCHS

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(len(self.pair[0]) / self.batch)

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build(math.prod(self.pair[0].shape[1:]), self.n_outputs)


def sgd_momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


# name, architecture, optimizer at the rate from which the search starts (torch's default)
ARCHITECTURES: tuple[tuple[str, Callable[[int, int], nn.Module], Maker, float], ...] = (
    ("tanh 32-32, SGD momentum .9", mlp(nn.Tanh, 32, 32), sgd_momentum, 0.01),
    ("ReLU 64-64-64, Adam", mlp(nn.ReLU, 64, 64, 64), torch.optim.Adam, 1e-3),
    ("residual GELU 3 x 48, AdamW", residual, torch.optim.AdamW, 1e-3),
)


def configurations(names: tuple[str, ...] = DATA) -> list[Configuration]:
    """The data sets times the architectures."""
    out = []
    for name in names:
        d = data.load(name)
        regression = d.task == "regression"
        loss = nn.MSELoss() if regression else nn.CrossEntropyLoss()
        for title, build, optimizer, start in ARCHITECTURES:
            out.append(
                Configuration(
                    f"{name}, {title}", (d.x_train, d.y_train), d.n_outputs, build, optimizer,
                    start, loss, regression,
                )
            )  # fmt: skip
    return out


def held_out() -> list[Configuration]:
    """Synthetic data, other widths, optimizers, losses and batch sizes."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(800, 20, generator=g)
    w = torch.randn(20, 4, generator=g) / 20**0.5
    teacher = torch.tanh(2 * x @ w).sum(1, keepdim=True) + 0.3 * torch.randn(800, 1, generator=g)
    angle = 3 * math.pi * torch.rand(600, generator=g).sqrt()
    side = torch.arange(600) % 2
    turned = angle + math.pi * side
    spiral = torch.stack([angle * turned.cos(), angle * turned.sin()], 1) / 5
    spiral = spiral + 0.03 * torch.randn(600, 2, generator=g)
    centers = torch.randn(6, 10, generator=g)
    label = torch.randint(6, (900,), generator=g)
    cloud = centers[label] + torch.randn(900, 10, generator=g)
    wrong = torch.rand(900, generator=g) < 0.2
    noisy = torch.where(wrong, torch.randint(6, (900,), generator=g), label)
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)

    def nesterov(p: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=1e-4)

    def plain(p: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(p, lr=0.1)

    return [
        Configuration(
            "teacher, tanh 128, SGD, MSE", (x, teacher), 1, mlp(nn.Tanh, 128), plain, 0.1,
            nn.MSELoss(), True, batch=16, epochs=30,
        ),
        Configuration(
            "two spirals, ReLU 48-48-48, RMSprop", (spiral, side), 2, mlp(nn.ReLU, 48, 48, 48),
            torch.optim.RMSprop, 0.01, nn.CrossEntropyLoss(), False, batch=50, epochs=60,
        ),
        Configuration(
            "20% wrong labels, batch norm, Nesterov, smoothed", (cloud, noisy), 6, normalized,
            nesterov, 0.1, smoothed, False, batch=64,
        ),
    ]  # fmt: skip


# -- trainings -----------------------------------------------------------------------------------
def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def final_loss(config: Configuration, rate: float, seed: int) -> tuple[float, int]:
    """Loss of the training split after the whole training, and the steps taken."""
    model = config.model(seed)
    optimizer = config.optimizer(model.parameters())
    set_rate(optimizer, rate)
    order = torch.Generator().manual_seed(1000 + seed)
    x, y = config.pair
    steps = 0
    for _ in range(config.epochs):
        for rows in torch.randperm(len(x), generator=order).split(config.batch):
            loss = config.loss(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if not math.isfinite(loss.item()):
                return math.inf, steps
    model.eval()
    with torch.no_grad():
        end = float(config.loss(model(x), y))
    return (end if math.isfinite(end) else math.inf), steps


def recommend(config: Configuration, seed: int) -> RecommendedRate:
    model = config.model(seed)
    optimizer = config.optimizer(model.parameters())
    set_rate(optimizer, config.start)
    return recommend_lr(
        model, config.loss, config.pair, optimizer, batch_size=config.batch, steps=config.steps
    )


@dataclass(eq=False)
class Outcome:
    """One configuration over the training seeds."""

    config: Configuration
    rates: list[float] = field(default_factory=list)
    finals: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    best_rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    strict: list[float] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)

    @property
    def gaps(self) -> np.ndarray:
        ours, best = np.array(self.finals), np.array(self.best)
        return ours / best if self.config.regression else ours - best

    @property
    def gap(self) -> float:
        return float(self.gaps.mean())

    @property
    def stderr(self) -> float:
        n = len(self.gaps)
        return float(self.gaps.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    @property
    def hit(self) -> bool:
        return self.gap <= (RATIO if self.config.regression else NATS)

    @property
    def cost(self) -> float:
        """The dearest search, as a share of its grid."""
        return max(self.costs)

    def row(self) -> dict[str, Any]:
        return {
            "configuration": self.config.name,
            "steps": self.config.steps,
            "rates": [float(f"{r:.3g}") for r in self.rates],
            "final": [float(f"{v:.4g}") for v in self.finals],
            "grid_rates": [float(f"{r:.3g}") for r in self.best_rates],
            "grid_best": [float(f"{v:.4g}") for v in self.best],
            "gap": float(f"{self.gap:.4g}"),
            "gap_stderr": None if math.isnan(self.stderr) else float(f"{self.stderr:.2g}"),
            "hit": self.hit,
            "cost": round(self.cost, 3),
            "cost_strict": round(max(self.strict), 3),
            "statuses": self.statuses,
        }


def outcome(config: Configuration, seeds: int) -> Outcome:
    """Search and grid for every training seed."""
    out = Outcome(config)
    for seed in range(seeds):
        result = recommend(config, seed)
        on_grid = [final_loss(config, rate, seed) for rate in GRID]
        losses = [loss for loss, _ in on_grid]
        at = int(np.argmin(losses))
        rate = result.lr
        out.rates.append(rate)
        out.finals.append(final_loss(config, rate, seed)[0] if rate == rate else math.inf)
        out.best.append(losses[at])
        out.best_rates.append(GRID[at])
        out.costs.append(result.cost / (len(GRID) * config.steps))
        out.strict.append(result.cost / sum(steps for _, steps in on_grid))
        out.statuses.append(result.status)
    return out


# -- the table -----------------------------------------------------------------------------------
HEAD = (
    "| configuration | steps | recommended lr | best of grid at | final loss | best of grid | gap "
    "| hit | cost | strict |\n|---|---|---|---|---|---|---|---|---|---|"
)


def markdown_row(o: Outcome) -> str:
    """The geometric mean of the rates, mean losses, gap with its error over the seeds."""
    middle = [math.exp(float(np.mean(np.log(r)))) for r in (o.rates, o.best_rates)]
    unit = "x" if o.config.regression else "nat"
    return (
        f"| {o.config.name} | {o.config.steps} | {middle[0]:.2g} | {middle[1]:.2g} "
        f"| {np.mean(o.finals):.4f} | {np.mean(o.best):.4f} | {o.gap:.3f} +- {o.stderr:.3f} {unit} "
        f"| {'yes' if o.hit else '**no**'} | {o.cost:.2f} | {max(o.strict):.2f} |"
    )


def markdown(fifteen: list[Outcome], others: list[Outcome], seeds: int) -> str:
    hits, cost = sum(o.hit for o in fifteen), max(o.cost for o in fifteen)
    strict = max(max(o.strict) for o in fifteen)
    return "\n".join(
        [
            "# Recommended learning rates beside a grid",
            "",
            "Written by `benchmarks/learning_rates.py`, whose head says what is compared. "
            f"{seeds} training seeds; gap is the final training loss at the recommended rate minus "
            "that of the best of twelve rates (nat), or divided by it (x, regression), mean and "
            "standard error over the seeds. The columns of rates are geometric means over the "
            "seeds, those of losses means; every seed's own values are in "
            f"`benchmarks/results/learning_rates.json`. **{hits} of {len(fifteen)}** are within "
            f"{NATS} nat or {RATIO - 1:.0%}; the dearest search took {cost:.2f} of its grid's "
            f"steps ({strict:.2f} of a grid that stops what is not finite).",
            "",
            HEAD,
            *(markdown_row(o) for o in fifteen),
            "",
            "Not among the fifteen, synthetic data with other losses, optimizers and batch sizes:",
            "",
            HEAD,
            *(markdown_row(o) for o in others),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--data", nargs="*", default=list(DATA), help="data sets")
    parser.add_argument("--table", type=Path, help="markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fifteen = [
        outcome(c, arguments.seeds)
        for c in track(configurations(tuple(arguments.data)), "configurations")
    ]
    others = [outcome(c, arguments.seeds) for c in track(held_out(), "held out")]
    if arguments.table:
        arguments.table.write_text(markdown(fifteen, others, arguments.seeds), encoding="utf-8")
    from common import save

    save(
        "learning_rates",
        {
            "seeds": arguments.seeds,
            "hits": sum(o.hit for o in fifteen),
            "of": len(fifteen),
            "dearest": max(o.cost for o in fifteen),
            "configurations": [o.row() for o in fifteen],
            "held_out": [o.row() for o in others],
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

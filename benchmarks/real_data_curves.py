"""How good are learning curves predicted from a pool? Six data sets, error off the pool.

Fixed before any prediction was compared: NTK of depth 3, ReLU, sigma_w2 = 2, sigma_b2 = 0.1, ridge
1e-3 k(1), sizes n = max(10, M/40), M/20, M/10, M/4, M/2, M. Rows are split at random into a pool
(M, half of them) and an equal number off the pool; features are standardized with the pool's mean
and standard deviations (digits: mean per pixel, one common scale), then every row is scaled to
|x|^2 = d, so that k(x, x) = k(1). The prediction sees the pool only. The experiment is kernel
regression on random n of the pool's samples, its squared error on all samples off the pool, as a
fraction of the pool's target variance, averaged over draws. Both are averaged over the splits; the
standard error of the difference is that of the paired differences between splits. 20 splits, 100
of breast cancer, wine and diabetes.

    OMP_NUM_THREADS=1 python benchmarks/real_data_curves.py [--splits 20] [--page docs/real_data.md]

The prediction is the theory alone (check=False): no measurement on the pool has a part in it. Only
the table in few dimensions shows the checked curve beside it.

With --page the tables between the markers of that page are replaced. Ctrl-C keeps what is done.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve
from torch import nn

from thermolearn.core.progress import track
from thermolearn.predict.curves import learning_curve
from thermolearn.predict.kernels.fully_connected import NTK
from thermolearn.predict.pool import pool_curve, prepare_target
from thermolearn.predict.spectrum import empirical_spectrum

TASKS = ("digits parity", "digits ten-class", "breast cancer", "wine", "diabetes", "sphere")
SMALL = ("breast cancer", "wine", "diabetes")
KERNEL = NTK(depth=3, activation="relu", sigma_w2=2.0, sigma_b2=0.1)
RIDGE = 1e-3  # of the mean of k(x, x)
SPHERE = {"rows": 1200, "dim": 8, "power": (0.5, 0.3, 0.2), "noise": 0.05}
Row = dict[str, Any]


class Split:
    """One random half of a data set as the pool, the other half to measure on."""

    def __init__(self, task: str, seed: int, normalize: bool = True):
        x, y, self.kind = sphere(seed) if task == "sphere" else shipped(task)
        order = np.random.default_rng([seed, 1]).permutation(len(x))
        pool, off = order[: len(x) // 2], order[len(x) // 2 :]
        if task != "sphere":
            x = x - x[pool].mean(0)
            scale = x[pool].std() if task.startswith("digits") else x[pool].std(0)
            x = x / np.where(scale > 0, scale, 1.0)
        if normalize:
            x = x * np.sqrt(x.shape[1] / (x**2).sum(1, keepdims=True))
        self.x, self.x_off, self.y = x[pool], x[off], y[pool]
        self.target = prepare_target(y[pool], self.kind)
        self.labels_off = None
        if self.kind == "classification":
            self.labels_off = np.searchsorted(np.unique(y[pool]), y[off])
            raw = np.eye(len(self.target.classes))[self.labels_off]
            raw = 2 * raw[:, 1:] - 1 if len(self.target.classes) == 2 else raw
        else:
            raw = y[off].reshape(len(off), -1)
        self.off = (raw - self.target.center) / np.sqrt(self.target.variance)
        self.m = len(pool)

    @functools.cached_property
    def gram(self) -> np.ndarray:
        """k on the pool."""
        return KERNEL.gram(self.x).numpy()

    @functools.cached_property
    def cross(self) -> np.ndarray:
        """k between off-pool and pool."""
        return KERNEL.gram(self.x_off, self.x).numpy()

    @property
    def ridge(self) -> float:
        """Noise on the diagonal."""
        return RIDGE * float(self.gram.diagonal().mean())

    def errors(self, predictions: np.ndarray) -> tuple[float, float]:
        """Squared error and error rate of normalized predictions off the pool."""
        squares = float(((predictions - self.off) ** 2).sum(1).mean())
        if self.labels_off is None:
            return squares, np.nan
        return squares, float((self.target.decide(predictions) != self.labels_off).mean())


def shipped(task: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Inputs, targets and kind of a task on one of scikit-learn's data sets."""
    from sklearn import datasets

    name = "digits" if task.startswith("digits") else task.replace(" ", "_")
    bunch: Any = getattr(datasets, f"load_{name}")()
    y = bunch.target % 2 if task == "digits parity" else bunch.target
    return bunch.data, y, "regression" if name == "diabetes" else "classification"


def sphere(seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Uniform inputs |x|^2 = d; a target of degrees 1 to 3 along three directions, with noise."""
    rng = np.random.default_rng([seed, 0])
    d = SPHERE["dim"]
    x = rng.standard_normal((SPHERE["rows"], d))
    x *= np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.sqrt(SPHERE["noise"]) * rng.standard_normal(len(x))
    for degree, power in enumerate(SPHERE["power"], start=1):
        w = rng.standard_normal(d)
        t = x @ w / (np.linalg.norm(w) * np.sqrt(d))
        p = (t, (d * t**2 - 1) / (d - 1), ((d + 2) * t**3 - 3 * t) / (d - 1))[degree - 1]
        count = (d, (d + 2) * (d - 1) // 2, d * (d - 1) * (d + 4) // 6)[degree - 1]
        y += np.sqrt(power * count) * p
    return x, y, "regression"


def sizes(m: int) -> list[int]:
    """n = max(10, M/40), M/20, M/10, M/4, M/2, M; none below 8."""
    return sorted({max(10, m // 40), *(m // k for k in (20, 10, 4, 2, 1) if m // k >= 8)})


def experiment(split: Split, n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(error, rate, GCV, leave-one-out) of kernel regression on n of the pool, over draws.

    GCV and leave-one-out come from the n samples alone.
    """
    rows = []
    for _ in range(draws):
        chosen = rng.choice(split.m, n, replace=False)
        y = split.target.values[chosen]
        inverse = np.linalg.inv(split.gram[np.ix_(chosen, chosen)] + split.ridge * np.eye(n))
        dual = inverse @ y
        diagonal = inverse.diagonal()
        gcv = (dual**2).sum(1).mean() / diagonal.mean() ** 2
        loo = ((dual / diagonal[:, None]) ** 2).sum(1).mean()
        rows.append((*split.errors(split.cross[:, chosen] @ dual), gcv, loo))
    return np.mean(rows, 0)


def draws_for(n: int, m: int) -> int:
    """Training sets per split and size: the whole pool is one."""
    return 1 if n == m else 40 if n < 100 else 10


def compare(task: str, seed: int, normalize: bool, plain: bool) -> list[Row]:
    """Prediction and experiment of one split at every size."""
    split = Split(task, seed, normalize)
    rng = np.random.default_rng([seed, 2])
    n = sizes(split.m)
    curve = pool_curve(split.gram, split.y, n, split.ridge, split.kind, check=False)
    old = np.full(len(n), np.nan)
    if plain:
        spectrum = empirical_spectrum(split.gram, split.target.values)
        old = plain_curve(spectrum, n, split.ridge)
    rows = []
    for k, size in enumerate(n):
        error, rate, gcv, loo = experiment(split, size, draws_for(size, split.m), rng)
        rows.append({
            "n": size, "m": split.m, "error": error, "predicted": curve.test_error[k],
            "inside": bool(curve.lower[k] <= error <= curve.upper[k]), "plain": old[k],
            "gcv": gcv, "loo": loo, "rate": rate,
            "predicted_rate": np.nan if curve.error_rate is None else curve.error_rate[k],
        })  # fmt: skip
    return rows


def plain_curve(spectrum: Any, n: list[int], ridge: float) -> np.ndarray:
    """Self-consistent curve on the pool's own spectrum, as if the pool were the whole world."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve = learning_curve(spectrum, None, n, ridge)
    return np.asarray(curve.test_error).reshape(len(n), -1).sum(1)


def extrapolate(task: str, seed: int) -> list[Row]:
    """From a quarter of the pool to two and four times as many samples, and to its own size."""
    split = Split(task, seed)
    quarter = split.m // 4
    rng = np.random.default_rng([seed, 3])
    factors = (1, 2, 4)
    # a pool of its own: standardization is the whole pool's, the labels' mean the quarter's
    curve = pool_curve(
        split.gram[:quarter, :quarter], split.target.values[:quarter] if split.kind == "regression"
        else split.y[:quarter], [f * quarter for f in factors], split.ridge, split.kind,
        check=False,
    )  # fmt: skip
    unit = curve.variance / (1.0 if split.kind == "regression" else split.target.variance)
    rows = []
    for k, factor in enumerate(factors):
        n = factor * quarter
        error, *_ = experiment(split, n, 2 if factor < 4 else 1, rng)
        low, high = curve.lower[k] * unit, curve.upper[k] * unit
        rows.append({
            "factor": factor, "n": n, "m": quarter, "error": error,
            "predicted": curve.test_error[k] * unit, "inside": bool(low <= error <= high),
            "width": high / low,
        })  # fmt: skip
    return rows


def coverage(pools: int, m: int = 150) -> list[Row]:
    """How often the 90% band holds the truth: sphere pools of m, truth from independent data."""
    n = [m // 10, m // 3, m, 2 * m, 4 * m]
    truth = {}
    for size in n:
        found = []
        for seed in range(300 if size <= m else 40):
            x, y, _ = sphere(10_000 + seed)
            gram = KERNEL.gram(x[:size]).numpy() + RIDGE * float(KERNEL(1.0)) * np.eye(size)
            dual = solve(gram, y[:size] - y[:size].mean(), assume_a="pos")
            predictions = KERNEL.gram(x[size:], x[:size]).numpy() @ dual + y[:size].mean()
            found.append(((predictions - y[size:]) ** 2).mean())
        truth[size] = float(np.mean(found)), float(np.std(found) / np.sqrt(len(found)))
    inside: dict[int, list[tuple[bool, float, bool]]] = {size: [] for size in n}
    for seed in track(range(pools), "coverage", pools):
        x, y, _ = sphere(seed)
        curve = pool_curve(KERNEL.gram(x[:m]), y[:m], n, RIDGE * float(KERNEL(1.0)), check=False)
        for k, size in enumerate(n):
            low, high = curve.lower[k] * curve.variance, curve.upper[k] * curve.variance
            inside[size].append((low <= truth[size][0] <= high, high / low, bool(np.isnan(low))))
    return [
        {"n": size, "m": m, "pools": pools, "error": truth[size][0],
         "error_stderr": truth[size][1], "inside": float(np.mean([r[0] for r in rows])),
         "width": float(np.nanmean([r[1] for r in rows])),
         "refused": float(np.mean([r[2] for r in rows]))}
        for size, rows in inside.items()
    ]  # fmt: skip


def few_dimensions(dim: int, seed: int) -> list[Row]:
    """Normal inputs, sin 2x_1 (+ x_2): the theory alone and the checked curve, error off pool."""
    m, off = 600, 1000
    rng = np.random.default_rng([seed, 5, dim])
    x = rng.standard_normal((m + off, dim))
    y = np.sin(2 * x[:, 0]) + (x[:, 1] if dim > 1 else 0.0)
    y = (y - y[:m].mean()) / y[:m].std()
    gram, cross = KERNEL.gram(x[:m]).numpy(), KERNEL.gram(x[m:], x[:m]).numpy()
    ridge = RIDGE * float(gram.diagonal().mean())
    n = [12, 25, 60, 150, 300, 600]
    alone = pool_curve(gram, y[:m], n, ridge, check=False)
    curve = pool_curve(gram, y[:m], n, ridge, seed=seed)
    assert curve.check is not None
    rows = []
    for k, size in enumerate(n):
        found = []
        for _ in range(draws_for(size, m)):
            chosen = rng.choice(m, size, replace=False)
            system = gram[np.ix_(chosen, chosen)] + ridge * np.eye(size)
            dual = solve(system, y[chosen], assume_a="pos")
            found.append(float(((cross[:, chosen] @ dual - y[m:]) ** 2).mean()))
        rows.append({
            "n": size, "m": m, "error": float(np.mean(found)), "alone": alone.test_error[k],
            "checked": curve.test_error[k], "corrected": float(curve.check.corrected),
            "low": curve.lower[k], "high": curve.upper[k],
        })  # fmt: skip
    return rows


def plain_mlp(inputs: int, outputs: int, seed: int) -> nn.Module:
    """Two hidden layers of 256 with torch's own initialization."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, outputs),
        )  # fmt: skip


def networks(task: str, seed: int, largest: int) -> list[Row]:
    """Trained finite networks beside kernel regression on the same data, off the pool."""
    from thermolearn.predict.networks import train_networks
    from thermolearn.predict.trained_module import train_module

    split = Split(task, seed)
    rng = np.random.default_rng([seed, 4])
    n = [size for size in sizes(split.m) if size <= largest]
    curve = pool_curve(split.gram, split.y, n, split.ridge, split.kind, check=False)
    rows = []
    for k, size in enumerate(n):
        chosen = rng.choice(split.m, size, replace=False)
        x, y = split.x[chosen], split.target.values[chosen]
        system = split.gram[np.ix_(chosen, chosen)] + split.ridge * np.eye(size)
        kernel = split.cross[:, chosen] @ solve(system, y, assume_a="pos")
        wide = train_networks(
            x, y, split.x_off, depth=3, width=512, sigma_w2=2.0, sigma_b2=0.1, nets=1,
            ridge=split.ridge, seed=seed,
        )  # fmt: skip
        mlp = train_module(plain_mlp(x.shape[1], y.shape[1], seed), x, y, split.x_off)
        row: Row = {"n": size, "m": split.m, "predicted": curve.test_error[k]}
        for name, predictions in (
            ("kernel", kernel), ("wide", wide.predictions[0]), ("mlp", mlp.predictions)
        ):  # fmt: skip
            row[name], row[f"{name}_rate"] = split.errors(predictions)
        row["unconverged"] = int(not wide.converged.all()) + int(not mlp.converged)
        rows.append(row)
    return rows


# -- summaries ----------------------------------------------------------------------------------
def summarize(rows: Iterable[Row], keys: tuple[str, ...], reference: str) -> list[Row]:
    """Per size: mean and standard error of `reference`, and of the others relative to it.

    The relative difference is that of the means; its error and the scatter per split come from the
    paired differences.
    """
    table: dict[int, list[Row]] = {}
    for row in rows:
        table.setdefault(row["n"], []).append(row)
    out = []
    for n, group in sorted(table.items()):
        base = np.array([r[reference] for r in group])
        line: Row = {"n": n, "m": group[0]["m"], "splits": len(group), reference: base.mean()}
        line[f"{reference}_stderr"] = base.std(ddof=1) / np.sqrt(len(group))
        for key in keys:
            values = np.array([r[key] for r in group])
            gap = (values - base) / base.mean()
            line[key] = values.mean()
            line[f"{key}_gap"] = gap.mean()
            line[f"{key}_gap_stderr"] = gap.std(ddof=1) / np.sqrt(len(group))
            line[f"{key}_scatter"] = gap.std(ddof=1)
        if "inside" in group[0]:
            line["inside"] = float(np.mean([r["inside"] for r in group]))
        for key in ("width", "refused", "unconverged", "corrected"):
            if key in group[0]:
                line[key] = float(np.nanmean([r[key] for r in group]))
        out.append(line)
    return out


def main_tables(task: str, splits: int, normalize: bool) -> list[Row]:
    """Summary of `compare` over the splits, with error rates in classification."""
    rows = [
        row
        for seed in track(range(splits), task)
        for row in compare(task, seed, normalize, plain=normalize)
    ]
    lines = summarize(rows, ("predicted", "plain", "gcv", "loo"), "error")
    if not np.isnan(rows[0]["predicted_rate"]):
        for line, rate in zip(lines, summarize(rows, ("predicted_rate",), "rate"), strict=True):
            line.update({k: v for k, v in rate.items() if "rate" in k})
    return lines


def percent(line: Row, key: str) -> str:
    """A relative difference with its standard error."""
    if not np.isfinite(line[key + "_gap"]):
        return "-"
    return f"{100 * line[key + '_gap']:+.1f} +- {100 * line[key + '_gap_stderr']:.1f}"


def table(head: str, lines: Iterable[Iterable[str]]) -> str:
    """A markdown table from a head "a | b" and its lines."""
    columns = head.split(" | ")
    rule = "|".join("---" for _ in columns)
    return "\n".join([f"| {head} |", f"|{rule}|", *("| " + " | ".join(r) + " |" for r in lines)])


def markdown(result: dict[str, Any]) -> dict[str, str]:
    """The tables of the page by the name of their marker."""

    def lines(part: str) -> list[tuple[str, Row]]:
        return [(task, line) for task, rows in result[part].items() for line in rows]

    def size(line: Row) -> str:
        share = line["m"] / line["n"]
        return f"{line['n']} ({f'M/{share:.3g}' if share > 1 else f'{1 / share:.3g} M'})"

    def value(line: Row, key: str) -> str:
        return f"{line[key]:.4f} +- {line[key + '_stderr']:.4f}"

    main, raw = lines("main"), lines("unnormalized")
    rated = [(t, r) for t, r in main if "rate" in r]
    return {
        "main": table(
            "task | n | experiment | predicted | difference % | scatter per split % | "
            "in the 90% band",
            ([t, size(r), value(r, "error"), f"{r['predicted']:.4f}", percent(r, "predicted"),
              f"{100 * r['predicted_scatter']:.0f}", f"{r['inside']:.0%}"] for t, r in main),
        ),
        "others": table(
            "task | n | predicted % | spectrum of the pool % | GCV of the n samples % | "
            "leave-one-out of the n samples %",
            ([t, size(r), *(percent(r, k) for k in ("predicted", "plain", "gcv", "loo"))]
             for t, r in main),
        ),
        "rates": table(
            "task | n | experiment | predicted | difference %",
            ([t, size(r), value(r, "rate"), f"{r['predicted_rate']:.4f}",
              percent(r, "predicted_rate")] for t, r in rated),
        ),
        "unnormalized": table(
            "task | n | experiment | predicted | difference %",
            ([t, size(r), value(r, "error"), f"{r['predicted']:.4f}", percent(r, "predicted")]
             for t, r in raw),
        ),
        "beyond": table(
            "task | pool | n | experiment | predicted | difference % | scatter per split % | "
            "in the 90% band | upper over lower end | refused",
            ([t, str(r["m"]), f"{r['n']} ({r['n'] // r['m']} M)", value(r, "error"),
              f"{r['predicted']:.4f}", percent(r, "predicted"),
              f"{100 * r['predicted_scatter']:.0f}", f"{r['inside']:.0%}", f"{r['width']:.2f}",
              f"{r['refused']:.0%}"]
             for t, r in lines("beyond")),
        ),
        "coverage": table(
            "n | truth | truth in the 90% band | upper over lower end | refused",
            ([size(r), value(r, "error"), f"{r['inside']:.0%}", f"{r['width']:.2f}",
              f"{r['refused']:.0%}"] for _, r in lines("coverage")),
        ),
        "low": table(
            "features | n | experiment | theory alone % | checked curve % | "
            "corrected | truth in the 90% band",
            ([t, size(r), value(r, "error"), percent(r, "alone"), percent(r, "checked"),
              f"{r['corrected']:.0%}", f"{r['inside']:.0%}"] for t, r in lines("low")),
        ),
        "networks": table(
            "task | n | kernel, same data | predicted % | width 512, NTK parametrization % | "
            "two layers of 256, torch's own % | splits | not converged",
            ([t, size(r), value(r, "kernel"),
              *(percent(r, k) for k in ("predicted", "wide", "mlp")),
              str(r["splits"]), f"{r['unconverged']:.1f}"] for t, r in lines("networks")),
        ),
    }  # fmt: skip


def write_page(page: Path, tables: dict[str, str]) -> None:
    """Replace what stands between <!-- table NAME --> and <!-- end NAME -->."""
    text = page.read_text(encoding="utf-8")
    for name, body in tables.items():
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{page} has no markers for the table {name!r}")
        text = pattern.sub(lambda m, body=body: f"{m[1]}\n{body}\n\n{m[2]}", text)
    page.write_text(text, encoding="utf-8")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything asked for, part by part."""
    result: dict[str, Any] = {"splits": arguments.splits}
    for part in arguments.parts:
        result[part] = {}
        if part == "coverage":
            result[part]["sphere"] = coverage(5 * arguments.splits)
            continue
        if part == "low":
            for dim in (1, 2, 3, 6):
                seeds = track(range(2 * arguments.splits), f"low: {dim}", 2 * arguments.splits)
                rows = [row for seed in seeds for row in few_dimensions(dim, seed)]
                truth: dict[int, list[float]] = {}
                for row in rows:
                    truth.setdefault(row["n"], []).append(row["error"])
                for row in rows:  # the average over pools is the truth
                    row["inside"] = row["low"] <= np.mean(truth[row["n"]]) <= row["high"]
                result[part][str(dim)] = summarize(rows, ("alone", "checked"), "error")
            continue
        for task in arguments.tasks:
            # a split of a small set costs little and scatters much
            splits = arguments.splits * (5 if task in SMALL else 1)
            if part in ("main", "unnormalized"):
                result[part][task] = main_tables(task, splits, part == "main")
                continue
            if part == "networks":
                splits = min(splits, arguments.networks)
                made = (networks(task, s, arguments.largest) for s in range(splits))
                keys, reference = ("predicted", "wide", "mlp"), "kernel"
            else:
                made = (extrapolate(task, s) for s in range(splits))
                keys, reference = ("predicted",), "error"
            rows = [row for rows in track(made, f"{part}: {task}", splits) for row in rows]
            answered = [r for r in rows if np.isfinite([r[k] for k in keys]).all()]
            result[part][task] = summarize(answered, keys, reference) if answered else []
            for line in result[part][task]:
                line["refused"] = 1.0 - line["splits"] / splits
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Predicted and measured curves")
    parts = ("main", "unnormalized", "beyond", "coverage", "low", "networks")
    parser.add_argument("--splits", type=int, default=20, help="five times as many for small sets")
    parser.add_argument("--networks", type=int, default=6, help="splits for the trained networks")
    parser.add_argument("--largest", type=int, default=150, help="samples the networks train on")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--parts", nargs="*", default=list(parts), choices=parts)
    parser.add_argument("--page", type=Path, help="markdown page whose tables to replace")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    from common import RESULTS, save

    made = run(arguments)
    stored = RESULTS / "real_data_curves.json"
    old = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    for part in parts:
        made[part] = {**old.get(part, {}), **made.get(part, {})}
    save("real_data_curves", made)
    if arguments.page:
        write_page(arguments.page, markdown(made))

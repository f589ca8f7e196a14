"""Rows of run.jsonl as a Probe writes them: a full run and minimal ones, made from formulas."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
N = 138  # neurons


def est(value: Any, stderr: Any = 0.0, **rest: Any) -> Row:
    """An Estimate as it is stored."""
    return {"value": value, "stderr": stderr, **rest}


def header(**changes: Any) -> Row:
    """The first row."""
    row = {
        "kind": "header",
        "schema": 1,
        "library": "0.1.0",
        "created": "2025-05-04T12:00:00+00:00",
        "model": {
            "name": "mlp:32,32",
            "parameters": 3466,
            "repr": "Sequential(\n  (0): Linear(64, 32)\n  (1): Tanh()\n  (2): Linear(32, 32)\n"
            "  (3): Tanh()\n  (4): Linear(32, 10)\n)",
        },
        "segmentation": [
            {"name": n, "modules": m, "in_shape": [i], "neurons": o, "elementwise": True}
            for n, m, i, o in (
                ("0", ["0: Linear", "1: Tanh"], 64, 32),
                ("2", ["2: Linear", "3: Tanh"], 32, 32),
                ("4", ["4: Linear"], 32, 10),
            )
        ],
        "reference": {"n": 256, "sha256": "9f2c" * 16, "source": "given"},
        "loss": {"name": "SquaredLoss", "energy": "squared", "rule": "squared error: the energy"},
        "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0},
        "every": 10,
        "data": {
            "name": "digits",
            "task": "classification",
            "rule": "classification: integer target with 10 distinct values",
            "train": 1297,
            "test": 500,
            "inputs": 64,
            "outputs": 10,
            "standardization": "features centered, divided by their common deviation",
            "notes": [],
        },
        "seed": 0,
        "command": "thermolearn measure --data digits --model mlp:32,32 --epochs 30 --seed 0",
        "conventions": [
            "natural logarithms, k_B = 1, T = 1/beta, entropies in nats",
            "ensemble of all neurons incl. inputs, unit Gaussian reference around the forward "
            "pass, mass 0, Gaussian approximation",
            "complexity = +log Z(b, w); the source's sign is a convention",
        ],
        "info": {"epochs": 30, "batch_size": 32},
    }
    return {**row, **changes}


def loss_at(step: Any) -> Any:
    """The training loss of the made-up run."""
    return 0.012 + 0.5 / (1 + np.asarray(step, float) / 45.0)


def full(snapshots: int = 31, steps: int = 1230, seed: int = 0) -> list[Row]:
    """A complete run with every quantity, some missing values, a flag and a refusal."""
    rng = np.random.default_rng(seed)
    at = np.unique(np.linspace(0, steps, snapshots).round().astype(int)).tolist()
    rows: list[Row] = [header()]
    minibatch = loss_at(np.arange(steps)) * rng.lognormal(-0.03, 0.25, steps)
    values: list[float | None] = minibatch.round(6).tolist()
    values[7] = None
    for low, high in zip(at, [*at[1:], steps + 1], strict=True):
        window = list(range(low, min(high, steps)))
        if window:
            rows.append(
                {
                    "kind": "losses",
                    "step": [s + 1 for s in window],
                    "value": [values[s] for s in window],
                    "samples": [32] * len(window),
                }
            )
        rows += snapshot(low, None if low == 0 else at[at.index(low) - 1], rng)
    rows.append({"kind": "flag", "step": 8, "text": "the minibatch loss is not finite"})
    rows += summaries(at)
    rows.append(
        {
            "kind": "not_applicable",
            "quantity": "heat per layer",
            "reason": "layers of equal width only: got 32, 32, 10",
        }
    )
    rows.append(
        {
            "kind": "cost",
            "training_s": 4.21,
            "in_loop_s": 0.112,
            "deferred_s": 18.4,
            "snapshots": len(at),
            "spooled": 0,
        }
    )
    checked = ["parameters", "buffers", "gradients", "optimizer", "modes", "generators"]
    rows.append({"kind": "unchanged", "checked": checked, "ok": True})
    return rows


def snapshot(step: int, before: int | None, rng: np.random.Generator) -> list[Row]:
    """All quantities at one step."""
    rows = [
        _row(step, "learning", learning(step)),
        _row(step, "canonical", canonical(step)),
        _row(step, "layers", layers(step, before, rng), names=["0", "2", "4"]),
        _row(step, "gradient_noise", gradient_noise(step)),
        _row(step, "curvature", curvature(step), names=["0", "2", "4"]),
    ]
    if before is not None:
        rows.insert(2, _row(step, "laws", laws(before, step)))
    return rows


def _row(step: int, quantity: str, values: Row, **rest: Any) -> Row:
    return {"kind": "snapshot", "step": step, "quantity": quantity, "values": values, **rest}


def learning(step: int) -> Row:
    u = float(loss_at(step))
    v = u * 1.1 + 0.021 * (1 - np.exp(-step / 200))
    a = 1 - 0.9 * u / 0.512
    return {
        "reference_loss": est(u, 0.05 * u + 0.0008, n_eff=256.0),
        "boundary_loss": est(u, 0.05 * u + 0.0008, n_eff=256.0),
        "accuracy": est(a, float(np.sqrt(a * (1 - a) / 256) + 0.002), n_eff=256.0),
        "validation_loss": est(v, 0.04 * v, n_eff=500.0),
        "validation_accuracy": est(a - 0.02, float(np.sqrt(a * (1 - a) / 500)), n_eff=500.0),
    }


def canonical(step: int) -> Row:
    u = float(loss_at(step))
    ratio = 1 - 0.037 * u / 0.512
    beta = N * ratio / (2 * u)
    t = 1 / beta
    s0 = 0.5 * N * (1 + np.log(2 * np.pi * t))
    c = -90 * t
    log_z = 0.5 * N * np.log(2 * np.pi * t) + c
    e = 0.05
    fixed = {}
    for b, rise in ((1, 1.5), (100, 0.13)):
        s = 76.0 / b**0.5 + rise * (1 - np.exp(-step / 150))
        fixed[f"free_energy_beta_{b}"] = est(-s / b, 0.02 / b)
        fixed[f"entropy_differential_beta_{b}"] = est(s, 0.02)
    values = {
        "beta": est(beta, e * beta, n_eff=256),
        "temperature": est(t, e * t, n_eff=256),
        "average_loss": est(u, e * u, n_eff=256),
        "log_partition": est(log_z, 3.5),
        "free_energy": est(-t * log_z, 0.01 * abs(t * log_z)),
        "entropy_relative": est(beta * u + log_z - 0.5 * N * np.log(2 * np.pi), 3.5),
        "thermodynamic_entropy": est(s0, 3.4),
        "complexity": est(c, 0.02 * abs(c)),
        "entropy_differential": est(s0 + c, 3.4),
        "total_entropy": est(s0 + c, 3.4),
        "heat_capacity": est(0.5 * N * ratio, 0.02),
        "energy_variance": est(0.5 * N * ratio * t**2, 0.1 * N * t**2),
        "equipartition_ratio": est(ratio, 0.0004),
        "boundary_loss_fitted": est(u, e * u, n_eff=256),
        **fixed,
        "loss_n_eff": est(2.3 + 8 * np.exp(-step / 100), 0.3),
    }
    if step == 0:
        values["loss_n_eff"] = est(None, None, status="not finite")
    return {k: {a: _plain(b) for a, b in v.items()} for k, v in values.items()}


def _plain(x: Any) -> Any:
    return float(x) if isinstance(x, (float, int, np.floating)) else x


def laws(before: int, step: int) -> Row:
    change = float(loss_at(step) - loss_at(before))
    work, residual = 0.001 * change, 0.004 * change
    return {
        "energy_change": est(change, 0.05 * abs(change)),
        "heat": est(change - work - residual, 0.05 * abs(change)),
        "work": est(work, 0.1 * abs(work)),
        "closure_residual": est(residual, 0.1 * abs(residual)),
        "complexity_change": est(-90 * 2 * change / N, 0.01),
    }


def layers(step: int, before: int | None, rng: np.random.Generator) -> Row:
    moved = [None] * 3 if before is None else (0.02 * np.exp(-step / 900) * np.ones(3)).tolist()
    g = float(loss_at(step)) * np.array([0.31, 0.42, 0.77])
    return {
        "weight_norm": est([5.66, 5.71, 3.2]),
        "gradient_norm": est(g.tolist(), (0.04 * g).tolist()),
        "update_ratio": est(moved, None if before is None else 0.0, note="over 41 steps"),
        "dead_fraction": est([0.0, 0.0, None]),
        "saturated_fraction": est([0.021, 0.012, None], [0.002, 0.002, None]),
    }


def gradient_noise(step: int) -> Row:
    u = float(loss_at(step))
    scale = 40 / u
    return {
        "gradient_norm_squared": est(0.4 * u**2, 0.03 * u**2, n_eff=256.0),
        "noise_trace": est(0.4 * u**2 * scale, 0.8 * u**2, n_eff=256.0),
        "noise_scale": est(scale, 0.09 * scale, n_eff=256.0, note="in samples"),
        "batch_size": est(32.0),
    }


def curvature(step: int) -> Row:
    return {
        "sharpness": est(4.1 + step / 500, 0.002, note="on 256 reference samples"),
        "stability_edge": est(40.0),
        "hessian_trace": est(21.0 + step / 100, 1.1, note="XTrace, 20 products"),
        "lambda_min": est(-0.12, 0.004),
        "layer_trace": est([9.0, 8.0, 4.0], [0.5, 0.6, 0.4]),
    }


def _summary(quantity: str, values: Row, columns: Any = None, rows: Any = None, notes: Any = ()):
    row: Row = {"kind": "summary", "quantity": quantity, "values": values, "notes": list(notes)}
    if columns:
        row["tables"] = {quantity: {"columns": columns, "rows": rows}}
    return row


def summaries(at: list[int]) -> list[Row]:
    """What is said once, at the end."""
    first, last = float(loss_at(at[0])), float(loss_at(at[-1]))
    return [
        _summary(
            "laws_run",
            {
                "energy_change": est(last - first),
                "heat": est(0.995 * (last - first)),
                "work": est(0.001 * (last - first)),
                "first_law_closure": est(0.004),
                "largest_window_residual": est(0.0021),
                "complexity_share": est(0.001),
                "factorization_defect": est(-0.0018, 0.0001),
                "second_law_fitted": est(1.0, 0.0, n_eff=30, note="total change -282.1 nats"),
                "second_law_beta_1": est(0.1, 0.055, n_eff=30, note="total change +1.5 nats"),
                "second_law_beta_100": est(0.2, 0.073, n_eff=30, note="total change +0.13 nats"),
            },
            notes=[
                "First law: an identity; over the run it closes to 0.4% of |dU| at this snapshot "
                "spacing. What is left is the quadrature between snapshots.",
                "Second law at fitted temperature: the entropy falls in 100% of the windows; this "
                "is cooling (T follows the loss), not ordering at a given temperature.",
                "Second law at fixed beta = 1: entropy falls in 10% of the windows; over the run "
                "it changes by +1.5 nats: it rises: in its fixed-temperature form the second law "
                "fails on this run, and training descends the free energy.",
            ],
        ),
        _summary(
            "restates",
            {},
            ["name", "r2", "against", "restates the loss"],
            [
                ["temperature", 0.99998, "the loss", True],
                ["average_loss", 1.0, "the loss", True],
                ["thermodynamic_entropy", 0.9997, "log of the loss", True],
                ["entropy_differential", 0.9995, "log of the loss", True],
                ["complexity", 0.93, "the loss", False],
            ],
            ["temperature, average_loss: explained by the loss to more than 99%."],
        ),
        *_sampled_summaries(),
        _wide_limit(),
    ]


def _sampled_summaries() -> list[Row]:
    edges = np.geomspace(1e-2, 1e2, 33)
    center = np.log(np.sqrt(edges[1:] * edges[:-1]))
    weight = [np.exp(-0.5 * ((center - a) / w) ** 2) for a, w in ((0, 0.9), (-0.2, 1.2))]
    weight = [w / w.sum() for w in weight]
    betas = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 897.0]
    accuracy = [0.155, 0.272, 0.543, 0.823, 0.936, 0.950, 0.962]
    efficiency = {}
    for name, k in (("first", 1.0), ("last", 0.8)):
        for label, e in (("beta_1", 0.13), ("beta_100", 1.8e-4), ("beta_fitted", 3e-7)):
            efficiency[f"edges_total_{label}_{name}"] = est(3392 * e * k, 20 * e)
            efficiency[f"edges_per_edge_{label}_{name}"] = est(e * k, 0.006 * e)
        efficiency[f"weights_total_beta_1_{name}"] = est(270 * k, 14.0)
        efficiency[f"weights_per_parameter_beta_1_{name}"] = est(0.078 * k, 0.004)
    return [
        _summary(
            "trust",
            {
                "average_loss_gaussian_first": est(0.5121),
                "average_loss_exact_first": est(0.5124, 0.0002),
                "ess_first": est(2831.0),
                "average_loss_gaussian_last": est(0.02911),
                "average_loss_exact_last": est(0.029112, 0.000005),
                "ess_last": est(3994.0),
            },
            ["step", "beta", "method", "gaussian", "exact", "stderr", "ESS", "verdict"],
            [
                [0, 130.0, "importance", 0.5121, 0.5124, 0.0002, 2831, "trust"],
                [1230, 2368.0, "importance", 0.02911, 0.029112, 5e-6, 3994, "trust"],
            ],
            [
                "Step 0, beta = 130: Gaussian U = 0.5121, exact 0.51240(20): trust.",
                "Step 1230, beta = 2368: Gaussian U = 0.02911, exact 0.0291120(50): trust.",
            ],
        ),
        _summary(
            "spectrum",
            {
                "lambda_min_first": est(0.211),
                "lambda_min_last": est(0.1349),
                "critical_mass_first": est(0.2187),
                "critical_mass_last": est(0.1353),
            },
            ["from", "to", "first", "first stderr", "last", "last stderr"],
            [
                [
                    *map(float, edges[i : i + 2]),
                    float(weight[0][i]),
                    0.001,
                    float(weight[1][i]),
                    None,
                ]
                for i in range(32)
            ],
            ["det G = 1 exactly for a feed-forward net, so eigenvalues lie on both sides of 1."],
        ),
        _summary("efficiency", efficiency, notes=["Two different quantities."]),
        _summary(
            "robustness",
            {"accuracy_clean": est(0.965, 0.011), "accuracy_at_fitted_beta": est(0.962, 0.012)},
            ["beta", "temperature", "accuracy", "stderr", "which"],
            [
                *([b, 1 / b, a, 0.03 * (1 - a) + 0.01, ""] for b, a in zip(betas, accuracy)),  # noqa: B905
                [None, None, 0.965, 0.011, "clean"],
            ],
        ),
    ]


def _wide_limit() -> Row:
    rows = []
    for beta in np.geomspace(0.1, 1000, 9).tolist():
        u, c = 0.5 * N / (beta + 1.6), -60 / (1 + beta) ** 0.8
        rows.append([beta, u, 1.01 * u, 0.002 * u, c, 1.02 * c, 0.3])
    columns = ["beta", "U theory", "U network", "U stderr", "C theory", "C network", "C stderr"]
    values = {
        "sigma_w2": est(0.99),
        "sigma_b2": est(0.0),
        "q0": est(1.02),
        "largest_relative_deviation_of_U": est(0.01),
    }
    return _summary("wide_limit", values, columns, rows, ["One draw of the weights."])


def transformer() -> list[Row]:
    """A model without segmentation: learning, layers and noise only, no end of run."""
    rng = np.random.default_rng(1)
    model = {"name": "CharTransformer", "parameters": 820352, "repr": "CharTransformer(...)"}
    loss = {"name": "CrossEntropyLoss", "energy": "cross-entropy", "rule": "by name"}
    optimizer = {"name": "AdamW", "lr": 3e-4, "betas": [0.9, 0.99], "weight_decay": 0.1}
    rows = [
        header(
            model=model, loss=loss, optimizer=optimizer, segmentation=None, seed=None, command=None,
            data={}, info={}, every=50,
        )
    ]  # fmt: skip
    for step in range(0, 401, 50):
        rows.append(
            {
                "kind": "losses",
                "step": list(range(step, step + 50)),
                "value": (4 * np.exp(-(step + np.arange(50)) / 300)).tolist(),
                "samples": [16] * 50,
            }
        )
        u = 4 * np.exp(-step / 300)
        rows.append(_row(step, "learning", {"reference_loss": est(u, 0.05 * u)}))
        rows.append(_row(step, "gradient_noise", gradient_noise(step)))
        curved = curvature(step)
        curved["stability_edge"] = est(None, None, status="not applicable", note="defined for SGD")
        rows.append(_row(step, "curvature", curved))
        values = {k: v for k, v in layers(step, None, rng).items() if k.endswith("norm")}
        rows.append(_row(step, "layers", values, names=["tok", "blocks.0.attn", "head"]))
    for quantity in ("canonical", "laws"):
        reason = "outputs of shape (16, 64, 65) are several predictions per sample"
        rows.append({"kind": "not_applicable", "quantity": quantity, "reason": reason})
    return rows


def only_header() -> list[Row]:
    """A run that was killed before its first snapshot."""
    return [header()]


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</svg></style></title><script>alert(2)</script>",
    "javascript:alert(3)",
    "{{ 7 * 7 }} {% raw %}",
    "' onload='alert(4)",
    "\ud800 \x00 \x1b[31m",
)


def hostile() -> list[Row]:
    """A full run in which every text from outside is an attack."""
    attack = " ".join(HOSTILE)
    rows = full(snapshots=6, steps=120)
    rows[0] = header(
        created=attack,
        model={"name": attack, "parameters": 1, "repr": attack},
        data={"name": attack, attack: attack[:30], "rule": attack, "notes": [attack]},
        optimizer={"name": attack, "lr": 0.1, attack: 3},
        loss={"name": attack, "energy": None, "rule": attack},
        reference={"n": 3, "sha256": attack, "source": attack},
        segmentation=[{"name": attack, "modules": [attack], "neurons": 3}],
        conventions=[attack],
        command=attack,
        library=attack,
        seed=attack,
    )
    for row in rows:
        if row.get("quantity") == "layers":
            row["names"] = [attack] * 3
        if row["kind"] == "summary":
            row["notes"] = [attack]
            for table in row.get("tables", {}).values():
                table["rows"].append([attack] * 8)
    rows += [
        {"kind": "flag", "step": 1, "text": attack},
        {"kind": "not_applicable", "quantity": attack, "reason": attack},
        {"kind": "unchanged", "checked": [attack], "ok": False},
        {"kind": attack, "x": attack},
        _row(3, attack, {attack: est(1.0, 0.1, status=attack, note=attack)}),
        {
            "kind": "summary",
            "quantity": attack,
            "values": {attack: est(1.0, note=attack)},
            "tables": {attack: {"columns": [attack], "rows": [[attack]]}},
            "notes": [attack],
        },
    ]
    return rows


if __name__ == "__main__":
    made = {"full": full, "transformer": transformer, "only_header": only_header}
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for name, make in made.items():
        text = "".join(json.dumps(row) + "\n" for row in make())
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

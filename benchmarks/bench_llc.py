"""Learning coefficient of K(w) = 1/2 sum |w_i|^p_i: chain-steps per second, value, devinterp.

d = 8, 64 chains, n beta = 1000, one thread, in CPU seconds (so that a neighbor on the machine
counts less), in turn. Rates of whole calls (warm-up, draws, diagnostics and error bars included)
with a batched gradient supplied and with autograd, for both methods; and devinterp's `llc` with the
same loss, step and n beta through its loss hook, whose chains run one after the other.
devinterp is no dependency; where it cannot be imported, the rates are measured
without it. It needs no torchvision; beside transformers, xarray and pandas:
    pip install --no-deps -r tests/oracle/constraints-peers.txt

    OMP_NUM_THREADS=1 python benchmarks/bench_llc.py
        [--require-gradient 5e5] [--require-autograd 1e5] [--require-devinterp 50]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from common import cpu_seconds, ratio, save
from torch import Tensor, nn

from thermolearn.core.estimate import format_with_error
from thermolearn.measure.llc import LearningCoefficient, llc_of_function, monomial_lambda

N_BETA, CHAINS, DRAWS, WARMUP = 1000.0, 64, 8000, 2000
N = 9119  # samples with n / ln n = 1000.0
POWERS = {"p = 2": [2] * 8, "p = 4": [4] * 8, "p = 2, 2, 4, 4, 6, 6": [2, 2, 4, 4, 6, 6]}
DEVINTERP_CHAINS, DEVINTERP_DRAWS, DEVINTERP_STEP = 4, 1000, 1e-4
RECORDED = "1.1e3 to 1.2e3 chain-steps/s were recorded for devinterp 2.0.1 elsewhere"


def monomial(
    powers: list[int], dtype: torch.dtype
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """K and its gradient on positions (C, d)."""
    p = torch.tensor(powers, dtype=dtype)
    even = set(powers) == {2}

    def value(w: Tensor) -> Tensor:
        return 0.5 * (w.square() if even else w.abs().pow(p)).sum(-1)

    def gradient(w: Tensor) -> Tensor:
        return w if even else w.abs().pow(p - 1).mul(w.sign()).mul(0.5 * p)

    return value, gradient


def ours(powers: list[int], method: str, given: bool, dtype: torch.dtype) -> LearningCoefficient:
    value, gradient = monomial(powers, dtype)
    return llc_of_function(
        value, torch.zeros(len(powers), dtype=dtype), N, gradient=gradient if given else None,
        beta=N_BETA / N, method=method, chains=CHAINS, draws=DRAWS, warmup=WARMUP,
    )  # fmt: skip


class Position(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d))


def load_devinterp() -> tuple[Any, Any] | str:
    """(llc, Dataset), or why there is none."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            from datasets import Dataset  # type: ignore[import-not-found]
            from devinterp.slt.llc import llc  # type: ignore[import-not-found]
    except Exception as error:  # an import may fail in any way
        return f"devinterp is not importable ({type(error).__name__}: {error}); {RECORDED}"
    return llc, Dataset


def peer(powers: list[int], llc: Any, dataset: Any) -> str:
    """devinterp's coefficient of the same loss, with the error of the mean over its chains.

    Its mean includes the burn-in, which starts at w*: a bias downwards, of 1% here.
    """
    value, _ = monomial(powers, torch.float32)
    rows = dataset.from_dict({"input_ids": [[0, 0]] * 4}).with_format("torch")
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        out = llc(
            Position(len(powers)), rows, {}, lr=DEVINTERP_STEP, n_beta=N_BETA, batch_size=1,
            num_chains=DEVINTERP_CHAINS, num_draws=DEVINTERP_DRAWS, num_burnin_steps=0,
            num_init_loss_batches=1,
            loss_fn=lambda model, ids: value(model.w).expand(len(ids), ids.shape[1] - 1),
        )  # fmt: skip
    mean, spread = (float(out[k]) for k in ("llc_mean", "llc_std"))
    return format_with_error(mean, spread / (DEVINTERP_CHAINS - 1) ** 0.5)


def run(rounds: int) -> dict[str, Any]:
    steps = CHAINS * (DRAWS + WARMUP)
    sgld_steps = CHAINS * (DRAWS + 2 * WARMUP)  # a second warm-up, at the small step
    calls: dict[str, Callable[[], Any]] = {}
    count: dict[str, int] = {}
    for method, n_steps in (("mala", steps), ("sgld", sgld_steps)):
        for given in (True, False):
            for dtype in (torch.float64, torch.float32):
                name = f"{method}, {'gradient given' if given else 'autograd'}, {dtype}"
                name = name.replace("torch.", "")
                calls[name] = lambda m=method, g=given, t=dtype: ours(POWERS["p = 2"], m, g, t)
                count[name] = n_steps
    found = load_devinterp()
    values: dict[str, Any] = {}
    if not isinstance(found, str):
        calls["devinterp"] = lambda: values.setdefault("d", []).append(peer([2] * 8, *found))
        count["devinterp"] = DEVINTERP_CHAINS * DEVINTERP_DRAWS
    times = cpu_seconds(calls, rounds)
    rates = {k: count[k] / min(v) for k, v in times.items()}
    exact = {k: monomial_lambda(p).value for k, p in POWERS.items()}
    results = {
        f"{k}, {m}": ours(p, m, True, torch.float64)
        for k, p in POWERS.items()
        for m in ("mala", "sgld")
    }
    out: dict[str, Any] = {
        "what": f"d = 8, {CHAINS} chains, n beta = {N_BETA:g}, whole calls",
        "chain_steps_per_second": rates,
        "values": {k: str(r.to_estimate()) for k, r in results.items()},
        "exact": exact,
        "deviation_in_stderr": {
            k: (r.value - exact[k.rpartition(", ")[0]]) / r.stderr for k, r in results.items()
        },
    }
    if isinstance(found, str):
        out["devinterp"] = found
        return out
    slow = [t / count["devinterp"] for t in times["devinterp"]]
    out["devinterp"] = {"value": values["d"][0], "step": DEVINTERP_STEP, "exact": exact["p = 2"]}
    out["times_devinterp"] = {
        k: ratio(slow, [t / count[k] for t in times[k]]) for k in times if k != "devinterp"
    }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--require-gradient", type=float, default=0.0, help="least rate")
    parser.add_argument("--require-autograd", type=float, default=0.0, help="least rate")
    parser.add_argument("--require-devinterp", type=float, default=0.0, help="least ratio to it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = run(options.rounds)
    save("llc", result)
    failures = []
    rates = result["chain_steps_per_second"]
    for kind, least in (
        ("gradient given", options.require_gradient),
        ("autograd", options.require_autograd),
    ):
        best = max(rate for name, rate in rates.items() if kind in name and "float64" in name)
        if best < least:
            failures.append(f"{kind}, float64: {best:.3g} chain-steps/s, {least:.3g} required")
    for name, found in result.get("times_devinterp", {}).items():
        if found["median"] < options.require_devinterp:
            failures.append(f"{name}: {found['median']:.0f} times devinterp")
    for name, z in result["deviation_in_stderr"].items():
        if abs(z) > 4:
            failures.append(f"{name}: {z:+.1f} standard errors from the exact value")
    if options.require_devinterp and "times_devinterp" not in result:
        print(f"not compared: {result['devinterp']}", file=sys.stderr)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()

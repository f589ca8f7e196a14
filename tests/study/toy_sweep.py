"""A system of a few milliseconds whose runs leave a trace, for the tests of sweeps."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np

from thermolearn.core.errors import ConvergenceError
from thermolearn.core.estimate import Estimate

ABOUT = {
    "title": "A coin",
    "papers": ["arXiv:2004.09280"],
    "claims": ["the overlap is 1 - load"],
    "axes": {"profile": "site"},
    "size": "n_spins",
    "sizes": (10, 20),
    "allowance": {},
    "contrast": {"load": 0.9},
    "seeds": 24,
    "figures": {},
}


@dataclass(frozen=True)
class Params:
    """load in [0, 1]; n_spins; widths; kind "plain", "stuck" or "broken"; pause in seconds."""

    load: float = 0.1
    n_spins: int = 10
    widths: tuple[int, ...] = (3, 4)
    kind: str = "plain"
    pause: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.load <= 1:
            raise ValueError(f"load must lie between 0 and 1, got {self.load}")


def trace(p: Params, seed: int | None) -> None:
    """Append a line to the file in TOY_TRACE; fail where the parameters or TOY_BROKEN say so."""
    path = os.environ.get("TOY_TRACE")
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{p.load} {seed}\n".encode())
        os.close(descriptor)
    time.sleep(p.pause * (1 + (seed or 0) % 3))
    if p.kind == "stuck":
        raise ConvergenceError("residual 0.1 above 1e-9")
    if p.kind == "broken" and seed == 1 and os.environ.get("TOY_BROKEN"):
        raise RuntimeError("a bug")


def theory(p: Params) -> dict[str, Estimate]:
    trace(p, None)
    return {"overlap": Estimate(1 - p.load), "profile": Estimate(np.full(p.n_spins, p.load))}


def simulate(p: Params, seed: int) -> dict[str, Estimate]:
    trace(p, seed)
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=p.n_spins)
    product = rng.normal(size=(60, 60)) @ rng.normal(size=(60, 60))  # BLAS takes part
    value = 1 - p.load + 1e-3 * float(np.linalg.eigvalsh(product @ product.T)[-1])
    status = "under-sampled" if seed == 2 else "ok"
    return {
        "overlap": Estimate(value, 0.1, n_eff=p.n_spins, status=status, note="of the toy"),
        "profile": Estimate(p.load + noise, np.abs(noise)),
    }

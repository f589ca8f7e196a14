"""NNGP and tangent Gram matrices, depth-4 ReLU, beside neural-tangents.

sigma_w2 = 2, sigma_b2 = 0.01, 64 features, both matrices in one call, n inputs of unlike norms; one
thread, in CPU seconds, ours in float32 and float64 and neural-tangents' in turn. Compilation by jax
is excluded: its first call is not counted, nor is ours. What is required is the ratio of the best
of each (neighbors on the machine only ever add); the ratios round by round stand beside it. The
matrices are compared entry by entry in float64, and the peak of memory is taken in fresh processes.

neural-tangents 0.6.5 does not import with a current jax and asks for TensorFlow, of which nothing
here makes use: it gets an environment of its own, a minute and 400 MB, and its bridge to TensorFlow
is replaced by an empty module. Either `--build-peer DIR`, or by hand

    python -m venv DIR
    DIR/bin/pip install --no-deps -r tests/oracle/constraints-neural-tangents.txt
    OMP_NUM_THREADS=1 python benchmarks/bench_kernels.py --peer DIR/bin/python [--require 4]
        [--require-float64 2.5] [--require-memory 1.5]

Without either, ours are measured alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ratio, save

from thermolearn.predict.kernels.fully_connected import NTK

SIZES, COMPARED, FEATURES = (1000, 2000, 4000), 500, 64
KERNEL = NTK(4, "relu", 2.0, 0.01)
PINS = Path(__file__).resolve().parent.parent / "tests/oracle/constraints-neural-tangents.txt"
# One computing thread for XLA; OMP_NUM_THREADS does not reach it.
XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

PEER = """
import json, sys, time, types
bridge = "neural_tangents.experimental"
sys.modules[bridge] = types.ModuleType(bridge)
import jax, numpy as np
jax.config.update("jax_enable_x64", sys.argv[1] == "float64")
import jax.numpy as jnp
from neural_tangents import stax
dense = stax.Dense(1, W_std=2**0.5, b_std=0.1)
_, _, kernel = stax.serial(*[dense, stax.Relu()] * 3, dense)
kernel = jax.jit(kernel, static_argnames="get")
def peak():
    row = next(r for r in open("/proc/self/status") if r.startswith("VmHWM"))
    return int(row.split()[1]) * 1024
for line in sys.stdin:
    n, path = json.loads(line)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((n, FEATURES)).astype(sys.argv[1]))
    before, start = peak(), time.process_time()
    found = jax.block_until_ready(kernel(x, None, get=("nngp", "ntk")))
    answer = {"seconds": time.process_time() - start, "peak": peak() - before}
    if path:
        np.savez(path, nngp=found[0], ntk=found[1])
    del found
    print(json.dumps(answer), flush=True)
""".replace("FEATURES", str(FEATURES))

OURS = """
import json, torch
from bench_kernels import KERNEL, inputs
def peak():
    row = next(r for r in open("/proc/self/status") if r.startswith("VmHWM"))
    return int(row.split()[1]) * 1024
x = inputs(SIZE)
KERNEL.gram_pair(x[:600], dtype=torch.DTYPE)
before = peak()
found = KERNEL.gram_pair(x, dtype=torch.DTYPE)
print(peak() - before, sum(m.numel() * m.element_size() for m in found))
"""


def inputs(n: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((n, FEATURES)))


class Peer:
    """neural-tangents in its own interpreter, answering one request at a time."""

    def __init__(self, python: str, dtype: str):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XLA_FLAGS": XLA}
        self.process = subprocess.Popen(
            [python, "-c", PEER, dtype], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=environment,
        )  # fmt: skip

    def __call__(self, n: int, path: str = "") -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([n, path]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("the interpreter of --peer ended; see its message above")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def build_peer(folder: str) -> str:
    """Make the environment of neural-tangents, once; its interpreter."""
    python, finished = str(Path(folder) / "bin" / "python"), Path(folder) / "installed"
    if not finished.exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--no-deps", "-r", str(PINS)]
        subprocess.run(command, check=True)
        finished.touch()
    return python


def ours(n: int, dtype: str) -> float:
    """CPU seconds of both matrices."""
    x = inputs(n)
    start = time.process_time()
    KERNEL.gram_pair(x, dtype=getattr(torch, dtype))
    return time.process_time() - start


def measure(peers: dict[str, Peer], n: int, rounds: int) -> dict[str, Any]:
    """Seconds of everything in turn, and the ratios."""
    times: dict[str, list[float]] = {}
    for k in range(rounds + 1):
        found = {f"thermolearn_{d}": ours(n, d) for d in ("float32", "float64")}
        found |= {f"neural_tangents_{d}": peer(n)["seconds"] for d, peer in peers.items()}
        for name, spent in found.items():
            times.setdefault(name, []).extend([spent] if k else [])
    pairs = {"float64_over_float32": ("thermolearn_float64", "thermolearn_float32")}
    for dtype in peers:
        pairs[f"speedup_{dtype}"] = f"neural_tangents_{dtype}", f"thermolearn_{dtype}"
    best = {name: min(spent) for name, spent in times.items()}
    return {"cpu_seconds": best} | {
        name: {"of_best": best[slow] / best[fast], **ratio(times[slow], times[fast])}
        for name, (slow, fast) in pairs.items()
    }


def memory(n: int, dtype: str) -> float:
    """Growth of the peak of a fresh process over the size of both results."""
    code = OURS.replace("SIZE", str(n)).replace("torch.DTYPE", f"torch.{dtype}")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).resolve().parent,
    )  # fmt: skip
    grown, size = map(int, done.stdout.split())
    return grown / size


def compare(peer: Peer) -> dict[str, float]:
    """Largest differences of the entries in float64, off and on the diagonal."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "peer.npz")
        peer(COMPARED, path)
        theirs = np.load(path)
        out = {}
        for name, mine in zip(("nngp", "ntk"), KERNEL.gram_pair(inputs(COMPARED)), strict=True):
            difference = np.abs(mine.numpy() - theirs[name])
            out[f"{name}_diagonal"] = float(difference.diagonal().max())
            np.fill_diagonal(difference, 0.0)
            out[name] = float(difference.max())
    return out


def run(python: str | None, sizes: tuple[int, ...], rounds: int) -> dict[str, Any]:
    peers = {d: Peer(python, d) for d in ("float32", "float64")} if python else {}
    result: dict[str, Any] = {"what": "depth 4, ReLU, sigma_w2 = 2, sigma_b2 = 0.01, NNGP + NTK"}
    if peers:
        result["largest_difference_float64"] = compare(peers["float64"])
    for n in sizes:
        result[f"n = {n}"] = measure(peers, n, rounds)
    result["peak_memory_over_result"] = {
        dtype: memory(sizes[-1], dtype) for dtype in ("float32", "float64")
    }
    for peer in peers.values():
        peer.close()
    if python:
        fresh = Peer(python, "float32")
        grown = fresh(sizes[-1])["peak"]
        fresh.close()
        result["peak_memory_over_result"]["neural_tangents_float32"] = grown / (8 * sizes[-1] ** 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", help="a Python that imports neural-tangents 0.6.5")
    parser.add_argument("--build-peer", metavar="DIR", help="make that environment in DIR first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--require", type=float, default=0.0, help="least speed-up, float32")
    parser.add_argument("--require-float64", type=float, help="most float64 / float32")
    parser.add_argument("--require-memory", type=float, help="most peak memory / result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    python = build_peer(options.build_peer) if options.build_peer else options.peer
    result = run(python, tuple(options.sizes), options.rounds)
    save("kernels", result)
    last, failures = result[f"n = {options.sizes[-1]}"], []
    if options.require and "speedup_float32" not in last:
        failures.append("not compared: give --peer or --build-peer")
    elif options.require and last["speedup_float32"]["of_best"] < options.require:
        failures.append(f"{last['speedup_float32']['of_best']:.2f} times neural-tangents")
    slower = last["float64_over_float32"]["of_best"]
    if options.require_float64 and slower > options.require_float64:
        failures.append(f"float64 takes {slower:.2f} times float32")
    most = max(result["peak_memory_over_result"][d] for d in ("float32", "float64"))
    if options.require_memory and most > options.require_memory:
        failures.append(f"peak memory is {most:.2f} times the result")
    found = result.get("largest_difference_float64", {})
    if max(found.get("nngp", 0.0), found.get("ntk", 0.0)) > 1e-8:
        failures.append(f"the kernels differ: {found}")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()

"""Random Boltzmann machines with Ising units: the replica-symmetric theory of two layers.

W_ik ~ N(0, g^2 / N), N = n_v + n_h, uniform fields a and b. With the shares x_v, x_h of the layers
and overlaps q_v, q_h,

    ln Z / N = x_v E ln 2cosh(a + g sqrt(x_h q_h) z) + x_h E ln 2cosh(b + g sqrt(x_v q_v) z)
               + g^2 x_v x_h (1 - q_v)(1 - q_h) / 2,
    q_v = E tanh^2(a + g sqrt(x_h q_h) z),   q_h = E tanh^2(b + g sqrt(x_v q_v) z),
    <-v W h> / N = -g^2 x_v x_h (1 - q_v q_h).

References: A. Barra, G. Genovese, F. Guerra, arXiv:1012.1261 (the two-layer
Sherrington-Kirkpatrick model); A. Decelle, C. Furtlehner, arXiv:2011.11307 (its use for the
machine). Uniform fields are added here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate
from thermolearn.core.fixed_point import damped_iteration
from thermolearn.core.gaussian import gauss_nodes

MOST_SPINS = 100_000


@dataclass(frozen=True)
class Params:
    """A random machine with n_spins Ising units in two layers.

    Parameters
    ----------
    n_spins : int
        Units of both layers, 20 to 100 000; used by the simulation only, up to rounding.
    hidden_share : float
        x_h = n_h / N in (0, 1).
    coupling : float
        g >= 0, with W ~ N(0, g^2 / N); dimensionless (temperature included).
    visible_field, hidden_field : float
        Uniform fields a and b, dimensionless.
    """

    n_spins: int = 300
    hidden_share: float = 0.4
    coupling: float = 1.0
    visible_field: float = 0.8
    hidden_field: float = 0.8

    def __post_init__(self) -> None:
        whole("n_spins", self.n_spins, 20, MOST_SPINS)
        real("hidden_share", self.hidden_share, above=0, below=1)
        real("coupling", self.coupling, least=0)
        real("visible_field", self.visible_field)
        real("hidden_field", self.hidden_field)

    @property
    def layers(self) -> tuple[int, int]:
        """n_v, n_h, at least one unit each."""
        n_hidden = min(max(1, round(self.hidden_share * self.n_spins)), self.n_spins - 1)
        return self.n_spins - n_hidden, n_hidden


@dataclass(frozen=True)
class TwoLayerState:
    """Replica-symmetric solution.

    Attributes
    ----------
    q_visible, q_hidden : float
        Overlap of two replicas in each layer.
    log_partition, energy : float
        ln Z / N, and mean interaction -v W h per unit.
    replicon : float
        1 - g^4 x_v x_h E sech^4 E sech^4: replica symmetry is unstable if negative.
    residual : float
    converged : bool
    """

    q_visible: float
    q_hidden: float
    log_partition: float
    energy: float
    replicon: float
    residual: float
    converged: bool


def two_layer_theory(p: Params, fineness: float = 0.5) -> TwoLayerState:
    """Solve the replica-symmetric equations in the limit of many units.

    Raises
    ------
    ConvergenceError
        The overlaps did not reach 1e-12.
    """
    x_h, g = p.hidden_share, p.coupling
    x_v = 1 - x_h
    z, weight = gauss_nodes(1.0, fineness=fineness)

    def fields(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q = np.maximum(q, 0.0)
        return (
            p.visible_field + g * math.sqrt(x_h * q[1]) * z,
            p.hidden_field + g * math.sqrt(x_v * q[0]) * z,
        )

    def step(q: np.ndarray) -> np.ndarray:
        return np.array([weight @ np.tanh(f) ** 2 for f in fields(q)])

    solved = damped_iteration(step, np.array([0.5, 0.5]), damping=0.0, tol=1e-12, max_iter=100_000)
    q_v, q_h = (float(q) for q in solved.x)
    f_v, f_h = fields(solved.x)
    entropy = sum(x * float(weight @ np.logaddexp(f, -f)) for x, f in ((x_v, f_v), (x_h, f_h)))
    pair = g**2 * x_v * x_h
    fourth = [float(weight @ (1 - np.tanh(f) ** 2) ** 2) for f in (f_v, f_h)]
    return TwoLayerState(
        q_v,
        q_h,
        entropy + pair * (1 - q_v) * (1 - q_h) / 2,
        -pair * (1 - q_v * q_h),
        1 - g**2 * pair * fourth[0] * fourth[1],
        solved.residual,
        True,
    )


def theory(p: Params) -> dict[str, Estimate]:
    """Free energy, interaction energy and overlaps of a large random machine.

    Keys: ``log_partition`` (ln Z / N, nats per unit), ``energy`` (-v W h / N), and
    ``overlap_visible``, ``overlap_hidden``. Status ``"unstable"`` where replica symmetry breaks.
    """
    fine, coarse = two_layer_theory(p), two_layer_theory(p, fineness=1.0)
    status = "ok" if fine.replicon > 0 else "unstable"
    note = f"replica symmetric, many units; replicon {fine.replicon:.3g}"

    def estimate(name: str) -> Estimate:
        value, other = getattr(fine, name), getattr(coarse, name)
        return Estimate(value, abs(value - other) + 1e-11, status=status, note=note)

    return {
        "log_partition": estimate("log_partition"),
        "energy": estimate("energy"),
        "overlap_visible": estimate("q_visible"),
        "overlap_hidden": estimate("q_hidden"),
    }

"""Learning curves from a pool of labelled data and the kernel's Gram matrix on it.

`pool_curve` predicts the test error of kernel regression for any number of samples from one
eigendecomposition, `leave_one_out` is the safe estimate at the pool's own size, and
`measure_kernel_machine` and `measure_networks` are the experiments to hold them against.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thermolearn.predict.pool.curve import pool_curve
    from thermolearn.predict.pool.held_out import LeaveOneOut, leave_one_out
    from thermolearn.predict.pool.result import PoolCurve
    from thermolearn.predict.pool.targets import Target, prepare_target
    from thermolearn.predict.pool.validation import (
        Measured,
        measure_kernel_machine,
        measure_networks,
    )

_HOME = {
    "pool_curve": "curve",
    "PoolCurve": "result",
    "leave_one_out": "held_out",
    "LeaveOneOut": "held_out",
    "Target": "targets",
    "prepare_target": "targets",
    "Measured": "validation",
    "measure_kernel_machine": "validation",
    "measure_networks": "validation",
}

__all__ = [
    "LeaveOneOut",
    "Measured",
    "PoolCurve",
    "Target",
    "leave_one_out",
    "measure_kernel_machine",
    "measure_networks",
    "pool_curve",
    "prepare_target",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""The limit of small time steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thermolearn.core.checks import real, whole
from thermolearn.core.estimate import Estimate


def extrapolate(at: Mapping[float, Estimate], order: int = 1) -> Estimate:
    """Richardson extrapolation to time step 0 of one quantity at two or more step sizes.

    value(dt) = value(0) + a dt^order + b dt^(order + 1) + ..., with as many terms as there are
    sizes.

    Parameters
    ----------
    at : mapping of float to Estimate
        Step size to the quantity at the same physical times; independent runs (other seeds). A
        factor 2 between sizes is a good choice; noise grows with closer ones.
    order : int >= 1
        First power of the error; 1 for Euler steps.

    Returns
    -------
    Estimate
        stderr holds the errors of the values, and what the coarsest size changes in the result
        (of two sizes: all that was extrapolated) as the error of the extrapolation.

    Raises
    ------
    ValueError
        Fewer than two sizes, a size that is not positive, or values of different shapes.
    """
    order = whole("order", order, 1)
    sizes = sorted(real("step size", size, above=0) for size in at)
    values = [np.asarray(at[size].value) for size in sizes]
    if len(sizes) < 2 or len({v.shape for v in values}) > 1:
        raise ValueError(
            "extrapolate needs two or more step sizes with values of one shape (the same times: "
            f"slice the finer ones), got shapes {[v.shape for v in values]}"
        )
    stderr = np.stack([np.broadcast_to(at[size].stderr, values[0].shape) for size in sizes])
    weights = _weights(np.array(sizes), order)
    finer = np.append(_weights(np.array(sizes[:-1]), order), 0.0)
    limit, before = (np.tensordot(w, np.stack(values), 1) for w in (weights, finer))
    noise = np.sqrt(np.tensordot(weights**2, stderr**2, 1))
    bad = [at[size].status for size in sizes if at[size].status != "ok"]
    note = "extrapolated from step sizes " + ", ".join(f"{size:g}" for size in sizes)
    return Estimate(
        limit, np.hypot(noise, limit - before), status=bad[0] if bad else "ok", note=note
    )


def _weights(sizes: np.ndarray, order: int) -> np.ndarray:
    """Of the values in the constant of the polynomial with powers 0, order, order + 1, ..."""
    powers = np.r_[0, order + np.arange(len(sizes) - 1)]
    return np.linalg.inv(sizes[:, None] ** powers)[0]

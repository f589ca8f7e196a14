"""Training on given samples, or on Gaussian ones in their place, as the dynamics to be measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thermolearn.core.checks import real, whole
from thermolearn.measure.noise.response import Dynamics
from thermolearn.systems.training.sgd_noise.losses import Loss, as_loss
from thermolearn.systems.training.sgd_noise.schedules import Schedule, check_schedule

if TYPE_CHECKING:
    from thermolearn.systems.training.sgd_noise.matched import MatchedMixture


def training_dynamics(
    x: Any,
    y: Any,
    *,
    loss: str | Loss,
    schedule: Schedule,
    weight_decay: float,
    replicas: int = 8,
    start_scale: float = 0.1,
    seed: int = 0,
) -> Dynamics:
    """Linear classifiers under the masks of `schedule`, on samples as they are.

    w <- (1 - eta lambda) w - eta sum_mu s_mu l'(h_mu, y_mu) x_mu/sqrt(d), h = x . w/sqrt(d): the
    loss is summed over the samples, the masks are those that the mean-field theory averages over.

    Parameters
    ----------
    x : array (n, d), or (R, n, d)
        Samples; with three axes replica r has data set r.
    y : array (n,), or (R, n)
        Labels; -1 and 1 for the logistic loss and the squared hinge.
    loss : "logistic", "hinge2", "quadratic" or Loss
    schedule : GD, SGD or PersistentSGD
    weight_decay : float >= 0
        lambda of the sum.
    replicas : int >= 1
        Independent runs; with x of three axes it is R.
    start_scale : float >= 0
        Standard deviation of the weights at the start.
    seed : int

    Returns
    -------
    Dynamics
        In float64, for `measure.noise.effective_temperature`. The state holds the weights and,
        behind them, the batch.

    Raises
    ------
    ValueError
        Shapes that do not fit, samples that are not finite, labels of 0 and 1 where -1 and 1 are
        meant, or a number out of range.
    TypeError
        schedule is none.
    """
    schedule = check_schedule(schedule)
    decay = real("weight_decay", weight_decay, least=0)
    scale = real("start_scale", start_scale, least=0)
    samples, labels = _samples(x, y)
    function = as_loss(loss, tuple(np.unique(labels)))
    if samples.ndim == 3:
        replicas = len(samples)
    replicas = whole("replicas", replicas, least=1)
    n, d = samples.shape[-2:]
    a = samples / math.sqrt(d)
    generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
    start = torch.cat(
        [
            scale * torch.randn(replicas, d, generator=generator, dtype=torch.float64),
            (torch.rand(replicas, n, generator=generator) < schedule.batch_fraction).double(),
        ],
        1,
    )
    rate, weight = schedule.rate, schedule.weight

    def draw(g: torch.Generator) -> Tensor | None:
        if schedule.batch_fraction == 1:
            return None
        return torch.rand(replicas, n, generator=g, dtype=torch.float64)

    def step(state: Tensor, uniform: Tensor | None, force: Tensor | float) -> Tensor:
        w, batch = state[:, :d], state[:, d:]
        h = w @ a.T if a.dim() == 2 else torch.bmm(a, w[:, :, None])[:, :, 0]
        slope = torch.from_numpy(function.first(h.numpy(), labels)) * batch * weight
        g = slope @ a if a.dim() == 2 else torch.bmm(slope[:, None], a)[:, 0]
        w = w - rate * (decay * w + g - force)
        if uniform is not None:
            stays = torch.where(
                batch > 0, uniform >= schedule.switch_off, uniform < schedule.switch_on
            )
            batch = stays.double()
        return torch.cat([w, batch], 1)

    return Dynamics(start, draw, step, rate, lambda state: state[:, :d], 1.0)


def _samples(x: Any, y: Any) -> tuple[Tensor, np.ndarray]:
    samples, labels = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if samples.ndim not in (2, 3) or 0 in samples.shape:
        raise ValueError(f"x must be (n, d) or (replicas, n, d), got shape {samples.shape}")
    if labels.shape != samples.shape[:-1]:
        raise ValueError(f"y must have shape {samples.shape[:-1]}, got {labels.shape}")
    if not (np.isfinite(samples).all() and np.isfinite(labels).all()):
        raise ValueError("x and y must be finite")
    return torch.from_numpy(np.ascontiguousarray(samples)), labels


def gaussian_data(
    mixture: MatchedMixture, data_sets: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Data sets of the size of the fitted one, drawn from the mixture.

    Parameters
    ----------
    mixture : MatchedMixture
    data_sets : int >= 1
    seed : int

    Returns
    -------
    x (data_sets, n, d), y (data_sets, n)
        In the coordinates of the data; every cluster has as many samples as in the data.
    """
    rng = np.random.default_rng(whole("seed", seed, least=0))
    count = whole("data_sets", data_sets, least=1)
    counts = np.round(mixture.probabilities * mixture.samples).astype(int)
    cluster = np.repeat(np.arange(len(counts)), counts)
    z = rng.standard_normal((count, mixture.samples, mixture.dimension))
    x = (mixture.means[cluster] + z * np.sqrt(mixture.eigenvalues)) @ mixture.basis.T
    return x, np.tile(mixture.labels[cluster], (count, 1))

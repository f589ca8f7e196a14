"""The noise of the minibatch gradient beside the gradient itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from thermolearn.core.errors import NotApplicableError
from thermolearn.core.estimate import Estimate
from thermolearn.measure.learning import sample_losses
from thermolearn.measure.objective import flat_gradient, mean_loss, trained_parameters
from thermolearn.measure.window import Window

CHUNK_ELEMENTS = 2**23  # of per-sample gradients held at once (64 MiB)
CONFIDENCE = 0.95  # of the interval of the noise scale


class GradientNoise:
    """Gradient noise on the reference set, at the snapshot's parameters.

    With the per-sample gradients g_i of the trained parameters, G their expectation and Sigma
    their covariance: ``gradient_norm_squared`` |G|^2, ``noise_trace`` tr Sigma, both unbiased, and
    ``noise_scale`` tr Sigma / |G|^2, the batch size (in samples) at which noise and signal are
    equal (McCandlish et al., arXiv:1812.06162), all with jackknife errors. The noise scale has a
    95% interval (Fieller) in its note and is "under-sampled" where that is open above; near there
    its error bar is too small upwards, the interval is not. ``batch_size``: samples per optimizer
    step in this window. The model runs in eval mode: the noise of dropout, and the coupling of
    samples by batch normalization, are not part of it.
    """

    name = "gradient_noise"

    def measure(self, window: Window) -> dict[str, Estimate]:
        """Raises NotApplicableError if the loss is no mean or sum over samples."""
        x, y = window.reference
        *_, reduction = sample_losses(window.loss_fn, window.outputs, y)
        if reduction == "other":
            raise NotApplicableError(
                "the loss of the reference set is neither the mean nor the sum of the losses of "
                "its samples (class weights, ignored targets, a contrastive loss?), so there is no "
                "gradient per sample"
            )
        parameters = trained_parameters(window.model)
        products = gradient_products(window.model, window.loss_fn, x, y, reduction, parameters)
        values = noise_from(*products)
        size = window.snapshot.batch_size
        values["batch_size"] = Estimate(
            math.nan if size is None else size,
            0.0 if size is not None else math.nan,
            status="ok" if size is not None else "not applicable",
            note="samples per optimizer step since the previous snapshot",
        )
        return values


def gradient_products(
    model: nn.Module,
    loss_fn: Any,
    x: Tensor,
    y: Tensor,
    reduction: str,
    parameters: dict[str, Tensor],
) -> tuple[np.ndarray, np.ndarray, float]:
    """|g_i|^2 (n,), g_i . gbar (n,) and |gbar|^2 of the per-sample gradients g_i.

    g_i is the gradient of the loss of sample i alone, gbar their mean; `reduction` says whether
    the loss of several samples is their "mean" or "sum". Two passes: the mean first, so that the n
    gradients never have to be held together.
    """
    n = len(x)
    size = sum(p.numel() for p in parameters.values())
    chunk = max(1, min(n, 64, CHUNK_ELEMENTS // size))
    one = _per_sample_gradient(model, loss_fn, parameters)
    mean = torch.zeros(size, dtype=torch.float64, device=x.device)
    for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True):
        part = flat_gradient(mean_loss(model, loss_fn, xs, ys, reduction), parameters)
        mean += part * (len(xs) / n)
    squares, products = [], []
    for xs, ys in zip(x.split(chunk), y.split(chunk), strict=True):
        gradients = one(xs, ys)
        squares.append(gradients.square().sum(1))
        products.append(gradients @ mean)
    return (
        torch.cat(squares).cpu().numpy(),
        torch.cat(products).cpu().numpy(),
        float(mean @ mean),
    )


def _per_sample_gradient(model: nn.Module, loss_fn: Any, parameters: dict[str, Tensor]) -> Any:
    """(x, y) -> gradients (n, P) by vmap, or one by one where the model cannot be vmapped."""
    values = {k: p.detach() for k, p in parameters.items()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, values, (x[None],))
        return loss_fn(outputs, y[None]).mean()

    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    usable = True

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        nonlocal usable
        if usable:
            try:
                parts = batched(values, x, y)
                return torch.cat([parts[k].flatten(1) for k in parameters], 1).double()
            except Exception:
                usable = False
        pairs = zip(x.split(1), y.split(1), strict=True)
        return torch.stack(
            [flat_gradient(loss_fn(model(xs), ys).mean(), parameters) for xs, ys in pairs]
        )

    return gradients


def noise_from(squares: np.ndarray, products: np.ndarray, mean: float) -> dict[str, Estimate]:
    """|G|^2, tr Sigma and their ratio from |g_i|^2, g_i . gbar and |gbar|^2.

    Unbiased: |G|^2 = (n |gbar|^2 - <|g|^2>)/(n - 1), tr Sigma = n (<|g|^2> - |gbar|^2)/(n - 1).
    Errors by the jackknife over samples, in closed form:
    (n - 1)^2 |gbar_(i)|^2 = n^2 |gbar|^2 - 2 n g_i . gbar + |g_i|^2.

    Raises
    ------
    NotApplicableError
        Fewer than 4 samples.
    """
    n = len(squares)
    if n < 4:
        raise NotApplicableError(f"gradient noise needs at least 4 reference samples, got {n}")

    def unbiased(n: int, mean: Any, square: Any) -> tuple[Any, Any]:
        return (n * mean - square) / (n - 1), n * (square - mean) / (n - 1)

    signal, noise = unbiased(n, mean, squares.mean())
    mean_without = (n**2 * mean - 2 * n * products + squares) / (n - 1) ** 2
    square_without = (squares.sum() - squares) / (n - 1)
    signals, noises = unbiased(n - 1, mean_without, square_without)

    def error(left_out: np.ndarray) -> float:
        return math.sqrt((n - 1) * float(left_out.var()))

    out = {
        "gradient_norm_squared": Estimate(signal, error(signals), float(n)),
        "noise_trace": Estimate(max(noise, 0.0), error(noises), float(n)),
    }
    covariance = (n - 1) * np.cov(noises, signals, bias=True)
    quantile = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1))
    low, high = fieller(noise, signal, covariance, quantile)
    if not math.isfinite(high):
        out["noise_scale"] = Estimate(
            noise / signal if signal > 0 else math.nan,
            math.nan,
            float(n),
            status="under-sampled",
            note="|G|^2 is not significantly above zero on this many reference samples: the noise "
            f"scale is above {low:.3g} at {100 * CONFIDENCE:g}% confidence",
        )
        return out
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = noises / signals
    note = f"in samples; {100 * CONFIDENCE:g}% interval {low:.3g} to {high:.3g}"
    out["noise_scale"] = Estimate(noise / signal, error(ratios), float(n), note=note)
    return out


def fieller(
    numerator: float, denominator: float, covariance: np.ndarray, quantile: float
) -> tuple[float, float]:
    """Interval of a ratio a/b >= 0 of two estimates: all r with (a - r b)^2 <= q^2 Var(a - r b).

    (low, inf) if b is not significantly above zero; a negative b is taken as zero, which it cannot
    be below in truth.
    """
    q2, denominator = quantile**2, max(denominator, 0.0)
    aa, ab, bb = (float(covariance[k]) for k in ((0, 0), (0, 1), (1, 1)))
    # r^2 (b^2 - q2 bb) - 2 r (a b - q2 ab) + (a^2 - q2 aa) <= 0
    square = denominator**2 - q2 * bb
    half = numerator * denominator - q2 * ab
    free = numerator**2 - q2 * aa
    root = half**2 - square * free
    if square > 0:
        spread = math.sqrt(max(root, 0.0))
        return max((half - spread) / square, 0.0), max((half + spread) / square, 0.0)
    if root < 0 or square == 0:
        return 0.0, math.inf
    # outside the two roots: of them the positive one bounds from below
    roots = sorted((half + s * math.sqrt(root)) / square for s in (-1, 1))
    positive = [r for r in roots if r > 0]
    return (positive[0] if free > 0 and positive else 0.0), math.inf

"""The fixed reference set, and which energy belongs to the user's loss."""

from __future__ import annotations

import copy
import functools
import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thermolearn.core.copying import private_copy, tensor_bytes
from thermolearn.core.errors import NotApplicableError
from thermolearn.measure.window import Pair, evaluate

# Outputs of these losses are not in the units of the targets: no energy is guessed for them.
OTHER_UNITS = {
    "BCEWithLogitsLoss", "binary_cross_entropy_with_logits", "PoissonNLLLoss", "poisson_nll_loss",
    "KLDivLoss", "kl_div", "SoftMarginLoss", "soft_margin_loss", "HingeEmbeddingLoss",
    "hinge_embedding_loss", "MultiLabelSoftMarginLoss", "multilabel_soft_margin_loss",
    "MultiMarginLoss", "multi_margin_loss", "MultiLabelMarginLoss", "multilabel_margin_loss",
}  # fmt: skip
SQUARED = {"MSELoss", "mse_loss"}
CROSS_ENTROPY = {"CrossEntropyLoss", "cross_entropy", "NLLLoss", "nll_loss"}


def check_pair(name: str, pair: Any) -> Pair:
    """Two tensors (x, y) with one sample axis, detached.

    Raises
    ------
    TypeError
        Not a pair of tensors or arrays.
    ValueError
        Empty, of different lengths, or not finite.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name} must be a pair (x, y) of tensors")
    out = []
    for part, label in zip(pair, "xy", strict=True):
        several = isinstance(part, list) and any(isinstance(p, Tensor) for p in part)
        if several or not isinstance(part, Tensor | np.ndarray | list):
            what = "a list of tensors" if several else type(part).__name__
            raise TypeError(
                f"{name}: {label} must be one tensor, got {what}; a model of several inputs is not "
                "measured: wrap it in a module of one input"
            )
        tensor = torch.as_tensor(part).detach()
        if tensor.dim() == 0 or len(tensor) == 0:
            raise ValueError(f"{name}: {label} holds no samples")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name}: {label} holds NaN or infinity; remove those samples")
        out.append(tensor)
    if len(out[0]) != len(out[1]):
        raise ValueError(f"{name}: x has {len(out[0])} samples, y has {len(out[1])}")
    return out[0], out[1]


def draw(pair: Pair, size: int, seed: int) -> Pair:
    """`size` of the samples, without replacement and in their order, by a private generator."""
    n = len(pair[0])
    if n > size:
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(n, generator=generator, device="cpu")[:size].sort().values
        return pair[0][index.to(pair[0].device)], pair[1][index.to(pair[1].device)]
    return pair[0].clone(), pair[1].clone()


def sha256_of(pair: Pair) -> str:
    """Hash of type, shape and bytes of x and y."""
    sha = hashlib.sha256()
    for tensor in pair:
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        sha.update(tensor_bytes(tensor))
    return sha.hexdigest()


class Collector:
    """Copies the first `size` samples of the loop; batches of another shape are skipped."""

    def __init__(self, size: int):
        self.size = size
        self.x: list[Tensor] = []
        self.y: list[Tensor] = []
        self.missing = size
        self.reason = "no batch was seen: call probe.step(x, y, loss) or give reference=(x, y)"

    def add(self, x: Any, y: Any) -> None:
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() and y.dim()):
            self.reason = (
                f"the loop's batches are {type(x).__name__} and {type(y).__name__}, not tensors "
                "with a sample axis; give reference=(x, y)"
            )
            return
        if self.x and (x.shape[1:] != self.x[0].shape[1:] or y.shape[1:] != self.y[0].shape[1:]):
            return
        if len(x) != len(y):
            self.reason = f"x has {len(x)} samples, y has {len(y)}; give reference=(x, y)"
            return
        n = min(self.missing, len(x))
        self.x.append(x[:n].detach().clone())
        self.y.append(y[:n].detach().clone())
        self.missing -= n

    def pair(self) -> Pair | None:
        """What has been collected, or None."""
        return (torch.cat(self.x), torch.cat(self.y)) if self.x else None


def loss_name(loss_fn: Any) -> str:
    """Class name of a module, name of a function (also inside functools.partial)."""
    while isinstance(loss_fn, functools.partial):
        loss_fn = loss_fn.func
    if isinstance(loss_fn, nn.Module):
        return type(loss_fn).__name__
    return getattr(loss_fn, "__name__", type(loss_fn).__name__)


def known_loss(loss_fn: Any) -> str:
    """Name of the torch loss that this is, or is derived from; empty for a loss of the user's."""
    while isinstance(loss_fn, functools.partial):
        loss_fn = loss_fn.func
    if isinstance(loss_fn, nn.Module):
        names = [c.__name__ for c in type(loss_fn).__mro__ if c.__module__ == nn.MSELoss.__module__]
        return names[0] if names else ""
    name = getattr(loss_fn, "__name__", "")
    return name if getattr(F, name, None) is loss_fn else ""


def infer_energy(
    loss_fn: Any, outputs: Tensor, targets: Tensor, energy: str | None
) -> tuple[str | None, str]:
    """The boundary energy that belongs to a loss, and the rule that chose it.

    ``"squared"``: 1/2 |y - x_out|^2.  ``"cross-entropy"``: 1/2 |onehot(y) - softmax(x_out)|^2.
    """
    if energy is not None:
        return energy, f"energy={energy!r} was given"
    known, shapes = known_loss(loss_fn), f"{tuple(outputs.shape)} and {tuple(targets.shape)}"
    if known in SQUARED:
        if outputs.shape != targets.shape:
            return None, (
                f"{known} on outputs and targets of different shapes {shapes}: they broadcast, "
                "which is rarely meant; give targets of the output's shape"
            )
        return "squared", f"{known} is the squared error"
    if known in CROSS_ENTROPY:
        return "cross-entropy", f"{known} on logits"
    if known in OTHER_UNITS:
        return None, f"no energy is defined for {known}; give energy= if one applies"
    if not targets.is_floating_point():
        return "cross-entropy", "the targets are integers (classes)"
    if targets.shape == outputs.shape:
        return "squared", "the targets are real numbers of the output's shape"
    return None, f"outputs and targets of shapes {shapes} fit neither rule; give energy="


def prepare_copy(model: nn.Module, reference: Pair) -> tuple[nn.Module, torch.dtype]:
    """Eval-mode copy in float64, or in its own precision where float64 does not run.

    Raises
    ------
    NotApplicableError
        The model cannot be copied.
    """
    twin = private_copy(model)
    if any(p.device.type == "mps" for p in twin.parameters()):
        twin = twin.cpu()  # this device has no float64
    own = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32)
    try:
        double = copy.deepcopy(twin).double()
        evaluate(double, to_precision(reference, twin, torch.float64)[0][:1])
        return double, torch.float64
    except Exception:
        try:
            evaluate(twin, to_precision(reference, twin, own)[0][:1])
        except NotApplicableError:
            # neither runs: the float64 copy gives the reason to each quantity that asks
            return twin.double(), torch.float64
        return twin, own


def to_precision(pair: Pair, model: nn.Module, dtype: torch.dtype) -> Pair:
    """On the model's device, floating parts in `dtype`."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x, y = (t.to(device, dtype if t.is_floating_point() else t.dtype) for t in pair)
    # tensors made in inference mode cannot take part in a gradient, copies can
    return (x.clone() if x.is_inference() else x), (y.clone() if y.is_inference() else y)


def loss_copy(loss_fn: Any, dtype: torch.dtype) -> Any:
    """A module loss is copied, in eval mode and `dtype` (class weights); a function is itself."""
    if not isinstance(loss_fn, nn.Module):
        return loss_fn
    return private_copy(loss_fn).to(dtype)

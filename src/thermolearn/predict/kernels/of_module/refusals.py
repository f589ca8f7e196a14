"""Layers without a kernel: why, and what to do instead."""

from __future__ import annotations

from torch import fx, nn

from thermolearn.measure.propagation.graph import Step

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
MAXIMUM = (
    "takes the largest of correlated Gaussians, whose covariance has no closed recursion; use an "
    "average pool or a stride"
)
READOUT = "pass the model up to its last Linear or Conv layer"

# Why, and what to do instead, by class; the first that fits.
REFUSED: tuple[tuple[tuple[type, ...], str], ...] = (
    (
        BATCH_NORMS,
        "normalizes over the batch, so the kernel of two inputs depends on all the others; use "
        "LayerNorm, or no normalization",
    ),
    (
        (nn.GroupNorm, nn.LocalResponseNorm),
        "normalizes over a few channels, whose average does not become sharp in the wide limit; "
        "use LayerNorm",
    ),
    (
        (
            nn.MaxPool1d,
            nn.MaxPool2d,
            nn.MaxPool3d,
            nn.AdaptiveMaxPool1d,
            nn.AdaptiveMaxPool2d,
            nn.AdaptiveMaxPool3d,
        ),
        MAXIMUM,
    ),
    (
        (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
        "multiplies random signals by each other: its kernel is not a recursion of covariances; "
        "use the empirical kernel of the module (empirical_ntk)",
    ),
    (
        (nn.Softmax, nn.LogSoftmax),
        f"couples the output neurons; {READOUT} and use its kernel for the logits",
    ),
    (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear),
        "has no kernel here; use Linear or Conv layers",
    ),
)


def title_of(step: Step, node: fx.Node) -> str:
    """How a step is called in messages."""
    if step.module is not None:
        return f"layer {step.name!r} ({type(step.module).__name__})"
    return f"function {getattr(node.target, '__name__', node.target)!r}"


def why_not(step: Step) -> str:
    """The reason why a step has no kernel, and what to do."""
    for classes, reason in REFUSED:
        if isinstance(step.module, classes):
            return reason
    if step.name in ("cat", "concat", "stack"):
        return "joins signals, which has no kernel here; add them instead"
    if step.name in ("softmax", "log_softmax"):
        return f"couples the output neurons; {READOUT} and use its kernel for the logits"
    if step.name in ("mul", "matmul", "bmm", "scaled_dot_product_attention", "einsum"):
        return "multiplies random signals, or one by a parameter: there is no kernel recursion"
    if "max_pool" in step.name:
        return MAXIMUM
    return (
        "has no kernel here; known are Linear, Conv, element-wise activations, sums, constant "
        "factors, LayerNorm, RMSNorm, average pools, reshapes and dropout"
    )

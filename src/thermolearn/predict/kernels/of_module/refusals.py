"""Layers without a kernel: why, and what to do instead."""

from __future__ import annotations

from types import TracebackType

from torch import fx, nn

from thermolearn.measure.canonical.tracing import RECURRENT
from thermolearn.measure.propagation.graph import AFFINE, Step

ATTENTION = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.Transformer,
)
BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
MAXIMUM = (
    "takes the largest of correlated Gaussians, whose covariance has no closed recursion; use an "
    "average pool or a stride"
)
READOUT = "pass the model up to its last Linear or Conv layer"
EMPIRICAL = "use the empirical kernel of the module (empirical_ntk)"
KNOWN = (
    "known are Linear, Conv, element-wise activations, sums, constant factors, LayerNorm, RMSNorm, "
    f"average pools, reshapes and dropout; build the model of these, or {EMPIRICAL}"
)

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
        (*ATTENTION, nn.GLU),
        "multiplies random signals by each other: its kernel is not a recursion of covariances; "
        f"{EMPIRICAL}",
    ),
    (
        RECURRENT,
        "applies the same weights at every step, so that its signals are no sums of independent "
        f"weights and the recursion does not hold; {EMPIRICAL}",
    ),
    (
        (nn.Embedding, nn.EmbeddingBag),
        "reads integers, and a kernel here is of real inputs: pass the model behind it, and to "
        f"gram what it puts out; or {EMPIRICAL}",
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


# Classes inside which a trace cannot look.
UNTRACED = (
    *RECURRENT,
    nn.Embedding,
    nn.EmbeddingBag,
    *ATTENTION,
    nn.Bilinear,
)


def title_of(step: Step, node: fx.Node) -> str:
    """How a step is called in messages: a layer, or a function and the layer that calls it."""
    if step.module is not None:
        return f"layer {step.name!r} ({type(step.module).__name__})"
    title = f"function {getattr(node.target, '__name__', node.target)!r}"
    around = list(node.meta.get("nn_module_stack", {}).values())
    if not around or not around[-1][0]:
        return title
    name, kind = around[-1]
    return f"{title} in layer {name!r} ({getattr(kind, '__name__', kind)})"


def _called(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    return f"layer {name!r} ({kind})" if name else f"the model itself ({kind})"


def reason_of(module: nn.Module | None) -> str | None:
    """Why a module of this class has no kernel, and what to do; None if that is not known."""
    return next((reason for classes, reason in REFUSED if isinstance(module, classes)), None)


def not_traced(model: nn.Module, error: BaseException) -> str:
    """The layer for which a model cannot be traced, why, and what to do.

    The outermost layer of a class that stops a trace; or the innermost one whose code was running.
    """
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, UNTRACED):
            return f"{_called(name, module)} {reason_of(module)}"
    if not any(isinstance(module, AFFINE) for module in modules.values()):
        return (
            f"the model ({type(model).__name__}) has no Linear or Conv layer, whose random weights "
            f"a kernel is an average over; {KNOWN}"
        )
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = str(cause).split("\n")[0].split(". ")[0].split("; pass segments")[0]
    names = {id(module): name for name, module in modules.items()}
    found = _running(cause.__traceback__, names)
    if found is None:
        return f"the model ({type(model).__name__}) has no kernel here ({said}); {KNOWN}"
    return (
        f"{_called(found, modules[found])} cannot be traced ({said}): its forward decides by "
        f"values or iterates over its input, so that its wiring is not known; {KNOWN}"
    )


def _running(at: TracebackType | None, names: dict[int, str]) -> str | None:
    """Name of the innermost module whose forward was running when an exception was raised."""
    found = None
    while at is not None:
        code = at.tb_frame.f_code
        if code.co_name == "forward" and code.co_varnames:
            owner = at.tb_frame.f_locals.get(code.co_varnames[0])
            found = names.get(id(owner), found)
        at = at.tb_next
    return found


def why_not(step: Step) -> str:
    """The reason why a step has no kernel, and what to do."""
    reason = reason_of(step.module)
    if reason is not None:
        return reason
    if step.name in ("cat", "concat", "stack"):
        return "joins signals, which has no kernel here; add them instead"
    if step.name in ("softmax", "log_softmax"):
        return f"couples the output neurons; {READOUT} and use its kernel for the logits"
    if step.name in ("mul", "matmul", "bmm", "scaled_dot_product_attention", "einsum"):
        return (
            "multiplies random signals, or one by a parameter: there is no kernel recursion; "
            f"{EMPIRICAL}"
        )
    if step.name in ("getitem", "getattr", "size", "shape", "chunk", "split", "unbind"):
        return (
            "takes a part or the shape of a signal, which has no kernel here; read whole signals, "
            f"and reshape by numbers or flatten(1); or {EMPIRICAL}"
        )
    if "max_pool" in step.name:
        return MAXIMUM
    return f"has no kernel here; {KNOWN}"

"""A kernel that was read off a module, in words."""

from __future__ import annotations

from collections.abc import Sequence

from thermolearn.predict.kernels.of_module.operations import LayerRow


def describe(
    kind: str, parametrization: str, layers: Sequence[LayerRow], notes: Sequence[str]
) -> str:
    """The kernel in a line, a table of the layers and the notes."""
    title = {"ntk": "tangent kernel (NTK)", "nngp": "covariance of the outputs (NNGP)"}
    head = f"{title[kind]} of one output neuron, in the limit of wide layers"
    if kind == "ntk":
        head += f"; {parametrization} parametrization"
    rows = [("layer", "kind", "fan_in", "width", "sigma_w2", "sigma_b2", "from", "reads")]
    for r in layers:
        frozen = [n for n, t in zip(("weight", "bias"), r.trained, strict=True) if not t]
        held = r.source + (
            f" ({' and '.join(frozen)} not trained)" if kind == "ntk" and frozen else ""
        )
        rows.append(
            (r.name, r.kind, str(r.fan_in), str(r.width), f"{r.sigma_w2:.5g}",
             f"{r.sigma_b2:.5g}", held, r.activation or "-")
        )  # fmt: skip
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    table = ["  ".join(v.ljust(w) for v, w in zip(r, widths, strict=True)) for r in rows]
    return "\n".join([head, *(line.rstrip() for line in table), *notes])


def notes_on(layers: Sequence[LayerRow]) -> list[str]:
    """Conditions under which the kernel is that of the module."""
    notes: list[str] = []
    hidden = layers[:-1]
    if hidden:
        narrow = min(hidden, key=lambda r: r.width)
        notes.append(
            f"narrowest hidden layer: {narrow.name!r} with {narrow.width} neurons or channels; "
            "corrections to the kernel are of relative order depth / width"
        )
    if layers[-1].width > 1:
        notes.append(
            f"{layers[-1].width} output neurons: the kernel is that of each of them; different "
            "ones are uncorrelated"
        )
    return notes

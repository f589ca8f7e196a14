"""The page: the view of a run, put into the template, written atomically."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from thermolearn.core.errors import DataError
from thermolearn.report.blocks import Figure, clip, notes_of, present, series_trace
from thermolearn.report.cards import all_cards
from thermolearn.report.glossary import lookup
from thermolearn.report.numbers import count, percent, plain, seconds, with_error
from thermolearn.report.plots import Trace, plot
from thermolearn.report.reader import Run, Series, as_dict, as_list, number, view
from thermolearn.report.sections import layer_table, physics_sections, training_sections
from thermolearn.report.verdict import verdict

NOT_RECORDED = "not recorded"
# C0/C1 controls and lone surrogates: not allowed in HTML, or not encodable.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def render(rows: Iterable[dict[str, Any]]) -> str:
    """The report of a run as one self-contained HTML page (no script, no outside resource).

    Parameters
    ----------
    rows : iterable of dict
        The rows of run.jsonl, schema 1, complete or not.

    Raises
    ------
    DataError
        The rows were written with another schema.
    """
    html = _template().render(**page(view(rows)))
    return _UNPRINTABLE.sub("\ufffd", html)


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("thermolearn.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2")


def write_report(rows: Iterable[dict[str, Any]], path: str | Path) -> Path:
    """Render and write; a reader never sees half a page. Returns the path.

    Raises
    ------
    DataError
        The path cannot be written, or the rows have another schema.
    """
    target = check_path(path)
    html = render(rows)
    if target.exists() and not target.is_file():  # a pipe or a device is not replaced
        target.write_text(html, encoding="utf-8")
        return target
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(html, encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        raise _unwritable(target, str(error.strerror)) from None
    finally:
        part.unlink(missing_ok=True)
    return target


def check_path(path: str | Path) -> Path:
    """The path, resolved, if a report can be written there; call it before a long run.

    Raises
    ------
    DataError
        The folder does not exist or is not writable, or the path is a folder.
    """
    target = Path(path).expanduser().resolve()
    if target.is_dir():
        raise _unwritable(target, "it is a folder; add a file name such as report.html")
    if not target.parent.is_dir():
        raise _unwritable(target, f"create the folder {target.parent} first")
    writable = target if target.exists() else target.parent
    if not (os.access(writable, os.W_OK) and os.access(target.parent, os.W_OK | os.X_OK)):
        raise _unwritable(target, "no permission; choose another path")
    return target


def _unwritable(path: Path, why: str) -> DataError:
    return DataError(f"cannot write the report to {path}: {why}")


# -- contents ------------------------------------------------------------------------------------
def page(run: Run) -> dict[str, Any]:
    """Everything the template shows."""
    from thermolearn import __version__

    cards = all_cards(run)
    header = run.header
    physics = physics_sections(run)
    return {
        "title": model_name(run) or "Training run",
        "created": created(header.get("created")),
        "facts": facts(run),
        "unchanged": unchanged(run),
        "missing": run.missing,
        "verdict": verdict(cards),
        "cards": cards,
        "loss": loss_figure(run),
        "layers": layer_table(run),
        "physics": physics,
        "training": training_sections(run),
        "no_physics": [] if physics else _reasons(run),
        "not_applicable": _reasons(run),
        "restates": [(clip(lookup(n).label, 80), r2) for n, r2 in list(run.restates.items())[:20]],
        "restates_notes": notes_of(run, "restates"),
        "flags": _flags(run)[:20],
        "more_flags": max(0, len(run.flags) - 20),
        "conventions": [clip(str(c), 400) for c in as_list(header.get("conventions"))[:20]],
        "segments": segments(run)[:40],
        "model": clip(str(as_dict(header.get("model")).get("repr") or ""), 4000),
        "header": origin(run),
        "command": clip(str(header.get("command") or ""), 2000),
        "library": clip(str(header.get("library") or NOT_RECORDED), 40),
        "version": __version__,
    }


def model_name(run: Run) -> str:
    """The name given to the model (``mlp:64,64``), else that of its class."""
    given = as_dict(run.header.get("info")).get("model")
    return clip(str(given or as_dict(run.header.get("model")).get("name") or ""), 80)


def created(text: Any) -> str:
    """A time stamp without fractions of a second, as it was recorded."""
    return re.sub(r"(\.\d+)?\+00:00$", " UTC", clip(str(text or ""), 40)).replace("T", " ", 1)


def facts(run: Run) -> list[tuple[str, str]]:
    """Label and text of the line under the title."""
    header = run.header
    model = as_dict(header.get("model"))
    seed = header.get("seed")
    result = [
        ("Model", _join(model_name(run), _parameters(model.get("parameters")))),
        ("Data", _data(header.get("data"))),
        ("Optimizer", _free(as_dict(header.get("optimizer")), first=("name", "lr"))),
        ("Training", training_length(run)),
        ("Seed", NOT_RECORDED if seed is None else clip(str(seed), 40)),
        ("Result", outcome(run)),
        ("Cost of measuring", cost(run)),
    ]
    return [(label, text or NOT_RECORDED) for label, text in result]


def _join(*parts: Any) -> str:
    return ", ".join(clip(str(p), 160) for p in parts if p)


def _parameters(n: Any) -> str:
    return f"{count(number(n))} parameters" if number(n) >= 0 else ""


def _data(data: Any) -> str:
    return clip(data, 160) if isinstance(data, str) else _free(as_dict(data), first=("name",))


def _free(info: dict[str, Any], first: tuple[str, ...]) -> str:
    """``digits, classification, 1297 train``: the named keys first; long texts, lists, what is
    zero or off, and bookkeeping are left out."""
    parts = []
    for key in [*first, *(k for k in info if k not in first)][:12]:
        value, label = info.get(key), clip(str(key), 30).replace("_", " ")
        if not value or key in ("epochs", "groups", "one_rate"):
            continue
        if value is True:
            parts.append(label)
        elif isinstance(value, int):
            parts.append(f"{count(value)} {label}")
        elif isinstance(value, float):
            parts.append(f"{label} {plain(value)}")
        elif isinstance(value, str) and (key == "name" or len(value) <= 40):
            parts.append(clip(value, 80) if key in ("name", "task") else f"{label} {value}")
    return ", ".join(parts)


def training_length(run: Run) -> str:
    """Epochs (recorded, or samples seen over training samples) and steps."""
    data, info = as_dict(run.header.get("data")), as_dict(run.header.get("info"))
    epochs = number(info.get("epochs", data.get("epochs")))
    train = next((n for k in ("train", "n_train") if (n := number(data.get(k))) > 0), np.nan)
    if np.isnan(epochs) and run.samples > 0:
        epochs = run.samples / train
    parts = [] if np.isnan(epochs) else [f"{plain(epochs, 3)} epochs"]
    parts += [] if np.isnan(run.last_step) else [f"{count(run.last_step)} steps"]
    return ", ".join(parts)


def outcome(run: Run) -> str:
    """Accuracy if there is one, else the loss; validation before reference."""
    for name, label in (
        ("validation_accuracy", "validation accuracy"), ("accuracy", "accuracy, reference samples"),
        ("validation_loss", "validation loss"), ("reference_loss", "reference loss"),
    ):  # fmt: skip
        e = run.scalar("learning", name)
        if e is not None:
            value, error = float(e.value), float(e.stderr)
            text = percent(value, error) if "accuracy" in name else with_error(value, error)
            if run.measured_step < run.last_step:
                label += f" at step {count(run.measured_step)} of {count(run.last_step)}"
            return f"{text} {label}"
    return ""


def cost(run: Run) -> str:
    """Share of the training time spent in the loop, and the seconds afterwards."""
    if run.cost is None:
        return ""
    total, inside, deferred = (
        number(run.cost.get(k)) for k in ("training_s", "in_loop_s", "deferred_s")
    )
    share = f"{percent(inside / total)} of the training time" if total > 0 else "time unknown"
    return f"{share} in the loop, {seconds(deferred)} afterwards"


def unchanged(run: Run) -> tuple[str, str]:
    """Status and sentence about what the probe did to the run."""
    if run.unchanged is None:
        return "unknown", "The probe works on copies; on this run that was not checked again."
    checked = ", ".join(clip(str(c), 60) for c in as_list(run.unchanged.get("checked"))[:12])
    if run.unchanged.get("ok") is True:
        return "good", f"Run unchanged, bit by bit: {checked or 'checked'}."
    return "bad", f"The probe changed the run: {checked or 'the check failed'}."


def origin(run: Run) -> list[tuple[str, str]]:
    """Reference set, loss and cadence, for the footer."""
    header = run.header
    reference, loss = as_dict(header.get("reference")), as_dict(header.get("loss"))
    sha = clip(str(reference.get("sha256") or ""), 16)
    drawn = _join(
        f"{count(number(reference.get('n')))} samples" if reference else "",
        reference.get("source"),
        f"sha256 {sha}" if sha else "",
    )
    every = number(header.get("every"))
    data = as_dict(header.get("data"))
    words = [data.get("rule"), data.get("standardization"), *as_list(data.get("notes"))]
    found = [
        ("Data", "; ".join(clip(str(w), 200) for w in words[:8] if w)),
        ("Reference set", drawn),
        ("Loss", _join(loss.get("name"), loss.get("rule"))),
        ("Snapshots", f"every {count(every)} steps" if every > 0 else ""),
    ]
    return [(label, text) for label, text in found if text]


def segments(run: Run) -> list[list[str]]:
    """One row per segment of the network; it sets every extensive number."""
    rows = []
    for k, raw in enumerate(as_list(run.header.get("segmentation"))):
        s = as_dict(raw)
        modules = ", ".join(str(m) for m in as_list(s.get("modules")))
        name = s.get("name") or f"segment {k + 1}"
        rows.append([clip(str(name), 60), clip(modules, 120), count(number(s.get("neurons")))])
    return rows


def _reasons(run: Run) -> list[tuple[str, str]]:
    return [(clip(q, 60), clip(reason, 400)) for q, reason in run.not_applicable[:40]]


def _flags(run: Run) -> list[str]:
    return [
        clip(text if step is None else f"step {count(step)}: {text}", 400)
        for step, text in run.flags
    ]


# -- the loss plot ---------------------------------------------------------------------------------
def loss_figure(run: Run) -> Figure | None:
    """Minibatch losses (smoothed, with their range), reference and validation loss."""
    traces = minibatch_traces(run.losses)
    for name, legend, color in (
        ("reference_loss", "training loss, reference samples", 2),
        ("validation_loss", "validation loss", 3),
    ):
        s = run.series("learning", name)
        if len(s.finite()):
            traces.append(series_trace(s, legend, color))
    values = [np.asarray(t.y)[np.isfinite(t.y)] for t in traces]
    every = np.concatenate(values) if values else np.zeros(0)
    log = bool(len(every) and every.min() > 0 and every.max() > 10 * every.min())
    wide, narrow = (
        plot(
            traces,
            key=f"loss-{key}",
            title="Loss along the run",
            x_label="optimizer step",
            y_label="loss",
            y_log=log,
            size=size,
        )
        for key, size in (("wide", (920, 340)), ("narrow", (380, 320)))
    )
    return Figure(wide, "Loss along the run", narrow) if wide is not None else None


def minibatch_traces(losses: Series) -> list[Trace]:
    """Range of the minibatch losses in 120 bins and their running mean (over 1/50 of the run)."""
    s = losses.finite()
    if len(s) < 2:
        return present(Trace(s.step, s.value, "minibatch loss", "points") if len(s) else None)
    bins = [b for b in np.array_split(np.arange(len(s)), min(120, len(s))) if len(b)]
    x = np.array([s.step[b].mean() for b in bins])
    low = np.array([s.value[b].min() for b in bins])
    high = np.array([s.value[b].max() for b in bins])
    width = max(1, len(s) // 50)
    sums = np.cumsum(np.concatenate([[0.0], s.value]))
    smooth = (sums[width:] - sums[:-width]) / width
    center = (s.step[width - 1 :] + s.step[: len(s) - width + 1]) / 2
    traces = [Trace(center, smooth, f"minibatch loss, mean of {width}", "line")]
    if len(s) > len(bins):
        traces.insert(0, Trace(x, low, "minibatch loss, range", "range", high=high))
    return traces

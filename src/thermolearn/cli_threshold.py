"""The command `threshold`: where to cut a score, what that guarantees, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermolearn.cli_common import check_outputs, one_line_errors

if TYPE_CHECKING:
    import numpy as np

    from thermolearn.core.drawing import Drawing
    from thermolearn.core.estimate import Estimate
    from thermolearn.predict.exponents import ErrorExponents, OrderStatisticThreshold

Option = typer.Option
# Observations averaged in the table of the model
TABLE = (2, 5, 10, 20, 50)


def threshold(
    scores: Annotated[
        Path, typer.Argument(help="A .csv or .parquet file of scores and labels.", metavar="SCORES")
    ],
    false_alarm: Annotated[
        float, Option(help="Largest share of negatives called positive.")
    ] = 0.01,
    confidence: Annotated[float, Option(help="That the guarantee holds.")] = 0.95,
    observations: Annotated[
        int, Option(help="A decision takes the mean score of so many independent observations.")
    ] = 1,
    score: Annotated[str, Option(help="Column of the scores; larger is more positive.")] = "score",
    label: Annotated[str, Option(help="Column of the labels, 0 negative and 1 positive.")] = (
        "label"
    ),
    plot: Annotated[
        Path | None, Option(help="Draw the error rates into this .pdf, .svg or .png.")
    ] = None,
    debug: Annotated[bool, Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """A threshold whose false alarm is guaranteed, from scores of samples not used in training.

    The guarantee is by order statistics, for any law of the scores; it is refused where the
    negatives are too few. Beside it, labelled as such, what large deviations extrapolate.
    Thresholds are printed to the last digit: rounded ones may let ties through.

    Exit code 0 with a guaranteed threshold, 1 if only a model-based one could be given, 2 if none.
    """
    with one_line_errors(debug):
        if plot is not None:
            check_outputs({"--plot": plot}, [scores])
            if plot.suffix.lower() not in (".pdf", ".svg", ".png"):
                raise ValueError(f"--plot {plot} must end in .pdf, .svg or .png")
        from thermolearn.predict.exponents import guaranteed_threshold, negatives_needed

        negatives_needed(false_alarm, confidence)  # checks both
        negatives, positives = read_scores(scores, score, label)
        typer.echo(
            f"scores: {scores.name}, {len(negatives)} negatives and {len(positives)} positives"
        )
        every = [*negatives, *positives]
        if every and min(every) == max(every):
            raise ValueError(
                f"all {len(every)} scores are {every[0]:.6g}; a constant score decides nothing"
            )
        if len(positives) and len(negatives) and negatives.mean() >= positives.mean():
            raise ValueError(
                f"negatives have the larger mean score ({negatives.mean():.6g} against "
                f"{positives.mean():.6g}): the classifier is inverted. Change the sign of the "
                "scores, or the labels"
            )
        given = positives if len(positives) >= observations else None
        found = modelled = None
        try:
            found = guaranteed_threshold(negatives, false_alarm, confidence, given, observations)
        except ValueError as error:
            if "too few" not in str(error):
                raise
            modelled = model_line(negatives, observations, false_alarm, needed=True)
            if modelled is None:
                raise
            typer.echo(f"no guaranteed threshold: {error}")
        if found is not None:
            typer.echo("\n".join(guarantee(found)))
            if observations > 1:
                modelled = model_line(negatives, observations, false_alarm)
        detector, reason = model(negatives, positives)
        typer.echo("\nmodel-based, not guaranteed (large deviations of the sampled scores):")
        if modelled is not None:
            typer.echo(modelled)
        typer.echo(reason if detector is None else table(detector, false_alarm, observations))
        if plot is not None:
            from thermolearn.study.export import save_picture

            drawing = draw(negatives, positives, found, detector)
            typer.echo(f"plot: {save_picture(drawing, plot).resolve()}")
        if found is None:
            raise typer.Exit(1)


def read_scores(path: Path, score: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the negatives (label 0) and of the positives (label 1).

    Raises
    ------
    FileNotFoundError, DataError
        The file cannot be used; the message says why.
    """
    import numpy as np

    from thermolearn.core.errors import DataError
    from thermolearn.tables import read_columns

    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a .csv with the columns {score},{label}")
    try:
        (values, labels), place = read_columns(path, (score, label))
    except DataError as error:
        if "the columns are" not in str(error):
            raise
        raise DataError(f"{error}. --score and --label choose them") from error
    odd = ~np.isin(labels, (0, 1))
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(
            f"{path}: column {label!r} holds {labels[row]:g} at {place(row)}; labels must be 0 "
            "(negative) and 1 (positive)"
        )
    return values[labels == 0], values[labels == 1]


# -- words -------------------------------------------------------------------------------------
def guarantee(found: OrderStatisticThreshold) -> list[str]:
    """What the threshold is, what is guaranteed and assumed, and what it costs."""
    n = found.observations
    what = "score" if n == 1 else f"mean score of {n} observations"
    units = "negatives" if n == 1 else f"means of {n} negatives"
    lines = [
        f"\nguaranteed threshold: {found.threshold!r}",
        f"decide positive if the {what} is above it (not at it).",
        f"guarantee: with confidence {found.confidence:g}, at most {found.false_alarm:g} of new "
        "negatives are false alarms, whatever the law of the scores;",
        f"the chance that this calibration gives more is at most {found.violation_bound:.3g}. It "
        f"is number {found.rank} of {found.negatives} {units} in rising order.",
        "assumed: the negatives are independent, like those to come, and were neither trained on "
        "nor used to choose the detector.",
        f"expected false alarm: {found.expected_false_alarm:.3g}",
    ]
    if found.miss is None or found.miss_interval is None:
        return [*lines, "missed positives: unknown, the file has too few positives"]
    low, high = found.miss_interval
    lines.append(
        f"missed positives: {found.miss:.4g}, with confidence {found.confidence:g} in [{low:.3g}, "
        f"{high:.3g}], from {found.positives} decisions"
    )
    return lines


def model(negatives: np.ndarray, positives: np.ndarray) -> tuple[ErrorExponents | None, str]:
    """The large-deviation model of both classes, or why there is none."""
    from thermolearn.predict.exponents import ErrorExponents

    try:
        return ErrorExponents(negatives, positives), ""
    except ValueError as error:
        words = str(error).replace("scores_h0", "negatives").replace("scores_h1", "positives")
        return None, f"none: {words}"


def model_line(
    negatives: np.ndarray, n: int, false_alarm: float, needed: bool = False
) -> str | None:
    """The threshold for the mean of n observations by a saddle point.

    Without one: why, or None if it is `needed`.
    """
    from thermolearn.core.errors import ConvergenceError
    from thermolearn.predict.exponents import EmpiricalCGF, model_threshold

    try:
        found = model_threshold(EmpiricalCGF(negatives), n, false_alarm)
    except (ValueError, ConvergenceError) as error:
        return None if needed else f"no model-based threshold for {n} observations: {error}"
    many = f"{n} observation" + ("s" if n > 1 else "")
    return f"threshold for a false alarm of {false_alarm:g} at {many}: {exact(found)}"


def exact(estimate: Estimate) -> str:
    """All digits of a number that scores are compared with, its error bar and what is wrong."""
    flag = "" if estimate.status == "ok" else f" (not to be trusted: {estimate.status})"
    return f"{float(estimate)!r} +- {float(estimate.stderr):.2g}{flag}"


def table(detector: ErrorExponents, false_alarm: float, observations: int) -> str:
    """Exponent, and threshold and miss rate against the number of observations."""
    from thermolearn.core.errors import ConvergenceError

    lines = []
    try:
        gamma, exponent = detector.chernoff_point()
        plain = replace(exponent, status="ok")  # both have one status
        lines.append(
            f"both errors fall as exp(-n I), I = {plain} per observation, at {exact(gamma)}"
        )
    except ValueError as error:
        lines.append(f"no exponent: {error}")
    lines.append(f"averaging n observations, at a false alarm of {false_alarm:g}:")
    lines.append(
        f"{'n':>4}  {'threshold':>20}  {'false alarm, 95%':>20}  {'miss':>8}  {'miss, 95%':>20}"
    )
    marks: dict[str, str] = {}
    for n in sorted({*TABLE, max(2, observations)}):
        try:
            at = detector.threshold(n, false_alarm)
            alarm = detector.false_alarm(n, float(at))
            miss = detector.miss(n, float(at))
        except (ValueError, ConvergenceError):
            lines.append(f"{n:>4}  beyond the scores: not known")
            continue
        reasons = [*str(alarm.status).split("; "), *str(miss.status).split("; ")]
        used = sorted({marks.setdefault(r, letter(len(marks))) for r in reasons if r != "ok"})
        flag = f"  not to be trusted ({', '.join(used)})" if used else ""
        ends = ["[{:.2g}, {:.2g}]".format(*found.interval()) for found in (alarm, miss)]
        lines.append(
            f"{n:>4}  {float(at)!r:>20}  {ends[0]:>20}  {float(miss):>8.3g}  {ends[1]:>20}{flag}"
        )
    return "\n".join([*lines, *(f"({mark}) {reason}" for reason, mark in marks.items())])


def letter(k: int) -> str:
    """a, b, ..., z, a1, b1, ..."""
    return "abcdefghijklmnopqrstuvwxyz"[k % 26] + (str(k // 26) if k >= 26 else "")


# -- the plot ----------------------------------------------------------------------------------
def draw(
    negatives: np.ndarray,
    positives: np.ndarray,
    found: OrderStatisticThreshold | None,
    detector: ErrorExponents | None,
) -> Drawing:
    """Error rates of single scores against the threshold, and of means against n, by the model."""
    import numpy as np

    from thermolearn.core.drawing import Drawing
    from thermolearn.predict.exponents import clopper_pearson

    drawing = Drawing("", columns=1 if detector is None else 2)
    left = drawing.axes[0, 0]
    left.set(xlabel="threshold (score)", ylabel="error rate of one score", yscale="log")
    everything = np.concatenate([negatives, positives])
    cuts = np.unique(np.quantile(everything, np.linspace(0.02, 0.98, 33)))
    for color, (name, part, above) in enumerate(
        (("false alarm", negatives, True), ("miss", positives, False))
    ):
        if not len(part):
            continue
        hits = [int((part > c).sum() if above else (part <= c).sum()) for c in cuts]
        keep = [k for k, count in enumerate(hits) if count]
        ends = np.array([clopper_pearson(hits[k], len(part)) for k in keep]).reshape(-1, 2)
        rate = np.array([hits[k] for k in keep]) / len(part)
        drawing.simulation(
            left, cuts[keep], (rate, np.sqrt(rate * (1 - rate) / len(part))),
            name, color, interval=(ends[:, 0], ends[:, 1]),
        )  # fmt: skip
    if found is not None and found.observations == 1:
        left.axvline(found.threshold, color="0.3", ls="--", label="guaranteed threshold")
    left.legend(frameon=False, loc="lower center", title="bars: 95% (Clopper-Pearson)")
    if detector is not None:
        _draw_model(drawing, detector)
    return drawing


def _draw_model(drawing: Drawing, detector: ErrorExponents) -> None:
    import numpy as np

    from thermolearn.core.drawing import COLORS

    axis = drawing.axes[0, 1]
    axis.set(xlabel="observations averaged n", ylabel="model-based error rate", yscale="log")
    try:
        gamma = float(detector.chernoff_point()[0])
    except ValueError as error:
        axis.text(0.5, 0.5, "no model: " + str(error), ha="center", wrap=True, fontsize=8)
        axis.set_axis_off()
        return
    n = np.arange(1, 51)
    for color, (name, call) in enumerate(
        (("false alarm", detector.false_alarm), ("miss", detector.miss))
    ):
        tail = call(n, gamma)
        drawing.theory(axis, n, tail.probability, f"{name} at {gamma:.4g}", color)
        axis.fill_between(n, *tail.interval(), color=COLORS[color], alpha=0.12, lw=0)
    axis.legend(frameon=False, title="large deviations, not guaranteed")

"""The commands of the catalogue: list, show, reproduce, cite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermolearn.cli_common import check_jobs, check_outputs, make_folder, one_line_errors

if TYPE_CHECKING:
    from types import ModuleType

    from thermolearn.core.drawing import Drawing
    from thermolearn.study.contract import Entry

Option = typer.Option
System = Annotated[
    str,
    typer.Argument(help="A name of `list`, in full or the last part, or a module of your own."),
]
Jobs = Annotated[int, Option(help="Worker processes; -1 for one per processor.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks of errors.")]


def list_systems(
    system: Annotated[
        str | None,
        typer.Argument(help="Tell of this one: its claims, parameters and figures."),
    ] = None,
    debug: Debug = False,
) -> None:
    """The systems of the catalogue and their papers; or what one of them is and takes."""
    with one_line_errors(debug):
        from thermolearn.study.contract import catalogue

        if system is not None:
            from thermolearn.cli_describe import describe

            typer.echo(describe(_entry(system)))
            return
        entries = catalogue().values()
        width = max((len(entry.name) for entry in entries), default=0)
        for entry in entries:
            typer.echo(f"{entry.name:{width}}  {entry.title}")
            typer.echo(f"{'':{width}}  {', '.join(entry.papers)}")


def show(
    context: typer.Context,
    system: System,
    param: Annotated[
        list[str] | None,
        Option(metavar="NAME=VALUE", help="A parameter; also as an option, --NAME VALUE."),
    ] = None,
    seeds: Annotated[int | None, Option(help="Seeds 0..SEEDS-1; default: the system's.")] = None,
    jobs: Jobs = 1,
    plot: Annotated[
        Path | None,
        Option(
            help="Draw a figure of the system into this .pdf, .svg or .png. Every figure has "
            "parameters of its own; those given here go into the table alone."
        ),
    ] = None,
    figure: Annotated[
        str | None, Option(help="Number of the figure that --plot draws; default: the first.")
    ] = None,
    json: Annotated[Path | None, Option(help="Write the comparison.")] = None,
    debug: Debug = False,
) -> None:
    """Hold the theory of a system against its simulation: a table, and a plot.

    Every parameter of the system is an option, such as --load 0.05; `thermolearn list SYSTEM`
    prints what they are.

    Exit code 0 if they agree, else 1.
    """
    with one_line_errors(debug):
        texts = read_parameters(param or [], context.args)
        check_jobs(jobs)
        outputs = {"--plot": plot, "--json": json}
        check_outputs({name: path for name, path in outputs.items() if path is not None}, [])
        if plot is not None and plot.suffix.lower() not in (".pdf", ".svg", ".png"):
            raise ValueError(f"--plot {plot} must end in .pdf, .svg or .png")
        if figure is not None and plot is None:
            raise ValueError("--figure chooses what --plot draws; give --plot FILE too")
        from thermolearn.study.compare import compare
        from thermolearn.study.contract import load, params_from_text

        module = load(system)
        number = _figure_to_plot(module, figure) if plot is not None else ""
        result = compare(module, params_from_text(module, texts), seeds, jobs)
        typer.echo(str(result))
        if json is not None:
            typer.echo(f"comparison: {result.save(json).resolve()}")
        if plot is not None:
            from thermolearn.study.export import save_picture

            path = save_picture(draw(module, number), plot)
            typer.echo(f"figure {number}, at its own parameters: {path.resolve()}")
        if not result.agrees:
            raise typer.Exit(1)


def reproduce(
    paper: Annotated[str, typer.Argument(help="arXiv id such as 2109.00454, or a DOI.")],
    figure: Annotated[str | None, Option(help="Only the figure of this number.")] = None,
    full: Annotated[bool, Option("--full", help="Sizes of the paper; minutes to hours.")] = False,
    output: Annotated[Path, Option(help="Folder for the figures, their data and the BibTeX.")] = (
        Path("reproduced")
    ),
    jobs: Jobs = 1,
    debug: Debug = False,
) -> None:
    """Run every system of a paper: table, figures (PDF, SVG), their data (parquet), BibTeX.

    Exit code 0 if theory and simulation agree in all of them, else 1.
    """
    with one_line_errors(debug):
        check_jobs(jobs)
        from thermolearn.study.compare import compare
        from thermolearn.study.contract import find_by_paper, load
        from thermolearn.study.export import export

        entries = find_by_paper(paper)
        wanted = _figures(entries, figure)
        make_folder("--output", output)
        agree = True
        for entry in entries:
            module = load(entry)
            result = compare(module, jobs=jobs)
            agree &= result.agrees
            typer.echo(f"{result}\n")
            for number in wanted[entry.name]:
                drawing = draw(module, number, quick=not full)
                stem = output / f"{entry.name.replace('.', '-')}-figure-{number}"
                files = export(drawing, stem, entry, drawing.parameters, number, not full)
                typer.echo(f"figure {number}: {', '.join(map(str, files))}\n")
        if not agree:
            raise typer.Exit(1)


def cite(
    system: Annotated[
        str,
        typer.Argument(
            help="A name of `list`, a module of your own, or the arXiv id or DOI of one paper."
        ),
    ],
    debug: Debug = False,
) -> None:
    """BibTeX of the papers that a system stands on, or of one of them."""
    with one_line_errors(debug):
        from thermolearn.study.citation import bibtex, is_paper

        typer.echo(bibtex(system if is_paper(system) else _entry(system)), nl=False)


def read_parameters(pairs: list[str], options: list[str]) -> dict[str, str]:
    """Parameters as text from ``NAME=VALUE`` pairs and from options such as ``--n-spins 400``.

    Raises
    ------
    ValueError
        A pair without "=", an option without a value, a stray word, or a name given twice.
    """
    found: list[tuple[str, str]] = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--param {pair}: write --param NAME=VALUE")
        found.append((name.strip(), value.strip()))
    words = iter(options)
    for word in words:
        if not word.startswith("--"):
            raise ValueError(f"do not know what to do with {word!r}: parameters are --NAME VALUE")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ValueError(f"--{name} needs a value")
        found.append((name, value))
    texts: dict[str, str] = {}
    for name, value in found:
        key = name.replace("-", "_")
        if key in texts:
            raise ValueError(f"the parameter {key} is given twice")
        texts[key] = value
    return texts


def draw(module: ModuleType, number: str, quick: bool = True) -> Drawing:
    """The figure of that number of a system."""
    return getattr(module, module.ABOUT["figures"][number])(quick=quick)


def _entry(system: str) -> Entry:
    """A system of the catalogue, which is not imported, or a module of the user's own, which is."""
    from thermolearn.study.contract import Entry, find, load, short_name

    try:
        return find(system)
    except ValueError:
        module = load(system)  # or the same error
        return Entry(short_name(module), module.__name__, Path(str(module.__file__)), module.ABOUT)


def _figure_to_plot(module: ModuleType, wanted: str | None) -> str:
    numbers = list(map(str, module.ABOUT["figures"]))
    if not numbers:
        raise ValueError(f"--plot: {module.__name__} has no figure")
    if wanted is not None and wanted not in numbers:
        raise ValueError(f"no figure {wanted!r}; there are {', '.join(numbers)}")
    return wanted or numbers[0]


def _figures(entries: list[Entry], wanted: str | None) -> dict[str, list[str]]:
    """Name of system -> numbers of its figures to draw."""
    offered = {entry.name: list(map(str, entry.about["figures"])) for entry in entries}
    if wanted is None:
        return offered
    if not any(wanted in numbers for numbers in offered.values()):
        numbers = sorted({number for some in offered.values() for number in some})
        raise ValueError(f"no figure {wanted!r}; there are {', '.join(numbers)}")
    return {name: [wanted] if wanted in numbers else [] for name, numbers in offered.items()}

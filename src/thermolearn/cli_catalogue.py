"""The commands of the catalogue: list, show, reproduce, cite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thermolearn.cli_common import check_outputs, one_line_errors

if TYPE_CHECKING:
    from types import ModuleType

    from thermolearn.core.drawing import Drawing
    from thermolearn.study.contract import Entry

Option = typer.Option
System = Annotated[str, typer.Argument(help="A name of `list`, in full or the last part.")]
Jobs = Annotated[int, Option(help="Worker processes; -1 for one per processor.")]
Debug = Annotated[bool, Option("--debug", help="Show tracebacks of errors.")]


def list_systems(debug: Debug = False) -> None:
    """The systems of the catalogue and their papers."""
    with one_line_errors(debug):
        from thermolearn.study.contract import catalogue

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
        Path | None, Option(help="Draw the system's first figure: .pdf, .svg or .png.")
    ] = None,
    json: Annotated[Path | None, Option(help="Write the comparison.")] = None,
    debug: Debug = False,
) -> None:
    """Hold the theory of a system against its simulation: a table, and a plot.

    Exit code 0 if they agree, else 1.
    """
    with one_line_errors(debug):
        texts = read_parameters(param or [], context.args)
        outputs = {"--plot": plot, "--json": json}
        check_outputs({name: path for name, path in outputs.items() if path is not None}, [])
        if plot is not None and plot.suffix.lower() not in (".pdf", ".svg", ".png"):
            raise ValueError(f"--plot {plot} must end in .pdf, .svg or .png")
        from thermolearn.study.compare import compare
        from thermolearn.study.contract import load, params_from_text

        module = load(system)
        result = compare(module, params_from_text(module, texts), seeds, jobs)
        typer.echo(str(result))
        if json is not None:
            typer.echo(f"comparison: {result.save(json).resolve()}")
        if plot is not None:
            from thermolearn.study.export import save_picture

            number = next(iter(module.ABOUT["figures"]))
            typer.echo(f"figure: {save_picture(draw(module, number), plot).resolve()}")
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
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"--output {output} is a file; name a folder")
        from thermolearn.study.compare import compare
        from thermolearn.study.contract import find_by_paper, load
        from thermolearn.study.export import export

        entries = find_by_paper(paper)
        wanted = _figures(entries, figure)
        agree = True
        for entry in entries:
            module = load(entry)
            result = compare(module, jobs=jobs)
            agree &= result.agrees
            typer.echo(f"{result}\n")
            for number in wanted[entry.name]:
                drawing = draw(module, number, quick=not full)
                stem = output / f"{entry.name.replace('.', '-')}-figure-{number}"
                files = export(drawing, stem, entry, module.Params(), number, not full)
                typer.echo(f"figure {number}: {', '.join(map(str, files))}\n")
        if not agree:
            raise typer.Exit(1)


def cite(system: System, debug: Debug = False) -> None:
    """BibTeX of the papers that a system stands on."""
    with one_line_errors(debug):
        from thermolearn.study.citation import bibtex

        typer.echo(bibtex(system), nl=False)


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


def _figures(entries: list[Entry], wanted: str | None) -> dict[str, list[str]]:
    """Name of system -> numbers of its figures to draw."""
    offered = {entry.name: list(map(str, entry.about["figures"])) for entry in entries}
    if wanted is None:
        return offered
    if not any(wanted in numbers for numbers in offered.values()):
        numbers = sorted({number for some in offered.values() for number in some})
        raise ValueError(f"no figure {wanted!r}; there are {', '.join(numbers)}")
    return {name: [wanted] if wanted in numbers else [] for name, numbers in offered.items()}

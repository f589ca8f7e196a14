"""What the commands share: errors in one line, and outputs checked before any work."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

if TYPE_CHECKING:
    from thermolearn.data import Dataset

# Options of the commands that read a data set
Data = Annotated[
    str,
    typer.Option(
        help="digits, breast_cancer, wine, diabetes, iris, or a .csv, .npz, .parquet file."
    ),
]
Target = Annotated[
    str | None, typer.Option(help="Target column of the file; for .npz the array (default y).")
]
Task = Annotated[
    str | None,
    typer.Option(help="classification or regression; by default inferred, and the rule printed."),
]


def print_rules(dataset: Dataset) -> None:
    """What was inferred from a data set and done to it."""
    typer.echo(f"task: {dataset.rule}")
    typer.echo(f"scaling: {dataset.standardization.rule}")
    for note in dataset.notes:
        typer.echo(f"note: {note}")


def check_outputs(outputs: dict[str, Path], inputs: list[Path | None]) -> None:
    """Before any work: every output can be written, and overwrites neither input nor output."""
    import tempfile

    taken = {path.resolve(): "an input" for path in inputs if path is not None}
    for option, path in outputs.items():
        if path.is_dir():
            raise IsADirectoryError(f"{option} {path} is a directory; name a file in it")
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{option} {path}: there is no directory {path.parent}; make it first"
            )
        if path.resolve() in taken:
            raise ValueError(f"{option} {path} is also {taken[path.resolve()]}; choose another")
        taken[path.resolve()] = option
        try:
            if path.exists():
                with path.open("ab"):
                    pass
            else:
                with tempfile.TemporaryFile(dir=path.parent):
                    pass
        except OSError as error:
            raise PermissionError(
                f"{option} {path} cannot be written: {error.strerror}; choose another place"
            ) from error


def make_folder(option: str, path: Path) -> None:
    """Before any work: the folder of an output is there and can be written into.

    Raises
    ------
    NotADirectoryError, PermissionError
        It is not; the message names the option.
    """
    import tempfile

    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{option} {path} is a file; name a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise PermissionError(
            f"{option} {path} cannot be written: {error.strerror}; choose another place"
        ) from error


def check_jobs(jobs: int) -> None:
    """A positive number of processes, or -1."""
    if jobs < 1 and jobs != -1:
        raise ValueError(
            f"jobs must be a positive integer, or -1 for one per processor, got {jobs}"
        )


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """An error is one line on stderr and exit code 2; a bug of ours says so, with code 1.

    Where nobody reads the output any more, as behind ``| head``, the command ends without a word.
    """
    try:
        yield
    except typer.Exit:
        raise
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, BrokenPipeError) and _unread():
            raise typer.Exit(141) from None  # as shells tell of a program that SIGPIPE ended
        if debug:
            raise
        message = " ".join(str(error).split())
        if isinstance(error, KeyboardInterrupt):
            typer.echo("error: interrupted", err=True)
            raise typer.Exit(130) from None
        if isinstance(error, ValueError | TypeError | OSError | ImportError):
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(2) from None
        typer.echo(
            f"error: {type(error).__name__}: {message} (--debug shows where it came from)", err=True
        )
        raise typer.Exit(1) from None


def _unread() -> bool:
    """Whether nobody reads stdout or stderr; what is left in them is then thrown away."""
    unread = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in unread:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(unread)


def _has_no_reader(stream: TextIO) -> bool:
    try:
        poll = select.poll()
        poll.register(stream, 0)
        return bool(poll.poll(0))  # errors and hang-ups are reported unasked
    except (AttributeError, OSError, ValueError):  # no poll on Windows; no descriptor
        return False
